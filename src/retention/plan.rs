//! Which backups go, each with the reasons: from what there is, the policy and the time alone. What is printed is what is
//! carried out.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use time::{Date, OffsetDateTime, UtcOffset};

use crate::model::ids::{BackupId, Uid};
use crate::model::kind::BackupKind;
use crate::model::policy::{Policy, Rules};
use crate::model::suspicion::Comparable;
use crate::vault::Mark;

/// What was never completed is left alone for so long: one part of an upload is tried for 45 minutes.
const UNFINISHED_FOR: Duration = Duration::from_hours(24);
/// Clocks may differ by so much. Signatures allow a quarter of an hour; stores have been seen to count in other zones.
const CLOCKS_DIFFER_MAX: time::Duration = time::Duration::hours(1);
/// A backup of tomorrow comes from a clock that was wrong, then or now.
const FUTURE_MAX: time::Duration = time::Duration::days(1);
/// So few may always go at once.
const DUE_ALWAYS: usize = 3;

/// Something in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The sealed dump's key.
    pub key: String,
    /// The manifest's identity.
    pub uid: Option<Uid>,
    /// The number of its row, where there is a catalog and it has one.
    pub id: Option<BackupId>,
    /// What it is.
    pub what: What,
    /// What it can be compared with; `None`: no manifest says what is in it.
    pub group: Option<Comparable>,
    /// When it was made; of what has no manifest, when the store got it.
    pub made_at: OffsetDateTime,
    /// Bytes in the store.
    pub bytes: u64,
    /// When it was restored for trial and all was equal.
    pub proven_at: Option<OffsetDateTime>,
    /// Why it must stay, whatever the policy.
    pub pins: Vec<String>,
}

/// What a candidate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A whole backup.
    Good(BackupKind),
    /// A whole backup of what may be the wrong database.
    Suspicious(BackupKind, String),
    /// A backup that cannot be relied on.
    Damaged(BackupKind, String),
    /// It was never completed.
    Unfinished,
    /// The catalog knows it as complete, and its manifest is not in the store.
    Headless,
    /// Somebody else put it there.
    Foreign,
    /// Nobody can tell what it is, or its dump is gone: for a person to look at.
    Unknown(String),
}

/// What a plan is made from beside the candidates.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// How long backups are kept.
    pub policy: Policy,
    /// What time it is here.
    pub now: OffsetDateTime,
    /// What time it is for the store; `None`: nobody asked it.
    pub store_now: Option<OffsetDateTime>,
    /// Whether foreign objects may go.
    pub include_foreign: bool,
    /// Whether more may go at once than would stay.
    pub many: bool,
}

/// What becomes of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It goes.
    Delete,
}

/// A candidate and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Of what.
    pub of: Candidate,
    /// What.
    pub verdict: Verdict,
    /// Why; never empty.
    pub reasons: Vec<String>,
}

/// What becomes of everything, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Of each candidate.
    pub decisions: Vec<Decision>,
    /// Why nothing may be deleted at all; empty: it may.
    pub held: Vec<String>,
    /// Marks of backups that are gone.
    pub stale_marks: Vec<(Mark, Uid)>,
}

impl Plan {
    /// What is to go.
    pub fn due(&self) -> impl Iterator<Item = &Decision> {
        self.decisions
            .iter()
            .filter(|decision| decision.verdict == Verdict::Delete)
    }

    /// Whether something is to go and must not.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.held.is_empty() && self.due().next().is_some()
    }
}

/// Decides about every candidate.
#[must_use]
pub fn plan(mut candidates: Vec<Candidate>, around: &Circumstances) -> Plan {
    candidates.sort_by(|one, other| (other.made_at, &other.key).cmp(&(one.made_at, &one.key)));
    let mut reasons: Vec<Vec<String>> = candidates.iter().map(|of| of.pins.clone()).collect();
    keep_what_must_stay(&candidates, &mut reasons);
    for kind in BackupKind::ALL {
        keep_by_rules(&candidates, kind, around, &mut reasons);
    }
    let decisions = candidates.into_iter().zip(reasons);
    let decisions: Vec<Decision> = decisions
        .map(|(of, reasons)| decide(of, reasons, around))
        .collect();
    let decisions = spare_what_is_all(spare_the_damaged(decisions));
    let held = held(&decisions, around);
    Plan {
        decisions,
        held,
        stale_marks: Vec::new(),
    }
}

