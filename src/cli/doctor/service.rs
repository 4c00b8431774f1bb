//! What the service needs beside a store and its databases: a catalog, Redis, tokens, a timetable, a server for drills, and
//! somebody who is told. What is not set is not looked at: the command line does without all of it.

use secrecy::ExposeSecret as _;
use time::OffsetDateTime;

use super::{DoctorArgs, problem};
use crate::api::Tokens;
use crate::catalog::Catalog;
use crate::cli::Context;
use crate::cli::output::moment;
use crate::cli::serve::rules;
use crate::cli::service::{SHARED_SWITCH, SHARED_SWITCH_FIX, drills, timetables};
use crate::config::{self, ConfigError, JwtArgs, NotifyArgs, Settings};
use crate::notify::Channel;
use crate::pg::Finding;
use crate::pg::inspect::{self, Session};
use crate::queue::Queue;
use crate::queue::rq::keys::{Keys, PREFIX_DEFAULT};

impl DoctorArgs {
    /// Everything that workers, the API and timers need.
    pub(super) async fn service(&self, context: &Context) -> Vec<Finding> {
        let redis = redis().await;
        let has_service = redis.is_some();
        let mut findings: Vec<Finding> = catalog(has_service).await.into_iter().collect();
        findings.extend(redis);
        findings.extend(tokens(&self.tokens));
        findings.extend(self.times(context, has_service));
        findings.extend(drill_server().await);
        findings.extend(channels(&self.notify, &context.settings));
        findings
    }

    /// What is done by itself, and when next.
    fn times(&self, context: &Context, has_service: bool) -> Vec<Finding> {
        // What is wrong with them is said where the databases are looked at.
        let Ok(targets) = context.settings.targets() else {
            return Vec::new();
        };
        let now = (context.clock)();
        let mut findings = Vec::new();
        match timetables(&targets, &self.schedule) {
            Ok(timetables) if timetables.is_empty() && has_service => {
                findings.push(Finding::warning(
                    "schedule",
                    "workers make no backup by themselves, and delete none",
                    "set BACKUP_SCHEDULE, as 30 2 * * *; or let a timer call pgseal enqueue or run-scheduled, and pgseal prune",
                ));
            }
            Ok(timetables) => findings.extend(timetables.iter().map(|one| {
                next(
                    "schedule",
                    "backup",
                    &one.target,
                    one.schedule.next_slot(now),
                )
            })),
            Err(error) => findings.push(problem("schedule", &error)),
        }
        let drills = match drills(&targets, &self.schedule) {
            Ok(drills) => drills,
            Err(error) => {
                findings.push(problem("drill schedule", &error));
                return findings;
            }
        };
        let due = drills.timetables.iter();
        let due: Vec<_> = due
            .filter_map(|one| Some((&one.target, one.schedule.as_ref()?)))
            .collect();
        if !due.is_empty() && matches!(config::drill_server_if_named(), Ok(None)) {
            findings.push(problem("drill schedule", &ConfigError::DrillsWithoutServer));
        }
        findings.extend(due.into_iter().map(|(target, schedule)| {
            next("drill schedule", "drill", target, schedule.next_slot(now))
        }));
        findings
    }
}

fn next(subject: &'static str, what: &str, target: &str, slot: Option<OffsetDateTime>) -> Finding {
    match slot {
        Some(slot) => Finding::ok(
            subject,
            format!("the next {what} of {target} is due at {}", moment(slot)),
        ),
        None => Finding::warning(
            subject,
            format!("no {what} of {target} will ever be due"),
            "the schedule names a day that does not come",
        ),
    }
}

