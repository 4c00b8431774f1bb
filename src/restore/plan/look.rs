//! Making a plan: what is asked of the server, and what follows from the answers.

use std::collections::BTreeSet;

use super::choose::{Choice, Situation, choose};
use super::compare::{Changes, compare};
use super::obstacles::{obstacles, of_bound_roles, of_owners};
use super::trust::hostile;
use super::warnings;
use super::{
    Destination, Items, LeftOut, Locale, Locks, Plan, PlanId, PlannedExtension, PlannedRoles,
    Source, Space, Way, Wishes, locale_of, provider,
};
use crate::model::connection::Connection;
use crate::model::manifest::Manifest;
use crate::pg::inspect::{self, Live, LiveDatabase, OfferedExtension, Session, Surroundings};
use crate::pg::{Finding, PgError, Toc, clean_order, dumped_by, one_line};
use crate::restore::RestoreError;
use crate::restore::select::{self, Picked};

/// What a load and its indexes take, in bytes of the database for each second. Measured with tests/fixtures/bulk.sql (a
/// database of 204 MB, 83 MB of it indexes, foreign keys among its tables), PostgreSQL 15, two cores with other work beside,
/// a local disk: 1.5 s for the rows, 3.5 s for indexes and keys, 41 million bytes a second in all, and 46 in place. A line
/// that is slower, or more indexes, halve that; and a plan had better be too long than too short.
const LOAD_BYTES_PER_SECOND: u64 = 20 << 20;
/// What fetching, opening and reading takes, in bytes of the archive.
const PROVE_BYTES_PER_SECOND: u64 = 60 << 20;
/// An archive's entries take so many locks when they are made: a table with its TOAST table and that one's index, a
/// constraint with its index (measured on 15: 15 locks to replace a table with a serial primary key, 9 of them to drop it).
const LOCKS_TO_MAKE: &[(&str, u64)] = &[
    ("TABLE", 3),
    ("MATERIALIZED VIEW", 3),
    ("CONSTRAINT", 1),
    ("DEFAULT", 1),
    ("FOREIGN TABLE", 1),
    ("INDEX", 1),
    ("SEQUENCE", 1),
    ("VIEW", 1),
];
/// What a session holds for itself.
const LOCKS_BESIDE: u64 = 20;

/// What would be restored.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The backup's name.
    pub name: &'a str,
    /// Its manifest; a foreign one has none.
    pub manifest: Option<&'a Manifest>,
    /// The archive's own list.
    pub list: &'a str,
}

impl<'a> Subject<'a> {
    /// A backup that has a manifest.
    #[must_use]
    pub fn of(manifest: &'a Manifest) -> Self {
        Self {
            name: &manifest.name,
            manifest: Some(manifest),
            list: &manifest.archive_list,
        }
    }

    /// The list, read with what the manifest knows of names.
    pub(in crate::restore) fn toc(&self) -> Toc {
        let (roles, schemas) = self.manifest.map_or_else(Default::default, |manifest| {
            let schemas: BTreeSet<String> = manifest
                .tables
                .iter()
                .map(|table| table.schema.clone())
                .collect();
            (
                manifest.database.roles.clone(),
                schemas.into_iter().collect::<Vec<_>>(),
            )
        });
        Toc::read(self.list, &roles, &schemas)
    }
}

/// What the server answered.
pub(super) struct Seen {
    pub(super) host: String,
    pub(super) server_version: String,
    pub(super) server_major: u32,
    pub(super) around: Surroundings,
    pub(super) free_bytes: Option<u64>,
    pub(super) live: Option<Live>,
    pub(super) holds_catalog: bool,
    /// Why nothing can be written, in the database and beside it.
    pub(super) read_only: (Option<Finding>, Option<Finding>),
    pub(super) missing_roles: Vec<String>,
    /// Roles that the backup names.
    pub(super) named_roles: BTreeSet<String>,
    /// The database is one in which our own sessions have to be.
    pub(super) is_maintenance: bool,
    pub(super) extensions: Vec<OfferedExtension>,
}

