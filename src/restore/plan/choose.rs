//! `auto`: a swap where role, slots and room allow one, else in place; and why. Pure.

use super::Way;

/// What decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an answer of its own"
)]
pub struct Situation {
    /// The database is there.
    pub exists: bool,
    /// The role may create databases.
    pub may_create: bool,
    /// The role may rename this one.
    pub may_rename: bool,
    /// The role, for messages.
    pub role: String,
    /// It is one of those that every server has, and in which sessions that rename others have to be.
    pub is_maintenance: bool,
    /// Our catalog is in it.
    pub holds_catalog: bool,
    /// Logical replication slots of it.
    pub logical_slots: Vec<String>,
    /// Subscriptions in it.
    pub subscriptions: Vec<String>,
    /// Transactions that were prepared in it.
    pub prepared_transactions: Vec<String>,
    /// Bytes that a second copy needs, and those that are free where that is known.
    pub room: (u64, Option<u64>),
    /// Only some tables are wanted.
    pub is_partial: bool,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The way.
    pub way: Way,
    /// Why.
    pub reason: String,
}

/// Chooses. What somebody asked for is what they get; what stands in its way is said elsewhere.
#[must_use]
pub fn choose(asked: Way, situation: &Situation) -> Choice {
    let chosen = |way, reason: String| Choice { way, reason };
    match asked {
        Way::Auto if !situation.exists => chosen(
            Way::New,
            "the database does not exist, so it is created".to_owned(),
        ),
        Way::Auto if situation.is_partial => chosen(
            Way::InPlace,
            "only what was selected is replaced, so everything else has to stay where it is"
                .to_owned(),
        ),
        Way::Auto => match against_swap(situation) {
            reasons if reasons.is_empty() => chosen(
                Way::Swap,
                "the restored database takes the old one's name, which stays beside it".to_owned(),
            ),
            reasons => chosen(
                Way::InPlace,
                format!("not swapped, because {}", reasons.join("; and ")),
            ),
        },
        asked => chosen(asked, "asked for".to_owned()),
    }
}

/// What keeps a database from being swapped.
#[must_use]
pub(super) fn against_swap(situation: &Situation) -> Vec<String> {
    let mut reasons = Vec::new();
    if !situation.may_create {
        reasons.push(format!("role {} may not create databases", situation.role));
    }
    if !situation.may_rename {
        reasons.push(format!(
            "role {} does not own the database, so it may not rename it",
            situation.role
        ));
    }
    if situation.is_maintenance {
        reasons.push("whoever renames a database has to be in this one meanwhile".to_owned());
    }
    if situation.holds_catalog {
        reasons.push(
            "the catalog of pgseal is in it (CATALOG_DATABASE_URL names another place)".to_owned(),
        );
    }
    let named = [
        ("a logical replication slot", &situation.logical_slots),
        ("a subscription", &situation.subscriptions),
        ("a prepared transaction", &situation.prepared_transactions),
    ];
    for (what, names) in named {
        if !names.is_empty() {
            reasons.push(format!(
                "{what} would stay with the old database: {}",
                names.join(", ")
            ));
        }
    }
    if let (needed, Some(free)) = situation.room {
        if needed > free {
            reasons.push(format!(
                "a second copy needs about {} MB, and the server has {} MB free",
                needed >> 20,
                free >> 20
            ));
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual() -> Situation {
        Situation {
            exists: true,
            may_create: true,
            may_rename: true,
            role: "app".to_owned(),
            room: (100 << 20, Some(101 << 20)),
            ..Situation::default()
        }
    }

    #[test]
    fn swap_is_taken_where_nothing_speaks_against_it() {
        assert_eq!(choose(Way::Auto, &usual()).way, Way::Swap);
        let unknown = Situation {
            room: (100 << 20, None),
            ..usual()
        };
        assert_eq!(choose(Way::Auto, &unknown).way, Way::Swap);
    }

    #[test]
    fn each_reason_against_a_swap_leads_in_place_and_is_said() {
        let name = || vec!["it".to_owned()];
        let against = [
            (
                Situation {
                    may_create: false,
                    ..usual()
                },
                "may not create databases",
            ),
            (
                Situation {
                    may_rename: false,
                    ..usual()
                },
                "does not own the database",
            ),
            (
                Situation {
                    holds_catalog: true,
                    ..usual()
                },
                "CATALOG_DATABASE_URL",
            ),
            (
                Situation {
                    logical_slots: name(),
                    ..usual()
                },
                "replication slot",
            ),
            (
                Situation {
                    subscriptions: name(),
                    ..usual()
                },
                "subscription",
            ),
            (
                Situation {
                    prepared_transactions: name(),
                    ..usual()
                },
                "prepared transaction",
            ),
            (
                Situation {
                    room: (102 << 20, Some(101 << 20)),
                    ..usual()
                },
                "102 MB",
            ),
        ];
        for (situation, word) in against {
            let choice = choose(Way::Auto, &situation);
            assert_eq!(choice.way, Way::InPlace, "{word}");
            assert!(choice.reason.contains(word), "{}", choice.reason);
            assert_eq!(choose(Way::Swap, &situation).way, Way::Swap);
        }
    }

    #[test]
    fn what_is_not_there_is_made_and_a_part_goes_in_place() {
        let absent = Situation {
            exists: false,
            ..usual()
        };
        assert_eq!(choose(Way::Auto, &absent).way, Way::New);
        let part = Situation {
            is_partial: true,
            ..usual()
        };
        assert_eq!(choose(Way::Auto, &part).way, Way::InPlace);
    }
}
