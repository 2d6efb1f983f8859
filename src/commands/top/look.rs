//! [`Looked`]: queue, listeners and nodes, asked for now and then.

use crate::connect::Server;
use crate::failure::Report;
use crate::fleet::Fleet;
use crate::fleet::node::Roster;
use crate::server_seen::ServerSeen;
use crate::tables::catalog;
use parking_lot::Mutex;
use std::time::Duration;

/// The time from one look to the next, and after one that failed.
const PAUSE: Duration = Duration::from_secs(2);
/// How long nodes may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A node, as the screen shows it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeLine {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) is_live: bool,
    pub(super) rows: u64,
    pub(super) lag: Option<Duration>,
}

/// The answers of the last look.
#[derive(Debug, Clone, Default)]
pub(super) struct Looked {
    pub(super) queue: Option<f64>,
    pub(super) listeners: Option<usize>,
    pub(super) nodes: Vec<NodeLine>,
    pub(super) silent: usize,
    /// Why the last look failed.
    pub(super) failed: Option<String>,
}

/// Looks again and again, and never ends.
pub(super) async fn run(server: &Server, looked: &Mutex<Looked>) {
    loop {
        let Err(error) = look(server, looked).await;
        looked.lock().failed = Some(Report::new(&error).one_line());
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look(
    server: &Server,
    looked: &Mutex<Looked>,
) -> Result<std::convert::Infallible, anyhow::Error> {
    let mut client = server.client().await?;
    let mut fleet = Fleet::connect(server).await?;
    loop {
        let catalog = catalog::reading(&mut client).await?;
        let seen = ServerSeen::read(&catalog, None).await?;
        catalog.roll_back().await?;
        let roster = Roster::call(&mut fleet, PATIENCE).await?;
        let nodes = roster.nodes.iter().map(|node| NodeLine {
            name: node.label(),
            state: node.state.clone(),
            is_live: node.is_live(),
            rows: node.rows(),
            lag: node.lag,
        });
        *looked.lock() = Looked {
            queue: Some(seen.queue),
            listeners: Some(seen.listeners.len()),
            nodes: nodes.collect(),
            silent: roster.silent.len(),
            failed: None,
        };
        tokio::time::sleep(PAUSE).await;
    }
}
