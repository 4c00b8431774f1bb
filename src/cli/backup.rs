//! `pgseal backup`.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::exit::{OneCopy, UsageError};
use super::output::{Record, took};
use super::tell::Teller;
use super::{Context, TargetArgs};
use crate::backup::{self, BackupRequest};
use crate::config::{self, ConfigError, NotifyArgs, Settings};
use crate::model::connection::Connection;
use crate::model::event::{EventKind, Facts};
use crate::model::explanation;
use crate::model::kind::BackupKind;
use crate::model::manifest::Manifest;
use crate::model::object_key::ObjectKey;
use crate::model::target::TargetName;
use crate::progress::Progress;
use crate::vault::{Vault, VaultError, Which};

const AFTER_HELP: &str = "\
Examples:
  pgseal backup postgres://app@db.example/shop
  pgseal backup --label reason=before-migration --exclude-table-data 'logs.*'

The dump, its snapshot and the row counts are of one moment. The backup exists once its manifest was written and read \
back; whatever fails before that leaves nothing in the store. Where there is a second store (BACKUP_COPY_STORE), it is then copied; \
should that fail, the backup is complete all the same, and the exit code is 7.";

/// Back a database up
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct BackupArgs {
    /// The database, as postgres://ROLE@HOST:5432/DATABASE [default: DATABASE_URL, or the file in DATABASE_URL_FILE]
    #[arg(value_name = "DATABASE_URL", conflicts_with = "target")]
    database_url: Option<String>,
    #[command(flatten)]
    target: TargetArgs,
    /// Why it is made; stands in its name
    #[arg(long, value_enum, default_value_t = KindArg::Manual)]
    kind: KindArg,
    /// Attach a label; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Leave the rows of matching tables out, as pg_dump does; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude_table_data: Vec<String>,
    #[command(flatten)]
    notify: NotifyArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum KindArg {
    /// Somebody asked for it
    Manual,
    /// A timer asked for it
    Scheduled,
}

impl BackupArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let target = self.target.target.clone().unwrap_or_default();
        let progress = Arc::new(Progress::default());
        let teller = Teller::of(&self.notify, &target, context);
        let known = self.known(context);
        if let Err(error) = self.require_target(&context.settings) {
            let failed = Facts {
                error: Some(explanation::explain(&error)),
                ..known
            };
            let teller = teller.without_switches();
            teller.tell(EventKind::BackupFailed, failed).await;
            return Err(error.into());
        }
        // Whoever is told of the beginning must not hold the backup up, nor its end.
        let made = tokio::select! {
            made = self.make(&target, context, &progress) => made,
            never = teller.tell_on(EventKind::BackupStarted, &known) => never,
        };
        let (manifest, vault) = match made {
            Ok(made) => made,
            Err(error) => {
                let failed = Facts {
                    stage: Some(progress.read().stage).filter(|stage| !stage.is_empty()),
                    error: Some(explanation::explain(error.as_ref())),
                    ..known
                };
                teller.tell(EventKind::BackupFailed, failed).await;
                return Err(error);
            }
        };
        let (name, key) = (&manifest.name, &manifest.object_key);
        let (copied, not_copied) = copy_if_wanted(&vault, name, key, context).await;
        let record = Record::of_summary(&manifest.summary()).copied(copied);
        let place = vault.store.describe();
        let printed = context.output.print(&record, || {
            let mut facts = record.facts();
            facts.add("took", Some(took(&progress)));
            let (name, facts) = (&record.name, facts.text());
            format!("Backup {name} is complete in {place}\n{facts}")
        });
        let done = Facts::of_manifest(&manifest);
        teller.tell(EventKind::BackupCompleted, done).await;
        if let Some(not_copied) = not_copied {
            let failed = Facts {
                error: Some(explanation::explain(&not_copied)),
                ..Facts::of_manifest(&manifest)
            };
            teller.tell(EventKind::CopyFailed, failed).await;
            printed?;
            return Err(not_copied.into());
        }
        printed
    }

    /// A target that was renamed is as a slip of the pen: people are told, and no switch, which would be another one's.
    fn require_target(&self, settings: &Settings) -> Result<(), ConfigError> {
        match &self.target.target {
            Some(target) => settings.targets()?.require(target),
            None => Ok(()),
        }
    }

    /// Makes the backup: its manifest, and where it is. What comes of its copy is no part of that.
    async fn make(
        &self,
        target: &TargetName,
        context: &Context,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<(Manifest, Vault)> {
        let request = self.request(target, &context.settings)?;
        let mut stages = context.settings.stages(context.clock).await?;
        stages.vault = stages.vault.of_target(target)?;
        let made = Box::pin(backup::run(&stages, &request, progress, &context.cancel));
        let manifest = context.progress.show(progress, made).await?;
        Ok((manifest, stages.vault))
    }

    /// What is known before anything was done.
    fn known(&self, context: &Context) -> Facts {
        let connection = self.connection(&context.settings);
        Facts {
            database: connection.ok().map(|to| to.database().to_owned()),
            backup_kind: Some(BackupKind::from(self.kind).as_str().to_owned()),
            ..Facts::default()
        }
    }

    fn connection(&self, settings: &Settings) -> Result<Connection, ConfigError> {
        match &self.target.target {
            Some(target) => settings.targets()?.connection(target),
            None => config::connection(self.database_url.as_deref(), "DATABASE_URL"),
        }
    }

    fn request(&self, target: &TargetName, settings: &Settings) -> anyhow::Result<BackupRequest> {
        Ok(BackupRequest {
            connection: self.connection(settings)?,
            target: target.to_string(),
            kind: self.kind.into(),
            labels: labels(&self.labels)?,
            exclude_table_data: self.exclude_table_data.clone(),
            requested: None,
        })
    }
}

/// Copies a backup that was just made, where there is a second store: what came of it, and why it has only one copy.
pub(super) async fn copy_if_wanted(
    vault: &Vault,
    name: &str,
    object_key: &str,
    context: &Context,
) -> (Option<&'static str>, Option<OneCopy>) {
    if vault.second.is_none() {
        return (None, None);
    }
    let progress = Arc::new(Progress::default());
    let copied = async {
        let key = ObjectKey::parse(object_key).map_err(|_| {
            let source = VaultError::BadKey(object_key.to_owned());
            vault.at_fault(name, Which::First, source)
        })?;
        vault.copy(&key, &progress, &context.cancel).await
    };
    match context.progress.show(&progress, copied).await {
        Ok(_) => (Some("confirmed"), None),
        Err(error) => {
            let (name, source) = (name.to_owned(), error);
            (Some("failed"), Some(OneCopy::First { name, source }))
        }
    }
}

impl From<KindArg> for BackupKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Manual => Self::Manual,
            KindArg::Scheduled => Self::Scheduled,
        }
    }
}

/// Labels by name; each name once.
pub(super) fn labels(typed: &[(String, String)]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for (name, value) in typed {
        if labels.insert(name.clone(), value.clone()).is_some() {
            return Err(UsageError(format!("label {name} is given twice")).into());
        }
    }
    Ok(labels)
}

/// `NAME=VALUE`, the name not empty.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label is NAME=VALUE".to_owned()),
    }
}
