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
                None => said.push(line.to_owned()),
            }
        }
        let said = said.join("\n  ");
        // A link that only repeats the one above it says nothing.
        if links.last().is_none_or(|last| *last != said) {
            links.push(said);
        }
    }
    hints.dedup();
    let links = links.join("\n  because: ");
    let hints: String = hints.iter().map(|hint| format!("\n{hint}")).collect();
    format!("{links}{hints}")
}
