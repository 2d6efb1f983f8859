//! The exporter: `/metrics`, `/healthz`, `/readyz` and `/status` over HTTP. Each answer is made of
//! what is known already.

use super::Shared;
use crate::metrics::TextFormat;
use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Serves until `stop` is there, and ends the requests that have begun.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .with_state(shared);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
        .context("serve HTTP")
}

async fn metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let accepted = headers.get(header::ACCEPT);
    let accepted = accepted.and_then(|accepted| accepted.to_str().ok());
    let format = if accepted.is_some_and(|media| media.contains("application/openmetrics-text")) {
        TextFormat::OpenMetrics
    } else {
        TextFormat::Prometheus
    };
    let text = shared.metrics.text(format);
    ([(header::CONTENT_TYPE, format.media_type())], text).into_response()
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let problems = shared.status.lock().problems();
    if problems.is_empty() {
        return "ready\n".into_response();
    }
    let lines: String = problems.iter().map(|line| format!("{line}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    let text = shared.status.lock().json().to_string();
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, format!("{text}\n")).into_response()
}
