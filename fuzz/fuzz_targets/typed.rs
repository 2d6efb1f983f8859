//! Texts that people type, or that are set in their environment: names, conditions, lines of the
//! shell, connection strings. The first byte of the input chooses the kind.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgic::connect::{Environment, Server};
use pgic::tables::conditions;
use pgic::{commands, secrets};
use postgres_index_cache_core::tooling::postgres::catalog::parse_name;
use postgres_index_cache_core::tooling::postgres::quote_identifier;

fuzz_target!(|input: &[u8]| {
    let Some((&which, bytes)) = input.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match which % 5 {
        0 => {
            // A name that was parsed and is written out again must be parsed as the same name.
            if let Some(parts) = parse_name(text) {
                let written: Vec<String> =
                    parts.iter().map(|part| quote_identifier(part)).collect();
                assert_eq!(parse_name(&written.join(".")), Some(parts));
            }
        }
        1 => {
            let _ = conditions::Written::parse(text);
            let _ = conditions::Written::parse_quoted(text);
        }
        2 => {
            let _ = commands::shell::understands(text);
        }
        3 => {
            // No error may repeat a password, wherever in the text it stands. The fuzzer marks the
            // place with a NUL, which no connection string has.
            const PASSWORD: &str = "geheim";
            let text = text.replace('\u{0}', PASSWORD);
            // The scheme is the one part that an error repeats, so it cannot hold the password.
            if text
                .split_once("://")
                .is_some_and(|(scheme, _)| scheme.contains(PASSWORD))
            {
                return;
            }
            if let Err(error) = Server::new(Some(&text), &Environment::default(), "fuzz") {
                assert!(
                    !text.contains(PASSWORD) || !format!("{error:?}").contains(PASSWORD),
                    "{error:?}"
                );
            }
        }
        _ => {
            let _ = secrets::is_connection_string(text) || secrets::is_bare(text);
        }
    }
});
