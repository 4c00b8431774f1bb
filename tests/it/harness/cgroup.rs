//! A memory cgroup of a test's own: the kernel itself ends what needs more than the group may have.

use std::fs;
use std::path::PathBuf;

use super::cli::{Pgseal, Running};

/// A group, in whichever of the two forms this machine has. Dropping it removes it, once nobody is in it.
pub struct Cgroup {
    folder: PathBuf,
    form: Form,
}

/// The files of one form: the limit, the memory that is no cache, and how often the kernel killed.
struct Form {
    limit: &'static str,
    anonymous: &'static str,
    kills: &'static str,
}

const V1: Form = Form {
    limit: "memory.limit_in_bytes",
    anonymous: "rss ",
    kills: "memory.oom_control",
};
const V2: Form = Form {
    limit: "memory.max",
    anonymous: "anon ",
    kills: "memory.events",
};

impl Cgroup {
    /// `None` where no group can be made, as in most containers and for whoever is not root.
    pub fn new() -> Option<Self> {
        let name = format!("pgst-{}", std::process::id());
        let places = [("/sys/fs/cgroup/memory", V1), ("/sys/fs/cgroup", V2)];
        places.into_iter().find_map(|(root, form)| {
            let folder = PathBuf::from(root).join(&name);
            fs::create_dir(&folder).ok()?;
            let group = Self { folder, form };
            group
                .folder
                .join(group.form.limit)
                .exists()
                .then_some(group)
        })
    }

    /// Starts the program as a member.
    pub fn start(&self, pgseal: &Pgseal, arguments: &[&str]) -> Running {
        let members = self.folder.join("cgroup.procs");
        let script = format!("echo $$ > '{}'; exec \"$@\"", members.display());
        pgseal.inside(&["sh", "-c", &script, "sh"], arguments)
    }

    /// From here on there is only what the members have now, their files not counted, as close as the kernel takes it.
    pub fn close(&self) {
        const STEP_BYTES: u64 = 1024 * 1024;
        let anonymous = self.number("memory.stat", self.form.anonymous);
        let file = self.folder.join(self.form.limit);
        let taken = (1..200).any(|step| {
            let limit = anonymous + step * STEP_BYTES;
            fs::write(&file, limit.to_string()).is_ok()
        });
        assert!(taken, "the group takes no limit");
        // Where there is swap, they would go on there.
        for (name, none) in [("memory.swap.max", "0"), ("memory.swappiness", "0")] {
            let _absent = fs::write(self.folder.join(name), none);
        }
    }

    /// How many the kernel has killed.
    pub fn kills(&self) -> u64 {
        self.number(self.form.kills, "oom_kill ")
    }

    fn number(&self, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(self.folder.join(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |number| number.trim().parse().unwrap())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _gone = fs::remove_dir(&self.folder);
    }
}
