//! Creating and dropping whole databases, for `--mode new`.

use sqlx::Row as _;

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

/// Creates a database from template0, with the encoding and locale that `facts` recorded; without them, with the
/// server's own.
///
/// # Errors
/// It exists, or the server refuses.
pub async fn create_database(
    maintenance: &mut Session,
    name: &str,
    facts: Option<&DatabaseFacts>,
) -> Result<(), PgError> {
    if database_exists(maintenance, name).await? {
        return Err(PgError::DatabaseExists(name.to_owned()));
    }
    let mut sql = format!("CREATE DATABASE {} TEMPLATE template0", identifier(name));
    if let Some(facts) = facts {
        sql.push_str(&locale_clauses(facts, maintenance.server().major()));
    }
    maintenance.run("create the database", &sql).await
}

/// Gives a database its final name. It has it at once and as a whole, or not at all.
///
/// # Errors
/// The name was taken meanwhile, or somebody is connected.
pub async fn rename_database(
    maintenance: &mut Session,
    from: &str,
    to: &str,
) -> Result<(), PgError> {
    if database_exists(maintenance, to).await? {
        return Err(PgError::DatabaseExists(to.to_owned()));
    }
    let sql = format!(
        "ALTER DATABASE {} RENAME TO {}",
        identifier(from),
        identifier(to)
    );
    maintenance
        .run("give the database its final name", &sql)
        .await
}

/// Drops a database that this program created, and the sessions in it.
///
/// # Errors
/// The server refuses.
pub async fn drop_database(maintenance: &mut Session, name: &str) -> Result<(), PgError> {
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

/// Gives the new database what the archive itself cannot: comment, settings and connection limit. What the role may
/// not set is returned as a warning, not an error: the data is there.
pub async fn apply_properties(
    maintenance: &mut Session,
    name: &str,
    facts: &DatabaseFacts,
) -> Vec<String> {
    let database = identifier(name);
    let mut statements = Vec::new();
    if let Some(comment) = &facts.comment {
        statements.push(format!(
            "COMMENT ON DATABASE {database} IS {}",
            literal(comment)
        ));
    }
    if facts.connection_limit >= 0 {
        statements.push(format!(
            "ALTER DATABASE {database} CONNECTION LIMIT {}",
            facts.connection_limit
        ));
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
    let mut warnings = Vec::new();
    for statement in statements {
        if let Err(error) = maintenance
            .run("apply the database's properties", &statement)
            .await
        {
            let reason = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            warnings.push(format!("not applied: {statement}: {reason}"));
        }
    }
    warnings
}

/// `name=value` as the catalog has it. Lists of identifiers are kept quoted there, and are not to be quoted again
/// (pg_dump treats the same names so).
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
        value.to_owned()
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
fn literal(text: &str) -> String {
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
            "ALTER DATABASE \"d\" SET \"search_path\" TO \"$user\", public"
        );
        assert_eq!(
            set_statement("ALTER DATABASE \"d\"", "app.mode=it's").unwrap(),
            "ALTER DATABASE \"d\" SET \"app\".\"mode\" TO 'it''s'"
        );
    }
}
