//! PostgreSQL's password file (manual, section 34.16): which of its lines fits.

/// The password of the first line that fits. `host` is empty or a folder for a socket, which the file calls `localhost`.
#[must_use]
pub fn find(text: &str, host: &str, port: u16, database: &str, role: &str) -> Option<String> {
    let host = if host.is_empty() { "localhost" } else { host };
    let port = port.to_string();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let fields = fields(line)?;
            let wanted = [host, port.as_str(), database, role];
            let fits = |(field, wanted): (&String, &&str)| {
                let socket = wanted.starts_with('/') && field == "localhost";
                field == "*" || field == wanted || socket
            };
            fields[..4]
                .iter()
                .zip(&wanted)
                .all(fits)
                .then(|| fields[4].clone())
        })
}

/// Five fields between colons; a backslash takes the next sign as it is.
fn fields(line: &str) -> Option<[String; 5]> {
    let mut fields: [String; 5] = Default::default();
    let mut at = 0;
    let mut signs = line.chars();
    while let Some(sign) = signs.next() {
        match sign {
            '\\' => fields[at].push(signs.next()?),
            // The password may hold colons of its own.
            ':' if at < 4 => at += 1,
            _ => fields[at].push(sign),
        }
    }
    (at == 4 && !fields[4].is_empty()).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fitting_line_wins() {
        let text = "# comment\nother:*:*:*:no\ndb:5432:shop:app:a\\:b\\\\c\n*:*:*:*:rest\n";
        assert_eq!(
            find(text, "db", 5432, "shop", "app").as_deref(),
            Some("a:b\\c")
        );
        assert_eq!(
            find(text, "db", 5433, "shop", "app").as_deref(),
            Some("rest")
        );
        let local = "localhost:*:*:*:socket\n";
        assert_eq!(
            find(local, "/var/run/postgresql", 5432, "d", "r").as_deref(),
            Some("socket")
        );
        assert_eq!(find(local, "", 5432, "d", "r").as_deref(), Some("socket"));
        assert_eq!(find("broken:line\n", "h", 1, "d", "r"), None);
    }
}
