//! A drill: the backup is restored for trial, on a server where nothing can be harmed, compared with what its manifest
//! recorded in the dump's own snapshot, and dropped again. It is the only proof that a backup is worth something.

use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::fresh::Working;
use super::plan::{MissingRoles, Wishes};
use super::{
    LOCK_WAIT_DEFAULT, Loaded, Mode, Proven, RestoreError, RestoreRequest, Safety, prove, roles,
};
use crate::backup::Stages;
use crate::model::connection::Connection;
use crate::model::explanation::explain;
use crate::model::ids::Uid;
use crate::model::manifest::{DatabaseFacts, Manifest};
use crate::model::object_key::ObjectKey;
use crate::model::proof::{Proof, Verdict};
use crate::model::target::TargetName;
use crate::pg::PgError;
use crate::pg::inspect::{self, Depth, Session};
use crate::progress::Progress;
use crate::restore::caution::rows_left_out;
use crate::vault::{Entry, Found, Limits, VaultError, Which};

/// One drill.
pub struct DrillRequest {
    /// What is tried. Where its copy cannot be used, the other one is.
    pub found: Found,
    /// A server that may be used for it; the drill makes a database of its own there.
    pub server: Connection,
    /// Whether contents are compared too, for which the manifest needs digests.
    pub depth: Depth,
    /// What a foreign object may become.
    pub limits: Limits,
}

/// A drill that came to a verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Drilled {
    /// The backup's name.
    pub backup: String,
    /// The whole key of its dump.
    pub object_key: String,
    /// What was found.
    pub verdict: Verdict,
    /// Why it is not PROVEN.
    pub reason: Option<String>,
    /// When it ended.
    pub at: OffsetDateTime,
    /// Tables and rows that were compared.
    pub compared: Option<(usize, u64)>,
    /// Whether contents were compared, not only numbers.
    pub digests: bool,
    /// Bytes of the archive that was loaded.
    pub plain_bytes: u64,
    /// From the first byte that was fetched to a database that can be used: what a recovery takes.
    pub took: Duration,
    /// The server's version, where it came so far.
    pub server: Option<String>,
    /// Which copy was tried.
    pub copy: Which,
    /// What an administrator should know.
    pub warnings: Vec<String>,
    /// Whether anything was restored or could not be. What was not tried changes no earlier verdict.
    pub is_tried: bool,
}

