//! Privileges on a database: read as the catalog writes them, given again as statements.

use std::collections::BTreeMap;

use super::database::identifier;
use crate::model::manifest::DatabaseFacts;

/// The privileges on a database, by the letters of the catalog.
const PRIVILEGES: [(char, &str); 3] = [('C', "CREATE"), ('T', "TEMPORARY"), ('c', "CONNECT")];

/// The statements that make the privileges on `database` (already quoted) those of `acl`, as far as they are known: first
/// what a new database gives by itself is taken away. An item that cannot be read comes back as the error.
pub(super) fn statements(
    database: &str,
    owner: &str,
    acl: &[String],
) -> Result<Vec<String>, String> {
    let mut statements = vec![
        format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC"),
        format!(
            "REVOKE ALL ON DATABASE {database} FROM {}",
            identifier(owner)
        ),
    ];
    for item in acl {
        let (grantee, letters) = read(item).ok_or_else(|| item.clone())?;
        let grantee = grantee.map_or_else(|| "PUBLIC".to_owned(), |name| identifier(&name));
        for (privileges, option) in [
            (granted(letters, false), ""),
            (granted(letters, true), " WITH GRANT OPTION"),
        ] {
            if !privileges.is_empty() {
                let privileges = privileges.join(", ");
                statements.push(format!(
                    "GRANT {privileges} ON DATABASE {database} TO {grantee}{option}"
                ));
            }
        }
    }
    Ok(statements)
}

/// What was recorded of a database, with other roles in the place of some: as owner, in privileges, and in settings.
#[must_use]
pub fn given_to(facts: &DatabaseFacts, roles: &BTreeMap<String, String>) -> DatabaseFacts {
    let role = |old: &String| roles.get(old).unwrap_or(old).clone();
    let mut facts = facts.clone();
    facts.owner = role(&facts.owner);
    for item in facts.acl.iter_mut().flatten() {
        if let Some((Some(grantee), letters)) = read(item) {
            *item = format!("{}={letters}/", identifier(&role(&grantee)));
        }
    }
    for (old, settings) in std::mem::take(&mut facts.role_settings) {
        let given = facts.role_settings.entry(role(&old)).or_default();
        given.extend(settings);
    }
    facts
}

/// An `aclitem` as text, `grantee=letters/grantor`: the grantee, `None` for everybody, and the letters.
fn read(item: &str) -> Option<(Option<String>, &str)> {
    let (grantee, rest) = if let Some(quoted) = item.strip_prefix('"') {
        let mut name = String::new();
        let mut characters = quoted.char_indices().peekable();
        let end = loop {
            match characters.next()? {
                (_, '"') if characters.peek().is_some_and(|(_, next)| *next == '"') => {
                    characters.next();
                    name.push('"');
                }
                (at, '"') => break at,
                (_, other) => name.push(other),
            }
        };
        (name, quoted[end + 1..].strip_prefix('=')?)
    } else {
        let (name, rest) = item.split_once('=')?;
        (name.to_owned(), rest)
    };
    let (letters, _grantor) = rest.split_once('/')?;
    Some(((!grantee.is_empty()).then_some(grantee), letters))
}

/// Those privileges of an item that may be passed on, or those that may not.
fn granted(letters: &str, passed_on: bool) -> Vec<&'static str> {
    let is_granted = |letter: char| {
        let at = letters.find(letter)?;
        let has_star = letters[at + 1..].starts_with('*');
        (has_star == passed_on).then_some(())
    };
    PRIVILEGES
        .iter()
        .filter(|(letter, _)| is_granted(*letter).is_some())
        .map(|(_, privilege)| *privilege)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read_as_the_catalog_writes_them() {
        assert_eq!(read("=Tc/postgres"), Some((None, "Tc")));
        assert_eq!(read("app=C*Tc/app"), Some((Some("app".to_owned()), "C*Tc")));
        assert_eq!(
            read(r#""a ""b"" c"=c/"o p""#),
            Some((Some("a \"b\" c".to_owned()), "c"))
        );
        assert_eq!(read("nobody"), None);
    }

    #[test]
    fn an_item_may_name_another_role() {
        let item = format!("{}=C*c/", identifier("a \"b\""));
        assert_eq!(read(&item), Some((Some("a \"b\"".to_owned()), "C*c")));
    }

    #[test]
    fn what_a_new_database_gives_is_taken_away_first() {
        let acl = ["=T/o".to_owned(), "a=C*c/o".to_owned()];
        let statements = statements("\"d\"", "o", &acl).unwrap();
        assert_eq!(
            statements,
            [
                "REVOKE ALL ON DATABASE \"d\" FROM PUBLIC",
                "REVOKE ALL ON DATABASE \"d\" FROM \"o\"",
                "GRANT TEMPORARY ON DATABASE \"d\" TO PUBLIC",
                "GRANT CONNECT ON DATABASE \"d\" TO \"a\"",
                "GRANT CREATE ON DATABASE \"d\" TO \"a\" WITH GRANT OPTION",
            ]
        );
    }
}
