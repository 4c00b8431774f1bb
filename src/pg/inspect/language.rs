//! The language that the server's messages have. pg_restore passes them on without their codes, so what it says can be
//! judged only where it is said in PostgreSQL's own words.

use sqlx::Row as _;

use super::session::Session;
use crate::pg::error::PgError;

/// In which language a server speaks to a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Language {
    /// `lc_messages`.
    pub locale: String,
    /// Whether the role may set it for itself: superusers, and from 15 on whom they let.
    pub may_be_set: bool,
}

impl Language {
    /// Whether messages are untranslated.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        ["", "C", "POSIX", "en"].contains(&self.locale.as_str())
            || ["C.", "POSIX.", "en_", "en."]
                .iter()
                .any(|beginning| self.locale.starts_with(beginning))
    }
}

/// The language of a session's server.
///
/// # Errors
/// The server refuses.
pub async fn language(session: &mut Session) -> Result<Language, PgError> {
    let doing = "ask for the language of the server's messages";
    let let_by_superuser = if session.server().major() >= 15 {
        " OR pg_catalog.has_parameter_privilege('lc_messages', 'SET')"
    } else {
        ""
    };
    let sql = format!(
        "SELECT pg_catalog.current_setting('lc_messages'), rolsuper{let_by_superuser} \
            FROM pg_catalog.pg_roles WHERE rolname = current_user"
    );
    let rows = session.rows(doing, &sql).await?;
    let read = |row: &sqlx::postgres::PgRow| -> Result<Language, sqlx::Error> {
        Ok(Language {
            locale: row.try_get(0)?,
            may_be_set: row.try_get(1)?,
        })
    };
    let row = rows.first().ok_or(sqlx::Error::RowNotFound).and_then(read);
    row.map_err(|source| PgError::Query { doing, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_english_and_no_language_are_plain() {
        let speaks = |locale: &str| Language {
            locale: locale.to_owned(),
            may_be_set: false,
        };
        for plain in ["", "C", "C.UTF-8", "POSIX", "en_US.UTF-8", "en_GB"] {
            assert!(speaks(plain).is_plain(), "{plain}");
        }
        for other in ["de_DE.UTF-8", "es_ES", "Cymraeg"] {
            assert!(!speaks(other).is_plain(), "{other}");
        }
    }
}
