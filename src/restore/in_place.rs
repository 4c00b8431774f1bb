//! Mode `in-place`: a safety backup, and then one transaction over the content of the target.
//!
//! The rows are counted inside that transaction (see [`RowChecks`]): what is not the backup's is rolled back, and what the
//! application writes right after the commit is its own business. What cannot be counted there is counted behind it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::compare::{analyze, compare};
use super::{Loaded, Proven, RestoreError, load, plan, require, safety};
use crate::backup::Stages;
use crate::model::explanation::explain;
use crate::model::ids::Uid;
use crate::model::manifest::{Manifest, RowCounts};
use crate::pg::inspect::{self, Depth, Relations, Session, Watched};
use crate::pg::{Blocker, LoadMode, PgError, RowChecks, one_line};
use crate::progress::Progress;
use crate::vault::VaultError;

/// Loads the backup over the target, its rows counted before it is committed.
pub(super) async fn run(
    proven: &Proven,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Loaded, RestoreError> {
    let safety = safety::before(proven, stages, progress, cancel).await?;
    // The safety backup took its time, and somebody may have changed the database meanwhile.
    progress.start_stage("look at the target");
    let now = plan::look(&proven.to, proven.subject(), &proven.wishes).await?;
    // Roles that were made since are part of the plan.
    let now = now.with_roles_of(&proven.plan);
    require(now, Some(&proven.plan.id))?;
    let marks = Marks::before(proven).await.map_err(RestoreError::Prepare)?;
    progress.start_stage("load");
    let over = Over {
        proven,
        marks,
        counted: Counted::of(proven),
        safety,
    };
    let (plain_bytes, mut warnings) = Box::pin(over.loaded(stages, progress, cancel)).await?;

    // It is committed: from here on an error says so, and an interruption comes too late.
    progress.start_stage("compare the rows");
    let compared = over.compared().await?;
    warnings.extend(analyze(&proven.to, progress).await);
    Ok(Loaded {
        compared,
        plain_bytes,
        safety_backup: over.safety,
        kept: None,
        warnings,
    })
}

/// What is compared with the manifest: in the load's own transaction, and behind it.
struct Counted {
    inside: Option<RowChecks>,
    /// What is left to compare when it is committed.
    behind: Option<Manifest>,
}

impl Counted {
    fn of(proven: &Proven) -> Self {
        let manifest = proven
            .counted()
            .filter(|manifest| manifest.row_counts != RowCounts::Off);
        let Some(mut manifest) = manifest else {
            return Self {
                inside: None,
                behind: None,
            };
        };
        let encoding = &manifest.database.encoding;
        let toc = proven.subject().toc();
        let inside = RowChecks::of(&manifest.tables, encoding, &toc, &proven.list);
        if let Some(checks) = &inside {
            manifest.tables.clone_from(&checks.unchecked);
        }
        Self {
            inside,
            behind: Some(manifest).filter(|manifest| !manifest.tables.is_empty()),
        }
    }
}

/// What the load replaces, as it was before: the object ids tell afterwards whether it did.
struct Marks {
    before: Relations,
    wanted: BTreeSet<(String, String)>,
}

impl Marks {
    async fn before(proven: &Proven) -> Result<Self, PgError> {
        const KINDS: [&str; 5] = [
            "TABLE",
            "VIEW",
            "MATERIALIZED VIEW",
            "FOREIGN TABLE",
            "SEQUENCE",
        ];
        let toc = proven.subject().toc();
        let made = toc
            .entries
            .iter()
            .filter(|entry| KINDS.contains(&entry.kind.as_str()));
        let mut wanted: BTreeSet<(String, String)> = made
            .filter_map(|entry| Some((entry.schema.clone()?, entry.tag.clone())))
            .collect();
        if let Some(tables) = &proven.carried_out.tables {
            wanted.retain(|name| tables.contains(name));
        }
        let mut session = Session::connect(&proven.to).await?;
        let before = inspect::relations(&mut session).await?;
        session.close().await;
        Ok(Self { before, wanted })
    }

    /// Whether the load was committed: all that it makes is there, and another one than before, or all is as it was. `None`: that
    /// cannot be told, also because somebody else replaced a part of it.
    fn is_committed(&self, after: &Relations) -> Option<bool> {
        let is_wanted = |(schema, name): &&(String, String)| {
            self.wanted.contains(&(one_line(schema), one_line(name)))
        };
        let both = self.before.keys().chain(after.keys()).filter(is_wanted);
        let (mut is_old, mut is_new, mut any) = (true, true, false);
        for name in both {
            let (before, after) = (self.before.get(name), after.get(name));
            any = true;
            is_old &= before == after;
            is_new &= after.is_some() && before != after;
        }
        match (any, is_old, is_new) {
            (true, true, false) => Some(false),
            (true, false, true) => Some(true),
            _ => None,
        }
    }

    /// How a person finds out.
    fn tell(&self, database: &str) -> String {
        let is_wanted = |(name, _): &(&(String, String), &u32)| {
            self.wanted
                .contains(&(one_line(&name.0), one_line(&name.1)))
        };
        let replaced = self.before.iter().find(is_wanted);
        replaced.map_or_else(
            || format!("once the server answers, look whether {database} holds the backup's tables"),
            |((schema, name), oid)| {
                format!(
                    "once the server answers, run in database {database}: SELECT oid FROM pg_class WHERE oid = {oid}; where there is a row, \
                     it is the old {schema}.{name} and nothing was changed, and where there is none, the backup was restored"
                )
            },
        )
    }
}

/// A load over a database.
struct Over<'a> {
    proven: &'a Proven,
    marks: Marks,
    counted: Counted,
    safety: Option<String>,
}

