//! A table, and random transactions on it, for tests that compare a cache with its table.

/// The table that these tests follow.
pub const TABLE: &str = "CREATE TABLE kv (id int PRIMARY KEY, v text, n bigint);";

/// Returns a random statement on `kv`.
fn statement(random: &mut fastrand::Rng) -> String {
    // Few keys, so that writers often meet on the same row.
    let id = random.u32(1..40);
    let value = ["a", "b", "c"][random.usize(0..3)];
    match random.u32(0..100) {
        0..35 => format!(
            "INSERT INTO kv VALUES ({id}, '{value}', {id}) ON CONFLICT (id) DO UPDATE SET \
            v = excluded.v"
        ),
        35..60 => {
            format!("UPDATE kv SET v = '{value}', n = n + 1 WHERE id BETWEEN {id} AND {id} + 3")
        }
        60..75 => format!("DELETE FROM kv WHERE id = {id}"),
        // A changed key is announced as the delete of the old key and an update of the new one.
        75..85 => format!(
            "UPDATE kv SET id = id + 100 WHERE id = {id} AND NOT EXISTS (SELECT FROM kv WHERE \
            id = {id} + 100)"
        ),
        // A savepoint that is rolled back announces nothing.
        85..92 => format!("SAVEPOINT s; DELETE FROM kv WHERE id > {id}; ROLLBACK TO s"),
        // A row that does not fit into a payload is refetched.
        92..96 => format!(
            "INSERT INTO kv VALUES ({id}, repeat('{value}', 9000), 1) ON CONFLICT (id) DO NOTHING"
        ),
        96..98 => "DELETE FROM kv WHERE id > 100".to_string(),
        _ => "TRUNCATE kv".to_string(),
    }
}

/// Returns a random transaction of one to four statements, one in ten rolled back.
pub fn transaction(random: &mut fastrand::Rng) -> String {
    let statements: Vec<String> = (0..random.usize(1..5)).map(|_| statement(random)).collect();
    let end = if random.u32(0..10) == 0 {
        "ROLLBACK"
    } else {
        "COMMIT"
    };
    format!("BEGIN; {}; {end}", statements.join("; "))
}
