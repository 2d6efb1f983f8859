//! The sessions of a driver with the server: how each is opened, proven and set.
//!
//! - [`session`]: one session, and the [`Connector`](session::Connector) that opens it.
//! - [`sessions`]: L, F and Q together, which are opened, lost and opened again.
//! - [`claim`]: the proof that a session is ours alone, before anything is set in it.

pub(super) mod claim;
pub(super) mod session;
pub(super) mod sessions;
