//! Which targets there are: `DATABASE_URL` is the target `default`, and a TOML file names more.
//!
//! ```toml
//! [targets.shop]
//! url = "postgres://pgseal@db.example/shop"
//!
//! [targets.billing]
//! url_file = "/run/secrets/billing-url"
//! schedule = "0 * * * *"
//! keep_daily = 14
//! ```
//!
//! What a target does not say of itself is as the service's settings have it.
//!
//! What the file holds may be secret, so that errors name lines and settings and never repeat what stands there.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::SecretString;
use toml::de::{DeTable, DeValue};

use super::database::{completed, names_database, parse};
use super::environment::first_line;
use super::own::Own;
use super::{ConfigError, RetentionArgs, ScheduleArgs, Settings};
use crate::model::connection::Connection;
use crate::model::policy::Policy;
use crate::model::target::TargetName;

/// Thousands of targets need less, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Databases beside the one that `DATABASE_URL` names.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "PostgreSQL")]
pub struct TargetsArgs {
    /// TOML file with more databases, which commands call by --target NAME
    #[arg(
        long,
        global = true,
        env = "BACKUP_TARGETS_FILE",
        value_name = "FILE",
        hide_short_help = true
    )]
    targets_file: Option<PathBuf>,
}

/// Every target that is configured.
#[derive(Clone, Debug)]
pub struct Targets {
    file: Option<PathBuf>,
    sources: BTreeMap<TargetName, Source>,
    own: BTreeMap<TargetName, Own>,
}

/// Where a target's URL is.
#[derive(Clone, Debug)]
enum Source {
    /// In `DATABASE_URL`, or the file that `DATABASE_URL_FILE` names.
    Environment,
    /// In the targets' file.
    Here(SecretString),
    /// In the first line of this file.
    File(PathBuf),
}

impl Settings {
    /// The targets.
    ///
    /// # Errors
    /// The file cannot be read, or says something that means nothing.
    pub fn targets(&self) -> Result<Targets, ConfigError> {
        let (mut sources, mut own) = (BTreeMap::new(), BTreeMap::new());
        if let Some(path) = &self.targets.targets_file {
            for (name, source, settings) in read(path)? {
                own.insert(name.clone(), settings);
                sources.insert(name, source);
            }
        }
        if names_database() {
            let taken = sources.insert(TargetName::default(), Source::Environment);
            if taken.is_some() {
                return Err(ConfigError::TargetTwice);
            }
        }
        Ok(Targets {
            file: self.targets.targets_file.clone(),
            sources,
            own,
        })
    }
}

impl Targets {
    /// The database of a target.
    ///
    /// # Errors
    /// There is no such target, or its URL cannot be read.
    pub fn connection(&self, name: &TargetName) -> Result<Connection, ConfigError> {
        let from = format!("the URL of the target {name}");
        let connection = match self.source(name)? {
            Source::Environment => return super::connection(None, "DATABASE_URL"),
            Source::Here(url) => parse(&from, url)?,
            Source::File(path) => parse(
                &from,
                &first_line(&format!("url_file of target {name}"), path)?,
            )?,
        };
        Ok(completed(connection))
    }

    /// As [`Targets::connection`]; where no target is configured, what is missing is DATABASE_URL.
    ///
    /// # Errors
    /// As [`Targets::connection`].
    pub fn connection_of(&self, name: &TargetName) -> Result<Connection, ConfigError> {
        if self.sources.is_empty() {
            return Err(ConfigError::NoDatabase);
        }
        self.connection(name)
    }

    /// The databases of all targets, by name.
    ///
    /// # Errors
    /// There is none, or a URL cannot be read.
    pub fn connections(&self) -> Result<BTreeMap<TargetName, Connection>, ConfigError> {
        if self.sources.is_empty() {
            return Err(ConfigError::NoDatabase);
        }
        let pair = |name: &TargetName| Ok((name.clone(), self.connection(name)?));
        self.sources.keys().map(pair).collect()
    }

