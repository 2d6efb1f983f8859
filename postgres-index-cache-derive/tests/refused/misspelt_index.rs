use postgres_index_cache_core::{CacheModel, IdxModelCache};

#[derive(serde::Deserialize, CacheModel)]
struct User {
    #[cache(key)]
    id: i32,
    #[cache(index)]
    name: String,
}

fn main() {
    let users = IdxModelCache::<User>::new(vec![]).unwrap();
    let _ = users.by_nane("ann");
}
