//! `pgic status --from`: what a node of a log has.

use crate::commands::Context;
use crate::exit_code::ExitCode;
use crate::nats::LogAddress;
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::{Format, count, print};
use jiff::Timestamp;

/// Follows the log until its rows are live, and prints where the log is and what it has.
///
/// # Errors
/// If the rows are not proven.
pub(super) async fn run(context: &Context, url: &str) -> anyhow::Result<ExitCode> {
    let address = LogAddress::new(url, None, &context.environment)?;
    let started = std::time::Instant::now();
    let follow = Box::pin(address.live("status")).await?;
    let took = started.elapsed();
    let position = follow.position().map(|position| position.to_string());
    let tables = follow.tables().map(|table| {
        let description = &table.description;
        let rows = table.cache.read().len();
        (description.schema.clone(), description.table.clone(), rows)
    });
    let tables: Vec<(String, String, usize)> = tables.collect();
    let text = match context.format {
        Format::Json => {
            let tables: Vec<serde_json::Value> = tables
                .iter()
                .map(|(schema, table, rows)| {
                    serde_json::json!({"schema": schema, "table": table, "rows": rows})
                })
                .collect();
            EventLine::new("log", Timestamp::now())
                .member("log", address.name.to_string())
                .optional_text("position", position.as_deref())
                .member("live_ms", took.as_millis() as u64)
                .member("tables", tables)
                .end()
        }
        Format::Text => {
            let mut text = format!(
                "log {address} at {}, live after {:.0} ms\n",
                position.unwrap_or_default(),
                took.as_secs_f64() * 1000.0
            );
            for (schema, table, rows) in &tables {
                text += &format!(
                    "{}.{}  {}\n",
                    escape(schema),
                    escape(table),
                    count(*rows as u64, "row")
                );
            }
            text
        }
    };
    print(&text)?;
    Ok(ExitCode::Yes)
}
