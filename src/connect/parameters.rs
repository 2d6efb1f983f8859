//! A URL or a `key=value` string as tokio-postgres reads it, less what it does not know of libpq's.

use crate::failure::with_hint;
use anyhow::{Context as _, anyhow, bail};
use percent_encoding::percent_decode_str;
use tokio_postgres::Config;

/// What a connection string may have, by tokio-postgres and by libpq (manual, 34.1.2 Parameter Key
/// Words).
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

pub(super) struct Parsed {
    pub(super) config: Config,
    /// tokio-postgres knows three of libpq's six modes.
    pub(super) ssl_mode: Option<String>,
}

/// Parses a connection URL or a `key=value` string.
///
/// # Errors
/// When it is neither. Nothing of it is repeated but its scheme: a password may stand anywhere in
/// what is not understood.
pub(super) fn parse(text: &str) -> anyhow::Result<Parsed> {
    if let Some((scheme, _)) = text.split_once("://")
        && !matches!(scheme, "postgres" | "postgresql")
        && !scheme.contains('=')
    {
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
    let (rest, ssl_mode) = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        without_url_parameter(text)?
    } else {
        without_pair(text)?
    };
    let config = rest.parse::<Config>().map_err(|error| {
        // Its messages name the option, never its value. An option that nobody knows may be a piece
        // of a password.
        let said = std::error::Error::source(&error)
            .map_or_else(|| error.to_string(), ToString::to_string);
        let is_known = |name: &str| KEYWORDS.contains(&name);
        let what = if said.split('`').nth(1).is_none_or(is_known) {
            &said
        } else {
            "it has an option that is not known"
        };
        anyhow!("{what}").context("not a connection URL or key=value string")
    })?;
    Ok(Parsed { config, ssl_mode })
}

fn without_url_parameter(url: &str) -> anyhow::Result<(String, Option<String>)> {
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.to_string(), None));
    };
    let is_mode = |parameter: &&str| parameter.split('=').next() == Some("sslmode");
    let (modes, others): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_mode);
    let mode = match modes.last().and_then(|mode| mode.split_once('=')) {
        Some((_, value)) => Some(
            percent_decode_str(value)
                .decode_utf8()
                .context("sslmode is not text")?
                .into_owned(),
        ),
        None => None,
    };
    let separator = if others.is_empty() { "" } else { "?" };
    // Several hosts in one parameter are several parameters.
    let split = |parameter: &&str| match parameter.strip_prefix("host=") {
        Some(hosts) => hosts
            .split(',')
            .map(|host| format!("host={host}"))
            .collect::<Vec<_>>()
            .join("&"),
        None => (*parameter).to_string(),
    };
    Ok((
        format!(
            "{base}{separator}{}",
            others.iter().map(split).collect::<Vec<_>>().join("&")
        ),
        mode,
    ))
}

fn without_pair(text: &str) -> anyhow::Result<(String, Option<String>)> {
    let mut mode = None;
    let mut rest = String::new();
    for (key, value) in pairs(text)? {
        if key == "sslmode" {
            mode = Some(value);
        } else {
            rest.push_str(&format!(
                "{key}='{}' ",
                value.replace('\\', "\\\\").replace('\'', "\\'")
            ));
        }
    }
    Ok((rest, mode))
}

/// The pairs of a `key=value` string: values may be quoted with `'`, and `\` escapes.
fn pairs(text: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((key, after)) = rest.split_once('=') else {
            bail!("expected key=value, or a URL that begins with postgresql://");
        };
        if key.is_empty()
            || !key
                .trim_end()
                .chars()
                .all(|c| c.is_ascii_lowercase() || c == '_')
        {
            bail!(
                "expected key=value, with a key like host or dbname, or a URL that begins with \
                postgresql://"
            );
        }
        let mut value = String::new();
        let mut characters = after.trim_start().char_indices().peekable();
        let after = after.trim_start();
        let is_quoted = characters.next_if(|(_, c)| *c == '\'').is_some();
        let mut end = None;
        while let Some((at, c)) = characters.next() {
            match c {
                '\\' => value.extend(characters.next().map(|(_, c)| c)),
                '\'' if is_quoted => {
                    end = Some(at + 1);
                    break;
                }
                c if c.is_whitespace() && !is_quoted => {
                    end = Some(at);
                    break;
                }
                c => value.push(c),
            }
        }
        if is_quoted && end.is_none() {
            let key = Some(key.trim())
                .filter(|key| KEYWORDS.contains(key))
                .unwrap_or("an option");
            bail!("the value of {key} has no closing quote");
        }
        pairs.push((key.trim().to_string(), value));
        rest = after[end.unwrap_or(after.len())..].trim_start();
    }
    Ok(pairs)
}
