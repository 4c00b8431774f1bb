//! A number of things as a person reads it.

use indicatif::HumanCount;

/// So many of something: `1 table`, `2,000 rows`.
#[must_use]
pub fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", HumanCount(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!(counted(1, "table"), "1 table");
        assert_eq!(counted(2000, "row"), "2,000 rows");
    }
}
