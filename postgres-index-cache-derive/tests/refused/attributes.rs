use postgres_index_cache_core::CacheModel;

#[derive(serde::Deserialize, CacheModel)]
struct Unknown {
    #[cache(key, indexed)]
    id: i32,
}

#[derive(serde::Deserialize, CacheModel)]
#[cache(index(name))]
struct NoField {
    #[cache(key)]
    id: i32,
}

#[derive(serde::Deserialize, CacheModel)]
struct NoFieldBesideThis {
    #[cache(key)]
    id: i32,
    #[cache(index(id, nick))]
    name: String,
}

#[derive(serde::Deserialize, CacheModel)]
#[cache(index)]
struct WithoutFields {
    #[cache(key)]
    id: i32,
}

#[derive(serde::Deserialize, CacheModel)]
struct Ordered {
    #[cache(key, ordered)]
    id: i32,
}

#[derive(serde::Deserialize, CacheModel)]
#[cache(key(id))]
struct TwoKeys {
    #[cache(key)]
    id: i32,
}

#[derive(serde::Deserialize, CacheModel)]
#[cache(index(id))]
struct TwoIndexes {
    #[cache(key, index)]
    id: i32,
}

#[derive(serde::Deserialize, CacheModel)]
struct TwoLookUps {
    #[cache(key, index, ordered)]
    id: i32,
    #[cache(index)]
    id_range: i32,
}

#[derive(serde::Deserialize, CacheModel)]
#[cache(key(id, id))]
struct KeyTwice {
    id: i32,
}

fn main() {}
