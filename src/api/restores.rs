//! Restores: planned, asked for, listed, undone, cancelled. A restore goes into a configured target, never to a URL.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::audit::{audited, recorded};
use super::backups::{cancelled, require_complete, row as backup_row};
use super::extract::{Asking, Id, Paging, Params, Said, first_page, is_plain, items_on_a_page};
use super::problem::{Problem, ProblemDocument};
use super::records::{Page, RestoreRecord};
use super::{Api, Confirmation, Target};
use crate::catalog::{
    Act, BackupRow, CopyState, Health, JobStatus, ProofState, RestoreFilter, RestoreMode,
    RestoreRow, Task,
};
use crate::dispatch::{RestoreWanted, SafetyBackup};
use crate::model::choices::{Choices, MissingRoles};
use crate::model::connection::Connection;
use crate::model::explanation::explain;
use crate::model::ids::{BackupId, RestoreId};
use crate::model::manifest::Manifest;
use crate::model::target::TargetName;
use crate::restore::plan::{self, Plan, PlanId, Subject, Way, Wishes};
use crate::restore::{self, RestoreError};
use crate::store::Store;
use crate::vault::Which;

/// Tables that a plan names; of a database with more, the others are counted.
const TABLES_MAX: usize = 1000;
/// Tables, schemas and roles that a request names, each as long as two of PostgreSQL's names and a dot.
const NAMES_MAX: usize = 100;
const NAME_CHARS_MAX: usize = 127;

/// What a restore is asked for with. All of it may be left out, and the body with it.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RestoreBody {
    /// How the target changes
    #[serde(default)]
    mode: Mode,
    /// The configured target that it goes into; unless said, the one that the backup is of
    target: Option<String>,
    /// Only say what would be done
    #[serde(default)]
    plan: bool,
    /// The name of the target's database, as TARGET/DATABASE where several targets' databases have it; a restore without a safety backup, or into another target than the backup's, always needs it
    confirm: Option<String>,
    /// Whether the target is backed up first
    #[serde(default)]
    safety: SafetyWord,
    /// The plan to carry out, by its `changes.id`: the restore stops where the database was changed since in a way that matters
    #[schema(max_length = 40)]
    plan_id: Option<String>,
    /// Only these tables, as `schema.name`, with their rows, indexes, constraints, sequences and triggers
    #[serde(default)]
    #[schema(max_items = 100)]
    tables: Vec<String>,
    /// Only what is in these schemas
    #[serde(default)]
    #[schema(max_items = 100)]
    schemas: Vec<String>,
    /// What becomes of roles that the backup names and the server does not have
    #[serde(default)]
    missing_roles: MissingRoles,
    /// Roles of the backup, at most 100, each with the role of the server that has its part
    #[serde(default)]
    role_map: BTreeMap<String, String>,
    /// Whether what a plan lists as left out may be left out
    #[serde(default)]
    accept_left_out: bool,
}

impl RestoreBody {
    fn choices(&self) -> Result<Choices, Problem> {
        let good = |name: &String| !name.is_empty() && is_plain(name, NAME_CHARS_MAX);
        let names = [&self.tables, &self.schemas];
        if names.iter().any(|names| names.len() > NAMES_MAX)
            || !names.into_iter().flatten().all(good)
        {
            return Err(Problem::invalid(
                "tables and schemas have at most 100 names each, of 1 to 127 characters.",
            ));
        }
        let mut roles = self.role_map.iter().flat_map(|(old, new)| [old, new]);
        if self.role_map.len() > NAMES_MAX || !roles.all(good) {
            return Err(Problem::invalid(
                "role_map has at most 100 pairs of names, of 1 to 127 characters.",
            ));
        }
        if self
            .plan_id
            .as_ref()
            .is_some_and(|id| PlanId::parse(id).is_none())
        {
            return Err(Problem::invalid(
                "plan_id is the id of a plan's changes, as 1f0c-93ab-0000-7e21.",
            ));
        }
        Ok(Choices {
            plan_id: self.plan_id.clone(),
            tables: self.tables.clone(),
            schemas: self.schemas.clone(),
            missing_roles: self.missing_roles,
            role_map: self.role_map.clone(),
            accept_left_out: self.accept_left_out,
        })
    }
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Whichever fits: swap where role, slots and room allow it, else in-place.
    #[default]
    Auto,
    /// In one transaction, over what is there.
    InPlace,
    /// By a database that is made beside it and then takes its place; what was there is kept, and a rollback is quick.
    Swap,
}

