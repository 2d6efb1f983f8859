//! The comparison of a node's rows with PostgreSQL.

use super::Follow;
use crate::log::TableName;
use crate::postgres::Verification;

/// Why a comparison proves nothing if another relay writes by now.
pub(crate) const OTHER_TERM: &str = "another relay has begun to write meanwhile";

impl Follow {
    /// Compares the rows of a table with PostgreSQL: has the relay compare its cache with the table,
    /// and then waits for a fence, whose digest proves that the rows here are the relay's. Waits
    /// without end while no relay proves anything.
    pub async fn verify(&mut self, table: &TableName) -> Verification {
        let shape = self
            .tables()
            .find(|logged| logged.description.name() == *table);
        let Some(shape) = shape.map(|logged| logged.cache.read().shape().clone()) else {
            return Verification::Inconclusive("the log has no such table".to_string());
        };
        let log = self.log.clone();
        let term = self.position().map(|position| position.epoch);
        let mut asking = std::pin::pin!(log.verify(table));
        let report = loop {
            tokio::select! {
                report = &mut asking => break report,
                () = self.step() => {}
            }
            if self.position().map(|position| position.epoch) != term {
                return Verification::Inconclusive(OTHER_TERM.to_string());
            }
        };
        if let Some(why) = report.inconclusive {
            return Verification::Inconclusive(why);
        }
        let fence = self.ask_for_fence();
        while !self.has_reached(fence) {
            self.step().await;
        }
        if !report.is_of_term(self.position()) {
            return Verification::Inconclusive(OTHER_TERM.to_string());
        }
        Verification::Compared(report.for_node(&shape, 0))
    }
}
