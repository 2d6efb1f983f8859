//! [`parse`]: a connection URL or a `key=value` string, made into a `Config` of tokio-postgres.
//!
//! `sslmode` is taken out first, since tokio-postgres refuses half of libpq's modes. No error
//! repeats a value: part of a password may stand anywhere in a text that is not understood.

use crate::failure::with_hint;
use anyhow::{Context as _, anyhow, bail};
use percent_encoding::percent_decode_str;
use tokio_postgres::Config;

/// The keywords of a connection string that tokio-postgres or libpq knows (manual, 34.1.2 Parameter
/// Key Words). Errors may name these, and no other word.
const KEYWORDS: [&str; 43] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "krbsrvname",
    "load_balance_hosts",
    "options",
    "passfile",
    "password",
    "port",
    "replication",
    "require_auth",
    "requirepeer",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "tty",
    "user",
];

/// A connection string that was understood.
pub(super) struct Parsed {
    /// All parameters but `sslmode`.
    pub(super) config: Config,
    /// The value of `sslmode` as it is written; tokio-postgres knows three of libpq's six modes.
    pub(super) ssl_mode: Option<String>,
}

/// A connection string of which `sslmode` was taken out.
struct WithoutSslMode {
    rest: String,
    ssl_mode: Option<String>,
}

/// A parameter of a `key=value` string.
struct Pair {
    key: String,
    value: String,
}

/// Parses a connection URL or a `key=value` string.
///
/// # Errors
/// If the text is neither. The error repeats nothing of the text but the scheme.
pub(super) fn parse(text: &str) -> anyhow::Result<Parsed> {
    if let Some((scheme, _)) = text.split_once("://")
        && !matches!(scheme, "postgres" | "postgresql")
        && !scheme.contains('=')
    {
        // A scheme of other characters may be part of a password with `://` in it.
        let own = scheme.strip_prefix("jdbc:").unwrap_or(scheme);
        let is_plain = own
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        return Err(with_hint(
            if is_plain {
                anyhow!("a URL of the scheme {scheme}:// is not understood")
            } else {
                anyhow!("it is neither a URL nor key=value pairs")
            },
            "write postgresql://user@host:port/database, without quotes inside the variable",
        ));
    }
    let WithoutSslMode { rest, ssl_mode } =
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            without_url_parameter(text)?
        } else {
            without_pair(text)?
        };
    let config = rest.parse::<Config>().map_err(|error| {
        // The messages of tokio-postgres name the option between backquotes, never its value. An
        // option that nobody knows may be a piece of a password.
        let said = std::error::Error::source(&error)
            .map_or_else(|| error.to_string(), ToString::to_string);
        let option = said.split('`').nth(1);
        let what = if option.is_none_or(|option| KEYWORDS.contains(&option)) {
            &said
        } else {
            "it has an option that is not known"
        };
        anyhow!("{what}").context("not a connection URL or key=value string")
    })?;
    Ok(Parsed { config, ssl_mode })
}

/// Takes `sslmode` out of a URL. If there are several, the last one counts.
fn without_url_parameter(url: &str) -> anyhow::Result<WithoutSslMode> {
    let Some((base, query)) = url.split_once('?') else {
        return Ok(WithoutSslMode {
            rest: url.to_string(),
            ssl_mode: None,
        });
    };
    let mut ssl_mode = None;
    let mut others = Vec::new();
    for parameter in query.split('&') {
        let (key, value) = match parameter.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (parameter, None),
        };
        match (key, value) {
            ("sslmode", value) => ssl_mode = value,
            // tokio-postgres takes one host a parameter, libpq several with commas.
            ("host", Some(hosts)) => {
                others.extend(hosts.split(',').map(|host| format!("host={host}")));
            }
            _ => others.push(parameter.to_string()),
        }
    }
    let ssl_mode = match ssl_mode {
        Some(value) => Some(
            percent_decode_str(value)
                .decode_utf8()
                .context("sslmode is not text")?
                .into_owned(),
        ),
        None => None,
    };
    let separator = if others.is_empty() { "" } else { "?" };
    Ok(WithoutSslMode {
        rest: format!("{base}{separator}{}", others.join("&")),
        ssl_mode,
    })
}

/// Takes `sslmode` out of a `key=value` string. If there are several, the last one counts.
fn without_pair(text: &str) -> anyhow::Result<WithoutSslMode> {
    let mut ssl_mode = None;
    let mut rest = String::new();
    for Pair { key, value } in pairs(text)? {
        if key == "sslmode" {
            ssl_mode = Some(value);
        } else {
            let value = value.replace('\\', "\\\\").replace('\'', "\\'");
            rest.push_str(&format!("{key}='{value}' "));
        }
    }
    Ok(WithoutSslMode { rest, ssl_mode })
}

/// Returns the pairs of a `key=value` string, in order. A value may be quoted with `'`, and `\`
/// escapes the character behind it.
fn pairs(text: &str) -> anyhow::Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((key, after)) = rest.split_once('=') else {
            bail!("expected key=value, or a URL that begins with postgresql://");
        };
        let is_key = !key.is_empty()
            && key
                .trim_end()
                .chars()
                .all(|c| c.is_ascii_lowercase() || c == '_');
        if !is_key {
            bail!(
                "expected key=value, with a key like host or dbname, or a URL that begins with \
                postgresql://"
            );
        }
        let key = key.trim();
        let after = after.trim_start();
        let Some((value, end)) = value(after) else {
            // The key may be a piece of a password, too.
            let key = Some(key)
                .filter(|key| KEYWORDS.contains(key))
                .unwrap_or("an option");
            bail!("the value of {key} has no closing quote");
        };
        pairs.push(Pair {
            key: key.to_string(),
            value,
        });
        rest = after[end..].trim_start();
    }
    Ok(pairs)
}

/// Reads the value that `text` begins with. Returns the value, and the position in `text` where the
/// value ends; `None` if a quoted value has no closing quote.
fn value(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    let is_quoted = characters.next_if(|(_, c)| *c == '\'').is_some();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            '\'' if is_quoted => return Some((value, at + 1)),
            c if c.is_whitespace() && !is_quoted => return Some((value, at)),
            c => value.push(c),
        }
    }
    // The text ends with the value, unless a quote is open.
    (!is_quoted).then_some((value, text.len()))
}
