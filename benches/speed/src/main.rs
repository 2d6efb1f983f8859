//! The speed of pgic and its library beside peers and limits.
//!
//! `cargo run --release --manifest-path benches/speed/Cargo.toml` measures everything and prints one
//! table; names of parts behind it (`build`, `lookups`, `changes`, …) measure those alone. It is run
//! by hand: the figures of two machines cannot be compared, their ratios can.

mod build;
mod changes;
mod data;
mod lookups;
mod report;

use report::Report;

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
    report.print();
    Ok(())
}
