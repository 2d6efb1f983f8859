//! Any text as a payload: through the engine, and through the parser into a row with columns of
//! many types. Any role can send any text, so none may panic, end the engine, or break a cache.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postgres_index_cache_core::tooling::sync::{
    Engine, Input, Limits, Output, State, TableId, TableSpec,
};
use postgres_index_cache_core::tooling::{
    CellType, Column, JsonNulls, KeyBuf, Payload, RowBuf, TableCache, TableShape,
};
use std::sync::Arc;
use std::time::Instant;

/// Returns a table with columns of many types.
fn shape() -> Arc<TableShape> {
    let kinds = [
        ("id", CellType::Int4),
        ("a", CellType::Numeric),
        ("b", CellType::Timestamptz),
        ("c", CellType::Date),
        ("d", CellType::Bytea),
        ("e", CellType::Jsonb),
        ("f", CellType::Float4),
        ("g", CellType::Text),
        ("h", CellType::Other),
        ("i", CellType::Uuid),
    ];
    let columns = kinds.map(|(name, kind)| Column {
        name: name.to_string(),
        kind,
        nullable: true,
    });
    let columns = columns.to_vec();
    Arc::new(TableShape::new(columns, &["id".to_string()]).expect("a shape"))
}

/// Returns a live engine of one table, `public.kv`. Partitions, a deferrable key and the plain form
/// lead its changes through the most rules.
fn engine(now: Instant) -> Engine {
    let followed = TableSpec {
        schema: "public".into(),
        name: "kv".into(),
        oid: 7,
        leaves: vec![8],
        is_partitioned: true,
        deferrable_key: true,
        sends_plain_form: true,
        sends_whole_rows: true,
        shape: Some(shape()),
    };
    let mut engine = Engine::new(
        vec![followed],
        vec!["c".into()],
        "fences".into(),
        Limits::default(),
    );
    engine.handle(Input::Listening, now);
    while let Some(output) = engine.poll() {
        match output {
            Output::Notify { token, channel, .. } => {
                engine.handle(
                    Input::Notification {
                        channel: &channel,
                        payload: &token,
                        sender: 1,
                    },
                    now,
                );
            }
            Output::ReadTable { table, generation } => {
                let snapshot = "5:5:".parse().expect("a snapshot");
                engine.handle(
                    Input::SnapshotTaken {
                        table,
                        generation,
                        snapshot,
                    },
                    now,
                );
                engine.handle(
                    Input::SnapshotLoaded {
                        table,
                        generation,
                        has_changed: true,
                    },
                    now,
                );
            }
            _ => {}
        }
    }
    assert_eq!(engine.state(), State::Live);
    engine
}

/// Hands `text` to a live engine as a notification, and checks that the engine goes on.
fn notify(text: &str) {
    let now = Instant::now();
    let mut engine = engine(now);
    // The second notification comes while a reader holds the cache, and so takes the way through
    // the backlog.
    for _ in 0..2 {
        engine.handle(
            Input::Notification {
                channel: "c",
                payload: text,
                sender: 2,
            },
            now,
        );
        engine.handle(Input::CacheBusy { table: TableId(0) }, now);
    }
    engine.handle(Input::CacheFree { table: TableId(0) }, now);
    while engine.poll().is_some() {}
    assert!(!engine.has_ended());
}

fuzz_target!(|text: &str| {
    notify(text);
    let shape = shape();
    let mut row = RowBuf::default();
    let mut key = KeyBuf::default();
    let mut cache = TableCache::new(Arc::clone(&shape), 0);
    if let Ok(payload) = Payload::parse(text) {
        if let Some(id) = payload.id {
            let _ = key.read_json(&shape, id);
        }
        if let Some(data) = payload.data
            && row
                .read_json(&shape, data, JsonNulls::Listed(&payload.nulls))
                .is_ok()
        {
            cache.upsert(&row).expect("there is room");
        }
    }
    // Few inputs are a payload that parses. As a row alone the text gets to the cells' parsers
    // sooner.
    if row.read_json(&shape, text, JsonNulls::Unknown).is_ok() {
        cache.upsert(&row).expect("there is room");
    }
    cache.validate().expect("the cache is sound");
});
