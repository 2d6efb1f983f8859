//! [`DriverTable`]: a table that is followed, with the store of its cache.

use crate::Column;
use crate::postgres::apply::sink::ComparisonReport;
use crate::postgres::apply::writer::CacheWriter;
use crate::postgres::connection::session::{quote_identifier, quote_literal};
use crate::postgres::error::{DriverError, ReadError};
use crate::postgres::read::copy::CopyDecoder;
use crate::postgres::schema::eligibility::{Distrust, TableConfig};
use crate::postgres::schema::fingerprint::Fingerprint;
use crate::sync::{Change, TableSpec};
use crate::table_cache::{KeyBuf, RowError};
use crate::value::{CellType, write_json_string};
use bytes::Bytes;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::time::Instant;

/// The code of the error with which a row that is too long fails: nothing else that is read asks
/// for a substring.
pub(in crate::postgres) const TOO_LONG: &str = "22011";

pub(in crate::postgres) struct DriverTable {
    pub(in crate::postgres) follow: TableConfig,
    pub(in crate::postgres) store: Box<dyn CacheWriter>,
    /// What it was when it was read last, or else described.
    pub(in crate::postgres) fingerprint: Option<Fingerprint>,
    /// Whether it is neither read nor changed until it is described afresh.
    pub(in crate::postgres) is_held: bool,
    decoder: CopyDecoder,
    /// How many bytes of COPY have come.
    pub(in crate::postgres) copied: usize,
    /// The keys and the rows of a refetch.
    refetch: Option<(Vec<String>, Vec<Bytes>)>,
    /// Whether the rows that come are to be compared.
    is_comparing: bool,
    /// While somebody holds the lock of the cache: when it is tried again.
    pub(in crate::postgres) busy_until: Option<Instant>,
}

impl DriverTable {
    pub(in crate::postgres) fn new(follow: TableConfig, store: Box<dyn CacheWriter>) -> Self {
        Self {
            fingerprint: follow.fingerprint.clone(),
            is_held: false,
            follow,
            store,
            decoder: CopyDecoder::default(),
            copied: 0,
            refetch: None,
            is_comparing: false,
            busy_until: None,
        }
    }

    /// The snapshot of what Q was asked for has been taken: its rows come next.
    pub(in crate::postgres) fn start_load(&mut self) {
        self.decoder = CopyDecoder::default();
        self.copied = 0;
        if self.refetch.is_none() {
            self.store.begin(self.follow.expected_rows);
        }
    }

    /// Those of these keys that a row can have. Any role can send others; PostgreSQL would refuse
    /// to read them.
    pub(in crate::postgres) fn possible(&self, mut keys: Vec<String>) -> Vec<String> {
        let mut key = KeyBuf::default();
        keys.retain(|id| key.read_json(&self.follow.shape, id).is_ok());
        keys
    }

    /// Rows of these keys are asked for, or with `None` all of them.
    pub(in crate::postgres) fn start_work(&mut self, keys: Option<Vec<String>>) {
        self.refetch = keys.map(|keys| (keys, Vec::new()));
        self.is_comparing = false;
    }

    /// The rows that come next are those of the table, to be compared.
    pub(in crate::postgres) fn start_comparing(&mut self) {
        self.decoder = CopyDecoder::default();
        self.is_comparing = true;
        self.store.start_comparing();
    }

    /// What was found.
    pub(in crate::postgres) fn take_comparison(&mut self) -> Option<ComparisonReport> {
        if std::mem::take(&mut self.is_comparing) {
            self.store.take_comparison()
        } else {
            None
        }
    }

    /// Takes rows of a snapshot.
    pub(in crate::postgres) fn load(&mut self, pieces: Vec<Bytes>) -> Result<(), ReadError> {
        self.copied += pieces.iter().map(Bytes::len).sum::<usize>();
        if let Some((_, kept)) = &mut self.refetch {
            kept.extend(pieces);
            return Ok(());
        }
        let Self { decoder, store, .. } = self;
        if self.is_comparing {
            return pieces
                .iter()
                .try_for_each(|piece| decoder.push(piece, |tuple| store.compare(tuple)));
        }
        pieces
            .iter()
            .try_for_each(|piece| decoder.push(piece, |tuple| store.merge(tuple)))
    }

    /// All rows have come: what was there and is not among them is removed.
    pub(in crate::postgres) fn finish_load(&mut self) -> Result<(), ReadError> {
        if self.refetch.is_some() {
            return Ok(());
        }
        self.decoder.finish()?;
        if !self.is_comparing {
            self.store.end();
        }
        Ok(())
    }

    /// Puts the rows of a refetch in; a key that was asked for and did not come is absent.
    pub(in crate::postgres) fn store_refetched(&mut self) -> Result<(), String> {
        let Some((keys, pieces)) = self.refetch.take() else {
            return Ok(());
        };
        let mut tuples = Vec::new();
        let mut decoder = CopyDecoder::default();
        for piece in pieces {
            let pushed = decoder.push::<ReadError>(&piece, |tuple| {
                tuples.push(tuple.to_vec());
                Ok(())
            });
            pushed.map_err(|error| error.to_string())?;
        }
        decoder.finish().map_err(|error| error.to_string())?;
        self.store.replace(&keys, &tuples)
    }

    /// Applies a change to the cache; the error says why the table must be read again.
    pub(in crate::postgres) fn apply(&mut self, change: &Change) -> Result<(), String> {
        self.store.change(change)
    }

