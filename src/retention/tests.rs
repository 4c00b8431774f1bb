use std::time::Duration;

use proptest::prelude::*;
use time::OffsetDateTime;
use time::macros::datetime;

use super::*;
use crate::model::policy::Rules;
use crate::model::proof::Verdict as Found;

const NOW: OffsetDateTime = datetime!(2026-06-15 12:00 UTC);
const DAY: Duration = Duration::from_hours(24);

fn days_ago(days: i64) -> OffsetDateTime {
    NOW - time::Duration::days(days)
}

fn candidate_of(index: usize, what: What, made_at: OffsetDateTime) -> Candidate {
    Candidate {
        key: format!("backups/prod/2026/06/backup_{index}.dump.gpg"),
        uid: Some(Uid::new(made_at)),
        id: None,
        what,
        group: None,
        made_at,
        bytes: 10,
        proven_at: None,
        pins: Vec::new(),
    }
}

fn nightly(days: i64) -> Vec<Candidate> {
    let of_day = |day: i64| {
        let index = usize::try_from(day).unwrap();
        candidate_of(index, What::Good(BackupKind::Scheduled), days_ago(day))
    };
    (0..days).map(of_day).collect()
}

fn around(rules: Rules) -> Circumstances {
    Circumstances {
        policy: Policy {
            manual: rules,
            scheduled: rules,
            pre_restore: rules,
            foreign: rules,
        },
        now: NOW,
        store_now: Some(NOW),
        include_foreign: false,
        many: false,
    }
}

fn older_than(days: u32) -> Rules {
    Rules {
        age_max: Some(DAY * days),
        ..Rules::default()
    }
}

/// The days, before now, of what stays.
fn kept(plan: &Plan) -> Vec<i64> {
    let kept = plan
        .decisions
        .iter()
        .filter(|one| one.verdict == Verdict::Keep);
    kept.map(|one| (NOW - one.of.made_at).whole_days())
        .collect()
}

#[test]
fn what_is_older_goes_and_each_has_its_reason() {
    let plan = plan(nightly(33), &around(older_than(30)));
    assert_eq!(kept(&plan), (0..30).collect::<Vec<_>>());
    assert_eq!(plan.due().count(), 3);
    assert!(plan.held.is_empty());
    assert!(plan.decisions.iter().all(|one| !one.reasons.is_empty()));
    assert_eq!(
        plan.decisions[0].reasons,
        ["the newest good backup", "young enough"]
    );
    assert_eq!(plan.decisions[32].reasons, ["no rule keeps it (30 days)"]);
}

#[test]
fn days_weeks_months_and_years_keep_the_newest_of_each() {
    let rules = Rules {
        last: 2,
        daily: 3,
        weekly: 3,
        monthly: 3,
        yearly: 2,
        ..Rules::default()
    };
    let mut around = around(rules);
    around.many = true;
    let plan = plan(nightly(400), &around);
    // 2026-06-15 is a Monday: the weeks end on the 14th and the 7th, the months on 05-31 and 04-30, the year on 12-31.
    assert_eq!(kept(&plan), [0, 1, 2, 8, 15, 46, 166]);
    let reasons = &plan.decisions[0].reasons;
    for word in ["day", "week", "month", "year"] {
        assert!(
            reasons.contains(&format!("the newest of its {word}")),
            "{reasons:?}"
        );
    }
}

#[test]
fn a_pause_deletes_nothing_that_is_near_the_newest() {
    let mut backups = nightly(40);
    backups.retain(|of| of.made_at <= days_ago(20));
    let within = Rules {
        within: Some(DAY * 10),
        ..Rules::default()
    };
    assert_eq!(
        kept(&plan(backups, &around(within))),
        (20..31).collect::<Vec<_>>()
    );
}

#[test]
fn without_a_rule_everything_stays() {
    let plan = plan(nightly(400), &around(Rules::default()));
    assert_eq!(plan.due().count(), 0);
}

