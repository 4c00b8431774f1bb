//! Looks at a process and all its children while they run, as another user of the machine could.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What was seen.
#[derive(Default)]
pub struct Seen {
    /// The programs, by the names of their files.
    pub programs: BTreeSet<String>,
    /// Every command line.
    pub command_lines: BTreeSet<String>,
    /// Every environment, by program.
    pub environments: BTreeSet<(String, String)>,
    /// The most memory of its own that each program had at a look, in KiB.
    pub peak_rss_kib: BTreeMap<String, u64>,
}

/// A thread that looks every few milliseconds.
pub struct Watcher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Watcher {
    /// Watches a process and whatever descends from it.
    pub fn start(root: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut seen = Seen::default();
        // Once before anything else: what ends at once is still there, because nobody has waited for it yet.
        look(root, &mut seen);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for pid in descendants(root) {
                    look(pid, &mut seen);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            seen
        });
        Self { stop, thread }
    }

    pub fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// A zombie that its new parent has not collected yet is no process any more.
pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The process and everything below it, as far as it is still there.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut parents: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        // The name is in parentheses and may hold anything; the parent is the second word behind it.
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        parents.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        found.extend(parents.get(&found[at]).into_iter().flatten());
        at += 1;
    }
    found
}

fn look(pid: u32, seen: &mut Seen) {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let words = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', " ");
    let status = String::from_utf8_lossy(&read("status")).into_owned();
    let Some(program) = program_of(pid, &status) else {
        return;
    };
    seen.command_lines.insert(words(read("cmdline")));
    seen.environments
        .insert((program.clone(), words(read("environ"))));
    // Without the pages of the program's own file: those of a program that was not optimised are no user's.
    let kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        number.unwrap_or(0)
    };
    let peak = kib("RssAnon:") + kib("RssShmem:");
    let known = seen.peak_rss_kib.entry(program.clone()).or_default();
    *known = (*known).max(peak);
    seen.programs.insert(program);
}

/// The program's file, or the name that it runs under: pgseal keeps others from looking any closer.
fn program_of(pid: u32, status: &str) -> Option<String> {
    if let Ok(path) = fs::read_link(format!("/proc/{pid}/exe")) {
        return Some(path.file_name()?.to_string_lossy().into_owned());
    }
    let name = status.lines().find_map(|line| line.strip_prefix("Name:"))?;
    Some(name.trim().to_owned())
}
