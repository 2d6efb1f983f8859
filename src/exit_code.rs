//! [`ExitCode`]: what a command says to the shell.

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// Done, or the answer is yes.
    Yes,
    /// The answer is no: no row matched, drift was found.
    No,
    /// It could not be done.
    Failed,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(match code {
            ExitCode::Yes => 0,
            ExitCode::No => 1,
            ExitCode::Failed => 2,
        })
    }
}
