//! The rules of style that a program can check, each a function from a file to what is wrong with it.
//!
//! Clippy's `disallowed_methods` looks after calls; here is what it cannot see: which module imports which, how long
//! files are, what they are named, and what was left lying about.

use std::fs;
use std::path::Path;

use sha2::Digest as _;

/// From the ground up. A module imports from lower floors only.
const FLOORS: &[&[&str]] = &[
    &["model"],
    &[
        "hardening",
        "pipe",
        "progress",
        "reach",
        "schedule",
        "telemetry",
    ],
    &["pg", "seal", "store", "catalog", "queue", "notify"],
    &["vault"],
    &["backup", "restore", "retention", "reconcile", "dispatch"],
    // It turns settings into what the use cases take, so it stands above them; nothing below may read settings.
    &["config"],
    &["api", "worker"],
    &["cli"],
];
/// The one step sideways: a restore backs its target up first.
const SIDEWAYS: (&str, &str) = ("restore", "backup");

const LINES_MAX: usize = 700;

/// The migrations of every release, each with its SHA-256. Until the first release there is none.
const RELEASED: &[(&str, &str)] = &[];

/// Words that tell that something is not finished; in two parts, so that this file is not found by itself.
const UNFINISHED: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 7] = [
    "utils", "util", "helpers", "common", "misc", "manager", "types",
];

/// What only some files, or the files of a folder, may name.
const OWNERS: &[(&str, &[&str])] = &[
    ("Command::new", &["src/pg/child.rs"]),
    ("std::env", &["src/config/"]),
    ("env::var", &["src/config/"]),
    (
        "sequoia_openpgp",
        &["src/seal/openpgp.rs", "src/seal/framing.rs"],
    ),
    ("aws_sdk_s3", &["src/store/"]),
    ("redis::", &["src/queue/"]),
    (
        "sqlx::",
        &[
            "src/pg/inspect/",
            "src/pg/error.rs",
            "src/catalog/",
            "src/reach.rs",
        ],
    ),
    ("pgseal.backups", &["src/catalog/"]),
    ("pgseal.restores", &["src/catalog/"]),
    ("pgseal.audit", &["src/catalog/"]),
    ("pgseal.pins", &["src/catalog/"]),
    ("pgseal.schedule", &["src/catalog/"]),
    ("pgseal.events", &["src/catalog/"]),
    ("pgseal.deliveries", &["src/catalog/"]),
    ("pgseal.drills", &["src/catalog/"]),
    ("jsonwebtoken", &["src/api/auth.rs"]),
    ("lettre", &["src/notify/email.rs"]),
    ("hyper_rustls", &["src/notify/http.rs"]),
];

/// A file's own code: without comments, and without the modules that only tests have.
fn code(text: &str) -> Vec<(usize, &str)> {
    let mut code = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let trimmed = line.trim_start();
        if trimmed == "#[cfg(test)]" {
            skip_test_module(&mut lines);
        } else if !trimmed.starts_with("//") {
            code.push((index + 1, line));
        }
    }
    code
}

/// The formatter puts a module's closing brace below its `mod`.
fn skip_test_module<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>) {
    let Some((_, opening)) = lines.next() else {
        return;
    };
    if opening.trim_start().starts_with("mod ") && opening.ends_with('{') {
        let indentation = opening.len() - opening.trim_start().len();
        let closing = format!("{}}}", &opening[..indentation]);
        lines.find(|(_, line)| *line == closing);
    }
}

/// The module right below the crate that a file of `src` belongs to.
fn module(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let first = inside.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "main" | "lib")).then_some(name)
}

/// The modules that a line names behind `crate::`, also in braces.
fn imports(line: &str) -> Vec<&str> {
    let identifier = |text: &str| {
        text.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len())
    };
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(&rest[..identifier(rest)]);
            continue;
        };
        let mut depth = 0;
        for part in group.split_inclusive([',', '{', '}']) {
            let part_name = part.trim_start();
            if depth == 0 && identifier(part_name) > 0 {
                found.push(&part_name[..identifier(part_name)]);
            }
            depth += i32::from(part.ends_with('{')) - i32::from(part.ends_with('}'));
        }
    }
    found
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Imports go downward.
fn floors(path: &str, text: &str) -> Vec<String> {
    let Some(own) = module(path).filter(|_| !path.ends_with("/tests.rs")) else {
        return Vec::new();
    };
    let Some(own_floor) = floor(own) else {
        return vec![format!("{path}: {own} stands on no floor")];
    };
    // A group that the formatter broke is one line here.
    let whole: String = code(text)
        .iter()
        .map(|(_, line)| format!("{} ", line.trim()))
        .collect();
    let upward = |other: &&str| {
        *other != own
            && (own, *other) != SIDEWAYS
            && floor(other).is_none_or(|floor| floor >= own_floor)
    };
    let mut wrong: Vec<String> = imports(&whole)
        .iter()
        .filter(|other| upward(other))
        .map(|other| format!("{path}: {own} may not import {other}"))
        .collect();
    // As many `super` as the file lies deep lead to the crate, past the check above.
    let depth = path.matches('/').count() - usize::from(path.ends_with("/mod.rs"));
    if whole.contains(&"super::".repeat(depth)) {
        wrong.push(format!("{path}: write crate:: for what is outside {own}"));
    }
    wrong
}

