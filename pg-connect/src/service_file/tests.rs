//! Service files as text; files on disk are read by the tests beside psql.

use super::*;

fn read(text: &str) -> Result<Option<String>, String> {
    match group(text.as_bytes(), "mine", Path::new("svc")) {
        Ok(Some(parameters)) => {
            let pairs: Vec<String> = parameters
                .iter()
                .map(|Parameter { keyword, value }| format!("{}={value}", keyword.name()))
                .collect();
            Ok(Some(pairs.join(", ")))
        }
        Ok(None) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn the_first_group_and_the_first_value_count() {
    for (text, expected) in [
        ("[mine]\nhost=a\nport=1", Some("host=a, port=1")),
        (
            "[x]\nhost=b\n[mine]\nhost=a\n[mine]\nport=1",
            Some("host=a"),
        ),
        ("[mine]\nhost=a\nhost=b", Some("host=a")),
        ("# c\n\n  [mine] # d\r\n  host=a  \r\n", Some("host=a")),
        // Blanks within and quotes are part of the value.
        ("[mine]\nhost= a\ndbname='d'", Some("host= a, dbname='d'")),
        ("[x]\nnonsense\n[mine]\nhost=a", Some("host=a")),
        ("[mine2]\nhost=a", None),
        ("[MINE]\nhost=a", None),
        ("\u{feff}[mine]\nhost=a", None),
        ("", None),
    ] {
        assert_eq!(read(text), Ok(expected.map(str::to_string)), "{text}");
    }
}

#[test]
fn a_line_that_is_not_understood_is_named_and_not_repeated() {
    let long = format!("[x]\n#{}\n[mine]\n", "y".repeat(2000));
    for (text, expected) in [
        (
            "[mine]\ngeheim",
            "line 2 of the service file svc: it has no =",
        ),
        (
            "[mine]\nhost =geheim",
            "line 2 of the service file svc: the parameter is not known (no blank before the =)",
        ),
        (
            "[mine]\n\nservice=geheim",
            "line 3 of the service file svc: a service cannot name another one",
        ),
        (
            "[mine]\nldap://geheim",
            "line 2 of the service file svc: services of LDAP are not looked up",
        ),
        (&long, "line 2 of the service file svc: it is too long"),
    ] {
        assert_eq!(read(text), Err(expected.to_string()), "{text}");
    }
}