impl Over<'_> {
    fn database(&self) -> String {
        self.proven.to.database().to_owned()
    }

    /// Loads, under a name among the sessions that nobody else has. Where that is cut short in the moment of the commit, the
    /// server is asked what became of it.
    async fn loaded(
        &self,
        stages: &Stages,
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
    ) -> Result<(u64, Vec<String>), RestoreError> {
        let proven = self.proven;
        let name = format!("pgseal_load_{}", Uid::new((stages.clock)()).short());
        let to = proven.to.with_application_name(&name);
        let watched = Watched::new(name);
        let mode = LoadMode::InPlace(&to, &proven.list);
        let load = load(proven, mode, self.counted.inside.as_ref(), stages, progress);
        let work = async {
            tokio::select! {
                loaded = load => Ok(loaded),
                blockers = blocked(proven, &watched) => Err(blockers),
            }
        };
        let error = match cancel.run_until_cancelled(Box::pin(work)).await {
            Some(Ok(Ok(loaded))) => return Ok(loaded),
            Some(Ok(Err(source))) => self.failed(source),
            Some(Err(blockers)) => RestoreError::LoadBlocked {
                database: self.database(),
                waited: proven.lock_wait,
                blockers,
                safety: self.safety.clone(),
            },
            None => RestoreError::Interrupted(self.safety.clone()),
        };
        if is_of_server(&error) {
            return Err(error);
        }
        match self.was_committed(&watched).await {
            Ok(Some(true)) => {
                let bytes = proven
                    .fetched
                    .manifest()
                    .map_or(0, |manifest| manifest.plain_bytes);
                let warning = format!("the load was committed, although {}", why(&error));
                Ok((bytes, vec![warning]))
            }
            Ok(Some(false)) => Err(error),
            unknown => {
                let reason = unknown.as_ref().err().map(|error| explain(error));
                tracing::warn!(reason, "The server does not say what became of the load");
                Err(RestoreError::LoadUnknown {
                    database: self.database(),
                    tell: self.marks.tell(proven.to.database()),
                    safety: self.safety.clone(),
                    why: why(&error),
                })
            }
        }
    }

    fn failed(&self, source: VaultError) -> RestoreError {
        let (database, safety) = (self.database(), self.safety.clone());
        let VaultError::Pg(PgError::Client { stderr, .. }) = &source else {
            return RestoreError::LoadInPlace {
                database,
                safety,
                source,
            };
        };
        match RowChecks::found_in(stderr) {
            Some(differs) => RestoreError::RowsInPlace {
                database,
                differs,
                safety,
            },
            None => RestoreError::LoadInPlace {
                database,
                safety,
                source,
            },
        }
    }

    /// Whether the load was committed, once its session is gone.
    async fn was_committed(&self, watched: &Watched) -> Result<Option<bool>, PgError> {
        let mut tries = 1;
        loop {
            match self.try_to_tell(watched).await {
                Ok(committed) => return Ok(committed),
                Err(error) if tries == inspect::ANSWER_TRIES => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "the server does not say yet what became of the load");
                }
            }
            tries += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Two signs, and neither counts against the other: somebody else may have replaced a table meanwhile, and a server that
    /// took over another's work may know the transaction's number as another one's.
    async fn try_to_tell(&self, watched: &Watched) -> Result<Option<bool>, PgError> {
        let by_transaction = inspect::end_load(&self.proven.to, watched).await?;
        let by_objects = self.marks.is_committed(&self.after().await?);
        Ok(match (by_transaction, by_objects) {
            (Some(one), Some(other)) if one != other => None,
            (one, other) => one.or(other),
        })
    }

    async fn after(&self) -> Result<Relations, PgError> {
        let mut session = Session::connect(&self.proven.to).await?;
        let after = inspect::relations(&mut session).await;
        session.close().await;
        after
    }

    /// What was compared with the manifest, inside and behind the transaction, once there is any sign that it was carried out.
    async fn compared(&self) -> Result<Option<(usize, u64)>, RestoreError> {
        let counted = |source| RestoreError::Count {
            database: self.database(),
            safety: self.safety.clone(),
            source,
        };
        let after = self.after().await.map_err(counted)?;
        if self.marks.is_committed(&after) == Some(false) {
            return Err(RestoreError::NotLoaded {
                database: self.database(),
                safety: self.safety.clone(),
            });
        }
        let behind = compare(&self.proven.to, self.counted.behind.as_ref(), Depth::Number).await;
        let behind =
            behind
                .map_err(counted)?
                .map_err(|differences| RestoreError::CountsInPlace {
                    database: self.database(),
                    differences,
                    safety: self.safety.clone(),
                })?;
        let inside = self.counted.inside.as_ref();
        let inside = inside.map(|checks| (checks.tables, checks.rows));
        Ok(match (inside, behind) {
            (Some((tables, rows)), Some((more, more_rows))) => {
                Some((tables + more, rows + more_rows))
            }
            (one, other) => one.or(other),
        })
    }
}