/// A file can be read in one sitting.
fn length(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let wrong = path.ends_with(".rs") && lines > LINES_MAX;
    Vec::from_iter(wrong.then(|| format!("{path}: {lines} lines, more than {LINES_MAX}")))
}

/// A module begins by saying what it is.
fn heading(path: &str, text: &str) -> Vec<String> {
    let wrong = path.ends_with(".rs")
        && !path.ends_with("/tests.rs")
        && !text.trim_start().starts_with("//!");
    Vec::from_iter(wrong.then(|| format!("{path}: does not begin with //!")))
}

/// What is left to do has an issue.
fn unfinished(path: &str, text: &str) -> Vec<String> {
    let has_issue = |line: &str| {
        line.split('#')
            .skip(1)
            .any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let has_word = |line: &str| {
        line.split(|c: char| !c.is_alphanumeric())
            .any(|word| UNFINISHED.contains(&word))
    };
    text.lines()
        .enumerate()
        .filter(|(_, line)| has_word(line) && !has_issue(line))
        .map(|(index, _)| format!("{path}:{}: unfinished, and no issue #number", index + 1))
        .collect()
}

/// Both sides of a merge are no text: where the compiler does not read a file, as a script for Redis, nobody else tells.
fn unmerged(path: &str, text: &str) -> Vec<String> {
    let is_marker = |line: &str| {
        ["<<<<<<< ", ">>>>>>> "]
            .iter()
            .any(|marker| line.starts_with(marker))
    };
    let wrong = text.lines().any(is_marker);
    Vec::from_iter(wrong.then(|| format!("{path}: has marks of a merge")))
}

/// A file is named for what is in it.
fn naming(path: &str, _text: &str) -> Vec<String> {
    path.split('/')
        .map(|part| part.split('.').next().unwrap_or(part))
        .filter(|part| EMPTY_NAMES.contains(part))
        .map(|part| format!("{path}: the name {part} says nothing"))
        .collect()
}

/// Some things are named by one file only.
fn owners(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with("src/") || path == "src/seal/tests.rs" {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for (number, line) in code(text) {
        let line = if path == "src/main.rs" {
            line.replace("std::env::args_os", "")
        } else {
            line.to_owned()
        };
        for (name, allowed) in OWNERS {
            let allowed_here = allowed.iter().any(|owner| path.starts_with(owner));
            if line.contains(name) && !allowed_here {
                wrong.push(format!(
                    "{path}:{number}: {name} belongs into {}",
                    allowed[0]
                ));
            }
        }
    }
    wrong
}

/// A test that is not run proves nothing.
fn ignored(path: &str, text: &str) -> Vec<String> {
    let wrong = path.ends_with(".rs") && text.contains(concat!("#[", "ignore"));
    Vec::from_iter(wrong.then(|| format!("{path}: an ignored test")))
}

/// Fixtures that nothing mentions.
fn unused<'a>(fixtures: &[&'a str], texts: &[(String, String)]) -> Vec<&'a str> {
    let mentioned = |fixture: &str| texts.iter().any(|(_, text)| text.contains(fixture));
    fixtures
        .iter()
        .copied()
        .filter(|fixture| !mentioned(fixture))
        .collect()
}

/// The tests that a page names between backticks, as `module::test`.
fn claims(page: &str) -> Vec<(&str, &str)> {
    let is_name = |text: &str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    let words = page.split('`').skip(1).step_by(2);
    words
        .filter(|word| is_name(word))
        .filter_map(|word| word.rsplit_once("::"))
        .collect()
}

/// Those of a page's claims that no test keeps.
fn unkept<'a>(page: &'a str, files: &[(String, String)]) -> Vec<(&'a str, &'a str)> {
    let kept = |(module, test): &(&str, &str)| {
        let place = module.replace("::", "/");
        let homes = [
            format!("tests/it/{place}.rs"),
            format!("tests/it/{place}/mod.rs"),
            format!("src/{place}.rs"),
            format!("src/{place}/mod.rs"),
        ];
        let function = format!("fn {test}(");
        files
            .iter()
            .any(|(path, text)| homes.contains(path) && text.contains(&function))
    };
    claims(page)
        .into_iter()
        .filter(|claim| !kept(claim))
        .collect()
}

