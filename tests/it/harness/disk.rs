//! A small disk: a file system of the test's own, that only the program under test sees and that goes with it.

use std::path::{Path, PathBuf};

use super::cli::{Pgseal, Run, Running};
use super::postgres::is_root;

/// Mounts `$1` with the options `$2`, runs the rest, and writes down in `$3` which files it left there.
const SCRIPT: &str = r#"mount -t tmpfs -o "$2" tmpfs "$1" || exit 99
place=$1 listing=$3; shift 3
"$@"; code=$?
(cd "$place" && find . -type f) >"$listing"; exit $code"#;

/// A folder that is a disk of this size while a command runs.
#[derive(Clone)]
pub struct SmallDisk {
    place: PathBuf,
    /// As `mount -o` takes them.
    options: String,
}

impl SmallDisk {
    /// In the folder `name` of the program's home.
    pub fn new(pgseal: &Pgseal, name: &str, options: &str) -> Self {
        let place = pgseal.file(name);
        std::fs::create_dir_all(&place).unwrap();
        Self {
            place,
            options: options.to_owned(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.place
    }

    /// Starts the program with the disk mounted. A mount namespace of its own needs no cleaning up, however it ends.
    pub fn start(&self, pgseal: &Pgseal, arguments: &[&str]) -> Running {
        let place = self.place.to_str().unwrap();
        let listing = self.listing();
        let mut wrapper = vec!["unshare"];
        if !is_root() {
            wrapper.extend(["--user", "--map-root-user"]);
        }
        wrapper.extend(["--mount", "sh", "-c", SCRIPT, "sh", place, &self.options]);
        wrapper.push(listing.to_str().unwrap());
        pgseal.inside(&wrapper, arguments)
    }

    /// Runs the program to its end: how it ended, and which files it left on the disk.
    pub fn run(&self, pgseal: &Pgseal, arguments: &[&str]) -> (Run, Vec<String>) {
        let run = self.start(pgseal, arguments).wait();
        assert_ne!(run.code, 99, "the disk was not mounted: {run}");
        (run, self.left())
    }

    /// The files that the last run left on the disk.
    pub fn left(&self) -> Vec<String> {
        let listing = std::fs::read_to_string(self.listing()).unwrap();
        listing.lines().map(str::to_owned).collect()
    }

    /// The disk as the process `pid` sees it, which runs on it.
    pub fn seen_by(&self, pid: u32) -> PathBuf {
        PathBuf::from(format!("/proc/{pid}/root{}", self.place.display()))
    }

    fn listing(&self) -> PathBuf {
        self.place.with_extension("left")
    }
}