#[test]
fn the_last_good_and_the_last_proven_stay_whatever_their_age() {
    let mut backups = nightly(400);
    backups.retain(|of| of.made_at <= days_ago(100));
    backups[7].proven_at = Some(days_ago(50));
    let mut around = around(older_than(1));
    around.many = true;
    assert_eq!(kept(&plan(backups.clone(), &around)), [100, 107]);
    // A trial that failed is no proof, and what is damaged is not good.
    backups[0].what = What::Damaged(BackupKind::Scheduled, "a bit".to_owned());
    backups[7].what = What::Damaged(BackupKind::Scheduled, "its trial failed".to_owned());
    // The damaged one of day 100 stays as long as no good one that stays is older.
    assert_eq!(kept(&plan(backups, &around)), [100, 101]);
}

/// What a trial could not restore may be as good as the others, and the server at fault: it has as long as they have.
#[test]
fn a_damaged_one_goes_no_sooner_than_a_good_one() {
    let mut backups = nightly(40);
    for index in [5, 29, 35] {
        backups[index].what = What::Damaged(BackupKind::Scheduled, "its trial failed".to_owned());
    }
    let plan = plan(backups, &around(older_than(30)));
    assert_eq!(kept(&plan), (0..30).collect::<Vec<_>>());
    let reasons = &plan.decisions[29].reasons;
    assert!(
        reasons[0].starts_with("young enough; it is damaged: "),
        "{reasons:?}"
    );
}

/// Many of one kind may be few of all, and it is said which.
#[test]
fn too_many_of_one_kind_are_named() {
    let mut backups = nightly(40);
    backups.extend(
        (0..30).map(|index| candidate_of(100 + index, What::Good(BackupKind::Manual), days_ago(1))),
    );
    let plan = plan(backups, &around(older_than(15)));
    assert!(
        plan.held[0].starts_with("25 scheduled backups would go at once and 15 of them stay"),
        "{:?}",
        plan.held
    );
}

#[test]
fn what_is_needed_or_not_ours_stays() {
    let mut backups = nightly(40);
    backups[35].pins.push("a restore needs it".to_owned());
    backups[36].what = What::Foreign;
    backups[37].what = What::Unknown("its manifest cannot be read".to_owned());
    backups[38].what = What::Unfinished;
    backups[39].what = What::Unfinished;
    backups[39].made_at = NOW - time::Duration::hours(23);
    let plan_of = |include_foreign| {
        let circumstances = Circumstances {
            include_foreign,
            ..around(older_than(30))
        };
        let plan = plan(backups.clone(), &circumstances);
        let due: Vec<String> = plan.due().map(|one| name(&one.of.key).to_owned()).collect();
        due
    };
    let ours = [
        "backup_30",
        "backup_31",
        "backup_32",
        "backup_33",
        "backup_34",
        "backup_38",
    ];
    assert_eq!(plan_of(false), ours);
    assert_eq!(
        plan_of(true),
        [&ours[..5], &["backup_36", "backup_38"]].concat()
    );
}

#[test]
fn foreign_objects_stay_while_there_is_nothing_better() {
    let mut backups = nightly(40);
    for of in &mut backups {
        of.what = What::Foreign;
    }
    let circumstances = Circumstances {
        include_foreign: true,
        many: true,
        ..around(older_than(3))
    };
    assert_eq!(plan(backups, &circumstances).due().count(), 0);
}

/// Row 134.
#[test]
fn a_suspicious_backup_holds_everything() {
    let mut backups = nightly(33);
    backups[0].what = What::Suspicious(BackupKind::Scheduled, "it has 1 tables".to_owned());
    let plan = plan(backups, &around(older_than(30)));
    assert!(plan.is_held());
    assert!(
        plan.held[0].contains("pgseal accept backup_0"),
        "{:?}",
        plan.held
    );
    // It is not what stays as the last good one.
    assert!(
        plan.decisions[1]
            .reasons
            .contains(&"the newest good backup".to_owned())
    );
}

