//! The speed of pgic and its library beside peers and limits.
//!
//! `cargo run --release --manifest-path benches/speed/Cargo.toml` measures everything and prints
//! one table; names of parts behind it (`build`, `lookups`, `changes`, `query`, `burst`, `waits`,
//! `tail`, `schemas`, `relay`) measure those alone. It is run by hand: the figures of two machines cannot be
//! compared, their ratios can.

mod build;
mod burst;
mod changes;
mod data;
mod delays;
mod lookups;
mod query;
mod relay;
mod report;
mod schemas;
mod server;
mod servers;
mod tail;

use report::Report;
use server::Server;

fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == part);
    let mut report = Report::default();
    if is_wanted("build") {
        build::run(&mut report, 5);
    }
    if is_wanted("lookups") {
        lookups::run(&mut report, 5);
    }
    if is_wanted("changes") {
        changes::run(&mut report, 3);
    }
    if ["query", "burst", "waits", "tail", "schemas", "relay"]
        .into_iter()
        .any(is_wanted)
    {
        let server = Server::start()?;
        let runtime = tokio::runtime::Runtime::new()?;
        if is_wanted("query") {
            query::prepare(&server)?;
            query::run(&mut report, &server, &runtime, 7)?;
        }
        if is_wanted("burst") {
            burst::prepare(&server)?;
            runtime.block_on(burst::run(&mut report, &server, 5))?;
            runtime.block_on(delays::run(&mut report, &server))?;
            runtime.block_on(servers::run(&mut report, &server, 5))?;
        }
        if is_wanted("waits") {
            burst::prepare(&server)?;
            runtime.block_on(delays::run_waits(&mut report, &server))?;
        }
        if is_wanted("tail") {
            tail::run(&mut report, &server, 5)?;
        }
        if is_wanted("schemas") {
            schemas::run(&mut report, &server, 3)?;
        }
        if is_wanted("relay") {
            relay::prepare(&server)?;
            runtime.block_on(relay::run(&mut report, &server, 3))?;
        }
    }
    report.print();
    Ok(())
}
