//! Which connection string counts, and the errors of those that are not understood; no server is
//! needed. What a connection string means is tested in `pg-connect`.

use super::*;
use crate::failure::lines;

fn server(url: Option<&str>, variables: &[(&str, &str)]) -> anyhow::Result<Server> {
    let options = ConnectionOptions {
        database_url: url.map(str::to_string),
        ..ConnectionOptions::default()
    };
    Server::new(&options, &Environment::of(variables), "test")
}

#[test]
fn the_option_wins_over_the_variable_and_an_empty_one_is_not_given() {
    let variables = [
        ("DATABASE_URL", "postgres://bob@one,two:5433/app"),
        ("PGHOST", "elsewhere"),
    ];
    let shown = server(Some("postgres://ann@three/shop"), &variables).unwrap();
    assert_eq!(
        shown.to_string(),
        "database \"shop\" on three:5432 as \"ann\""
    );
    for url in [None, Some("")] {
        let shown = server(url, &variables).unwrap();
        assert_eq!(
            shown.to_string(),
            "database \"app\" on one:5432,two:5433 as \"bob\""
        );
    }
}

#[test]
fn a_connection_string_that_is_not_understood_is_not_repeated() {
    let url = "postgres://u:s3cret@h/d?nonsense=1";
    assert_eq!(
        lines(&server(Some(url), &[]).unwrap_err()),
        [
            "error: read where to connect: read the connection string: it has a parameter that is \
            not known",
            "hint: the parameters are those of libpq: host, port, user, dbname, sslmode, …",
        ]
    );
    let good = server(Some("postgres://u:s3cret@h/d"), &[]).unwrap();
    assert!(!format!("{good} {good:?}").contains("s3cret"));
}

#[test]
fn a_notice_is_printed_once() {
    let printed = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&printed);
    let server = server(Some("postgres://u@h/d"), &[])
        .unwrap()
        .notices(move |text| to.lock().unwrap().push(text.to_string()));
    for text in ["one", "two", "one"] {
        server.clone().notices.print_once(text);
    }
    assert_eq!(*printed.lock().unwrap(), ["one", "two"]);
}
