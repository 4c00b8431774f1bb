//! What stands in the way of a restore, whatever the database holds, each with its remedy.

use std::collections::BTreeSet;

use super::choose::{Situation, against_swap};
use super::look::{Seen, Subject};
use super::{MissingRoles, Obstacle, Plan, Way, Wishes};
use crate::pg::{Toc, TocEntry, dumped_by, one_line};
use crate::restore::target::reads;

/// Everything of that sort.
pub(super) fn obstacles(
    plan: &Plan,
    wishes: &Wishes,
    seen: &Seen,
    situation: &Situation,
    subject: Subject<'_>,
) -> Vec<Obstacle> {
    let mut found = of_way(plan, situation);
    let (inside, beside) = &seen.read_only;
    let nothing_written = match plan.mode {
        Way::InPlace => inside,
        _ => beside,
    };
    found.extend(nothing_written.iter().map(|finding| Obstacle {
        found: finding.found.clone(),
        remedy: finding.fix.clone(),
    }));
    let mut add = |what: String, remedy: String| {
        found.push(Obstacle {
            found: what,
            remedy,
        });
    };
    if let Some(archive) = dumped_by(subject.list) {
        if reads(seen.server_major, archive).is_err() {
            add(
                format!(
                    "the backup was made by pg_dump {archive}, and the server is PostgreSQL {}",
                    seen.server_version
                ),
                format!("restore into a server of version {archive} or later"),
            );
        }
    }
    for extension in seen
        .extensions
        .iter()
        .filter(|extension| extension.offered.is_none())
    {
        add(
            format!("the server does not have extension {}", extension.name),
            "install its package on that server".to_owned(),
        );
    }
    if !plan.left_out.is_empty() && !wishes.accept_left_out {
        add(
            format!(
                "{} entries of the backup would be left out",
                plan.left_out.len()
            ),
            "accept that with --accept-left-out, or restore as a superuser".to_owned(),
        );
    }
    found.extend(of_roles(plan, wishes, seen));
    if let Some(locks) = plan
        .locks
        .as_ref()
        .filter(|locks| locks.needed > locks.free)
    {
        found.push(Obstacle {
            found: format!(
                "one transaction over all of it takes about {} locks, and the server has room for {}",
                locks.needed, locks.free
            ),
            remedy: format!(
                "ALTER SYSTEM SET max_locks_per_transaction = {}; then restart the server, or use --mode swap",
                locks.setting_needed
            ),
        });
    }
    found
}

fn of_way(plan: &Plan, situation: &Situation) -> Vec<Obstacle> {
    let database = &plan.to.database;
    let obstacle = |found: String, remedy: &str| Obstacle {
        found,
        remedy: remedy.to_owned(),
    };
    match plan.mode {
        Way::New if situation.exists => vec![obstacle(
            format!("database {database} exists already"),
            "choose another name, or another mode",
        )],
        Way::New if !situation.may_create => vec![obstacle(
            format!("role {} may not create databases", situation.role),
            "as a superuser: ALTER ROLE … CREATEDB",
        )],
        Way::Swap if situation.exists && situation.is_partial => vec![obstacle(
            "a swap replaces the whole database, and only a part was selected".to_owned(),
            "use --mode in-place, or --mode new into another database",
        )],
        Way::Swap if situation.exists => against_swap(situation)
            .into_iter()
            .map(|reason| obstacle(reason, "mend that, or use --mode in-place"))
            .collect(),
        Way::Swap | Way::InPlace if !situation.exists => vec![obstacle(
            format!("database {database} does not exist"),
            "use --mode new",
        )],
        Way::InPlace if !plan.to.prepared_transactions.is_empty() => vec![obstacle(
            format!(
                "prepared transactions hold locks: {}",
                plan.to.prepared_transactions.join(", ")
            ),
            "COMMIT PREPARED or ROLLBACK PREPARED each of them",
        )],
        _ => Vec::new(),
    }
}

/// What is wrong with a map of roles.
fn of_role_map(plan: &Plan, wishes: &Wishes, seen: &Seen) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut add = |what: String, remedy: String| {
        found.push(Obstacle {
            found: what,
            remedy,
        });
    };
    let targets: BTreeSet<&String> = wishes.role_map.values().collect();
    let absent: Vec<&str> = seen
        .missing_roles
        .iter()
        .filter(|role| targets.contains(role))
        .map(String::as_str)
        .collect();
    if !absent.is_empty() {
        add(
            format!(
                "--map-role names roles that the server does not have: {}",
                absent.join(", ")
            ),
            "name one that exists".to_owned(),
        );
    }
    let mapped = wishes.role_map.keys();
    let (named, unnamed): (Vec<&str>, Vec<&str>) = mapped
        .map(String::as_str)
        .partition(|old| seen.named_roles.contains(*old));
    if !unnamed.is_empty() {
        // Of a foreign one only owners are known.
        let is_foreign = plan.from.database.is_none();
        let knows_not = if is_foreign {
            "nothing in it belongs to"
        } else {
            "it does not name"
        };
        add(
            format!(
                "--map-role is for roles that the backup names, and {knows_not} {}",
                unnamed.join(", ")
            ),
            "leave that out".to_owned(),
        );
    }
    let present: Vec<&str> = named
        .into_iter()
        .filter(|old| !seen.missing_roles.iter().any(|missing| missing == old))
        .collect();
    if !present.is_empty() {
        add(
            format!(
                "--map-role is for roles that the server does not have, and it has {}",
                present.join(", ")
            ),
            "leave that out, and use REASSIGN OWNED afterwards".to_owned(),
        );
    }
    if !wishes.role_map.is_empty() && plan.mode == Way::InPlace {
        add(
            "--map-role gives objects away after they are loaded, which the one transaction of a restore in place cannot hold"
                .to_owned(),
            "use --mode swap or --mode new, or --create-missing-roles and REASSIGN OWNED afterwards".to_owned(),
        );
    }
    found
}

