//! What a restore will do, said before it does anything: the backup's list and manifest against the database as it is.
//!
//! A plan is data, with a reason and a remedy for each thing that stands in the way. Making one changes nothing, and
//! where the backup has a manifest, nothing is fetched for it. Its [`PlanId`] digests what matters, so that a restore that
//! names a plan can be stopped where the database is another one by now.

mod choose;
mod clear;
mod compare;
mod id;
mod look;
mod obstacles;
mod text;
mod trust;
mod warnings;

use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

pub use choose::{Choice, Situation, choose};
pub use id::PlanId;
pub(super) use look::{CarriedOut, look_closely, way};
pub use look::{Subject, look};

use crate::model::choices::Choices;
pub use crate::model::choices::MissingRoles;
use crate::model::manifest::Manifest;
use crate::pg::TocEntry;
use crate::pg::inspect::{LiveObject, Membership};

/// So many names a plan lists of each sort; the rest is a number.
pub const ITEMS_MAX: usize = 1000;

/// How somebody wants it to go there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = PlannedMode)]
pub enum Way {
    /// Whichever fits.
    #[default]
    Auto,
    /// Into a database that is made for it.
    New,
    /// Into a new database, which then takes the old one's name.
    Swap,
    /// Over what is there, in one transaction.
    InPlace,
}

impl Way {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::New => "new",
            Self::Swap => "swap",
            Self::InPlace => "in-place",
        }
    }
}

/// What somebody decided before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// How it is to go there.
    pub way: Way,
    /// Roles that are missing.
    pub missing_roles: MissingRoles,
    /// Roles of the backup, and which roles of the server have their part.
    pub role_map: BTreeMap<String, String>,
    /// Entries that the plan names may be left out.
    pub accept_left_out: bool,
    /// Only these.
    pub selection: super::Selection,
}

impl Wishes {
    /// What somebody chose for this way.
    #[must_use]
    pub fn of(way: Way, choices: &Choices) -> Self {
        Self {
            way,
            missing_roles: choices.missing_roles,
            role_map: choices.role_map.clone(),
            accept_left_out: choices.accept_left_out,
            selection: super::Selection {
                tables: choices.tables.clone(),
                schemas: choices.schemas.clone(),
            },
        }
    }
}

/// An object of a plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub struct Item {
    /// As pg_dump calls it: `TABLE`.
    pub kind: String,
    /// The schema that it is in.
    pub schema: Option<String>,
    /// Its name; of a function with its arguments, of a constraint behind its table's.
    pub name: String,
}

impl Item {
    fn of_live(object: &LiveObject) -> Self {
        Self {
            kind: object.kind.clone(),
            schema: object.schema.clone(),
            name: object.tag.clone(),
        }
    }

    fn of_membership(membership: &Membership) -> Self {
        Self {
            kind: membership.kind.clone(),
            schema: Some(membership.schema.clone()),
            name: membership.tag.clone(),
        }
    }

    fn of_entry(entry: &TocEntry) -> Self {
        Self {
            kind: entry.kind.clone(),
            schema: entry.schema.clone(),
            name: entry.tag.clone(),
        }
    }
}

impl std::fmt::Display for Item {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(schema) => write!(formatter, "{} {schema}.{}", self.kind, self.name),
            None => write!(formatter, "{} {}", self.kind, self.name),
        }
    }
}

/// Objects of one sort: how many, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Items {
    /// How many there are.
    pub total: usize,
    /// The first thousand.
    pub first: Vec<Item>,
}

impl Items {
    fn of(mut all: Vec<Item>) -> Self {
        all.sort();
        let total = all.len();
        all.truncate(ITEMS_MAX);
        Self { total, first: all }
    }
}

/// Something that would end the restore, and what clears it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Blocker {
    /// What it is.
    pub object: String,
    /// Why it is in the way.
    pub reason: String,
    /// Statements that clear it, in this order; some need the one before.
    pub sql: Vec<String>,
}

/// An entry of the archive that is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LeftOut {
    /// What it is.
    pub entry: String,
    /// Why.
    pub reason: String,
    /// Its number in the archive.
    #[serde(skip)]
    pub dump_id: u32,
}

/// An extension of the backup, and what there is of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlannedExtension {
    /// Its name.
    pub name: String,
    /// The version in the backup.
    pub recorded: String,
    /// The version that the server would install; null: it cannot.
    pub offered: Option<String>,
    /// The version in the database now.
    pub installed: Option<String>,
}

/// A database's character set and sort order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Locale {
    /// `UTF8`.
    pub encoding: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// `libc`, `icu` or `builtin`.
    pub provider: String,
    /// The ICU or builtin locale.
    pub locale: Option<String>,
    /// The version of its collation.
    pub version: Option<String>,
}

