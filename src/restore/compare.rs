//! What is asked of a database once it is loaded: that its rows are the recorded ones, and statistics.

use std::sync::Arc;

use super::Difference;
use crate::model::connection::Connection;
use crate::model::manifest::{Manifest, RowCounts};
use crate::pg::PgError;
use crate::pg::inspect::{self, Depth, Session};
use crate::progress::Progress;

/// Compares the restored rows with the manifest's: how many tables and rows are equal, or what differs. `None` where
/// there is nothing to compare with.
pub(super) async fn compare(
    to: &Connection,
    manifest: Option<&Manifest>,
    depth: Depth,
) -> Result<Result<Option<(usize, u64)>, Vec<Difference>>, PgError> {
    let Some(manifest) = manifest.filter(|manifest| manifest.row_counts != RowCounts::Off) else {
        return Ok(Ok(None));
    };
    let mut session = Session::connect(to).await?;
    let compared = inspect::compare_counts(&mut session, &manifest.tables, depth).await?;
    session.close().await;
    let differences: Vec<Difference> = compared
        .into_iter()
        .filter(|table| !table.is_equal())
        .map(Difference)
        .collect();
    if !differences.is_empty() {
        return Ok(Err(differences));
    }
    Ok(Ok(Some((
        manifest.tables.len(),
        manifest.row_count().unwrap_or(0),
    ))))
}

/// Without statistics the first queries would be slow; but the data is there, so a failure is only a warning.
pub(super) async fn analyze(to: &Connection, progress: &Arc<Progress>) -> Option<String> {
    progress.start_stage("analyze");
    let analyzed = async {
        let mut session = Session::connect(to).await?;
        inspect::analyze(&mut session).await?;
        session.close().await;
        Ok::<_, PgError>(())
    };
    analyzed
        .await
        .err()
        .map(|error| format!("{error}: run ANALYZE by hand"))
}
