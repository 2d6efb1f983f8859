//! Tables as PostgreSQL describes them: columns, key, triggers and the functions they call.
//!
//! Each question is one SQL file in `catalog/`. All are asked inside a [`Catalog`], a transaction
//! in which no object of another role can stand in for one of PostgreSQL's own.

mod name;
mod resolve;
mod transaction;

use crate::postgres::connection::traced::Traced;
use crate::postgres::quote::quote_identifier;
use crate::postgres::schema::fingerprint::{Fingerprint, look};
use crate::value::CellType;
pub use name::parse_name;
pub use resolve::resolve;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio_postgres::types::Type;
use tokio_postgres::{Error, GenericClient, Row};
pub(in crate::postgres) use transaction::who_is;
pub use transaction::{Catalog, CatalogAccess};

/// The reason why the catalogue could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The server refused a statement.
    #[error("read the catalogue")]
    Server(#[from] Error),
    /// The server refused to look for a table.
    #[error("find the table {name}")]
    Find {
        /// The name of the table.
        name: String,
        /// The server's error.
        #[source]
        error: Error,
    },
    /// The table with this oid was dropped meanwhile.
    #[error("the table with oid {0} is gone")]
    Gone(u32),
    /// This text stands for the name of a table and is no name. The message does not repeat a text
    /// that may be a connection string with a password.
    #[error("{}", name::refused(.0))]
    NoName(String),
    /// No table has this name.
    #[error("the table {0} does not exist")]
    NoTable(String),
    /// Tables were altered during every attempt to describe them.
    #[error("the tables were altered while they were described: try again")]
    Altered,
    /// Tables were renamed during every attempt to describe them.
    #[error("the tables were renamed while they were described: try again")]
    Renamed,
}

/// A relation, with everything that the catalogue says of it here.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts of the catalogue, each on its own"
)]
#[derive(Debug, Clone)]
pub struct CatalogTable {
    /// The relation's oid (`pg_class.oid`).
    pub oid: u32,
    /// The name of the relation's schema.
    pub schema: String,
    /// The name of the relation, without the schema.
    pub name: String,
    /// The kind of relation.
    pub kind: RelationKind,
    /// Whether the relation is temporary.
    pub is_temporary: bool,
    /// Whether the relation is a partition of another table.
    pub is_partition: bool,
    /// The name of the role that owns the relation.
    pub owner: String,
    /// Whether the role that asks is not the owner and may give a function to the owner: it is a
    /// member of that role.
    pub can_give_to_owner: bool,
    /// Whether the role that asks may act as the owner.
    pub is_owned: bool,
    /// Whether the role that asks may create a function in the relation's schema.
    pub can_create: bool,
    /// Whether the role that asks is a superuser and the owner is not. The owner can make
    /// PostgreSQL run functions while it plans a query of the table, with the rights of the role
    /// that asks.
    pub is_distrusted: bool,
    /// Whether tables inherit from this one (`INHERITS`; hypertables too). A read of this table
    /// returns their rows, and no trigger of this table announces them.
    pub has_children: bool,
    /// Whether the table inherits from others (INHERITS), and is no partition.
    pub has_parents: bool,
    /// Whether a partition of the table is partitioned as well.
    pub has_branches: bool,
    /// How many rows the table has, as of the last ANALYZE or by the server's statistics; `None` if
    /// neither knows.
    pub estimated_rows: Option<u64>,
    /// The columns, in table order.
    pub columns: Vec<CatalogColumn>,
    /// The columns that identify a row; `None` if there are no such columns.
    pub key: Option<CatalogKey>,
    /// The triggers, without internal ones and without clones of a partitioned table's triggers.
    pub triggers: Vec<Trigger>,
    /// The leaves, if the table is partitioned.
    pub leaves: Vec<Leaf>,
    /// The fingerprint as of just before the table was described. If the table is altered
    /// meanwhile, a later fingerprint differs.
    pub fingerprint: Fingerprint,
}

