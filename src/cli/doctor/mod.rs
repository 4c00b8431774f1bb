//! `pgseal doctor`: everything a backup and a restore need, looked at one by one, each finding with its fix.

mod service;

use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;

use super::Context;
use super::exit::ProblemsFound;
use super::output::{bytes, moment};
use crate::backup::NewerClient;
use crate::config::{self, ConfigError, JwtArgs, NotifyArgs, ScheduleArgs};
use crate::model::connection::Connection;
use crate::model::explanation::explain;
use crate::model::ids::Uid;
use crate::model::kept::KeptAs;
use crate::model::object_key::ObjectKey;
use crate::model::target::TargetName;
use crate::pg::inspect::{self, KeptDatabase, Session};
use crate::pg::{Clients, Finding, Severity};
use crate::restore;
use crate::vault::{CopyError, Entry, Vault, VaultError};

/// Look at everything a backup and a restore need, and say what to mend
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// The database, as postgres://ROLE@HOST:5432/DATABASE [default: every target; without one, no server is asked]
    #[arg(value_name = "DATABASE_URL")]
    database_url: Option<String>,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    tokens: JwtArgs,
    #[command(flatten)]
    notify: NotifyArgs,
}

/// A finding as JSON.
#[derive(Serialize)]
struct Line<'a> {
    severity: &'static str,
    /// The target that it is about, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    subject: &'a str,
    found: &'a str,
    fix: &'a str,
}

impl DoctorArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut findings = Vec::new();
        let clients = match context.settings.clients().await {
            Ok(clients) => {
                findings.push(clients_found(&clients));
                clients
            }
            Err(error) => {
                findings.push(problem("clients", &error));
                Clients::default()
            }
        };
        match context.settings.vault().await {
            Ok(vault) => {
                findings.push(store_works(&vault, (context.clock)()).await);
                findings.extend(second_works(&vault, (context.clock)()).await);
                findings.extend(passphrases_open(&vault).await);
                findings.push(spool_space(&vault));
            }
            Err(error) => findings.push(problem("settings", &error)),
        }
        let mut findings: Vec<_> = findings
            .into_iter()
            .map(|finding| (None, finding))
            .collect();
        for (target, connection) in self.databases(context) {
            let found = match connection {
                Ok(connection) => database(&connection, &clients, context).await,
                Err(ConfigError::NoDatabase) => vec![no_database()],
                Err(error) => vec![problem("database", &error)],
            };
            findings.extend(found.into_iter().map(|finding| (target.clone(), finding)));
        }
        let service = self.service(context).await;
        findings.extend(service.into_iter().map(|finding| (None, finding)));
        print(context, &findings)
    }

    /// The database that was named, else those of all targets, each with its name where there are several.
    fn databases(
        &self,
        context: &Context,
    ) -> Vec<(Option<TargetName>, Result<Connection, ConfigError>)> {
        if let Some(url) = &self.database_url {
            return vec![(None, config::connection(Some(url), "DATABASE_URL"))];
        }
        let targets = match context.settings.targets() {
            Ok(targets) => targets,
            Err(error) => return vec![(None, Err(error))],
        };
        let names = targets.names();
        let is_one_of_several = names.len() > 1;
        let found = names.into_iter().map(|name| {
            let connection = targets.connection_of(&name);
            (is_one_of_several.then_some(name), connection)
        });
        found.collect()
    }
}

fn no_database() -> Finding {
    let hint = ConfigError::NoDatabase.to_string();
    Finding::warning(
        "database",
        "not looked at: no database was named",
        hint_of(&hint),
    )
}

fn print(context: &Context, findings: &[(Option<TargetName>, Finding)]) -> anyhow::Result<()> {
    let lines: Vec<Line<'_>> = findings
        .iter()
        .map(|(target, finding)| Line {
            severity: word(finding.severity),
            target: target.as_ref().map(TargetName::as_str),
            subject: finding.subject,
            found: &finding.found,
            fix: &finding.fix,
        })
        .collect();
    context.output.print(&lines, || {
        lines.iter().map(Line::text).collect::<Vec<_>>().join("\n")
    })?;
    match findings
        .iter()
        .filter(|(_, finding)| finding.severity == Severity::Problem)
        .count()
    {
        0 => Ok(()),
        problems => Err(ProblemsFound(problems).into()),
    }
}

impl Line<'_> {
    fn text(&self) -> String {
        let fix = if self.fix.is_empty() {
            String::new()
        } else {
            format!("\n{:9}fix: {}", "", self.fix)
        };
        let target = self
            .target
            .map_or_else(String::new, |target| format!("{target}: "));
        format!(
            "{:7}  {target}{}: {}{fix}",
            self.severity, self.subject, self.found
        )
    }
}

const fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Warning => "warning",
        Severity::Problem => "PROBLEM",
    }
}

fn clients_found(clients: &Clients) -> Finding {
    let found: Vec<String> = clients
        .all()
        .map(|client| format!("{} in {}", client.major, client.folder.display()))
        .collect();
    if found.is_empty() {
        let fix = "install postgresql-client, or name the folder that holds pg_dump and pg_restore in BACKUP_PG_BINDIRS";
        return Finding::problem("clients", "no pg_dump and pg_restore found", fix);
    }
    Finding::ok("clients", format!("PostgreSQL {}", found.join(", ")))
}

async fn store_works(vault: &Vault, now: OffsetDateTime) -> Finding {
    match vault.probe(Uid::new(now)).await {
        Ok(()) => Finding::ok(
            "store",
            format!(
                "{} can be written, read and deleted",
                vault.store.describe()
            ),
        ),
        Err(error) => problem("store", &error),
    }
}

/// The second store, as the first; `None`: there is none, and nobody said there should be.
async fn second_works(vault: &Vault, now: OffsetDateTime) -> Option<Finding> {
    const SUBJECT: &str = "second store";
    let second = vault.second()?;
    if let Err(source) = second.probe(Uid::new(now)).await {
        let place = second.store.describe();
        return Some(match source {
            VaultError::Store(source) => {
                let source = Box::new(source);
                problem(SUBJECT, &VaultError::Second { place, source })
            }
            other => problem(SUBJECT, &other),
        });
    }
    let place = second.store.describe();
    Some(match vault.is_one_place(Uid::new(now)).await {
        Ok(true) => problem(SUBJECT, &CopyError::SamePlace(place)),
        // What the first store fails at, it was asked for before.
        Ok(false) | Err(_) => {
            Finding::ok(SUBJECT, format!("{place} can be written, read and deleted"))
        }
    })
}

/// The newest backup shows that today's passphrase is right, the oldest that an old one was not lost.
async fn passphrases_open(vault: &Vault) -> Vec<Finding> {
    if let Err(error) = vault.current_passphrase() {
        return vec![problem("passphrase", &error)];
    }
    let entries = match vault.list().await {
        Ok(entries) => entries,
        Err(error) => return vec![problem("backups", &error)],
    };
    let ours: Vec<&Entry> = entries
        .iter()
        .filter(|entry| {
            matches!(
                entry,
                Entry::Complete(_) | Entry::Lost(_) | Entry::Unreadable { .. }
            )
        })
        .collect();
    let (Some(newest), Some(oldest)) = (ours.first(), ours.last()) else {
        return vec![Finding::ok("backups", "none yet")];
    };
    let openers = [
        openers(vault, newest.key()).await,
        openers(vault, oldest.key()).await,
    ];
    let mut findings = vec![opens("newest backup", newest, &openers[0])];
    if ours.len() > 1 {
        findings.push(opens("oldest backup", oldest, &openers[1]));
    }
    findings.extend((1..vault.passphrases.len()).map(|number| old_passphrase(number, &openers)));
    findings
}

/// Which passphrases open a backup's manifest, by their number: today's is 0. Several may be the same one.
async fn openers(vault: &Vault, key: &str) -> Vec<usize> {
    let Ok(key) = ObjectKey::parse(key) else {
        return Vec::new();
    };
    let mut openers = Vec::new();
    for (number, passphrase) in vault.passphrases.iter().enumerate() {
        let alone = Vault {
            passphrases: vec![passphrase.clone()],
            ..vault.clone()
        };
        if alone.read_manifest(&key).await.is_ok() {
            openers.push(number);
        }
    }
    openers
}

fn passphrase_name(number: usize) -> String {
    match number {
        0 => "today's passphrase".to_owned(),
        number => format!("old passphrase {number}"),
    }
}

/// What each old passphrase is still needed for, as far as the two show it.
fn old_passphrase(number: usize, [newest, oldest]: &[Vec<usize>; 2]) -> Finding {
    let opens = match (newest.contains(&number), oldest.contains(&number)) {
        (true, true) => "opens the newest and the oldest backup",
        (true, false) => "opens the newest backup",
        (false, true) => "opens the oldest backup",
        (false, false) => {
            "opens neither the newest nor the oldest backup; one between them may need it"
        }
    };
    Finding::ok("passphrase", format!("{} {opens}", passphrase_name(number)))
}

