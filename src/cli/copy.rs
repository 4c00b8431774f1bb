//! `pgseal copy`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::Context;
use super::exit::{Left, NotCopied, UsageError};
use super::output::{bytes, counted};
use crate::catalog::{BackupRow, Catalog, CatalogError, Health};
use crate::config;
use crate::model::digest::Sha256;
use crate::model::explanation::explain;
use crate::model::ids::Uid;
use crate::model::object_key::ObjectKey;
use crate::model::target::TargetName;
use crate::progress::Progress;
use crate::store::{Store, StoreError};
use crate::vault::{CopyError, Selector, Vault, VaultError, Which};

const AFTER_HELP: &str = "\
Examples:
  pgseal copy latest
  pgseal copy --all                 whatever has no copy yet
  pgseal copy --all --check         reads both copies of each backup to their ends, and writes nothing
  pgseal copy --back --all          mends the first store from the second: what is missing or damaged there

The sealed dump, its manifest and the record of its drill get the same names in the second store. The dump is digested while \
it is read and read back there, and both have to have the SHA-256 that the manifest records, before the manifest is put, which makes \
it a backup there. What is there already is read and not sent again. The passphrase is needed for the manifest alone.";

/// Copy backups, sealed as they are, into the second store or back, and read them back there
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct CopyArgs {
    /// Backups: names, beginnings of names, latest, or whole object keys
    #[arg(value_name = "BACKUP", required_unless_present = "all")]
    backups: Vec<String>,
    /// Every complete backup of the target, or of all targets where none is named
    #[arg(long, conflicts_with = "backups")]
    all: bool,
    /// Only read both copies, and compare each with its manifest
    #[arg(long)]
    check: bool,
    /// Copy from the second store into the first, where that has lost a backup or has it damaged
    #[arg(long, conflicts_with = "check")]
    back: bool,
    /// The target, as BACKUP_TARGETS_FILE calls it; DATABASE_URL is the target default
    #[arg(long, value_name = "NAME", value_parser = config::target_name)]
    target: Option<TargetName>,
}

/// How long a copy that was killed still keeps its backup from being deleted, at most; one that goes on renews that.
const PIN_FOR: Duration = Duration::from_mins(30);

/// What came of one backup.
#[derive(Serialize)]
struct Line {
    name: String,
    object_key: String,
    /// `copied`, `was there`, `checked` or `failed`.
    outcome: &'static str,
    replicated: bool,
    sealed_bytes: Option<u64>,
    sealed_sha256: Option<String>,
    #[serde(skip)]
    digest: Option<Sha256>,
    error: Option<String>,
}

