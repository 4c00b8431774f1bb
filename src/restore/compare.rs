//! What is asked of a database once it is loaded: that its rows are the recorded ones, and statistics.

use std::sync::Arc;

use super::Difference;
use crate::model::connection::Connection;
use crate::model::explanation::explain;
use crate::model::manifest::{Manifest, RowCounts};
use crate::pg::PgError;
use crate::pg::inspect::{self, Depth, Session, Unanalyzed};
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

/// So many tables without statistics are named; what is wrong with the first ones is most often wrong with all.
const UNANALYZED_SHOWN_MAX: usize = 3;
/// So much of a reason is shown: a function of the database's own may say anything at any length.
const REASON_CHARS_MAX: usize = 200;

/// Without statistics the first queries would be slow; but the data is there, so a failure is only a warning.
pub(super) async fn analyze(to: &Connection, progress: &Arc<Progress>) -> Option<String> {
    progress.start_stage("analyze");
    let analyzed = async {
        let mut session = Session::connect(to).await?;
        let failed = inspect::analyze(&mut session).await?;
        session.close().await;
        Ok::<_, PgError>(failed)
    };
    match analyzed.await {
        Ok(failed) => without_statistics(&failed),
        Err(error) => {
            let reason = one_line(&explain(&error));
            Some(format!("{reason}: run ANALYZE by hand"))
        }
    }
}

fn without_statistics(failed: &[Unanalyzed]) -> Option<String> {
    if failed.is_empty() {
        return None;
    }
    let first: Vec<_> = failed
        .iter()
        .take(UNANALYZED_SHOWN_MAX)
        .map(|Unanalyzed { table, reason }| format!("{} ({})", one_line(table), one_line(reason)))
        .collect();
    let more = match failed.len().saturating_sub(UNANALYZED_SHOWN_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "gather the planner's statistics of {}{more}: the other tables that this role may analyze have theirs; mend these and run ANALYZE by hand",
        first.join(", ")
    ))
}

/// A warning is one line among others.
fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(REASON_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_about_statistics_is_one_line_of_bounded_length() {
        assert_eq!(without_statistics(&[]), None);
        let failed: Vec<_> = (1..=5)
            .map(|number| Unanalyzed {
                table: format!("public.t{number}"),
                reason: "é\n".repeat(1000),
            })
            .collect();
        let said = without_statistics(&failed).unwrap();
        assert!(
            said.contains("public.t3 (") && !said.contains("public.t4"),
            "{said}"
        );
        assert!(
            said.contains("and 2 more") && !said.contains('\n'),
            "{said}"
        );
        assert!(said.chars().count() < 1000, "{said}");
        let one = without_statistics(&failed[..1]).unwrap();
        assert!(!one.contains("more"), "{one}");
    }
}
