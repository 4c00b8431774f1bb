//! A plan's short id: four digests of four parts, so that a restore can say in which part the database is another one.

use std::fmt;

use serde::Serialize;

use super::Plan;
use crate::seal::Digester;

/// The parts, in the order of the id.
const PARTS: [&str; 4] = [
    "the backup, the mode or the choices",
    "the objects that are replaced, made, kept or lost",
    "what stands in the way",
    "the server: its version, extensions, roles or locale",
];

/// `1f0c-93ab-0000-7e21`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PlanId(String);

impl PlanId {
    /// Reads what somebody typed; `None`: it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let parts: Vec<&str> = text.split('-').collect();
        let is_part = |part: &&str| part.len() == 4 && part.bytes().all(|b| b.is_ascii_hexdigit());
        (parts.len() == PARTS.len() && parts.iter().all(is_part)).then_some(Self(text))
    }

    /// Digests what matters. Sessions, sizes and times are not part of it: they are others at every look.
    pub(super) fn of(plan: &Plan) -> Self {
        let choices = (
            (&plan.from.backup, &plan.to.server, &plan.to.database),
            (plan.mode, &plan.roles.choice, &plan.roles.mapped),
            (plan.left_out_accepted, &plan.selected),
        );
        let objects = (
            (&plan.replaced, &plan.created, &plan.survivors),
            (&plan.lost, &plan.unpublished),
        );
        let hindrances = (
            (&plan.blockers, &plan.obstacles, &plan.left_out),
            (&plan.to.prepared_transactions, &plan.to.logical_slots),
            &plan.to.subscriptions,
        );
        let server = (
            (&plan.to.server_version, &plan.to.role, plan.to.exists),
            (&plan.extensions, &plan.roles.missing),
            (&plan.to.locale, &plan.locale_differences),
        );
        let parts = [
            digest(&choices),
            digest(&objects),
            digest(&hindrances),
            digest(&server),
        ];
        Self(parts.join("-"))
    }

    /// Which parts are others.
    #[must_use]
    pub fn differences(&self, now: &Self) -> Vec<&'static str> {
        let pairs = self.0.split('-').zip(now.0.split('-')).zip(PARTS);
        pairs
            .filter(|((before, now), _)| before != now)
            .map(|(_, part)| part)
            .collect()
    }
}

impl fmt::Display for PlanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn digest(part: &impl Serialize) -> String {
    let json = serde_json::to_vec(part).expect("strings, numbers and lists always serialise");
    let mut digest = Digester::of(&json).to_string();
    digest.truncate(4);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_and_compared() {
        let one = PlanId::parse(" 00AA-1111-2222-3333 ").unwrap();
        assert_eq!(one.to_string(), "00aa-1111-2222-3333");
        let other = PlanId::parse("00aa-1111-2223-3333").unwrap();
        assert_eq!(one.differences(&other), ["what stands in the way"]);
        assert_eq!(one.differences(&one), [""; 0]);
        for bad in ["", "00aa", "00aa-1111-2222", "00aa-1111-2222-333g"] {
            assert_eq!(PlanId::parse(bad), None);
        }
    }
}
