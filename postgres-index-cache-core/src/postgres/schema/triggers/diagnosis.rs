//! The one diagnosis of a table: everything that keeps the table's changes from being announced and
//! followed exactly.
//!
//! `status`, `verify`, the causes of findings, a replica and the plans of `install-triggers` all
//! ask here. So no command calls wrong what another one calls right.
//!
//! [`check_table`] looks at the table alone, in a file of its own; [`diagnose`] also looks at the
//! triggers, in five parts: the row trigger, the contract with its function, the function,
//! TRUNCATE, and the columns.

use super::check_table::{check_bulk, check_table};
use super::made_for::{drift, is_made_by_pgic, sends_text_of};
use super::problem::{Problem, Remedy, Severity, critical, warning};
use crate::DEFAULT_CACHE_CHANNEL;
use crate::postgres::quote::quote_identifier;
use crate::postgres::schema::catalog::{CatalogTable, Enabled, Function, Leaf, Trigger};
use crate::postgres::schema::triggers::{
    Announced, BEFORE, BULK_EVENTS, FOR_EACH_ROW, INSTEAD_OF, ROW_CHANGES, TRUNCATE_EVENT,
    announced, announces, is_edited, is_ours, is_statement_trigger, read_comment,
    untrusted_columns,
};

/// A diagnosis in progress: the table, its triggers, and the problems found so far.
struct Diagnosis<'a> {
    table: &'a CatalogTable,
    /// The name of the table, for messages.
    name: String,
    seen: &'a Announced<'a>,
    /// Whether the function is one that pgic makes.
    is_ours: bool,
    problems: Vec<Problem>,
}

/// Returns everything that is wrong with a table and with the triggers that announce its changes,
/// the worst first.
///
/// `is_current` says whether a function of ours is word for word the one that would be made today;
/// `None` if the caller does not know.
pub fn diagnose(table: &CatalogTable, is_current: Option<bool>) -> Vec<Problem> {
    if let Some(problem) = check_table(table) {
        return vec![problem];
    }
    let Some(seen) = announced(table) else {
        let text = format!("no trigger announces changes of {}", table.display_name());
        return vec![critical(
            "not-announced",
            text,
            install(table, "install them", ""),
        )];
    };
    let mut diagnosis = Diagnosis {
        table,
        name: table.display_name(),
        is_ours: seen.comment.is_some(),
        seen: &seen,
        problems: Vec::new(),
    };
    // The contract comes before the function and the columns: these two leave out what follows from
    // a problem of the contract.
    diagnosis.look_at_row_trigger();
    diagnosis.look_at_contract();
    diagnosis.look_at_function(is_current);
    diagnosis.look_at_truncate();
    diagnosis.look_at_columns();
    let mut problems = diagnosis.problems;
    // Stable: problems of one severity keep the order in which they were found.
    problems.sort_by_key(|problem| problem.severity);
    problems
}

/// Returns the command that makes a table's triggers right. `what` is the effect, as an imperative;
/// `options` are added to the command line, each with a space before it.
fn install(table: &CatalogTable, what: &'static str, options: &str) -> Remedy {
    Remedy::Command {
        what,
        command: format!("pgic install-triggers {}{options}", table.typed_name()),
    }
}

/// Returns whether a problem says that the function was made for another table or key, or was
/// edited. The remedy then makes a new function, which also settles smaller differences.
fn is_of_contract(problem: &Problem) -> bool {
    matches!(
        problem.code,
        "another-name" | "key-bounds" | "key-changed" | "key-unknown" | "function-edited"
    )
}

/// Returns whether a trigger fires in an ordinary session.
fn fires(trigger: &Trigger) -> bool {
    matches!(trigger.enabled, Enabled::Origin | Enabled::Always)
}

/// Returns whether a function that is not trusted has our comment.
fn is_planted(function: &Function) -> bool {
    !function.is_trusted && read_comment(function.comment.as_deref()).is_some()
}

/// Returns whether a leaf has a trigger of its own that announces TRUNCATE.
fn announces_truncate(leaf: &Leaf) -> bool {
    leaf.triggers
        .iter()
        .any(|trigger| trigger.kind == TRUNCATE_EVENT && announces(trigger))
}

