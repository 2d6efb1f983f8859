//! [`Expected`]: the text that a table's function and triggers should have.
//!
//! The template of the function is `sql/table_trigger.sql`. Each name that goes into the template
//! is a literal, escaped here once. All else in the text is qualified. So neither a `search_path`
//! nor an object that a writer made can change what the function does.

mod bulk;
mod payload;

use self::payload::{
    around_key, head, head_of, head_without_key, is_set, json_string, key_expression,
    key_has_changed, row, row_begins,
};
use super::TriggerOptions;
use crate::postgres::catalog::{
    CatalogColumn, CatalogKey, CatalogTable, Function, Leaf, RelationKind, Trigger,
};
use crate::postgres::triggers::{
    BULK_EVENTS, Comment, PINNED, ROW_EVENTS, ROW_NAME, RowCondition, TRUNCATE_EVENT, digest,
    referencing, settings, to_arguments, transition_tables, write_comment,
};
use crate::postgres::{quote_identifier, quote_literal};

const TEMPLATE: &str = include_str!("../../../sql/table_trigger.sql");
const BULK_TEMPLATE: &str = include_str!("../../../sql/bulk_trigger.sql");
const GENERIC: &str = include_str!("../../../sql/cache_notification_triggers.sql");
/// The name of the generic function.
pub const GENERIC_FUNCTION: &str = "notify_cache_change";
/// The longest name that PostgreSQL keeps, in bytes: `NAMEDATALEN` less the zero byte at the end.
const LONGEST_NAME: usize = 63;

/// The function and the triggers that a table should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The schema of the function, which is the table's.
    pub schema: String,
    /// The name of the function.
    pub function: String,
    /// The statement that creates the function.
    pub create_function: String,
    /// The body of the function: the text between the quotes of the statement.
    pub source: String,
    /// The SET clauses of the function, as `pg_proc.proconfig` has them: `TimeZone=UTC`.
    pub settings: Vec<String>,
    /// The comment on the function.
    pub comment: String,
    /// The names and events of the triggers for changes of rows: of the row trigger, or of three
    /// statement triggers.
    pub row_triggers: Vec<(String, i16)>,
    /// Whether these are statement triggers.
    pub is_bulk: bool,
    /// The name of the TRUNCATE trigger.
    pub truncate_trigger: String,
    /// Whether the table should have no TRUNCATE trigger.
    pub is_without_truncate: bool,
    /// The arguments of the triggers.
    pub arguments: Vec<String>,
    /// Whether the function is the generic one, which serves all tables of its schema.
    pub is_generic: bool,
}

/// A trigger that a table should have.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedTrigger<'a> {
    /// The name of the trigger.
    pub name: &'a str,
    /// The events that fire the trigger: [`ROW_EVENTS`], one of [`BULK_EVENTS`], or
    /// [`TRUNCATE_EVENT`].
    pub events: i16,
}

