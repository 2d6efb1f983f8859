//! Tables as PostgreSQL describes them: columns, key, triggers and the functions they call.

mod name;
mod transaction;

use crate::postgres::connection::session::quote_identifier;
use crate::postgres::schema::fingerprint::{Fingerprint, look};
use crate::value::CellType;
pub use name::parse_name;
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;
pub(in crate::postgres) use transaction::who_is;
pub use transaction::{Catalog, CatalogAccess};

/// Why the catalogue could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The server refused.
    #[error("read the catalogue")]
    Server(#[from] tokio_postgres::Error),
    /// A table was dropped meanwhile.
    #[error("the table with oid {0} is gone")]
    Gone(u32),
    /// What was given for the name of a table is no name. It is not repeated: it may be a
    /// connection string with a password.
    #[error("{}", name::refused(.0))]
    NoName(String),
    /// Tables were altered each time while they were described.
    #[error("the tables were altered while they were described: try again")]
    Altered,
    /// Tables were renamed each time while they were described.
    #[error("the tables were renamed while they were described: try again")]
    Renamed,
}

/// A relation.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts of the catalogue, each on its own"
)]
#[derive(Debug, Clone)]
pub struct CatalogTable {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: RelationKind,
    /// Whether it is temporary.
    pub is_temporary: bool,
    /// Whether it is a partition of another table.
    pub is_partition: bool,
    /// The role that owns it, by name.
    pub owner: String,
    /// Whether the role that asks may act as its owner, and is another one.
    pub can_give_to_owner: bool,
    /// Whether the role that asks may act as its owner.
    pub is_owned: bool,
    /// Whether the role that asks may create a function beside it.
    pub can_create: bool,
    /// Whether the role that asks is a superuser and its owner is not: the owner may make
    /// PostgreSQL run functions while it plans a query of the table, with the rights of whoever
    /// asks.
    pub is_distrusted: bool,
    /// Whether tables inherit from it (`INHERITS`; hypertables too): their rows are seen by who
    /// reads it, and announced by no trigger of it.
    pub has_children: bool,
    /// How many rows it has, as of the last ANALYZE, or as the statistics have it; `None` where
    /// neither knows.
    pub estimated_rows: Option<u64>,
    /// Its columns, in order.
    pub columns: Vec<CatalogColumn>,
    /// What identifies a row.
    pub key: Option<CatalogKey>,
    /// Its triggers; neither internal ones nor clones of a partitioned table's.
    pub triggers: Vec<Trigger>,
    /// The leaves of a partitioned table.
    pub leaves: Vec<Leaf>,
    /// What was seen of it just before it was described: what is altered meanwhile differs.
    pub fingerprint: Fingerprint,
}

/// A partition that holds rows.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its own triggers, clones not counted.
    pub triggers: Vec<Trigger>,
}

impl Leaf {
    /// `schema.table`, for people.
    pub fn display_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// The name as it stands in SQL.
    pub fn sql_name(&self) -> String {
        format!(
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&self.name)
        )
    }
}

/// What a relation is (`pg_class.relkind`).
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
    /// A sequence, an index, a composite type.
    Other,
}

/// A column.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts of the catalogue, each on its own"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogColumn {
    /// Its name.
    pub name: String,
    /// Its type without a modifier, as SQL takes it.
    pub type_name: String,
    /// How its values are kept.
    pub kind: CellType,
    /// Whether it is declared NOT NULL, and that is known to hold for every row.
    pub not_null: bool,
    /// Whether it is computed when it is read (PostgreSQL 18): a trigger sees null.
    pub is_virtual: bool,
    /// Whether it is computed from others, when it is written or when it is read.
    pub is_generated: bool,
    /// Whether its values have no fixed length.
    pub is_varlena: bool,
    /// Whether its text may follow any setting: it is, or has in it, a type of an extension.
    pub follows_anything: bool,
    /// The type without domains over it or its elements, as SQL takes it: to read a value of it
    /// evaluates no constraint of a domain, but for one of a field or a bound.
    pub plain_type_name: String,
    /// Whether its elements, a field of it or its bounds are of a domain.
    pub has_inner_domain: bool,
    /// Whether it is an enum, or an array of one.
    pub is_enum: bool,
    /// Whether it is an array, or a domain over one.
    pub is_array: bool,
    /// Whether its collation calls texts equal that differ (`deterministic = false`).
    pub is_nondeterministic: bool,
    /// The type and everything it is made of: domains, elements, fields, bounds.
    pub made_of: Vec<u32>,
}

