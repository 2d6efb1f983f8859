//! The text of a table's function and triggers. The template is `sql/table_trigger.sql`; every name
//! in it is a literal, escaped here once, and everything else is qualified, so that no
//! `search_path` and no object of a writer's can change what it does.

use super::TriggerOptions;
use super::observe::{ROW_EVENTS, TRUNCATE_EVENT};
use crate::tables::catalog::{
    CatalogColumn, CatalogKey, CatalogTable, Function, Leaf, RelationKind, Trigger,
};
use postgres_index_cache_core::CellType;
use postgres_index_cache_core::postgres::triggers::{
    Comment, PINNED, digest, settings, to_arguments, write_comment,
};
use postgres_index_cache_core::postgres::{quote_identifier, quote_literal};

const TEMPLATE: &str = include_str!("../../sql/table_trigger.sql");
const GENERIC: &str = include_str!("../../sql/cache_notification_triggers.sql");
/// The name of the generic function.
pub const GENERIC_FUNCTION: &str = "notify_cache_change";
/// Bytes of a name, less its zero byte (`NAMEDATALEN`).
const LONGEST_NAME: usize = 63;
/// Past this many bytes of columns of no fixed length a row is not even made into JSON: it would
/// not fit.
const WIDEST: u32 = 7_900;

/// What a table's triggers should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The schema of the function: that of the table.
    pub schema: String,
    /// The name of the function.
    pub function: String,
    /// The statement that makes it.
    pub create_function: String,
    /// The text between its quotes.
    pub source: String,
    /// Its SET clauses, as `pg_proc.proconfig` has them.
    pub settings: Vec<String>,
    /// Its comment.
    pub comment: String,
    /// The name of the row trigger.
    pub row_trigger: String,
    /// The name of the TRUNCATE trigger.
    pub truncate_trigger: String,
    /// Whether there is to be none.
    pub is_without_truncate: bool,
    /// The arguments of the triggers.
    pub arguments: Vec<String>,
    /// Whether the function is that of all tables of its schema.
    pub is_generic: bool,
}

impl Expected {
    /// For a table with this key.
    pub fn new(table: &CatalogTable, key: &CatalogKey, options: &TriggerOptions) -> Self {
        if options.generic {
            return Self::generic(table, options);
        }
        let function = function_name(&table.name);
        let settings = settings(&table.columns);
        let mut places = places(table, key, options);
        // A quote that nothing between its ends contains.
        let candidates = (0_usize..).map(|n| {
            if n == 0 {
                "$pgic$".to_string()
            } else {
                format!("$pgic{n}$")
            }
        });
        let is_free = |quote: &String| {
            places
                .iter()
                .all(|(_, value)| !value.contains(quote.as_str()))
        };
        let quote = candidates
            .take(places.len() * 1_000)
            .find(is_free)
            .unwrap_or_default();
        let set_clauses = settings
            .iter()
            .map(|(name, value)| format!("\nSET {name} = {}", quote_list(value)))
            .collect();
        let sql_function = format!(
            "{}.{}",
            quote_identifier(&table.schema),
            quote_identifier(&function)
        );
        places.extend([
            ("{{function}}", sql_function),
            ("{{settings}}", set_clauses),
            ("{{quote}}", quote),
        ]);
        let create_function = fill_places(TEMPLATE, &places);
        let source = TEMPLATE
            .split("{{quote}}")
            .nth(1)
            .map_or_else(String::new, |body| fill_places(body, &places));
        let comment = Comment {
            schema: table.schema.clone(),
            table: table.name.clone(),
            key: Some(key.columns.clone()),
            options: options.clone(),
            digest: digest(&source),
        };
        Self {
            schema: table.schema.clone(),
            function,
            create_function,
            source,
            settings: settings
                .into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            comment: write_comment(&comment),
            row_trigger: shortened(&table.name, "_cache_notify"),
            truncate_trigger: shortened(&table.name, "_cache_notify_truncate"),
            is_without_truncate: options.no_truncate,
            arguments: Vec::new(),
            is_generic: false,
        }
    }