/// A partition that holds rows.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The partition's oid (`pg_class.oid`).
    pub oid: u32,
    /// The name of the partition's schema.
    pub schema: String,
    /// The name of the partition, without the schema.
    pub name: String,
    /// Whether the partition is a foreign table.
    pub is_foreign: bool,
    /// The partition's own triggers, without clones of the root's triggers.
    pub triggers: Vec<Trigger>,
}

impl Leaf {
    /// Returns `schema.table` without quotes, for people.
    pub fn display_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Returns `schema.table` as identifiers in SQL.
    pub fn sql_name(&self) -> String {
        format!(
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&self.name)
        )
    }
}

/// The kind of a relation (`pg_class.relkind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    /// An ordinary table.
    Table,
    /// A partitioned table.
    Partitioned,
    /// A view.
    View,
    /// A materialised view.
    MaterializedView,
    /// A foreign table.
    Foreign,
    /// A sequence, an index, a composite type, and so on.
    Other,
}

/// A column of a table.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts of the catalogue, each on its own"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogColumn {
    /// The name of the column.
    pub name: String,
    /// The column's type without a modifier, as it is written in SQL.
    pub type_name: String,
    /// How a cache keeps the column's values.
    pub kind: CellType,
    /// Whether no row can have NULL here: the column is NOT NULL, and the constraint is valid.
    pub not_null: bool,
    /// Whether the column is computed when it is read (PostgreSQL 18). A trigger sees NULL.
    pub is_virtual: bool,
    /// Whether the column is computed from others, when a row is written or when it is read.
    pub is_generated: bool,
    /// Whether the values have no fixed length.
    pub is_varlena: bool,
    /// Whether the text of a value may depend on any setting of the session: the type, or a part of
    /// the type, belongs to an extension.
    pub follows_anything: bool,
    /// The type without domains over it or over its elements, as it is written in SQL. Reading a
    /// value as this type evaluates no constraint of a domain, except one of a field or a bound.
    pub plain_type_name: String,
    /// Whether the type of the elements, of a field or of the bounds is a domain.
    pub has_inner_domain: bool,
    /// Whether the type is an enum, or an array of an enum.
    pub is_enum: bool,
    /// Whether the type is an array, or a domain over an array.
    pub is_array: bool,
    /// Whether the collation treats some texts that differ as equal (`deterministic = false`).
    pub is_nondeterministic: bool,
    /// The oids of the type and of everything that the type is made of: domains, elements, fields
    /// and bounds.
    pub made_of: Vec<u32>,
}

#[cfg(test)]
impl CatalogColumn {
    /// Returns a column of a test, whose values have no fixed length.
    pub(in crate::postgres) fn of_test(name: &str, kind: CellType) -> Self {
        Self {
            name: name.to_string(),
            type_name: String::new(),
            kind,
            not_null: false,
            is_virtual: false,
            is_generated: false,
            is_varlena: true,
            follows_anything: false,
            plain_type_name: String::new(),
            has_inner_domain: false,
            is_enum: false,
            is_array: false,
            is_nondeterministic: false,
            made_of: Vec::new(),
        }
    }
}

impl CatalogColumn {
    /// Returns whether the values are written as names of other objects, as those of `regclass`
    /// are. A rename of such an object changes the text, and nothing announces it.
    pub fn names_objects(&self) -> bool {
        // regproc; regprocedure, regoper, regoperator, regclass, regtype; regconfig; regdictionary;
        // regnamespace; regrole; regcollation.
        self.made_of
            .iter()
            .any(|part| matches!(part, 24 | 2202..=2206 | 3734 | 3769 | 4089 | 4096 | 4191))
    }
}

/// The columns that identify a row: the primary key, or else a unique index that identifies every
/// row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogKey {
    /// The names of the key's columns, in key order.
    pub columns: Vec<String>,
    /// Whether two rows may have the same key until the end of a transaction.
    pub is_deferrable: bool,
}

