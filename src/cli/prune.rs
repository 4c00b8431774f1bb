//! `pgseal prune`.

use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;

use super::output::{bytes, counted, moment, table};
use super::service::catalog_if_there;
use super::{Context, TargetArgs};
use crate::catalog::Catalog;
use crate::config::RetentionArgs;
use crate::model::target::TargetName;
use crate::retention::{Decision, Plan, Pruned, Retention, Verdict, Wishes, name};

const AFTER_HELP: &str = "\
Examples:
  pgseal prune --plan                          what would go, and why everything else stays
  pgseal prune --keep-daily 7 --keep-weekly 5  by these rules; else those of BACKUP_RETENTION_DAYS and BACKUP_KEEP_*
  pgseal prune --retention-days 30,manual=365  for each kind its own
  pgseal prune --target shop                   one target alone; else all of them, each by its own rules unless some are typed

A backup stays that any rule keeps. Whatever the rules say, these stay: the newest good and the newest proven one of each database, \
what a restore needs, safety backups until pgseal release, and what nobody can read. Nothing goes while a backup looks wrong \
(pgseal accept), while the clock here and the store's disagree, or when more would go than stays (--many). It can be run again at any time.

Exit codes: 0 done, or nothing was due · 1 something could not be deleted, and is tried again by the next run · 6 something \
is due, and was held back";

/// Delete the backups that no rule keeps
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag that somebody types"
)]
pub(super) struct PruneArgs {
    /// Say what would go and what stays, each with its reason, and delete nothing
    #[arg(long)]
    plan: bool,
    /// Let objects go that somebody else put there, when they are old enough
    #[arg(long)]
    include_foreign: bool,
    /// Let more backups go at once than stay
    #[arg(long)]
    many: bool,
    /// Do not ask the catalog who needs a backup: for a store that no service uses
    #[arg(long)]
    store_only: bool,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    retention: RetentionArgs,
    #[arg(skip)]
    is_typed: bool,
}

/// Backups are due, and none was deleted.
#[derive(Debug, thiserror::Error)]
#[error("nothing was deleted, although something is due: {}", .0.join("\nand: "))]
pub(super) struct Held(Vec<String>);

/// Some could not be deleted.
#[derive(Debug, thiserror::Error)]
#[error("{} could not be deleted\nhint: they are tried again by the next run", counted(*.0 as u64, "backup"))]
struct NotDeleted(usize);

impl PruneArgs {
    /// Whether rules were typed; they go before those of the targets' file.
    pub(super) const fn set_typed(&mut self, is_typed: bool) {
        self.is_typed = is_typed;
    }

    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let targets = context.settings.targets()?;
        let names = match &self.target.target {
            Some(target) => {
                targets.require(target)?;
                vec![target.clone()]
            }
            None => targets.names(),
        };
        let vault = context.settings.vault().await?;
        let catalog = if self.store_only {
            None
        } else {
            catalog().await?
        };
        let wishes = Wishes {
            include_foreign: self.include_foreign,
            many: self.many,
        };
        let mut all = Vec::new();
        for target in &names {
            let policy = if self.is_typed {
                self.retention.policy()
            } else {
                targets.policy(target, &self.retention)
            };
            let retention = Retention {
                vault: vault.of_target(target)?,
                catalog: catalog.clone(),
                target: target.to_string(),
                policy,
                clock: context.clock,
            };
            let plan = retention.plan(wishes).await?;
            let pruned = if self.plan {
                None
            } else {
                Some(retention.carry_out(&plan).await?)
            };
            all.push((target, plan, pruned));
        }
        print(context, &all)?;
        let done = || {
            all.iter()
                .filter_map(|(_, plan, pruned)| Some((plan, pruned.as_ref()?)))
        };
        let failed: usize = done().map(|(_, pruned)| pruned.failed.len()).sum();
        if failed > 0 {
            return Err(NotDeleted(failed).into());
        }
        let held = done().filter(|(plan, _)| plan.is_held());
        let held: Vec<String> = held.flat_map(|(plan, _)| plan.held.clone()).collect();
        if !held.is_empty() {
            return Err(Held(held).into());
        }
        Ok(())
    }
}

type OfTarget<'a> = (&'a TargetName, Plan, Option<Pruned>);

