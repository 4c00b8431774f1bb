//! Creating and dropping whole databases, and what belongs to a database beside its content.

use sqlx::Row as _;

use super::acl;
use super::session::Session;
use crate::model::manifest::DatabaseFacts;
use crate::pg::error::PgError;

/// Whether the server has a database of that name.
///
/// # Errors
/// The server refuses.
pub async fn database_exists(maintenance: &mut Session, name: &str) -> Result<bool, PgError> {
    let doing = "look for the database";
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)";
    let row = sqlx::query(sql)
        .persistent(false)
        .bind(name)
        .fetch_one(&mut maintenance.inner)
        .await;
    row.and_then(|row| row.try_get(0))
        .map_err(|source| PgError::Query { doing, source })
}

/// Creates a database from template0, with the encoding, locale and tablespace that `facts` recorded; without them, with
/// the server's own. What the server does not have of that comes back as a warning.
///
/// # Errors
/// It exists, or the server refuses.
pub async fn create_database(
    maintenance: &mut Session,
    name: &str,
    facts: Option<&DatabaseFacts>,
) -> Result<Option<String>, PgError> {
    if database_exists(maintenance, name).await? {
        return Err(PgError::DatabaseExists(name.to_owned()));
    }
    let mut sql = format!("CREATE DATABASE {} TEMPLATE template0", identifier(name));
    let mut warning = None;
    if let Some(facts) = facts {
        // From its beginning: schema public is the database's owner's, and what belongs to him may be made only there.
        if may_give_to(maintenance, &facts.owner).await? {
            sql = format!(
                "CREATE DATABASE {} OWNER {} TEMPLATE template0",
                identifier(name),
                identifier(&facts.owner)
            );
        }
        sql.push_str(&locale_clauses(facts, maintenance.server().major()));
        if let Some(tablespace) = &facts.tablespace {
            if may_use_tablespace(maintenance, tablespace).await? {
                sql.push_str(&format!(" TABLESPACE {}", identifier(tablespace)));
            } else {
                warning = Some(format!(
                    "the database was in tablespace {tablespace}, which this server does not have or this role may not use: it is in the default one"
                ));
            }
        }
    }
    maintenance.run("create the database", &sql).await?;
    Ok(warning)
}

async fn may_use_tablespace(maintenance: &mut Session, name: &str) -> Result<bool, PgError> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_tablespace WHERE spcname = {} \
            AND pg_catalog.has_tablespace_privilege(oid, 'CREATE'))",
        literal(name)
    );
    maintenance.value("look for the tablespace", &sql).await
}

/// Drops a database that this program created, and the sessions in it.
///
/// # Errors
/// The server refuses.
pub async fn drop_database(maintenance: &mut Session, name: &str) -> Result<(), PgError> {
    make_droppable(maintenance, name).await?;
    let force = if maintenance.server().major() >= 13 {
        " WITH (FORCE)"
    } else {
        ""
    };
    maintenance
        .run(
            "drop the database",
            &format!("DROP DATABASE IF EXISTS {}{force}", identifier(name)),
        )
        .await
}

/// A template is dropped by nobody until it is none: whether it was one.
pub(super) async fn make_droppable(maintenance: &mut Session, name: &str) -> Result<bool, PgError> {
    let doing = "look whether the database is a template";
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = {} AND datistemplate)",
        literal(name)
    );
    let is_template = maintenance.value(doing, &sql).await?;
    if is_template {
        let sql = format!("ALTER DATABASE {} IS_TEMPLATE false", identifier(name));
        maintenance.run("drop the database", &sql).await?;
    }
    Ok(is_template)
}

/// Gives the new database what the archive itself cannot: owner, privileges, settings and connection limit; the comment
/// is written when it gets its name. What the role may not set is returned as a warning, not an error: the data is there. It
/// speaks of the name that the database is about to get, `becomes`.
pub async fn apply_properties(
    maintenance: &mut Session,
    name: &str,
    becomes: &str,
    facts: &DatabaseFacts,
) -> Vec<String> {
    let database = identifier(name);
    let mut statements = Vec::new();
    let mut warnings = Vec::new();
    if facts.connection_limit >= 0 {
        statements.push(format!(
            "ALTER DATABASE {database} CONNECTION LIMIT {}",
            facts.connection_limit
        ));
    }
    if facts.is_template {
        statements.push(format!("ALTER DATABASE {database} IS_TEMPLATE true"));
    }
    for setting in &facts.settings {
        statements.extend(set_statement(
            &format!("ALTER DATABASE {database}"),
            setting,
        ));
    }
    for (role, settings) in &facts.role_settings {
        let alter = format!("ALTER ROLE {} IN DATABASE {database}", identifier(role));
        statements.extend(
            settings
                .iter()
                .filter_map(|setting| set_statement(&alter, setting)),
        );
    }
    match may_give_to(maintenance, &facts.owner).await {
        Ok(true) => statements.push(format!(
            "ALTER DATABASE {database} OWNER TO {}",
            identifier(&facts.owner)
        )),
        Ok(false) => warnings.push(format!(
            "the database is owned by {}, not by {}: run ALTER DATABASE ... OWNER TO as a superuser",
            maintenance.connection().role(),
            facts.owner
        )),
        Err(error) => warnings.push(format!("the owner is not set: {error}")),
    }
    // Behind the owner, who is the grantor then.
    if let Some(acl) = &facts.acl {
        match acl::statements(&database, &facts.owner, acl) {
            Ok(grants) => statements.extend(grants),
            Err(item) => warnings.push(format!("privilege not applied: {item}")),
        }
    }
    for statement in statements {
        if let Err(error) = maintenance
            .run("apply the database's properties", &statement)
            .await
        {
            let reason = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            let statement = statement.replace(&database, &identifier(becomes));
            warnings.push(format!("not applied: {statement}: {reason}"));
        }
    }
    warnings
}