impl Expected {
    /// Returns the function and the triggers that a table with this key should have.
    pub fn new(table: &CatalogTable, key: &CatalogKey, options: &TriggerOptions) -> Self {
        if options.generic {
            return Self::generic(table, options);
        }
        let function = function_name(&table.name);
        let mut settings = settings(&table.columns);
        if let Some(condition) = &options.condition {
            settings = with_settings_of(condition, &settings);
        }
        let template = match options.bulk {
            Some(_) => BULK_TEMPLATE,
            None => TEMPLATE,
        };
        let mut places = places(table, key, options);
        let quote = free_quote(&places);
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
        let create_function = fill_places(template, &places);
        // The server keeps the body alone (`pg_proc.prosrc`), so that is what can be compared.
        let source = template
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
            is_bulk: options.bulk.is_some(),
            row_triggers: match options.bulk {
                Some(_) => bulk_triggers(&table.name),
                None => vec![(row_trigger_name(&table.name), ROW_EVENTS)],
            },
            truncate_trigger: truncate_trigger_name(&table.name),
            is_without_truncate: options.no_truncate,
            arguments: Vec::new(),
            is_generic: false,
        }
    }

    /// Returns the generic function of the table's schema, with the text of the file that people
    /// run by hand.
    fn generic(table: &CatalogTable, options: &TriggerOptions) -> Self {
        // The file begins with comments on its use, which belong to no function.
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
            // The function serves many tables, so its comment names none. What holds for one table
            // stands in the arguments of that table's triggers.
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
            // The file has a SET clause for each, in the order of this list.
            settings: PINNED
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            comment: write_comment(&comment),
            row_triggers: vec![(row_trigger_name(&table.name), ROW_EVENTS)],
            is_bulk: false,
            truncate_trigger: truncate_trigger_name(&table.name),
            is_without_truncate: options.no_truncate,
            arguments: to_arguments(options),
            is_generic: true,
        }
    }

    /// Returns the call of the function as CREATE TRIGGER takes it, with the triggers' arguments.
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

    /// Returns the function as SQL takes it: `"app"."notify_cache_change_users"()`.
    pub fn sql_function(&self) -> String {
        format!(
            "{}.{}()",
            quote_identifier(&self.schema),
            quote_identifier(&self.function)
        )
    }

    /// Tells whether a trigger is the wanted one, by name, shape and the function that is called.
    pub fn is_right(&self, trigger: &Trigger, wanted: ExpectedTrigger<'_>) -> bool {
        trigger.name == wanted.name
            && trigger.kind == wanted.events
            && !trigger.is_conditional
            && !trigger.is_constraint
            && trigger.arguments == self.arguments
            && trigger.transition_tables() == transition_tables(wanted.events)
            && self.is_called_by(trigger)
    }

    /// Tells whether a trigger calls the function of this schema and name. That function may have
    /// another text.
    pub fn is_called_by(&self, trigger: &Trigger) -> bool {
        trigger.function.schema == self.schema && trigger.function.name == self.function
    }

    /// Returns the part of CREATE TRIGGER that says when a trigger fires.
    pub fn when(&self, events: i16, relation: &str) -> String {
        let bulk = BULK_EVENTS.iter().find(|(_, bit)| *bit == events);
        match bulk {
            Some((event, _)) => format!(
                "AFTER {} ON {relation} REFERENCING {} FOR EACH STATEMENT",
                event.to_uppercase(),
                referencing(events)
            ),
            None if events == ROW_EVENTS => {
                format!("AFTER INSERT OR UPDATE OR DELETE ON {relation} FOR EACH ROW")
            }
            None => format!("AFTER TRUNCATE ON {relation} FOR EACH STATEMENT"),
        }
    }

    /// Returns the triggers of the table itself: those for changes of rows, then the TRUNCATE
    /// trigger if there should be one.
    pub fn triggers(&self) -> Vec<ExpectedTrigger<'_>> {
        let of_rows = self.row_triggers.iter();
        let mut triggers: Vec<ExpectedTrigger<'_>> = of_rows
            .map(|(name, events)| ExpectedTrigger {
                name,
                events: *events,
            })
            .collect();
        if !self.is_without_truncate {
            triggers.push(ExpectedTrigger {
                name: &self.truncate_trigger,
                events: TRUNCATE_EVENT,
            });
        }
        triggers
    }

    /// Returns the names and events of the triggers of a leaf: its own statement triggers, if its
    /// root has some, and the TRUNCATE trigger.
    pub fn leaf_triggers(&self, leaf: &Leaf) -> Vec<(String, i16)> {
        let mut triggers = Vec::new();
        if self.is_bulk {
            triggers = bulk_triggers(&leaf.name);
        }
        if !self.is_without_truncate {
            triggers.push((truncate_trigger_name(&leaf.name), TRUNCATE_EVENT));
        }
        triggers
    }

    /// Tells whether a function is word for word the expected one.
    pub fn is(&self, function: &Function) -> bool {
        function.source == self.source
            && !function.is_security_definer
            && function.settings == self.settings
            && function.comment.as_deref() == Some(self.comment.as_str())
    }
}

/// Returns the name of the function that the table `table` has for itself.
pub fn function_name(table: &str) -> String {
    let name = format!("notify_cache_change_{table}");
    if name.len() <= LONGEST_NAME {
        name
    } else {
        shortened(&name, "")
    }
}

/// Returns the name of the row trigger of the table `table`.
pub fn row_trigger_name(table: &str) -> String {
    shortened(table, "_cache_notify")
}

/// Returns the names and events of the statement triggers of the table `table`.
pub fn bulk_triggers(table: &str) -> Vec<(String, i16)> {
    BULK_EVENTS
        .iter()
        .map(|(event, bit)| (shortened(table, &format!("_cache_notify_{event}")), *bit))
        .collect()
}

/// Returns the name of the TRUNCATE trigger of the table or leaf `table`.
pub fn truncate_trigger_name(table: &str) -> String {
    shortened(table, "_cache_notify_truncate")
}