/// Whether the server itself refused something of the load: its one transaction has come to nothing then.
fn is_of_server(error: &RestoreError) -> bool {
    match error {
        RestoreError::RowsInPlace { .. } => true,
        RestoreError::LoadInPlace {
            source: VaultError::Pg(PgError::Client { stderr, .. }),
            ..
        } => {
            let said = |what| stderr.contains(what);
            said("ERROR:") && !said("FATAL:") && !said("server closed the connection")
        }
        _ => false,
    }
}

/// How a load came to its end, without what that would mean if it were known what became of it.
fn why(error: &RestoreError) -> String {
    match error {
        RestoreError::LoadInPlace { source, .. } => format!("this was said: {}", explain(source)),
        RestoreError::LoadBlocked { .. } => "it had waited for a lock".to_owned(),
        RestoreError::Interrupted(_) => "it was interrupted".to_owned(),
        other => format!("this was said: {}", explain(other)),
    }
}

/// Who keeps the load waiting for too long. Where nobody can look, the load itself will say what is wrong with the server.
async fn blocked(proven: &Proven, watched: &Watched) -> Vec<Blocker> {
    match inspect::until_blocked(&proven.to, watched, proven.lock_wait).await {
        Ok(blockers) => blockers,
        Err(error) => {
            tracing::warn!(%error, "Restore cannot see who blocks its load");
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_ids_tell_what_was_committed() {
        let name = |name: &str| ("public".to_owned(), name.to_owned());
        let marks = |wanted: &[&str]| Marks {
            before: Relations::from([(name("t"), 1), (name("own"), 2)]),
            wanted: wanted.iter().map(|wanted| name(wanted)).collect(),
        };
        let same = Relations::from([(name("t"), 1), (name("own"), 9)]);
        assert_eq!(marks(&["t", "u"]).is_committed(&same), Some(false));
        let anew = Relations::from([(name("t"), 7), (name("own"), 2)]);
        assert_eq!(marks(&["t", "u"]).is_committed(&anew), Some(true));
        let made = Relations::from([(name("t"), 1), (name("u"), 7)]);
        assert_eq!(marks(&["u"]).is_committed(&made), Some(true));
        // Somebody else made one of them, or dropped one behind the commit.
        assert_eq!(marks(&["t", "u"]).is_committed(&made), None);
        let dropped = Relations::from([(name("own"), 7)]);
        assert_eq!(marks(&["t", "own"]).is_committed(&dropped), None);
        assert_eq!(marks(&["u"]).is_committed(&same), None);
        assert!(marks(&["t"]).tell("shop").contains("WHERE oid = 1;"));
    }
}
