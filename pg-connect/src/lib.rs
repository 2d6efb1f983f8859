//! Connections to PostgreSQL by libpq's rules, TLS included, for [`tokio_postgres`].
//!
//! A connection string that works in psql works here, and leads to the same server, as the same
//! user, encrypted in the same way. The environment, service files, password files, certificates
//! and lists of hosts are read as libpq reads them. What differs is said below.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use pg_connect::{Environment, SessionOptions, Target};
//!
//! let target = Target::new("postgresql://alice@db.example/shop", Environment::of_process())?
//!     .application_name("orders");
//! let connected = target.connect(&SessionOptions::default()).await?;
//! tokio::spawn(connected.connection);
//! let row = connected.client.query_one("SELECT 1", &[]).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # How a session begins
//!
//! ```text
//! connection string ─┐
//! service file ──────┼─→ Parameters ─→ Settings ─→ Attempts ─→ session, or ConnectError
//! environment ───────┘                    ↑            │
//!                    password file, command, prompt    ├─ tls: is it the server?
//!                                                      └─ Guard: what does the server ask for?
//! ```
//!
//! # Security
//!
//! - No setting that asks for security is weakened. `sslmode=prefer`, the default, may fall back to
//!   plaintext, as in libpq; [`Connected::notices`] says so, with the reason.
//! - [`ConnectError`] and the `Debug` output of all types hold no password, and no part of a
//!   connection string that is not understood.
//! - A server gets a password only in a way that `require_auth` and `channel_binding` allow.
//!
//! # What differs from libpq
//!
//! - A variable that is set and empty is not set.
//! - `connect_timeout` is 10 s if it is not given, and bounds the whole beginning of a session.
//! - Keepalive notices a dead peer within 20 s if it is not given.
//! - Without a host, the socket is in `/tmp` if there is no folder `/var/run/postgresql`, and root or
//!   the own account made that socket.
//! - A URL with credentials has no other `@` before its `?`, unless that is written `%40`.
//! - Encrypted private keys, TLS before 1.2, keys on the curve P-521, GSSAPI, OAuth and services of
//!   LDAP are refused by name.
//! - `client_encoding`, `PGDATESTYLE`, `PGTZ` and `PGGEQO` have no effect.

mod attempts;
mod connection;
mod conninfo;
mod environment;
mod failure;
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod gulps;
mod keyword;
pub mod misplaced;
mod parameters;
mod password;
mod password_file;
mod require_auth;
mod service_file;
mod session_check;
mod settings;
mod stream;
mod target;
mod tls;

pub use connection::Connection;
pub use conninfo::ConninfoError;
pub use environment::Environment;
pub use failure::{Attempt, AttemptsError, ConnectError, Failure};
pub use guard::{MethodName, Refused};
pub use parameters::ParametersError;
pub use password::{Password, PasswordCommandError, PasswordOrigin};
pub use service_file::ServiceError;
pub use settings::SettingsError;
pub use target::{AskPassword, AskWhen, Connected, SessionOptions, Target};
pub use tls::{CertificateProblem, CertificateReason, TlsError};
