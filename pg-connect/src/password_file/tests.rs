//! Password files as text; files on disk are read by the tests beside psql.

use super::*;

const ENTRY: Entry<'_> = Entry {
    host: "h:1*",
    port: "5432",
    database: "d",
    user: "u",
};

fn read(text: &str) -> Option<(Vec<u8>, usize)> {
    let Found { password, line } = find(text.as_bytes(), &ENTRY)?;
    Some((password.bytes().to_vec(), line))
}

#[test]
fn the_first_line_that_matches_counts() {
    for (text, password, line) in [
        ("*:*:*:*:p", "p", 1),
        ("h\\:1*:5432:d:u:p\n*:*:*:*:q", "p", 1),
        // A colon that is expected need not be escaped.
        ("h:1*:5432:d:u:p", "p", 1),
        ("#*:*:*:*:q\n\n*:*:*:*:p\r\n", "p", 2 + 1),
        ("*:5432:d:u:a\\:b\\\\c", "a:b\\c", 1),
        // The password ends at a colon that is not escaped.
        ("*:*:*:*:p:more", "p", 1),
        ("*:*:*:*:p\\", "p\\", 1),
        ("*:*:*:*:", "", 1),
        ("x:*:*:*:q\n*:*:*:\\u:p", "p", 2),
    ] {
        assert_eq!(
            read(text),
            Some((password.as_bytes().to_vec(), line)),
            "{text}"
        );
    }
    for text in [
        "",
        "*:*:*:*",
        "h*:*:*:*:q",
        " *:*:*:*:q",
        "*:*:*:u2:q",
        "*:*:*:U:q",
        "h\\:1\\*:*:*:q",
    ] {
        assert_eq!(read(text), None, "{text}");
    }
}

#[test]
fn a_password_is_not_shown() {
    let found = find(b"*:*:*:*:geheim", &ENTRY);
    assert!(!format!("{found:?}").contains("geheim"));
}