/// Restores a backup for trial, and puts the verdict beside it in the store.
///
/// # Errors
/// It could not be tried: the store or the server cannot be reached, or it was interrupted. That says nothing about the
/// backup.
pub async fn drill(
    stages: &Stages,
    request: DrillRequest,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Drilled, RestoreError> {
    let manifest = match &request.found.entry {
        Entry::Complete(manifest) | Entry::Lost(manifest) => Some(manifest.clone()),
        _ => None,
    };
    let mut drilled = judge(stages, request, manifest.as_deref(), progress, cancel).await?;
    if let Some(manifest) = manifest.as_ref().filter(|_| drilled.is_tried) {
        if let Err(error) = record(stages, manifest, &drilled).await {
            let warning = format!("the verdict could not be put beside the backup: {error}");
            drilled.warnings.push(warning);
        }
    }
    Ok(drilled)
}

async fn record(stages: &Stages, manifest: &Manifest, drilled: &Drilled) -> Result<(), VaultError> {
    let key = ObjectKey::parse(&manifest.object_key)
        .map_err(|_| VaultError::BadKey(manifest.object_key.clone()))?;
    // It says something about the copy that was tried; of the first one, which may be damaged where the second was, nothing.
    let second = stages.vault.second();
    let vault = second.filter(|_| drilled.copy == Which::Second);
    let vault = vault.as_ref().unwrap_or(&stages.vault);
    let proof = drilled.proof(manifest.uid);
    vault.put_proof(&key, &proof).await?;
    if drilled.copy == Which::First {
        // The other one was read back with the same digest; the day that it is needed, somebody asks what was proved.
        stages.vault.put_proof_beside_copy(&key, &proof).await;
    }
    Ok(())
}

impl Drilled {
    /// What is kept of it.
    #[must_use]
    pub fn proof(&self, uid: Uid) -> Proof {
        Proof {
            uid,
            verdict: self.verdict,
            reason: self.reason.clone(),
            at: self.at,
            seconds: self.took.as_secs_f64(),
            tables: self.compared.map(|(tables, _)| tables as u64),
            rows: self.compared.map(|(_, rows)| rows),
            digests: self.digests,
            server: self.server.clone(),
        }
    }
}

async fn judge(
    stages: &Stages,
    request: DrillRequest,
    manifest: Option<&Manifest>,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Drilled, RestoreError> {
    let object_key = request.found.entry.key().to_owned();
    let mut drilled = Drilled {
        backup: manifest.map_or_else(|| object_key.clone(), |manifest| manifest.name.clone()),
        object_key,
        verdict: Verdict::Unverifiable,
        reason: None,
        at: (stages.clock)(),
        compared: None,
        digests: false,
        plain_bytes: 0,
        took: Duration::ZERO,
        server: None,
        copy: request.found.copy,
        warnings: Vec::new(),
        is_tried: false,
    };
    if request.depth == Depth::Content && !manifest.is_some_and(has_digests) {
        drilled.reason = Some(
            "its manifest has no digests; backups record them where BACKUP_ROW_COUNTS=digests"
                .to_owned(),
        );
        return Ok(drilled);
    }
    drilled.is_tried = true;
    drilled.digests = request.depth == Depth::Content;
    let started = Instant::now();
    let server = request.server.clone();
    let trial = restored_for_trial(stages, request, manifest, progress, cancel);
    let outcome = Box::pin(trial).await;
    drilled.took = started.elapsed();
    drilled.at = (stages.clock)();
    match outcome {
        Ok(tried) => {
            (drilled.verdict, drilled.reason) = verdict_of(&tried, manifest);
            drilled.compared = tried.loaded.compared;
            drilled.plain_bytes = tried.loaded.plain_bytes;
            drilled.took = tried.took;
            drilled.server = Some(tried.server);
            drilled.copy = tried.copy;
            drilled.warnings = tried.warnings;
            drilled.warnings.extend(tried.loaded.warnings);
            drilled.warnings.extend(manifest.and_then(rows_left_out));
        }
        Err(error) => {
            let Some(verdict) = verdict_of_error(&error) else {
                return Err(error);
            };
            drilled.verdict = verdict;
            drilled.reason = Some(explain(&error));
            if verdict == Verdict::Failed && is_of_pg_restore(&error) {
                if let Some(why) = cannot_be_judged(&server).await {
                    drilled.verdict = Verdict::Unverifiable;
                    drilled.reason = Some(format!("{why}: {}", explain(&error)));
                }
            }
        }
    }
    Ok(drilled)
}

/// A table that an older pgseal, or an extension's condition, left without a digest could not be compared.
fn has_digests(manifest: &Manifest) -> bool {
    manifest.tables.iter().all(|table| table.digest.is_some())
}

/// What was loaded and compared.
struct Tried {
    loaded: Loaded,
    large_objects: u64,
    server: String,
    took: Duration,
    copy: Which,
    warnings: Vec<String>,
}

/// The database is gone again when this returns, whatever came of it, and so are the roles that were made for it.
async fn restored_for_trial(
    stages: &Stages,
    request: DrillRequest,
    manifest: Option<&Manifest>,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Tried, RestoreError> {
    let started = Instant::now();
    let named = manifest.map_or("backup", |manifest| &manifest.database.name);
    let scratch = scratch_name(named, Uid::new((stages.clock)()));
    let depth = request.depth;
    let restore = RestoreRequest {
        found: request.found,
        to: request.server.with_database(&scratch),
        // Nothing is saved, so that no name is needed.
        target: TargetName::default(),
        mode: Some(Mode::New),
        safety: Safety::Skip,
        limits: request.limits,
        wishes: Wishes {
            missing_roles: MissingRoles::Create,
            ..Wishes::default()
        },
        plan: None,
        lock_wait: LOCK_WAIT_DEFAULT,
    };
    let proven = cancel
        .run_until_cancelled(Box::pin(prove(stages, restore, progress)))
        .await;
    let proven = proven.ok_or(RestoreError::Interrupted(None))??;
    let lent = roles::make(&proven.to, &proven.plan).await?;
    let tried = in_scratch(&proven, depth, started, stages, progress, cancel).await;
    lent.undo(&proven.to).await;
    tried
}

/// A name that no database on a scratch server has; cut so that a restore's own ending fits behind it.
fn scratch_name(database: &str, uid: Uid) -> String {
    const DATABASE_BYTES_MAX: usize = 30;
    let mut keep = database.len().min(DATABASE_BYTES_MAX);
    while !database.is_char_boundary(keep) {
        keep -= 1;
    }
    format!("{}_drill_{}", &database[..keep], uid.short())
}

async fn in_scratch(
    proven: &Proven,
    depth: Depth,
    started: Instant,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Tried, RestoreError> {
    // Whoever may make databases may copy a template.
    let facts = proven.fetched.manifest().map(|manifest| DatabaseFacts {
        is_template: false,
        ..manifest.database.clone()
    });
    let working = Working::create(proven, facts.as_ref(), None, stages, progress).await;
    let mut working = working?;
    let filled = working.fill(proven, depth, stages, progress, cancel).await;
    let took = started.elapsed();
    let looked = match filled {
        Ok(loaded) => look(working.database())
            .await
            .map(|(large_objects, server)| Tried {
                loaded,
                large_objects,
                server,
                took,
                copy: proven.fetched.copy(),
                warnings: proven
                    .fetched
                    .note()
                    .map(str::to_owned)
                    .into_iter()
                    .collect(),
            })
            .map_err(RestoreError::New),
        Err(error) => Err(error),
    };
    progress.start_stage("drop the database");
    working.discard().await;
    looked
}

async fn look(database: &Connection) -> Result<(u64, String), PgError> {
    let mut session = Session::connect(database).await?;
    let large_objects = inspect::large_objects(&mut session).await?;
    let server = session.server().version.clone();
    session.close().await;
    Ok((large_objects, server))
}

/// What is proved by a restore that went through, and why it is not all.
fn verdict_of(tried: &Tried, manifest: Option<&Manifest>) -> (Verdict, Option<String>) {
    let recorded = manifest.map_or(tried.large_objects, |manifest| manifest.large_objects);
    if recorded != tried.large_objects {
        let reason = format!(
            "{} large objects were restored, the backup has {recorded}",
            tried.large_objects
        );
        return (Verdict::Failed, Some(reason));
    }
    if tried.loaded.compared.is_none() {
        let reason = "it was restored without an error, but it has no row counts to compare with";
        return (Verdict::Unverifiable, Some(reason.to_owned()));
    }
    (Verdict::Proven, None)
}

/// What an error says about the backup; `None`: nothing, the trial itself failed.
fn verdict_of_error(error: &RestoreError) -> Option<Verdict> {
    match error {
        RestoreError::CountsNew(_) => Some(Verdict::Failed),
        RestoreError::Verify(source) | RestoreError::LoadNew(source) if is_of_server(source) => {
            Some(Verdict::Unverifiable)
        }
        RestoreError::Verify(source) | RestoreError::LoadNew(source) if source.is_verdict() => {
            Some(Verdict::Failed)
        }
        RestoreError::MissingExtensions(_)
        | RestoreError::MissingRoles(_)
        | RestoreError::TooNew { .. }
        | RestoreError::Refused(_)
        | RestoreError::NoSpace { .. }
        | RestoreError::Prepare(PgError::NoClient { .. } | PgError::NoCodec { .. }) => {
            Some(Verdict::Unverifiable)
        }
        // Such as a locale that the server does not have, or roles that may not be made.
        RestoreError::Prepare(source) | RestoreError::New(source) if source.is_refusal() => {
            Some(Verdict::Unverifiable)
        }
        _ => None,
    }
}

/// Whether it was pg_restore that failed to load, which is the server's fault or the archive's.
fn is_of_pg_restore(error: &RestoreError) -> bool {
    matches!(
        error,
        RestoreError::LoadNew(VaultError::Pg(PgError::Client { .. }))
    )
}

/// Why what pg_restore said tells nothing about the backup; `None`: it was said in PostgreSQL's own words. The hint is for
/// whoever drills, and a wrong FAILED would be worse than an honest "it cannot be told".
async fn cannot_be_judged(server: &Connection) -> Option<String> {
    let asked = async {
        let mut session = inspect::maintenance_session(server).await?;
        let language = inspect::language(&mut session).await?;
        session.close().await;
        Ok::<_, PgError>(language)
    };
    match asked.await {
        Ok(language) if language.is_plain() || language.may_be_set => None,
        Ok(language) => Some(format!(
            "the server speaks {} and role {} may not change that, so it cannot be told whether the server or the backup is the reason (GRANT SET ON PARAMETER lc_messages TO that role, from PostgreSQL 15 on, lets it)",
            language.locale,
            server.role()
        )),
        Err(error) => Some(format!("the server cannot be asked any more ({error})")),
    }
}

/// What pg_restore says where the server is the reason and not the archive, in PostgreSQL's words.
const SERVER_REASONS: [&str; 9] = [
    "No space left on device",
    "could not connect",
    "connection to server",
    "server closed the connection unexpectedly",
    "terminating connection",
    "permission denied",
    "out of memory",
    "out of shared memory",
    "too many connections",
];

/// What the server itself says where it was built without something, has no library for it, or allows the role too little. In
/// the lines of its errors alone: the statement and the rows, which pg_restore shows too, may have any words.
const SERVER_LACKS: [&str; 7] = [
    "unsupported XML feature",
    "not supported in this build",
    "not supported by this build",
    "compression method lz4 not supported",
    "could not access file",
    "temp_file_limit",
    "canceling statement due to",
];

fn is_of_server(error: &VaultError) -> bool {
    let VaultError::Pg(PgError::Client { stderr, ended, .. }) = error else {
        return false;
    };
    let mut errors = stderr.lines().filter(|line| line.contains("ERROR: "));
    ended.is_from_outside()
        || SERVER_REASONS.iter().any(|reason| stderr.contains(reason))
        || errors.any(|line| SERVER_LACKS.iter().any(|lack| line.contains(lack)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Ended;

    #[test]
    fn only_what_the_server_says_itself_is_its_fault() {
        let of_server = |ended, stderr: &str| {
            is_of_server(&VaultError::Pg(PgError::Client {
                program: "pg_restore",
                ended,
                stderr: stderr.to_owned(),
            }))
        };
        let failed = Ended::Code(1);
        let xml = "pg_restore: error: COPY failed for table \"t\": ERROR:  unsupported XML feature\nDETAIL:  libxml";
        assert!(of_server(failed, xml));
        assert!(of_server(
            failed,
            "pg_restore: error: could not execute query: ERROR:  ICU is not supported in this build"
        ));
        assert!(of_server(Ended::Signal(9), ""));
        let of_backup = "pg_restore: error: could not execute query: ERROR:  function one() does not exist\n\
            Command was: CREATE VIEW v AS SELECT 'unsupported XML feature', 'ICU is not supported in this build';";
        assert!(!of_server(failed, of_backup));
        // A crash is nobody's wish.
        assert!(!of_server(Ended::Signal(11), ""));
    }
}
