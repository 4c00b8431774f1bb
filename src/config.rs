//! Settings: each is a flag, a variable and a line of help at once. The only module that reads the environment.
//!
//! A variable that is empty counts as unset. Secrets have no flag that takes their value: they come from a variable, or
//! from a file that `…_FILE` names (its first line); both at once is an error. `prepare` belongs before clap reads a
//! command, the rest turns what was read into what the program works with.

use std::io::BufRead as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret as _, SecretString};

use crate::backup::{BackupSettings, NewerClient, Stages};
use crate::model::connection::{Connection, ConnectionError};
use crate::model::manifest::RowCounts;
use crate::model::object_key::{Layout, ObjectKeyError};
use crate::model::passphrase::{PASSPHRASE_CHARS_ADVISED, Passphrase};
use crate::model::pgpass;
use crate::pg::{Clients, Search};
use crate::store::{
    PART_BYTES_FIRST, PlainHttp, RetryPolicy, S3Settings, Store, StoreError, StoreSettings,
};
use crate::vault::{ListCache, Vault};

/// Where backups go when nothing is said.
const STORE_DEFAULT: &str = "file:./pgseal-backups";
/// A secret's file may be this large, in bytes; nobody means more.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why the settings cannot be used. No value of a secret is ever in it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither typed nor set.
    #[error("no database was named\nhint: give its URL, or set DATABASE_URL")]
    NoDatabase,
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
    #[error("read the file that {variable} names, {}", path.display())]
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
    #[error("the file that {variable} names, {}, has an empty or blank first line", path.display())]
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
    /// A part of the objects' names.
    #[error("BACKUP_PREFIX or BACKUP_ENVIRONMENT cannot be part of an object's name")]
    Layout(#[source] ObjectKeyError),
    /// The store cannot be opened.
    #[error("open the store")]
    Open(#[source] StoreError),
}

/// Every setting that is not of one command alone.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Where backups are and how they are named.
    #[command(flatten)]
    pub store: StoreArgs,
    /// What seals and opens them.
    #[command(flatten)]
    pub sealing: SealingArgs,
    /// How databases are dumped.
    #[command(flatten)]
    pub dumping: DumpingArgs,
}

/// Where backups are and how they are named.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// Where backups are kept: file:FOLDER or s3://BUCKET [default: the bucket, if one is named; else file:./pgseal-backups]
    #[arg(
        long,
        global = true,
        env = "BACKUP_STORE",
        value_name = "URL",
        hide_short_help = true
    )]
    store: Option<String>,
    /// First part of every object's name
    #[arg(
        long,
        global = true,
        env = "BACKUP_PREFIX",
        value_name = "TEXT",
        default_value = "backups",
        hide_short_help = true
    )]
    prefix: String,
    /// Second part of every object's name, so that production and staging can share a bucket
    #[arg(
        long,
        global = true,
        env = "BACKUP_ENVIRONMENT",
        value_name = "NAME",
        default_value = "prod",
        hide_short_help = true
    )]
    environment: String,
    /// Endpoint of an S3-compatible store [default: Amazon's]
    #[arg(
        long,
        global = true,
        env = "BACKUP_S3_ENDPOINT_URL",
        value_name = "URL",
        hide_short_help = true
    )]
    s3_endpoint_url: Option<String>,
    /// Region that requests are signed for
    #[arg(
        long,
        global = true,
        env = "BACKUP_S3_REGION",
        value_name = "REGION",
        hide_short_help = true
    )]
    s3_region: Option<String>,
    /// Bucket
    #[arg(
        long,
        global = true,
        env = "BACKUP_S3_BUCKET",
        value_name = "NAME",
        hide_short_help = true
    )]
    s3_bucket: Option<String>,
    /// Key id; its secret comes from BACKUP_S3_SECRET_ACCESS_KEY or BACKUP_S3_SECRET_ACCESS_KEY_FILE alone
    #[arg(
        long,
        global = true,
        env = "BACKUP_S3_ACCESS_KEY_ID",
        value_name = "ID",
        hide_short_help = true
    )]
    s3_access_key_id: Option<String>,
    /// Put the bucket into the path instead of the host name
    #[arg(long, global = true, env = "BACKUP_S3_PATH_STYLE", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_short_help = true)]
    s3_path_style: Option<bool>,
    /// Allow http:// to another machine
    #[arg(long, global = true, env = "BACKUP_S3_ALLOW_HTTP", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_short_help = true)]
    s3_allow_http: Option<bool>,
    /// Folder for sealed copies of what is fetched from S3 [default: the system's folder for temporary files]
    #[arg(
        long,
        global = true,
        env = "BACKUP_SPOOL_DIR",
        value_name = "FOLDER",
        hide_short_help = true
    )]
    spool_dir: Option<PathBuf>,
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
    /// Compression from 1 (fast) to 9 (small) [default: 2 with zlib, 1 where pg_dump has zstd]
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
            clients: self.clients().await?,
            clock,
            settings,
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
        let spool_folder = self
            .store
            .spool_dir
            .clone()
            .unwrap_or_else(std::env::temp_dir);
        let layout = Layout::new(&self.store.prefix, &self.store.environment, None)
            .map_err(ConfigError::Layout)?;
        let passphrases = self.sealing.passphrases()?;
        let settings = self.store.settings(spool_folder.clone())?;
        let store = Store::open(settings).await.map_err(ConfigError::Open)?;
        Ok(Vault {
            store,
            passphrases,
            layout,
            spool_folder,
        })
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