impl CatalogColumn {
    /// Whether its values are written as names of other objects (`regclass` and its kind): a rename
    /// elsewhere changes the text, and announces nothing.
    pub fn names_objects(&self) -> bool {
        self.made_of
            .iter()
            .any(|part| matches!(part, 24 | 2202..=2206 | 3734 | 3769 | 4089 | 4096 | 4191))
    }
}

/// What identifies a row: the primary key, else a unique index that can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogKey {
    /// Its columns, in key order.
    pub columns: Vec<String>,
    /// Whether two rows may share it until the end of a transaction.
    pub is_deferrable: bool,
}

/// A trigger.
#[derive(Debug, Clone)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// When it fires (`pg_trigger.tgenabled`).
    pub enabled: Enabled,
    /// Its events and timing, as bits (`pg_trigger.tgtype`).
    pub kind: i16,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Whether it has a WHEN condition or a column list.
    pub is_conditional: bool,
    /// Whether it is a constraint trigger, which may fire at the end of the transaction.
    pub is_constraint: bool,
    /// What it calls.
    pub function: Function,
}

/// When a trigger fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enabled {
    /// Not under `session_replication_role = replica`.
    Origin,
    /// Always.
    Always,
    /// Only under `session_replication_role = replica`.
    Replica,
    /// Never.
    Disabled,
}

impl Enabled {
    /// The word that `status` shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Origin => "enabled",
            Self::Always => "always",
            Self::Replica => "replica only",
            Self::Disabled => "disabled",
        }
    }
}

/// A trigger function.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts of the catalogue, each on its own"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// `pg_proc.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The role that owns it, by name.
    pub owner: String,
    /// Whether that role is the table's owner, a member of it (a superuser is), or the one that
    /// asks. Others may have planted it.
    pub is_trusted: bool,
    /// Whether the role that asks may act as its owner, and so replace it.
    pub is_owned: bool,
    /// Whether a trigger of another table calls it as well.
    pub is_shared: bool,
    /// Whether it runs with its owner's rights.
    pub is_security_definer: bool,
    /// Its text.
    pub source: String,
    /// Its SET clauses, as `name=value`.
    pub settings: Vec<String>,
    /// Its comment.
    pub comment: Option<String>,
}

impl CatalogTable {
    /// `schema.table`, for people.
    pub fn display_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// The name as it stands in SQL.
    pub fn sql_name(&self) -> String {
        format!(
            "{}.{}",
            quote_identifier(&self.schema),
            quote_identifier(&self.name)
        )
    }

