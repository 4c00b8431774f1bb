//! The command line: one file for each command, with its grammar, its help and what it prints.
//!
//! Results go to stdout; everything else goes to stderr.

mod accept;
mod backup;
mod catalog;
mod copy;
mod delete;
mod doctor;
mod drill;
mod enqueue;
mod exit;
mod fetch;
mod kept;
mod list;
mod migrate;
mod notify;
mod output;
mod plan;
mod progress;
mod prune;
mod restore;
mod rollback;
mod run_scheduled;
mod serve;
mod service;
mod show;
mod signals;
mod tell;
mod token;
mod verify;
mod worker;

use std::pin::Pin;
use std::sync::Arc;

use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

pub use exit::ExitStatus;

use crate::config::{self, LogArgs, Settings};
use crate::model::target::TargetName;
use crate::progress::Progress;
use crate::telemetry::{self, Format, Verbosity};
use crate::vault::{Found, Limits, Selector, Vault};
use crate::worker::Stop;

const AFTER_HELP: &str = "\
Settings are flags or variables; pgseal COMMAND --help shows both. The important ones:
  DATABASE_URL             the database, as postgres://ROLE@HOST:5432/DATABASE
  BACKUP_GPG_PASSPHRASE    seals and opens the backups (or BACKUP_GPG_PASSPHRASE_FILE)
  BACKUP_STORE             file:FOLDER or s3://BUCKET, with BACKUP_S3_* beside it
  BACKUP_COPY_STORE        a second store that gets a copy of each backup, with BACKUP_COPY_S3_* beside it
  CATALOG_DATABASE_URL     where jobs are recorded; only the service and pgseal catalog need it

Exit codes: 0 done · 1 failed · 2 wrong usage · 3 no such backup, or several · 4 the backup is damaged, replaced, \
or sealed with another passphrase · 5 a setting or the database must be changed first · 6 \
something is due to be deleted and was held back · 7 complete, and one of its two copies is missing or damaged · 130, 143 interrupted

Without pgseal: gpg -d NAME.dump.gpg | pg_restore -d DATABASE";

/// PostgreSQL backup and restore: sealed, verified, and restorable with stock tools
#[derive(Debug, Parser)]
#[command(name = "pgseal", version, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Backup(backup::BackupArgs),
    List(list::ListArgs),
    Show(show::ShowArgs),
    Verify(verify::VerifyArgs),
    Drill(drill::DrillArgs),
    Restore(restore::RestoreArgs),
    Rollback(rollback::RollbackArgs),
    Kept(kept::KeptArgs),
    Fetch(fetch::FetchArgs),
    Copy(copy::CopyArgs),
    Delete(delete::DeleteArgs),
    Prune(Box<prune::PruneArgs>),
    Accept(accept::AcceptArgs),
    Release(accept::ReleaseArgs),
    RunScheduled(Box<run_scheduled::RunScheduledArgs>),
    Doctor(doctor::DoctorArgs),
    Serve(Box<serve::ServeArgs>),
    Token(Box<token::TokenArgs>),
    Worker(Box<worker::WorkerArgs>),
    Enqueue(Box<enqueue::EnqueueArgs>),
    Migrate(migrate::MigrateArgs),
    Notify(Box<notify::NotifyCommandArgs>),
    Catalog(catalog::CatalogArgs),
}

/// What is said, and how.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Output")]
struct OutputArgs {
    /// Print the result as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Say nothing but errors and the result
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

/// What every command works with.
struct Context {
    settings: Settings,
    output: output::Output,
    progress: progress::Style,
    /// How far the command's work is.
    work: Arc<Progress>,
    cancel: CancellationToken,
    /// A worker's own, which ends in steps.
    stop: Stop,
    clock: fn() -> OffsetDateTime,
}

impl Cli {
    /// Reads the command line and the variables; wrong usage is said here, and ends with code 2.
    ///
    /// # Errors
    /// Wrong usage, or a request for help or the version.
    pub fn read(arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Self, clap::Error> {
        let matches = config::prepare(Self::command()).try_get_matches_from(arguments)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        if let (Command::Prune(prune), Some((_, typed))) = (&mut cli.command, matches.subcommand())
        {
            prune.set_typed(config::are_rules_typed(typed));
        }
        Ok(cli)
    }

    /// How much is to be said. A service says what it does, because nobody asked it to.
    #[must_use]
    pub const fn verbosity(&self) -> Verbosity {
        match (self.output.quiet, self.output.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) if self.is_service() => Verbosity::Told,
            (false, 0) => Verbosity::Normal,
            (false, 1) => Verbosity::Verbose,
            (false, _) => Verbosity::Trace,
        }
    }

    /// What its lines are: those of a service are for programs, unless somebody sits before them.
    #[must_use]
    pub fn log_format(&self) -> Format {
        let is_for_programs = self.is_service() && !telemetry::is_read_by_a_person();
        self.log.format(is_for_programs)
    }

    const fn is_service(&self) -> bool {
        matches!(self.command, Command::Worker(_) | Command::Serve(_))
    }

    const fn is_worker(&self) -> bool {
        matches!(self.command, Command::Worker(_))
    }