/// Released migrations that are gone, or not what was released.
fn changed(migrations: &[(String, String)], released: &[(&str, &str)]) -> Vec<String> {
    let is_same = |(name, digest): &&(&str, &str)| {
        let found = migrations.iter().find(|(path, _)| path == name);
        found.is_some_and(|(_, text)| {
            let found: String = sha2::Sha256::digest(text.as_bytes())
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            found == *digest
        })
    };
    let wrong = released.iter().filter(|entry| !is_same(entry));
    wrong.map(|(name, _)| (*name).to_owned()).collect()
}

/// Every file below `folder` or, for a file, itself: its path in the repository, and its text.
fn read(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut waiting = vec![root.join(folder)];
    let mut files = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder of the repository can be read");
            waiting.extend(entries.map(|entry| entry.expect("and so can its entries").path()));
        } else if let Ok(bytes) = fs::read(&path) {
            let name = path
                .strip_prefix(root)
                .expect("it was found below the root");
            let text = String::from_utf8_lossy(&bytes).into_owned();
            files.push((name.to_string_lossy().into_owned(), text));
        }
    }
    files
}

type Rule = fn(&str, &str) -> Vec<String>;

fn check(folders: &[&str], rules: &[Rule]) {
    let files: Vec<_> = folders.iter().flat_map(|folder| read(folder)).collect();
    assert!(!files.is_empty(), "{folders:?}: nothing is there to check");
    let wrong: Vec<String> = files
        .iter()
        .flat_map(|(path, text)| rules.iter().flat_map(move |rule| rule(path, text)))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn imports_go_downward() {
    check(&["src"], &[floors]);
}

#[test]
fn what_one_file_owns_is_named_nowhere_else() {
    check(&["src"], &[owners]);
}

#[test]
fn files_are_short_named_and_headed_and_tests_are_run() {
    let folders = ["src", "tests", "fuzz/fuzz_targets"];
    check(&folders, &[length, naming, ignored]);
    check(&["src", "tests"], &[heading]);
}

#[test]
fn what_is_left_to_do_has_an_issue() {
    check(
        &[
            "src",
            "tests",
            "examples",
            "fuzz/fuzz_targets",
            "scripts",
            "docs",
            "dev",
            ".ci",
        ],
        &[unfinished, unmerged],
    );
}

#[test]
fn every_fixture_is_used() {
    let fixtures = read("tests/fixtures");
    let names: Vec<&str> = fixtures
        .iter()
        .filter_map(|(path, _)| path.rsplit('/').next())
        .collect();
    assert!(!names.is_empty());
    let mut texts = ["tests", "scripts", "dev"].map(read).concat();
    texts.retain(|(path, _)| !path.starts_with("tests/fixtures/"));
    assert_eq!(unused(&names, &texts), Vec::<&str>::new());
}

/// The promises of the README and the table of faults are tests, by their names.
#[test]
fn what_pages_promise_is_tested() {
    let files = ["src", "tests/it"].map(read).concat();
    for (path, text) in ["README.md", "docs/faults.md"].map(read).concat() {
        assert!(claims(&text).len() > 5, "{path} names no tests");
        assert_eq!(unkept(&text, &files), [], "{path}");
    }
}

#[test]
fn a_promise_without_a_test_is_noticed() {
    let files = [("tests/it/a.rs".to_owned(), "fn there() {}".to_owned())];
    let page = "`a::there`, `a::gone`, `b::there`, `cargo test a::gone`";
    assert_eq!(unkept(page, &files), [("a", "gone"), ("b", "there")]);
}

/// What was released stays as it is: catalogs that ran it know it by its digest, and refuse another one.
#[test]
fn migrations_are_watched_from_their_first_day() {
    let migrations = read("migrations");
    assert_eq!(changed(&migrations, RELEASED), Vec::<String>::new());
    let mut names: Vec<&str> = migrations.iter().map(|(path, _)| path.as_str()).collect();
    names.sort_unstable();
    for (index, name) in names.iter().enumerate() {
        let number = format!("migrations/{:04}_", index + 1);
        assert!(name.starts_with(&number), "{name} does not follow {number}");
    }
    // A release without its migrations in the list would leave them unwatched.
    let (_, changelog) = read("CHANGELOG.md").remove(0);
    let is_released = changelog
        .lines()
        .any(|line| line.starts_with("## ") && line != "## Unreleased");
    assert!(
        !is_released || !RELEASED.is_empty(),
        "there is a release now: write its migrations and their digests into RELEASED"
    );
}

#[test]
fn a_changed_migration_is_noticed() {
    let file = [("migrations/0001_x.sql".to_owned(), "abc".to_owned())];
    // FIPS 180-4, appendix B.1.
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert!(changed(&file, &[("migrations/0001_x.sql", digest)]).is_empty());
    assert_eq!(changed(&file, &[("migrations/0001_x.sql", "00")]).len(), 1);
    assert_eq!(
        changed(&file, &[("migrations/0002_y.sql", digest)]).len(),
        1
    );
}

#[test]
fn floors_notice_every_way_up() {
    for (path, text) in [
        ("src/model/x.rs", "use crate::pg::PgError;"),
        ("src/store/s3.rs", "use crate::seal::Sealer;"),
        ("src/seal/mod.rs", "fn f() { crate::store::open() }"),
        (
            "src/pg/load.rs",
            "use crate::{\n    model::ids::{self, Uid},\n    vault::Vault,\n};",
        ),
        ("src/backup/mod.rs", "use crate::restore::Mode;"),
        ("src/vault/list.rs", "use crate::config;"),
        ("src/pipe.rs", "use super::store::Store;"),
        ("src/pg/child.rs", "use super::super::cli::Cli;"),
        ("src/brandnew.rs", ""),
    ] {
        assert_eq!(floors(path, text).len(), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("src/restore/mod.rs", "use crate::backup::Stages;"),
        ("src/pg/load.rs", "use crate::{model, pipe::{Pipe, seal}};"),
        ("src/pg/load.rs", "use super::child::Child;"),
        ("src/pg/load.rs", "//! See [`crate::cli`]."),
        (
            "src/model/x.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::cli::Cli;\n}\n",
        ),
        ("src/lib.rs", "pub use crate::cli::Cli;"),
    ] {
        assert_eq!(floors(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

#[test]
fn code_behind_a_test_module_is_seen() {
    let text = "#[cfg(test)]\nmod tests {\n    fn a() {}\n}\nuse crate::cli::Cli;\n";
    assert_eq!(floors("src/model/x.rs", text).len(), 1);
}

#[test]
fn every_other_rule_notices_its_fault() {
    let long = "//! Long.\n".repeat(LINES_MAX + 1);
    let left = format!("// {}: later", UNFINISHED[0]);
    let skipped = concat!("#[", "ignore = \"slow\"]");
    let faults: [(Rule, &str, &str); 14] = [
        (unmerged, "src/queue/lua/a.lua", "<<<<<<< HEAD\n"),
        (length, "src/a.rs", &long),
        (heading, "src/a.rs", "use std::fs;\n"),
        (unfinished, "dev", &left),
        (naming, "src/pg/utils.rs", ""),
        (naming, "tests/common/mod.rs", ""),
        (owners, "src/pg/dump.rs", "let c = Command::new(program);"),
        (owners, "src/cli/mod.rs", "let home = std::env::home_dir();"),
        (owners, "src/cli/mod.rs", "use std::env;"),
        (owners, "src/main.rs", "std::env::args()"),
        (
            owners,
            "src/vault/mod.rs",
            "use sequoia_openpgp as openpgp;",
        ),
        (owners, "src/vault/mod.rs", "use aws_sdk_s3::Client;"),
        (owners, "src/backup/mod.rs", "sqlx::query(text)"),
        (ignored, "tests/it/x.rs", skipped),
    ];
    for (index, (rule, path, text)) in faults.iter().enumerate() {
        assert_eq!(rule(path, text).len(), 1, "fault {index}, {path}");
    }
    assert_eq!(
        unused(&["a.sql", "b.sql"], &[("t".into(), "a.sql".into())]),
        ["b.sql"]
    );
}

#[test]
fn what_is_right_passes() {
    let tracked = format!("// {}: later, see #12", UNFINISHED[1]);
    assert!(unfinished("src/a.rs", &tracked).is_empty());
    assert!(unfinished("scripts/demo", "mktemp /tmp/demo.XXXXXX").is_empty());
    assert!(owners("src/main.rs", "std::env::args_os()").is_empty());
    assert!(owners("src/pg/child.rs", "Command::new(program)").is_empty());
    assert!(owners("src/pg/dump.rs", "// Command::new is for child alone.").is_empty());
    assert!(naming("src/model/kind.rs", "").is_empty());
    assert!(length("src/a.rs", "//! Short.\n").is_empty());
}
