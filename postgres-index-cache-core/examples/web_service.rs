//! A web service that answers from its cache, and is ready when the cache is live.
//!
//! ```text
//! cargo run -p postgres-index-cache-core --example web_service -- \
//!     "host=localhost user=postgres dbname=mydb"
//! curl localhost:PORT/ready
//! curl localhost:PORT/health
//! curl localhost:PORT/users/123
//! curl --header 'Read-After: 742.31337' localhost:PORT/users/123
//! ```
//!
//! The table `users` needs triggers: `pgic install-triggers users`. The service prints the address
//! on which it listens, and ends at the end of stdin.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use postgres_index_cache_core::{
    CacheModel, Health, Replica, ReplicaTable, TokenError, TransactionToken,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use uuid::Uuid;

/// How long a request waits for what its client has written.
const PATIENCE: Duration = Duration::from_secs(2);

/// A row of the table `users`. The fields have the names of the columns.
#[derive(Debug, Clone, Deserialize, Serialize, CacheModel)]
#[cache(table = "users")]
struct User {
    #[cache(key)]
    id: Uuid,
    #[cache(index)]
    username_hash: i64,
    email_hash: i64,
}

/// What every request handler has.
#[derive(Clone)]
struct Service {
    replica: Arc<Replica>,
    users: ReplicaTable<User>,
}

/// Whether a load balancer should send requests: 200 while the cache is live, else 503. The text
/// says why, for whoever looks.
async fn ready(State(service): State<Service>) -> (StatusCode, String) {
    let status = service.replica.status();
    let code = if status.is_live() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, status.to_string())
}

/// The status and the size of each table, the lag and the counts: for people and dashboards.
async fn health(State(service): State<Service>) -> Json<Health> {
    Json(service.replica.health())
}

/// The users with this `username_hash`. A service for which an old row is better than none answers
/// while the cache is stale too, and says so.
///
/// A client that has written sends the token of its transaction, and reads what it wrote.
async fn users(
    State(service): State<Service>,
    Path(username_hash): Path<i64>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, (StatusCode, String)> {
    if let Some(token) = headers.get("read-after") {
        read_after(&service, token).await?;
    }
    // The guard is dropped at the end of this function, which awaits nothing: held over an await,
    // it would keep changes from the cache for as long as somebody else likes.
    let rows = service.replica.read(&service.users);
    let found: Vec<&User> = rows.by_username_hash(username_hash).collect();
    Ok(Json(
        serde_json::json!({ "users": found, "live": rows.is_live() }),
    ))
}

/// Waits until the cache has what the transaction with this token wrote. The token comes from a
/// client, and may be of a transaction that never ends: the wait has a bound.
async fn read_after(service: &Service, token: &HeaderValue) -> Result<(), (StatusCode, String)> {
    let refused = |why: String| (StatusCode::BAD_REQUEST, why);
    let token = token.to_str().map_err(|error| refused(error.to_string()))?;
    let token: TransactionToken = token
        .parse()
        .map_err(|error: TokenError| refused(error.to_string()))?;
    let waiting = service.replica.wait_for_in(&service.users, token);
    let unavailable = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why);
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(reached) => reached.map_err(|error| unavailable(error.to_string())),
        Err(_) => Err(unavailable(format!("{token} has not been reached"))),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "host=localhost user=postgres".to_string());
    let mut builder = Replica::builder(config.parse::<tokio_postgres::Config>()?);
    let users_table = builder.model::<User>();
    let replica = Arc::new(builder.open().await?);
    let service = Service {
        replica: Arc::clone(&replica),
        users: users_table,
    };
    let router = Router::new()
        .route("/ready", get(ready))
        .route("/health", get(health))
        .route("/users/{username_hash}", get(users))
        .with_state(service);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, router)
        .with_graceful_shutdown(async {
            // The end of stdin, or an error of it, is the end of the service.
            let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        })
        .await?;
    // The last requests are answered: the connections to PostgreSQL can go.
    replica.shutdown().await;
    println!("shut down");
    Ok(())
}