impl Diagnosis<'_> {
    fn critical(&mut self, code: &'static str, text: String, remedy: Remedy) {
        self.problems.push(critical(code, text, remedy));
    }

    fn warning(&mut self, code: &'static str, text: String, remedy: Remedy) {
        self.problems.push(warning(code, text, remedy));
    }

    fn notice(&mut self, code: &'static str, text: String, remedy: Option<Remedy>) {
        self.problems.push(Problem {
            code,
            severity: Severity::Notice,
            text,
            remedy,
        });
    }

    /// Returns the command that makes this table's triggers right, without options.
    fn install(&self, what: &'static str) -> Remedy {
        install(self.table, what, "")
    }

    /// Returns a statement that enables a trigger; `mode` is `ENABLE` or `ENABLE ALWAYS`.
    fn alter_trigger(&self, what: &'static str, mode: &str, trigger: &Trigger) -> Remedy {
        let sql = format!(
            "ALTER TABLE {} {mode} TRIGGER {}",
            self.table.sql_name(),
            quote_identifier(&trigger.name)
        );
        Remedy::Sql { what, sql }
    }

    /// Returns the statement that drops a trigger.
    fn drop_trigger(&self, trigger: &Trigger) -> String {
        format!(
            "DROP TRIGGER {} ON {}",
            quote_identifier(&trigger.name),
            self.table.sql_name()
        )
    }

    /// Returns the remedy that makes a trigger fire: pgic if pgic made the trigger, else a
    /// statement.
    fn enable(&self, trigger: &Trigger) -> Remedy {
        if self.is_ours {
            self.install("enable it")
        } else {
            self.alter_trigger("enable it", "ENABLE", trigger)
        }
    }

    /// Returns the remedy that makes a trigger anew: pgic, which takes its place in one transaction
    /// if it has the name that pgic needs; else dropping it comes first.
    fn remake(&self, trigger: &Trigger) -> Remedy {
        if self.is_ours {
            return self.install("refresh it");
        }
        // A function of somebody else's that has the name which pgic needs must be replaced as
        // well: without the option, pgic refuses to.
        let function = &trigger.function;
        let table = self.table;
        let is_in_the_way = function.schema == table.schema
            && function.name == format!("notify_cache_change_{}", table.name);
        let option = if is_in_the_way {
            " --replace-function"
        } else {
            ""
        };
        if trigger.name == format!("{}_cache_notify", table.name) {
            let command = format!(
                "pgic install-triggers {} --replace-trigger{option}",
                table.typed_name()
            );
            return Remedy::Command {
                what: "replace it",
                command,
            };
        }
        Remedy::Steps {
            what: "replace it",
            sql: self.drop_trigger(trigger),
            command: format!("pgic install-triggers {}{option}", table.typed_name()),
        }
    }

    /// Looks at whether each change of a row fires an announcing trigger.
    fn look_at_row_trigger(&mut self) {
        let name = self.name.clone();
        let Some(row) = self.seen.row else {
            let text = format!("the row trigger of {name} is missing");
            return self.critical("not-announced", text, self.install("create it"));
        };
        let seen = self.seen;
        for row in seen.of_rows() {
            let trigger = format!("the trigger {} of {name}", row.name);
            if !fires(row) {
                let text = format!("{trigger} is {}", row.enabled.as_str());
                self.critical("trigger-disabled", text, self.enable(row));
            }
            if row.is_conditional {
                let text = format!(
                    "{trigger} has a condition or a list of columns: it does not fire for every \
                    change"
                );
                self.critical("trigger-conditional", text, self.remake(row));
            }
        }
        let trigger = format!("the trigger {} of {name}", row.name);
        // The clone of a trigger on a partition can be disabled alone.
        let enabling: Vec<&str> = self.table.fingerprint.enabling(&row.name).collect();
        if !enabling.is_empty() {
            let text = format!(
                "{trigger} is disabled on a partition, or does not fire there for what logical \
                replication writes to it"
            );
            let remedy = Remedy::Sql {
                what: "enable it",
                sql: enabling.join("; "),
            };
            self.critical("trigger-disabled", text, remedy);
        }
        // What is announced before a change may be altered or suppressed by other triggers.
        let is_after = row.kind & (BEFORE | INSTEAD_OF) == 0;
        let is_packing = BULK_EVENTS
            .iter()
            .any(|(_, event)| is_statement_trigger(row, *event));
        if self.seen.is_bulk() && !is_packing {
            let text = format!(
                "{trigger} does not fire once a statement with the rows of the statement, which \
                its function announces"
            );
            self.critical("trigger-timing", text, self.remake(row));
        } else if !self.seen.is_bulk() && (!is_after || row.kind & FOR_EACH_ROW == 0) {
            let text =
                format!("{trigger} does not fire after each row: what it announces may not happen");
            self.critical("trigger-timing", text, self.remake(row));
        }
        let events = self.seen.events();
        let missing: Vec<&str> = ["insert", "update", "delete"]
            .into_iter()
            .filter(|event| !events.contains(event))
            .collect();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            let text = format!("the triggers of {name} do not announce {missing}");
            self.critical("event-missing", text, self.remake(row));
        }
        if self.seen.is_bulk()
            && let Some(problem) = check_bulk(self.table)
        {
            return self.problems.push(problem);
        }
        self.look_at_statements_on_leaves();
        // A trigger that does not fire at all is reported above.
        if self.table.fingerprint.is_subscribed && row.enabled == Enabled::Origin {
            let text =
                format!("{trigger} does not fire for what logical replication writes to the table");
            let remedy = if self.is_ours {
                install(self.table, "let it", " --always")
            } else {
                self.alter_trigger("let it", "ENABLE ALWAYS", row)
            };
            self.critical("subscriber", text, remedy);
        }
    }

    /// Looks at whether statements that name a partition are announced: they fire the statement
    /// triggers of the partition, and not those of the root.
    fn look_at_statements_on_leaves(&mut self) {
        let function = self.seen.row.map(|row| row.function.oid);
        let announces = |leaf: &Leaf, event| {
            leaf.triggers.iter().any(|trigger| {
                is_statement_trigger(trigger, event)
                    && Some(trigger.function.oid) == function
                    && fires(trigger)
                    && !trigger.is_conditional
            })
        };
        let lacking: Vec<String> = self
            .table
            .leaves
            .iter()
            .filter(|leaf| !BULK_EVENTS.iter().all(|(_, event)| announces(leaf, *event)))
            .map(Leaf::display_name)
            .collect();
        if self.seen.is_bulk() && !lacking.is_empty() {
            let text = format!(
                "statements on the partitions {} of {} are not announced, or not all of them",
                lacking.join(", "),
                self.name
            );
            self.critical("event-missing", text, self.install("create the triggers"));
        }
    }

    /// Looks at whether the function sends this table's name and key.
    fn look_at_contract(&mut self) {
        let table = self.table;
        let name = self.name.clone();
        let key: &[String] = table.key.as_ref().map_or(&[], |key| &key.columns);
        let made_for = self
            .seen
            .comment
            .as_ref()
            .map(|comment| comment.key.as_deref());
        if made_for.is_none_or(|made_for| made_for == Some(key)) {
            self.look_for_bounds(key);
        }
        let Some(comment) = &self.seen.comment else {
            return self.look_for_column_id(key);
        };
        // The generic function takes the table's name from the trigger that calls it.
        if !comment.options.generic
            && (&comment.schema, &comment.table) != (&table.schema, &table.name)
        {
            let text = format!(
                "changes of {name} are announced as those of {}.{}, which it was called once",
                comment.schema, comment.table
            );
            self.critical("another-name", text, self.install("refresh it"));
        }
        match &comment.key {
            Some(made_for) if made_for != key => {
                let text = format!(
                    "the function of {name}'s trigger sends the key {}, and the table's key is {}",
                    made_for.join(", "),
                    key.join(", ")
                );
                self.critical("key-changed", text, self.install("refresh it"));
            }
            None => {
                let text = format!(
                    "the function of {name}'s trigger does not say for which key it was made"
                );
                self.critical("key-unknown", text, self.install("refresh it"));
            }
            Some(_) => {}
        }
    }

    /// Looks at whether the function sends the bounds of arrays in the key: it sends them as text.
    fn look_for_bounds(&mut self, key: &[String]) {
        let Some(row) = self.seen.row else {
            return;
        };
        let columns = key.iter().filter_map(|name| self.table.column(name));
        let without = columns
            .filter(|column| column.is_array)
            .find(|column| !sends_text_of(&row.function.source, &column.name));
        if let Some(column) = without {
            let text = format!(
                "the function of {}'s trigger sends the key column {} without the bounds of its \
                arrays, so that two keys may look like one",
                self.name, column.name
            );
            let remedy = if self.is_ours {
                self.install("refresh it")
            } else {
                self.remake(row)
            };
            self.critical("key-bounds", text, remedy);
        }
    }

    /// Looks at whether somebody else's function sends the column `id`, as the specification's
    /// does, though the table has another key.
    fn look_for_column_id(&mut self, key: &[String]) {
        let Some(row) = self.seen.row else {
            return;
        };
        // Of somebody else's function nothing but the text is known. A function that takes the key
        // in another way is not noticed here.
        let source = row.function.source.to_lowercase();
        let sends_id = source.contains("new.id") || source.contains("old.id");
        if sends_id && key != ["id"] {
            let text = format!(
                "the function of {}'s trigger sends the column id as the key, and the table's key \
                is {}",
                self.name,
                key.join(", ")
            );
            self.critical("key-changed", text, self.remake(row));
        }
    }

    /// Looks at whether the function is what its comment says, whose it is, where it notifies, and
    /// whether it is called more than once.
    fn look_at_function(&mut self, is_current: Option<bool>) {
        self.look_for_other_text(is_current);
        self.look_for_planted_function();
        self.look_for_notify();
        self.look_for_several_triggers();
    }

    /// Looks for a function of ours that was edited or is outdated.
    fn look_for_other_text(&mut self, is_current: Option<bool>) {
        let name = self.name.clone();
        let is_edited = self
            .seen
            .row
            .is_some_and(|row| is_ours(&row.function) && is_edited(&row.function));
        if self.is_ours && is_edited {
            let text = format!(
                "the function of {name}'s trigger was edited by hand: nobody knows what it \
                announces"
            );
            self.critical("function-edited", text, self.install("refresh it"));
        } else if is_current == Some(false) && !self.problems.iter().any(is_of_contract) {
            let function = self.seen.row.map(|row| &row.function);
            let text = match function.and_then(|function| drift(self.table, function)) {
                Some(drift) => format!(
                    "the columns of {name} have changed since the function of its trigger was \
                    made: {drift}"
                ),
                None => format!(
                    "the function of {name}'s trigger is not what this version of pgic makes for \
                    these columns"
                ),
            };
            self.warning("function-outdated", text, self.install("refresh it"));
        }
    }

    /// Looks for a function with our comment whose owner may have planted it.
    fn look_for_planted_function(&mut self) {
        let planted = self
            .seen
            .announcing
            .iter()
            .find(|trigger| is_planted(&trigger.function));
        if let Some(planted) = planted {
            let text = format!(
                "the function of {}'s trigger belongs to {}, who is neither the table's owner ({}) \
                nor a member of it",
                self.name, planted.function.owner, self.table.owner
            );
            let remedy = install(
                self.table,
                "replace it, and give it to the owner",
                " --replace-function",
            );
            self.warning("function-planted", text, remedy);
        }
    }

    /// Looks for a function that notifies nobody, or on an unknown channel, or in the plain form.
    fn look_for_notify(&mut self) {
        let name = self.name.clone();
        let Some(row) = self.seen.row else {
            return;
        };
        let function = &row.function;
        // A text without the word cannot notify by itself. It may call a function that does, of
        // which nothing is known, so such a table is not followed either.
        let notifies = self.is_ours || function.source.to_lowercase().contains("notify");
        if !notifies {
            let text = format!(
                "the function {}.{} of {name}'s trigger notifies nobody: its text has no pg_notify \
                and no NOTIFY",
                function.schema, function.name
            );
            self.critical("function-silent", text, self.remake(row));
        } else if self.seen.channel.is_none() {
            let text = format!(
                "on which channel the function {}.{} of {name}'s trigger notifies is not told by \
                its text and arguments",
                function.schema, function.name
            );
            let remedy = if self.is_ours {
                let option = format!(" --channel {DEFAULT_CACHE_CHANNEL}");
                install(self.table, "choose one", &option)
            } else {
                self.remake(row)
            };
            self.critical("channel-unknown", text, remedy);
        } else if !self.is_ours {
            if function.comment.is_none() && is_made_by_pgic(&function.source) {
                let text = format!(
                    "the function {}.{} of {name}'s trigger has lost its comment, which says that \
                    pgic made it and with which options (pg_restore --no-comments loses it): the \
                    table is followed as if changes came without transaction ids, and those that \
                    PostgreSQL folds or sends in another order leave stale rows; options that it \
                    had must be given again",
                    function.schema, function.name
                );
                return self.warning("plain-form", text, self.remake(row));
            }
            let text = format!(
                "the trigger of {name} sends the plain form, without transaction ids: changes that \
                PostgreSQL folds or sends in another order leave stale rows"
            );
            self.notice("plain-form", text, Some(self.remake(row)));
        }
    }

    /// Looks for several triggers that announce rows: each change is then announced more than once.
    fn look_for_several_triggers(&mut self) {
        let of_rows: Vec<&Trigger> = self
            .seen
            .announcing
            .iter()
            .copied()
            .filter(|trigger| trigger.kind & ROW_CHANGES != 0)
            .collect();
        // The triggers that the other parts of the diagnosis look at stay.
        let kept: Vec<&str> = self.seen.of_rows().map(|row| row.name.as_str()).collect();
        let extra = of_rows
            .iter()
            .filter(|trigger| !kept.contains(&trigger.name.as_str()));
        let drops: Vec<String> = extra.map(|trigger| self.drop_trigger(trigger)).collect();
        if drops.is_empty() {
            return;
        }
        let names: Vec<&str> = of_rows
            .iter()
            .map(|trigger| trigger.name.as_str())
            .collect();
        let text = format!(
            "{} triggers announce rows of {}: {}",
            of_rows.len(),
            self.name,
            names.join(", ")
        );
        let remedy = Remedy::Sql {
            what: match kept.len() {
                1 => "drop all but one",
                _ => "drop the others",
            },
            sql: drops.join("; "),
        };
        self.warning("several-triggers", text, remedy);
    }

    /// Looks at whether TRUNCATE is announced. If it is not, a cache keeps the rows until the next
    /// look at the table's files.
    fn look_at_truncate(&mut self) {
        let name = self.name.clone();
        let is_left_out = self
            .seen
            .options()
            .is_some_and(|options| options.no_truncate);
        match self.seen.truncate {
            None if is_left_out => {}
            None => {
                let text = format!(
                    "no trigger announces TRUNCATE of {name}: its rows would stay in a cache"
                );
                // Nobody knows whether a function of somebody else's can be called once a
                // statement: one that looks at NEW would fail the TRUNCATE. So its trigger is
                // replaced.
                let remedy = match self.seen.row {
                    Some(row) if !self.is_ours => self.remake(row),
                    Some(_) | None => self.install("create it"),
                };
                self.warning("truncate-missing", text, remedy);
            }
            Some(truncate) if !fires(truncate) => {
                let text = format!(
                    "the trigger {} of {name} is {}",
                    truncate.name,
                    truncate.enabled.as_str()
                );
                self.warning("truncate-disabled", text, self.enable(truncate));
            }
            Some(_) => {}
        }
        // PostgreSQL clones row triggers to the leaves, but no TRUNCATE triggers.
        let lacking: Vec<String> = self
            .table
            .leaves
            .iter()
            .filter(|leaf| !announces_truncate(leaf))
            .map(Leaf::display_name)
            .collect();
        if !lacking.is_empty() && self.is_ours && !is_left_out {
            let text = format!(
                "TRUNCATE of {name}'s partitions {} is not announced",
                lacking.join(", ")
            );
            self.warning("truncate-missing", text, self.install("create it"));
        }
    }

    /// Looks for columns whose values cannot be taken from payloads, or change with other objects.
    fn look_at_columns(&mut self) {
        let name = self.name.clone();
        let condition = self
            .seen
            .options()
            .and_then(|options| options.condition.as_ref());
        if let Some(condition) = condition
            && let Some(column) = condition.missing_column(self.table)
        {
            let text = format!(
                "the condition of {name}'s triggers, {}, looks at the column {column}, which is \
                gone",
                condition.sql
            );
            let remedy = Remedy::Advice(format!(
                "pgic install-triggers {} with another --where, or with --where true for all rows",
                self.table.typed_name()
            ));
            self.critical("condition-outdated", text, remedy);
        }
        // A virtual column is untrusted whatever function there is: no remedy would change that.
        let untrusted: Vec<&str> = untrusted_columns(self.table, self.seen.row)
            .into_iter()
            .filter(|column| self.sends(column))
            .filter(|column| {
                self.table
                    .column(column)
                    .is_some_and(|column| !column.is_virtual)
            })
            .collect();
        if self.is_ours && !untrusted.is_empty() && !self.problems.iter().any(is_of_contract) {
            let function = self.seen.row.map(|row| &row.function);
            let drift = function.and_then(|function| drift(self.table, function));
            let text = format!(
                "the function of {name}'s trigger was not made for the columns {}: rows are read \
                again by their keys{}",
                untrusted.join(", "),
                drift.map(|drift| format!(" ({drift})")).unwrap_or_default()
            );
            // A warning: no change is lost, but changed rows are refetched.
            self.warning("columns-outdated", text, self.install("refresh it"));
        }
        let named: Vec<&str> = self
            .table
            .columns
            .iter()
            .filter(|column| column.names_objects() && self.sends(&column.name))
            .map(|column| column.name.as_str())
            .collect();
        if !named.is_empty() {
            let text = format!(
                "the columns {} of {name} are written as names of other objects: a rename \
                elsewhere changes them, and announces nothing",
                named.join(", ")
            );
            self.notice("names-objects", text, None);
        }
    }

    /// Returns whether payloads have a column's value, as far as is known.
    fn sends(&self, column: &str) -> bool {
        self.seen
            .options()
            .is_none_or(|options| options.sends(column))
    }
}