impl From<Mode> for Way {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Swap => Self::Swap,
            Mode::InPlace => Self::InPlace,
        }
    }
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = Safety)]
enum SafetyWord {
    /// It is, and the restore waits for that.
    #[default]
    Backup,
    /// It is not.
    Skip,
}

/// What a restore undoes another one with.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RollbackBody {
    /// The name of the target's database, as TARGET/DATABASE where several targets' databases have it, where restores have to be confirmed
    confirm: Option<String>,
}

/// What a restore would do, as far as the backup's manifest says; the backup itself is not fetched for it.
#[derive(Serialize, ToSchema)]
pub(super) struct RestorePlan {
    #[schema(minimum = 1)]
    backup_id: i64,
    /// The configured target that it would go into.
    target: String,
    /// The database there.
    database: String,
    mode: Mode,
    /// What is done about the state that would be replaced.
    safety: SafetyWord,
    /// What `confirm` has to be; null: nothing has to be confirmed.
    confirm: Option<String>,
    /// The database that the backup was made of.
    source_database: String,
    source_server_version: String,
    #[serde(with = "time::serde::rfc3339")]
    snapshot_at: OffsetDateTime,
    /// Bytes that are fetched.
    size: u64,
    /// Bytes of the archive that pg_restore reads.
    plain_size: u64,
    tables_total: usize,
    /// The first thousand of them.
    tables: Vec<PlannedTable>,
    large_objects: u64,
    /// Extensions that the target needs, with the versions they had.
    extensions: std::collections::BTreeMap<String, String>,
    /// Roles that own something in it, or are granted something.
    roles: Vec<String>,
    /// What an administrator should know.
    warnings: Vec<String>,
    /// What would happen to the database as it is now; null: it could not be looked at, as a warning says.
    changes: Option<Plan>,
}

/// A table of a plan.
#[derive(Serialize, ToSchema)]
pub(super) struct PlannedTable {
    schema: String,
    name: String,
    /// Its rows, where they were counted.
    rows: Option<u64>,
}

/// Restore a backup
///
/// Behind a safety backup of what is there now. With plan it only says what would be done.
#[utoipa::path(post, path = "/api/admin/backups/{id}/restore", operation_id = "restore_backup", tag = "restores", request_body = RestoreBody,
    params(("id" = i64, Path, description = "The backup's number", minimum = 1)),
    responses(
        (status = 200, description = "The plan alone", body = RestorePlan),
        (status = 202, description = "It is recorded, and a worker does it", body = RestoreRecord,
            headers(("Location" = String, description = "Where it is"))),
        (status = 409, description = "target_busy, backup_not_complete, backup_not_restorable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "target_unknown, selection_unknown, confirmation_required, confirmation_wrong, plan_unavailable", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    asking: Asking,
    Id(id): Id<BackupId>,
    Said(body): Said<RestoreBody>,
) -> Result<Response, Problem> {
    if body.plan {
        let plan = planned(&api, id, &body).await?;
        return Ok(Json(plan).into_response());
    }
    let act = asking.act("backup.restore");
    let work = async {
        let choices = body.choices()?;
        let row = backup_row(&api, id).await?;
        let (name, target) = api.target(body.target.as_deref().unwrap_or(&row.target))?;
        let crossing = crossing(name, &row);
        require_confirmed(
            &api,
            target,
            (body.safety, crossing),
            body.confirm.as_deref(),
        )?;
        require_complete(&row)?;
        require_in_reach(&api, &row)?;
        let wishes = Wishes::of(body.mode.into(), &choices);
        if let Ok(manifest) = manifest_of(&api, &row).await {
            restore::require_selected(&manifest, &wishes).map_err(|error| unselected(&error))?;
        }
        let wanted = RestoreWanted {
            choices,
            ..wanted(id, name, body.mode, body.safety)
        };
        begin(&api, &act, wanted).await
    };
    let row = audited(&api, &act, Some(Task::Backup(id)), Box::pin(work)).await?;
    api.forget_totals().await;
    Ok(accepted(row))
}

fn wanted(id: BackupId, target: &TargetName, mode: Mode, safety: SafetyWord) -> RestoreWanted {
    RestoreWanted {
        backup_id: id,
        target: target.to_string(),
        mode: match mode {
            Mode::Auto => RestoreMode::Auto,
            Mode::InPlace => RestoreMode::InPlace,
            Mode::Swap => RestoreMode::Swap,
        },
        undoes: None,
        choices: Choices::default(),
        safety_backup: match safety {
            SafetyWord::Backup => SafetyBackup::First,
            SafetyWord::Skip => SafetyBackup::Skipped,
        },
        requested_by: String::new(),
    }
}

async fn begin(api: &Api, act: &Act, wanted: RestoreWanted) -> Result<RestoreRow, Problem> {
    let wanted = RestoreWanted {
        requested_by: act.subject.clone(),
        ..wanted
    };
    let (row, _) = recorded(api, act).restore(wanted, api.now()).await?;
    tracing::info!(restore.id = %row.id, backup.id = %row.backup_id, by = act.subject, "Restore was asked for");
    Ok(row)
}

fn accepted(row: RestoreRow) -> Response {
    let location = format!("/api/admin/backups/restores/{}", row.id);
    let record = Json(RestoreRecord::from(row));
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], record).into_response()
}

