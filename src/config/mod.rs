//! Settings: each is a flag, a variable and a line of help at once. The only module that reads the environment.
//!
//! A variable that is empty counts as unset. Secrets have no flag that takes their value: they come from a variable, or
//! from a file that `…_FILE` names (its first line); both at once is an error. `prepare` belongs before clap reads a
//! command, the rest turns what was read into what the program works with.

mod api;
mod catalog;
mod database;
mod environment;
mod notify;
mod operate;
mod own;
mod service;
mod store;
mod targets;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

pub use api::{AlgorithmArg, ApiArgs, ConfirmArg, JwtArgs};
pub use catalog::{catalog_address, names_catalog};
pub use database::{connection, drill_server, drill_server_if_named};
use environment::{environment, every_name_is_known, is_set, read_lines, secret};
pub use notify::NotifyArgs;
pub use operate::{Due, RetentionArgs, ScheduleArgs, are_rules_typed};
pub(crate) use service::queue_name;
pub use service::{LogArgs, QueueArgs, WorkerTimes, redis};
pub use store::{CopyStoreArgs, StoreArgs};
pub(crate) use targets::target_name;
pub use targets::{Targets, TargetsArgs};

use crate::backup::{BackupSettings, NewerClient, Stages};
use crate::model::connection::ConnectionError;
use crate::model::manifest::RowCounts;
use crate::model::object_key::{Layout, ObjectKeyError};
use crate::model::passphrase::{PASSPHRASE_CHARS_ADVISED, Passphrase};
use crate::pg::{Clients, Search};
use crate::queue::address::AddressError;
use crate::schedule::ScheduleError;
use crate::store::{Store, StoreError, StoreSettings};
use crate::vault::{ListCache, Vault};