/// A trigger of a table or of a partition.
#[derive(Debug, Clone)]
pub struct Trigger {
    /// The name of the trigger.
    pub name: String,
    /// In which sessions the trigger fires (`pg_trigger.tgenabled`).
    pub enabled: Enabled,
    /// The trigger's events and timing, as bits (`pg_trigger.tgtype`).
    pub kind: i16,
    /// The arguments of the trigger, which the function sees as `TG_ARGV`.
    pub arguments: Vec<String>,
    /// Whether the trigger has a WHEN condition or a column list.
    pub is_conditional: bool,
    /// Whether the trigger is a constraint trigger, which may fire at the end of the transaction.
    pub is_constraint: bool,
    /// The name of the transition table of the rows before the statement.
    pub old_table: Option<String>,
    /// The name of the transition table of the rows after the statement.
    pub new_table: Option<String>,
    /// The function that the trigger calls.
    pub function: Function,
}

impl Trigger {
    /// Returns the names of the transition tables: of the rows before the statement, and after it.
    pub fn transition_tables(&self) -> (Option<&str>, Option<&str>) {
        (self.old_table.as_deref(), self.new_table.as_deref())
    }
}

/// The sessions in which a trigger fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enabled {
    /// All but those with `session_replication_role = replica`.
    Origin,
    /// All sessions.
    Always,
    /// Only those with `session_replication_role = replica`.
    Replica,
    /// None.
    Disabled,
}

impl Enabled {
    /// Returns the word that `status` shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Origin => "enabled",
            Self::Always => "always",
            Self::Replica => "replica only",
            Self::Disabled => "disabled",
        }
    }
}

/// The function that a trigger calls.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts of the catalogue, each on its own"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// The function's oid (`pg_proc.oid`).
    pub oid: u32,
    /// The name of the function's schema.
    pub schema: String,
    /// The name of the function, without the schema.
    pub name: String,
    /// The name of the role that owns the function.
    pub owner: String,
    /// Whether the function's owner is the table's owner, a member of that role (a superuser is),
    /// or the role that asks. A function of another owner may have been planted.
    pub is_trusted: bool,
    /// Whether the role that asks may act as the function's owner, and so replace the function.
    pub is_owned: bool,
    /// Whether a trigger of another table calls the function as well.
    pub is_shared: bool,
    /// Whether the function runs with the rights of its owner (SECURITY DEFINER).
    pub is_security_definer: bool,
    /// The text of the function's body.
    pub source: String,
    /// The SET clauses, each as `name=value`.
    pub settings: Vec<String>,
    /// The comment on the function.
    pub comment: Option<String>,
}

impl CatalogTable {
    /// Returns `schema.table` without quotes, for people.
    pub fn display_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Returns `schema.table` as identifiers in SQL.
    pub fn sql_name(&self) -> String {
        format!(
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&self.name)
        )
    }

    /// Returns `schema.table` as a person writes it and `to_regclass` reads it: a part is quoted if
    /// it is not a plain name.
    pub fn written_name(&self) -> String {
        format!(
            "{}.{}",
            written_part(&self.schema),
            written_part(&self.name)
        )
    }

    /// Returns `schema.table` as it is typed on a command line: quoted for SQL and again for the
    /// shell if a part is not a plain name.
    pub fn typed_name(&self) -> String {
        let name = self.written_name();
        if name.contains('"') {
            format!("'{}'", name.replace('\'', "'\\''"))
        } else {
            name
        }
    }

    /// Returns the column with the name that a person gave. If no column has exactly this name, it
    /// is folded to lower case, as SQL does.
    pub fn column(&self, name: &str) -> Option<&CatalogColumn> {
        self.exact_column(name)
            .or_else(|| self.exact_column(&name.to_lowercase()))
    }

    fn exact_column(&self, name: &str) -> Option<&CatalogColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// Returns a part of a name as a person writes it: in quotes, unless it is a plain name.
