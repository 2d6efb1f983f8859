//! The places of `sql/bulk_trigger.sql`, the function that statement triggers call: the rows of a
//! statement are sent packed.
//!
//! The rows come from the transition tables of the statement, which have no `ctid` and no `xmax`.

use super::payload::{
    QuickJson, is_null, json_string, key_columns, key_expression, key_row, quick_key, row,
};
use super::{fill_places, is_of_leaf};
use crate::postgres::catalog::{CatalogColumn, CatalogKey, CatalogTable, RelationKind};
use crate::postgres::quote_literal;
use crate::postgres::triggers::{NEW_ROWS, OLD_ROWS, ROW_NAME, TriggerOptions};
use crate::value::CellType;

/// The longest payload that `pg_notify` takes, in bytes.
const LONGEST_PAYLOAD: usize = 7_999;

/// More rows than fit into one payload: a row takes eight bytes at least.
const MOST_IN_A_PAYLOAD: u32 = 1_000;

/// The text of a payload before its rows.
const HEAD: &str = r#"{"rows":["#;

/// The statements that pack the rows of a query, each with a comma before it.
///
/// Most rows take the short way: they fit behind those that are packed. The first row of a payload
/// does not, since `packed` is NULL before it. A row that does not fit in a payload of its own is
/// sent without its data. The number of rows is looked at once a payload is full, so a statement of
/// few rows does not pay for it.
const PACK: &str = include_str!("../../../../sql/pack_rows.sql");

/// The text that closes the block in which a failure is caught; see
/// [`UNGUARD`](super::UNGUARD).
const UNGUARD: &str = "  EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN
    BEGIN
      payloads := ARRAY[pg_catalog.concat({{reload}}, ',\"xid\":\"', \
      pg_catalog.pg_current_xact_id(),
        '\",\"why\":\"the trigger failed with SQLSTATE ', SQLSTATE, '\"}')];
    EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN
      payloads := ARRAY[{{last_resort}}];
    END;
  END;
";

/// A table, and what its triggers are to send.
struct Bulk<'a> {
    table: &'a CatalogTable,
    key: &'a CatalogKey,
    options: &'a TriggerOptions,
    /// The most rows of a statement that are sent.
    most: u32,
}

/// Returns the values for those places of the template that the template of row triggers has not,
/// or in which it has another text. At most `most` rows of a statement are sent.
pub(super) fn places(
    table: &CatalogTable,
    key: &CatalogKey,
    options: &TriggerOptions,
    sent: &[&CatalogColumn],
    most: u32,
) -> Vec<(&'static str, String)> {
    let bulk = Bulk {
        table,
        key,
        options,
        most,
    };
    let stored = row(sent, options, ROW_NAME);
    vec![
        ("{{unless_detached}}", unless_detached(table)),
        (
            "{{pack_inserted}}",
            bulk.pack("insert", NEW_ROWS, &bulk.rows(NEW_ROWS, &stored)),
        ),
        ("{{pack_removed}}", bulk.pack_removed()),
        (
            "{{pack_updated}}",
            bulk.pack("update", NEW_ROWS, &bulk.rows(NEW_ROWS, &stored)),
        ),
        (
            "{{pack_deleted}}",
            bulk.pack("delete", OLD_ROWS, &bulk.rows(OLD_ROWS, "''")),
        ),
    ]
}

/// Returns the statements that end the trigger of a leaf which was detached, and ask for a reload
/// if a leaf was truncated; nothing for a table without partitions.
fn unless_detached(table: &CatalogTable) -> String {
    if table.kind != RelationKind::Partitioned {
        return String::new();
    }
    format!(
        "    IF {} THEN
      IF pg_catalog.pg_partition_root(TG_RELID) OPERATOR(pg_catalog.=) TG_RELID OR \
      pg_catalog.pg_partition_root(TG_RELID) IS NULL THEN
        RETURN NULL;
      ELSIF TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
        why := 'a partition was truncated';
      END IF;
    END IF;
",
        is_of_leaf(table)
    )
}

/// Returns [`UNGUARD`] with its places filled; `last_resort` is a payload as an SQL literal.
pub(super) fn unguard(reload: &str, last_resort: &str) -> String {
    fill_places(
        UNGUARD,
        &[
            ("{{reload}}", reload.to_string()),
            ("{{last_resort}}", last_resort.to_string()),
        ],
    )
}