/// A backup that is whole in a second store alone can be restored only while that one is configured.
fn require_in_reach(api: &Api, row: &BackupRow) -> Result<(), Problem> {
    let second = api.parts.vault.second.as_ref().map(Store::describe);
    if !row.is_only_second() || row.copy_place == second {
        return Ok(());
    }
    let place = row.copy_place.as_deref().unwrap_or("another store");
    Err(Problem::new(
        StatusCode::CONFLICT,
        "backup_not_restorable",
        "The backup is whole in a second store alone, which is not the configured one. Configure it again, as BACKUP_COPY_STORE or BACKUP_COPY_S3_*.",
    )
    .because(format!("it is {}, and its copy is in {place}", row.health)))
}

fn require_confirmed(
    api: &Api,
    target: &Target,
    (safety, crossing): (SafetyWord, Crossing),
    confirm: Option<&str>,
) -> Result<(), Problem> {
    let is_needed = needs_confirmation(api, safety, crossing);
    let refused = |code, detail| Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail));
    match confirm {
        Some(name) if name == target.confirmed_by => Ok(()),
        Some(_) => refused(
            "confirmation_wrong",
            "confirm is not the name of the target's database; where several targets' databases have it, it is TARGET/DATABASE.",
        ),
        None if is_needed => refused(
            "confirmation_required",
            "This restore has to be confirmed: confirm is the name of the target's database; where several targets' databases have it, it is TARGET/DATABASE.",
        ),
        None => Ok(()),
    }
}

fn needs_confirmation(api: &Api, safety: SafetyWord, crossing: Crossing) -> bool {
    let is_required = api.parts.rules.confirmation == Confirmation::Required;
    safety == SafetyWord::Skip || crossing == Crossing::ToAnother || is_required
}

/// Whether a backup goes where it came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Crossing {
    Back,
    ToAnother,
}

fn crossing(target: &TargetName, row: &BackupRow) -> Crossing {
    if target.as_str() == row.target {
        Crossing::Back
    } else {
        Crossing::ToAnother
    }
}

/// What was selected is not in the backup. The names that it has are no secret from who may restore it.
fn unselected(error: &RestoreError) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "selection_unknown",
        explain(error).replace("\nhint: ", "; "),
    )
}

async fn planned(api: &Api, id: BackupId, body: &RestoreBody) -> Result<RestorePlan, Problem> {
    let wishes = Wishes::of(body.mode.into(), &body.choices()?);
    let row = backup_row(api, id).await?;
    let (name, target) = api.target(body.target.as_deref().unwrap_or(&row.target))?;
    let manifest = manifest_of(api, &row).await?;
    let mut warnings = manifest.warnings.clone();
    if row.health != Health::Ok {
        warnings.push(format!("the backup's health is {}", row.health));
    }
    restore::require_selected(&manifest, &wishes).map_err(|error| unselected(&error))?;
    let changes = changes(&target.connection, &manifest, &wishes).await;
    if row.proof == ProofState::Failed {
        warnings.push("the last drill of this backup FAILED".to_owned());
    }
    if changes.is_none() {
        warnings.push(
            "the target could not be looked at, so nothing is known of what it holds now"
                .to_owned(),
        );
        // What was looked at says so itself.
        if manifest.database.name != target.database {
            warnings.push(format!(
                "the backup is of database {}, and the target's is {}",
                manifest.database.name, target.database
            ));
        }
    }
    Ok(RestorePlan {
        backup_id: id.get(),
        target: name.to_string(),
        database: target.database.clone(),
        mode: body.mode,
        safety: body.safety,
        confirm: needs_confirmation(api, body.safety, crossing(name, &row))
            .then(|| target.confirmed_by.clone()),
        source_database: manifest.database.name,
        source_server_version: manifest.versions.server,
        snapshot_at: manifest.started_at,
        size: manifest.sealed_bytes,
        plain_size: manifest.plain_bytes,
        tables_total: manifest.tables.len(),
        tables: manifest
            .tables
            .into_iter()
            .take(TABLES_MAX)
            .map(|table| PlannedTable {
                schema: table.schema,
                name: table.name,
                rows: table.rows,
            })
            .collect(),
        large_objects: manifest.large_objects,
        extensions: manifest.database.extensions,
        roles: manifest.database.roles,
        warnings,
        changes,
    })
}

