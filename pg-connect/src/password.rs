//! [`Password`], which no text shows, and [`PasswordOrigin`], which says where it came from.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// The most that is read of a command's output, in bytes.
const LONGEST_OUTPUT: u64 = 1 << 16;

/// How long a command may take to print a password.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);

/// A password. Its `Debug` output does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl Password {
    /// Creates a password from its bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Returns the bytes of the password.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns whether the password is empty, which counts as none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// The place from which a password came.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PasswordOrigin {
    /// The connection string.
    ConnectionString,
    /// The service file.
    Service,
    /// The variable `PGPASSWORD`.
    Variable,
    /// A line of a password file.
    File {
        /// The path of the file.
        file: PathBuf,
        /// The number of the line, from 1.
        line: usize,
    },
    /// The command that prints the password.
    Command,
    /// A person, who was asked.
    Prompt,
}

impl fmt::Display for PasswordOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectionString => f.write_str("the connection string"),
            Self::Service => f.write_str("the service file"),
            Self::Variable => f.write_str("PGPASSWORD"),
            Self::File { file, line } => write!(f, "line {line} of {}", file.display()),
            Self::Command => f.write_str("the password command"),
            Self::Prompt => f.write_str("the prompt"),
        }
    }
}

/// The reason why a command gave no password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordCommandError {
    /// The command could not be run.
    #[error("run the password command")]
    Run(#[source] std::io::Error),
    /// The command failed. Its own words went to stderr.
    #[error("the password command ended with {0}")]
    Failed(std::process::ExitStatus),
    /// The command printed nothing.
    #[error("the password command printed no password")]
    Empty,
    /// The command took too long.
    #[error("the password command did not end within {} s", .0.as_secs())]
    TooLong(Duration),
}

/// The connection for which a command prints the password.
#[derive(Debug, Clone)]
pub(crate) struct CommandFor {
    pub(crate) host: String,
    pub(crate) port: String,
    pub(crate) user: String,
    pub(crate) database: String,
}

/// Runs a command by `sh -c`, and returns the first line that it prints. The command finds the
/// connection in `PGHOST`, `PGPORT`, `PGUSER` and `PGDATABASE`; what it writes to stderr is passed
/// through.
///
/// # Errors
/// If the command fails, prints nothing, or takes longer than a minute.
pub(crate) async fn run_command(
    command: &str,
    connection: &CommandFor,
) -> Result<Password, PasswordCommandError> {
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .env("PGHOST", &connection.host)
        .env("PGPORT", &connection.port)
        .env("PGUSER", &connection.user)
        .env("PGDATABASE", &connection.database)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(PasswordCommandError::Run)?;
    let output = child.stdout.take();
    let run = async {
        let mut text = Vec::new();
        if let Some(output) = output {
            output.take(LONGEST_OUTPUT).read_to_end(&mut text).await?;
        }
        let status = child.wait().await?;
        Ok((text, status))
    };
    let (text, status) = tokio::time::timeout(COMMAND_PATIENCE, run)
        .await
        .map_err(|_| PasswordCommandError::TooLong(COMMAND_PATIENCE))?
        .map_err(PasswordCommandError::Run)?;
    if !status.success() {
        return Err(PasswordCommandError::Failed(status));
    }
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(PasswordCommandError::Empty);
    }
    Ok(Password::new(line))
}
