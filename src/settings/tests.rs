//! What counts, and the errors. Files are found in a working directory by the tests of the command.

use super::*;
use crate::cli::Cli;
use crate::failure::lines;
use clap::Parser as _;

/// Loads settings of a file with this text, for this command line and these variables.
fn load(text: &str, line: &str, variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("its.toml");
    std::fs::write(&path, text).unwrap();
    let mut words: Vec<&str> = vec!["pgic", "--config", path.to_str().unwrap(), "status"];
    words.extend(line.split_whitespace());
    let global = Cli::try_parse_from(words).unwrap().global;
    Settings::load(&global, &Environment::of(variables))
}

#[test]
fn an_option_wins_over_its_variable_and_that_over_the_file() {
    let text = "output = 'json'\nchannel = 'mine'\ncolor = 'never'\nutc = true";
    let settings = load(text, "", &[]).unwrap();
    assert_eq!(
        (settings.output, settings.color, settings.utc),
        (Format::Json, ColorChoice::Never, true)
    );
    assert_eq!(settings.channel.as_deref(), Some("mine"));
    let variables = [("PGIC_OUTPUT", "text"), ("PGIC_CHANNEL", "theirs")];
    let settings = load(text, "--color always", &variables).unwrap();
    assert_eq!(
        (settings.output, settings.color),
        (Format::Text, ColorChoice::Always)
    );
    assert_eq!(settings.channel.as_deref(), Some("theirs"));
    let settings = load(text, "-o json", &variables).unwrap();
    assert_eq!(settings.output, Format::Json);
}

#[test]
fn tables_have_the_options_of_the_file_and_no_others() {
    let text = "channel = 'mine'\n[tables.users]\n[tables.'app.orders']\nchannel = 'orders'\n\
        exclude-columns = ['note']\non-change = true";
    let tables = load(text, "", &[]).unwrap().tables;
    let [orders, users] = tables.as_slice() else {
        panic!("{tables:?}");
    };
    assert_eq!(orders.name, "app.orders");
    assert_eq!(orders.options.channel.as_deref(), Some("orders"));
    assert_eq!(
        orders.options.exclude_columns,
        Some(vec!["note".to_string()])
    );
    assert!(orders.options.on_change && orders.options.defaults);
    assert_eq!(users.options.channel.as_deref(), Some("mine"));
}

#[test]
fn a_connection_is_taken_by_its_name_alone() {
    let text = "[connections.shop]\nurl = 'postgresql://u:s3cret@h/shop'";
    assert_eq!(load(text, "", &[]).unwrap().url, None);
    for (line, variables) in [
        ("--connection shop", &[][..]),
        ("", &[("PGIC_CONNECTION", "shop")][..]),
    ] {
        let url = load(text, line, variables).unwrap().url;
        assert_eq!(url.as_deref(), Some("postgresql://u:s3cret@h/shop"));
    }
    // An option wins over the variable.
    let settings = load(text, "-d x", &[("PGIC_CONNECTION", "nosuch")]).unwrap();
    assert_eq!(settings.url, None);
    for name in ["postgresql://u:s3cret@h/d", "host=h password=s3cret"] {
        let error = load(text, "", &[("PGIC_CONNECTION", name)]).unwrap_err();
        assert!(!lines(&error).join(" ").contains("s3cret"), "{error:?}");
    }
    let empty = "[connections.shop]\nurl = ''";
    assert!(load(empty, "--connection shop", &[]).is_err());
    let error = load(text, "--connection shpo", &[]).unwrap_err();
    assert_eq!(
        lines(&error),
        [
            "error: there is no connection shpo",
            "hint: shop may be meant"
        ]
    );
}

#[test]
fn an_error_has_the_line_and_no_value() {
    for (text, expected) in [
        ("\ncolour = 'never'", "line 2: unknown field `colour`"),
        ("output = 'xml'", "output must be one of text, json"),
        (
            "[connections]\nshop = 'postgresql://u:s3cret@h'",
            "line 2: expected struct ConnectionSection",
        ),
        (
            "[connections.a]\nurl = 'postgresql://u:s3cret@h",
            "line 2: ",
        ),
        ("[tables.app.users]", "line 1: unknown field `users`"),
        (
            "[tables.t]\nno-data = true\ncolumns = ['a']",
            "the table t has more than one of",
        ),
        ("[tables.t]\nchannel = ''", "channel"),
    ] {
        let error = lines(&load(text, "", &[]).unwrap_err()).join("\n");
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}
