//! Any text as a connection string, as a service file and as a password file.
//!
//! A word that stands for a password is put into the connection string, at the place that the first
//! byte says. Whatever the text is, no error repeats that word.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_connect::{Environment, Target, fuzzing};
use std::error::Error;

/// The word that stands for a password.
const PASSWORD: &str = "geheim";

fuzz_target!(|input: (u8, &str)| {
    let (place, text) = input;
    fuzzing::read_service_file(text.as_bytes());
    fuzzing::read_password_file(text.as_bytes());

    let mut at = usize::from(place).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let (before, behind) = text.split_at(at);
    let conninfo = format!("{before}{PASSWORD}{behind}");
    // An error repeats the scheme of a URL that is not PostgreSQL's, and the name of a service.
    let scheme = conninfo.split_once("://").map_or("", |(scheme, _)| scheme);
    let Err(error) = Target::new(&conninfo, Environment::of(&[("HOME", "/nowhere")])) else {
        return;
    };
    if scheme.contains(PASSWORD) || conninfo.contains("service") {
        return;
    }
    let mut cause: Option<&dyn Error> = Some(&error);
    while let Some(error) = cause {
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(PASSWORD), "{shown}");
        cause = error.source();
    }
});
