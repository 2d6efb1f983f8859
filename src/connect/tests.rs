//! URLs and environments, and the connections that they describe; no server is needed.

use super::*;

fn server(url: Option<&str>, variables: &[(&str, &str)]) -> anyhow::Result<Server> {
    Server::new(url, &Environment::of(variables), "test")
}

fn error(url: Option<&str>, variables: &[(&str, &str)]) -> String {
    crate::failure::lines(&server(url, variables).unwrap_err()).join("\n")
}

#[test]
fn a_url_wins_over_the_environment_which_fills_the_gaps() {
    let variables = [
        ("PGHOST", "elsewhere"),
        ("PGUSER", "alice"),
        ("PGPORT", "6000"),
        ("PGDATABASE", "other"),
    ];
    let shown = server(Some("postgresql://db.example:5433/app"), &variables)
        .unwrap()
        .to_string();
    assert_eq!(shown, "database \"app\" on db.example:5433 as \"alice\"");
    let shown = server(None, &variables).unwrap().to_string();
    assert_eq!(shown, "database \"other\" on elsewhere:6000 as \"alice\"");
    // libpq takes several hosts, each with the default port.
    let url = ("DATABASE_URL", "postgres://bob@one,two/app");
    let shown = server(None, &[url]).unwrap().to_string();
    assert_eq!(shown, "database \"app\" on one:5432,two:5432 as \"bob\"");
}

#[test]
fn key_value_strings_and_sockets_are_understood() {
    let shown = server(
        Some("host=/run/pg user='o\\'brien' dbname = 'a b' sslmode=disable"),
        &[],
    )
    .unwrap()
    .to_string();
    assert_eq!(
        shown,
        "database \"a b\" on /run/pg/.s.PGSQL.5432 as \"o'brien\""
    );
    let shown = server(
        Some("postgresql://postgres@/app?host=/tmp/x&sslmode=prefer"),
        &[],
    )
    .unwrap();
    assert_eq!(
        shown.to_string(),
        "database \"app\" on /tmp/x/.s.PGSQL.5432 as \"postgres\""
    );
    assert_eq!(shown.plaintext_notice(), None);
}

// tokio-postgres takes one host a parameter: the comma would become part of a path. Scripts give an
// empty --database-url if their own variable is not set.
#[test]
fn several_hosts_and_an_empty_url_are_understood() {
    let shown = server(Some("postgresql://u@/d?host=/tmp/none,/tmp/x"), &[])
        .unwrap()
        .to_string();
    assert_eq!(
        shown,
        "database \"d\" on /tmp/none/.s.PGSQL.5432,/tmp/x/.s.PGSQL.5432 as \"u\""
    );
    let shown = server(Some(""), &[("DATABASE_URL", "postgres://u@h/d")])
        .unwrap()
        .to_string();
    assert_eq!(shown, "database \"d\" on h:5432 as \"u\"");
}

#[test]
fn a_mode_that_asks_for_tls_is_refused_wherever_it_stands() {
    for mode in ["require", "verify-ca", "verify-full"] {
        assert!(
            error(Some(&format!("postgres://h/d?sslmode={mode}")), &[])
                .contains("cannot be honoured")
        );
        assert!(error(Some(&format!("host=h sslmode={mode}")), &[]).contains("cannot be honoured"));
        assert!(error(None, &[("PGSSLMODE", mode)]).contains("cannot be honoured"));
    }
    assert!(error(None, &[("PGSSLMODE", "sometimes")]).contains("is none of"));
    // The URL wins over the environment, also where it asks for less.
    assert!(
        server(
            Some("postgres://u@h/d?sslmode=disable"),
            &[("PGSSLMODE", "require")]
        )
        .is_ok()
    );
}

#[test]
fn plaintext_is_said_when_it_leaves_the_machine() {
    fn notice(url: &str) -> Option<String> {
        let server = server(Some(url), &[("USER", "u")]).unwrap();
        server.plaintext_notice()
    }
    for local in [
        "postgres://localhost/d",
        "postgres://127.0.0.1/d",
        "postgres://[::1]/d",
        "host=/tmp dbname=d",
    ] {
        assert_eq!(notice(local), None, "{local}");
    }
    assert!(
        notice("postgres://db.example/d")
            .unwrap()
            .contains("db.example in plaintext")
    );
}

#[test]
fn no_password_stands_in_what_is_shown() {
    // A port that is no number, an open quote and an unknown option are errors of three parsers.
    let url = "postgres://u:s3cret@h:port/d?options=x";
    assert!(!error(Some(url), &[]).contains("s3cret"));
    let good = server(Some("postgres://u:s3cret@h/d"), &[]).unwrap();
    assert!(!format!("{good} {good:?}").contains("s3cret"));
    assert!(!error(Some("host=h password='s3cret"), &[]).contains("s3cret"));
    assert!(!error(Some("postgres://u:s3cret@h/d?nonsense=1"), &[]).contains("s3cret"));
}

#[test]
fn what_is_not_honoured_is_an_error() {
    // To ignore these would be to connect to another server, or in another way, than was meant.
    assert!(error(None, &[("PGSERVICE", "prod")]).contains("PGSERVICE"));
    assert!(error(None, &[("PGPORT", "many"), ("USER", "u")]).contains("PGPORT"));
    assert!(
        error(None, &[("PGTARGETSESSIONATTRS", "standby"), ("USER", "u")])
            .contains("PGTARGETSESSIONATTRS")
    );
    assert!(error(Some("nonsense"), &[]).contains("expected key=value"));
}

/// Puts pieces of connection strings together at random. Each result is understood or refused, and
/// no error repeats the password.
#[test]
fn no_connection_string_repeats_its_password() {
    const PIECES: [&str; 30] = [
        "geheim",
        "postgresql://",
        "postgres://",
        "mysql://",
        "ann",
        ":",
        "@",
        "/",
        "?",
        "&",
        "=",
        " ",
        "'",
        "\"",
        "\\",
        "%40",
        "%zz",
        "host",
        "port=",
        "password=",
        "dbname=",
        "sslmode=",
        "h",
        "5432",
        "[::1]",
        ",",
        "+asyncpg",
        "options",
        "\u{1b}",
        "jdbc:",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200_000 {
        let text: String = (0..random.usize(1..12))
            .map(|_| PIECES[random.usize(0..PIECES.len())])
            .collect();
        // An error may repeat the scheme.
        if text
            .split_once("://")
            .is_some_and(|(scheme, _)| scheme.contains("geheim"))
        {
            continue;
        }
        if let Err(error) = Server::new(Some(&text), &Environment::of(&[("USER", "ann")]), "test") {
            let said = crate::failure::lines(&error).join("\n");
            assert!(!said.contains("geheim"), "{text}: {said}");
        }
    }
}
