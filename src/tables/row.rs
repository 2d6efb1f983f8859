//! [`RowNow`]: one row of a table as it is now, found by a key as people write it.

use crate::connect::Server;
use crate::tables::bounds::Bounds;
use crate::tables::catalog;
use crate::tables::conditions;
use crate::tables::key;
use crate::tables::options;
use crate::tables::target::Target;
use crate::triggers::observe::observe;
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::tooling::fleet::{
    Digest, LONGEST_PAYLOAD, RowDigester, key_digest, salted,
};
use postgres_index_cache_core::tooling::postgres::catalog::foreign_code;
use postgres_index_cache_core::tooling::postgres::{
    Distrust, SnapshotReader, Traced, key_condition,
};
use postgres_index_cache_core::tooling::{KeyBuf, TableShape};
use serde_json::Value;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

/// A row as it is now.
#[derive(Debug, Clone)]
pub struct RowNow {
    /// The digest of the key.
    key: Digest,
    /// The digest of the columns' names.
    pub columns: Digest,
    /// The digest of the row; `None` if there is no such row.
    pub digest: Option<Digest>,
    /// The row as JSON of the columns that are sent; `None` if there is no such row.
    pub json: Option<String>,
}

impl RowNow {
    /// Returns the digest under a salt; `None` if there is no such row.
    pub fn salted(&self, salt: Digest) -> Option<Digest> {
        self.digest.map(|row| salted(salt, self.key, row))
    }

    /// Returns the payload that announces the row, by the transaction `xid`: as the trigger would
    /// send the row, and with the wish that caches read it again.
    pub fn payload(&self, target: &Target, key: &str, xid: &str) -> String {
        let sends_data = observe(&target.table)
            .and_then(|seen| seen.options().map(|options| !options.no_data))
            .unwrap_or(true);
        let mut payload = serde_json::Map::new();
        let action = if self.digest.is_some() {
            "update"
        } else {
            "delete"
        };
        payload.insert("table".to_string(), target.table.name.clone().into());
        payload.insert("action".to_string(), action.into());
        payload.insert("schema".to_string(), target.table.schema.clone().into());
        payload.insert("rel".to_string(), target.table.oid.into());
        payload.insert("xid".to_string(), xid.into());
        payload.insert("reread".to_string(), true.into());
        let head = Value::Object(payload).to_string();
        // Every digit of key and row is kept: they are put in as text.
        let head = head.trim_end_matches('}');
        let short = format!("{head},\"id\":{key}}}");
        let Some(json) = self.json.as_ref().filter(|_| sends_data) else {
            return short;
        };
        let whole = format!("{head},\"id\":{key},\"data\":{json}}}");
        if whole.len() <= LONGEST_PAYLOAD {
            whole
        } else {
            format!("{head},\"id\":{key},\"truncated\":true}}")
        }
    }
}

/// Opens a session for [`read_row`].
///
/// # Errors
/// If the session cannot be opened.
pub async fn reader(server: &Server) -> anyhow::Result<SnapshotReader> {
    // A row that is read alone needs no memory to speak of, and nothing is listened to.
    let options = options(Vec::new(), Bounds::of_memory(0));
    let reader = SnapshotReader::open(server.clone(), options).await;
    reader.context("open a session for reading")
}

/// Returns the key that somebody has written, as JSON in the form that the trigger sends.
///
/// # Errors
/// If the key has more or fewer columns than the table's, or a value is not one of its type.
pub async fn key_of(server: &Server, target: &Target, text: &str) -> anyhow::Result<String> {
    let shape = &target.shape;
    let names: Vec<String> = shape
        .key()
        .iter()
        .map(|column| shape.columns()[*column].name.clone())
        .collect();
    let written = key::conditions(&names, text)
        .with_context(|| format!("find the row of {} with the key {text}", target.name()))?;
    let mut client = server.client().await?;
    let mut catalog = catalog::reading(&mut client).await?;
    let evaluated = conditions::evaluate(&mut catalog, &target.table, &written).await?;
    let key = key_json(shape, |column| {
        evaluated.operand(&shape.columns()[column].name)
    });
    key.ok_or_else(|| anyhow!("a key has no NULL"))
}