impl StoreArgs {
    fn settings(&self, spool_folder: PathBuf) -> Result<StoreSettings, ConfigError> {
        let bucket = self.s3_bucket.as_deref();
        let url = match (self.store.as_deref(), bucket) {
            (Some(url), _) => url,
            (None, Some(_)) => "s3:",
            (None, None) if self.has_s3_setting() => "s3:",
            (None, None) => STORE_DEFAULT,
        };
        if let Some(folder) = url.strip_prefix("file:") {
            let folder = folder.strip_prefix("//").unwrap_or(folder);
            if folder.is_empty() {
                return Err(ConfigError::Store(
                    "BACKUP_STORE names no folder\nhint: file:/var/backups/pgseal".to_owned(),
                ));
            }
            return Ok(StoreSettings::Local {
                root: PathBuf::from(folder),
            });
        }
        let Some(named) = url
            .strip_prefix("s3:")
            .map(|rest| rest.trim_start_matches('/').trim_end_matches('/'))
        else {
            let hint = "BACKUP_STORE is neither file:FOLDER nor s3://BUCKET";
            return Err(ConfigError::Store(format!(
                "{hint}\nhint: file:/var/backups/pgseal, or s3://my-bucket"
            )));
        };
        let bucket = match (named, bucket) {
            ("", None) => {
                return Err(ConfigError::Store(
                    "no bucket is named\nhint: set BACKUP_S3_BUCKET".to_owned(),
                ));
            }
            ("", Some(bucket)) => bucket,
            (named, None) => named,
            (named, Some(bucket)) if named == bucket => bucket,
            _ => {
                return Err(ConfigError::Store(
                    "BACKUP_STORE and BACKUP_S3_BUCKET name different buckets\nhint: unset one of them".to_owned(),
                ));
            }
        };
        // As far as all stores agree; what a bucket's name may be beyond that, each knows itself.
        if !bucket
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        {
            return Err(ConfigError::Store(
                "BACKUP_STORE or BACKUP_S3_BUCKET holds more than a bucket's name\nhint: s3://my-bucket; a folder in it is BACKUP_PREFIX".to_owned(),
            ));
        }
        self.s3(bucket.to_owned(), spool_folder)
            .map(StoreSettings::S3)
    }

    /// Whether somebody meant a bucket: backups must not go to this machine's own disk because its name is missing.
    fn has_s3_setting(&self) -> bool {
        const SECRET: [&str; 2] = [
            "BACKUP_S3_SECRET_ACCESS_KEY",
            "BACKUP_S3_SECRET_ACCESS_KEY_FILE",
        ];
        let typed = [
            &self.s3_endpoint_url,
            &self.s3_region,
            &self.s3_access_key_id,
        ];
        typed.iter().any(|setting| setting.is_some()) || SECRET.into_iter().any(is_set)
    }

