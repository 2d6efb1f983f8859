use postgres_index_cache_core::CacheModel;

#[derive(serde::Deserialize, CacheModel)]
struct User {
    id: i32,
}

fn main() {}
