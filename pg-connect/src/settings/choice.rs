//! The keywords whose value is one of a few words.

use super::SettingsError;
use crate::keyword::Keyword;
use crate::parameters::Parameters;

/// A value that is one of a few words.
pub(super) trait Choice: Copy + PartialEq + 'static {
    /// The words, with their values.
    const WORDS: &'static [(&'static str, Self)];

    /// Reads the value of a keyword; `None` if it was given nowhere.
    ///
    /// # Errors
    /// If the value is none of the words. Upper case is not known.
    fn read(parameters: &Parameters, keyword: Keyword) -> Result<Option<Self>, SettingsError> {
        let Some(text) = parameters.get(keyword) else {
            return Ok(None);
        };
        Self::of(text, parameters.name(keyword)).map(Some)
    }

    /// Returns the value of a word.
    fn of(text: &str, name: &'static str) -> Result<Self, SettingsError> {
        for (word, value) in Self::WORDS {
            if *word == text {
                return Ok(*value);
            }
        }
        let words: Vec<&str> = Self::WORDS.iter().map(|(word, _)| *word).collect();
        Err(SettingsError::Unknown {
            name,
            known: words.join(", "),
        })
    }

    /// Returns the word of this value.
    fn name(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(_, value)| *value == self)
            .map_or("", |(word, _)| *word)
    }
}

/// Declares an enum whose variants are the words of a keyword.
macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident $word:literal,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub(crate) enum $name {
                $($variant,)*
            }

            impl Choice for $name {
                const WORDS: &'static [(&'static str, Self)] =
                    &[$(($word, Self::$variant),)*];
            }
        )*
    };
}

choices! {
    /// `sslmode`: whether TLS is used, and what is checked (manual, 34.19 SSL Support).
    SslMode {
        Disable "disable",
        Allow "allow",
        Prefer "prefer",
        Require "require",
        VerifyCa "verify-ca",
        VerifyFull "verify-full",
    }
    /// `sslnegotiation`: whether the server is asked for TLS first.
    SslNegotiation {
        Postgres "postgres",
        Direct "direct",
    }
    /// `sslcertmode`: whether a certificate of the client is sent.
    SslCertMode {
        Disable "disable",
        Allow "allow",
        Require "require",
    }
    /// `channel_binding`: whether the password's proof is bound to the TLS connection.
    ChannelBinding {
        Disable "disable",
        Prefer "prefer",
        Require "require",
    }
    /// `target_session_attrs`: what a session must be.
    TargetSession {
        Any "any",
        ReadWrite "read-write",
        ReadOnly "read-only",
        Primary "primary",
        Standby "standby",
        PreferStandby "prefer-standby",
    }
    /// `load_balance_hosts`: the order in which hosts are tried.
    LoadBalance {
        Disable "disable",
        Random "random",
    }
    /// `gssencmode`: whether GSSAPI encrypts the connection.
    GssEncMode {
        Disable "disable",
        Prefer "prefer",
        Require "require",
    }
    /// `min_protocol_version` and `max_protocol_version`: the version of PostgreSQL's protocol.
    ProtocolVersion {
        V3_0 "3.0",
        V3_2 "3.2",
        Latest "latest",
    }
}

impl SslMode {
    /// Returns the word of this mode.
    pub(crate) fn name(self) -> &'static str {
        Choice::name(self)
    }

    /// Returns whether a connection without TLS is allowed.
    pub(crate) fn allows_plaintext(self) -> bool {
        match self {
            Self::Disable | Self::Allow | Self::Prefer => true,
            Self::Require | Self::VerifyCa | Self::VerifyFull => false,
        }
    }

    /// Returns whether the server's certificate must be checked.
    pub(crate) fn must_verify(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

impl TargetSession {
    /// Returns the word of this value.
    pub(crate) fn name(self) -> &'static str {
        Choice::name(self)
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TlsVersion {
    V1_0,
    V1_1,
    V1_2,
    V1_3,
}

impl Choice for TlsVersion {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("TLSv1", Self::V1_0),
        ("TLSv1.1", Self::V1_1),
        ("TLSv1.2", Self::V1_2),
        ("TLSv1.3", Self::V1_3),
    ];
}

impl TlsVersion {
    /// Reads a version, in lower or upper case; `None` if it was given nowhere, or is empty.
    pub(super) fn read_or_any(
        parameters: &Parameters,
        keyword: Keyword,
    ) -> Result<Option<Self>, SettingsError> {
        let Some(text) = parameters.given(keyword) else {
            return Ok(None);
        };
        for (word, value) in Self::WORDS {
            if word.eq_ignore_ascii_case(text) {
                return Ok(Some(*value));
            }
        }
        Self::of(text, parameters.name(keyword)).map(Some)
    }
}

/// Reads a number as C's `strtol` does, with blanks around it; `None` if it is none, or does not
/// fit.
pub(crate) fn integer(text: &str) -> Option<i32> {
    text.trim_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r'])
        .parse()
        .ok()
}
