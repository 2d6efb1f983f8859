//! [`read`]: a password from a password file (manual, 34.16 The Password File).
//!
//! ```text
//! host:port:database:user:password
//! ```
//!
//! The first line that matches counts, even if the password there is wrong. `*` as a whole field
//! matches all; `\` takes the next character as it is.

use crate::password::Password;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// The connection for which a password is looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    /// The host as it was given, or `localhost` for the default socket.
    pub(crate) host: &'a str,
    pub(crate) port: &'a str,
    pub(crate) database: &'a str,
    pub(crate) user: &'a str,
}

/// A password that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) password: Password,
    /// The number of the line, from 1.
    pub(crate) line: usize,
}

/// The reason why a password file that is there was not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unused {
    /// It is a folder, a device or the like.
    #[error("it is not a plain file")]
    NotPlain,
    /// Others may read the passwords.
    #[error("group or others may access it: chmod 0600 {0}")]
    Open(String),
    /// The system refused.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
}

/// Looks up a password in a file; `None` if the file is missing, or has no line that matches.
///
/// # Errors
/// If the file is there and must not, or cannot, be used. libpq goes on without a password then.
pub(crate) fn read(file: &Path, entry: &Entry<'_>) -> Result<Option<Found>, Unused> {
    let metadata = match std::fs::metadata(file) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Unused::Unreadable(error.to_string())),
        Ok(metadata) => metadata,
    };
    if !metadata.is_file() {
        return Err(Unused::NotPlain);
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Unused::Open(file.display().to_string()));
    }
    let text = std::fs::read(file).map_err(|error| Unused::Unreadable(error.to_string()))?;
    Ok(find(&text, entry))
}

/// Returns the password of the first line that matches.
pub(crate) fn find(text: &[u8], entry: &Entry<'_>) -> Option<Found> {
    text.split(|byte| *byte == b'\n')
        .enumerate()
        .find_map(|(at, line)| {
            let password = matched(line, entry)?;
            Some(Found {
                password,
                line: at + 1,
            })
        })
}

/// Returns the password of a line, if the line matches.
fn matched(line: &[u8], entry: &Entry<'_>) -> Option<Password> {
    if line.starts_with(b"#") {
        return None;
    }
    let mut rest = line;
    while let Some(shorter) = rest.strip_suffix(b"\r") {
        rest = shorter;
    }
    for expected in [entry.host, entry.port, entry.database, entry.user] {
        rest = behind_field(rest, expected.as_bytes())?;
    }
    let mut password = Vec::new();
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => break,
            // A backslash at the end of the line stands for itself.
            b'\\' => password.push(*bytes.next().unwrap_or(byte)),
            byte => password.push(*byte),
        }
    }
    Some(Password::new(password))
}

/// Returns the text behind the first field and its colon, if the field matches.
fn behind_field<'a>(text: &'a [u8], expected: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = text.strip_prefix(b"*:") {
        return Some(rest);
    }
    let mut rest = text;
    for byte in expected {
        // A colon matches an expected one even if it is not escaped: libpq takes `::1` as a host.
        rest = match rest {
            [b'\\', first, behind @ ..] if first == byte => behind,
            [b'\\', ..] => return None,
            [first, behind @ ..] if first == byte => behind,
            _ => return None,
        };
    }
    rest.strip_prefix(b":")
}

#[cfg(test)]
mod tests;
