//! What somebody chose for a restore, beside how it is to go there. It is kept in the catalog until a worker carries it out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What becomes of roles that the backup names and the server does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MissingRoles {
    /// The restore is refused.
    #[default]
    Refuse,
    /// They are made, without the right to log in.
    Create,
    /// Whatever has an owner belongs to the role that restores, and all grants are left out.
    Skip,
}

/// What was chosen. The default is what happens where nobody chose anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Choices {
    /// The plan to carry out, and no other: the restore stops where the database was changed since in a way that matters
    pub plan_id: Option<String>,
    /// Only these tables, as `schema.name`, with their rows, indexes, constraints, sequences and triggers
    #[schema(max_items = 100)]
    pub tables: Vec<String>,
    /// Only what is in these schemas
    #[schema(max_items = 100)]
    pub schemas: Vec<String>,
    /// What becomes of roles that are missing
    pub missing_roles: MissingRoles,
    /// Roles of the backup, each with the role of the server that has its part
    pub role_map: BTreeMap<String, String>,
    /// Whether what a plan lists as left out may be left out
    pub accept_left_out: bool,
}