/// Returns the channel that a table has for itself under `base`: `cache_invalidation.users`, or
/// with the schema if that is not `public`.
pub fn channel_of_table(base: &str, table: &CatalogTable) -> String {
    let name = match table.schema.as_str() {
        "public" => format!("{base}.{}", table.name),
        schema => format!("{base}.{schema}.{}", table.name),
    };
    shortened(&name, "")
}

/// Returns `name` and `suffix` joined, in at most 63 bytes.
///
/// A name that is too long is cut and gets a hash of the whole name. PostgreSQL would cut it
/// silently, so that two long names that begin alike would become one.
pub fn shortened(name: &str, suffix: &str) -> String {
    if name.len() + suffix.len() <= LONGEST_NAME {
        return format!("{name}{suffix}");
    }
    let hash = &digest(name)[..10];
    let mut end = LONGEST_NAME - suffix.len() - hash.len() - 1;
    // Bytes are counted, and a character may have several: do not cut one in two.
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{hash}{suffix}", &name[..end])
}

/// Returns the `settings` of a function, with those that decide what its condition means.
///
/// PostgreSQL looks for operators of the condition on the path, `IS DISTINCT FROM` even where all
/// others are qualified. Where all can be qualified, no path is pinned: that costs 2 µs a row. The
/// literals of some types are read by a setting of the session; those of dates and times are
/// written such that each setting reads them alike.
fn with_settings_of(
    condition: &RowCondition,
    settings: &[(&'static str, &'static str)],
) -> Vec<(&'static str, &'static str)> {
    let is_needed = |name: &str| {
        settings.iter().any(|(own, _)| *own == name)
            || match name {
                "search_path" => condition.follows_path,
                "IntervalStyle" => condition.sql.contains("interval"),
                "lc_monetary" => condition.sql.contains("money"),
                "array_nulls" => condition.sql.contains("[]"),
                _ => false,
            }
    };
    PINNED
        .into_iter()
        .filter(|(name, _)| is_needed(name))
        .collect()
}

/// Returns a setting's value for SET: a list of names becomes a list of literals.
fn quote_list(value: &str) -> String {
    value
        .split(", ")
        .map(quote_literal)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Returns a dollar quote that stands in none of the values that go between its ends.
fn free_quote(places: &[(&str, String)]) -> String {
    let candidates = (0_usize..).map(|n| {
        if n == 0 {
            "$pgic$".to_string()
        } else {
            format!("$pgic{n}$")
        }
    });
    // The bound keeps the search finite. To reach it, the table's names would have to hold
    // thousands of different quotes.
    candidates
        .take(places.len() * 1_000)
        .find(|quote| {
            places
                .iter()
                .all(|(_, value)| !value.contains(quote.as_str()))
        })
        .unwrap_or_default()
}

/// Returns the statement that asks those who listen on `channels` to read a table again.
pub fn ask_for_reload(table: &CatalogTable, channels: &[&str]) -> String {
    let payload = serde_json::json!({
        "table": table.name,
        "action": "reload",
        "id": null,
        "schema": table.schema,
        "why": "other rows of the table are announced than before",
    });
    let payload = quote_literal(&payload.to_string());
    let calls: Vec<String> = channels
        .iter()
        .map(|channel| {
            format!(
                "pg_catalog.pg_notify({}, {payload})",
                quote_literal(channel)
            )
        })
        .collect();
    format!("SELECT {};", calls.join(", "))
}

/// Returns the values for the places of the template, such as `{{channel}}`.
fn places(
    table: &CatalogTable,
    key: &CatalogKey,
    options: &TriggerOptions,
) -> Vec<(&'static str, String)> {
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
    let reload = head_without_key("reload", table);
    let (before_key, behind_key) = around_key(table, "delete");
    let guard = if options.no_guard {
        "-- Made without a guard: a failure in here fails the write."
    } else {
        GUARD
    };
    let unguard = match options.bulk {
        _ if options.no_guard => String::new(),
        Some(_) => bulk::unguard(&reload, &last_resort(table)),
        None => unguard(table, &reload),
    };
    let notify = format!("NOTIFY {}, ", quote_identifier(&options.channel));
    let packs = options
        .bulk
        .map(|most| bulk::places(table, key, options, &sent, most));
    let common = vec![
        // The types stand in a comment of the function. Other types make another text, and every
        // session compiles a new text anew.
        ("{{columns}}", serde_json::json!(types).to_string()),
        ("{{truncate_of_leaf}}", truncate_of_leaf(table, &reload)),
        ("{{row}}", row(&sent, options, "NEW")),
        ("{{row_begins}}", quote_literal(row_begins(&sent))),
        ("{{head_of_insert}}", head_of("insert", table, key, options)),
        ("{{head_of_update}}", head_of("update", table, key, options)),
        ("{{new_key_is_set}}", is_set("NEW", key)),
        ("{{old_key_is_set}}", is_set("OLD", key)),
        ("{{key_has_changed}}", key_has_changed(table, key, options)),
        ("{{unless_changed}}", unless_changed(table, &sent, options)),
        (
            "{{declare_condition}}",
            declare_condition(options).to_string(),
        ),
        ("{{condition}}", condition(options)),
        (
            "{{operation}}",
            match &options.condition {
                Some(_) => "operation",
                None => "TG_OP",
            }
            .to_string(),
        ),
        ("{{guard}}", guard.to_string()),
        ("{{unguard}}", unguard),
        (
            "{{head_of_delete}}",
            head("delete", "OLD", table, key, options),
        ),
        ("{{head_of_removal}}", quote_literal(&before_key)),
        ("{{from}}", quote_literal(&behind_key)),
        ("{{truncate}}", head_without_key("truncate", table)),
        ("{{reload}}", reload),
        ("{{new_key}}", key_expression("NEW", table, key, options)),
        ("{{old_key}}", key_expression("OLD", table, key, options)),
        ("{{may_notify}}", MAY_NOTIFY.to_string()),
        ("{{channel}}", quote_literal(&options.channel)),
        ("{{notify}}", quote_literal(&notify)),
    ];
    common
        .into_iter()
        .chain(packs.into_iter().flatten())
        .collect()
}

/// Returns the declarations of the variables that [`condition`] sets; nothing without `--where`.
fn declare_condition(options: &TriggerOptions) -> &'static str {
    match &options.condition {
        Some(_) => {
            "  -- What has happened to the rows that fulfil the condition.
  operation payload%TYPE := TG_OP;
  was_in may_notify%TYPE := false;
  is_in may_notify%TYPE := false;
"
        }
        None => "",
    }
}