/// Looks at the target, and says what a restore would do. It changes nothing.
///
/// # Errors
/// The server cannot be asked, or what was selected is not in the backup.
pub async fn look(
    to: &Connection,
    subject: Subject<'_>,
    wishes: &Wishes,
) -> Result<Plan, RestoreError> {
    Ok(look_closely(to, subject, wishes).await?.0)
}

/// As [`look`], and with the list that is carried out, and the tables whose rows come of a selection.
pub(in crate::restore) async fn look_closely(
    to: &Connection,
    subject: Subject<'_>,
    wishes: &Wishes,
) -> Result<(Plan, CarriedOut), RestoreError> {
    let seen = see(to, subject, wishes).await;
    planned(to, subject, wishes, &seen.map_err(RestoreError::Prepare)?)
}

/// How a restore would go there, and why.
pub(in crate::restore) async fn way(
    to: &Connection,
    manifest: Option<&Manifest>,
    wishes: &Wishes,
) -> Result<Choice, RestoreError> {
    let subject = Subject {
        name: "",
        manifest,
        list: "",
    };
    let seen = see(to, subject, wishes)
        .await
        .map_err(RestoreError::Prepare)?;
    let space = space(subject, &seen);
    Ok(choose(wishes.way, &situation(wishes, &seen, &space)))
}

/// What of an archive a restore carries out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::restore) struct CarriedOut {
    /// A list; `None`: all of it.
    pub(in crate::restore) list: Option<String>,
    /// Tables whose rows come: schema and name; `None`: all of them.
    pub(in crate::restore) tables: Option<BTreeSet<(String, String)>>,
    /// What it leaves out, takes away or makes without rows: its plan warns of that, and so does its result.
    pub(in crate::restore) warnings: Vec<String>,
}

async fn see(to: &Connection, subject: Subject<'_>, wishes: &Wishes) -> Result<Seen, PgError> {
    let mut beside = match inspect::maintenance_session(to).await {
        Ok(session) => session,
        Err(_) => Session::connect(to).await?,
    };
    let around = inspect::surroundings(&mut beside, to.database()).await?;
    let tablespace = subject
        .manifest
        .and_then(|manifest| manifest.database.tablespace.as_deref());
    let folder = inspect::data_folder(&mut beside, tablespace).await?;
    let free_bytes = folder.and_then(|folder| {
        let stat = rustix::fs::statvfs(&folder).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    });
    let nothing_beside = inspect::read_only(&mut beside).await?;
    let inside = if around.database.is_some() && wishes.way != Way::New {
        let inside = beside.connection().with_database(to.database());
        match Session::connect(&inside).await {
            Ok(session) => Some(session),
            // A database that cannot be looked into any more can be swapped all the same.
            Err(error) if wishes.way == Way::InPlace => return Err(error),
            Err(_) => None,
        }
    } else {
        None
    };
    let is_inside = inside.is_some();
    let mut session = match inside {
        Some(inside) => {
            beside.close().await;
            inside
        }
        None => beside,
    };
    let server = session.server();
    let (server_version, server_major) = (server.version.clone(), server.major());
    let (live, holds_catalog, nothing_inside) = if is_inside {
        let schemas = inspect::catalog_schemas(&mut session).await?;
        (
            Some(inspect::live(&mut session).await?),
            !schemas.is_empty(),
            inspect::read_only(&mut session).await?,
        )
    } else {
        (None, false, None)
    };
    let named_roles = named_roles(subject);
    // And those that get the part of others.
    let wanted = named_roles.iter().chain(wishes.role_map.values());
    let wanted: Vec<String> = wanted.cloned().collect();
    let missing_roles = inspect::missing_roles(&mut session, &wanted).await?;
    let extensions = offered(&mut session, subject).await?;
    let answered = session.connection().hosts().first();
    let host = answered.map_or_else(String::new, |host| format!("{}:{}", host.name, host.port));
    session.close().await;
    Ok(Seen {
        host,
        server_version,
        server_major,
        around,
        free_bytes,
        live,
        holds_catalog,
        read_only: (nothing_inside, nothing_beside),
        is_maintenance: inspect::MAINTENANCE.contains(&to.database()),
        missing_roles,
        named_roles,
        extensions,
    })
}

