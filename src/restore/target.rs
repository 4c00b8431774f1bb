//! What is looked at on the target before anything is fetched.

use std::path::Path;

use super::plan::{MissingRoles, Wishes};
use super::{Mode, RestoreError, Safety};
use crate::model::connection::Connection;
use crate::model::manifest::{DatabaseFacts, Manifest};
use crate::pg::inspect::{self, OfferedExtension, Session};
use crate::pg::{PgError, dumped_by};

/// From this major on, archives set what older servers do not know (measured: `SET transaction_timeout`).
const CANNOT_GO_BACK_FROM: u32 = 17;

/// The server that is restored into: a session in the target, or beside it where the target is yet to be made.
pub(super) struct Target {
    session: Session,
    database: String,
    mode: Mode,
}

impl Target {
    pub(super) async fn look(
        to: &Connection,
        mode: Mode,
        safety: &Safety,
    ) -> Result<Self, PgError> {
        let database = to.database().to_owned();
        let session = match mode {
            Mode::New => {
                let mut session = inspect::maintenance_session(to).await?;
                if inspect::database_exists(&mut session, &database).await? {
                    return Err(PgError::DatabaseExists(database));
                }
                session
            }
            Mode::Swap => beside(to, safety).await?,
            Mode::InPlace => {
                let mut session = Session::connect(to).await?;
                inspect::require_unpooled(&mut session).await?;
                session
            }
        };
        Ok(Self {
            session,
            database,
            mode,
        })
    }

    pub(super) const fn server_major(&self) -> u32 {
        self.session.server().major()
    }

    /// The target on the host that answered.
    pub(super) fn connection(&self) -> Connection {
        self.session.connection().with_database(&self.database)
    }

    /// Whether this server can take what the manifest describes, and what an administrator should know of it.
    pub(super) async fn suits(
        &mut self,
        manifest: &Manifest,
        wishes: &Wishes,
    ) -> Result<Vec<String>, RestoreError> {
        if let Some(archive) = dumped_by(&manifest.archive_list) {
            reads(self.server_major(), archive)?;
        }
        let roles = inspect::missing_roles(&mut self.session, &manifest.database.roles).await;
        let roles = roles.map_err(RestoreError::Prepare)?;
        let is_decided =
            wishes.missing_roles != MissingRoles::Refuse || !wishes.role_map.is_empty();
        if !roles.is_empty() && !is_decided {
            return Err(RestoreError::MissingRoles(roles));
        }
        if self.mode != Mode::InPlace {
            self.has_room(&manifest.database).await?;
        }
        self.suits_extensions(manifest, wishes).await
    }

    /// Whether a second database fits, where that can be known.
    async fn has_room(&mut self, facts: &DatabaseFacts) -> Result<(), RestoreError> {
        let tablespace = facts.tablespace.as_deref();
        let place = inspect::data_folder(&mut self.session, tablespace).await;
        // A folder of another machine says nothing, nor does one that cannot be looked at.
        let Some((place, free)) = place
            .map_err(RestoreError::Prepare)?
            .and_then(|place| bytes_free(&place).map(|free| (place, free)))
        else {
            return Ok(());
        };
        let needed = facts.size_bytes;
        if free < needed {
            return Err(RestoreError::NoSpace {
                needed,
                free,
                place,
            });
        }
        Ok(())
    }

    /// In place, extensions are dropped and made anew, which only their owners may.
    async fn suits_extensions(
        &mut self,
        manifest: &Manifest,
        wishes: &Wishes,
    ) -> Result<Vec<String>, RestoreError> {
        let mut wanted = manifest.database.extensions.clone();
        // Every database has it from its beginning, and no archive makes it.
        wanted.remove("plpgsql");
        let extensions = inspect::offered_extensions(&mut self.session, &wanted).await;
        let extensions = extensions.map_err(RestoreError::Prepare)?;
        let missing: Vec<String> = extensions
            .iter()
            .filter(|extension| extension.offered.is_none())
            .map(|extension| extension.name.clone())
            .collect();
        if !missing.is_empty() {
            return Err(RestoreError::MissingExtensions(missing));
        }
        let others: Vec<String> = extensions
            .iter()
            .filter(|extension| {
                // One that has the backup's version already may stay, once that was accepted.
                !wishes.accept_left_out || extension.installed.as_ref() != Some(&extension.recorded)
            })
            .filter_map(|extension| {
                let owner = extension.others.as_ref()?;
                Some(format!("{} (owner {owner})", extension.name))
            })
            .collect();
        if self.mode == Mode::InPlace && !others.is_empty() {
            return Err(RestoreError::OthersExtensions {
                role: self.session.connection().role().to_owned(),
                extensions: others,
            });
        }
        let differs = |extension: &OfferedExtension| {
            let (name, recorded) = (&extension.name, &extension.recorded);
            let offered = extension
                .offered
                .as_ref()
                .filter(|offered| *offered != recorded)?;
            Some(format!(
                "extension {name} was {recorded} in the backup, this server makes {offered}"
            ))
        };
        Ok(extensions.iter().filter_map(differs).collect())
    }

    pub(super) async fn close(self) {
        self.session.close().await;
    }
}

/// Whether a server takes the archives of a pg_dump of major `archive`.
pub(super) const fn reads(server: u32, archive: u32) -> Result<(), RestoreError> {
    if archive >= CANNOT_GO_BACK_FROM && server < CANNOT_GO_BACK_FROM {
        return Err(RestoreError::TooNew { archive, server });
    }
    Ok(())
}

/// A session beside a database that is to be swapped, once nothing stands in the way of that.
async fn beside(to: &Connection, safety: &Safety) -> Result<Session, PgError> {
    let mut session = inspect::maintenance_session(to).await?;
    inspect::require_unpooled(&mut session).await?;
    if !inspect::database_exists(&mut session, to.database()).await? {
        return Err(PgError::NoSuchDatabase(to.database().to_owned()));
    }
    let mut found = inspect::hangs_on_identity(&mut session, to.database()).await?;
    found.extend(inspect::may_swap(&mut session, to.database()).await?);
    let to = session.connection().with_database(to.database());
    match inspect::holds_catalog(&to).await {
        Ok(catalog) => found.extend(catalog),
        // Without a safety backup, a database that lets nobody in any more is replaced as it is.
        Err(error) if *safety == Safety::Skip => {
            tracing::warn!(%error, "The database cannot be looked into; it is set aside unseen");
        }
        Err(error) => return Err(error),
    }
    if found.is_empty() {
        Ok(session)
    } else {
        Err(PgError::Preflight(found))
    }
}

fn bytes_free(place: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(place).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_of_17_stay_out_of_older_servers() {
        assert!(reads(15, 17).is_err());
        assert!(reads(17, 18).is_ok());
        assert!(reads(15, 16).is_ok());
    }
}