fn written_part(name: &str) -> String {
    let is_plain = !name.starts_with(|c: char| c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain {
        name.to_string()
    } else {
        quote_identifier(name)
    }
}

/// Describes relations by their oids, in the order of `oids`.
///
/// # Errors
/// Returns an error if the server refuses a statement, if a relation has been dropped meanwhile, or
/// if relations were altered during every attempt.
pub async fn describe(
    catalog: &Catalog<'_>,
    oids: &[u32],
) -> Result<Vec<CatalogTable>, CatalogError> {
    /// How long the tables are described again and again, if they are altered meanwhile. A writer's
    /// TRUNCATE counts as well, since it gives a table other files, and some come at a high rate.
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut before = look(&**catalog, oids).await?;
    if catalog.is_of_one_moment() {
        return describe_as(catalog, oids, &before).await;
    }
    let give_up = Instant::now() + PATIENCE;
    // Several statements describe a table, and here each sees the table as of its own time. Without
    // a look before and a look behind them:
    // 1. The look sees a column of type bigint.
    // 2. The column becomes double precision, and is described so.
    // 3. The column becomes bigint again before the table is read.
    // 4. The fingerprint of the read is that of the look, so its bigint values pass for double
    //    precision.
    loop {
        let tables = describe_as(catalog, oids, &before).await;
        let behind = look(&**catalog, oids).await?;
        if behind == before {
            return tables;
        }
        if Instant::now() > give_up {
            return Err(CatalogError::Altered);
        }
        before = behind;
    }
}

/// Describes relations, each with its fingerprint among `fingerprints`.
async fn describe_as(
    catalog: &Catalog<'_>,
    oids: &[u32],
    fingerprints: &[Fingerprint],
) -> Result<Vec<CatalogTable>, CatalogError> {
    let relations = ask(catalog, include_str!("catalog/relations.sql"), oids).await?;
    let leaf_oids: Vec<u32> = relations
        .iter()
        .flat_map(|row| row.get::<_, Vec<u32>>("leaves"))
        .collect();
    let relations = Answer::new(relations);
    let leaf_names = ask(catalog, include_str!("catalog/leaves.sql"), &leaf_oids).await?;
    let leaf_names = Answer::new(leaf_names);
    let leaf_triggers = ask(catalog, include_str!("catalog/triggers.sql"), &leaf_oids).await?;
    let leaf_triggers = Answer::new(leaf_triggers);
    let columns = ask(catalog, include_str!("catalog/columns.sql"), oids).await?;
    let columns = Answer::new(columns);
    let keys = Answer::new(ask(catalog, include_str!("catalog/keys.sql"), oids).await?);
    let triggers = Answer::new(ask(catalog, include_str!("catalog/triggers.sql"), oids).await?);
    let fingerprints: HashMap<u32, &Fingerprint> = fingerprints
        .iter()
        .map(|fingerprint| (fingerprint.relation(), fingerprint))
        .collect();
    oids.iter()
        .map(|&oid| {
            let relation = relations.of(oid).next().ok_or(CatalogError::Gone(oid))?;
            let fingerprint = fingerprints.get(&oid).copied();
            // -1 stands for an unknown number.
            let rows: f64 = relation.get("rows");
            let own_leaves: Vec<u32> = relation.get("leaves");
            // The first of a table's keys is the best one.
            let key = keys.of(oid).next().map(|row| CatalogKey {
                columns: row.get("columns"),
                is_deferrable: row.get("is_deferrable"),
            });
            Ok(CatalogTable {
                oid,
                fingerprint: fingerprint.ok_or(CatalogError::Gone(oid))?.clone(),
                schema: relation.get("schema"),
                name: relation.get("name"),
                kind: relation_kind(relation.get("kind")),
                is_temporary: relation.get("is_temporary"),
                is_partition: relation.get("is_partition"),
                owner: relation.get("owner"),
                can_give_to_owner: relation.get("can_give_to_owner"),
                is_owned: relation.get("is_owned"),
                can_create: relation.get("can_create"),
                is_distrusted: relation.get("is_distrusted"),
                has_children: relation.get("has_children"),
                has_parents: relation.get("has_parents"),
                has_branches: relation.get("has_branches"),
                estimated_rows: (rows >= 0.0).then_some(rows as u64),
                columns: with_key_kinds(columns.of(oid).map(column), key.as_ref()),
                key,
                triggers: triggers.of(oid).map(trigger).collect(),
                leaves: {
                    let rows = own_leaves.iter().flat_map(|leaf| leaf_names.of(*leaf));
                    let mut leaves: Vec<Leaf> = rows.map(|row| leaf(row, &leaf_triggers)).collect();
                    leaves.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
                    leaves
                },
            })
        })
        .collect()
}

/// Runs a statement whose one parameter is an array of oids.
async fn ask(catalog: &Catalog<'_>, sql: &str, oids: &[u32]) -> Result<Vec<Row>, Error> {
    catalog.query_typed(sql, &[(&oids, Type::OID_ARRAY)]).await
}

/// The rows of an answer, by the relation that they describe.
struct Answer(HashMap<u32, Vec<Row>>);

impl Answer {
    fn new(rows: Vec<Row>) -> Self {
        let mut by_relation: HashMap<u32, Vec<Row>> = HashMap::new();
        for row in rows {
            by_relation
                .entry(row.get("relation"))
                .or_default()
                .push(row);
        }
        Self(by_relation)
    }

    /// Returns the rows that describe the relation with this oid, in the order of the answer.
    fn of(&self, oid: u32) -> impl Iterator<Item = &Row> {
        self.0.get(&oid).into_iter().flatten()
    }
}

fn leaf(row: &Row, leaf_triggers: &Answer) -> Leaf {
    let oid = row.get("relation");
    Leaf {
        oid,
        schema: row.get("schema"),
        name: row.get("name"),
        is_foreign: row.get("is_foreign"),
        triggers: leaf_triggers.of(oid).map(trigger).collect(),
    }
}

fn relation_kind(kind: &str) -> RelationKind {
    match kind {
        "r" => RelationKind::Table,
        "p" => RelationKind::Partitioned,
        "v" => RelationKind::View,
        "m" => RelationKind::MaterializedView,
        "f" => RelationKind::Foreign,
        _ => RelationKind::Other,
    }
}

fn column(row: &Row) -> CatalogColumn {
    CatalogColumn {
        name: row.get("name"),
        type_name: row.get("type_name"),
        // The JSON of a type that is not built in depends on casts, which its owner can make. So
        // the text of the type's output function is kept.
        kind: match (row.get("is_foreign"), row.get("is_array")) {
            (true, true) => CellType::WrittenArray,
            (true, false) => CellType::Written,
            (false, _) => CellType::of_base_type(row.get("base_type")),
        },
        plain_type_name: row.get("plain_type_name"),
        has_inner_domain: row.get("has_inner_domain"),
        is_enum: row.get("is_enum"),
        is_array: row.get("is_array"),
        not_null: row.get("not_null"),
        is_virtual: row.get("is_virtual"),
        is_generated: row.get("is_generated"),
        is_varlena: row.get("is_varlena"),
        follows_anything: row.get("follows_anything"),
        is_nondeterministic: row.get("is_nondeterministic"),
        made_of: row.get("made_of"),
    }
}

/// Returns the columns of a table with this key. An array in the key is kept as the text that
/// PostgreSQL writes: `[0:1]={1,2}` and `{1,2}` are two keys, and have the same JSON.
fn with_key_kinds(
    columns: impl Iterator<Item = CatalogColumn>,
    key: Option<&CatalogKey>,
) -> Vec<CatalogColumn> {
    let mut columns: Vec<CatalogColumn> = columns.collect();
    for column in &mut columns {
        let is_key = key.is_some_and(|key| key.columns.contains(&column.name));
        if is_key && column.is_array {
            column.kind = CellType::Written;
        }
    }
    columns
}

fn trigger(row: &Row) -> Trigger {
    let arguments: Vec<u8> = row.get("arguments");
    Trigger {
        name: row.get("name"),
        enabled: match row.get::<_, &str>("enabled") {
            "A" => Enabled::Always,
            "R" => Enabled::Replica,
            "D" => Enabled::Disabled,
            _ => Enabled::Origin,
        },
        kind: row.get("kind"),
        // `tgargs` is one bytea, in which each argument ends with a zero byte.
        arguments: arguments
            .split_inclusive(|&byte| byte == 0)
            .map(|argument| {
                String::from_utf8_lossy(argument.strip_suffix(&[0]).unwrap_or(argument))
                    .into_owned()
            })
            .collect(),
        is_conditional: row.get("is_conditional"),
        old_table: row.get("old_table"),
        new_table: row.get("new_table"),
        is_constraint: row.get("is_constraint"),
        function: function(row),
    }
}

fn function(row: &Row) -> Function {
    Function {
        oid: row.get("function"),
        schema: row.get("function_schema"),
        name: row.get("function_name"),
        owner: row.get("function_owner"),
        is_trusted: row.get("function_is_trusted"),
        is_owned: row.get("function_is_owned"),
        is_shared: row.get("function_is_shared"),
        is_security_definer: row.get("function_is_security_definer"),
        source: row.get("function_source"),
        settings: row
            .get::<_, Option<Vec<String>>>("function_settings")
            .unwrap_or_default(),
        comment: row.get("function_comment"),
    }
}

/// A function of another role that PostgreSQL may run while it plans a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFunction {
    /// The function, as `schema.function`, quoted as SQL needs it.
    pub name: String,
    /// The name of the role that owns the function.
    pub owner: String,
}

