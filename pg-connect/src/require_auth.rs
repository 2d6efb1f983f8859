//! [`RequireAuth`]: the ways of authentication that a server may use (manual, 34.1.2,
//! `require_auth`).

use std::fmt;

/// A way in which a server may ask a client to authenticate itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// The password, as it is.
    Password,
    /// A hash of the password.
    Md5,
    Gss,
    Sspi,
    ScramSha256,
    Oauth,
    /// The server let the client in without asking (`trust`, `cert`, `peer`), or before SCRAM was
    /// done.
    None,
    /// A way that this crate does not know.
    Unknown,
}

/// The words of `require_auth`.
const WORDS: [(&str, Method); 7] = [
    ("password", Method::Password),
    ("md5", Method::Md5),
    ("gss", Method::Gss),
    ("sspi", Method::Sspi),
    ("scram-sha-256", Method::ScramSha256),
    ("oauth", Method::Oauth),
    ("none", Method::None),
];

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password => "a password in clear text",
            Self::Md5 => "md5",
            Self::Gss => "GSSAPI",
            Self::Sspi => "SSPI",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::Oauth => "OAuth",
            Self::None => "nothing",
            Self::Unknown => "a way that is not known here",
        })
    }
}

/// The ways that are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum RequireAuth {
    /// All of them: nothing was said.
    #[default]
    Any,
    /// These alone.
    Only(Vec<Method>),
    /// All but these.
    Not(Vec<Method>),
}

impl RequireAuth {
    /// Reads the value: words with commas, all of them with a `!` before, or none. Blanks do not
    /// matter around a word.
    ///
    /// # Errors
    /// If a word is not known or stands there twice, or some have a `!` and some have not. The
    /// error has the words that are known.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        let is_negated = text.trim_start().starts_with('!');
        let mut methods = Vec::new();
        for word in text.split(',') {
            let word = word.trim();
            let name = word.strip_prefix('!').unwrap_or(word).trim();
            let Some((_, method)) = WORDS.iter().find(|(word, _)| *word == name) else {
                return Err(known());
            };
            if word.starts_with('!') != is_negated || methods.contains(method) {
                return Err(known());
            }
            methods.push(*method);
        }
        Ok(if is_negated {
            Self::Not(methods)
        } else {
            Self::Only(methods)
        })
    }

    /// Returns whether a server may use this way.
    pub(crate) fn allows(&self, method: Method) -> bool {
        match self {
            Self::Any => true,
            Self::Only(methods) => methods.contains(&method),
            Self::Not(methods) => !methods.contains(&method),
        }
    }
}

/// Returns the words for a message.
fn known() -> String {
    let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
    format!(
        "{}, several with commas, each at most once, and all with a ! before or none",
        words.join(", ")
    )
}

#[cfg(test)]
mod tests;