    /// How far a query of the table is distrusted, by how its rows are read.
    pub(in crate::postgres) fn distrust(&self) -> Distrust {
        match self.follow.distrust {
            Distrust::OfQueries if !self.store.reads_columns() => Distrust::OfTable,
            distrust => distrust,
        }
    }

    /// Reads every row, or those of some keys. A row of more than `longest` bytes is an error of
    /// the server.
    pub(in crate::postgres) fn copy_statement(
        &self,
        keys: Option<&[String]>,
        longest: usize,
    ) -> Result<String, DriverError> {
        if keys.is_none() && self.distrust() == Distrust::OfQueries {
            let columns: Vec<String> = self
                .follow
                .shape
                .columns()
                .iter()
                .map(|column| quote_identifier(&column.name))
                .collect();
            let TableSpec { schema, name, .. } = &self.follow.followed;
            let table = format!("{}.{}", quote_identifier(schema), quote_identifier(name));
            return Ok(format!(
                "COPY {table} ({}) TO STDOUT (FORMAT binary)",
                columns.join(", ")
            ));
        }
        let having = keys.map(|keys| self.having(keys)).transpose()?;
        let conditions: Vec<String> = having
            .into_iter()
            .chain(self.no_longer_than(longest))
            .collect();
        let only = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        Ok(format!(
            "COPY ({}) TO STDOUT (FORMAT binary)",
            self.store.query(&self.follow.relation(), &only)
        ))
    }

    /// The condition that a row has at most so many bytes; one that has more fails with
    /// [`TOO_LONG`].
    ///
    /// The client can only see that a row is too long when it is there: what reads from the socket
    /// collects a row whole. So the server looks, where a value of the largest size that it takes,
    /// 1 GB, would not do. The length of a text is known without reading it; of other types the
    /// stored size is, which counts where it is small.
    fn no_longer_than(&self, longest: usize) -> Option<String> {
        const LARGEST: usize = 1 << 30;
        let size = |column: &Column| {
            let name = quote_identifier(&column.name);
            match column.kind {
                CellType::Text | CellType::Bpchar | CellType::Bytea => Some(format!(
                    "coalesce(pg_catalog.octet_length({name}), 0)::pg_catalog.int8"
                )),
                kind if kind.width().is_some() => None,
                _ => Some(format!(
                    "CASE WHEN pg_catalog.pg_column_size({name}) > 2000 THEN \
                    pg_catalog.octet_length(pg_catalog.concat({name}))
                        ELSE coalesce(pg_catalog.pg_column_size({name}), 0) END::pg_catalog.int8"
                )),
            }
        };
        let sizes: Vec<String> = self
            .follow
            .shape
            .columns()
            .iter()
            .filter_map(size)
            .collect();
        (longest < LARGEST && !sizes.is_empty()).then(|| {
            let sum = sizes.join(" + ");
            format!(
                "CASE WHEN {sum} > {longest} THEN pg_catalog.substr('', 1, \
                (-({sum}))::pg_catalog.int4) = '' ELSE true END"
            )
        })
    }

    /// The condition that a row has one of these keys. The server makes values of their JSON.
    fn having(&self, keys: &[String]) -> Result<String, DriverError> {
        let shape = &self.follow.shape;
        let key = std::iter::zip(
            shape.key().iter().map(|&at| &shape.columns()[at]),
            &self.follow.key_types,
        );
        let columns: Vec<String> = key
            .map(|(column, ty)| {
                let name = quote_identifier(&column.name);
                let json = || {
                    format!(
                        "pg_catalog.to_json({})::pg_catalog.text",
                        column.kind.json_argument(&name)
                    )
                };
                if ty.is_some() { name.clone() } else { json() }
            })
            .collect();
        let unfit = |error: serde_json::Error| DriverError::Snapshot {
            table: self.follow.name(),
            source: ReadError::RowError(RowError::Malformed(format!("a key is no JSON: {error}"))),
        };
        let mut records = Vec::new();
        for key in keys {
            let parts: Vec<&RawValue> = if columns.len() == 1 {
                vec![serde_json::from_str(key).map_err(unfit)?]
            } else {
                serde_json::from_str(key).map_err(unfit)?
            };
            let members = std::iter::zip(&parts, &self.follow.key_types)
                .enumerate()
                .map(|(at, (part, ty))| {
                    let value = if ty.is_some() {
                        Cow::Borrowed(part.get())
                    } else {
                        Cow::Owned(json_string(part.get()))
                    };
                    format!("\"k{at}\":{value}")
                });
            let members: Vec<String> = members.collect();
            records.push(format!("{{{}}}", members.join(",")));
        }
        let names: Vec<String> = (0..columns.len()).map(|at| format!("k.k{at}")).collect();
        let types: Vec<String> = self
            .follow
            .key_types
            .iter()
            .enumerate()
            .map(|(at, ty)| format!("k{at} {}", read_as(ty.as_ref())))
            .collect();
        Ok(format!(
            "({}) IN (SELECT {} FROM pg_catalog.json_to_recordset({}::pg_catalog.json) k ({}))",
            columns.join(", "),
            names.join(", "),
            quote_literal(&format!("[{}]", records.join(","))),
            types.join(", ")
        ))
    }
}

/// The type that a part of a key is read as: where none is told, its JSON is compared.
fn read_as(ty: Option<&String>) -> &str {
    ty.map_or("pg_catalog.text", String::as_str)
}

fn json_string(text: &str) -> String {
    let mut json = String::new();
    write_json_string(text, &mut json);
    json
}

impl fmt::Debug for DriverTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriverTable")
            .field("follow", &self.follow)
            .finish_non_exhaustive()
    }
}