/// Returns a function of another role, not a superuser's, that PostgreSQL may run while it plans a
/// query of the table with this oid; `None` if there is none.
///
/// The answer holds only while the table is locked in SHARE UPDATE EXCLUSIVE mode: the creation of
/// an index or of statistics waits for that lock.
///
/// # Errors
/// Returns an error if the server refuses.
pub async fn foreign_code(
    client: &Traced<impl GenericClient + Sync>,
    oid: u32,
) -> Result<Option<ForeignFunction>, Error> {
    let row = client
        .query_typed_opt(include_str!("catalog/code.sql"), &[(&oid, Type::OID)])
        .await?;
    Ok(row.map(|row| ForeignFunction {
        name: row.get("function"),
        owner: row.get("owner"),
    }))
}

/// Returns the functions without arguments that have a name and stand in the schema of a table,
/// with the oid of that table. `wanted` has the oid and the name of each. Who is trusted, and
/// whether the function is shared, is told from the table's point of view.
///
/// # Errors
/// Returns an error if the server refuses.
pub async fn find_functions(
    catalog: &Catalog<'_>,
    wanted: &[(u32, String)],
) -> Result<Vec<(u32, Function)>, CatalogError> {
    let (oids, names): (Vec<u32>, Vec<&str>) = wanted
        .iter()
        .map(|(oid, name)| (*oid, name.as_str()))
        .unzip();
    let rows = catalog
        .query_typed(
            include_str!("catalog/function.sql"),
            &[(&oids, Type::OID_ARRAY), (&names, Type::TEXT_ARRAY)],
        )
        .await?;
    let functions = rows.iter().map(|row| (row.get("relation"), function(row)));
    Ok(functions.collect())
}