async fn manifest_of(api: &Api, row: &BackupRow) -> Result<Manifest, Problem> {
    let key = require_complete(row)?;
    let read = async {
        let vault = &api.parts.vault;
        match vault.read_manifest(&key).await {
            // What is wrong with the first copy's is no matter where there is another one.
            Err(_) if row.copy_state == CopyState::Confirmed && vault.second.is_some() => {
                vault.with(Which::Second).read_manifest(&key).await
            }
            read => read,
        }
    };
    read.await.map_err(|error| {
        // Its manifest's absence is no absence of the backup.
        match Problem::from(error) {
            problem if problem.status == StatusCode::CONFLICT => Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "plan_unavailable",
                "The backup has no manifest, so nothing can be said before it is fetched.",
            ),
            problem => problem,
        }
    })
}

/// What would change in the target; `None`: it could not be looked at.
async fn changes(to: &Connection, manifest: &Manifest, wishes: &Wishes) -> Option<Plan> {
    let looked = plan::look(to, Subject::of(manifest), wishes).await;
    looked
        .inspect_err(|error| {
            // Its details may name hosts and roles; they are for the log.
            tracing::warn!(
                reason = explain(error),
                backup.name = manifest.name,
                "Restore could not be planned against its target"
            );
        })
        .ok()
}

/// What a list of restores may be asked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct RestoresParams {
    /// The page, from 1 on
    #[param(minimum = 1, maximum = 1_000_000, default = 1)]
    #[serde(default = "first_page")]
    page: u32,
    /// Items on a page
    #[param(minimum = 1, maximum = 100, default = 20)]
    #[serde(default = "items_on_a_page")]
    per_page: u32,
    /// Only those of this status
    #[param(inline)]
    status: Option<RestoreStatus>,
    /// Only those of this backup
    #[param(minimum = 1)]
    backup_id: Option<i64>,
}

#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RestoreStatus {
    Waiting,
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

/// List restores, newest first
#[utoipa::path(get, path = "/api/admin/backups/restores", operation_id = "list_restores", tag = "restores", params(RestoresParams), responses(
    (status = 200, description = "A page of restores", body = Page<RestoreRecord>)
))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Params(params): Params<RestoresParams>,
) -> Result<Json<Page<RestoreRecord>>, Problem> {
    let paging = Paging {
        page: params.page,
        per_page: params.per_page,
    };
    let slice = paging.slice()?;
    let number =
        |id| BackupId::new(id).ok_or_else(|| Problem::invalid("backup_id is a number from 1 on."));
    let filter = RestoreFilter {
        status: params.status.map(|status| match status {
            RestoreStatus::Waiting => JobStatus::Waiting,
            RestoreStatus::Pending => JobStatus::Pending,
            RestoreStatus::Running => JobStatus::Running,
            RestoreStatus::Completed => JobStatus::Completed,
            RestoreStatus::Failed => JobStatus::Failed,
            RestoreStatus::Cancelled => JobStatus::Cancelled,
        }),
        backup: params.backup_id.map(number).transpose()?,
    };
    let catalog = &api.parts.dispatch.catalog;
    let counting = catalog.clone();
    let count = move || async move { counting.count_restores(&filter).await };
    let total = api.restore_totals.get_at_once(filter, count).await?;
    let rows = catalog.restores(&filter, slice).await?;
    let items = rows.into_iter().map(RestoreRecord::from).collect();
    let link = |page| {
        let per_page = paging.per_page;
        let mut link = format!("/api/admin/backups/restores?page={page}&per_page={per_page}");
        if let Some(status) = filter.status {
            link.push_str(&format!("&status={status}"));
        }
        if let Some(id) = filter.backup {
            link.push_str(&format!("&backup_id={id}"));
        }
        link
    };
    Ok(Json(Page::new(items, paging, total, link)))
}

