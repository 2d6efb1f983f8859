//! [`TriggerError`]: why triggers were not planned, installed, checked or removed.

use super::apply::SharedFunctionIsLocked;
use crate::postgres::catalog::CatalogError;
use crate::postgres::sqlstate;
use std::error::Error;
use std::fmt;

/// The reason why triggers were not planned, installed, checked or removed. Nothing was changed
/// then, unless the connection was lost while the server committed. [`hint`](Self::hint) says what
/// to do, if that is known.
///
/// The text has the attempt alone, and [`source`](Error::source) the cause, down to the server's
/// error: print the chain, as `anyhow` does with `{:#}`.
#[derive(Debug)]
pub struct TriggerError {
    /// What was tried, or what is wrong. `None` if the cause says all there is to say.
    words: Option<String>,
    hint: Option<String>,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl TriggerError {
    /// Makes the error for something that is wrong.
    pub fn new(words: impl Into<String>) -> Self {
        Self {
            words: Some(words.into()),
            hint: None,
            cause: None,
        }
    }

    /// Makes the error for an attempt that failed for this cause. A hint of the cause becomes the
    /// hint of the error.
    fn attempt(words: String, cause: impl Error + Send + Sync + 'static) -> Self {
        let mut cause: Box<dyn Error + Send + Sync> = Box::new(cause);
        let hint = cause
            .downcast_mut::<Self>()
            .and_then(|cause| cause.hint.take());
        Self {
            words: Some(words),
            hint,
            cause: Some(cause),
        }
    }

    /// Makes an error that says no more than its cause.
    pub(super) fn of(cause: impl Error + Send + Sync + 'static) -> Self {
        Self {
            words: None,
            hint: None,
            cause: Some(Box::new(cause)),
        }
    }

    /// Returns the error with a hint, which replaces one that it had: the caller knows more of what
    /// was tried.
    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns what to do about the error, if that is known. Options are called there as the
    /// command line tool `pgic` calls them.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Tells whether another session holds something that is needed, so that trying again may help:
    /// a lock was not had in time, or two sessions waited for each other.
    pub fn is_busy(&self) -> bool {
        self.has::<SharedFunctionIsLocked>()
            || matches!(sqlstate::of(self), Some("55P03" | "57014" | "40P01"))
    }

    /// Tells whether the error says no more than its cause does.
    pub fn is_silent(&self) -> bool {
        self.words.is_none()
    }

    /// Tells whether an error of the type `E` is among the causes.
    fn has<E: Error + 'static>(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = match &self.cause {
            Some(cause) => Some(&**cause),
            None => None,
        };
        while let Some(found) = cause {
            if found.is::<E>() {
                return true;
            }
            // The source of a silent error is that of its cause, which may be an `E` itself.
            if found.downcast_ref::<Self>().is_some_and(Self::has::<E>) {
                return true;
            }
            cause = found.source();
        }
        false
    }
}

impl fmt::Display for TriggerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.words, &self.cause) {
            (Some(words), _) => f.write_str(words),
            (None, Some(cause)) => cause.fmt(f),
            (None, None) => Ok(()),
        }
    }
}

impl Error for TriggerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let cause = self.cause.as_deref()?;
        // The text of a silent error is that of the cause already.
        match self.words {
            Some(_) => Some(cause),
            None => cause.source(),
        }
    }
}

impl From<tokio_postgres::Error> for TriggerError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::of(error)
    }
}

impl From<CatalogError> for TriggerError {
    fn from(error: CatalogError) -> Self {
        let words = error.to_string();
        match error {
            CatalogError::Server(cause) | CatalogError::Find { error: cause, .. } => {
                Self::attempt(words, cause)
            }
            CatalogError::NoTable(_) => {
                Self::new(words).with_hint("check the name, the database and the search_path")
            }
            _ => Self::new(words),
        }
    }
}

/// Names the attempt that a failed result comes from.
pub(super) trait Attempt<T> {
    /// Names the attempt, if the result is an error.
    ///
    /// # Errors
    /// The error of the result, with the attempt in front.
    fn context(self, attempt: &str) -> Result<T, TriggerError>;

    /// Names the attempt in words that are made if the result is an error.
    ///
    /// # Errors
    /// The error of the result, with the attempt in front.
    fn with_context(self, attempt: impl FnOnce() -> String) -> Result<T, TriggerError>;
}

impl<T, E: Error + Send + Sync + 'static> Attempt<T> for Result<T, E> {
    fn context(self, attempt: &str) -> Result<T, TriggerError> {
        self.map_err(|error| TriggerError::attempt(attempt.to_string(), error))
    }

    fn with_context(self, attempt: impl FnOnce() -> String) -> Result<T, TriggerError> {
        self.map_err(|error| TriggerError::attempt(attempt(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_moves_out_to_the_attempt_and_is_replaced_by_a_later_one() {
        let failed: Result<(), TriggerError> =
            Err(TriggerError::new("it is locked").with_hint("wait"));
        let error = failed.context("install").unwrap_err();
        assert_eq!(error.to_string(), "install");
        assert_eq!(error.hint(), Some("wait"));
        assert_eq!(error.source().unwrap().to_string(), "it is locked");
        assert_eq!(error.with_hint("ask").hint(), Some("ask"));
    }

    #[test]
    fn a_silent_error_is_its_cause() {
        let cause = TriggerError::attempt("lock".to_string(), std::io::Error::other("held"));
        let error = TriggerError::of(cause);
        assert!(error.is_silent());
        assert_eq!(error.to_string(), "lock");
        assert_eq!(error.source().unwrap().to_string(), "held");
        assert!(error.has::<std::io::Error>());
        let silent = TriggerError::of(std::io::Error::other("held"));
        assert!(silent.has::<std::io::Error>());
        assert!(TriggerError::attempt("lock".to_string(), silent).has::<std::io::Error>());
        assert!(!error.has::<fmt::Error>());
    }
}
