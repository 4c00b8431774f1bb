//! `pgseal migrate`.

use clap::Args;
use serde::Serialize;

use super::Context;
use super::output::Facts;
use crate::catalog::{self, Migrated};
use crate::config;

const AFTER_HELP: &str = "\
Examples:
  pgseal migrate
  CATALOG_DATABASE_URL=postgres://pgseal@db.example/pgseal pgseal migrate

The catalog is in schema pgseal of the database that CATALOG_DATABASE_URL names. Without it, it is in database pgseal on the \
server of DATABASE_URL; if that is not there, this command creates it, for which the role needs CREATEDB.

Run it after every update, before the new workers start. It can be interrupted and run again; two at once take turns.";

/// Bring the catalog into the form that this version knows; create it if it is not there
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct MigrateArgs {}

#[derive(Serialize)]
struct Done {
    catalog: String,
    created_database: Option<String>,
    applied: Vec<i64>,
    version: i64,
}

impl MigrateArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let (connection, create) = config::catalog_address()?;
        let Migrated {
            catalog,
            created_database,
            applied,
            version,
        } = catalog::migrate(&connection, create).await?;
        let done = Done {
            catalog,
            created_database,
            applied,
            version,
        };
        context.output.print(&done, || done.text())
    }
}

impl Done {
    fn text(&self) -> String {
        let applied: Vec<String> = self.applied.iter().map(ToString::to_string).collect();
        let mut facts = Facts::default();
        facts.add(
            "created",
            self.created_database
                .as_ref()
                .map(|name| format!("database {name}")),
        );
        facts.add("applied", (!applied.is_empty()).then(|| applied.join(", ")));
        facts.add("version", Some(self.version));
        let was = if applied.is_empty() {
            "was up to date"
        } else {
            "is up to date"
        };
        format!("The catalog at {} {was}\n{}", self.catalog, facts.text())
    }
}