/// Look at a restore
#[utoipa::path(get, path = "/api/admin/backups/restores/{id}", operation_id = "show_restore", tag = "restores",
    params(("id" = i64, Path, description = "The restore's number", minimum = 1)),
    responses((status = 200, description = "The restore", body = RestoreRecord)))]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Id(id): Id<RestoreId>,
) -> Result<Json<RestoreRecord>, Problem> {
    Ok(Json(restore_row(&api, id).await?.into()))
}

async fn restore_row(api: &Api, id: RestoreId) -> Result<RestoreRow, Problem> {
    let row = api.parts.dispatch.catalog.restore(id).await?;
    row.ok_or_else(|| Problem::no_such("restore"))
}

/// End a restore's job
///
/// At once where no worker has it yet; else the worker ends it, and the target stays as it was.
#[utoipa::path(post, path = "/api/admin/backups/restores/{id}/cancel", operation_id = "cancel_restore", tag = "restores",
    params(("id" = i64, Path, description = "The restore's number", minimum = 1)),
    responses(
        (status = 202, description = "It is cancelled, or its worker will hear of it", body = RestoreRecord),
        (status = 409, description = "already_ended", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    asking: Asking,
    Id(id): Id<RestoreId>,
) -> Result<(StatusCode, Json<RestoreRecord>), Problem> {
    cancelled(&api, &asking, Task::Restore(id), "restore.cancel").await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(restore_row(&api, id).await?.into()),
    ))
}

/// Undo a restore
///
/// One with mode swap by the database that it set aside, in a moment; another one by restoring the safety backup that was
/// made before it, behind a safety backup of what is there now.
#[utoipa::path(post, path = "/api/admin/backups/restores/{id}/rollback", operation_id = "roll_restore_back", tag = "restores", request_body = RollbackBody,
    params(("id" = i64, Path, description = "The restore's number", minimum = 1)),
    responses(
        (status = 202, description = "A restore that undoes it is recorded, and a worker does it", body = RestoreRecord,
            headers(("Location" = String, description = "Where it is"))),
        (status = 409, description = "rollback_impossible, target_busy, backup_not_complete, backup_not_restorable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "confirmation_required, confirmation_wrong", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    asking: Asking,
    Id(id): Id<RestoreId>,
    Said(body): Said<RollbackBody>,
) -> Result<Response, Problem> {
    let act = asking.act("restore.rollback");
    let work = async {
        let row = restore_row(&api, id).await?;
        let impossible = |detail| Problem::new(StatusCode::CONFLICT, "rollback_impossible", detail);
        if row.job.status != JobStatus::Completed {
            return Err(impossible("The restore is not complete."));
        }
        let (name, target) = api.target(&row.target)?;
        let known = (SafetyWord::Backup, Crossing::Back);
        require_confirmed(&api, target, known, body.confirm.as_deref())?;
        if row.kept_database.is_some() {
            // Whether it is still there is for the worker to see; what is live is kept as well, so nothing is saved first.
            let undoing = RestoreWanted {
                mode: RestoreMode::Rollback,
                undoes: Some(id),
                safety_backup: SafetyBackup::Skipped,
                ..wanted(row.backup_id, name, Mode::Swap, SafetyWord::Skip)
            };
            return begin(&api, &act, undoing).await;
        }
        let safety = row.safety_backup_id.ok_or_else(|| {
            impossible(
                "No database was kept by the restore, and no safety backup was made before it.",
            )
        })?;
        let chosen = &row.choices;
        if !(chosen.tables.is_empty() && chosen.schemas.is_empty()) {
            return Err(impossible(
                "Only a part was restored, and a rollback would set the whole database back. Restore that part of the safety backup, by its tables and schemas.",
            ));
        }
        let row = backup_row(&api, safety).await?;
        require_complete(&row)?;
        require_in_reach(&api, &row)?;
        let undoing = wanted(safety, name, Mode::InPlace, SafetyWord::Backup);
        begin(&api, &act, undoing).await
    };
    let row = audited(&api, &act, Some(Task::Restore(id)), Box::pin(work)).await?;
    api.forget_totals().await;
    Ok(accepted(row))
}
