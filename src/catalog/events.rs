//! What happened that somebody wants to hear of: the one place where it is written down.

use super::{Catalog, CatalogError};
use crate::model::event::Event;

impl Catalog {
    /// Writes an event down, for whoever sends such things on; for now, into the log.
    ///
    /// # Errors
    /// The catalog fails.
    #[expect(
        clippy::unused_async,
        reason = "callers wait for it, as they will for the statement that it becomes"
    )]
    pub async fn record_event(&self, event: &Event) -> Result<(), CatalogError> {
        tracing::warn!(
            event = event.name(),
            target = event.target(),
            "Attention: {event}"
        );
        Ok(())
    }
}
