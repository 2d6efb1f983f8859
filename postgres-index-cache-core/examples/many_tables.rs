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

use postgres_index_cache_core::{CacheModel, Replica, ReplicaTable};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use uuid::Uuid;

/// A row of the table `customers`.
#[derive(Debug, Deserialize, CacheModel)]
#[cache(table = "customers")]
struct Customer {
    #[cache(key)]
    id: Uuid,
    name: String,
}

/// A row of the table `orders`, whose key is of two columns. Columns that no field has are not read.
#[derive(Debug, Deserialize, CacheModel)]
#[cache(table = "orders")]
struct Order {
    #[cache(key)]
    shop: String,
    #[cache(key)]
    number: i64,
    /// NULL for an order without an account: such a row is not found by the index.
    #[cache(index)]
    customer_id: Option<Uuid>,
    cents: i64,
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
    let own = orders.by_customer_id(id);
    let cents: i64 = own.clone().map(|order| order.cents).sum();
    println!(
        "{}: {} orders, {cents} cents; orders are {}",
        customer.name,
        own.len(),
        orders.status()
    );
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "host=localhost user=postgres".to_string());
    let mut builder = Replica::builder(config.parse::<tokio_postgres::Config>()?);
    let customers = builder.model::<Customer>();
    let orders = builder.model::<Order>();
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
