//! A restore that cannot make things worse: everything is looked at, fetched, and proved to the last byte before the
//! target is touched.
//!
//! `new` fills a database under a working name and renames it only when its rows were compared with the manifest;
//! `swap` does the same beside the live one, behind a proved safety backup, and then swaps their names; `in-place` is
//! one transaction, behind a safety backup too. `rollback` undoes a swap.

mod caution;
mod compare;
mod drill;
mod error;
mod fresh;
mod in_place;
mod kept;
mod named;
pub mod plan;
mod roles;
mod rollback;
mod safety;
mod select;
mod swap;
mod target;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use drill::{DrillRequest, Drilled, drill};
pub use error::{Difference, RestoreError};
pub use kept::{KeptError, drop_kept, drop_older, list_kept};
pub use rollback::{RollbackError, RolledBack, rollback};
pub use safety::with_a_store_that_answers;
pub use select::{NotPicked, Selection};
use target::Target;

use plan::{CarriedOut, Plan, PlanId, Subject, Way, Wishes};

use crate::backup::Stages;
use crate::model::connection::Connection;
use crate::model::kept::KeptRecord;
use crate::model::manifest::Manifest;
use crate::model::object_key::ObjectKey;
use crate::model::target::TargetName;
use crate::pg::inspect::TargetLock;
use crate::pg::{Client, Codec, Load, LoadMode, RowChecks, Wanted, dumped_by, one_line};
use crate::progress::Progress;
use crate::vault::{Entry, Fetched, Found, Limits, VaultError};

/// Where the restored content goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Into a database that does not exist yet.
    New,
    /// Beside a database, whose place the new one takes when it is complete.
    Swap,
    /// Over the content of a database, in one transaction.
    InPlace,
}

impl Mode {
    /// The mode of a way that somebody asked for; `None`: whichever fits.
    #[must_use]
    pub const fn of(way: Way) -> Option<Self> {
        match way {
            Way::Auto => None,
            Way::New => Some(Self::New),
            Way::Swap => Some(Self::Swap),
            Way::InPlace => Some(Self::InPlace),
        }
    }
}

impl From<Mode> for Way {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::New => Self::New,
            Mode::Swap => Self::Swap,
            Mode::InPlace => Self::InPlace,
        }
    }
}

/// Whether the target is backed up before it is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Safety {
    /// It is, and the backup is verified.
    Backup,
    /// It was, just before; this backup is verified.
    Made(ObjectKey),
    /// Somebody said that there is nothing to save, or that it cannot be dumped any more.
    Skip,
}

/// One restore.
pub struct RestoreRequest {
    /// What is restored. Where its copy cannot be used, the other one is.
    pub found: Found,
    /// The database it goes to.
    pub to: Connection,
    /// That database's name among the targets, for its safety backup.
    pub target: TargetName,
    /// How; `None`: whichever fits.
    pub mode: Option<Mode>,
    /// Not used by [`Mode::New`]: there is nothing to save.
    pub safety: Safety,
    /// What a foreign object may become.
    pub limits: Limits,
    /// What was decided about roles, entries and parts; how it goes there is `mode`.
    pub wishes: Wishes,
    /// The plan that is to be carried out, and no other.
    pub plan: Option<PlanId>,
    /// How long a load in place may wait for somebody's lock.
    pub lock_wait: Duration,
}

/// A load in place holds what it has dropped, so whoever waits for it waits as long as it waits for others.
pub const LOCK_WAIT_DEFAULT: Duration = Duration::from_secs(30);

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The backup's name.
    pub backup: String,
    /// The database it is in.
    pub database: String,
    /// How it went there.
    pub mode: Mode,
    /// Why so.
    pub mode_reason: String,
    /// Tables and rows that were compared with the manifest; `None` where it has no counts.
    pub compared: Option<(usize, u64)>,
    /// Bytes of the archive.
    pub plain_bytes: u64,
    /// The safety backup's name.
    pub safety_backup: Option<String>,
    /// What was there before, under its name of now; a rollback brings it back.
    pub kept: Option<KeptRecord>,
    /// What an administrator should know.
    pub warnings: Vec<String>,
}

