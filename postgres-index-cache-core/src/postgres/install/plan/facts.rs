//! [`FunctionFacts`]: what the catalogue says of the functions that plans are about, read for all
//! tables at once.

use crate::postgres::catalog::{Catalog, CatalogTable, Function, find_functions};
use crate::postgres::install::error::{Attempt as _, TriggerError};
use crate::postgres::install::sql;
use crate::postgres::triggers::is_ours;
use std::collections::{HashMap, HashSet};
use tokio_postgres::types::{ToSql, Type};

/// The functions that have the names which tables need, who calls functions of ours, and the role
/// that asks.
#[derive(Debug)]
pub struct FunctionFacts {
    role: String,
    /// By the oid of the table in whose schema they stand, and by their names.
    functions: HashMap<(u32, String), Function>,
    /// By the oid of the function, the relations whose triggers call it. A partition's clone of its
    /// root's trigger does not count.
    callers: HashMap<u32, Vec<u32>>,
}

impl FunctionFacts {
    /// Reads what plans for these tables need.
    ///
    /// # Errors
    /// If the server refuses a query.
    pub async fn read(
        catalog: &Catalog<'_>,
        tables: &[CatalogTable],
    ) -> Result<Self, TriggerError> {
        let wanted: Vec<(u32, String)> = tables
            .iter()
            .flat_map(|table| {
                let names = [
                    sql::function_name(&table.name),
                    sql::GENERIC_FUNCTION.to_string(),
                ];
                names.map(|name| (table.oid, name))
            })
            .collect();
        let found = find_functions(catalog, &wanted)
            .await
            .context("look for functions")?;
        let called = tables
            .iter()
            .flat_map(|table| &table.triggers)
            .map(|trigger| &trigger.function);
        let ours = called.chain(found.iter().map(|(_, function)| function));
        let mut oids: Vec<u32> = ours
            .filter(|function| is_ours(function))
            .map(|function| function.oid)
            .collect();
        oids.sort_unstable();
        oids.dedup();
        Ok(Self {
            role: role(catalog).await?,
            callers: callers(catalog, &oids).await?,
            functions: found
                .into_iter()
                .map(|(table, function)| ((table, function.name.clone()), function))
                .collect(),
        })
    }

    /// Returns the role that asks.
    pub(super) fn role(&self) -> &str {
        &self.role
    }

    /// Returns the function that stands in a table's schema under this name.
    pub(super) fn function(&self, table: &CatalogTable, name: &str) -> Option<&Function> {
        self.functions.get(&(table.oid, name.to_string()))
    }

    /// Tells whether a trigger calls the function that is neither of `table` or its leaves, nor of
    /// a table of `removed_from`.
    pub(super) fn is_called_elsewhere(
        &self,
        function: &Function,
        table: &CatalogTable,
        removed_from: &HashSet<u32>,
    ) -> bool {
        let callers = self.callers.get(&function.oid).into_iter().flatten();
        let is_own = |caller: &u32| {
            *caller == table.oid
                || removed_from.contains(caller)
                || table.leaves.iter().any(|leaf| leaf.oid == *caller)
        };
        callers.into_iter().any(|caller| !is_own(caller))
    }
}

async fn role(catalog: &Catalog<'_>) -> Result<String, TriggerError> {
    let role = catalog.query_typed_one("SELECT current_user::pg_catalog.text", &[]);
    Ok(role.await.context("ask for the role")?.get(0))
}

/// Returns the relations whose triggers call each of these functions.
async fn callers(
    catalog: &Catalog<'_>,
    functions: &[u32],
) -> Result<HashMap<u32, Vec<u32>>, TriggerError> {
    const CALLERS: &str = "SELECT tgfoid, pg_catalog.array_agg(tgrelid) FROM pg_catalog.pg_trigger
        WHERE tgfoid = ANY ($1::pg_catalog.oid[]) AND NOT tgisinternal AND tgparentid = 0
        GROUP BY tgfoid";
    let rows = catalog
        .query_typed(
            CALLERS,
            &[(&functions as &(dyn ToSql + Sync), Type::OID_ARRAY)],
        )
        .await
        .context("look for other users of the functions")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
