use std::time::Duration;

use proptest::prelude::*;
use time::OffsetDateTime;
use time::macros::datetime;

use super::*;
use crate::model::policy::Rules;

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
        1 => Just(What::Unknown("x".to_owned())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Row 94: no policy and no clock ever leaves zero good backups, or zero proven ones, or deletes what is pinned, looks
    /// wrong, cannot be read, or is somebody else's and was not asked for.
    #[test]
    fn no_policy_and_no_clock_ever_leaves_zero_good_backups(
        of in prop::collection::vec((any_what(), any_moment(), any::<bool>(), prop::bool::weighted(0.1)), 0..40),
        rules in prop::array::uniform4(any_rules()),
        now in any_moment(),
        store_now in prop::option::of(any_moment()),
        include_foreign: bool,
        many: bool,
    ) {
        let candidates: Vec<Candidate> = of.into_iter().enumerate().map(|(index, (what, made_at, proven, pinned))| Candidate {
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
        prop_assert_eq!(stays(&good), candidates.iter().any(good));
        prop_assert_eq!(stays(&latest), candidates.iter().any(latest));
        prop_assert_eq!(stays(&proven), candidates.iter().any(proven));
        for one in plan.due() {
            prop_assert!(one.of.pins.is_empty());
            prop_assert!(!matches!(one.of.what, What::Suspicious(..) | What::Unknown(_)));
            prop_assert!(one.of.what != What::Foreign || include_foreign);
        }
        prop_assert!(plan.decisions.iter().all(|one| !one.reasons.is_empty()));
        // What was carried out has nothing left to do, at the same moment.
        let rest: Vec<Candidate> = plan.decisions.iter().filter(|one| one.verdict == Verdict::Keep).map(|one| one.of.clone()).collect();
        let again = super::plan(rest, &Circumstances { policy, now, store_now, include_foreign, many: true });
        prop_assert_eq!(again.due().count(), 0);
    }
}