    fn s3(&self, bucket: String, spool_folder: PathBuf) -> Result<S3Settings, ConfigError> {
        let secret_access_key = secret("BACKUP_S3_SECRET_ACCESS_KEY", None)?;
        if self.s3_access_key_id.is_some() != secret_access_key.is_some() {
            let hint =
                "set both BACKUP_S3_ACCESS_KEY_ID and BACKUP_S3_SECRET_ACCESS_KEY, or neither";
            return Err(ConfigError::Store(format!(
                "half of the S3 credentials is missing\nhint: {hint}"
            )));
        }
        let plain_http = if self.s3_allow_http == Some(true) {
            PlainHttp::Allowed
        } else {
            PlainHttp::Refused
        };
        Ok(S3Settings {
            endpoint_url: self.s3_endpoint_url.clone(),
            region: self.s3_region.clone(),
            bucket,
            access_key_id: self.s3_access_key_id.clone(),
            secret_access_key,
            path_style: self.s3_path_style == Some(true),
            plain_http,
            retry: RetryPolicy::default(),
            part_bytes: PART_BYTES_FIRST,
            spool_folder,
        })
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

/// The database that is meant: `typed`, else `DATABASE_URL`, else the file that `DATABASE_URL_FILE` names. What the URL
/// leaves out comes from PostgreSQL's own variables and password file, as with its own programs.
///
/// # Errors
/// None is named, or the URL cannot be read.
pub fn connection(typed: Option<&str>, named: &'static str) -> Result<Connection, ConfigError> {
    let (from, url) = match typed {
        Some(url) => (named, SecretString::from(url)),
        None => (
            "DATABASE_URL",
            secret("DATABASE_URL", None)?.ok_or(ConfigError::NoDatabase)?,
        ),
    };
    let parsed = Connection::parse(url.expose_secret());
    let connection = parsed.map_err(|source| ConfigError::Connection {
        from: from.to_owned(),
        source,
    })?;
    if typed.is_some() && connection.password().is_some() {
        tracing::warn!(
            "a password in a typed URL is seen by everybody on this machine, and kept in the shell's history: use DATABASE_URL or PGPASSWORD"
        );
    }
    let connection = connection.with_defaults(|name| {
        environment(name)
            .filter(|value| !value.is_empty())?
            .into_string()
            .ok()
    });
    Ok(with_password_of_file(connection))
}

/// Whether a database is named at all, by `DATABASE_URL` or its file.
#[must_use]
pub fn names_database() -> bool {
    ["DATABASE_URL", "DATABASE_URL_FILE"]
        .into_iter()
        .any(is_set)
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

/// Settings that are no flags, because they hold secrets.
const SECRETS: [&str; 5] = [
    "BACKUP_GPG_PASSPHRASE",
    "BACKUP_S3_SECRET_ACCESS_KEY",
    "BACKUP_S3_SECRET_ACCESS_KEY_FILE",
    "DATABASE_URL",
    "DATABASE_URL_FILE",
];
/// A name that is so many letters away from a setting's is a slip; further away, it is another program's.
const SLIP_LETTERS_MAX: usize = 2;

/// A misspelt name leaves its setting at the default, and nobody hears of it before the day of the restore.
fn every_name_is_known() -> Result<(), ConfigError> {
    let settings = Settings::augment_args(clap::Command::default());
    let known: Vec<String> = settings
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str())
        .chain(SECRETS)
        .map(str::to_owned)
        .collect();
    for found in environment_names() {
        if !found.starts_with("BACKUP_") || known.contains(&found) {
            continue;
        }
        let near = |known: &&String| strsim::levenshtein(known, &found) <= SLIP_LETTERS_MAX;
        if let Some(meant) = known.iter().find(near).cloned() {
            return Err(ConfigError::Misspelt { found, meant });
        }
    }
    Ok(())
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

fn with_password_of_file(connection: Connection) -> Connection {
    if connection.password().is_some() {
        return connection;
    }
    let named = connection.setting("passfile").map(PathBuf::from);
    let home = || environment("HOME").map(|home| Path::new(&home).join(".pgpass"));
    let Some(path) = named.or_else(home) else {
        return connection;
    };
    let Some(text) = private_text(&path) else {
        return connection;
    };
    let host = &connection.hosts()[0];
    match pgpass::find(
        &text,
        &host.name,
        host.port,
        connection.database(),
        connection.role(),
    ) {
        Some(password) => connection.with_password(password),
        None => connection,
    }
}

/// A password file's text; as libpq, one that others can read is not used.
fn private_text(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the password file is not used: others can read it (chmod 600)");
        return None;
    }
    std::fs::read_to_string(path).ok()
}

/// A secret: its variable, or the first line of the file that is named.
fn secret(
    variable: &'static str,
    file: Option<&Path>,
) -> Result<Option<SecretString>, ConfigError> {
    let file_variable = format!("{variable}_FILE");
    let value = environment(variable).filter(|value| !value.is_empty());
    let named = environment(&file_variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    let path = file.map(Path::to_owned).or(named);
    match (value, path) {
        (Some(_), Some(_)) => Err(ConfigError::Twice(variable)),
        (Some(value), None) => match value.into_string() {
            Ok(text) => Ok(Some(text.into())),
            Err(_) => Err(ConfigError::NotText(variable)),
        },
        (None, Some(path)) => {
            let first = read_lines(&file_variable, &path, 1)?.pop();
            let first = first.filter(|line| !line.expose_secret().trim().is_empty());
            // An empty file is a mistake, and must not count as "unset".
            first.map(Some).ok_or(ConfigError::EmptySecretFile {
                variable: file_variable,
                path,
            })
        }
        (None, None) => Ok(None),
    }
}

fn read_lines(
    variable: &str,
    path: &Path,
    lines_max: usize,
) -> Result<Vec<SecretString>, ConfigError> {
    let failed = |source| ConfigError::SecretFile {
        variable: variable.to_owned(),
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let reader = std::io::BufReader::new(std::io::Read::take(file, SECRET_FILE_BYTES_MAX));
    let lines = reader.lines().take(lines_max);
    lines
        .map(|line| {
            line.map(|line| line.trim_end_matches('\r').into())
                .map_err(failed)
        })
        .collect()
}

fn is_set(name: &str) -> bool {
    environment(name).is_some_and(|value| !value.is_empty())
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the environment"
)]
fn environment_names() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the environment"
)]
fn environment(name: impl AsRef<std::ffi::OsStr>) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}
