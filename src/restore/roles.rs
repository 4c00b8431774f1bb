//! Roles that the backup names and the target server does not have: made, or their part given to others, as chosen.
//!
//! pg_restore cannot map roles. So a role whose part another one gets is made for the load, its objects are then given
//! away, and it goes again; where something is granted to it, it stays, and the other one becomes a member.

use super::RestoreError;
use super::plan::{MissingRoles, Plan};
use crate::model::connection::Connection;
use crate::pg::inspect::{self, Session};
use crate::pg::{Ownership, PgError};

/// Roles that were made.
#[derive(Debug, Default)]
pub(super) struct Made(Vec<String>);

/// Whose the loaded objects are.
pub(super) fn ownership(plan: &Plan) -> Ownership {
    let is_skipped = plan.roles.choice == MissingRoles::Skip && !plan.roles.missing.is_empty();
    if is_skipped {
        Ownership::Loader
    } else {
        Ownership::Recorded
    }
}

/// Makes what is needed.
pub(super) async fn make(to: &Connection, plan: &Plan) -> Result<Made, RestoreError> {
    let mut made = Made::default();
    let wanted: Vec<&String> = plan
        .roles
        .missing
        .iter()
        .filter(|role| {
            plan.roles.choice == MissingRoles::Create || plan.roles.mapped.contains_key(*role)
        })
        .collect();
    if wanted.is_empty() {
        return Ok(made);
    }
    let mut session = session(to).await.map_err(RestoreError::Prepare)?;
    for role in wanted {
        if let Err(error) = inspect::create_role(&mut session, role).await {
            made.undo(to).await;
            return Err(RestoreError::Prepare(error));
        }
        made.0.push(role.clone());
    }
    session.close().await;
    Ok(made)
}

impl Made {
    /// Takes them back, because nothing was loaded.
    pub(super) async fn undo(&self, to: &Connection) {
        let Ok(mut session) = session(to).await else {
            return;
        };
        for role in &self.0 {
            if let Err(error) = inspect::drop_role(&mut session, role).await {
                tracing::warn!(%error, role, "Restore left a role behind that it had made");
            }
        }
        session.close().await;
    }

    /// What was done, for the report.
    pub(super) fn report(&self, plan: &Plan) -> Vec<String> {
        let mut report: Vec<String> = self
            .0
            .iter()
            .filter(|role| !plan.roles.mapped.contains_key(*role))
            .map(|role| format!("role {role} was made, without the right to log in"))
            .collect();
        if ownership(plan) == Ownership::Loader {
            report.push(format!(
                "everything belongs to role {}, and all grants were left out, because the server does not have {}",
                plan.to.role,
                plan.roles.missing.join(", ")
            ));
        }
        report
    }
}

/// Gives what mapped roles own in a loaded database to those that have their part.
pub(super) async fn hand_over(database: &Connection, plan: &Plan) -> Result<Vec<String>, PgError> {
    let mut report = Vec::new();
    if plan.roles.mapped.is_empty() {
        return Ok(report);
    }
    let mut session = Session::connect(database).await?;
    for (old, new) in &plan.roles.mapped {
        inspect::reassign(&mut session, old, new).await?;
        if inspect::drop_role(&mut session, old).await.is_ok() {
            report.push(format!("what belonged to role {old} belongs to {new}"));
        } else {
            inspect::grant_role(&mut session, old, new).await?;
            report.push(format!(
                "what belonged to role {old} belongs to {new}; {old} was made, without the right to log in, because grants name it, and {new} is its member"
            ));
        }
    }
    session.close().await;
    Ok(report)
}

async fn session(to: &Connection) -> Result<Session, PgError> {
    match inspect::maintenance_session(to).await {
        Ok(session) => Ok(session),
        Err(_) => Session::connect(to).await,
    }
}
