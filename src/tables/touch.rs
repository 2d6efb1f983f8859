//! [`update_of`]: an UPDATE of one row that changes nothing, which fires the triggers of the table.

use crate::failure::with_hint;
use crate::tables::catalog::CatalogTable;
use crate::tables::target::Target;
use crate::triggers::observe::{Version, observe};
use anyhow::{Context as _, anyhow, bail};
use postgres_index_cache_core::tooling::postgres::{key_condition, quote_identifier};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

/// The bounds of the UPDATE, for its transaction: a row that somebody has locked is not waited for.
pub const TOUCH_BOUNDS: &str = "SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '5s'";

/// Returns the UPDATE of the row with this key, which is JSON, that changes nothing. The row's
/// triggers fire.
///
/// # Errors
/// If the UPDATE would run a function of another role, the table has no column that can be written,
/// or the server refuses.
pub async fn update_of(client: &Client, target: &Target, key: &str) -> anyhow::Result<String> {
    let writing = || format!("write {} {key} anew", target.name());
    let owner = foreign_owner(client, &target.table)
        .await
        .with_context(writing)?;
    if let Some(who) = owner {
        let error = anyhow!(
            "a trigger of {} runs a function of {who}, which would run as the role of this session",
            target.name()
        );
        return Err(with_hint(error, "do it as that role")).with_context(writing);
    }
    let column = assigned_column(client, &target.table)
        .await
        .with_context(writing)?;
    let Some(column) = column else {
        bail!("{} has no column to write", target.name());
    };
    let column = quote_identifier(&column);
    let condition = key_condition(&target.follow, &[key.to_string()])?;
    let name = target.table.sql_name();
    Ok(format!(
        "UPDATE {name} SET {column} = {column} WHERE {condition}"
    ))
}

/// Returns a role other than this one and superusers whose function a trigger of the table or of a
/// partition would run; `None` if there is none, or if it is a function as pgic makes it. Any
/// holder of the privilege TRIGGER may have put it there.
pub async fn foreign_owner(client: &Client, table: &CatalogTable) -> Result<Option<String>, Error> {
    const OWNERS: &str = "
        SELECT pg_catalog.pg_get_userbyid(p.proowner)::pg_catalog.text
        FROM pg_catalog.pg_trigger t
        JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
        JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) p.proowner
        WHERE t.tgrelid OPERATOR(pg_catalog.=) ANY ($1) AND NOT t.tgisinternal
            AND t.tgenabled OPERATOR(pg_catalog.<>) 'D' AND NOT r.rolsuper
            AND p.oid OPERATOR(pg_catalog.<>) ALL ($2)
            AND r.rolname OPERATOR(pg_catalog.<>) current_user
        LIMIT 1";
    // A function as pgic makes it, word for word, does nothing else, also if another role owns it.
    // But its owner may replace it before the UPDATE runs. A superuser must not run what comes
    // then, nor anybody the function of a role that the table's owner does not trust.
    let seen = observe(table).filter(|seen| {
        seen.version == Version::Current
            && !table.is_distrusted
            && seen.all().all(|trigger| trigger.function.is_trusted)
    });
    let triggers = seen.iter().flat_map(|seen| seen.all());
    let known: Vec<u32> = triggers.map(|trigger| trigger.function.oid).collect();
    let leaves = table.leaves.iter().map(|leaf| leaf.oid);
    let relations: Vec<u32> = [table.oid].into_iter().chain(leaves).collect();
    let row = client
        .query_typed(
            OWNERS,
            &[(&relations, Type::OID_ARRAY), (&known, Type::OID_ARRAY)],
        )
        .await?;
    Ok(row.first().map(|row| row.get(0)))
}

/// Returns a column that may be assigned its own value: not of the key, if there is another one.
pub async fn assigned_column(
    client: &Client,
    table: &CatalogTable,
) -> Result<Option<String>, Error> {
    const COLUMNS: &str = "
        SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
        WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attnum OPERATOR(pg_catalog.>) 0
            AND NOT a.attisdropped AND a.attgenerated OPERATOR(pg_catalog.=) ''
            AND a.attidentity OPERATOR(pg_catalog.<>) 'a'
        ORDER BY a.attname OPERATOR(pg_catalog.=) ANY ($2), a.attnum LIMIT 1";
    let key = table.key.iter().flat_map(|key| key.columns.clone());
    let key: Vec<String> = key.collect();
    let rows = client
        .query_typed(
            COLUMNS,
            &[(&table.oid, Type::OID), (&key, Type::NAME_ARRAY)],
        )
        .await?;
    Ok(rows.first().map(|row| row.get(0)))
}