fn opens(subject: &'static str, entry: &Entry, openers: &[usize]) -> Finding {
    match entry {
        Entry::Complete(manifest) => {
            let opener = openers.first().copied().map(passphrase_name);
            let opener = opener.as_deref().unwrap_or("a passphrase");
            Finding::ok(subject, format!("{opener} opens {}", manifest.name))
        }
        Entry::Lost(manifest) => Finding::problem(
            subject,
            format!(
                "{} is lost: its manifest is there, its dump is not",
                manifest.name
            ),
            "find out who deletes objects in the store; pgseal delete removes what is left",
        ),
        other => Finding::problem(
            subject,
            format!("{} cannot be opened", other.key()),
            "check BACKUP_GPG_PASSPHRASE; older passphrases go into BACKUP_GPG_OLD_PASSPHRASES_FILE",
        ),
    }
}

fn spool_space(vault: &Vault) -> Finding {
    match vault.spool_bytes_free() {
        Ok(free) => Finding::ok(
            "spool",
            format!("{} has {} free", vault.spool_folder.display(), bytes(free)),
        ),
        Err(error) => problem("spool", &error),
    }
}

async fn database(connection: &Connection, clients: &Clients, context: &Context) -> Vec<Finding> {
    let mut session = match Session::connect(connection).await {
        Ok(session) => session,
        Err(error) => return vec![problem("server", &error)],
    };
    let server = session.server().clone();
    let mut findings = vec![Finding::ok(
        "server",
        format!("PostgreSQL {} at {connection}", server.version),
    )];
    let newer = context.settings.newer_client() == NewerClient::Allowed;
    findings.push(match clients.for_dump(server.major(), newer) {
        Ok(client) => Finding::ok(
            "client",
            format!("{} in {}", client.version, client.folder.display()),
        ),
        Err(error) => problem("client", &error),
    });
    match inspect::preflight_dump(&mut session).await {
        Ok(found) => findings.extend(found),
        Err(error) => findings.push(problem("preflight", &error)),
    }
    match inspect::preflight_restore(&mut session).await {
        Ok(found) => findings.extend(found),
        Err(error) => findings.push(problem("preflight", &error)),
    }
    session.close().await;
    findings.extend(kept(connection).await);
    findings
}

/// What restores left on the server, and what is to be done with it.
async fn kept(connection: &Connection) -> Vec<Finding> {
    let kept = match restore::list_kept(connection).await {
        Ok(kept) => kept,
        Err(error) => return vec![problem("restores", &error)],
    };
    kept.iter().map(kept_found).collect()
}

fn kept_found(kept: &KeptDatabase) -> Finding {
    let size = kept
        .size_bytes
        .map_or_else(String::new, |size| format!(", {}", bytes(size)));
    let name = &kept.name;
    let drop = format!("pgseal kept drop {name}");
    let Some(record) = &kept.record else {
        let found = format!("a restore was interrupted when it had just created {name}{size}");
        return Finding::warning("restores", found, drop);
    };
    let (since, backup) = (moment(record.at), &record.backup);
    match record.kept_as {
        KeptAs::Restore if kept.is_at_work => Finding::ok(
            "restores",
            format!("{name} is being filled from {backup} since {since}{size}"),
        ),
        KeptAs::Restore => Finding::warning(
            "restores",
            format!(
                "the restore of {backup} into {} of {since} was interrupted and left {name}{size}; the live database is as it was",
                record.database
            ),
            drop,
        ),
        KeptAs::Before => Finding {
            fix: format!(
                "pgseal rollback --to DATABASE_URL --id {} brings it back, {drop} drops it",
                record.id
            ),
            ..Finding::ok(
                "restores",
                format!(
                    "{name} is {} as it was before the restore of {backup} at {since}{size}",
                    record.database
                ),
            )
        },
        KeptAs::Undone => Finding {
            fix: format!(
                "{drop} drops it, pgseal rollback --to DATABASE_URL --id {} brings it back",
                record.id
            ),
            ..Finding::ok(
                "restores",
                format!(
                    "{name} is the restore of {backup} into {}, undone at {since}{size}",
                    record.database
                ),
            )
        },
    }
}

/// An error as a finding: what it says with its causes, and its first hint as the fix.
fn problem(subject: &'static str, error: &(dyn std::error::Error + 'static)) -> Finding {
    let explained = explain(error);
    let said = explained.lines().filter(|line| !line.starts_with("hint: "));
    let said: Vec<&str> = said
        .map(|line| line.trim_start().trim_start_matches("because: "))
        .collect();
    Finding::problem(subject, said.join(": "), hint_of(&explained))
}

fn hint_of(text: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix("hint: "))
        .unwrap_or_default()
        .to_owned()
}
