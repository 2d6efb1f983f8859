//! Texts that people type: names, conditions, lines of the shell, connection strings where none
//! belongs. The first byte of the input chooses the kind.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_connect::misplaced;
use pgic::commands;
use pgic::tables::conditions;
use postgres_index_cache_core::tooling::postgres::catalog::parse_name;
use postgres_index_cache_core::tooling::postgres::quote_identifier;

fuzz_target!(|input: &[u8]| {
    let Some((&which, bytes)) = input.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match which % 4 {
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
        }
        2 => {
            let _ = commands::shell::understands(text);
        }
        _ => {
            let _ = misplaced::is_url(text) || misplaced::is_bare(text);
        }
    }
});