/// The last good backup and the last proven one stay whatever anybody says: of each database, for none stands in for
/// another, nor one without some tables' data for one with it.
fn keep_what_must_stay(candidates: &[Candidate], reasons: &mut [Vec<String>]) {
    let good =
        |of: &Candidate| matches!(of.what, What::Good(kind) if kind != BackupKind::PreRestore);
    let any_good = |of: &Candidate| matches!(of.what, What::Good(_));
    let groups: BTreeSet<&Option<Comparable>> = candidates.iter().map(|of| &of.group).collect();
    for group in groups {
        // A safety backup is of what was about to be replaced: it is the last only where there is nothing else.
        let last = |is_proven: bool| {
            let fits =
                |of: &Candidate| of.group == *group && (!is_proven || of.proven_at.is_some());
            let first = candidates.iter().position(|of| fits(of) && good(of));
            first.or_else(|| candidates.iter().position(|of| fits(of) && any_good(of)))
        };
        if let Some(last) = last(false) {
            reasons[last].push("the newest good backup".to_owned());
        }
        if let Some(last) = last(true) {
            reasons[last].push("the newest proven backup".to_owned());
        }
    }
}

/// What the rules of one kind keep. Only good ones count; so a damaged one takes nobody's place.
fn keep_by_rules(
    candidates: &[Candidate],
    kind: BackupKind,
    around: &Circumstances,
    reasons: &mut [Vec<String>],
) {
    let rules = around.policy.of(kind);
    let of_kind = |of: &Candidate| of.what == What::Good(kind);
    let newest_first: Vec<usize> = (0..candidates.len())
        .filter(|index| of_kind(&candidates[*index]))
        .collect();
    let Some(newest) = newest_first.first().map(|index| candidates[*index].made_at) else {
        return;
    };
    for (place, index) in newest_first.iter().enumerate() {
        let made_at = candidates[*index].made_at;
        if place < rules.last as usize {
            reasons[*index].push(format!("one of the last {}", rules.last));
        }
        if rules
            .within
            .is_some_and(|within| newest - made_at <= within)
        {
            reasons[*index].push("close enough to the newest one".to_owned());
        }
        if is_young(&candidates[*index], rules, around.now) {
            reasons[*index].push("young enough".to_owned());
        }
    }
    keep_of_each(&newest_first, candidates, rules, reasons);
}

/// The newest of each day, week, month and year, as many of them as are wanted.
fn keep_of_each(
    newest_first: &[usize],
    candidates: &[Candidate],
    rules: &Rules,
    reasons: &mut [Vec<String>],
) {
    type Period = fn(Date) -> (i32, u16);
    let periods: [(&str, u32, Period); 4] = [
        ("day", rules.daily, |date| (date.year(), date.ordinal())),
        ("week", rules.weekly, |date| {
            let (year, week, _) = date.to_iso_week_date();
            (year, u16::from(week))
        }),
        ("month", rules.monthly, |date| {
            (date.year(), u16::from(u8::from(date.month())))
        }),
        ("year", rules.yearly, |date| (date.year(), 0)),
    ];
    for (word, wanted, period) in periods {
        let mut seen = BTreeSet::new();
        for index in newest_first {
            let date = candidates[*index].made_at.to_offset(UtcOffset::UTC).date();
            if seen.len() < wanted as usize && seen.insert(period(date)) {
                reasons[*index].push(format!("the newest of its {word}"));
            }
        }
    }
}

