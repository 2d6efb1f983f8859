//! What people type, or is set for them: names, conditions, lines of the shell, connection strings.
//! The first byte says which.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgic::connect::{Environment, Server};
use pgic::{commands, conditions, secrets};
use postgres_index_cache_core::postgres::catalog::parse_name;
use postgres_index_cache_core::postgres::quote_identifier;

fuzz_target!(|input: &[u8]| {
    let Some((&which, bytes)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match which % 5 {
        0 => {
            // What is read as a name is the same name when it is written out.
            if let Some(parts) = parse_name(text) {
                let written: Vec<String> = parts.iter().map(|part| quote_identifier(part)).collect();
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
            // A password is never repeated, wherever it stands.
            const PASSWORD: &str = "geheim";
            let text = text.replace('\u{0}', PASSWORD);
            // A scheme is repeated.
            if text.split_once("://").is_some_and(|(scheme, _)| scheme.contains(PASSWORD)) {
                return;
            }
            if let Err(error) = Server::new(Some(&text), &Environment::default(), "fuzz") {
                assert!(!text.contains(PASSWORD) || !format!("{error:?}").contains(PASSWORD), "{error:?}");
            }
        }
        _ => {
            let _ = secrets::is_connection_string(text) || secrets::is_bare(text);
        }
    }
});