/// Returns a key as JSON in the form that the trigger sends, from the cells of its columns. `cell`
/// returns the one of the column with this position in `shape`. `None` if there is one without.
pub fn key_json<'a>(
    shape: &TableShape,
    cell: impl Fn(usize) -> Option<&'a [u8]>,
) -> Option<String> {
    let mut parts = Vec::new();
    for column in shape.key() {
        let mut json = String::new();
        let kind = shape.columns()[*column].kind;
        kind.write_json(cell(*column)?, &mut json);
        parts.push(json);
    }
    Some(match &parts[..] {
        [one] => one.clone(),
        parts => format!("[{}]", parts.join(",")),
    })
}

/// Reads a row by its key, which is JSON.
///
/// # Errors
/// If the table cannot be read.
pub async fn read_row(
    reader: &mut SnapshotReader,
    target: &Target,
    key: &str,
) -> anyhow::Result<RowNow> {
    let shape = &target.shape;
    let mut cells = KeyBuf::default();
    cells
        .read_json(shape, key)
        .with_context(|| format!("read the key {key}"))?;
    let mut digester = RowDigester::new(shape);
    let mut row = RowNow {
        key: key_digest(&cells),
        columns: digester.columns(),
        digest: None,
        json: None,
    };
    let all: Vec<usize> = (0..shape.columns().len()).collect();
    let reading = reader.read_keys(&target.follow, &[key.to_string()]).await;
    let reading = reading.with_context(|| format!("read the row {key} of {}", target.name()))?;
    reading
        .rows(|found| {
            row.digest = Some(digester.row(|at| found.cell(at)));
            let mut json = String::new();
            found.write_json(shape, &all, &mut json);
            row.json = Some(json);
        })
        .await
        .with_context(|| format!("read the row {key} of {}", target.name()))?;
    Ok(row)
}

/// One version of a row: where it is stored, and by which transaction it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowVersion {
    /// The transaction, as PostgreSQL stores it.
    pub xmin: String,
    /// The oid of the table or partition, and the place in it.
    place: String,
}

/// Reads which version of a row is there; `None` if there is no row. The inner error says why the
/// row may not be looked at.
///
/// # Errors
/// If the server refuses.
pub async fn read_version(
    client: &Traced<Client>,
    target: &Target,
    key: &str,
) -> anyhow::Result<Result<Option<RowVersion>, String>> {
    let config = &target.follow;
    let condition = key_condition(config, &[key.to_string()])?;
    let relation = config.relation();
    let sql = format!(
        "SELECT x.xmin::pg_catalog.text, pg_catalog.concat(x.tableoid, ' ', x.ctid)
        FROM {relation} AS x WHERE {condition}"
    );
    let doing = || format!("look at the row {key} of {}", target.name());
    if config.distrust == Distrust::None {
        let row = client.query_typed_opt(&sql, &[]).await;
        return Ok(Ok(row.with_context(doing)?.as_ref().map(version_of)));
    }
    // Planning a query computes expressions of the table's indexes, which are code of its owner.
    // The lock keeps new indexes out between the look and the query.
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE;
         SET LOCAL lock_timeout = '500ms';
         LOCK TABLE {relation} IN SHARE UPDATE EXCLUSIVE MODE"
    );
    let looked = async {
        if let Err(error) = client.batch_execute(&begin).await {
            return match error.code() {
                Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    Ok(Err("another session holds a lock on the table".to_string()))
                }
                _ => Err(error).context("lock the table"),
            };
        }
        let code = foreign_code(client, target.table.oid).await;
        if let Some(function) = code.context("look at the table's code")? {
            return Ok(Err(format!(
                "the query would run {}, a function of {}",
                function.name, function.owner
            )));
        }
        let row = client.query_typed_opt(&sql, &[]).await;
        Ok(Ok(row.with_context(doing)?.as_ref().map(version_of)))
    };
    let looked = looked.await;
    client
        .batch_execute("ROLLBACK")
        .await
        .context("end the look")?;
    looked
}

fn version_of(row: &Row) -> RowVersion {
    RowVersion {
        xmin: row.get(0),
        place: row.get(1),
    }
}