/// Why the settings cannot be used. No value of a secret is ever in it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither typed nor set.
    #[error("no database was named\nhint: give its URL, or set DATABASE_URL")]
    NoDatabase,
    /// The targets' file cannot be used.
    #[error("read the targets in {}, line {line}: {what}", path.display())]
    Targets {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// The target `default` in two places.
    #[error(
        "DATABASE_URL and the targets' file both name the target default\nhint: unset DATABASE_URL, or call the other one otherwise"
    )]
    TargetTwice,
    /// No target is called so.
    #[error("no target is called {name}\nhint: there are: {known}; {file}")]
    NoTarget {
        /// What was named.
        name: String,
        /// Those that there are.
        known: String,
        /// Where others are named.
        file: String,
    },
    /// Which target is meant, only its name would tell.
    #[error("there are several targets: {known}\nhint: choose one with --target NAME")]
    SeveralTargets {
        /// Those that there are.
        known: String,
    },
    /// Nor is there a server for drills.
    #[error(
        "no server for drills was named\nhint: give one with --to, or set BACKUP_DRILL_DATABASE_URL: a server where databases may be made and dropped"
    )]
    NoDrillServer,
    /// A service needs Redis.
    #[error("no Redis was named\nhint: set REDIS_URL, as redis://HOST:6379/0")]
    NoRedis,
    /// Redis's URL cannot be read.
    #[error("read REDIS_URL")]
    Redis(#[source] AddressError),
    /// A worker's backups must not go where nobody looks for them.
    #[error(
        "no store is named, and a worker does not put backups on a disk that nobody chose\nhint: set BACKUP_S3_BUCKET and what belongs to it, or BACKUP_STORE=file:/a/folder/that/lasts"
    )]
    NoStore,
    /// No catalog was named, and no database that it could be beside.
    #[error(
        "no catalog was named\nhint: set CATALOG_DATABASE_URL, or DATABASE_URL: the catalog is then in database pgseal on the same server"
    )]
    NoCatalog,
    /// The URL cannot be read.
    #[error("read {from}")]
    Connection {
        /// Where the URL came from.
        from: String,
        /// What is wrong with it.
        #[source]
        source: ConnectionError,
    },
    /// A secret in two places.
    #[error("{0} and {0}_FILE are both set\nhint: unset one of them")]
    Twice(&'static str),
    /// A secret's file cannot be read.
    #[error("read the file that {variable} names, {}\nhint: let {variable} name a file that this user can read", path.display())]
    SecretFile {
        /// The variable.
        variable: String,
        /// The file.
        path: PathBuf,
        /// The failure.
        #[source]
        source: std::io::Error,
    },
    /// A secret's file has nothing in its first line.
    #[error("the file that {variable} names, {}, has an empty or blank first line\nhint: write the secret into its first line", path.display())]
    EmptySecretFile {
        /// The variable.
        variable: String,
        /// The file.
        path: PathBuf,
    },
    /// A secret that is no text: what it would be changed into, nobody could type again.
    #[error("{0} is not UTF-8")]
    NotText(&'static str),
    /// A variable that no setting has, but almost.
    #[error("{found} is no setting\nhint: did you mean {meant}?")]
    Misspelt {
        /// What is set.
        found: String,
        /// What it is like.
        meant: String,
    },
    /// A schedule cannot be used.
    #[error("read {setting}")]
    Schedule {
        /// The variable.
        setting: &'static str,
        /// What is wrong with it.
        #[source]
        source: ScheduleError,
    },
    /// Drills are due, and there is nowhere to make them.
    #[error(
        "BACKUP_DRILL_SCHEDULE is set, and no server for drills is\nhint: set BACKUP_DRILL_DATABASE_URL: a server where databases may be made and dropped"
    )]
    DrillsWithoutServer,
    /// What drills fetched, only a catalog remembers.
    #[error(
        "BACKUP_DRILL_MONTHLY_BYTES is set, and there is no catalog, which remembers what was fetched\nhint: name it in CATALOG_DATABASE_URL and run pgseal migrate, or name the backup that is to be tried"
    )]
    BudgetWithoutCatalog,
    /// A folder that is named and not there.
    #[error("{variable} names {}, which is no folder", path.display())]
    NoFolder {
        /// The variable.
        variable: &'static str,
        /// What it names.
        path: PathBuf,
    },
    /// A blank passphrase.
    #[error(
        "{0} holds an empty or blank passphrase\nhint: set a long random one, and keep a copy where the backups are not"
    )]
    BlankPassphrase(String),
    /// `BACKUP_STORE` and the bucket's settings contradict each other, or half of them is missing.
    #[error("{0}")]
    Store(String),
    /// What tokens are checked with.
    #[error("{0}")]
    Tokens(String),
    /// Half of a channel is missing.
    #[error("{0}")]
    Notify(String),
    /// A channel's address.
    #[error("read {variable}")]
    Address {
        /// Where it came from.
        variable: String,
        /// What is wrong with it.
        #[source]
        source: crate::notify::AddressError,
    },
    /// A part of the objects' names.
    #[error("BACKUP_PREFIX or BACKUP_ENVIRONMENT cannot be part of an object's name")]
    Layout(#[source] ObjectKeyError),
    /// The store's folder is not there. A mistyped one, or one whose disk is not mounted, must not look like an empty store.
    #[error(
        "the folder {} of BACKUP_STORE is not there\nhint: create it, or mount the disk that it is on", root.display()
    )]
    NoStoreFolder {
        /// The folder.
        root: PathBuf,
    },
    /// The store cannot be opened.
    #[error("open the store")]
    Open(#[source] StoreError),
    /// The second store cannot be opened. Errors of a store name the first one's settings.
    #[error(
        "open the second store\nhint: its settings are called BACKUP_COPY_S3_..., as the first one's BACKUP_S3_..."
    )]
    OpenSecond(#[source] StoreError),
    /// A copy in the same place is none.
    #[error(
        "the second store is the first one: {0}\nhint: let BACKUP_COPY_STORE or BACKUP_COPY_S3_* name another bucket, best of another provider, or unset them"
    )]
    SameStore(String),
}

/// Every setting that is not of one command alone.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Where backups are and how they are named.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Where their copies are.
    #[command(flatten)]
    pub copy_store: CopyStoreArgs,
    /// What seals and opens them.
    #[command(flatten)]
    pub sealing: SealingArgs,
    /// How databases are dumped.
    #[command(flatten)]
    pub dumping: DumpingArgs,
    /// Which databases have names.
    #[command(flatten)]
    targets: TargetsArgs,
}

/// What seals and opens backups.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sealing")]
pub struct SealingArgs {
    /// File with the passphrase in its first line; or set BACKUP_GPG_PASSPHRASE
    #[arg(
        long,
        global = true,
        env = "BACKUP_GPG_PASSPHRASE_FILE",
        value_name = "FILE",
        hide_short_help = true
    )]
    passphrase_file: Option<PathBuf>,
    /// File with older passphrases, one a line, that still open older backups
    #[arg(
        long,
        global = true,
        env = "BACKUP_GPG_OLD_PASSPHRASES_FILE",
        value_name = "FILE",
        hide_short_help = true
    )]
    old_passphrases_file: Option<PathBuf>,
}

