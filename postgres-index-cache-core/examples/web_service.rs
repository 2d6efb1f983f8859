//! A web service that answers from its cache, and is ready when the cache is live.
//!
//! ```text
//! cargo run -p postgres-index-cache-core --example web_service -- \
//!     "host=localhost user=postgres dbname=mydb"
//! curl localhost:PORT/ready
//! curl localhost:PORT/health
//! curl localhost:PORT/users/123
//! ```
//!
//! The table `users` needs triggers: `pgic install-triggers users`. The service prints the address
//! on which it listens, and ends at the end of stdin.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use postgres_index_cache_core::{CacheModel, Health, Replica, ReplicaTable};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use uuid::Uuid;

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
async fn users(
    State(service): State<Service>,
    Path(username_hash): Path<i64>,
) -> Json<serde_json::Value> {
    // The guard is dropped at the end of this function, which awaits nothing: held over an await,
    // it would keep changes from the cache for as long as somebody else likes.
    let rows = service.replica.read(&service.users);
    let found: Vec<&User> = rows.by_username_hash(username_hash).collect();
    Json(serde_json::json!({ "users": found, "live": rows.is_live() }))
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