/// Returns the statements that end the trigger at a row which fulfils the condition neither before
/// nor after; nothing without `--where`. An UPDATE by which a row begins to fulfil the condition is
/// an INSERT to those who listen, and one by which it ceases to is a DELETE.
fn condition(options: &TriggerOptions) -> String {
    let Some(condition) = &options.condition else {
        return String::new();
    };
    fill_places(
        CONDITION,
        &[
            ("{{row}}", ROW_NAME.to_string()),
            ("{{fulfils}}", condition.of_row.clone()),
        ],
    )
}

/// The statements that look at the condition. The block makes one name of OLD and of NEW.
const CONDITION: &str = "    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' OR TG_OP \
    OPERATOR(pg_catalog.=) 'DELETE' THEN
      DECLARE {{row}} ALIAS FOR OLD;
      BEGIN
        was_in := ({{fulfils}}) IS TRUE;
      END;
    END IF;
    IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' OR TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
      DECLARE {{row}} ALIAS FOR NEW;
      BEGIN
        is_in := ({{fulfils}}) IS TRUE;
      END;
    END IF;
    IF TG_OP OPERATOR(pg_catalog.<>) 'TRUNCATE' THEN
      IF NOT was_in AND NOT is_in THEN
        RETURN nothing;
      ELSIF NOT was_in THEN
        operation := 'INSERT';
      ELSIF NOT is_in THEN
        operation := 'DELETE';
      END IF;
    END IF;
";

/// The expression whether the writer may call `pg_notify`. Who may not sends by NOTIFY, which asks
/// for no right and costs more.
const MAY_NOTIFY: &str = "pg_catalog.has_function_privilege(
      'pg_catalog.pg_notify(pg_catalog.text, pg_catalog.text)'::pg_catalog.regprocedure, 'EXECUTE')";

/// The text that opens the block in which a failure is caught. The comments are part of the
/// digest of every installed function: another word makes all of those functions outdated.
const GUARD: &str = "-- What can fail is done in here: a failure becomes a request to read the \
    table again, never an error of the writer.
  -- The notify stands behind it: inside, each would keep 8 kB of memory until the end of the \
  transaction.
  BEGIN";

/// The text that closes the block in which a failure is caught.
///
/// The inner block is for a failure of the failure's own message: the last resort is a literal.
const UNGUARD: &str = "  EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN
    removal := NULL;
    BEGIN
      payload := pg_catalog.concat({{reload}}, ',\"xid\":\"', \
      pg_catalog.pg_current_xact_id(),
        '\",\"why\":\"the trigger failed with SQLSTATE ', SQLSTATE, '\"}');
    EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN
      payload := {{last_resort}};
    END;
  END;