/// One target's as it is, those of several under their names.
fn print(context: &Context, all: &[OfTarget<'_>]) -> anyhow::Result<()> {
    let each: Vec<Said<'_>> = all.iter().map(Said::of).collect();
    if let [only] = each.as_slice() {
        return context.output.print(&only.outcome, || only.outcome.text());
    }
    context.output.print(&each, || {
        let texts = each
            .iter()
            .map(|said| format!("{}: {}", said.target, said.outcome.text()));
        texts.collect::<Vec<_>>().join("\n")
    })
}

#[derive(Serialize)]
struct Said<'a> {
    target: &'a str,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

/// What would be done, or what was.
#[derive(Serialize)]
#[serde(untagged)]
enum Outcome<'a> {
    Planned {
        #[serde(flatten)]
        planned: Planned<'a>,
        #[serde(skip)]
        plan: &'a Plan,
    },
    Done(Done<'a>),
}

impl<'a> Said<'a> {
    fn of((target, plan, pruned): &'a OfTarget<'_>) -> Self {
        Self {
            target: target.as_str(),
            outcome: match pruned {
                Some(pruned) => Outcome::Done(Done::of(plan, pruned)),
                None => Outcome::Planned {
                    planned: Planned::of(plan),
                    plan,
                },
            },
        }
    }
}

impl Outcome<'_> {
    fn text(&self) -> String {
        match self {
            Self::Planned { plan, .. } => text(plan),
            Self::Done(done) => done.text(),
        }
    }
}

/// The catalog, where there is one. One that is there and cannot be asked is an error: a restore may need what is due.
async fn catalog() -> anyhow::Result<Option<Catalog>> {
    const HINT: &str =
        "nothing was deleted\nhint: pgseal prune --store-only does not ask the catalog";
    catalog_if_there()
        .await
        .map_err(|error| error.context(HINT))
}

/// A plan as JSON.
#[derive(Serialize)]
struct Planned<'a> {
    held: &'a [String],
    decisions: Vec<Line<'a>>,
}

/// A decision as JSON.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    object_key: &'a str,
    backup_id: Option<i64>,
    #[serde(with = "time::serde::rfc3339")]
    made_at: OffsetDateTime,
    sealed_bytes: u64,
    verdict: Verdict,
    reasons: &'a [String],
}

impl<'a> Planned<'a> {
    fn of(plan: &'a Plan) -> Self {
        let line = |one: &'a Decision| Line {
            name: name(&one.of.key),
            object_key: &one.of.key,
            backup_id: one.of.id.map(Into::into),
            made_at: one.of.made_at,
            sealed_bytes: one.of.bytes,
            verdict: one.verdict,
            reasons: &one.reasons,
        };
        Self {
            held: &plan.held,
            decisions: plan.decisions.iter().map(line).collect(),
        }
    }
}

fn text(plan: &Plan) -> String {
    if plan.decisions.is_empty() {
        return "There is nothing to decide about".to_owned();
    }
    let rows = plan.decisions.iter().map(|one| {
        let verdict = match one.verdict {
            Verdict::Keep => "keep",
            Verdict::Delete => "delete",
        };
        [
            name(&one.of.key).to_owned(),
            moment(one.of.made_at),
            bytes(one.of.bytes),
            verdict.to_owned(),
            one.reasons.join(", "),
        ]
    });
    let mut text = table(["NAME", "MADE", "STORED", "VERDICT", "BECAUSE"], rows, 5);
    for reason in plan.held.iter().filter(|_| plan.is_held()) {
        text += &format!("\nHeld back: {reason}");
    }
    text
}

/// What was done, as JSON.
#[derive(Serialize)]
struct Done<'a> {
    deleted: &'a [String],
    versions_deleted: u64,
    kept: usize,
    held: &'a [String],
    needed: Vec<NotGone<'a>>,
    locked: Vec<NotGone<'a>>,
    failed: Vec<NotGone<'a>>,
}

#[derive(Serialize)]
struct NotGone<'a> {
    object_key: &'a str,
    reason: &'a str,
}

impl<'a> Done<'a> {
    fn of(plan: &'a Plan, pruned: &'a Pruned) -> Self {
        let list = |list: &'a [(String, String)]| -> Vec<NotGone<'a>> {
            let each = list.iter();
            each.map(|(object_key, reason)| NotGone { object_key, reason })
                .collect()
        };
        let due = plan.due().filter(|_| plan.is_held()).count();
        Self {
            deleted: &pruned.deleted,
            versions_deleted: pruned.versions,
            kept: plan.decisions.len() - plan.due().count() + due,
            held: if plan.is_held() { &plan.held } else { &[] },
            needed: list(&pruned.needed),
            locked: list(&pruned.locked),
            failed: list(&pruned.failed),
        }
    }

    fn text(&self) -> String {
        let deleted = counted(self.deleted.len() as u64, "backup");
        let mut text = format!("{deleted} deleted, {} kept", self.kept);
        for key in self.deleted {
            text += &format!("\n  deleted  {key}");
        }
        for (word, list) in [
            ("needed", &self.needed),
            ("locked", &self.locked),
            ("failed", &self.failed),
        ] {
            for one in list {
                text += &format!("\n  {word}  {}: {}", one.object_key, one.reason);
            }
        }
        text
    }
}
