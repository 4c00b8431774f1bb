//! Whose code runs while a backup is restored, and with whose rights.

use std::collections::BTreeSet;

use super::look::Seen;
use crate::pg::Toc;

/// So many roles are named; the plan's text is for reading.
const ROLES_MAX: usize = 5;

/// A superuser who restores lends his rights to functions of others: pg_restore checks the rows of a table with that
/// table's constraints, computes its generated columns and fills materialized views, and all of these may call functions.
pub(super) fn hostile(toc: &Toc, order: &[u32], seen: &Seen) -> Option<String> {
    const CODE: [&str; 4] = ["FUNCTION", "PROCEDURE", "AGGREGATE", "OPERATOR"];
    if !seen.around.is_superuser {
        return None;
    }
    let carried_out: BTreeSet<u32> = order.iter().copied().collect();
    let of_others: Vec<&str> = toc
        .entries
        .iter()
        .filter(|entry| carried_out.contains(&entry.dump_id) && CODE.contains(&entry.kind.as_str()))
        .map(|entry| entry.owner.as_str())
        .filter(|owner| !owner.is_empty() && !seen.around.superusers.contains(*owner))
        .collect();
    let roles: BTreeSet<&str> = of_others.iter().copied().collect();
    if roles.is_empty() {
        return None;
    }
    let mut names: Vec<&str> = roles.iter().copied().take(ROLES_MAX).collect();
    if roles.len() > names.len() {
        names.push("others");
    }
    Some(format!(
        "{} functions belong to roles that are no superusers ({}), and constraints, generated columns and materialized views that call them do so with all rights of {} while it restores: where these roles are not trusted, restore as a role that is no superuser",
        of_others.len(),
        names.join(", "),
        seen.around.role
    ))
}