/// Row 97: our clock is a year ahead, or the store's; or it was when a backup was made; or much more is due than ever.
#[test]
fn clocks_that_disagree_hold_everything() {
    let year = time::Duration::days(365);
    let held = |now: OffsetDateTime, store_now| {
        let circumstances = Circumstances {
            now,
            store_now,
            ..around(older_than(30))
        };
        let plan = plan(nightly(33), &circumstances);
        assert!(plan.is_held());
        plan.held.join("\n")
    };
    assert!(held(NOW + year, Some(NOW)).contains("one of them is wrong"));
    assert!(held(NOW + year, None).contains("32 backups would go at once"));
    assert!(held(NOW - time::Duration::days(2), None).contains("in the future"));
    let mut circumstances = around(older_than(30));
    circumstances.store_now = Some(NOW + time::Duration::minutes(10));
    assert!(plan(nightly(33), &circumstances).held.is_empty());
}

#[test]
fn more_than_stays_goes_only_where_somebody_says_so() {
    let rules = Rules {
        last: 5,
        ..Rules::default()
    };
    let mut around = around(rules);
    assert!(plan(nightly(11), &around).is_held());
    assert!(!plan(nightly(10), &around).is_held());
    around.many = true;
    assert!(!plan(nightly(11), &around).is_held());
}

/// What the catalog calls complete and the store has without a manifest may be every backup that there is.
#[test]
fn a_complete_backup_without_its_manifest_holds_everything() {
    let mut backups = nightly(33);
    backups[32].what = What::Headless;
    let with_one = plan(backups, &around(older_than(30)));
    assert!(with_one.is_held());
    assert!(
        with_one.held[0].contains("backup_32"),
        "{:?}",
        with_one.held
    );
    assert_eq!(with_one.decisions[32].verdict, Verdict::Keep);
}

/// Where no catalog tells, many of them are held like many of anything; and they stay where there is nothing better.
#[test]
fn what_was_never_completed_goes_a_few_at_once_beside_a_good_one() {
    let bare = |good: usize, bare: i64| {
        let mut backups = nightly(bare + 2);
        for (index, of) in backups.iter_mut().enumerate().skip(good) {
            (of.what, of.made_at) = (
                What::Unfinished,
                days_ago(2 + i64::try_from(index).unwrap()),
            );
        }
        plan(backups, &around(older_than(30)))
    };
    assert_eq!(bare(0, 3).due().count(), 0);
    let few = bare(2, 3);
    assert_eq!((few.due().count(), few.is_held()), (3, false));
    assert!(bare(2, 4).is_held());
}

#[test]
fn each_database_keeps_its_last_good_and_its_last_proven_one() {
    let mut backups = nightly(40);
    for (index, of) in backups.iter_mut().enumerate() {
        let database = if index < 35 { "new" } else { "old" };
        of.group = Some(("default".to_owned(), database.to_owned(), Vec::new()));
    }
    backups[37].proven_at = Some(days_ago(37));
    backups[1].proven_at = Some(days_ago(1));
    // One that lacks some tables' data stands in for none that has it.
    backups[39].group = Some((
        "default".to_owned(),
        "old".to_owned(),
        vec!["log".to_owned()],
    ));
    let kept = kept(&plan(backups, &around(older_than(30))));
    assert_eq!(kept, (0..30).chain([35, 37, 39]).collect::<Vec<_>>());
}

#[test]
fn a_proven_safety_backup_takes_nobodys_place() {
    let mut backups = nightly(40);
    backups[10].what = What::Good(BackupKind::PreRestore);
    backups[10].proven_at = Some(days_ago(10));
    let proven = |plan: &Plan| {
        let is = |one: &&Decision| one.reasons.contains(&"the newest proven backup".to_owned());
        let found = plan.decisions.iter().find(is);
        found.map(|one| (NOW - one.of.made_at).whole_days())
    };
    let around = around(older_than(30));
    assert_eq!(proven(&plan(backups.clone(), &around)), Some(10));
    backups[37].proven_at = Some(days_ago(37));
    assert_eq!(proven(&plan(backups, &around)), Some(37));
}