impl CopyArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut vault = context.settings.vault().await?;
        let place = vault.second.as_ref().ok_or(CopyError::NoSecond)?.describe();
        let targets = context.settings.targets()?;
        if let Some(target) = &self.target {
            targets.require(target)?;
            vault = vault.of_target(target)?;
        }
        let from = if self.back {
            vault.turned().ok_or(CopyError::NoSecond)?
        } else {
            vault.clone()
        };
        let listing = self.keys(&vault, &from, context);
        let keys = context.cancel.run_until_cancelled(listing).await;
        let keys = keys.ok_or(Left)??;
        let catalog = catalog_if_it_answers().await;
        let holder = format!("copy-{}", Uid::new((context.clock)()));
        let (mut lines, mut worst) = (Vec::new(), None);
        for key in keys {
            let progress = Arc::new(Progress::default());
            let copying = self.one(&vault, &key, &progress, context);
            // What only reads keeps nobody from anything.
            let pins = catalog.as_ref().filter(|_| !self.check);
            let done = Box::pin(pinned(pins, &holder, &key, copying));
            match context.progress.show(&progress, done).await {
                Ok(line) => lines.push(line),
                Err(error @ CopyError::Interrupted) => return Err(error.into()),
                Err(error @ CopyError::Leaving(_)) if self.all => tracing::info!("{error}"),
                // One that cannot be copied keeps no other from it.
                Err(error) => {
                    lines.push(Line::failed(&key, &error));
                    // What can be restored all the same is not the worst.
                    let is_worse = |worst: &CopyError| matches!(worst, CopyError::OneWhole { .. });
                    if worst.as_ref().is_none_or(is_worse) {
                        worst = Some(error);
                    }
                }
            }
        }
        if !self.check {
            clean_up(&from, self.back).await;
            if let Some(catalog) = &catalog {
                if let Err(error) = self.record(catalog, &lines, &place).await {
                    tracing::warn!(%error, "The catalog does not know of it yet: a worker's housekeeping looks again");
                }
            }
        }
        context.output.print(&lines, || text(&lines, &place))?;
        let failed = lines.iter().filter(|line| !line.replicated).count();
        match worst {
            None => Ok(()),
            Some(source) => Err(NotCopied { failed, source }.into()),
        }
    }

    /// What is meant, each once: of what the store has that is copied from.
    async fn keys(
        &self,
        vault: &Vault,
        from: &Vault,
        context: &Context,
    ) -> anyhow::Result<Vec<ObjectKey>> {
        let failed = |error| self.named(error, vault);
        if self.all {
            let listed = from.list_briefly(&config::list_cache()).await;
            let listed = listed.map_err(failed)?;
            // The oldest first: they have waited longest.
            let complete = listed.iter().rev().filter(|one| one.state == "complete");
            let keys: Vec<ObjectKey> = complete
                .filter_map(|one| ObjectKey::parse(&one.key).ok())
                .collect();
            // A second store that was to bring everything back, and has nothing, is no good news.
            if self.back && keys.is_empty() {
                return Err(failed(VaultError::NoneYet));
            }
            return Ok(keys);
        }
        let targets = context.settings.targets()?;
        let mut keys: Vec<ObjectKey> = Vec::new();
        for text in &self.backups {
            let selector = Selector::parse(text)?;
            // The newest backup of another database is not the one that somebody means.
            let vault = match (&self.target, &selector) {
                (None, Selector::Latest) => vault.of_target(&targets.choose(None)?)?,
                _ => vault.clone(),
            };
            let found = match &selector {
                // Nor is an older one, because the second store does not have the newest.
                Selector::Latest if self.back => vault.find_either(&selector).await?.entry,
                Selector::Latest => vault.find(&selector).await?,
                _ => from.find(&selector).await.map_err(failed)?,
            };
            let key = ObjectKey::parse(found.key())
                .map_err(|_| UsageError(format!("{} is no key", found.key())))?;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    /// Errors of a store name the first one's settings, and others no store at all.
    fn named(&self, error: VaultError, vault: &Vault) -> anyhow::Error {
        let place = vault.second.as_ref().map(Store::describe);
        match (error, place) {
            (VaultError::Store(source), Some(place)) if self.back => {
                of_second(&place)(source).into()
            }
            (error, Some(place)) if self.back => {
                anyhow::Error::new(error).context(format!("look in the second store, {place}"))
            }
            (error, _) => error.into(),
        }
    }

    async fn one(
        &self,
        vault: &Vault,
        key: &ObjectKey,
        progress: &Arc<Progress>,
        context: &Context,
    ) -> Result<Line, CopyError> {
        if self.check {
            let checked = check(vault, key, progress);
            let checked = context.cancel.run_until_cancelled(checked).await;
            return checked.unwrap_or(Err(CopyError::Interrupted));
        }
        let copied = if self.back {
            vault.copy_back(key, progress, &context.cancel).await?
        } else {
            vault.copy(key, progress, &context.cancel).await?
        };
        Ok(Line {
            digest: Some(copied.sealed_sha256),
            outcome: if copied.was_there {
                "was there"
            } else {
                "copied"
            },
            replicated: true,
            sealed_bytes: Some(copied.sealed_bytes),
            sealed_sha256: Some(copied.sealed_sha256.to_string()),
            ..Line::of(key)
        })
    }

    /// Where there is a catalog, its rows say what was read back, so that nobody reads it once more to find that out.
    async fn record(
        &self,
        catalog: &Catalog,
        lines: &[Line],
        place: &str,
    ) -> Result<(), CatalogError> {
        for line in lines {
            let Some(digest) = line.digest else { continue };
            let Some(id) = catalog.backup_of_object(&line.object_key).await? else {
                continue;
            };
            // With another digest, it is not what the row is about.
            let is_its = catalog.copy_confirmed(id, digest, place).await?;
            let row = catalog.backup(id).await?;
            // What is altered is so in every copy; and what was there already was found wanting for another reason than its bytes.
            let was_mended = |row: BackupRow| match row.health {
                Health::Lost => true,
                Health::Corrupt => line.outcome == "copied",
                _ => false,
            };
            if self.back && is_its && row.is_some_and(was_mended) {
                catalog.mark_health(id, Health::Ok, None).await?;
            }
        }
        Ok(())
    }
}

fn of_second(place: &str) -> impl FnOnce(StoreError) -> VaultError {
    |source| VaultError::Second {
        place: place.to_owned(),
        source: Box::new(source),
    }
}

async fn catalog_if_it_answers() -> Option<Catalog> {
    let (connection, _) = config::catalog_address().ok()?;
    Catalog::open(&connection).await.ok()
}

/// Copies, while nobody begins to delete the backup that is copied.
async fn pinned(
    catalog: Option<&Catalog>,
    holder: &str,
    key: &ObjectKey,
    copying: impl Future<Output = Result<Line, CopyError>>,
) -> Result<Line, CopyError> {
    let Some(catalog) = catalog else {
        return copying.await;
    };
    let pin = async || match catalog.backup_of_object(key.as_str()).await? {
        Some(id) => {
            let pinned = catalog.pin(id, holder, PIN_FOR).await;
            pinned.map(|()| Some(id))
        }
        None => Ok(None),
    };
    let id = match pin().await {
        Ok(Some(id)) => id,
        Ok(None) => return copying.await,
        Err(CatalogError::NotRestorable { .. } | CatalogError::NoSuchBackup(_)) => {
            return Err(CopyError::Leaving(Line::of(key).name));
        }
        Err(error) => {
            tracing::warn!(%error, "Nobody is kept from deleting the backup meanwhile");
            return copying.await;
        }
    };
    let renewing = async {
        loop {
            tokio::time::sleep(PIN_FOR / 2).await;
            if let Err(error) = pin().await {
                tracing::warn!(%error, "Nobody is kept from deleting the backup any more");
            }
        }
    };
    let copied = tokio::select! { biased; copied = copying => copied, never = renewing => never };
    if let Err(error) = catalog.unpin(id, holder).await {
        tracing::debug!(%error, "a pin is left, and ends by itself");
    }
    copied
}

/// Both copies, each to its end.
async fn check(
    vault: &Vault,
    key: &ObjectKey,
    progress: &Arc<Progress>,
) -> Result<Line, CopyError> {
    let line = Line::of(key);
    progress.start_stage("read the first copy");
    let first = vault.check_digest(key, progress).await;
    progress.start_stage("read the second copy");
    let second = vault.with(Which::Second).check_digest(key, progress).await;
    let manifest = match (first, second) {
        (Ok(first), Ok(second)) if first.uid == second.uid => first,
        (Ok(_), Ok(_)) => {
            let source = VaultError::Replaced {
                name: line.name,
                what: "it is another backup's",
            };
            return Err(one_whole(vault, key, Which::First, source).await);
        }
        (Err(source), Ok(_)) => return Err(one_whole(vault, key, Which::Second, source).await),
        (Ok(_), Err(source)) => return Err(one_whole(vault, key, Which::First, source).await),
        (Err(source), Err(worse)) => {
            let reason = explain(&worse);
            tracing::warn!(reason, "Nor is the second copy there and whole");
            return Err(vault.at_fault(&line.name, Which::First, source));
        }
    };
    Ok(Line {
        outcome: "checked",
        replicated: true,
        sealed_bytes: Some(manifest.sealed_bytes),
        sealed_sha256: Some(manifest.sealed_sha256.to_string()),
        ..line
    })
}

/// The error of a backup that is whole in one store. Of a copy that could not be read to its end, nobody knows what it is; nor of
/// one in a store that is away, which may look like an empty one.
async fn one_whole(vault: &Vault, key: &ObjectKey, whole: Which, source: VaultError) -> CopyError {
    let name = Line::of(key).name;
    let (other, mend) = match whole {
        Which::First => (
            Which::Second,
            format!("pgseal copy {key} mends the other one"),
        ),
        Which::Second => (
            Which::First,
            format!("pgseal copy --back {key} mends the other one"),
        ),
    };
    let away = vault.with(other).in_haste().store.check_bucket().await;
    let is_verdict = source.is_verdict();
    let hint = if source.is_of_another() {
        format!("move the other object away, which is not this backup's; then {mend}")
    } else {
        mend
    };
    let is_gone = matches!(source, VaultError::Store(StoreError::NotFound { .. }));
    match away {
        Err(away) if is_gone => return vault.at_fault(&name, other, away.into()),
        _ if !is_verdict && !is_gone => return vault.at_fault(&name, other, source),
        _ => {}
    }
    CopyError::OneWhole {
        whole: vault.with(whole).store.describe(),
        hint,
        source: Box::new(vault.at_fault(&name, other, source)),
        name,
    }
}

/// Removes what copies that were killed have left where they copied to.
async fn clean_up(from: &Vault, back: bool) {
    match from.clean_second().await {
        Ok(_) => {}
        // A backup cleans the first store up, too.
        Err(error) if back => tracing::debug!(%error, "What killed copies left stays for now"),
        Err(error) => tracing::warn!(%error, "What killed copies left could not be cleaned up"),
    }
}

impl Line {
    fn of(key: &ObjectKey) -> Self {
        Self {
            name: key.backup_name().unwrap_or(key.as_str()).to_owned(),
            object_key: key.to_string(),
            outcome: "failed",
            replicated: false,
            sealed_bytes: None,
            sealed_sha256: None,
            digest: None,
            error: None,
        }
    }

    fn failed(key: &ObjectKey, error: &CopyError) -> Self {
        Self {
            error: Some(explain(error)),
            ..Self::of(key)
        }
    }

    fn text(&self, name: &str) -> String {
        let size = self.sealed_bytes.map(bytes).unwrap_or_default();
        match (self.outcome, &self.error) {
            ("copied", _) => format!("{name}  copied and read back, {size}"),
            ("was there", _) => format!("{name}  was there, read back, {size}"),
            ("checked", _) => format!("{name}  both copies are whole, {size}"),
            (_, error) => {
                let error = error.as_deref().unwrap_or_default();
                format!("{name}  FAILED: {error}")
            }
        }
    }
}

fn text(lines: &[Line], place: &str) -> String {
    let good = lines.iter().filter(|line| line.replicated).count() as u64;
    let names: BTreeSet<&str> = lines.iter().map(|line| line.name.as_str()).collect();
    // Two targets' backups of one second have one name.
    let are_told_apart = names.len() == lines.len();
    let text = lines.iter().map(|line| {
        line.text(if are_told_apart {
            &line.name
        } else {
            &line.object_key
        })
    });
    let mut text: Vec<String> = text.collect();
    let of = counted(lines.len() as u64, "backup");
    text.push(format!(
        "{good} of {of} in both stores; the second is {place}"
    ));
    text.join("\n")
}
