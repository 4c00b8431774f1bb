//! The rules of this house that a program can check: the floors, the layout, the words.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// From the top down; a module may import what stands below its own floor, and on its own floor nothing.
const FLOORS: [&[&str]; 8] = [
    &["main", "cli"],
    &["api", "worker", "schedule"],
    &["config"],
    &["backup", "restore", "retention"],
    &["vault"],
    &["pg", "seal", "store", "catalog", "queue"],
    &["pipe", "progress", "telemetry"],
    &["model"],
];
/// A restore makes a safety backup.
const EXCEPTIONS: [(&str, &str); 1] = [("restore", "backup")];
const FILE_LINES_MAX: usize = 700;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file with an ending below some folders: its path from the root, and its text.
fn files(folders: &[&str], ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                open.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let name = path
                    .strip_prefix(root())
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

fn module(path: &str) -> &str {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    inside
        .split('/')
        .next()
        .unwrap_or(inside)
        .trim_end_matches(".rs")
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The modules that a file imports or names by `crate::`.
fn imports(text: &str) -> Vec<String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let names = code.flat_map(|line| {
        line.split("crate::")
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    names
        .map(|rest| {
            rest.chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect()
        })
        .collect()
}

/// What is wrong with one file's imports.
fn crossed_floors(path: &str, text: &str) -> Vec<String> {
    let from = module(path);
    let Some(own) = floor(from) else {
        return vec![format!("{path}: module {from} has no floor")];
    };
    let crosses = |to: &String| {
        let allowed = to == from || EXCEPTIONS.contains(&(from, to.as_str()));
        !allowed && floor(to).is_some_and(|other| other <= own)
    };
    imports(text)
        .into_iter()
        .filter(crosses)
        .map(|to| format!("{path} imports {to}"))
        .collect()
}

/// What is wrong with one file's form.
fn untidy(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.lines().count() > FILE_LINES_MAX {
        wrong.push(format!("{path} has more than {FILE_LINES_MAX} lines"));
    }
    if !text.starts_with("//!") {
        wrong.push(format!("{path} does not say what it is for"));
    }
    let stem = Path::new(path)
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    if [
        "utils", "util", "helpers", "common", "misc", "manager", "types",
    ]
    .contains(&stem.as_ref())
    {
        wrong.push(format!("{path}: name the thing"));
    }
    // Written in two halves, so that this file does not find itself.
    for word in [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("#[ig", "nore"),
    ] {
        if text.contains(word) {
            wrong.push(format!("{path}: {word}"));
        }
    }
    wrong
}

/// What only one place may name.
const OWNERS: [(&str, &[&str]); 5] = [
    (concat!("Command::", "new("), &["src/pg/child.rs"]),
    (
        concat!("sequoia_", "openpgp"),
        &["src/seal/openpgp.rs", "src/seal/tests.rs"],
    ),
    (concat!("env::", "var"), &["src/config.rs"]),
    (concat!("aws_", "sdk_s3"), &["src/store/"]),
    (
        concat!("sqlx", "::"),
        &["src/pg/inspect/", "src/pg/error.rs"],
    ),
];

fn strangers(path: &str, text: &str) -> Vec<String> {
    let foreign =
        |(_, owners): &&(&str, &[&str])| !owners.iter().any(|owner| path.starts_with(owner));
    let named = OWNERS
        .iter()
        .filter(foreign)
        .filter(|(name, _)| text.contains(name));
    named
        .map(|(name, owners)| format!("{path} names {name}, which belongs to {owners:?}"))
        .collect()
}

#[test]
fn the_house_is_tidy() {
    let source = files(&["src"], ".rs");
    assert!(source.len() > 40, "only {} files were found", source.len());
    let mut wrong: Vec<String> = source
        .iter()
        .flat_map(|(path, text)| strangers(path, text))
        .collect();
    wrong.extend(
        source
            .iter()
            .filter(|(path, _)| path != "src/lib.rs")
            .flat_map(|(path, text)| crossed_floors(path, text)),
    );
    wrong.extend(
        files(&["src", "tests"], ".rs")
            .iter()
            .flat_map(|(path, text)| untidy(path, text)),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_fixture_is_used() {
    let users: String = ["dev", "scripts/demo", "scripts/bench"]
        .iter()
        .filter_map(|name| fs::read_to_string(root().join(name)).ok())
        .chain(files(&["tests"], ".rs").into_iter().map(|(_, text)| text))
        .collect();
    let mut seen = 0;
    for entry in fs::read_dir(root().join("tests/fixtures")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(users.contains(&name), "nobody uses tests/fixtures/{name}");
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn each_rule_finds_what_it_is_for() {
    assert_eq!(
        crossed_floors("src/seal/x.rs", "use crate::store::Store;"),
        ["src/seal/x.rs imports store"]
    );
    assert_eq!(
        crossed_floors("src/model/x.rs", "let x = crate::vault::y();"),
        ["src/model/x.rs imports vault"]
    );
    assert_eq!(
        crossed_floors("src/vault/x.rs", "use crate::store::Store; // crate::cli"),
        ["src/vault/x.rs imports cli"]
    );
    assert_eq!(
        crossed_floors("src/restore/mod.rs", "use crate::backup::{self};"),
        Vec::<String>::new()
    );
    assert_eq!(crossed_floors("src/new.rs", "").len(), 1);
    assert_eq!(untidy("src/a/utils.rs", "fn x() {}").len(), 2);
    let long = format!("//! x\n{}", "\n".repeat(FILE_LINES_MAX));
    assert_eq!(untidy("src/a.rs", &long).len(), 1);
    assert_eq!(
        untidy("src/a.rs", concat!("//! x\n// TO", "DO later")).len(),
        1
    );
    assert_eq!(
        strangers(
            "src/cli/x.rs",
            concat!("std::process::Command::", "new(\"sh\")")
        )
        .len(),
        1
    );
    assert_eq!(
        strangers(
            "src/pg/child.rs",
            concat!("tokio::process::Command::", "new(x)")
        ),
        Vec::<String>::new()
    );
}