";

/// Returns [`UNGUARD`] with its places filled.
fn unguard(table: &CatalogTable, reload: &str) -> String {
    fill_places(
        UNGUARD,
        &[
            ("{{reload}}", reload.to_string()),
            ("{{last_resort}}", last_resort(table)),
        ],
    )
}

/// Returns the payload that is sent if not even the failure can be put into one, as an SQL literal.
fn last_resort(table: &CatalogTable) -> String {
    quote_literal(&format!(
        concat!(
            r#"{{"table":{},"action":"reload","id":null,"schema":{},"#,
            r#""why":"the trigger failed"}}"#
        ),
        json_string(&table.name),
        json_string(&table.schema)
    ))
}

/// Returns the branch for TRUNCATE of a partition; nothing for a table without partitions.
///
/// The trigger does not know which rows the root has left, so the payload asks to read the root
/// again. A leaf that was detached has nothing to announce.
fn truncate_of_leaf(table: &CatalogTable, reload: &str) -> String {
    if table.kind != RelationKind::Partitioned {
        return String::new();
    }
    format!(
        "    ELSIF {} THEN
      IF pg_catalog.pg_partition_root(TG_RELID) OPERATOR(pg_catalog.=) TG_RELID OR \
      pg_catalog.pg_partition_root(TG_RELID) IS NULL THEN
        RETURN nothing;
      END IF;
      payload := pg_catalog.concat({reload}, ',\"xid\":\"', \
      pg_catalog.pg_current_xact_id(),
        '\",\"why\":\"a partition was truncated\"}}');
",
        is_of_leaf(table)
    )
}

/// Returns the condition that a trigger of a leaf has fired, or of a former leaf.
fn is_of_leaf(table: &CatalogTable) -> String {
    format!(
        "TG_TABLE_NAME OPERATOR(pg_catalog.<>) {}::pg_catalog.name
      OR TG_TABLE_SCHEMA OPERATOR(pg_catalog.<>) {}::pg_catalog.name",
        quote_literal(&table.name),
        quote_literal(&table.schema)
    )
}

/// Returns the statements that end the trigger at an UPDATE which changes nothing that is sent;
/// nothing without `--on-change`.
///
/// Values are compared bit by bit: `=` calls 1.10 and 1.1 equal, and json has no `=`. With
/// `--no-data` all columns are compared, since a listener that gets keys alone wants to know of
/// every change.
fn unless_changed(
    table: &CatalogTable,
    sent: &[&CatalogColumn],
    options: &TriggerOptions,
) -> String {
    if !options.on_change {
        return String::new();
    }
    let all: Vec<&CatalogColumn> = table.columns.iter().collect();
    // The trigger sees NULL in a virtual column, which changes with the columns that it is computed
    // from. Which ones these are is not known here, so compare all.
    let sends_virtual = sent.iter().any(|column| column.is_virtual);
    let compared = if options.no_data || sends_virtual {
        &all
    } else {
        sent
    };
    format!(
        "      IF NOT pg_catalog.record_image_ne(ROW({}), ROW({})) THEN
        RETURN nothing;
      END IF;
",
        stored_columns("OLD", compared),
        stored_columns("NEW", compared)
    )
}

/// Returns those of `columns` that are stored, in the record `row` (`NEW` or `OLD`), with commas.
fn stored_columns(row: &str, columns: &[&CatalogColumn]) -> String {
    columns
        .iter()
        .filter(|column| !column.is_virtual)
        .map(|column| format!("{row}.{}", quote_identifier(&column.name)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Returns the template with its places filled.
///
/// One pass over the template fills all places. A value is never searched for places, so a table
/// may be called `{{channel}}`.
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

#[cfg(test)]
mod tests {
    use super::*;

    // PostgreSQL cuts a name of more than 63 bytes silently: these two would become one trigger.
    // The characters have two bytes each, so a cut at a fixed byte would split one.
    #[test]
    fn long_names_are_shortened_and_stay_apart() {
        let a = format!("{}a", "é".repeat(31));
        let b = format!("{}b", "é".repeat(31));
        for suffix in ["_cache_notify", "_cache_notify_truncate"] {
            assert!(shortened(&a, suffix).len() <= 63);
            assert_ne!(shortened(&a, suffix), shortened(&b, suffix));
        }
        assert!(function_name(&a).len() <= 63);
        assert_ne!(function_name(&a), function_name(&b));
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
