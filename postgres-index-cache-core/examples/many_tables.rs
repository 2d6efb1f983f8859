//! Several tables in one replica: three connections for all of them, a status for each, and a join
//! in memory.
//!
//! ```text
//! cargo run -p postgres-index-cache-core --example many_tables -- \
//!     "host=localhost user=postgres dbname=mydb"
//! ```
//!
//! The tables `customers` and `orders` need triggers: `pgic install-triggers customers orders`.
//! Each line of stdin is the id of a customer, whose orders are printed; the end of stdin is the
//! end.

use postgres_index_cache_core::{HasPrimaryKey, Indexable, Replica, ReplicaTable};
use serde::Deserialize;
use std::collections::HashMap;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use uuid::Uuid;

/// A row of the table `customers`.
#[derive(Debug, Deserialize)]
struct Customer {
    id: Uuid,
    name: String,
}

impl HasPrimaryKey for Customer {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for Customer {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::new()
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

/// A row of the table `orders`. Columns that the model does not name are ignored.
#[derive(Debug, Deserialize)]
struct Order {
    id: Uuid,
    /// NULL for an order without an account: such a row is in no list of the index.
    customer_id: Option<Uuid>,
    cents: i64,
}

impl HasPrimaryKey for Order {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for Order {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::new()
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::from([("customer_id".to_string(), self.customer_id)])
    }
}

/// Prints a customer with the sum of the orders.
fn print_orders(
    replica: &Replica,
    customers: &ReplicaTable<Customer>,
    orders: &ReplicaTable<Order>,
    id: Uuid,
) {
    // Two locks, always taken in this order. A transaction that changed both tables may be seen in
    // one and not yet in the other: whoever needs both waits for a fence first.
    let customers = replica.read(customers);
    let orders = replica.read(orders);
    let Some(customer) = customers.get_by_primary(&id) else {
        return println!("no customer {id}; customers are {}", customers.status());
    };
    let cents: Vec<i64> = orders
        .get_by_uuid_index("customer_id", &id)
        .into_iter()
        .flatten()
        .filter_map(|order| orders.get_by_primary(order))
        .map(|order| order.cents)
        .collect();
    println!(
        "{}: {} orders, {} cents; orders are {}",
        customer.name,
        cents.len(),
        cents.iter().sum::<i64>(),
        orders.status()
    );
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "host=localhost user=postgres".to_string());
    let mut builder = Replica::builder(config.parse::<tokio_postgres::Config>()?);
    let customers = builder.table::<Customer>("customers");
    let orders = builder.table::<Order>("orders");
    let replica = builder.open().await?;
    println!(
        "{} customers, {} orders",
        replica.read(&customers).len(),
        replica.read(&orders).len()
    );
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        // One table may be stale while the other is live: wait for the one that must be current.
        replica.fence_for(&orders).await?;
        print_orders(&replica, &customers, &orders, line.trim().parse()?);
    }
    replica.shutdown().await;
    Ok(())
}
