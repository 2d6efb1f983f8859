//! [`read`]: the parameters of a service, from a service file (manual, 34.17 The Connection Service
//! File).
//!
//! ```text
//! [shop]
//! host=db.example
//! dbname=shop
//! ```

use crate::conninfo::Parameter;
use crate::environment::Environment;
use crate::keyword::Keyword;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The longest line, with its end, in bytes. libpq refuses longer ones.
const LONGEST_LINE: usize = 1022;

/// The folders of the system's `pg_service.conf`, if `PGSYSCONFDIR` does not name one: those of
/// Debian, of Red Hat and of PostgreSQL's source.
const SYSTEM_FOLDERS: [&str; 3] = [
    "/etc/postgresql-common",
    "/etc/sysconfig/pgsql",
    "/usr/local/pgsql/etc",
];

/// The reason why a service is not known, or not understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// No service file has a group of this name.
    #[error("the service{} is not defined in {}", shown(.service), files(.looked_at))]
    NotFound {
        /// The name of the service.
        service: String,
        /// The files that were read.
        looked_at: Vec<PathBuf>,
    },
    /// A service file cannot be read.
    #[error("read the service file {}", .file.display())]
    Unreadable {
        /// The path of the file.
        file: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A line of a service file is not understood.
    #[error("line {line} of the service file {}: {problem}", .file.display())]
    Line {
        /// The path of the file.
        file: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// The problem. It does not repeat the line, which may hold a password.
        problem: &'static str,
    },
}

/// Returns the name of a service for a message; nothing if it has characters that names of services
/// seldom have. With a blank too few in a connection string, it may be a piece of a password.
fn shown(service: &str) -> String {
    let is_plain = service
        .chars()
        .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if is_plain {
        format!(" \"{service}\"")
    } else {
        String::new()
    }
}

/// Returns the names of the files for a message.
fn files(looked_at: &[PathBuf]) -> String {
    if looked_at.is_empty() {
        return "any service file: there is none".to_string();
    }
    looked_at
        .iter()
        .map(|file| file.display().to_string())
        .collect::<Vec<_>>()
        .join(", nor in ")
}

/// Reads the parameters of a service. The first file that defines the service counts:
/// `PGSERVICEFILE` or else `~/.pg_service.conf`, then the system's `pg_service.conf`.
///
/// # Errors
/// If the service is not defined, or a line is not understood. To go on without the service would
/// mean to connect to another server.
pub(crate) fn read(
    service: &str,
    environment: &Environment,
) -> Result<Vec<Parameter>, ServiceError> {
    let mut looked_at = Vec::new();
    let own = match environment.get("PGSERVICEFILE") {
        Some(file) => Some(PathBuf::from(file)),
        // This one may be missing.
        None => environment
            .home()
            .map(|home| home.join(".pg_service.conf"))
            .filter(|file| file.exists()),
    };
    let system = match environment.get("PGSYSCONFDIR") {
        Some(folder) => vec![PathBuf::from(folder)],
        None => SYSTEM_FOLDERS.iter().map(PathBuf::from).collect(),
    };
    let system = system
        .into_iter()
        .map(|folder| folder.join("pg_service.conf"))
        .find(|file| file.exists());
    for file in own.into_iter().chain(system) {
        let text = std::fs::read(&file).map_err(|source| ServiceError::Unreadable {
            file: file.clone(),
            source,
        });
        let text = match text {
            // libpq finds nothing in a folder, and goes on.
            Err(ServiceError::Unreadable { source, .. })
                if source.kind() == ErrorKind::IsADirectory =>
            {
                Vec::new()
            }
            text => text?,
        };
        if let Some(parameters) = group(&text, service, &file)? {
            return Ok(parameters);
        }
        looked_at.push(file);
    }
    Err(ServiceError::NotFound {
        service: service.to_string(),
        looked_at,
    })
}

/// Returns the parameters of the first group of this name; `None` if there is none. If a keyword
/// stands there twice, the first one counts.
///
/// # Errors
/// If a line of the group is not understood, or a line before or within the group is too long.
pub(crate) fn group(
    text: &[u8],
    service: &str,
    file: &Path,
) -> Result<Option<Vec<Parameter>>, ServiceError> {
    let mut found: Option<Vec<Parameter>> = None;
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if line.len() > LONGEST_LINE {
            return Err(refused(file, at, "it is too long"));
        }
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        if let Some(header) = line.strip_prefix(b"[") {
            if found.is_some() {
                break;
            }
            let is_ours = header
                .strip_prefix(service.as_bytes())
                .is_some_and(|rest| rest.starts_with(b"]"));
            found = is_ours.then(Vec::new);
        } else if let Some(parameters) = &mut found {
            let parameter = parameter(line).map_err(|problem| refused(file, at, problem))?;
            let is_new = parameters
                .iter()
                .all(|earlier| earlier.keyword != parameter.keyword);
            if is_new {
                parameters.push(parameter);
            }
        }
    }
    Ok(found)
}

/// Returns the error for the line at a position, from 0.
fn refused(file: &Path, at: usize, problem: &'static str) -> ServiceError {
    ServiceError::Line {
        file: file.to_path_buf(),
        line: at + 1,
        problem,
    }
}

/// Reads a line `keyword=value`. Blanks around the `=` are part of the keyword and the value.
fn parameter(line: &[u8]) -> Result<Parameter, &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    if line.starts_with("ldap") {
        return Err("services of LDAP are not looked up");
    }
    let (name, value) = line.split_once('=').ok_or("it has no =")?;
    let keyword = Keyword::of(name).ok_or("the parameter is not known (no blank before the =)")?;
    if keyword == Keyword::Service {
        return Err("a service cannot name another one");
    }
    Ok(Parameter {
        keyword,
        value: value.to_string(),
    })
}

#[cfg(test)]
mod tests;
