//! `pgic tail` of 200,000 notifications to /dev/null, until its end, after the commit.

use crate::report::{Report, Target, ms};
use crate::server::Server;
use anyhow::{Context as _, bail};
use std::io::BufRead as _;
use std::process::{Command, Stdio};
use std::time::Instant;

const NOTIFICATIONS: usize = 200_000;

/// Measures the forms of output.
pub fn run(report: &mut Report, server: &Server, rounds: usize) -> anyhow::Result<()> {
    for (what, arguments, target) in [
        (
            "tail -o json, 200,000 notifications",
            &["-o", "json"][..],
            160.0,
        ),
        ("tail, 200,000 notifications", &[], 229.0),
        ("tail --raw, 200,000 notifications", &["--raw"], 160.0),
    ] {
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(tail(server, arguments)?);
        }
        report.alone(what, "ms", &times, Target::AtMost(target));
    }
    Ok(())
}

fn tail(server: &Server, arguments: &[&str]) -> anyhow::Result<f64> {
    let mut tail = Command::new(&server.pgic)
        .args([
            "-v",
            "tail",
            "--count",
            &NOTIFICATIONS.to_string(),
            "-d",
            &server.conninfo,
        ])
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start tail")?;
    let mut lines = std::io::BufReader::new(tail.stderr.take().context("no stderr")?).lines();
    // The state in which notifications are known to arrive.
    while !lines.next().context("tail ended")??.contains("Live") {}
    let rest = std::thread::spawn(move || lines.map_while(Result::ok).last());
    server.sql(&format!(
        r#"SELECT count(pg_notify('cache_invalidation', '{{"table" : "users", "action" : "update", "id" : "'
        || gen_random_uuid() || '", "data" : {{"id":"550e8400-e29b-41d4-a716-446655440000","n":' || i
        || ',"m":7}}, "schema" : "public", "rel" : "16385", "xid" : "12345", "v" : "(0,3)", "at" : '
        || '"2026-11-20T12:34:56.789012+00:00"}}')) FROM generate_series(1, {NOTIFICATIONS}) i"#
    ))?;
    let committed = Instant::now();
    let status = tail.wait()?;
    let took = ms(committed.elapsed());
    let said = rest.join().ok().flatten();
    if !status.success() {
        bail!("tail ended with {status}: {said:?}");
    }
    Ok(took)
}