    /// The one function of a schema, as the file has it that people run by hand.
    fn generic(table: &CatalogTable, options: &TriggerOptions) -> Self {
        let start = GENERIC
            .find("CREATE OR REPLACE FUNCTION")
            .unwrap_or_default();
        let name = format!(
            "{}.{}()",
            quote_identifier(&table.schema),
            quote_identifier(GENERIC_FUNCTION)
        );
        let create_function = GENERIC[start..].replacen(&format!("{GENERIC_FUNCTION}()"), &name, 1);
        let source = GENERIC
            .split("$pgic$")
            .nth(1)
            .unwrap_or_default()
            .to_string();
        let comment = Comment {
            schema: table.schema.clone(),
            table: String::new(),
            key: Some(vec!["id".to_string()]),
            options: TriggerOptions {
                generic: true,
                ..TriggerOptions::default()
            },
            digest: digest(&source),
        };
        Self {
            schema: table.schema.clone(),
            function: GENERIC_FUNCTION.to_string(),
            create_function,
            source,
            // The file pins all of them, in this order.
            settings: PINNED
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            comment: write_comment(&comment),
            row_trigger: shortened(&table.name, "_cache_notify"),
            truncate_trigger: shortened(&table.name, "_cache_notify_truncate"),
            is_without_truncate: options.no_truncate,
            arguments: to_arguments(options),
            is_generic: true,
        }
    }

    /// The call of the function, as a trigger has it.
    pub fn call(&self) -> String {
        let arguments: Vec<String> = self
            .arguments
            .iter()
            .map(|argument| quote_literal(argument))
            .collect();
        let name = format!(
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&self.function)
        );
        format!("{name}({})", arguments.join(", "))
    }

    /// The function as it stands in SQL.
    pub fn sql_function(&self) -> String {
        format!(
            "{}.{}()",
            quote_identifier(&self.schema),
            quote_identifier(&self.function)
        )
    }

    /// Whether a trigger is one of the two, by its name, its shape and what it calls.
    pub fn is_right(&self, trigger: &Trigger, name: &str, events: i16) -> bool {
        trigger.name == name
            && trigger.kind == events
            && !trigger.is_conditional
            && !trigger.is_constraint
            && trigger.arguments == self.arguments
            && trigger.function.schema == self.schema
            && trigger.function.name == self.function
    }

    /// When a trigger fires, in SQL.
    pub fn when(&self, events: i16, relation: &str) -> String {
        if events == ROW_EVENTS {
            format!("AFTER INSERT OR UPDATE OR DELETE ON {relation} FOR EACH ROW")
        } else {
            format!("AFTER TRUNCATE ON {relation} FOR EACH STATEMENT")
        }
    }

    /// The name of a leaf's TRUNCATE trigger.
    pub fn leaf_trigger(leaf: &Leaf) -> String {
        shortened(&leaf.name, "_cache_notify_truncate")
    }

    /// The triggers: name and events.
    pub fn triggers(&self) -> Vec<(&str, i16)> {
        let truncate =
            (!self.is_without_truncate).then_some((self.truncate_trigger.as_str(), TRUNCATE_EVENT));
        std::iter::once((self.row_trigger.as_str(), ROW_EVENTS))
            .chain(truncate)
            .collect()
    }

    /// Whether a function is word for word what it should be.
    pub fn is(&self, function: &Function) -> bool {
        function.source == self.source
            && !function.is_security_definer
            && function.settings == self.settings
            && function.comment.as_deref() == Some(self.comment.as_str())
    }
}

/// The name of a table's function.
pub fn function_name(table: &str) -> String {
    let name = format!("notify_cache_change_{table}");
    if name.len() <= LONGEST_NAME {
        name
    } else {
        shortened(&name, "")
    }
}

/// `name` and `suffix`, or as much of the name as fits with a hash of all of it: two long names
/// that begin alike differ.
pub fn shortened(name: &str, suffix: &str) -> String {
    if name.len() + suffix.len() <= LONGEST_NAME {
        return format!("{name}{suffix}");
    }
    let hash = &digest(name)[..10];
    let mut end = LONGEST_NAME - suffix.len() - hash.len() - 1;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{hash}{suffix}", &name[..end])
}