    /// The name with its schema as a person writes it, and `to_regclass` reads it: quoted where it
    /// is not a plain one.
    pub fn written_name(&self) -> String {
        let is_plain = |name: &str| {
            !name.starts_with(|c: char| c.is_ascii_digit())
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let part = |name: &str| {
            if is_plain(name) {
                name.to_string()
            } else {
                quote_identifier(name)
            }
        };
        format!("{}.{}", part(&self.schema), part(&self.name))
    }

    /// The name as it is typed on a command line: quoted twice, for SQL and for the shell, where it
    /// is not a plain one.
    pub fn typed_name(&self) -> String {
        let name = self.written_name();
        if name.contains('"') {
            format!("'{}'", name.replace('\'', "'\\''"))
        } else {
            name
        }
    }

    /// A column by the name that a person gave: as it is written, else folded to lower case as SQL
    /// does.
    pub fn column(&self, name: &str) -> Option<&CatalogColumn> {
        let exact = |wanted: &str| self.columns.iter().find(|column| column.name == wanted);
        exact(name).or_else(|| exact(&name.to_lowercase()))
    }
}

/// Describes relations by their oids, in the order of `oids`.
///
/// # Errors
/// When the server refuses, or one of them has been dropped meanwhile.
pub async fn describe(
    catalog: &Catalog<'_>,
    oids: &[u32],
) -> Result<Vec<CatalogTable>, CatalogError> {
    /// How often tables that are altered meanwhile are described again.
    const TRIES: usize = 10;
    // Several statements describe a table, and each sees it as it is then. Without a look before
    // and behind them: 1. A column is bigint when it is looked at. 2. It becomes double precision,
    // and is described so. 3. It becomes bigint again before it is read. 4. Its values are read as
    // what it was in between.
    let mut before = look(&**catalog, oids).await?;
    for _ in 0..TRIES {
        let tables = describe_as(catalog, oids, &before).await;
        let behind = look(&**catalog, oids).await?;
        if behind == before {
            return tables;
        }
        before = behind;
    }
    Err(CatalogError::Altered)
}

/// Describes relations that looked so before.
async fn describe_as(
    catalog: &Catalog<'_>,
    oids: &[u32],
    fingerprints: &[Fingerprint],
) -> Result<Vec<CatalogTable>, CatalogError> {
    let ask =
        async |sql: &str, oids: &[u32]| catalog.query_typed(sql, &[(&oids, Type::OID_ARRAY)]).await;
    let relations = ask(include_str!("catalog/relations.sql"), oids).await?;
    let leaf_oids: Vec<u32> = relations
        .iter()
        .flat_map(|row| row.get::<_, Vec<u32>>("leaves"))
        .collect();
    let leaf_names = ask(include_str!("catalog/leaves.sql"), &leaf_oids).await?;
    let leaf_triggers = ask(include_str!("catalog/triggers.sql"), &leaf_oids).await?;
    let leaf = |row: &tokio_postgres::Row| {
        let oid = row.get("relation");
        let triggers = leaf_triggers
            .iter()
            .filter(|row| row.get::<_, u32>("relation") == oid)
            .map(trigger)
            .collect();
        Leaf {
            oid,
            schema: row.get("schema"),
            name: row.get("name"),
            triggers,
        }
    };
    let columns = ask(include_str!("catalog/columns.sql"), oids).await?;
    let keys = ask(include_str!("catalog/keys.sql"), oids).await?;
    let triggers = ask(include_str!("catalog/triggers.sql"), oids).await?;
    oids.iter()
        .map(|&oid| {
            let is_of = |row: &&tokio_postgres::Row| row.get::<_, u32>("relation") == oid;
            let relation = relations
                .iter()
                .find(is_of)
                .ok_or(CatalogError::Gone(oid))?;
            let fingerprint = fingerprints.iter().find(|print| print.relation() == oid);
            let rows: f64 = relation.get("rows");
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
                estimated_rows: (rows >= 0.0).then_some(rows as u64),
                columns: columns.iter().filter(is_of).map(column).collect(),
                key: keys.iter().find(is_of).map(|row| CatalogKey {
                    columns: row.get("columns"),
                    is_deferrable: row.get("is_deferrable"),
                }),
                triggers: triggers.iter().filter(is_of).map(trigger).collect(),
                leaves: {
                    let own: Vec<u32> = relation.get("leaves");
                    leaf_names
                        .iter()
                        .filter(|row| own.contains(&row.get("relation")))
                        .map(leaf)
                        .collect()
                },
            })
        })
        .collect()
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

fn column(row: &tokio_postgres::Row) -> CatalogColumn {
    CatalogColumn {
        name: row.get("name"),
        type_name: row.get("type_name"),
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

fn trigger(row: &tokio_postgres::Row) -> Trigger {
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
        // Each argument ends with a zero byte.
        arguments: arguments
            .split_inclusive(|&byte| byte == 0)
            .map(|argument| {
                String::from_utf8_lossy(argument.strip_suffix(&[0]).unwrap_or(argument))
                    .into_owned()
            })
            .collect(),
        is_conditional: row.get("is_conditional"),
        is_constraint: row.get("is_constraint"),
        function: function(row),
    }
}

fn function(row: &tokio_postgres::Row) -> Function {
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

/// A function of somebody else's that PostgreSQL may run while it plans a query of a table, with
/// its owner. It can be trusted to be the last word only while the table is locked in SHARE UPDATE
/// EXCLUSIVE mode, for which whoever makes an index or statistics waits.
///
/// # Errors
/// When the server refuses.
pub async fn foreign_code(
    client: &impl GenericClient,
    oid: u32,
) -> Result<Option<(String, String)>, tokio_postgres::Error> {
    let row = client
        .query_typed_opt(include_str!("catalog/code.sql"), &[(&oid, Type::OID)])
        .await?;
    Ok(row.map(|row| (row.get("function"), row.get("owner"))))
}

/// The function of this name without arguments, seen from a table.
///
/// # Errors
/// When the server refuses.
pub async fn find_function(
    catalog: &Catalog<'_>,
    table: &CatalogTable,
    name: &str,
) -> Result<Option<Function>, CatalogError> {
    let sql = include_str!("catalog/function.sql");
    let row = catalog
        .query_typed_opt(sql, &[(&table.oid, Type::OID), (&name, Type::NAME)])
        .await?;
    Ok(row.as_ref().map(function))
}
