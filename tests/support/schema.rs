//! [`check`]: holds a line of JSON that pgic printed to the published schema.

use jsonschema::Validator;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::OnceLock;

/// Parses a line of a stream, and checks that the schema has the event and describes each member.
///
/// # Panics
/// If the line is no JSON, or not as the schema says.
pub fn check(line: &str) -> Value {
    let value: Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    let word = value["event"].as_str().unwrap_or_default();
    let Some(schema) = schemas().get(word) else {
        panic!("the schema has no event {word:?}: {line}");
    };
    if let Err(error) = schema.validate(&value) {
        panic!("{error} at {}: {line}", error.instance_path());
    }
    // The envelope stands in one order, which the schema cannot say.
    let envelope = ["event", "at", "schema", "table", "key"];
    let names = names(line);
    let there: Vec<&str> = envelope
        .into_iter()
        .filter(|name| names.iter().any(|other| other == name))
        .collect();
    assert_eq!(names[..there.len()], there, "{line}");
    value
}

/// Checks a line as [`check`] does, and returns the event without the time, which no test knows.
///
/// # Panics
/// As [`check`].
pub fn event(line: &str) -> Value {
    let mut value = check(line);
    if let Some(members) = value.as_object_mut() {
        members.remove("at");
    }
    value
}

/// Checks each line of a stream.
pub fn check_all(text: &str) -> Vec<Value> {
    text.lines().map(check).collect()
}

/// Returns the schema of each event, by its word.
fn schemas() -> &'static HashMap<String, Validator> {
    static SCHEMAS: OnceLock<HashMap<String, Validator>> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/output.schema.json");
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/output.schema.json");
        let text = std::fs::read_to_string(here).or_else(|_| std::fs::read_to_string(path));
        let published: Value =
            serde_json::from_str(&text.expect("read the schema")).expect("the schema is JSON");
        let references = published["oneOf"].as_array().expect("a list of events");
        let events = references.iter().map(|reference| {
            let reference = reference["$ref"].as_str().expect("a reference");
            let word = reference.rsplit('/').next().expect("a name");
            let one = json!({"$ref": reference, "$defs": published["$defs"]});
            let schema = jsonschema::validator_for(&one).expect("the schema is one");
            (word.to_string(), schema)
        });
        events.collect()
    })
}

/// Returns the names of an object's members, in the order of the text.
fn names(line: &str) -> Vec<String> {
    struct Names;
    impl<'de> serde::de::Visitor<'de> for Names {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut names = Vec::new();
            while let Some((name, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                names.push(name);
            }
            Ok(names)
        }
    }
    let mut line = serde_json::Deserializer::from_str(line);
    serde::Deserializer::deserialize_map(&mut line, Names).expect("an object")
}
