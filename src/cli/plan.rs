//! What `pgseal restore` takes for its plan: choices, parts, and whether it is only shown.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;

use super::exit::UsageError;
use crate::model::choices::{Choices, MissingRoles};
use crate::restore::plan::PlanId;

/// How it is planned
#[derive(Args, Debug)]
#[command(next_help_heading = "Plan")]
pub(super) struct PlanArgs {
    /// Only say what would happen: what is dropped, made and kept, and what stands in the way with the SQL that clears it
    #[arg(long, alias = "dry-run", conflicts_with = "plan_id")]
    pub(super) plan: bool,
    #[command(flatten)]
    pub(super) choices: ChoiceArgs,
    /// Seconds that a restore in place waits for somebody's lock before it gives up and names them
    #[arg(long, value_name = "SECONDS", default_value_t = crate::restore::LOCK_WAIT_DEFAULT.as_secs())]
    lock_wait: u64,
}

/// What is chosen beside the mode
#[derive(Args, Debug)]
#[command(next_help_heading = "Plan")]
pub(super) struct ChoiceArgs {
    /// Carry out this plan, and stop if the database was changed since in a way that matters
    #[arg(long, value_name = "ID")]
    plan_id: Option<String>,
    /// Restore only this table, with its rows, indexes, constraints, sequences and triggers; can be repeated
    #[arg(long = "table", value_name = "SCHEMA.NAME")]
    tables: Vec<String>,
    /// Restore only what is in this schema; can be repeated
    #[arg(long = "schema", value_name = "NAME")]
    schemas: Vec<String>,
    /// Leave out what the plan lists as left out: what the target has already, or the role may not do
    #[arg(long)]
    accept_left_out: bool,
    /// Make roles that the backup names and the server does not have; nobody can log in as one
    #[arg(long, conflicts_with = "skip_missing_owners")]
    create_missing_roles: bool,
    /// Give what belonged to a role that the server does not have to one that it has; can be repeated
    #[arg(
        long = "map-role",
        value_name = "OLD=NEW",
        conflicts_with = "skip_missing_owners"
    )]
    map_roles: Vec<String>,
    /// Where roles are missing, let everything belong to the role that restores, and leave all grants out
    #[arg(long)]
    skip_missing_owners: bool,
}

impl PlanArgs {
    pub(super) const fn lock_wait(&self) -> Duration {
        Duration::from_secs(self.lock_wait)
    }
}

impl ChoiceArgs {
    pub(super) fn choices(&self) -> Result<Choices, UsageError> {
        let mut role_map = BTreeMap::new();
        for pair in &self.map_roles {
            let (old, new) = pair
                .split_once('=')
                .filter(|(old, new)| !old.is_empty() && !new.is_empty())
                .ok_or_else(|| UsageError(format!("--map-role takes OLD=NEW, and not {pair:?}")))?;
            role_map.insert(old.to_owned(), new.to_owned());
        }
        Ok(Choices {
            plan_id: self.plan_id()?.map(|id| id.to_string()),
            tables: self.tables.clone(),
            schemas: self.schemas.clone(),
            missing_roles: match (self.create_missing_roles, self.skip_missing_owners) {
                (true, _) => MissingRoles::Create,
                (false, true) => MissingRoles::Skip,
                (false, false) => MissingRoles::Refuse,
            },
            role_map,
            accept_left_out: self.accept_left_out,
        })
    }

    pub(super) fn plan_id(&self) -> Result<Option<PlanId>, UsageError> {
        let parsed = |id: &String| {
            PlanId::parse(id).ok_or_else(|| {
                UsageError(format!(
                    "{id:?} is no plan's id\nhint: --plan prints it, as 1f0c-93ab-0000-7e21"
                ))
            })
        };
        self.plan_id.as_ref().map(parsed).transpose()
    }
}