/// What the server has of the backup's extensions.
async fn offered(
    session: &mut Session,
    subject: Subject<'_>,
) -> Result<Vec<OfferedExtension>, PgError> {
    let mut extensions = subject
        .manifest
        .map(|manifest| manifest.database.extensions.clone())
        .unwrap_or_default();
    // Every database has it from its beginning, and no archive makes it.
    extensions.remove("plpgsql");
    inspect::offered_extensions(session, &extensions).await
}

/// Roles that the backup's objects belong to or are granted to.
fn named_roles(subject: Subject<'_>) -> BTreeSet<String> {
    let mut roles: BTreeSet<String> = subject
        .manifest
        .map(|manifest| manifest.database.roles.iter().cloned().collect())
        .unwrap_or_default();
    // A list has names in one line each: a role whose name has several is known by the manifest alone.
    let known: BTreeSet<String> = roles.iter().map(|role| one_line(role)).collect();
    let toc = subject.toc();
    let listed = toc.owners().into_iter().map(str::to_owned);
    roles.extend(listed.filter(|owner| !known.contains(owner)));
    roles
}

fn planned(
    to: &Connection,
    subject: Subject<'_>,
    wishes: &Wishes,
    seen: &Seen,
) -> Result<(Plan, CarriedOut), RestoreError> {
    let database = seen.around.database.as_ref();
    let space = space(subject, seen);
    let situation = situation(wishes, seen, &space);
    let choice = choose(wishes.way, &situation);
    let toc = subject.toc();
    let in_place = choice.way == Way::InPlace;
    let picked = if wishes.selection.is_everything() {
        None
    } else {
        let live = seen.live.as_ref().filter(|_| in_place);
        Some(select::pick(&toc, &wishes.selection, live).map_err(RestoreError::Selection)?)
    };
    let left_out = left_out(&toc, picked.as_ref(), choice.way, seen);
    let order = order(subject.list, picked.as_ref(), &left_out);
    let changes = seen
        .live
        .as_ref()
        .map(|live| compare(&toc, &order, picked.as_ref(), live, &seen.around.role))
        .unwrap_or_default();
    let made = picked.iter().flat_map(|picked| picked.inherited.keys());
    let made = made.chain(&order).copied().collect();
    let locks = in_place.then(|| locks(&toc, &made, changes.dropped, &seen.around));
    let into = (to.database(), choice.way);
    let warned = warnings::of_restore(subject, picked.as_ref(), into, &changes);
    let mut plan = Plan {
        id: PlanId::parse("0000-0000-0000-0000").expect("it is one"),
        is_possible: false,
        asked: wishes.way,
        mode: choice.way,
        mode_reason: choice.reason,
        from: source(subject),
        to: destination(to, seen),
        selected: wishes.selection.names(),
        replaced: Items::default(),
        created: Items::default(),
        survivors: Items::default(),
        lost: Items::default(),
        unpublished: Vec::new(),
        blockers: Vec::new(),
        obstacles: Vec::new(),
        left_out,
        left_out_accepted: wishes.accept_left_out,
        roles: PlannedRoles {
            missing: seen.missing_roles.clone(),
            choice: wishes.missing_roles,
            mapped: wishes.role_map.clone(),
        },
        extensions: seen.extensions.iter().map(extension).collect(),
        locale_differences: locale_differences(subject, database),
        space,
        locks,
        estimated_seconds: estimate(subject, picked.as_ref()),
        estimate_basis: basis(subject),
        warnings: warnings::of_backup(subject),
    };
    plan.take_changes(changes, seen.live.is_some(), &toc, &order);
    plan.obstacles = obstacles(&plan, wishes, seen, &situation, subject);
    let owners = of_owners(&toc, &order, &plan, seen).into_iter();
    let of_roles = owners.chain(of_bound_roles(&toc, &order, &plan, subject));
    plan.obstacles.extend(of_roles);
    plan.warnings.extend(warned.iter().cloned());
    plan.warnings.extend(hostile(&toc, &order, seen));
    plan.is_possible = plan.obstacles.is_empty() && (!in_place || plan.blockers.is_empty());
    plan.id = PlanId::of(&plan);
    let carried_out = CarriedOut {
        list: plan.list(subject, picked.as_ref()),
        tables: picked.map(|picked| picked.tables),
        warnings: warned,
    };
    Ok((plan, carried_out))
}