/// Restores a backup.
///
/// # Errors
/// As [`RestoreError`] says; unless it says otherwise, the target is as it was.
pub async fn run(
    stages: &Stages,
    request: RestoreRequest,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Restored, RestoreError> {
    let asked = caution::of_reputation(stages, &request.found);
    let proving = Box::pin(prove(stages, request, progress));
    // Beside what takes longer; where that fails, nobody waits for the other.
    let both = async { tokio::try_join!(proving, async { Ok(asked.await) }) };
    let interruptible = cancel.run_until_cancelled(Box::pin(both)).await;
    let (proven, cautions) = interruptible.ok_or(RestoreError::Interrupted(None))??;
    let database = proven.to.database().to_owned();
    let mut lock = TargetLock::take(&proven.to)
        .await
        .map_err(RestoreError::Prepare)?;
    let made = roles::make(&proven.to, &proven.plan).await?;
    let restored = carry_out(&proven, lock.as_mut(), stages, progress, cancel).await;
    if restored.as_ref().is_err_and(|error| !error.is_late()) {
        made.undo(&proven.to).await;
    }
    if let Some(lock) = lock {
        lock.release().await;
    }
    let Loaded {
        compared,
        plain_bytes,
        safety_backup,
        kept,
        warnings: of_load,
    } = restored?;
    let mut warnings = cautions;
    warnings.extend(proven.warnings);
    warnings.extend(proven.carried_out.warnings);
    warnings.extend(made.report(&proven.plan));
    warnings.extend(of_load);
    if proven.fetched.manifest().is_none() {
        warnings.push(
            "the backup is foreign: it has no manifest, so nothing vouches for where and when it was made, or for its rows".to_owned(),
        );
    }
    Ok(Restored {
        backup: proven.fetched.name().to_owned(),
        database,
        mode: proven.mode,
        mode_reason: proven.plan.mode_reason,
        compared,
        plain_bytes,
        safety_backup,
        kept,
        warnings,
    })
}

/// Carries it out, for as long as the lock is held: with a lock that another one has, it is interrupted where it can be.
async fn carry_out(
    proven: &Proven,
    lock: Option<&mut TargetLock>,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Loaded, RestoreError> {
    let cancel = &cancel.child_token();
    let work = async {
        match proven.mode {
            Mode::New => Box::pin(fresh::run(proven, stages, progress, cancel)).await,
            Mode::Swap => Box::pin(swap::run(proven, stages, progress, cancel)).await,
            Mode::InPlace => Box::pin(in_place::run(proven, stages, progress, cancel)).await,
        }
    };
    let mut work = Box::pin(work);
    let Some(lock) = lock else {
        return work.await;
    };
    let source = tokio::select! {
        restored = &mut work => return restored,
        lost = lock.lost() => lost,
    };
    cancel.cancel();
    match work.await {
        Err(RestoreError::Interrupted(safety)) => Err(RestoreError::LockLost { safety, source }),
        Err(error) if error.is_interruption() => Err(RestoreError::LockLost {
            safety: None,
            source,
        }),
        other => other,
    }
}

/// Refuses a selection that the backup does not have, by its manifest alone.
///
/// # Errors
/// [`RestoreError::Selection`], with what is called alike.
pub fn require_selected(manifest: &Manifest, wishes: &Wishes) -> Result<(), RestoreError> {
    if wishes.selection.is_everything() {
        return Ok(());
    }
    let toc = Subject::of(manifest).toc();
    let picked = select::pick(&toc, &wishes.selection, None);
    picked.map(drop).map_err(RestoreError::Selection)
}

/// Says what a restore would do, and changes nothing. A foreign backup has to be fetched and authenticated for it.
///
/// # Errors
/// The server or the store fails, or what was selected is not in the backup.
pub async fn planned(
    stages: &Stages,
    found: Found,
    to: &Connection,
    wishes: &Wishes,
    limits: Limits,
    progress: &Arc<Progress>,
) -> Result<Plan, RestoreError> {
    if let Entry::Complete(manifest) = &found.entry {
        progress.start_stage("look at the target");
        let asked = async { Ok(caution::of_reputation(stages, &found).await) };
        let looking = Box::pin(plan::look(to, Subject::of(manifest), wishes));
        let (mut plan, cautions) = tokio::try_join!(looking, asked)?;
        plan.warnings.extend(cautions);
        return Ok(plan);
    }
    let listed = async {
        let fetched = stages.vault.fetch(found.entry, progress).await?;
        stages
            .vault
            .authenticate(&fetched, limits, progress)
            .await?;
        let client = stages.clients.newest()?;
        let list = stages.vault.archive_list(&fetched, client, limits).await?;
        Ok((fetched, list))
    };
    let (fetched, list) = listed.await.map_err(RestoreError::Verify)?;
    progress.start_stage("look at the target");
    let subject = Subject {
        name: fetched.name(),
        manifest: fetched.manifest(),
        list: &list,
    };
    plan::look(to, subject, wishes).await
}

/// A backup that was proved, and a target that was looked at.
struct Proven {
    fetched: Fetched,
    to: Connection,
    target: TargetName,
    mode: Mode,
    safety: Safety,
    limits: Limits,
    client: Client,
    list: String,
    warnings: Vec<String>,
    plan: Plan,
    wishes: Wishes,
    carried_out: CarriedOut,
    lock_wait: Duration,
}

impl Proven {
    fn subject(&self) -> Subject<'_> {
        Subject {
            name: self.fetched.name(),
            manifest: self.fetched.manifest(),
            list: &self.list,
        }
    }

    /// The manifest as far as rows are compared with it: of a selection, only the tables that were selected.
    fn counted(&self) -> Option<Manifest> {
        let mut manifest = self.fetched.manifest()?.clone();
        if let Some(tables) = &self.carried_out.tables {
            manifest
                .tables
                .retain(|table| tables.contains(&(one_line(&table.schema), one_line(&table.name))));
        }
        Some(manifest)
    }
}

struct Loaded {
    compared: Option<(usize, u64)>,
    plain_bytes: u64,
    safety_backup: Option<String>,
    kept: Option<KeptRecord>,
    warnings: Vec<String>,
}

/// The backup, fetched and proved to the last byte; the archive's own list; and a client that both it and the server know.
async fn fetch(
    stages: &Stages,
    found: Found,
    server: u32,
    limits: Limits,
    progress: &Arc<Progress>,
) -> Result<(Fetched, String, Client), RestoreError> {
    let proved = async {
        let fetched = stages.vault.fetch_either(found, progress).await?;
        let proof = stages
            .vault
            .verify(&fetched, &stages.clients, limits, progress)
            .await?;
        Ok((fetched, proof.list))
    };
    let (fetched, list) = proved.await.map_err(RestoreError::Verify)?;
    let archive = dumped_by(&list).unwrap_or(server);
    target::reads(server, archive)?;
    let client = stages
        .clients
        .for_restore(server, archive, Codec::of(&list))
        .await
        .map_err(RestoreError::Prepare)?
        .clone();
    Ok((fetched, list, client))
}

/// The target is looked at first, because that is quick; then the whole backup is fetched and proved.
async fn prove(
    stages: &Stages,
    request: RestoreRequest,
    progress: &Arc<Progress>,
) -> Result<Proven, RestoreError> {
    let RestoreRequest {
        found,
        to,
        target: name,
        mode,
        safety,
        limits,
        mut wishes,
        plan: wanted_plan,
        lock_wait,
    } = request;
    wishes.way = mode.map_or(Way::Auto, Way::from);
    progress.start_stage("look at the target");
    let manifest = match &found.entry {
        Entry::Complete(manifest) => Some(&**manifest),
        _ => None,
    };
    let choice = plan::way(&to, manifest, &wishes).await?;
    let mode = Mode::of(choice.way).unwrap_or(Mode::InPlace);
    wishes.way = mode.into();
    let mut target = Target::look(&to, mode, &safety)
        .await
        .map_err(RestoreError::Prepare)?;
    let mut warnings = match &found.entry {
        Entry::Complete(manifest) => target.suits(manifest, &wishes).await?,
        _ => Vec::new(),
    };
    let server = target.server_major();
    // The host that answered is the one that everything else talks to.
    let to = target.connection();
    target.close().await;
    if let Entry::Complete(manifest) = &found.entry {
        // Before the long fetch, and once more with the archive at hand.
        let plan = plan::look(&to, Subject::of(manifest), &wishes).await?;
        require(plan, wanted_plan.as_ref())?;
    }

    let (fetched, list, client) = fetch(stages, found, server, limits, progress).await?;
    warnings.extend(fetched.note().map(str::to_owned));
    let subject = Subject {
        name: fetched.name(),
        manifest: fetched.manifest(),
        list: &list,
    };
    let (plan, carried_out) = plan::look_closely(&to, subject, &wishes).await?;
    let mut plan = require(plan, wanted_plan.as_ref())?;
    plan.mode_reason = choice.reason;
    Ok(Proven {
        plan,
        wishes,
        carried_out,
        lock_wait,
        fetched,
        to,
        target: name,
        mode,
        safety,
        limits,
        client,
        list,
        warnings,
    })
}

/// The plan, if it can be carried out and is the one that was wanted.
fn require(plan: Plan, wanted: Option<&PlanId>) -> Result<Plan, RestoreError> {
    if let Some(wanted) = wanted.filter(|wanted| **wanted != plan.id) {
        return Err(RestoreError::PlanChanged {
            differences: wanted.differences(&plan.id),
            now: Box::new(plan),
        });
    }
    if plan.is_possible {
        Ok(plan)
    } else {
        Err(RestoreError::Refused(Box::new(plan)))
    }
}

async fn load(
    proven: &Proven,
    mode: LoadMode<'_>,
    checks: Option<&RowChecks>,
    stages: &Stages,
    progress: &Arc<Progress>,
) -> Result<(u64, Vec<String>), VaultError> {
    if let Some(manifest) = proven.fetched.manifest() {
        progress.set_tables_total(manifest.tables.len() as u64);
    }
    let wanted = Wanted {
        list: proven.carried_out.list.as_deref(),
        ownership: roles::ownership(&proven.plan),
        checks,
    };
    let load = Load::start_of(&proven.client, mode, wanted, progress)?;
    let (opened, warnings) = stages
        .vault
        .load(&proven.fetched, load, proven.limits, progress)
        .await?;
    Ok((opened.plain_bytes, warnings))
}
