//! Roles that a restore makes, and what is given from one to another.

use super::database::identifier;
use super::session::Session;
use crate::pg::error::PgError;

/// Makes a role that nobody can log in as. Whoever made it may give objects to it.
///
/// # Errors
/// It exists, or the session's role may not make roles.
pub async fn create_role(session: &mut Session, role: &str) -> Result<(), PgError> {
    let doing = "make a role that the backup needs";
    let name = identifier(role);
    session
        .run(doing, &format!("CREATE ROLE {name} NOLOGIN"))
        .await?;
    let sql = "SELECT NOT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
    if session.value::<bool>(doing, sql).await? {
        let grant = format!("GRANT {name} TO CURRENT_USER");
        session.run(doing, &grant).await?;
    }
    Ok(())
}

/// Drops a role that nothing belongs to.
///
/// # Errors
/// Something belongs to it, or is granted to it.
pub async fn drop_role(session: &mut Session, role: &str) -> Result<(), PgError> {
    let sql = format!("DROP ROLE IF EXISTS {}", identifier(role));
    session.run("drop a role", &sql).await
}

/// Gives all that `old` owns in the session's database to `new`.
///
/// # Errors
/// The session's role may not.
pub async fn reassign(session: &mut Session, old: &str, new: &str) -> Result<(), PgError> {
    let sql = format!(
        "REASSIGN OWNED BY {} TO {}",
        identifier(old),
        identifier(new)
    );
    session
        .run("give the objects of one role to another", &sql)
        .await
}

/// Lets `new` do all that is granted to `old`.
///
/// # Errors
/// The session's role may not.
pub async fn grant_role(session: &mut Session, old: &str, new: &str) -> Result<(), PgError> {
    let sql = format!("GRANT {} TO {}", identifier(old), identifier(new));
    session.run("let one role do what another may", &sql).await
}