/// How databases are dumped.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "PostgreSQL")]
pub struct DumpingArgs {
    /// Folders with pg_dump and pg_restore, before the usual places, separated by colons
    #[arg(
        long,
        global = true,
        env = "BACKUP_PG_BINDIRS",
        value_name = "FOLDERS",
        value_delimiter = ':',
        hide_short_help = true
    )]
    pg_bindirs: Vec<PathBuf>,
    /// Whether rows are counted in the dump's snapshot, for comparing after a restore
    #[arg(
        long,
        global = true,
        env = "BACKUP_ROW_COUNTS",
        value_name = "HOW",
        default_value = "exact",
        hide_short_help = true
    )]
    row_counts: RowCountsArg,
    /// Compression from 1 (fast) to 9 (small) [default: 3 with zlib, 1 where pg_dump has zstd]
    #[arg(long, global = true, env = "BACKUP_COMPRESSION_LEVEL", value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(1..=9), hide_short_help = true)]
    compression_level: Option<u8>,
    /// How long a backup waits for tables that somebody has locked, in seconds
    #[arg(
        long,
        global = true,
        env = "BACKUP_LOCK_WAIT_SECONDS",
        value_name = "SECONDS",
        default_value_t = 300,
        hide_short_help = true
    )]
    lock_wait_seconds: u32,
    /// Dump with a pg_dump of 17 or later from an older server, although that server cannot take the archive back
    #[arg(long, global = true, hide_short_help = true)]
    allow_newer_client: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RowCountsArg {
    /// Count every table
    Exact,
    /// Count every table and digest its content, which a drill can then compare: slower
    Digests,
    /// Do not count: for databases where a second scan costs too much
    Off,
}

/// Makes empty variables count as unset, which clap itself would take as values, and keeps values out of the help.
#[must_use]
pub fn prepare(command: clap::Command) -> clap::Command {
    command.mut_args(|argument| {
        let empty = argument
            .get_env()
            .and_then(environment)
            .is_some_and(|value| value.is_empty());
        let argument = argument.hide_env_values(true);
        if empty { argument.env(None) } else { argument }
    })
}

impl Settings {
    /// Everything that backups and restores work with.
    ///
    /// # Errors
    /// A setting is missing or contradicts another.
    pub async fn stages(&self, clock: fn() -> time::OffsetDateTime) -> Result<Stages, ConfigError> {
        let vault = self.vault().await?;
        let row_counts = match self.dumping.row_counts {
            RowCountsArg::Exact => RowCounts::Exact,
            RowCountsArg::Digests => RowCounts::Digests,
            RowCountsArg::Off => RowCounts::Off,
        };
        let settings = BackupSettings {
            compression_level: self.dumping.compression_level,
            row_counts,
            newer_client: self.newer_client(),
            lock_wait: Duration::from_secs(self.dumping.lock_wait_seconds.into()),
        };
        Ok(Stages {
            vault,
            list_cache: list_cache(),
            clients: self.clients().await?,
            clock,
            settings,
        })
    }

    /// Refuses the store that stands in where none is named: on most platforms that disk is gone with the machine.
    ///
    /// # Errors
    /// No store is named.
    pub fn require_named_store(&self) -> Result<(), ConfigError> {
        if self.store.is_named() {
            Ok(())
        } else {
            Err(ConfigError::NoStore)
        }
    }

    /// The first store. Its folder is made only where none is named: nobody can mistype that one.
    async fn open_store(&self, settings: StoreSettings) -> Result<Store, ConfigError> {
        if let (false, StoreSettings::Local { root }) = (self.store.is_named(), &settings) {
            // It is there already, or that it is not is said in a moment.
            let _made = DirBuilder::new().mode(0o700).create(root);
        }
        Store::open(settings).await.map_err(|error| match error {
            StoreError::NoFolder { root } => ConfigError::NoStoreFolder { root },
            other => ConfigError::Open(other),
        })
    }

