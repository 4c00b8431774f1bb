//! What stands in the environment, and in the files that it names.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use clap::Args as _;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    ApiArgs, ConfigError, JwtArgs, LogArgs, NotifyArgs, QueueArgs, RetentionArgs, ScheduleArgs,
    Settings, WorkerTimes,
};

/// A secret's file may be this large, in bytes; nobody means more.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Settings that are no flags, because they hold secrets.
const SECRETS: [&str; 25] = [
    "BACKUP_COPY_S3_SECRET_ACCESS_KEY",
    "BACKUP_COPY_S3_SECRET_ACCESS_KEY_FILE",
    "BACKUP_DRILL_DATABASE_URL",
    "BACKUP_DRILL_DATABASE_URL_FILE",
    "BACKUP_GPG_PASSPHRASE",
    "BACKUP_NOTIFY_SLACK_URL",
    "BACKUP_NOTIFY_SLACK_URL_FILE",
    "BACKUP_NOTIFY_WEBHOOK_SECRET",
    "BACKUP_NOTIFY_WEBHOOK_SECRET_FILE",
    "BACKUP_NOTIFY_WEBHOOK_URL",
    "BACKUP_NOTIFY_WEBHOOK_URL_FILE",
    "BACKUP_PING_URL",
    "BACKUP_PING_URL_FILE",
    "BACKUP_S3_SECRET_ACCESS_KEY",
    "BACKUP_S3_SECRET_ACCESS_KEY_FILE",
    "BACKUP_SMTP_URL",
    "BACKUP_SMTP_URL_FILE",
    "CATALOG_DATABASE_URL",
    "CATALOG_DATABASE_URL_FILE",
    "DATABASE_URL",
    "DATABASE_URL_FILE",
    "JWT_PUBLIC_KEY",
    "JWT_PUBLIC_KEY_FILE",
    "JWT_SECRET",
    "JWT_SECRET_FILE",
];
/// A name that is so many letters away from a setting's is a slip; further away, it is another program's.
const SLIP_LETTERS_MAX: usize = 2;

/// A misspelt name leaves its setting at the default, and nobody hears of it before the day of the restore.
pub(super) fn every_name_is_known() -> Result<(), ConfigError> {
    let settings = Settings::augment_args(clap::Command::default());
    // Every command knows all settings: one environment often serves several.
    let settings = WorkerTimes::augment_args(QueueArgs::augment_args(settings));
    let settings = JwtArgs::augment_args(ApiArgs::augment_args(settings));
    let settings = RetentionArgs::augment_args(ScheduleArgs::augment_args(settings));
    let settings = LogArgs::augment_args(NotifyArgs::augment_args(settings));
    let known: Vec<String> = settings
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str())
        .chain(SECRETS)
        .map(str::to_owned)
        .collect();
    for found in environment_names() {
        let is_ours = found.starts_with("BACKUP_") || found.starts_with("JWT_");
        if !is_ours || known.contains(&found) {
            continue;
        }
        let near = |known: &&String| strsim::levenshtein(known, &found) <= SLIP_LETTERS_MAX;
        if let Some(meant) = known.iter().find(near).cloned() {
            return Err(ConfigError::Misspelt { found, meant });
        }
    }
    Ok(())
}

/// A secret: its variable, or the first line of the file that is named.
pub(super) fn secret(
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
        (None, Some(path)) => first_line(&file_variable, &path).map(Some),
        (None, None) => Ok(None),
    }
}

/// The first line of a secret's file, which must not be blank.
pub(super) fn first_line(variable: &str, path: &Path) -> Result<SecretString, ConfigError> {
    let first = read_lines(variable, path, 1)?.pop();
    first
        .filter(|line| !line.expose_secret().trim().is_empty())
        // An empty file is a mistake, and must not count as "unset".
        .ok_or_else(|| ConfigError::EmptySecretFile {
            variable: variable.to_owned(),
            path: path.to_owned(),
        })
}

pub(super) fn read_lines(
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

pub(super) fn is_set(name: &str) -> bool {
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
pub(super) fn environment(name: impl AsRef<std::ffi::OsStr>) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}
