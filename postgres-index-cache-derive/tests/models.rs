//! Models of every kind, and their look-ups.

use postgres_index_cache_core::uuid::Uuid;
use postgres_index_cache_core::{CacheModel, FieldKind, IdxModelCache, ModelColumn, TableModel};
use serde::Deserialize;
use std::ops::Bound;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
#[cache(table = "app.users")]
#[cache(index(country, age), ordered)]
#[serde(rename_all = "camelCase")]
struct User {
    #[cache(key)]
    id: Uuid,
    #[cache(index, unique)]
    login: String,
    #[cache(index)]
    team: Option<i64>,
    #[cache(index, ordered, index(country, nick))]
    nick: Option<Arc<str>>,
    #[cache(index, ordered)]
    age: i32,
    #[cache(rename = "land")]
    #[serde(rename = "land")]
    country: String,
    #[cache(index)]
    role: Role,
    #[serde(default)]
    long_note: String,
    #[serde(skip)]
    #[cache(skip)]
    cached: usize,
    price: Option<f64>,
    r#type: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
enum Role {
    Admin,
    Guest,
}

fn user(number: u128) -> User {
    User {
        id: Uuid::from_u128(number),
        login: format!("user {number}"),
        team: (number > 2).then_some((number % 2) as i64),
        nick: (number > 1).then(|| format!("n{number}").into()),
        age: 20 + number as i32,
        country: if number < 4 { "de" } else { "fr" }.to_string(),
        role: if number == 1 {
            Role::Admin
        } else {
            Role::Guest
        },
        long_note: String::new(),
        cached: 0,
        price: None,
        r#type: true,
    }
}

/// Returns the numbers that [`user`] made these rows of.
fn numbers<'a>(rows: impl Iterator<Item = &'a User>) -> Vec<u128> {
    rows.map(|row| row.id.as_u128()).collect()
}

#[test]
fn rows_are_found_by_every_index() {
    let users = IdxModelCache::new((1..=6).map(user).collect()).unwrap();
    assert_eq!(numbers(users.by_login("user 3").into_iter()), [3]);
    assert!(users.by_login("nobody").is_none());
    assert_eq!(numbers(users.by_team(1)), [3, 5]);
    // A null is not indexed, and neither is a row in whose fields one is null.
    assert_eq!(numbers(users.by_team(0)), [4, 6]);
    assert_eq!(numbers(users.by_country_nick("de", "n2")), [2]);
    assert_eq!(users.by_country_nick("de", "n1").len(), 0);
    assert_eq!(numbers(users.by_role(&Role::Admin)), [1]);
    assert_eq!(numbers(users.by_age(23)), [3]);
    assert_eq!(numbers(users.by_age_range(23..=24)), [3, 4]);
    assert_eq!(numbers(users.by_age_range(..22)), [1]);
    assert_eq!(users.by_age_range(..).next_back().unwrap().age, 26);
    assert_eq!(numbers(users.by_nick("n5")), [5]);
    assert_eq!(numbers(users.by_nick_prefix("n")), [2, 3, 4, 5, 6]);
    let found = users.by_nick_range((Bound::Excluded("n2"), Bound::Excluded("n5")));
    assert_eq!(numbers(found), [3, 4]);
    assert_eq!(numbers(users.by_nick_range("n5"..)), [5, 6]);
    assert_eq!(numbers(users.by_country_age("de", 22)), [2]);
    let of_france = ("fr".to_string(), i32::MIN)..=("fr".to_string(), i32::MAX);
    assert_eq!(
        numbers(users.by_country_age_range(of_france).rev()),
        [6, 5, 4]
    );
    users.validate().unwrap();
}

#[test]
fn a_model_tells_its_table_and_its_columns() {
    assert_eq!(User::TABLE, "app.users");
    assert_eq!(User::KEY_COLUMNS, Some(&["id"][..]));
    let columns = User::COLUMNS.unwrap();
    let names: Vec<&str> = columns.iter().map(|column| column.column).collect();
    assert_eq!(
        names,
        [
            "id", "login", "team", "nick", "age", "land", "role", "longNote", "price", "type"
        ]
    );
    let column = |name: &str| columns.iter().find(|column| column.field == name).unwrap();
    assert_eq!(
        *column("nick"),
        ModelColumn {
            field: "nick",
            column: "nick",
            field_type: "Option<Arc<str>>",
            holds: FieldKind::Text,
            is_optional: false,
        }
    );
    assert_eq!(column("price").holds, FieldKind::Float);
    assert_eq!(column("role").holds, FieldKind::Any);
    assert!(column("long_note").is_optional);
}

/// A key of two columns whose order is the table's, not that of the fields.
#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
#[cache(key(b, a))]
pub struct Pair {
    a: i32,
    b: String,
    #[cache(index)]
    pub row: i64,
}

#[test]
fn a_key_has_the_order_that_is_listed() {
    let pair = Pair {
        a: 1,
        b: "x".to_string(),
        row: 7,
    };
    assert_eq!(pair.key(), ("x".to_string(), 1));
    assert_eq!(Pair::KEY_COLUMNS, Some(&["b", "a"][..]));
    let pairs = IdxModelCache::new(vec![pair.clone()]).unwrap();
    assert_eq!(pairs.get_by_primary(&pair.key()), Some(&pair));
    assert_eq!(pairs.by_row(7).next(), Some(&pair));
}

/// Which columns a flattened struct reads is not known.
#[derive(Debug, Deserialize, CacheModel)]
struct Opaque {
    #[cache(key)]
    id: i32,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[test]
fn a_struct_whose_columns_are_not_known_has_none() {
    assert_eq!(Opaque::COLUMNS, None);
    let opaque: Opaque = serde_json::from_str(r#"{"id":1,"x":2}"#).unwrap();
    assert_eq!((opaque.key(), opaque.rest.len()), (1, 1));
}
