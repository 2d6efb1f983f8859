use postgres_index_cache_core::CacheModel;

#[derive(serde::Deserialize, CacheModel)]
enum Kind {
    One,
}

#[derive(serde::Deserialize, CacheModel)]
struct Tuple(i32);

#[derive(serde::Deserialize, CacheModel)]
struct Generic<T> {
    #[cache(key)]
    id: T,
}

fn main() {}