/// The catalog; `None`: there is none, and nothing that is set needs one.
async fn catalog(is_needed: bool) -> Option<Finding> {
    const SUBJECT: &str = "catalog";
    let connection = match config::catalog_address() {
        Ok((connection, _)) => connection,
        Err(ConfigError::NoCatalog) if !is_needed => return None,
        Err(error) => return Some(problem(SUBJECT, &error)),
    };
    match Catalog::open(&connection).await {
        Ok(catalog) => {
            let said = format!("{} is as this version needs it", catalog.describe());
            catalog.close().await;
            Some(Finding::ok(SUBJECT, said))
        }
        // The one beside the database that is backed up, which nobody named and nothing needs.
        Err(_) if !is_needed && !config::names_catalog() => None,
        Err(error) => Some(problem(SUBJECT, &error)),
    }
}

/// Redis; `None`: none is named.
async fn redis() -> Option<Finding> {
    const SUBJECT: &str = "redis";
    let address = match config::redis() {
        Ok(address) => address,
        Err(ConfigError::NoRedis) => return None,
        Err(error) => return Some(problem(SUBJECT, &error)),
    };
    // The version is the server's, whatever its keys begin with.
    Some(
        match Queue::connect(&address, Keys::new(PREFIX_DEFAULT)).await {
            Ok(_) => Finding::ok(SUBJECT, format!("{address} answers")),
            Err(error) => problem(SUBJECT, &error),
        },
    )
}

/// Whether the API's tokens can be checked; `None`: nothing is set for them.
fn tokens(arguments: &JwtArgs) -> Option<Finding> {
    const SUBJECT: &str = "tokens";
    if !arguments.is_set() {
        return None;
    }
    let key = match arguments.key() {
        Ok(key) => key,
        Err(error) => return Some(problem(SUBJECT, &error)),
    };
    Some(match Tokens::new(rules(arguments), key.expose_secret()) {
        Ok(_) => Finding::ok(SUBJECT, "their key can be used"),
        Err(error) => problem(SUBJECT, &error),
    })
}

/// The server that drills use; nothing where none is named.
async fn drill_server() -> Vec<Finding> {
    const SUBJECT: &str = "drill server";
    let server = match config::drill_server_if_named() {
        Ok(Some(server)) => server,
        Ok(None) => return Vec::new(),
        Err(error) => return vec![problem(SUBJECT, &error)],
    };
    let looked = async {
        let mut session = Session::connect(&server).await?;
        let version = session.server().version.clone();
        let role = inspect::preflight_drill(&mut session).await?;
        session.close().await;
        Ok::<_, crate::pg::PgError>((version, role))
    };
    match looked.await {
        Ok((version, role)) => vec![
            Finding::ok(SUBJECT, format!("PostgreSQL {version} at {server}")),
            role,
        ],
        Err(error) => vec![problem(SUBJECT, &error)],
    }
}

/// Who hears of what happens; whether they really do, only a test finds out, which they would get.
fn channels(arguments: &NotifyArgs, settings: &Settings) -> Vec<Finding> {
    let notifier = settings.targets().and_then(|targets| {
        let notifier = arguments.notifier(&targets)?;
        Ok((notifier, targets.names()))
    });
    let (notifier, targets) = match notifier {
        Ok(found) => found,
        Err(error) => return vec![problem("notify", &error)],
    };
    if notifier.named().next().is_none() {
        return vec![Finding::warning(
            "notify",
            "nobody hears of a backup that failed",
            "set BACKUP_SMTP_URL, BACKUP_NOTIFY_WEBHOOK_URL, BACKUP_NOTIFY_SLACK_URL or BACKUP_PING_URL",
        )];
    }
    let found = |(name, channel): (String, &Channel)| {
        let said = format!(
            "{name}: {}, not tried (pgseal notify test)",
            channel.describe()
        );
        match channel {
            Channel::Webhook(webhook) if !webhook.is_signed() => Finding::warning(
                "notify",
                said,
                "set BACKUP_NOTIFY_WEBHOOK_SECRET, so that the receiver can tell who sends",
            ),
            _ => Finding::ok("notify", said),
        }
    };
    let shared = notifier
        .shares_a_switch(&targets)
        .then(|| Finding::warning("notify", SHARED_SWITCH, SHARED_SWITCH_FIX));
    notifier.named().map(found).chain(shared).collect()
}
