//! [`writers`]: which transactions wrote the rows that a table has now.

use crate::tables::catalog::Catalog;
use crate::tables::target::Target;
use postgres_index_cache_core::tooling::postgres::{Distrust, key_condition};
use std::collections::HashMap;

/// The most rows that are looked at: one query each.
const MOST: usize = 100;

/// Returns the transactions that wrote the rows with these keys, which are JSON, as PostgreSQL keeps
/// them: the low 32 bits of the transaction's id (`xmin`). A row that is not there, or that may not be
/// looked at, is left out.
///
/// A statement that fails ends the transaction of `catalog`: nothing more can be asked then.
pub async fn writers<'k>(
    catalog: &Catalog<'_>,
    target: &Target,
    keys: impl Iterator<Item = &'k str>,
) -> HashMap<String, u32> {
    let mut writers = HashMap::new();
    // To plan a query may run code of the table's owner, with our rights.
    if target.follow.distrust != Distrust::None {
        return writers;
    }
    // Somebody may hold the table, and a cause is not worth the wait.
    let bounded = "SELECT set_config('lock_timeout', '500ms', true),
        set_config('statement_timeout', '2s', true)";
    if catalog.query_typed(bounded, &[]).await.is_err() {
        return writers;
    }
    let relation = target.follow.relation();
    for key in keys.take(MOST) {
        let Ok(condition) = key_condition(&target.follow, &[key.to_string()]) else {
            continue;
        };
        let sql = format!("SELECT x.xmin::text FROM {relation} AS x WHERE {condition}");
        let Ok(rows) = catalog.query_typed(&sql, &[]).await else {
            break;
        };
        let writer = rows
            .first()
            .and_then(|row| row.get::<_, String>(0).parse().ok());
        writers.extend(writer.map(|xid| (key.to_string(), xid)));
    }
    writers
}