/// Reads the triggers of tables, and of their leaves, again: they are put in the place of those
/// that the tables had.
///
/// # Errors
/// Returns an error if the server refuses.
pub async fn refresh_triggers(
    catalog: &Catalog<'_>,
    tables: &mut [CatalogTable],
) -> Result<(), CatalogError> {
    let leaves = tables.iter().flat_map(|table| &table.leaves);
    let mut oids: Vec<u32> = leaves.map(|leaf| leaf.oid).collect();
    oids.extend(tables.iter().map(|table| table.oid));
    let triggers = Answer::new(ask(catalog, include_str!("catalog/triggers.sql"), &oids).await?);
    for table in tables {
        table.triggers = triggers.of(table.oid).map(trigger).collect();
        for leaf in &mut table.leaves {
            leaf.triggers = triggers.of(leaf.oid).map(trigger).collect();
        }
    }
    Ok(())
}

/// Returns whether tables are defined as they were when they were described.
///
/// # Errors
/// Returns an error if the server refuses.
pub async fn are_as_described(
    catalog: &Catalog<'_>,
    tables: &[CatalogTable],
) -> Result<bool, CatalogError> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let seen = look(&**catalog, &oids).await?;
    let seen: HashMap<u32, &Fingerprint> = seen
        .iter()
        .map(|fingerprint| (fingerprint.relation(), fingerprint))
        .collect();
    Ok(tables.iter().all(|table| {
        seen.get(&table.oid)
            .is_some_and(|seen| **seen == table.fingerprint)
    }))
}
