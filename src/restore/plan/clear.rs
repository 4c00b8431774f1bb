//! What ends a restore in place, and the SQL that clears it away.
//!
//! What can be moved out of the way with all it holds is moved, into schema [`KEPT`]; what can only be dropped is, and
//! the safety backup has it. What hangs on something that is dropped goes before it.

use std::collections::HashSet;

use super::Blocker;
use super::compare::Graph;
use crate::pg::inspect::{LiveObject, ObjectId};

/// Where things are moved that are not in the backup.
const KEPT: &str = "pgseal_kept";
const MOVABLE: &[&str] = &[
    "AGGREGATE",
    "COLLATION",
    "DOMAIN",
    "EXTENSION",
    "FOREIGN TABLE",
    "FUNCTION",
    "MATERIALIZED VIEW",
    "PROCEDURE",
    "SEQUENCE",
    "STATISTICS",
    "TABLE",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TYPE",
    "VIEW",
];

/// Why something ends a restore.
#[derive(Clone, Debug)]
pub(super) enum Cause<'a> {
    /// It is in a schema that is dropped.
    InSchema(&'a LiveObject),
    /// It hangs on something that is dropped.
    HangsOn(&'a LiveObject),
    /// The backup has another kind of thing under its name.
    WasA(&'a str),
    /// The backup's entry names a column that is not there.
    NoColumn {
        column: String,
        renamed: Option<String>,
    },
    /// The backup's entry drops a default that is an identity.
    IsIdentity(String),
    /// The backup's entry drops a default that is an expression.
    IsExpression(String),
    /// An event trigger that is not in the backup would fire.
    Fires,
    /// A subscription cannot be dropped inside a transaction.
    Subscribes,
}

/// Gathers causes, and turns them into findings.
pub(super) struct Clearing<'g, 'a> {
    graph: &'g Graph<'a>,
    found: Vec<(&'a LiveObject, Vec<Cause<'a>>)>,
    others: Vec<Blocker>,
}

impl<'g, 'a> Clearing<'g, 'a> {
    pub(super) const fn new(graph: &'g Graph<'a>) -> Self {
        Self {
            graph,
            found: Vec::new(),
            others: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, object: &'a LiveObject, cause: Cause<'a>) {
        match self
            .found
            .iter_mut()
            .find(|(known, _)| known.id == object.id)
        {
            Some((_, causes)) => causes.push(cause),
            None => self.found.push((object, vec![cause])),
        }
    }

    /// Somebody else's object is in the way.
    pub(super) fn others(&mut self, object: &LiveObject, owner: &str, role: &str) {
        self.others.push(Blocker {
            object: title(object),
            reason: format!("role {role} may not drop what {owner} owns"),
            sql: vec![format!(
                "GRANT {} TO {};",
                identifier(owner),
                identifier(role)
            )],
        });
    }

    pub(super) fn finish(self) -> Vec<Blocker> {
        let mut done = HashSet::new();
        let mut blockers = self.others;
        for (object, causes) in &self.found {
            let mut sql = Vec::new();
            clear(self.graph, object, causes, &mut done, &mut sql);
            let mut reasons: Vec<String> = causes.iter().map(reason).collect();
            reasons.dedup();
            // A hundred columns of one type are one reason.
            reasons.truncate(3);
            blockers.push(Blocker {
                object: title(object),
                reason: reasons.join("; "),
                sql,
            });
        }
        blockers
    }
}

fn clear(
    graph: &Graph<'_>,
    object: &LiveObject,
    causes: &[Cause<'_>],
    done: &mut HashSet<ObjectId>,
    sql: &mut Vec<String>,
) {
    let table = &object.sql_name;
    for cause in causes {
        match cause {
            Cause::NoColumn {
                column,
                renamed: Some(renamed),
            } => sql.push(format!(
                "ALTER TABLE {table} RENAME COLUMN {} TO {};",
                identifier(renamed),
                identifier(column)
            )),
            Cause::NoColumn {
                column,
                renamed: None,
            } => sql.push(format!(
                "ALTER TABLE {table} ADD COLUMN {} integer;",
                identifier(column)
            )),
            Cause::IsIdentity(column) => sql.push(format!(
                "ALTER TABLE {table} ALTER COLUMN {} DROP IDENTITY;",
                identifier(column)
            )),
            Cause::IsExpression(column) => sql.push(format!(
                "ALTER TABLE {table} ALTER COLUMN {} DROP EXPRESSION;",
                identifier(column)
            )),
            Cause::InSchema(_)
            | Cause::HangsOn(_)
            | Cause::WasA(_)
            | Cause::Fires
            | Cause::Subscribes => {}
        }
    }
    let hangs = causes
        .iter()
        .any(|cause| matches!(cause, Cause::HangsOn(_)));
    let is_in_the_way = causes
        .iter()
        .any(|cause| matches!(cause, Cause::InSchema(_) | Cause::WasA(_)));
    if hangs || is_in_the_way && !MOVABLE.contains(&object.kind.as_str()) {
        drop_with_dependents(graph, object, done, sql);
    } else if is_in_the_way {
        if done.insert(object.id) {
            sql.push(format!("CREATE SCHEMA IF NOT EXISTS {KEPT};"));
            sql.push(format!(
                "ALTER {} {} SET SCHEMA {KEPT};",
                object.kind, object.sql_name
            ));
        }
    } else if causes.iter().any(|cause| matches!(cause, Cause::Fires)) {
        sql.push(format!("ALTER EVENT TRIGGER {} DISABLE;", object.sql_name));
    } else if causes
        .iter()
        .any(|cause| matches!(cause, Cause::Subscribes))
    {
        let name = &object.sql_name;
        sql.push(format!("ALTER SUBSCRIPTION {name} DISABLE;"));
        sql.push(format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE);"));
        sql.push(format!("DROP SUBSCRIPTION {name};"));
    }
}

/// What hangs on it goes before it.
fn drop_with_dependents(
    graph: &Graph<'_>,
    object: &LiveObject,
    done: &mut HashSet<ObjectId>,
    sql: &mut Vec<String>,
) {
    if !done.insert(object.id) {
        return;
    }
    let going = graph.with_followers(object.id);
    for gone in &going {
        for dependent in graph.kept_by.get(gone).into_iter().flatten() {
            let named = graph.named(*dependent);
            let named = named.filter(|named| !going.contains(&named.id));
            if let (Some(named), false) = (named, going.contains(dependent)) {
                drop_with_dependents(graph, named, done, sql);
            }
        }
    }
    sql.push(drop_statement(object));
}

fn drop_statement(object: &LiveObject) -> String {
    let LiveObject { kind, sql_name, .. } = object;
    match (kind.as_str(), &object.sql_table) {
        ("FK CONSTRAINT" | "CONSTRAINT" | "CHECK CONSTRAINT", Some(table)) => {
            format!("ALTER TABLE {table} DROP CONSTRAINT {sql_name};")
        }
        ("DEFAULT", Some(table)) => {
            format!("ALTER TABLE {table} ALTER COLUMN {sql_name} DROP DEFAULT;")
        }
        ("TRIGGER" | "RULE" | "POLICY", Some(table)) => {
            format!("DROP {kind} {sql_name} ON {table};")
        }
        ("PROCEDURAL LANGUAGE", _) => format!("DROP LANGUAGE {sql_name};"),
        _ => format!("DROP {kind} {sql_name};"),
    }
}

fn reason(cause: &Cause<'_>) -> String {
    match cause {
        Cause::InSchema(schema) => format!(
            "it is not in the backup, and schema {}, which is dropped, is not empty with it",
            schema.tag
        ),
        Cause::HangsOn(base) => format!("it hangs on {}, which is dropped", title(base)),
        Cause::WasA(kind) => format!("in the backup a {kind} has this name"),
        Cause::NoColumn {
            column,
            renamed: Some(renamed),
        } => format!("the backup knows its column {renamed} as {column}"),
        Cause::NoColumn { column, .. } => {
            format!("it has no column {column}, whose default the backup replaces")
        }
        Cause::IsIdentity(column) => {
            format!("its column {column} is an identity by now, so it has no default to be dropped")
        }
        Cause::IsExpression(column) => {
            format!("its column {column} is generated by now, so it has no default to be dropped")
        }
        Cause::Fires => {
            "it is not in the backup, and would act on what the restore drops and makes (enable it again afterwards)".to_owned()
        }
        Cause::Subscribes => {
            "a subscription cannot be dropped inside a transaction, and would write beside the restore"
                .to_owned()
        }
    }
}

fn title(object: &LiveObject) -> String {
    match &object.schema {
        Some(schema) => format!("{} {schema}.{}", object.kind, object.tag),
        None => format!("{} {}", object.kind, object.tag),
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