    /// What a restore into a target is confirmed by: its database's name; where another target's database is called the same,
    /// behind the target's own, as `staging/shop`.
    ///
    /// # Errors
    /// As [`Targets::connection`].
    pub fn confirmed_by(&self, name: &TargetName) -> Result<String, ConfigError> {
        let connection = self.connection(name)?;
        let database = connection.database();
        let is_alike = |other: &TargetName| {
            let connection = self.connection(other);
            other != name && connection.is_ok_and(|other| other.database() == database)
        };
        Ok(if self.sources.keys().any(is_alike) {
            format!("{name}/{database}")
        } else {
            database.to_owned()
        })
    }

    /// The target whose database a URL names, by the same host, port and name; `None`: no target's.
    #[must_use]
    pub fn that_is(&self, connection: &Connection) -> Option<TargetName> {
        let place = |of: &Connection| (of.hosts().to_vec(), of.database().to_owned());
        let is_it = |name: &&TargetName| {
            let known = self.connection(name);
            known.is_ok_and(|known| place(&known) == place(connection))
        };
        // Of several that share it, the one that DATABASE_URL names.
        let found = || self.sources.keys().filter(is_it);
        let default = found().find(|name| name.is_default());
        default.or_else(|| found().next()).cloned()
    }

    /// The names of all targets: `default` where none is configured, which is how those call it who only ask others.
    #[must_use]
    pub fn names(&self) -> Vec<TargetName> {
        if self.sources.is_empty() {
            return vec![TargetName::default()];
        }
        self.sources.keys().cloned().collect()
    }

    /// A target's schedules: its own, else the service's.
    #[must_use]
    pub fn schedule(&self, name: &TargetName, service: &ScheduleArgs) -> ScheduleArgs {
        let own = self.own.get(name).map(|own| service.with(&own.schedule));
        own.unwrap_or_else(|| service.clone())
    }

    /// How long a target's backups are kept: by its own rules, else by the service's.
    #[must_use]
    pub fn policy(&self, name: &TargetName, service: &RetentionArgs) -> Policy {
        match self.own.get(name) {
            Some(own) => service.with(&own.retention).policy(),
            None => service.policy(),
        }
    }

    /// What targets have of their own, by name.
    pub(super) fn own(&self) -> impl Iterator<Item = (&TargetName, &Own)> {
        self.own.iter()
    }

    /// Refuses a name that no target has. Who only asks others for work needs no database of his own: the target
    /// `default` is always taken for theirs.
    ///
    /// # Errors
    /// No target is called so.
    pub fn require(&self, name: &TargetName) -> Result<(), ConfigError> {
        if name.is_default() {
            return Ok(());
        }
        self.source(name).map(drop)
    }

    /// The target that is meant: the one that was named, else the only one.
    ///
    /// # Errors
    /// No target is called so; or none was named, and there are several.
    pub fn choose(&self, named: Option<&TargetName>) -> Result<TargetName, ConfigError> {
        if let Some(name) = named {
            self.require(name)?;
            return Ok(name.clone());
        }
        let mut names = self.sources.keys();
        match (names.next(), names.next()) {
            (None, _) => Ok(TargetName::default()),
            (Some(only), None) => Ok(only.clone()),
            (Some(_), Some(_)) => Err(ConfigError::SeveralTargets {
                known: self.known(),
            }),
        }
    }

    fn source(&self, name: &TargetName) -> Result<&Source, ConfigError> {
        self.sources.get(name).ok_or_else(|| ConfigError::NoTarget {
            name: name.to_string(),
            known: self.known(),
            file: self.file.as_ref().map_or_else(
                || "BACKUP_TARGETS_FILE names a file with more".to_owned(),
                |path| format!("more can be named in {}", path.display()),
            ),
        })
    }

    fn known(&self) -> String {
        let names: Vec<&str> = self.sources.keys().map(TargetName::as_str).collect();
        if names.is_empty() {
            return "none".to_owned();
        }
        names.join(", ")
    }
}

type Found = Vec<(TargetName, Source, Own)>;

