//! The sessions of a driver with the server: how each session is opened, proven and set up.
//!
//! - [`session`]: one session, and the [`Connector`](session::Connector) that opens it.
//! - `libpq`: sessions by libpq's rules, with TLS (feature `connect`).
//! - [`listener`]: the session that LISTENs.
//! - [`sessions`]: L, F and Q together: how they are opened, lost and opened again.
//! - [`traced`]: a client that traces the statements which it sends.
//! - [`claim`]: the proof that a session is ours alone, before anything is set in it.

pub(super) mod claim;
#[cfg(feature = "connect")]
mod libpq;
pub(super) mod listener;
pub(super) mod open;
pub(super) mod session;
pub(super) mod sessions;
pub(super) mod settings;
pub(super) mod traced;
