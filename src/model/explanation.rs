//! An error as a person reads it.

use std::error::Error;

/// The chain of an error, one line a link, and the hints of all of them at the end.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> String {
    let mut links: Vec<String> = Vec::new();
    let mut hints: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(link) = next {
        next = link.source();
        let text = link.to_string();
        let mut said = Vec::new();
        for line in text.lines() {
            match line.trim_start().strip_prefix("hint: ") {
                Some(hint) => hints.push(format!("hint: {hint}")),
                None if line.starts_with(OF_SERVER) => said.push(without_line(line).to_owned()),
                None => said.push(line.to_owned()),
            }
        }
        let said = said.join("\n  ");
        // A link that only repeats the end of the one above it says nothing.
        let repeats = |last: &String| {
            let is_of_server = last.starts_with(OF_SERVER);
            last.ends_with(if is_of_server {
                without_line(&said)
            } else {
                &said
            })
        };
        if !links.last().is_some_and(repeats) {
            links.push(said);
        }
    }
    hints.dedup();
    let links = links.join("\n  because: ");
    let hints: String = hints.iter().map(|hint| format!("\n{hint}")).collect();
    format!("{links}{hints}")
}

/// What sqlx says before a server's own words.
const OF_SERVER: &str = "error returned from database: ";

/// Behind them, sqlx puts the number of a line: it is one of the server's own program, and tells nobody anything.
fn without_line(said: &str) -> &str {
    match said.rsplit_once(" at line ") {
        Some((said, number)) if number.parse::<u32>().is_ok() => said,
        _ => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Link(&'static str, #[source] Option<Box<Link>>);

    #[test]
    fn what_a_link_says_already_is_not_said_again() {
        let inner = Link("refused at line 334", None);
        let outer = "error returned from database: refused at line 334";
        let outer = Link(outer, Some(Box::new(inner)));
        let error = Link("connect\nhint: look", Some(Box::new(outer)));
        assert_eq!(
            explain(&error),
            "connect\n  because: error returned from database: refused\nhint: look"
        );
    }
}
