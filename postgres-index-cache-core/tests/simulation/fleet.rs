//! [`Fleet`]: several nodes of one server, of which one does not get every change.
//!
//! Each node is a [`World`] with an engine, connections and caches of its own. The server is lent
//! to the node whose turn it is.

use crate::world::{Statistics, World};
use fastrand::Rng;

pub struct Fleet {
    random: Rng,
    /// The nodes. The first one has the server between turns. From the last one some changes are
    /// withheld.
    nodes: Vec<World>,
}

impl Fleet {
    pub fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let count = random.usize(2..5);
        let mut nodes: Vec<World> = (0..count)
            .map(|node| World::node(seed.wrapping_mul(31) + node as u64, node))
            .collect();
        nodes[count - 1].withhold();
        Self { random, nodes }
    }

    /// Lends the server to a node, for one action of that node.
    fn lend<T>(&mut self, node: usize, action: impl FnOnce(&mut World) -> T) -> T {
        self.swap_servers(node);
        let done = action(&mut self.nodes[node]);
        self.swap_servers(node);
        done
    }

    fn swap_servers(&mut self, node: usize) {
        let (first, others) = self.nodes.split_at_mut(1);
        if node > 0 {
            std::mem::swap(&mut first[0].server, &mut others[node - 1].server);
        }
    }

    /// Runs load and faults, then lets every node come to rest.
    pub fn run(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            self.lend(node, World::begin)?;
        }
        for _ in 0..self.random.usize(1000..4000) {
            let node = self.random.usize(0..self.nodes.len());
            if self.nodes[node].has_given_up() {
                return Ok(());
            }
            self.lend(node, World::step)?;
        }
        for node in 0..self.nodes.len() {
            self.lend(node, World::calm)?;
        }
        for _ in 0..20_000 {
            let node = self.random.usize(0..self.nodes.len());
            self.lend(node, World::step)?;
            let is_at_rest = |node: &World| node.is_at_rest() || node.has_given_up();
            if self.nodes.iter().all(is_at_rest) {
                return (0..self.nodes.len())
                    .try_for_each(|node| self.lend(node, |world| world.check_equal()));
            }
        }
        Err("the nodes never come to rest".to_string())
    }

    pub fn statistics(&self) -> impl Iterator<Item = &Statistics> {
        self.nodes.iter().map(|node| &node.statistics)
    }
}