    /// The store with what opens its backups.
    ///
    /// # Errors
    /// As [`Settings::stages`].
    pub async fn vault(&self) -> Result<Vault, ConfigError> {
        every_name_is_known()?;
        if let Some(folder) = &self.store.spool_dir {
            require_folder("BACKUP_SPOOL_DIR", folder)?;
        }
        let spool_folder = self.spool_folder();
        let layout = Layout::new(&self.store.prefix, &self.store.environment)
            .map_err(ConfigError::Layout)?;
        let passphrases = self.sealing.passphrases()?;
        let settings = self.store.settings(spool_folder.clone())?;
        let second = self.copy_store.settings(spool_folder.clone())?;
        let store = if second.is_some() && self.store.is_named() {
            // What is asked of one whose folder is gone fails, and the second one is asked instead.
            let store = Store::open_or_later(settings).await;
            store.map_err(ConfigError::Open)?
        } else {
            self.open_store(settings).await?
        };
        let second = match second {
            Some(settings) => {
                // A second store that is away must not keep backups from being made.
                let second = Store::open_or_later(settings).await;
                Some(second.map_err(ConfigError::OpenSecond)?)
            }
            None => None,
        };
        if let Some(second) = second.as_ref().filter(|second| second.is_place_of(&store)) {
            return Err(ConfigError::SameStore(second.describe()));
        }
        Ok(Vault {
            store,
            second,
            passphrases,
            layout,
            spool_folder,
        })
    }

    /// Where sealed bytes may be spooled, and a worker leaves its sign of life.
    #[must_use]
    pub fn spool_folder(&self) -> PathBuf {
        let named = self.store.spool_dir.clone();
        named.unwrap_or_else(std::env::temp_dir)
    }

    /// Whether a pg_dump may be used whose archive cannot go back into an older server.
    #[must_use]
    pub const fn newer_client(&self) -> NewerClient {
        if self.dumping.allow_newer_client {
            NewerClient::Allowed
        } else {
            NewerClient::Refused
        }
    }

    /// The client programs on this machine.
    ///
    /// # Errors
    /// A folder that is named is not there.
    pub async fn clients(&self) -> Result<Clients, ConfigError> {
        for folder in &self.dumping.pg_bindirs {
            require_folder("BACKUP_PG_BINDIRS", folder)?;
        }
        let path = environment("PATH")
            .map(|path| std::env::split_paths(&path).collect())
            .unwrap_or_default();
        let folders = self.dumping.pg_bindirs.clone();
        Ok(Clients::find(&Search { folders, path }).await)
    }
}

impl SealingArgs {
    /// The current passphrase first; none at all where none is set.
    fn passphrases(&self) -> Result<Vec<Passphrase>, ConfigError> {
        const VARIABLE: &str = "BACKUP_GPG_PASSPHRASE";
        let mut passphrases = Vec::new();
        if let Some(text) = secret(VARIABLE, self.passphrase_file.as_deref())? {
            let current = Passphrase::new(text)
                .map_err(|_| ConfigError::BlankPassphrase(VARIABLE.to_owned()))?;
            if current.is_short() {
                tracing::warn!(
                    "the passphrase is shorter than {PASSPHRASE_CHARS_ADVISED} characters: it can be guessed"
                );
            }
            passphrases.push(current);
        }
        if let Some(path) = &self.old_passphrases_file {
            let variable = "BACKUP_GPG_OLD_PASSPHRASES_FILE";
            let lines = read_lines(variable, path, usize::MAX)?;
            let older = lines
                .into_iter()
                .filter_map(|line| Passphrase::new(line).ok());
            passphrases.extend(older);
        }
        Ok(passphrases)
    }
}

/// Where listings remember manifests: in the user's folder for such things (XDG Base Directory Specification). A user
/// without one, as many services are, has no such memory.
#[must_use]
pub fn list_cache() -> ListCache {
    let named = |name| environment(name).filter(|value| !value.is_empty());
    let folder = match named("XDG_CACHE_HOME") {
        Some(folder) => Some(PathBuf::from(folder)),
        None => named("HOME").map(|home| Path::new(&home).join(".cache")),
    };
    ListCache::new(folder.map(|folder| folder.join("pgseal")))
}

/// Whether output should be without colours (<https://no-color.org>).
#[must_use]
pub fn no_color() -> bool {
    is_set("NO_COLOR")
}

fn require_folder(variable: &'static str, path: &Path) -> Result<(), ConfigError> {
    if path.is_dir() {
        return Ok(());
    }
    Err(ConfigError::NoFolder {
        variable,
        path: path.to_owned(),
    })
}