fn of_roles(plan: &Plan, wishes: &Wishes, seen: &Seen) -> Vec<Obstacle> {
    let mut found = of_role_map(plan, wishes, seen);
    let mut add = |what: String, remedy: String| {
        found.push(Obstacle {
            found: what,
            remedy,
        });
    };
    let targets: BTreeSet<&String> = wishes.role_map.values().collect();
    let missing: Vec<&str> = seen
        .missing_roles
        .iter()
        .filter(|role| !targets.contains(role) && !wishes.role_map.contains_key(*role))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() && wishes.missing_roles == MissingRoles::Refuse {
        let create: Vec<String> = missing
            .iter()
            .map(|role| format!("CREATE ROLE \"{}\";", role.replace('"', "\"\"")))
            .collect();
        add(
            format!(
                "the backup needs roles that the target server does not have: {}",
                missing.join(", ")
            ),
            format!(
                "{} or choose --create-missing-roles, --map-role OLD=NEW or --skip-missing-owners",
                create.join(" ")
            ),
        );
    }
    let makes = !missing.is_empty() && wishes.missing_roles == MissingRoles::Create
        || !wishes.role_map.is_empty();
    if makes && !seen.around.may_create_roles {
        add(
            format!("role {} may not create roles", seen.around.role),
            "as a superuser: ALTER ROLE … CREATEROLE, or choose --skip-missing-owners".to_owned(),
        );
    }
    found
}

/// Roles that objects are to belong to, and to which this role may give nothing: pg_restore would end at the first of them.
pub(super) fn of_owners(toc: &Toc, order: &[u32], plan: &Plan, seen: &Seen) -> Option<Obstacle> {
    /// The server gives what is in it to whoever owns the database.
    const EVERY_OWNER: &str = "pg_database_owner";
    let is_skipped = plan.roles.choice == MissingRoles::Skip && !plan.roles.missing.is_empty();
    if seen.around.is_superuser || is_skipped {
        return None;
    }
    let carried_out: BTreeSet<u32> = order.iter().copied().collect();
    let owners: BTreeSet<&str> = toc
        .entries
        .iter()
        .filter(|entry| carried_out.contains(&entry.dump_id))
        .filter(|entry| !["ACL", "COMMENT"].contains(&entry.kind.as_str()))
        .map(|entry| entry.owner.as_str())
        .filter(|owner| !owner.is_empty() && *owner != EVERY_OWNER)
        .filter(|owner| !seen.around.acts_for.contains(*owner))
        // What becomes of those is said elsewhere.
        .filter(|owner| {
            !plan
                .roles
                .missing
                .iter()
                .any(|role| one_line(role) == **owner)
        })
        .collect();
    if owners.is_empty() {
        return None;
    }
    let quoted = |role: &str| format!("\"{}\"", role.replace('"', "\"\""));
    let grants: Vec<String> = owners
        .iter()
        .map(|owner| format!("GRANT {} TO {};", quoted(owner), quoted(&seen.around.role)))
        .collect();
    let names: Vec<&str> = owners.into_iter().collect();
    Some(Obstacle {
        found: format!(
            "role {} may not give objects to {}, who own some of the backup's",
            seen.around.role,
            names.join(", ")
        ),
        remedy: format!(
            "as a superuser: {} or restore as a superuser",
            grants.join(" ")
        ),
    })
}

/// Roles that policies and user mappings name: pg_restore leaves out owners and grants, and those stay as they are.
pub(super) fn of_bound_roles(
    toc: &Toc,
    order: &[u32],
    plan: &Plan,
    subject: Subject<'_>,
) -> Option<Obstacle> {
    let bound = &subject.manifest?.database.bound_roles;
    let carried_out: BTreeSet<u32> = order.iter().copied().collect();
    let carried_out = toc
        .entries
        .iter()
        .filter(|entry| carried_out.contains(&entry.dump_id));
    let carried_out: BTreeSet<String> = carried_out.map(TocEntry::title).collect();
    let is_named = |role: &&String| {
        let by = bound.get(*role).into_iter().flatten();
        let mut by = by.map(|title| one_line(title));
        by.any(|title| carried_out.contains(&title))
    };
    let missing = plan.roles.missing.iter();
    let missing: Vec<&str> = missing
        .filter(|role| !plan.roles.mapped.contains_key(*role))
        .filter(is_named)
        .map(String::as_str)
        .collect();
    if plan.roles.choice != MissingRoles::Skip || missing.is_empty() {
        return None;
    }
    Some(Obstacle {
        found: format!(
            "policies or user mappings name {}, whom the server does not have, and --skip-missing-owners leaves out owners and grants alone",
            missing.join(", ")
        ),
        remedy: "choose --create-missing-roles or --map-role OLD=NEW".to_owned(),
    })
}
