//! [`ExitCode`]: the number with which a command answers the shell that started pgic.

/// The end of a command, as scripts see it. `--help` of each command says which ones to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// Code 0: done, or the answer is yes.
    Yes,
    /// Code 1: the answer is no. For example no row matched, or a problem was found.
    No,
    /// Code 2: the command could not be carried out.
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