fn decide(of: Candidate, mut reasons: Vec<String>, around: &Circumstances) -> Decision {
    let due = match &of.what {
        What::Good(kind) if around.policy.of(*kind).keep_all() => {
            reasons.push("no rule lets it go".to_owned());
            None
        }
        What::Good(kind) => Some(format!("no rule keeps it ({})", around.policy.of(*kind))),
        What::Suspicious(_, reason) => {
            reasons.push(format!("it looks wrong: {reason}"));
            None
        }
        What::Damaged(kind, reason) if around.policy.of(*kind).keep_all() => {
            reasons.push(format!("no rule lets it go; it is damaged: {reason}"));
            None
        }
        // What is wrong with it may be wrong with who tried it: it has the time of a good one.
        What::Damaged(kind, reason) if is_young(&of, around.policy.of(*kind), around.now) => {
            reasons.push(format!("young enough; it is damaged: {reason}"));
            None
        }
        What::Damaged(_, reason) => Some(format!(
            "no good backup of its kind is older, and it is damaged: {reason}"
        )),
        What::Unfinished if is_younger(of.made_at, UNFINISHED_FOR, around.now) => {
            reasons.push("it may still be going on".to_owned());
            None
        }
        What::Unfinished => Some("it was never completed".to_owned()),
        What::Headless => {
            reasons.push("its manifest is not in the store".to_owned());
            None
        }
        What::Foreign => due_foreign(&of, around, &mut reasons),
        What::Unknown(reason) => {
            reasons.push(reason.clone());
            None
        }
    };
    match due.filter(|_| reasons.is_empty()) {
        Some(reason) => Decision {
            of,
            verdict: Verdict::Delete,
            reasons: vec![reason],
        },
        None => Decision {
            of,
            verdict: Verdict::Keep,
            reasons,
        },
    }
}

fn due_foreign(
    of: &Candidate,
    around: &Circumstances,
    reasons: &mut Vec<String>,
) -> Option<String> {
    let age = around.policy.foreign.age_max;
    match age {
        _ if !around.include_foreign => reasons.push("somebody else put it there".to_owned()),
        None => reasons.push("no rule lets it go".to_owned()),
        Some(age) if is_younger(of.made_at, age, around.now) => {
            reasons.push("young enough".to_owned());
        }
        Some(_) => return Some("somebody else put it there, and it is old enough".to_owned()),
    }
    None
}

/// A damaged backup may be better than none, as long as no good one is as old.
fn spare_the_damaged(mut decisions: Vec<Decision>) -> Vec<Decision> {
    let kept_good = |kind: BackupKind, group: &Option<Comparable>, decisions: &[Decision]| {
        let kept = decisions.iter().filter(|decision| {
            decision.verdict == Verdict::Keep
                && decision.of.what == What::Good(kind)
                && decision.of.group == *group
        });
        kept.map(|decision| decision.of.made_at).min()
    };
    for index in 0..decisions.len() {
        let What::Damaged(kind, reason) = &decisions[index].of.what else {
            continue;
        };
        let reason = format!("damaged ({reason}), and among the good ones by its age");
        let oldest = kept_good(*kind, &decisions[index].of.group, &decisions);
        let decision = &mut decisions[index];
        if decision.verdict == Verdict::Delete
            && oldest.is_none_or(|oldest| decision.of.made_at >= oldest)
        {
            decision.verdict = Verdict::Keep;
            decision.reasons = vec![reason];
        }
    }
    decisions
}

/// What somebody else made, or what has no manifest, is no waste while there is nothing better.
fn spare_what_is_all(mut decisions: Vec<Decision>) -> Vec<Decision> {
    let has_good = decisions.iter().any(|decision| {
        decision.verdict == Verdict::Keep && matches!(decision.of.what, What::Good(_))
    });
    if !has_good {
        for decision in &mut decisions {
            if matches!(decision.of.what, What::Foreign | What::Unfinished)
                && decision.verdict == Verdict::Delete
            {
                decision.verdict = Verdict::Keep;
                decision.reasons = vec!["there is no good backup beside it".to_owned()];
            }
        }
    }
    decisions
}

