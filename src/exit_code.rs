//! [`ExitCode`]: the number with which a command answers the shell that started pgic.

use crate::failure::ConnectFailure;
use crate::nats::NatsUnreachable;
use std::error::Error;

/// The end of a command, as scripts see it. `--help` of each command says which ones to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// Code 0: done, or the answer is yes.
    Yes,
    /// Code 1: the answer is no. For example no row matched, or a problem was found.
    No,
    /// Code 2: the command could not be carried out.
    Failed,
    /// Code 3: the server could not be reached, or took no session. To try again may help.
    Unreachable,
}

impl ExitCode {
    /// Returns the code of a command that failed with this error.
    pub fn of(error: &anyhow::Error) -> Self {
        let may_pass = error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<ConnectFailure>())
            .any(|failure| failure.source.may_pass());
        let mut causes = error.chain();
        if may_pass || causes.any(<dyn Error>::is::<NatsUnreachable>) {
            Self::Unreachable
        } else {
            Self::Failed
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(match code {
            ExitCode::Yes => 0,
            ExitCode::No => 1,
            ExitCode::Failed => 2,
            ExitCode::Unreachable => 3,
        })
    }
}