impl Plan {
    fn take_changes(&mut self, changes: Changes, is_there: bool, toc: &Toc, order: &[u32]) {
        let Changes {
            replaced,
            created,
            survivors,
            lost,
            unpublished,
            blockers,
            ..
        } = if is_there {
            changes
        } else {
            // Everything is made.
            compare(toc, order, None, &Live::default(), "")
        };
        self.replaced = Items::of(replaced);
        self.created = Items::of(created);
        self.survivors = Items::of(survivors);
        self.lost = Items::of(lost);
        if self.mode == Way::InPlace {
            self.blockers = blockers;
            self.unpublished = unpublished.into_values().flatten().collect();
        }
    }
}

impl Plan {
    /// The archive's list without what is left out; `None`: all of it is carried out.
    fn list(&self, subject: Subject<'_>, picked: Option<&Picked>) -> Option<String> {
        if picked.is_none() && self.left_out.is_empty() {
            return None;
        }
        let toc = subject.toc();
        let numbers = toc.entries.iter().map(|entry| entry.dump_id);
        let numbers = numbers
            .filter(|number| picked.is_none_or(|picked| picked.entries.contains(number)))
            .filter(|number| !self.left_out.iter().any(|entry| entry.dump_id == *number));
        Some(select::listed(&toc, &numbers.collect()))
    }
}

/// The entries that are carried out, by number, as `--clean` has them.
fn order(list: &str, picked: Option<&Picked>, left_out: &[LeftOut]) -> Vec<u32> {
    clean_order(list)
        .lines()
        .filter_map(|line| line.split_once("; ")?.0.parse().ok())
        .filter(|number| picked.is_none_or(|picked| picked.entries.contains(number)))
        .filter(|number| !left_out.iter().any(|entry| entry.dump_id == *number))
        .collect()
}

fn situation(wishes: &Wishes, seen: &Seen, space: &Space) -> Situation {
    let around = &seen.around;
    let database = around.database.as_ref();
    let list =
        |of: fn(&LiveDatabase) -> &Vec<String>| database.map(of).cloned().unwrap_or_default();
    Situation {
        exists: database.is_some(),
        may_create: around.may_create_databases,
        may_rename: around.is_superuser || database.is_some_and(|database| database.is_ours),
        role: around.role.clone(),
        is_maintenance: seen.is_maintenance,
        holds_catalog: seen.holds_catalog,
        logical_slots: list(|database| &database.logical_slots),
        subscriptions: list(|database| &database.subscriptions),
        prepared_transactions: list(|database| &database.prepared_transactions),
        room: (space.needed_bytes, space.free_bytes),
        is_partial: !wishes.selection.is_everything(),
    }
}

fn space(subject: Subject<'_>, seen: &Seen) -> Space {
    let size_bytes = subject
        .manifest
        .map(|manifest| manifest.database.size_bytes);
    Space {
        needed_bytes: size_bytes.unwrap_or(0),
        free_bytes: seen.free_bytes,
    }
}

