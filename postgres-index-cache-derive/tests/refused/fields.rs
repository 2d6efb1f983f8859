use postgres_index_cache_core::CacheModel;

#[derive(serde::Deserialize, CacheModel)]
struct NullKey {
    #[cache(key)]
    id: Option<i32>,
}

#[derive(serde::Deserialize, CacheModel)]
struct FloatIndex {
    #[cache(key)]
    id: i32,
    #[cache(index)]
    price: f64,
}

#[derive(serde::Deserialize, CacheModel)]
struct SkippedByUsAlone {
    #[cache(key)]
    id: i32,
    #[cache(skip)]
    cached: usize,
}

#[derive(serde::Deserialize, CacheModel)]
struct SkippedIndex {
    #[cache(key)]
    id: i32,
    #[cache(index)]
    #[serde(skip)]
    cached: usize,
}

#[derive(serde::Deserialize, CacheModel)]
struct RenamedByUsAlone {
    #[cache(key)]
    id: i32,
    #[cache(rename = "user_name")]
    name: String,
}

fn main() {}