/// Reads the file; every error names its line.
fn read(path: &Path) -> Result<Found, ConfigError> {
    let mut text = String::new();
    let opened = std::fs::File::open(path);
    let read = opened.and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|source| ConfigError::SecretFile {
        variable: "BACKUP_TARGETS_FILE".to_owned(),
        path: path.to_owned(),
        source,
    })?;
    sources(&text).map_err(|BadTargets { at, what }| ConfigError::Targets {
        path: path.to_owned(),
        line: 1 + text[..at.min(text.len())].matches('\n').count(),
        what,
    })
}

/// What is wrong, and at which byte.
#[derive(Debug)]
struct BadTargets {
    at: usize,
    what: String,
}

fn sources(text: &str) -> Result<Found, BadTargets> {
    let bad = |at: usize, what: String| BadTargets { at, what };
    let file = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        // Only what TOML says of its own signs: the text around them is not repeated.
        bad(at, format!("it is no TOML: {}", error.message()))
    })?;
    let mut found = Vec::new();
    for (key, value) in file.get_ref() {
        let DeValue::Table(targets) = value.get_ref() else {
            let what = "every line belongs to a target: [targets.NAME] begins one".to_owned();
            return Err(bad(key.span().start, what));
        };
        if key.get_ref() != "targets" {
            let what = "the file has targets and nothing else: [targets.NAME] begins one";
            return Err(bad(key.span().start, what.to_owned()));
        }
        for (name, value) in targets {
            let at = name.span().start;
            let target =
                TargetName::parse(name.get_ref()).map_err(|error| bad(at, error.to_string()))?;
            let DeValue::Table(settings) = value.get_ref() else {
                let what = format!("{target} is no table: [targets.{target}] begins one");
                return Err(bad(at, what));
            };
            let (source, own) = source(&target, settings, at)?;
            found.push((target, source, own));
        }
    }
    Ok(found)
}

fn source(
    name: &TargetName,
    settings: &DeTable<'_>,
    at: usize,
) -> Result<(Source, Own), BadTargets> {
    let (mut source, mut own) = (None, Own::default());
    for (key, value) in settings {
        let at = key.span().start;
        let bad = |what: String| BadTargets { at, what };
        let setting = key.get_ref().as_ref();
        let Some(text) = text(setting, value.get_ref()) else {
            let what = format!("{setting} of target {name} is no text, or an empty one");
            // The name of a setting that there is; what else stands there may be anything.
            return Err(bad(if Own::KEYS.contains(&setting) {
                what
            } else {
                unknown(name)
            }));
        };
        let found = match setting {
            "url" => Source::Here(text.into()),
            "url_file" => Source::File(PathBuf::from(text)),
            _ if !Own::KEYS.contains(&setting) => return Err(bad(unknown(name))),
            _ => {
                own.set(setting, &text)
                    .map_err(|what| bad(format!("{setting} of target {name} is {what}")))?;
                continue;
            }
        };
        if source.replace(found).is_some() {
            let what = format!("url and url_file of target {name} are both set");
            return Err(bad(what));
        }
    }
    let bad = |what: String| BadTargets { at, what };
    own.check()
        .map_err(|what| bad(format!("target {name}: {what}")))?;
    let source =
        source.ok_or_else(|| bad(format!("target {name} has neither url nor url_file")))?;
    Ok((source, own))
}

fn unknown(name: &TargetName) -> String {
    format!(
        "target {name} has a setting that no target has; there are {}",
        Own::KEYS.join(", ")
    )
}

/// A value as a variable would have it: addresses are separated by commas.
fn text(setting: &str, value: &DeValue<'_>) -> Option<String> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Array(items) if setting == "notify_to" => {
            let items = items.iter().map(|item| text("", item.get_ref()));
            items.collect::<Option<Vec<_>>>()?.join(",")
        }
        _ => return None,
    };
    Some(text).filter(|text| !text.trim().is_empty())
}

/// Reads a target's name that was typed.
pub(crate) fn target_name(text: &str) -> Result<TargetName, String> {
    TargetName::parse(text).map_err(|error| error.to_string())
}