    /// Does what was asked, and says how it ended.
    pub async fn run(self, clock: fn() -> OffsetDateTime) -> ExitStatus {
        let cancel = CancellationToken::new();
        let (is_worker, is_service) = (self.is_worker(), self.is_service());
        let format = self.log_format();
        let is_quiet = self.output.quiet || format == Format::Json;
        let context = Context {
            settings: self.settings,
            output: if self.output.json {
                output::Output::Json
            } else {
                output::Output::Text
            },
            progress: progress::Style::choose(is_quiet),
            work: Arc::new(Progress::default()),
            cancel: cancel.clone(),
            stop: Stop::default(),
            clock,
        };
        let work = self.command.run(&context);
        if is_worker {
            signals::until_stopped(work, || context.stop.request(), format).await
        } else if is_service {
            signals::until_stopped(work, || cancel.cancel(), format).await
        } else {
            signals::until_done(work, &cancel, &context.work, format).await
        }
    }
}

/// A command at work. Boxed, because all of them side by side on the stack would take megabytes.
type Work<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

impl Command {
    fn run(self, context: &Context) -> Work<'_> {
        match self {
            // These end by themselves when they are told to, because something may have to be undone.
            Self::Backup(arguments) => Box::pin(arguments.run(context)),
            Self::Restore(arguments) => Box::pin(arguments.run(context)),
            Self::Drill(arguments) => Box::pin(arguments.run(context)),
            Self::Copy(arguments) => Box::pin(arguments.run(context)),
            Self::Rollback(arguments) => Box::pin(arguments.run(context)),
            Self::RunScheduled(arguments) => Box::pin(arguments.run(context)),
            // These can be left at any point: what they hold goes with them.
            Self::List(arguments) => context.leave(arguments.run(context)),
            Self::Show(arguments) => context.leave(arguments.run(context)),
            Self::Verify(arguments) => context.leave(arguments.run(context)),
            Self::Fetch(arguments) => context.leave(arguments.run(context)),
            Self::Kept(arguments) => context.leave(arguments.run(context)),
            Self::Delete(arguments) => context.leave(arguments.run(context)),
            Self::Prune(arguments) => context.leave(arguments.run(context)),
            Self::Accept(arguments) => context.leave(arguments.run(context)),
            Self::Release(arguments) => context.leave(arguments.run(context)),
            Self::Doctor(arguments) => context.leave(arguments.run(context)),
            Self::Enqueue(arguments) => context.leave(arguments.run(context)),
            // A service ends when it is told to.
            Self::Worker(arguments) => Box::pin(arguments.run(context, &context.stop)),
            Self::Serve(arguments) => Box::pin(arguments.run(context, &context.cancel)),
            Self::Token(arguments) => Box::pin(async move { arguments.run(context) }),
            Self::Migrate(arguments) => context.leave(arguments.run(context)),
            Self::Notify(arguments) => context.leave(arguments.run(context)),
            Self::Catalog(arguments) => context.leave(arguments.run(context)),
        }
    }
}

impl Context {
    fn leave<'a>(&'a self, work: impl Future<Output = anyhow::Result<()>> + 'a) -> Work<'a> {
        let work = Box::pin(work);
        Box::pin(async {
            let done = self.cancel.run_until_cancelled(work).await;
            done.unwrap_or_else(|| Err(exit::Left.into()))
        })
    }
}

/// Which backup is meant.
#[derive(Args, Clone, Debug)]
struct BackupSelection {
    /// A backup's name, the beginning of one, latest, or a whole object key
    #[arg(value_name = "BACKUP")]
    backup: String,
    #[command(flatten)]
    target: TargetArgs,
}

impl BackupSelection {
    /// Finds it, in the second store where the first does not have it. A name is looked for among the backups of all targets,
    /// unless one is named.
    async fn find(&self, vault: &Vault, settings: &Settings) -> anyhow::Result<Found> {
        let selector = Selector::parse(&self.backup)?;
        let targets = settings.targets()?;
        let named = self.target.target.as_ref();
        if named.is_none() && selector != Selector::Latest {
            return Ok(vault.find_either(&selector).await?);
        }
        // The newest backup of another database is not the one that somebody means.
        let target = targets.choose(named)?;
        Ok(vault.of_target(&target)?.find_either(&selector).await?)
    }
}

/// Which target is meant.
#[derive(Args, Clone, Debug)]
struct TargetArgs {
    /// The target, as BACKUP_TARGETS_FILE calls it; DATABASE_URL is the target default
    #[arg(long, value_name = "NAME", value_parser = config::target_name)]
    target: Option<TargetName>,
}

/// What a foreign object may become.
#[derive(Args, Clone, Copy, Debug)]
struct ForeignArgs {
    /// For a backup without a manifest: how many plain bytes one sealed byte may become before it is stopped
    #[arg(long, value_name = "N", default_value_t = Limits::default().foreign_ratio, hide_short_help = true)]
    max_ratio: u64,
}

impl ForeignArgs {
    const fn limits(self) -> Limits {
        Limits {
            foreign_ratio: self.max_ratio,
        }
    }
}
