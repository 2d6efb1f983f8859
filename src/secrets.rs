//! Finds connection strings where none belongs. People who know psql give one as the first
//! argument: `pgic status postgresql://alice:secret@db/shop`. Such a string may hold a password, so
//! nothing of it is printed, nor sent to a server as a name.

use pg_connect::misplaced::{is_bare, is_url};
use std::ffi::OsString;

/// The options whose value is a connection string.
const OPTIONS: [&str; 2] = ["-d", "--database-url"];

/// The options whose value may be the address of a NATS server.
const NATS_OPTIONS: [&str; 2] = ["--to", "--from"];

/// Returns whether a text is the address of a NATS server.
fn is_nats(text: &str) -> bool {
    ["nats://", "tls://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
}

/// Returns whether a connection string is among the arguments, other than as the value of its
/// option. `arguments` does not have the name of the program.
///
/// This runs before clap has parsed anything, so no options are known but those of `OPTIONS`.
pub fn is_misplaced(arguments: &[OsString]) -> bool {
    // There `--from` names a folder.
    let takes_nats = !arguments.iter().any(|argument| argument == "tail");
    // Whether the next argument is the value of an option of `OPTIONS`, and of any option.
    let mut is_value = false;
    let mut is_any_value = false;
    let mut is_next_of_nats = false;
    arguments.iter().any(|argument| {
        let argument = argument.to_string_lossy();
        let was_value = std::mem::replace(&mut is_value, OPTIONS.contains(&&*argument));
        // Behind any option the text may be its value, and `--id alice:1@x` looks like a name with
        // a password. So only URLs are found there.
        let was_any_value = std::mem::replace(&mut is_any_value, argument.starts_with('-'));
        if was_value
            || argument.starts_with("-d") && !argument.starts_with("--")
            || argument.starts_with("--database-url=")
        {
            return false;
        }
        let was_nats_value =
            std::mem::replace(&mut is_next_of_nats, NATS_OPTIONS.contains(&&*argument));
        let of_nats = argument
            .split_once('=')
            .filter(|(name, _)| NATS_OPTIONS.contains(name));
        let is_nats_value = was_nats_value && is_nats(&argument)
            || of_nats.is_some_and(|(_, value)| is_nats(value));
        if is_nats_value && takes_nats {
            return false;
        }
        // `--id=postgres://…`: not an argument of its own.
        let value = argument
            .strip_prefix('-')
            .and_then(|option| option.split_once('='));
        is_url(&argument)
            || (!was_any_value && is_bare(&argument))
            || value.is_some_and(|(_, value)| is_url(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn they_belong_to_their_option_alone() {
        for line in [
            "status -d postgres://a:b@c users",
            "--database-url=postgres://c status",
            "-dpostgres://c status",
            "tail --id a:b@c",
            "query t a=b:c@d",
            "relay t --to nats://a:b@c",
            "query t --from=nats://a:b@c/shop",
        ] {
            assert!(!is_misplaced(&arguments(line)), "{line}");
        }
        for line in [
            "status a:b@c",
            "status postgres://a:b@c",
            "status --url=postgres://a:b@c",
            "tail -d x postgres://c",
            "tail --from postgres://a:b@c",
            "tail t --from nats://a:b@c",
            "status nats://a:b@c",
            "query t 'postgres://c",
        ] {
            assert!(is_misplaced(&arguments(line)), "{line}");
        }
    }
}
