//! `pgic query`, from its start to the answer, beside psql's COPY of the same table.

use crate::data::User;
use crate::report::{Report, Target, ms};
use crate::server::Server;
use postgres_index_cache_core::{Limits, Replica};
use std::process::Command;
use std::time::Instant;
use tokio::runtime::Runtime;

/// A key that no row has: the answer is printed once everything is loaded.
const NO_ROW: &str = "id=00000000-0000-4000-8000-000000000000";

/// Makes the tables.
pub fn prepare(server: &Server) -> anyhow::Result<()> {
    for (table, rows) in [
        ("t0", 0),
        ("t100k", 100_000),
        ("t1m", 1_000_000),
        ("t1m_b", 1_000_000),
        ("t5m", 5_000_000),
    ] {
        server.sql(&format!(
            "CREATE TABLE {table} (id uuid PRIMARY KEY, n bigint NOT NULL, m bigint NOT NULL);
             INSERT INTO {table} SELECT gen_random_uuid(), i, i * 7 FROM generate_series(1, {rows}) i"
        ))?;
    }
    server.sql(
        "CREATE TABLE wide (id uuid PRIMARY KEY, a1 int, a2 int, a3 bigint, a4 bigint, t1 text, t2 text,
             t3 text, t4 text, t5 text, b1 bool, b2 bool, at1 timestamptz, at2 timestamptz, d1 date,
             f1 float8, f2 float8, n1 numeric, u1 uuid, u2 uuid);
         INSERT INTO wide SELECT gen_random_uuid(), i, i % 1000, i * 7, i * 11, md5(i::text), 'name ' || i,
             'x', 'some longer text of the row', 'abc', true, false, now(), now() + i * interval '1 s',
             '2024-01-01'::date + i % 1000, random(), random(), i / 100.0, gen_random_uuid(),
             gen_random_uuid() FROM generate_series(1, 1000000) i",
    )?;
    server.sql("VACUUM ANALYZE")?;
    let tables = ["t0", "t100k", "t1m", "t1m_b", "t5m", "wide"];
    server.pgic(&[&["install-triggers"], &tables[..]].concat())?;
    Ok(())
}

/// Returns the milliseconds until a replica of models of these tables is open.
async fn open_replica(conninfo: &str, tables: &[&str], side_reads: usize) -> anyhow::Result<f64> {
    let config: tokio_postgres::Config = conninfo.parse()?;
    let began = Instant::now();
    let mut builder = Replica::builder(config);
    let mut limits = Limits::default();
    limits.side_reads = side_reads;
    builder.limits(limits);
    let opened: Vec<_> = tables
        .iter()
        .map(|table| builder.table::<User>(table))
        .collect();
    let replica = builder.open().await?;
    let took = ms(began.elapsed());
    for users in &opened {
        assert_eq!(replica.read(users).len(), 1_000_000);
    }
    replica.shutdown().await;
    Ok(took)
}

/// Measures the queries.
pub fn run(
    report: &mut Report,
    server: &Server,
    runtime: &Runtime,
    rounds: usize,
) -> anyhow::Result<()> {
    let cases = [
        ("query of 100,000 rows", "t100k", 1.6, rounds),
        ("query of 1,000,000 rows", "t1m", 1.0, rounds),
        ("query of 5,000,000 rows", "t5m", 0.9, rounds.div_ceil(2)),
        (
            "query of 1,000,000 rows, 20 columns",
            "wide",
            1.1,
            rounds.div_ceil(2),
        ),
    ];
    for (what, table, target, rounds) in cases {
        let mut pairs = Vec::new();
        for _ in 0..rounds {
            let ours = ms(server.pgic(&["query", table, NO_ROW])?.took);
            pairs.push((ours, ms(server.copy(table)?.took)));
        }
        report.pairs(what, "ms", "psql COPY", &pairs, Target::AtMost(target));
    }
    let mut pairs = Vec::new();
    let mut versions = Vec::new();
    for _ in 0..2 * rounds {
        let ours = ms(server.pgic(&["query", "t0", NO_ROW])?.took);
        let psql = server.timed(Command::new("psql").args([
            "-X",
            "-d",
            &server.conninfo,
            "-c",
            "SELECT 1",
        ]))?;
        pairs.push((ours, ms(psql.took)));
        versions.push(ms(server
            .timed(Command::new(&server.pgic).arg("--version"))?
            .took));
    }
    report.pairs(
        "query of an empty table",
        "ms",
        "psql -c 'SELECT 1'",
        &pairs,
        Target::AtMost(2.0),
    );
    report.alone("--version", "ms", &versions, Target::AtMost(3.0));
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let ours = runtime.block_on(open_replica(&server.conninfo, &["t1m"], 0))?;
        pairs.push((ours, ms(server.copy("t1m")?.took)));
    }
    let what = "a typed Replica of 1,000,000 rows, opened";
    report.pairs(what, "ms", "psql COPY", &pairs, Target::AtMost(2.5));
    let mut pairs = Vec::new();
    let two = ["t1m", "t1m_b"];
    for _ in 0..rounds {
        let ours = runtime.block_on(open_replica(&server.conninfo, &two, 1))?;
        let in_turn = runtime.block_on(open_replica(&server.conninfo, &two, 0))?;
        pairs.push((ours, in_turn));
    }
    let what = "a typed Replica of two such tables, side by side";
    report.pairs(what, "ms", "one after the other", &pairs, Target::None);
    let size = std::fs::metadata(&server.pgic)?.len() as f64 / 1e6;
    report.alone("the binary", "MB", &[size], Target::None);
    Ok(())
}
