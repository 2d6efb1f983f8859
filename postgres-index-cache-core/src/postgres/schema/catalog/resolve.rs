//! [`resolve`]: tables found by the names that people write, as PostgreSQL itself resolves them.

use super::{Catalog, CatalogError, CatalogTable, describe};

/// How often the tables are described, if they are renamed in between each time.
const ATTEMPTS: usize = 5;

/// Finds and describes tables by name: `users`, `app.users`, `"Odd Name"`. A table that is named
/// twice is returned once.
///
/// # Errors
/// Returns [`CatalogError::NoTable`] for a name that no table has, [`CatalogError::NoName`] for a
/// text that is no name, and otherwise as [`describe`].
pub async fn resolve(
    catalog: &Catalog<'_>,
    names: &[String],
) -> Result<Vec<CatalogTable>, CatalogError> {
    // A name is resolved in one statement and the table described in others. Unless all of them see
    // the catalogue as of one moment, without the second look at the names:
    // 1. `users` is found to be table 1.
    // 2. Table 1 is renamed, and table 2 gets the name `users`.
    // 3. Table 1 is described, so the caller takes the wrong table for `users`.
    let mut found = find(catalog, names).await?;
    for _ in 0..ATTEMPTS {
        let tables = match describe(catalog, &found).await {
            // The table was dropped a moment ago, and another may have the name by now.
            Err(CatalogError::Gone(_)) => {
                found = find(catalog, names).await?;
                continue;
            }
            tables => tables?,
        };
        if catalog.is_of_one_moment() {
            return Ok(tables);
        }
        let again = find(catalog, names).await?;
        if again == found {
            return Ok(tables);
        }
        found = again;
    }
    Err(CatalogError::Renamed)
}

/// Returns the oids of the tables that have these names now, each once.
async fn find(catalog: &Catalog<'_>, names: &[String]) -> Result<Vec<u32>, CatalogError> {
    let mut oids = Vec::new();
    for name in names {
        let found = catalog.find(name).await.map_err(|error| match error {
            CatalogError::Server(error) => CatalogError::Find {
                name: name.clone(),
                error,
            },
            other => other,
        })?;
        let oid = found.ok_or_else(|| CatalogError::NoTable(name.clone()))?;
        if !oids.contains(&oid) {
            oids.push(oid);
        }
    }
    Ok(oids)
}