fn row(health: Health, proof: ProofState, proof_at: Option<OffsetDateTime>) -> RetainedRow {
    RetainedRow {
        id: BackupId::new(1).unwrap(),
        target: "default".to_owned(),
        uid: Some(Uid::new(NOW)),
        object_key: "backups/prod/x.dump.gpg".to_owned(),
        kind: BackupKind::Scheduled,
        health,
        health_reason: None,
        proof,
        proof_at,
        deletion: Deletion::Kept,
        locked_until: None,
        is_copied: false,
        is_needed: false,
    }
}

#[test]
fn the_later_of_two_drills_counts_and_one_of_another_backup_does_not() {
    let uid = Uid::new(NOW);
    let beside = |uid, at| Proof {
        uid,
        verdict: Found::Failed,
        reason: None,
        at,
        seconds: 1.0,
        tables: None,
        rows: None,
        digests: false,
        server: None,
    };
    let known = row(Health::Ok, ProofState::Proven, Some(days_ago(5)));
    let later = trial(uid, Some(&known), Some(&beside(uid, days_ago(4))));
    assert_eq!(later, (ProofState::Failed, Some(days_ago(4))));
    let of_row = (ProofState::Proven, Some(days_ago(5)));
    assert_eq!(
        trial(uid, Some(&known), Some(&beside(uid, days_ago(6)))),
        of_row
    );
    let other = beside(Uid::new(days_ago(1)), days_ago(4));
    assert_eq!(trial(uid, Some(&known), Some(&other)), of_row);
    assert_eq!(trial(uid, None, Some(&other)), (ProofState::Unproven, None));
    // A store alone knows as much.
    let alone = trial(uid, None, Some(&beside(uid, days_ago(4))));
    assert_eq!(alone.0, ProofState::Failed);
    let found = what(BackupKind::Scheduled, None, alone.0, None);
    assert!(matches!(found, What::Damaged(..)), "{found:?}");
}

/// A copy makes up for a first one that is damaged or gone, and for nothing that every copy has.
#[test]
fn a_copy_is_as_good_as_what_is_in_it() {
    for (health, is_copied, is_good) in [
        (Health::Corrupt, true, true),
        (Health::Lost, true, true),
        (Health::Altered, true, false),
        (Health::Corrupt, false, false),
        (Health::Lost, false, false),
        (Health::Altered, false, false),
    ] {
        let row = RetainedRow {
            is_copied,
            ..row(health, ProofState::Unproven, None)
        };
        let found = what(
            BackupKind::Scheduled,
            Some(&row),
            ProofState::Unproven,
            None,
        );
        assert_eq!(
            matches!(found, What::Good(_)),
            is_good,
            "{health}: {found:?}"
        );
        assert_eq!(
            matches!(found, What::Damaged(..)),
            !is_good,
            "{health}: {found:?}"
        );
    }
}

#[test]
fn what_looks_wrong_holds_everything_even_where_it_is_damaged_too() {
    let strange = Some("it has 1 tables".to_owned());
    let damaged = row(Health::Corrupt, ProofState::Unproven, None);
    let failed = row(Health::Suspicious, ProofState::Failed, Some(NOW));
    for found in [
        what(
            BackupKind::Scheduled,
            Some(&damaged),
            ProofState::Unproven,
            strange.clone(),
        ),
        what(BackupKind::Scheduled, None, ProofState::Failed, strange),
        what(
            BackupKind::Scheduled,
            Some(&failed),
            ProofState::Failed,
            None,
        ),
    ] {
        assert!(matches!(found, What::Suspicious(..)), "{found:?}");
    }
}