/// Whether this role may give a database to `owner` and still rename it then.
async fn may_give_to(maintenance: &mut Session, owner: &str) -> Result<bool, PgError> {
    let set = if maintenance.server().major() >= 16 {
        " AND pg_catalog.pg_has_role(oid, 'SET')"
    } else {
        ""
    };
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {} \
            AND pg_catalog.pg_has_role(oid, 'USAGE'){set})",
        literal(owner)
    );
    maintenance.value("look for the owner", &sql).await
}

/// The statement that gives a database its comment, or takes it away.
pub(super) fn comment_statement(name: &str, comment: Option<&str>) -> String {
    let text = comment.map_or_else(|| "NULL".to_owned(), literal);
    format!("COMMENT ON DATABASE {} IS {text}", identifier(name))
}

/// `name=value` as the catalog has it. A list of identifiers is taken apart and every part written as a literal, as pg_dump
/// does: the catalog's text is not always quoted, and whoever set it must not choose what else is executed.
fn set_statement(alter: &str, setting: &str) -> Option<String> {
    const LISTS: [&str; 5] = [
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
    ];
    let (name, value) = setting.split_once('=')?;
    let value = if LISTS.contains(&name) && !value.is_empty() {
        let parts: Vec<String> = list_parts(value).iter().map(|part| literal(part)).collect();
        parts.join(", ")
    } else {
        literal(value)
    };
    let name = name
        .split('.')
        .map(identifier)
        .collect::<Vec<_>>()
        .join(".");
    Some(format!("{alter} SET {name} TO {value}"))
}

/// The parts of a list as PostgreSQL's `SplitGUCList` takes it apart: between commas, without the spaces around them, and
/// without quotes, in which a quote is written twice.
fn list_parts(list: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let mut part = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut letters = quoted.char_indices().peekable();
            let mut end = quoted.len();
            while let Some((at, letter)) = letters.next() {
                if letter == '"' && letters.next_if(|(_, next)| *next == '"').is_none() {
                    end = at + 1;
                    break;
                }
                part.push(letter);
            }
            rest = &quoted[end..];
            rest = rest.find(',').map_or("", |comma| &rest[comma + 1..]);
        } else {
            let (one, others) = rest.split_once(',').unwrap_or((rest, ""));
            part.push_str(one.trim());
            rest = others;
        }
        parts.push(part);
        rest = rest.trim_start();
    }
    parts
}

fn locale_clauses(facts: &DatabaseFacts, major: u32) -> String {
    let mut clauses = format!(
        " ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        literal(&facts.encoding),
        literal(&facts.collate),
        literal(&facts.ctype)
    );
    if major >= 15 {
        let (provider, keyword) = match facts.locale_provider.as_str() {
            "i" => ("icu", "ICU_LOCALE"),
            "b" => ("builtin", "BUILTIN_LOCALE"),
            _ => ("libc", ""),
        };
        clauses.push_str(&format!(" LOCALE_PROVIDER {provider}"));
        if let (Some(locale), false) = (&facts.locale, keyword.is_empty()) {
            clauses.push_str(&format!(" {keyword} {}", literal(locale)));
        }
    }
    clauses
}

/// As PostgreSQL's `quote_ident`, but always with quotes.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// As PostgreSQL's `quote_literal`.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_quoted() {
        assert_eq!(
            identifier("a\"; DROP DATABASE x; --"),
            "\"a\"\"; DROP DATABASE x; --\""
        );
        assert_eq!(literal("it's a \\"), "E'it''s a \\\\'");
        assert_eq!(
            set_statement("ALTER DATABASE \"d\"", "search_path=\"$user\", public").unwrap(),
            "ALTER DATABASE \"d\" SET \"search_path\" TO '$user', 'public'"
        );
        // What an unprivileged role may have put there is one name, however it looks.
        assert_eq!(
            set_statement(
                "ALTER DATABASE d",
                "search_path=x;alter/**/role/**/me/**/superuser"
            )
            .unwrap(),
            "ALTER DATABASE d SET \"search_path\" TO 'x;alter/**/role/**/me/**/superuser'"
        );
        assert_eq!(
            list_parts("\"a\"\"b, c\" , d,\"e'f\""),
            ["a\"b, c", "d", "e'f"]
        );
        assert_eq!(list_parts("\"never closed"), ["never closed"]);
        assert_eq!(
            set_statement("ALTER DATABASE \"d\"", "app.mode=it's").unwrap(),
            "ALTER DATABASE \"d\" SET \"app\".\"mode\" TO 'it''s'"
        );
    }
}
