//! [`Environment`]: the variables that libpq reads, and the account that this process runs as.

use nix::unistd::{User, geteuid};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;

/// The environment variables of a process, or those that a test gives.
#[derive(Clone, Default)]
pub struct Environment {
    variables: HashMap<String, String>,
    /// The names of the variables whose values are not UTF-8.
    unreadable: BTreeSet<String>,
}

/// The names of the variables alone: values may be passwords.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: BTreeSet<&String> = self.variables.keys().collect();
        f.debug_tuple("Environment").field(&names).finish()
    }
}

impl Environment {
    /// Returns the variables of this process.
    pub fn of_process() -> Self {
        let mut environment = Self::default();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            if let Ok(value) = value.into_string() {
                environment.variables.insert(name, value);
            } else {
                environment.unreadable.insert(name);
            }
        }
        environment
    }

    /// Returns an environment of these variables alone, for tests.
    pub fn of(variables: &[(&str, &str)]) -> Self {
        Self {
            variables: variables
                .iter()
                .map(|(name, value)| ((*name).to_string(), (*value).to_string()))
                .collect(),
            unreadable: BTreeSet::new(),
        }
    }

    /// Returns the value of a variable; `None` if the variable is not set, is empty, or is not
    /// UTF-8.
    ///
    /// libpq refuses some variables that are set and empty. Files of variables and CI systems write
    /// `PGSSLMODE=` for "not set", and mean that.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Returns whether a variable is set to a value that is not UTF-8.
    pub(crate) fn is_unreadable(&self, name: &str) -> bool {
        self.unreadable.contains(name)
    }

    /// Returns the home folder: `HOME`, else the folder of the account that this process runs as.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        if let Some(home) = self.get("HOME") {
            return Some(PathBuf::from(home));
        }
        Some(account()?.dir)
    }
}

/// Returns the name of the account that this process runs as. Like libpq, it is the effective user
/// of the process: `USER` and `LOGNAME` do not count.
pub(crate) fn account_name() -> Option<String> {
    Some(account()?.name)
}

/// Returns the account that this process runs as; `None` if the system does not know the account.
fn account() -> Option<User> {
    User::from_uid(geteuid()).ok().flatten()
}