/// Where the content comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Source {
    /// The backup's name.
    pub backup: String,
    /// The database that it was made of; null: nobody knows.
    pub database: Option<String>,
    /// When.
    #[serde(with = "time::serde::rfc3339::option")]
    pub snapshot_at: Option<OffsetDateTime>,
    /// The server's version then.
    pub server_version: Option<String>,
    /// The major version of the pg_dump that wrote the archive.
    pub archive_major: Option<u32>,
    /// Bytes of the database then.
    pub size_bytes: Option<u64>,
    /// Bytes that are fetched.
    pub sealed_bytes: Option<u64>,
    /// Bytes that pg_restore reads.
    pub plain_bytes: Option<u64>,
    /// Tables with data.
    pub tables: usize,
    /// Their rows.
    pub rows: Option<u64>,
    /// Large objects.
    pub large_objects: u64,
    /// Character set and sort order.
    pub locale: Option<Locale>,
}

/// Where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Destination {
    /// The server, without any secret.
    pub server: String,
    /// The database.
    pub database: String,
    /// Whether it is there.
    pub exists: bool,
    /// The server's version.
    pub server_version: String,
    /// The role that restores.
    pub role: String,
    /// Bytes of the database now.
    pub size_bytes: u64,
    /// Character set and sort order now.
    pub locale: Option<Locale>,
    /// Sessions of others in it.
    pub connections: u64,
    /// Transactions that were prepared in it.
    pub prepared_transactions: Vec<String>,
    /// Logical replication slots of it.
    pub logical_slots: Vec<String>,
    /// Subscriptions in it.
    pub subscriptions: Vec<String>,
}

/// Room, as far as can be seen from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Space {
    /// Bytes that the server needs beside what it has.
    pub needed_bytes: u64,
    /// Bytes that are free there; null: only the server's own machine knows.
    pub free_bytes: Option<u64>,
}

/// The one transaction of a restore in place against the server's lock table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Locks {
    /// Locks that it needs, about.
    pub needed: u64,
    /// Locks that are free.
    pub free: u64,
    /// `max_locks_per_transaction` as it is.
    pub setting: u64,
    /// What it has to be.
    pub setting_needed: u64,
}

/// Roles that the backup names and the server does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlannedRoles {
    /// Those.
    pub missing: Vec<String>,
    /// What becomes of them.
    pub choice: MissingRoles,
    /// Roles whose part others have.
    pub mapped: BTreeMap<String, String>,
}

/// Something that has to be changed before, whatever the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Obstacle {
    /// What is wrong.
    pub found: String,
    /// What to do: a setting, an option, SQL.
    pub remedy: String,
}

/// What a restore will do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Plan {
    /// What matters of it, digested; a restore can be told to carry out this plan and no other.
    #[schema(value_type = String)]
    pub id: PlanId,
    /// Whether it would be carried out.
    pub is_possible: bool,
    /// How it was asked for.
    pub asked: Way,
    /// How it would go.
    pub mode: Way,
    /// Why.
    pub mode_reason: String,
    /// Where the content comes from.
    pub from: Source,
    /// Where it goes.
    pub to: Destination,
    /// Tables and schemas that were chosen; empty: everything.
    pub selected: Vec<String>,
    /// Dropped, and made anew from the backup.
    pub replaced: Items,
    /// In the backup alone: made.
    pub created: Items,
    /// In the database alone: a restore in place leaves them, a swap leaves them in the old database.
    pub survivors: Items,
    /// In the database alone, and dropped because they hang on what is replaced.
    pub lost: Items,
    /// Statements that put back into publications what a restore in place takes out of them; the warnings say them.
    #[serde(skip)]
    pub unpublished: Vec<String>,
    /// What would end a restore in place.
    pub blockers: Vec<Blocker>,
    /// What stands in the way of every mode.
    pub obstacles: Vec<Obstacle>,
    /// Entries that are left out, once that is accepted.
    pub left_out: Vec<LeftOut>,
    /// Whether that was accepted.
    pub left_out_accepted: bool,
    /// Roles.
    pub roles: PlannedRoles,
    /// Extensions.
    pub extensions: Vec<PlannedExtension>,
    /// How character set and sort order differ.
    pub locale_differences: Vec<String>,
    /// Room.
    pub space: Space,
    /// Locks; null: not needed.
    pub locks: Option<Locks>,
    /// How long it takes, about.
    pub estimated_seconds: u64,
    /// Where that number comes from.
    pub estimate_basis: String,
    /// What an administrator should know.
    pub warnings: Vec<String>,
}

impl Plan {
    /// For a person, at any time of the night.
    #[must_use]
    pub fn text(&self) -> String {
        text::text(self)
    }

    /// The same, as it would be if the roles that `other` makes were not there yet.
    pub(super) fn with_roles_of(mut self, other: &Self) -> Self {
        self.roles.missing.clone_from(&other.roles.missing);
        self.id = PlanId::of(&self);
        self
    }

    /// What keeps it from being carried out, as a person reads it.
    #[must_use]
    pub fn refusal(&self) -> String {
        text::refusal(self)
    }
}

fn locale_of(manifest: &Manifest) -> Locale {
    let facts = &manifest.database;
    Locale {
        encoding: facts.encoding.clone(),
        collate: facts.collate.clone(),
        ctype: facts.ctype.clone(),
        provider: provider(&facts.locale_provider).to_owned(),
        locale: facts.locale.clone(),
        version: facts.collation_version.clone(),
    }
}

/// As people call what the catalog has a letter for.
fn provider(letter: &str) -> &'static str {
    match letter {
        "i" => "icu",
        "b" => "builtin",
        _ => "libc",
    }
}
