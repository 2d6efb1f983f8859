//! `pgic monitor`: watches a pipeline for long, and exports metrics of it.

use super::{Context, interrupted};
use crate::completion;
use crate::exit_code::ExitCode;
use crate::failure::HintExt as _;
use crate::monitor::{self, Plan, Shared, http};
use crate::nats::LogAddress;
use crate::render::json::EventLine;
use crate::render::{Format, print};
use crate::tables::bounds::BoundArgs;
use crate::units::{parse_duration, parse_interval};
use anyhow::Context as _;
use jiff::Timestamp;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Watch a pipeline for long, and export metrics of it
///
/// Follows the tables as an application does, and serves over HTTP: /metrics (OpenMetrics, or the
/// format that Prometheus has always read), /healthz (this process lives), /readyz (the pipeline is
/// live: 200, or 503 with the reasons) and /status (JSON).
///
/// Beside the caches it watches a notification to itself, the queue, the listeners, the nodes, what
/// pgic doctor finds, and with --verify-every compares the caches, its own and those of the nodes,
/// with the tables. A scrape is answered from memory. A server that is restarted is waited for, and
/// the metrics say so.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// The tables: users, app.users or '"Odd Name"'
    #[arg(value_name = "TABLE", required = true, add = completion::announced_tables())]
    pub tables: Vec<String>,
    /// Where to serve; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9187")]
    pub listen: SocketAddr,
    /// The time from one notification to itself to the next
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_interval)]
    pub canary_every: Duration,
    /// The time from one look at queue, listeners and nodes to the next
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_interval)]
    pub look_every: Duration,
    /// The time from one examination to the next, as of pgic doctor; 0 for none
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
    pub doctor_every: Duration,
    /// Compare each cache with its table once in this time; 0 for never
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub verify_every: Duration,
    /// Compare no more rows than this in a second, on average: large tables are compared less often
    #[arg(long, value_name = "N")]
    pub max_rows_per_second: Option<NonZeroU64>,
    /// Watch a log that pgic relay writes too, and the nodes that follow it: nats://host:4222/shop
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    #[command(flatten)]
    pub bounds: BoundArgs,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic monitor users orders
  pgic monitor users --verify-every 10m --max-rows-per-second 100000
  pgic monitor users --from nats://n1/shop      a relay's log and its nodes too
  pgic monitor users --listen 0.0.0.0:9187      for a Prometheus elsewhere
  curl -s localhost:9187/readyz || echo not live

Dashboard, alert rules, a unit for systemd and a manifest for Kubernetes are
in contrib/.

Exit codes:
  0  ended by a signal
  2  the tables cannot be followed, or the address not be listened on";

/// Watches until a signal comes.
///
/// # Errors
/// If the address cannot be listened on, or the tables cannot be followed at the start.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let stop = interrupted();
    let server = context.server("monitor")?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listen on {}", args.listen))
        .hint("choose another address or port with --listen")?;
    let address = listener.local_addr().context("ask for the address")?;
    let plan = Plan {
        tables: args.tables,
        bounds: args.bounds.bounds(),
        canary_every: args.canary_every,
        look_every: args.look_every,
        doctor_every: args.doctor_every,
        verify_every: args.verify_every,
        max_rows_per_second: args.max_rows_per_second,
        log: args
            .from
            .as_deref()
            .map(|url| LogAddress::new(url, None, &context.environment))
            .transpose()?,
    };
    let say = context.notices_fn();
    let shared = Shared::new(&plan, say);
    print(&match context.format {
        Format::Json => EventLine::new("serving", Timestamp::now())
            .member("url", format!("http://{address}"))
            .end(),
        Format::Text => format!("serving http://{address}/metrics\n"),
    })?;
    // The server of HTTP ends when this sender is gone.
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(http::serve(listener, Arc::clone(&shared), async {
        let _ = stopped.await;
    }));
    let ended = tokio::select! {
        ended = monitor::watch(&server, &context.settings, &plan, &shared) => ended,
        () = stop => Ok(()),
    };
    drop(stopping);
    // A client that keeps its connection open must not keep the process from ending.
    let _ = tokio::time::timeout(Duration::from_secs(2), serving).await;
    ended?;
    Ok(ExitCode::Yes)
}
