//! Roles that a trial needs and its server lacks: they are made without a login, and taken away again.

use super::database::identifier;
use super::session::Session;
use crate::pg::error::PgError;

/// Makes a role that owns and is granted things, and can do nothing.
///
/// # Errors
/// The session's role may not create roles, or the server refuses.
pub async fn create_role(session: &mut Session, name: &str) -> Result<(), PgError> {
    let sql = format!("CREATE ROLE {} NOLOGIN", identifier(name));
    session
        .run("create a role that the backup needs", &sql)
        .await
}

/// Takes such a role away; whether that was possible: another trial may need it by now.
pub async fn drop_role(session: &mut Session, name: &str) -> bool {
    let sql = format!("DROP ROLE {}", identifier(name));
    session.run("drop a role again", &sql).await.is_ok()
}
