//! The exporter: `/metrics`, `/healthz`, `/readyz` and `/status` over HTTP. Each answer is made of
//! the tasks' results, and asks the server nothing.
//!
//! Clients are bounded in number and time: those that are slow or many must not take the files that
//! the connections to PostgreSQL need.

use super::Shared;
use crate::metrics::TextFormat;
use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// The most connections at once.
const CONNECTIONS: usize = 32;
/// How long a connection may last.
const CONNECTION_TIME: Duration = Duration::from_secs(10);

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
    axum::serve(Bounded::new(listener), router)
        .with_graceful_shutdown(stop)
        .await
        .context("serve HTTP")
}

/// A listener whose connections are bounded in number and time.
struct Bounded {
    listener: TcpListener,
    free: Arc<Semaphore>,
}

impl Bounded {
    fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            free: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }
}

impl Listener for Bounded {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok();
        // Retries if the system has no file for a connection.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let stream = BoundedStream {
            stream,
            ends: Box::pin(tokio::time::sleep(CONNECTION_TIME)),
            _permit: permit,
        };
        (stream, address)
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that ends after a while. A client that wants more connects again.
struct BoundedStream {
    stream: TcpStream,
    ends: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl BoundedStream {
    /// Returns an error once the time is over.
    fn check(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        match self.ends.as_mut().poll(cx) {
            Poll::Ready(()) => Err(std::io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
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
