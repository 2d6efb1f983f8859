//! [`Link`]: where the connections of the [`Engine`](super::Engine) are, and the [`Fence`]s that they carry.

use super::{FenceId, Via};
use std::time::Instant;

/// Where the connections are.
#[derive(Debug)]
pub(super) enum Link {
    /// Lost, or never had. It connects again then, if at all.
    Disconnected {
        retry_at: Option<Instant>,
    },
    /// To be connected and to LISTEN.
    Subscribing,
    /// The tokens that have not come back.
    Probing {
        awaited: Vec<(Via, String)>,
        deadline: Instant,
    },
    Following,
}

/// A fence on its way.
#[derive(Debug)]
pub(super) struct Fence {
    pub(super) token: String,
    /// Who asked; `None` is the engine itself.
    pub(super) asked_by: Option<FenceId>,
    /// How many answers of Q had come when it was sent.
    pub(super) after_reads: u64,
    pub(super) sent: Instant,
    pub(super) deadline: Instant,
    /// Once it has arrived: how many changes each table had been told of.
    pub(super) arrived: Option<Vec<u64>>,
}