fn any_moment() -> impl Strategy<Value = OffsetDateTime> {
    // The whole calendar, and what is near.
    prop_oneof![
        (-377_705_116_800_i64..=253_402_300_799)
            .prop_map(|at| OffsetDateTime::from_unix_timestamp(at).unwrap()),
        (-800_i64..800).prop_map(days_ago),
    ]
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let span =
        || prop::option::of((0_u64..20_000).prop_map(|hours| Duration::from_secs(hours * 3600)));
    let count = || 0_u32..5;
    (span(), span(), count(), count(), count(), count(), count()).prop_map(
        |(age_max, within, last, daily, weekly, monthly, yearly)| Rules {
            age_max,
            within,
            last,
            daily,
            weekly,
            monthly,
            yearly,
        },
    )
}

fn any_what() -> impl Strategy<Value = What> {
    let kind = || prop::sample::select(BackupKind::ALL.to_vec());
    prop_oneof![
        6 => kind().prop_map(What::Good),
        1 => kind().prop_map(|kind| What::Damaged(kind, "x".to_owned())),
        1 => kind().prop_map(|kind| What::Suspicious(kind, "x".to_owned())),
        1 => Just(What::Foreign),
        1 => Just(What::Unfinished),
        1 => Just(What::Headless),
        1 => Just(What::Unknown("x".to_owned())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Row 94: no policy and no clock ever leaves zero good backups, or zero proven ones, or deletes what is pinned, looks
    /// wrong, cannot be read, or is somebody else's and was not asked for.
    #[test]
    fn no_policy_and_no_clock_ever_leaves_zero_good_backups(
        of in prop::collection::vec((any_what(), any_moment(), any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.3)), 0..40),
        rules in prop::array::uniform4(any_rules()),
        now in any_moment(),
        store_now in prop::option::of(any_moment()),
        include_foreign: bool,
        many: bool,
    ) {
        let candidates: Vec<Candidate> = of.into_iter().enumerate().map(|(index, (what, made_at, proven, pinned, other))| Candidate {
            group: Some(("default".to_owned(), (if other { "other" } else { "shop" }).to_owned(), Vec::new())),
            proven_at: proven.then_some(made_at),
            pins: Vec::from_iter(pinned.then(|| "pinned".to_owned())),
            ..candidate_of(index, what, made_at)
        }).collect();
        let [manual, scheduled, pre_restore, foreign] = rules;
        let policy = Policy { manual, scheduled, pre_restore, foreign };
        let plan = plan(candidates.clone(), &Circumstances { policy, now, store_now, include_foreign, many });

        let good = |of: &Candidate| matches!(of.what, What::Good(_));
        let latest = |of: &Candidate| matches!(of.what, What::Good(kind) if kind != BackupKind::PreRestore);
        let proven = |of: &Candidate| good(of) && of.proven_at.is_some();
        let stays = |is: &dyn Fn(&Candidate) -> bool| {
            plan.decisions.iter().any(|one| one.verdict == Verdict::Keep && is(&one.of))
        };
        prop_assert_eq!(plan.decisions.len(), candidates.len());
        // Of each database.
        for group in candidates.iter().map(|of| &of.group) {
            let tests: [&dyn Fn(&Candidate) -> bool; 4] =
                [&good, &latest, &proven, &|of| latest(of) && proven(of)];
            for is in tests {
                let is = |of: &Candidate| of.group == *group && is(of);
                prop_assert_eq!(stays(&is), candidates.iter().any(is));
            }
        }
        for one in plan.due() {
            prop_assert!(one.of.pins.is_empty());
            prop_assert!(!matches!(one.of.what, What::Suspicious(..) | What::Headless | What::Unknown(_)));
            prop_assert!(one.of.what != What::Foreign || include_foreign);
        }
        prop_assert!(plan.decisions.iter().all(|one| !one.reasons.is_empty()));
        // What was carried out has nothing left to do, at the same moment.
        let rest: Vec<Candidate> = plan.decisions.iter().filter(|one| one.verdict == Verdict::Keep).map(|one| one.of.clone()).collect();
        let again = super::plan(rest, &Circumstances { policy, now, store_now, include_foreign, many: true });
        prop_assert_eq!(again.due().count(), 0);
    }
}