fn source(subject: Subject<'_>) -> Source {
    let manifest = subject.manifest;
    Source {
        backup: subject.name.to_owned(),
        database: manifest.map(|manifest| manifest.database.name.clone()),
        snapshot_at: manifest.map(|manifest| manifest.started_at),
        server_version: manifest.map(|manifest| manifest.versions.server.clone()),
        archive_major: dumped_by(subject.list),
        size_bytes: manifest.map(|manifest| manifest.database.size_bytes),
        sealed_bytes: manifest.map(|manifest| manifest.sealed_bytes),
        plain_bytes: manifest.map(|manifest| manifest.plain_bytes),
        tables: subject.toc().of_kind("TABLE DATA").count(),
        rows: manifest.and_then(Manifest::row_count),
        large_objects: manifest.map_or(0, |manifest| manifest.large_objects),
        locale: manifest.map(locale_of),
    }
}

fn destination(to: &Connection, seen: &Seen) -> Destination {
    let database = seen.around.database.as_ref();
    let list =
        |of: fn(&LiveDatabase) -> &Vec<String>| database.map(of).cloned().unwrap_or_default();
    Destination {
        server: seen.host.clone(),
        database: to.database().to_owned(),
        exists: database.is_some(),
        server_version: seen.server_version.clone(),
        role: seen.around.role.clone(),
        size_bytes: database.map_or(0, |database| database.size_bytes),
        locale: database.map(live_locale),
        connections: database.map_or(0, |database| database.connections),
        prepared_transactions: list(|database| &database.prepared_transactions),
        logical_slots: list(|database| &database.logical_slots),
        subscriptions: list(|database| &database.subscriptions),
    }
}

fn live_locale(database: &LiveDatabase) -> Locale {
    Locale {
        encoding: database.encoding.clone(),
        collate: database.collate.clone(),
        ctype: database.ctype.clone(),
        provider: provider(&database.locale_provider).to_owned(),
        locale: database.locale.clone(),
        version: database.collation_version.clone(),
    }
}

fn extension(offered: &OfferedExtension) -> PlannedExtension {
    PlannedExtension {
        name: offered.name.clone(),
        recorded: offered.recorded.clone(),
        offered: offered.offered.clone(),
        installed: offered.installed.clone(),
    }
}

/// Row 132. What was recorded, against what the target has now.
fn locale_differences(subject: Subject<'_>, database: Option<&LiveDatabase>) -> Vec<String> {
    let (Some(was), Some(is)) = (subject.manifest.map(locale_of), database.map(live_locale)) else {
        return Vec::new();
    };
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    let mut pairs = vec![
        ("encoding", was.encoding.clone(), is.encoding.clone()),
        ("LC_COLLATE", was.collate.clone(), is.collate.clone()),
        ("LC_CTYPE", was.ctype.clone(), is.ctype.clone()),
        ("locale provider", was.provider.clone(), is.provider.clone()),
        ("locale", shown(&was.locale), shown(&is.locale)),
    ];
    let is_same = pairs.iter().all(|(_, was, is)| was == is);
    if is_same && was.version.is_some() && is.version.is_some() {
        pairs.push(("collation version", shown(&was.version), shown(&is.version)));
    }
    pairs
        .into_iter()
        .filter(|(_, was, is)| was != is)
        .map(|(what, was, is)| format!("{what} was {was} in the backup, and is {is} in the target"))
        .collect()
}