/// Why nothing may be deleted.
fn held(decisions: &[Decision], around: &Circumstances) -> Vec<String> {
    let mut held = Vec::new();
    for decision in decisions {
        if let What::Suspicious(_, reason) = &decision.of.what {
            let name = name(&decision.of.key);
            held.push(format!(
                "backup {name} looks wrong: {reason}; pgseal accept {name} says that it is not"
            ));
        }
        if decision.of.what == What::Headless {
            held.push(format!(
                "the catalog knows backup {} as complete, and its manifest is not in the store: bring it back from an older \
                 version or a copy, or delete that backup by its number",
                name(&decision.of.key)
            ));
        }
    }
    if let Some(store_now) = around.store_now {
        let apart = (store_now - around.now).abs();
        if apart > CLOCKS_DIFFER_MAX {
            held.push(format!(
                "the clock here says {}, the store's says {}: one of them is wrong",
                seconds(around.now),
                seconds(store_now)
            ));
        }
    }
    let future = decisions.iter().map(|decision| &decision.of);
    let future = future.filter(|of| of.made_at - around.now > FUTURE_MAX);
    if let Some(of) = future.max_by_key(|of| of.made_at) {
        let (name, at) = (name(&of.key), seconds(of.made_at));
        held.push(format!(
            "{name} was made at {at}, which is in the future: a clock is wrong, or was"
        ));
    }
    held.extend(too_many(decisions, around));
    held
}

/// A policy that is kept to lets as much go as comes in. What would take more than it leaves was changed, or is not what
/// somebody meant, or follows a pause; that is for a person to say.
///
/// Only good backups count as what stays. What was never completed may be complete ones that lost their manifests, where no
/// catalog tells; some of those are let go as they come.
fn too_many(decisions: &[Decision], around: &Circumstances) -> Option<String> {
    let count = |verdict, of: &dyn Fn(&What) -> bool| {
        let of = decisions
            .iter()
            .filter(|decision| decision.verdict == verdict && of(&decision.of.what));
        of.count()
    };
    let good = |what: &What| matches!(what, What::Good(_));
    let backup = |what: &What| matches!(what, What::Good(_) | What::Damaged(..));
    let (due, kept) = (
        count(Verdict::Delete, &|_| true),
        count(Verdict::Keep, &good),
    );
    let mut many = (due > DUE_ALWAYS.max(kept) || count(Verdict::Delete, &backup) > kept)
        .then(|| format!("{due} backups would go at once and {kept} stay"));
    // Safety backups were let go by somebody, each by its name.
    for kind in [BackupKind::Manual, BackupKind::Scheduled] {
        let of_kind =
            |what: &What| matches!(what, What::Good(is) | What::Damaged(is, _) if *is == kind);
        let kept = count(Verdict::Keep, &|what| *what == What::Good(kind));
        let due = count(Verdict::Delete, &of_kind);
        if due > DUE_ALWAYS.max(kept) {
            many.get_or_insert_with(|| {
                format!("{due} {kind} backups would go at once and {kept} of them stay")
            });
        }
    }
    let many = many.filter(|_| !around.many);
    many.map(|many| format!("{many}; pgseal prune --many says that this is meant"))
}

fn is_young(of: &Candidate, rules: &Rules, now: OffsetDateTime) -> bool {
    let age_max = rules.age_max;
    age_max.is_some_and(|age| is_younger(of.made_at, age, now))
}

/// Whether a moment is less than `age` ago; beyond the calendar, nothing is old.
fn is_younger(at: OffsetDateTime, age: Duration, now: OffsetDateTime) -> bool {
    let oldest = time::Duration::try_from(age).ok();
    let oldest = oldest.and_then(|age| now.checked_sub(age));
    oldest.is_none_or(|oldest| at > oldest)
}

fn seconds(at: OffsetDateTime) -> OffsetDateTime {
    at.to_offset(UtcOffset::UTC)
        .replace_nanosecond(0)
        .unwrap_or(at)
}

/// What people type for a backup.
#[must_use]
pub fn name(key: &str) -> &str {
    let file = key.rsplit('/').next().unwrap_or(key);
    file.split_once(".dump").map_or(file, |(name, _)| name)
}