impl Bulk<'_> {
    /// Returns the SQL expression of the key's JSON in a row of a transition table.
    fn key(&self) -> String {
        let quick =
            quick_key(ROW_NAME, self.table, self.key, self.options).map(QuickJson::into_text);
        quick.unwrap_or_else(|| key_expression(ROW_NAME, self.table, self.key, self.options))
    }

    /// Returns [`PACK`] for the rows that `query` makes of the transition table `rows`.
    fn pack(&self, action: &str, rows: &str, query: &str) -> String {
        let tail = format!(
            r#"],"table":{},"action":"{action}","schema":{},"rel":"#,
            json_string(&self.table.name),
            json_string(&self.table.schema)
        );
        fill_places(
            PACK,
            &[
                ("{{tail}}", quote_literal(&tail)),
                ("{{room}}", (LONGEST_PAYLOAD - HEAD.len()).to_string()),
                ("{{query}}", query.to_string()),
                ("{{rows}}", rows.to_string()),
                ("{{most}}", self.most.to_string()),
                ("{{head}}", quote_literal(HEAD)),
            ],
        )
    }

    /// Returns the query of the rows of a transition table that fulfil the condition. `more` are
    /// the arguments of `concat` behind the key.
    fn rows(&self, rows: &str, more: &str) -> String {
        format!(
            "SELECT CASE WHEN {} THEN NULL ELSE
          pg_catalog.concat(',{{\"id\":', {}, {more}, '}}') END
        FROM {rows} AS {ROW_NAME}{}",
            is_null(ROW_NAME, self.key),
            self.key(),
            self.condition()
        )
    }

    /// Returns the WHERE clause of the condition; nothing without one.
    fn condition(&self) -> String {
        let condition = self.options.condition.as_ref();
        condition.map_or_else(String::new, |condition| {
            format!("\n        WHERE ({}) IS TRUE", condition.of_row)
        })
    }

    /// Returns the statements that pack the keys which an UPDATE has taken away: keys that it
    /// changed, and those of rows that ceased to fulfil the condition.
    ///
    /// EXCEPT, and not a join: the plan of the first statement of a session is kept, and a nested
    /// loop that suits one row would take hours for a million.
    fn pack_removed(&self) -> String {
        let keys = |rows: &str| {
            format!(
                "SELECT CASE WHEN {} THEN NULL ELSE pg_catalog.concat({}) END
            COLLATE pg_catalog.\"C\" AS key
          FROM {rows} AS {ROW_NAME}{}",
                is_null(ROW_NAME, self.key),
                self.key(),
                self.condition()
            )
        };
        let query = format!(
            "SELECT CASE WHEN removed.key IS NULL THEN NULL ELSE
          pg_catalog.concat(',{{\"id\":', removed.key, '}}') END
        FROM ({}
          EXCEPT {}) AS removed",
            keys(OLD_ROWS),
            keys(NEW_ROWS)
        );
        let pack = self.pack("delete", OLD_ROWS, &query);
        let Some(value) = self.plain_key() else {
            return pack;
        };
        // Most updates change no key: then both tables have the same keys in the same order, which
        // is cheaper to see by the values than by their JSON. Of more rows than are sent, a reload
        // is asked for below: the limit bounds the memory, and is more than a payload holds.
        let most = self.most.max(MOST_IN_A_PAYLOAD).saturating_add(1);
        let values = |rows: &str| {
            format!(
                "(SELECT pg_catalog.array_agg(own.key) FROM (SELECT {value} AS key FROM {rows} AS \
                {ROW_NAME}{} LIMIT {most}) AS own)",
                self.condition()
            )
        };
        format!(
            "      IF NOT coalesce({}
        OPERATOR(pg_catalog.=) {}, false) THEN\n{pack}      END IF;\n",
            values(OLD_ROWS),
            values(NEW_ROWS)
        )
    }

    /// Returns the key as one value if values of its types are equal exactly if their JSON is;
    /// `None` otherwise. 1.0 and 1.00 are equal, and so may be texts by their collation.
    fn plain_key(&self) -> Option<String> {
        let is_plain = |name: &String| {
            self.table
                .column(name)
                .is_some_and(|column| match column.kind {
                    CellType::Bool
                    | CellType::Int2
                    | CellType::Int4
                    | CellType::Int8
                    | CellType::Uuid
                    | CellType::Date
                    | CellType::Timestamp
                    | CellType::Timestamptz => true,
                    CellType::Text => !column.is_nondeterministic,
                    _ => false,
                })
        };
        let columns: Vec<String> = key_columns(ROW_NAME, self.key).collect();
        let value = match columns.as_slice() {
            [only] => only.clone(),
            _ => key_row(ROW_NAME, self.key),
        };
        self.key.columns.iter().all(is_plain).then_some(value)
    }
}