/// Entries that need not be carried out, or may not by this role.
fn left_out(toc: &Toc, picked: Option<&Picked>, way: Way, seen: &Seen) -> Vec<LeftOut> {
    if seen.around.is_superuser {
        return Vec::new();
    }
    let acts_for = &seen.around.acts_for;
    let kept: BTreeSet<&str> = seen
        .extensions
        .iter()
        .filter(|extension| {
            way == Way::InPlace
                && extension.others.is_some()
                && extension.installed.as_ref() == Some(&extension.recorded)
        })
        .map(|extension| extension.name.as_str())
        .collect();
    let public_is_others = |owner: &str| {
        !owner.is_empty() && owner != "pg_database_owner" && !acts_for.contains(owner)
    };
    let reason = |entry: &crate::pg::TocEntry| -> Option<String> {
        let of_extension = || {
            entry
                .tag
                .strip_prefix("EXTENSION ")
                .map(|name| name.trim_matches('"'))
        };
        match entry.kind.as_str() {
            "EXTENSION" if kept.contains(entry.tag.as_str()) => {
                Some("somebody else owns it, and it has the backup's version".to_owned())
            }
            "COMMENT"
                if of_extension().is_some_and(|name| kept.contains(name) || name == "plpgsql") =>
            {
                Some("only the extension's owner may comment on it".to_owned())
            }
            "SCHEMA" if entry.tag == "public" && public_is_others(&entry.owner) => Some(format!(
                "role {} may not give schema public to {}",
                seen.around.role, entry.owner
            )),
            "COMMENT" | "ACL" if entry.tag == "SCHEMA public" && public_is_others(&entry.owner) => {
                Some(format!(
                    "schema public belongs to {} in the backup",
                    entry.owner
                ))
            }
            _ => None,
        }
    };
    toc.entries
        .iter()
        .filter(|entry| picked.is_none_or(|picked| picked.entries.contains(&entry.dump_id)))
        .filter_map(|entry| {
            Some(LeftOut {
                entry: entry.title(),
                reason: reason(entry)?,
                dump_id: entry.dump_id,
            })
        })
        .collect()
}

fn locks(toc: &Toc, made: &BTreeSet<u32>, dropped: usize, around: &Surroundings) -> Locks {
    let made: u64 = toc
        .entries
        .iter()
        .filter(|entry| made.contains(&entry.dump_id))
        .filter_map(|entry| LOCKS_TO_MAKE.iter().find(|(kind, _)| *kind == entry.kind))
        .map(|(_, locks)| locks)
        .sum();
    let needed = dropped as u64 + made + LOCKS_BESIDE;
    let free = around.locks_max.saturating_sub(around.locks_held);
    let setting = around.locks_per_transaction;
    let transactions = around.locks_max / setting.max(1);
    let setting_needed = (needed + around.locks_held).div_ceil(transactions.max(1));
    Locks {
        needed,
        free,
        setting,
        // A little more than what was counted, and a round number.
        setting_needed: setting.max((setting_needed * 11 / 10).div_ceil(32) * 32),
    }
}

/// Proving is done once for the backup, and once for the safety backup, which takes as long to be made.
fn estimate(subject: Subject<'_>, picked: Option<&Picked>) -> u64 {
    let Some(manifest) = subject.manifest else {
        return 0;
    };
    let whole = manifest.database.size_bytes;
    let loaded = picked.map_or(whole, |picked| {
        let all = manifest.tables.len().max(1) as u64;
        whole / all * picked.tables.len() as u64
    });
    let prove = manifest.plain_bytes.max(manifest.sealed_bytes) / PROVE_BYTES_PER_SECOND;
    2 + 2 * prove + loaded / LOAD_BYTES_PER_SECOND
}

/// What the estimate is made of, and how long the way here took, which is the best hint to how quick these machines are.
fn basis(subject: Subject<'_>) -> String {
    let Some(manifest) = subject.manifest else {
        return "nothing: the backup has no manifest".to_owned();
    };
    let took = (manifest.finished_at - manifest.started_at).whole_seconds();
    format!(
        "{} MB of database at {} MB/s, and the archive proved twice at {} MB/s, as measured on two cores and a local disk; making this backup took {took} s",
        manifest.database.size_bytes >> 20,
        LOAD_BYTES_PER_SECOND >> 20,
        PROVE_BYTES_PER_SECOND >> 20,
    )
}
