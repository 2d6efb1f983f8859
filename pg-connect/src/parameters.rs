//! [`Parameters`]: the values of a connection's keywords, from all places where they may stand.
//!
//! ```text
//! connection string > service file > environment > default
//! ```
//!
//! For each keyword, the first place that has a value counts.

use crate::conninfo::{self, ConninfoError, Parameter};
use crate::environment::Environment;
use crate::keyword::Keyword;
use crate::misplaced::{is_bare, is_url};
use crate::service_file::{self, ServiceError};
use std::collections::BTreeMap;

/// The place where the value of a keyword was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    ConnectionString,
    Service,
    Variable(&'static str),
}

/// A value, and where it was found.
#[derive(Clone)]
struct Value {
    text: String,
    place: Place,
}

/// The values that were found. A keyword without a value was given nowhere.
#[derive(Clone, Default)]
pub(crate) struct Parameters(BTreeMap<Keyword, Value>);

/// The reason why the values of a connection cannot be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParametersError {
    /// The connection string is not understood.
    #[error("read the connection string")]
    Conninfo(#[from] ConninfoError),
    /// The service is not known, or its file not understood.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A value looks like a connection string, which may hold a password.
    #[error("a connection string stands where {0} belongs, and is not repeated")]
    Misplaced(&'static str),
    /// The value of a variable is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
}

impl Parameters {
    /// Reads the connection string, the service file and the environment. An empty connection
    /// string is one that was not given.
    ///
    /// # Errors
    /// If one of them is not understood.
    pub(crate) fn read(conninfo: &str, environment: &Environment) -> Result<Self, ParametersError> {
        let mut parameters = Self::default();
        for parameter in conninfo::parse(conninfo)? {
            // The last one of two counts.
            parameters.0.insert(
                parameter.keyword,
                Value {
                    text: parameter.value,
                    place: Place::ConnectionString,
                },
            );
        }
        parameters.refuse_misplaced()?;
        let service = parameters
            .text(Keyword::Service)
            .or_else(|| environment.get("PGSERVICE").map(str::to_string))
            .filter(|service| !service.is_empty());
        if let Some(service) = service {
            if is_url(&service) || is_bare(&service) {
                return Err(ParametersError::Misplaced("PGSERVICE"));
            }
            for Parameter { keyword, value } in service_file::read(&service, environment)? {
                parameters.add(keyword, value, Place::Service);
            }
        }
        for keyword in Keyword::ALL.iter().copied() {
            let Some(variable) = keyword.variable() else {
                continue;
            };
            if environment.is_unreadable(variable) {
                return Err(ParametersError::NotUtf8(variable));
            }
            if let Some(value) = environment.get(variable) {
                parameters.add(keyword, value.to_string(), Place::Variable(variable));
            }
        }
        // The variable that sslmode had before PostgreSQL 8.0.
        let requires_tls = environment
            .get("PGREQUIRESSL")
            .is_some_and(|value| value.starts_with('1'));
        if requires_tls {
            let place = Place::Variable("PGREQUIRESSL");
            parameters.add(Keyword::SslMode, "require".to_string(), place);
        }
        parameters.refuse_misplaced()?;
        Ok(parameters)
    }

    /// Refuses connection strings that stand in place of another value, since names and paths are
    /// printed, and names are sent to servers.
    fn refuse_misplaced(&self) -> Result<(), ParametersError> {
        for (keyword, value) in &self.0 {
            // `user= password=x`: a value that is left out is the next word.
            let is_pair = ["password=", "sslpassword="]
                .iter()
                .any(|pair| value.text.starts_with(pair));
            let is_misplaced = match keyword {
                Keyword::Password | Keyword::SslPassword | Keyword::Options => false,
                _ if is_pair => true,
                Keyword::Dbname
                | Keyword::User
                | Keyword::Service
                | Keyword::ApplicationName
                | Keyword::FallbackApplicationName => is_url(&value.text) || is_bare(&value.text),
                // A path may have a colon and an @.
                _ => value.text.contains("://"),
            };
            if is_misplaced {
                return Err(ParametersError::Misplaced(self.name(*keyword)));
            }
        }
        Ok(())
    }

    /// Adds a value, unless there is one from a place that counts more.
    fn add(&mut self, keyword: Keyword, text: String, place: Place) {
        self.0.entry(keyword).or_insert(Value { text, place });
    }

    /// Returns the value of a keyword; `None` if it was given nowhere.
    pub(crate) fn get(&self, keyword: Keyword) -> Option<&str> {
        self.0.get(&keyword).map(|value| value.text.as_str())
    }

    /// Returns the value of a keyword; `None` if it was given nowhere, or is empty.
    pub(crate) fn given(&self, keyword: Keyword) -> Option<&str> {
        self.get(keyword).filter(|value| !value.is_empty())
    }

    /// Returns a copy of the value of a keyword.
    fn text(&self, keyword: Keyword) -> Option<String> {
        self.get(keyword).map(str::to_string)
    }

    /// Returns the place of a value.
    pub(crate) fn place(&self, keyword: Keyword) -> Option<Place> {
        self.0.get(&keyword).map(|value| value.place)
    }

    /// Returns how the keyword is called where its value was found: `sslmode`, or `PGSSLMODE`.
    pub(crate) fn name(&self, keyword: Keyword) -> &'static str {
        match self.place(keyword) {
            Some(Place::Variable(variable)) => variable,
            _ => keyword.name(),
        }
    }
}