/// A setting's value in SQL: a list is a list of literals.
fn quote_list(value: &str) -> String {
    value
        .split(", ")
        .map(quote_literal)
        .collect::<Vec<_>>()
        .join(", ")
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn key_expression(row: &str, table: &CatalogTable, key: &CatalogKey) -> String {
    let columns = key.columns.iter().map(|name| {
        let value = format!("{row}.{}", quote_identifier(name));
        table
            .column(name)
            .map_or(value.clone(), |column| column.kind.json_argument(&value))
    });
    let columns: Vec<String> = columns.collect();
    match columns.as_slice() {
        [only] => format!("pg_catalog.to_json({only})"),
        several => format!("pg_catalog.json_build_array({})", several.join(", ")),
    }
}

/// What goes into the template's places.
fn places(
    table: &CatalogTable,
    key: &CatalogKey,
    options: &TriggerOptions,
) -> Vec<(&'static str, String)> {
    let name = json_string(&table.name);
    let head =
        |action: &str| quote_literal(&format!(r#"{{"table":{name},"action":"{action}","id":"#));
    let from = quote_literal(&format!(
        r#","schema":{},"rel":"#,
        json_string(&table.schema)
    ));
    let sent: Vec<&CatalogColumn> = table
        .columns
        .iter()
        .filter(|column| options.sends(&column.name))
        .collect();
    let types: Vec<[&str; 2]> = table
        .columns
        .iter()
        .map(|column| [column.name.as_str(), column.type_name.as_str()])
        .collect();
    let last_resort = format!(
        r#"{{"table":{name},"action":"reload","id":null,"schema":{},"why":"the trigger failed"}}"#,
        json_string(&table.schema)
    );
    let unguard = if options.no_guard {
        String::new()
    } else {
        fill_places(
            UNGUARD,
            &[
                ("{{reload}}", head("reload")),
                ("{{from}}", from.clone()),
                ("{{last_resort}}", quote_literal(&last_resort)),
            ],
        )
    };
    vec![
        ("{{columns}}", serde_json::json!(types).to_string()),
        (
            "{{truncate_of_leaf}}",
            truncate_of_leaf(table, &head("reload"), &from),
        ),
        ("{{row}}", row(&sent, options)),
        (
            "{{head_of_insert}}",
            head_of("insert", table, key, &head("insert"), &from),
        ),
        (
            "{{head_of_update}}",
            head_of("update", table, key, &head("update"), &from),
        ),
        ("{{new_key_is_null}}", is_null("NEW", key)),
        ("{{old_key_is_null}}", is_null("OLD", key)),
        ("{{new_key_row}}", key_row("NEW", key)),
        ("{{old_key_row}}", key_row("OLD", key)),
        ("{{unless_changed}}", unless_changed(table, &sent, options)),
        (
            "{{guard}}",
            if options.no_guard {
                "-- Made without a guard: a failure in here fails the write."
            } else {
                GUARD
            }
            .to_string(),
        ),
        ("{{unguard}}", unguard),
        ("{{delete}}", head("delete")),
        ("{{truncate}}", head("truncate")),
        ("{{reload}}", head("reload")),
        ("{{from}}", from),
        ("{{new_key}}", key_expression("NEW", table, key)),
        ("{{old_key}}", key_expression("OLD", table, key)),
        ("{{channel}}", quote_literal(&options.channel)),
        (
            "{{notify}}",
            quote_literal(&format!("NOTIFY {}, ", quote_identifier(&options.channel))),
        ),
    ]
}

/// What opens the block in which a failure is caught.
const GUARD: &str = "-- What can fail is done in here: a failure becomes a request to read the \
    table again, never an error of the writer.
  -- The notify stands behind it: inside, each would keep 8 kB of memory until the end of the \
  transaction.
  BEGIN";

/// What closes it.
const UNGUARD: &str = "  EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN
    removal := NULL;
    BEGIN
      payload := pg_catalog.concat({{reload}}, 'null', {{from}}, TG_RELID, ',\"xid\":\"', \
      pg_catalog.pg_current_xact_id(),
        '\",\"why\":\"the trigger failed with SQLSTATE ', SQLSTATE, '\"}');
    EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN
      payload := {{last_resort}};
    END;
  END;
";

/// The branch for a partition's TRUNCATE: what is left of the root is not known, so it must be read
/// again. A table that was detached has nothing to say any more.
fn truncate_of_leaf(table: &CatalogTable, reload: &str, from: &str) -> String {
    if table.kind != RelationKind::Partitioned {
        return String::new();
    }
    format!(
        "    ELSIF TG_TABLE_NAME OPERATOR(pg_catalog.<>) {}::pg_catalog.name
      OR TG_TABLE_SCHEMA OPERATOR(pg_catalog.<>) {}::pg_catalog.name THEN
      IF pg_catalog.pg_partition_root(TG_RELID) OPERATOR(pg_catalog.=) TG_RELID OR \
      pg_catalog.pg_partition_root(TG_RELID) IS NULL THEN
        RETURN NULL;
      END IF;
      payload := pg_catalog.concat({reload}, 'null', {from}, TG_RELID, ',\"xid\":\"', \
      pg_catalog.pg_current_xact_id(),
        '\",\"why\":\"a partition was truncated\"}}');
",
        quote_literal(&table.name),
        quote_literal(&table.schema)
    )
}

/// The arguments that make the payload of an insert or an update up to its row.
fn head_of(action: &str, table: &CatalogTable, key: &CatalogKey, head: &str, from: &str) -> String {
    let was = if action == "update" { ", was" } else { "" };
    format!(
        "{head}, {}, {from}, TG_RELID, ',\"xid\":\"', pg_catalog.pg_current_xact_id(),
        '\",\"v\":\"', NEW.ctid, '\",\"at\":', pg_catalog.to_json(pg_catalog.clock_timestamp()),
        CASE WHEN NEW.xmax OPERATOR(pg_catalog.<>) '0'::pg_catalog.xid THEN ',\"recheck\":true' \
        END{was}",
        key_expression("NEW", table, key)
    )
}

fn key_columns(row: &str, key: &CatalogKey) -> impl Iterator<Item = String> {
    key.columns
        .iter()
        .map(move |name| format!("{row}.{}", quote_identifier(name)))
}

fn is_null(row: &str, key: &CatalogKey) -> String {
    key_columns(row, key)
        .map(|column| format!("{column} IS NULL"))
        .collect::<Vec<_>>()
        .join(" OR ")
}

fn key_row(row: &str, key: &CatalogKey) -> String {
    format!(
        "ROW({})",
        key_columns(row, key).collect::<Vec<_>>().join(", ")
    )
}

/// The arguments that make the row of a payload. A wide one is not even built: to make the text of
/// 20 MB takes 200 ms.
fn row(sent: &[&CatalogColumn], options: &TriggerOptions) -> String {
    if options.no_data {
        return "''".to_string();
    }
    let sizes: Vec<String> = sent
        .iter()
        .filter(|column| column.is_varlena && !column.is_virtual)
        .map(|column| {
            format!(
                "coalesce(pg_catalog.pg_column_size(NEW.{}), 0)",
                quote_identifier(&column.name)
            )
        })
        .collect();
    let whole = format!("{}',\"data\":', {}", nulls(sent), data(sent, options));
    if sizes.is_empty() {
        return whole;
    }
    format!(
        "CASE WHEN {} OPERATOR(pg_catalog.>) {WIDEST} THEN ',\"truncated\":true'
          ELSE pg_catalog.concat({whole}) END",
        sizes.join(" OPERATOR(pg_catalog.+) ")
    )
}

/// The row as JSON: all of it, or the columns that are sent.
fn data(sent: &[&CatalogColumn], options: &TriggerOptions) -> String {
    // It calls the casts to json that the owners of types have made, with the rights of whoever
    // writes.
    let is_built_in = |column: &&CatalogColumn| {
        !matches!(column.kind, CellType::Written | CellType::WrittenArray)
    };
    if options.columns.is_none() && sent.iter().all(is_built_in) {
        return "pg_catalog.row_to_json(NEW)".to_string();
    }
    let members = sent.iter().enumerate().map(|(at, column)| {
        let name = quote_literal(&format!(
            "{}{}:",
            if at > 0 { "," } else { "" },
            json_string(&column.name)
        ));
        let value = column
            .kind
            .json_argument(&format!("NEW.{}", quote_identifier(&column.name)));
        format!("{name}, coalesce(pg_catalog.to_json({value})::pg_catalog.text, 'null')")
    });
    // A function takes 100 arguments at most.
    let members: Vec<String> = members.collect();
    let chunks = members
        .chunks(45)
        .map(|chunk| format!("pg_catalog.concat({})", chunk.join(", ")))
        .collect::<Vec<_>>();
    format!("'{{', {}, '}}'", chunks.join(", "))
}

/// The statements that leave out an UPDATE which changes nothing that is sent. Compared bit by bit:
/// `=` calls 1.10 and 1.1 equal, and json has none. Who is sent the keys alone is told of every
/// change.
fn unless_changed(
    table: &CatalogTable,
    sent: &[&CatalogColumn],
    options: &TriggerOptions,
) -> String {
    if !options.on_change {
        return String::new();
    }
    let all: Vec<&CatalogColumn> = table.columns.iter().collect();
    // A virtual column changes with those that it is computed from, and the trigger sees null
    // there.
    let sends_virtual = sent.iter().any(|column| column.is_virtual);
    let compared = if options.no_data || sends_virtual {
        &all
    } else {
        sent
    };
    let row = |name: &str| {
        let columns = compared.iter().filter(|column| !column.is_virtual);
        columns
            .map(|column| format!("{name}.{}", quote_identifier(&column.name)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    format!(
        "      IF NOT pg_catalog.record_image_ne(ROW({}), ROW({})) THEN
        RETURN NULL;
      END IF;
",
        row("OLD"),
        row("NEW")
    )
}

/// Fills every place in one pass over the template, so that what is filled in is never looked at
/// again.
fn fill_places(template: &str, places: &[(&str, String)]) -> String {
    let mut text = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(at) = rest.find("{{") {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        match places.iter().find(|(place, _)| rest.starts_with(place)) {
            Some((place, value)) => {
                text.push_str(value);
                rest = &rest[place.len()..];
            }
            None => {
                text.push_str("{{");
                rest = &rest[2..];
            }
        }
    }
    text.push_str(rest);
    text
}

/// `"nulls":[…]`: the json columns that are SQL NULL. `row_to_json` writes SQL NULL and a JSON null
/// alike.
fn nulls(columns: &[&CatalogColumn]) -> String {
    let json: Vec<&&CatalogColumn> = columns
        .iter()
        .filter(|column| column.kind.has_json_null())
        .collect();
    if json.is_empty() {
        return String::new();
    }
    let column = |column: &&&CatalogColumn| {
        format!(
            "CASE WHEN NEW.{} IS NULL THEN {} END",
            quote_identifier(&column.name),
            quote_literal(&json_string(&column.name))
        )
    };
    let names = json.iter().map(column).collect::<Vec<_>>().join(", ");
    // An array, which leaves nulls out when it is joined: a function takes 100 arguments at most,
    // and NULLIF would look for its operator on the writer's search_path.
    format!(
        "',\"nulls\":[', pg_catalog.array_to_string(ARRAY[{names}]::pg_catalog.text[], ','), ']', "
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_shortened_and_stay_apart() {
        let a = format!("{}a", "é".repeat(31));
        let b = format!("{}b", "é".repeat(31));
        for suffix in ["_cache_notify", "_cache_notify_truncate"] {
            assert!(
                shortened(&a, suffix).len() <= 63 && shortened(&a, suffix) != shortened(&b, suffix)
            );
        }
        assert!(function_name(&a).len() <= 63 && function_name(&a) != function_name(&b));
        assert_eq!(function_name("users"), "notify_cache_change_users");
        assert_eq!(shortened("users", "_cache_notify"), "users_cache_notify");
    }

    #[test]
    fn a_name_that_looks_like_a_place_stays_a_name() {
        let filled = fill_places(
            "a {{x}} b {{y}}",
            &[("{{x}}", "{{y}}".into()), ("{{y}}", "1".into())],
        );
        assert_eq!(filled, "a {{y}} b 1");
    }
}
