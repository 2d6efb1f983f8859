//! The triggers of a thousand tables, beside psql that runs the same SQL.

use crate::report::{Report, Target, ms};
use crate::server::Server;
use std::process::{Command, Stdio};

const TABLES: usize = 1000;

/// Measures install, status and removal.
pub fn run(report: &mut Report, server: &Server, rounds: usize) -> anyhow::Result<()> {
    server.sql(&format!(
        "CREATE SCHEMA many;
         DO $$ BEGIN FOR i IN 1..{TABLES} LOOP EXECUTE format('CREATE TABLE many.t%s (id bigint PRIMARY KEY,
             a text, b int, c uuid, d timestamptz, e jsonb)', i); END LOOP; END $$"
    ))?;
    let all = ["--schema", "many", "--all"];
    let folder = tempfile::tempdir()?;
    let file = |command: &str| -> anyhow::Result<std::path::PathBuf> {
        let path = folder.path().join(command);
        Command::new(&server.pgic)
            .args(
                [
                    &[command],
                    &all[..],
                    &["--print-sql", "-d", &server.conninfo],
                ]
                .concat(),
            )
            .stdout(std::fs::File::create(&path)?)
            .stderr(Stdio::null())
            .status()?;
        Ok(path)
    };
    let psql = |path: &std::path::Path| {
        let mut command = Command::new("psql");
        command
            .args(["-qX", "-d", &server.conninfo, "-f"])
            .arg(path);
        server.timed(&mut command)
    };
    let [mut installs, mut dry, mut status, mut removals] = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        let install = file("install-triggers")?;
        let planned = server.pgic(&[&["install-triggers"], &all[..], &["--dry-run"]].concat())?;
        let ours = server.pgic(&[&["install-triggers"], &all[..]].concat())?;
        let seen = server.pgic(&["status"])?;
        let remove = file("remove-triggers")?;
        let removed = server.pgic(&[&["remove-triggers"], &all[..]].concat())?;
        let theirs = ms(psql(&install)?.took);
        let theirs_removed = ms(psql(&remove)?.took);
        dry.push((ms(planned.took), theirs));
        installs.push((ms(ours.took), theirs));
        status.push((ms(seen.took), theirs));
        removals.push((ms(removed.took), theirs_removed));
    }
    let target = Target::AtMost(2.0);
    report.pairs(
        "install-triggers on 1,000 tables",
        "ms",
        "psql, the same SQL",
        &installs,
        target,
    );
    report.pairs(
        "install-triggers --dry-run, 1,000 tables",
        "ms",
        "psql, install",
        &dry,
        target,
    );
    report.pairs(
        "status of 1,000 tables",
        "ms",
        "psql, install",
        &status,
        target,
    );
    report.pairs(
        "remove-triggers, 1,000 tables",
        "ms",
        "psql, the same SQL",
        &removals,
        target,
    );
    Ok(())
}
