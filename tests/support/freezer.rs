//! Processes that stand still: a group of the freezer, of cgroup2 or of version 1. They are deaf to
//! SIGCONT, and still mortal in cgroup2.

use super::{Handle, WATCHDOG, wait_until};
use std::path::{Path, PathBuf};

pub struct Freezer {
    group: PathBuf,
    is_second: bool,
}

/// Where file systems of this kind are mounted that have this option.
pub(super) fn mounted(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, place, its_kind, options, ..] = fields[..] else { return None };
        let has = option.is_empty() || options.split(',').any(|it| it == option);
        (its_kind == kind && has).then(|| PathBuf::from(place))
    })
}

pub(super) fn group_in(top: Option<PathBuf>, name: &str) -> Option<PathBuf> {
    let group = top?.join(name);
    std::fs::create_dir(&group).ok()?;
    Some(group)
}

impl Freezer {
    /// One in which processes are mortal while they are frozen. `None`, and says so, where there is no
    /// cgroup2 that can be written.
    pub fn new(test: &str) -> Option<Freezer> {
        Freezer::of(test, &[("cgroup2", "")])
    }

    /// One of either kind.
    pub fn any(test: &str) -> Option<Freezer> {
        Freezer::of(test, &[("cgroup2", ""), ("cgroup", "freezer")])
    }

    fn of(test: &str, kinds: &[(&str, &str)]) -> Option<Freezer> {
        let name = format!("{test}-{}", std::process::id());
        let found = kinds.iter().find_map(|(kind, option)| {
            let group = group_in(mounted(kind, option), &name)?;
            Some(Freezer { group, is_second: *kind == "cgroup2" })
        });
        if found.is_none() {
            eprintln!("skipped: {test} needs a cgroup with a freezer that can be written");
        }
        found
    }

    /// Whoever it starts from now on is in the group, too.
    #[track_caller]
    pub fn take(&self, process: &Handle) {
        std::fs::write(self.group.join("cgroup.procs"), process.process.pid.to_string())
            .expect("into the group");
    }

    /// What starts a program in the group.
    pub fn wrapper(&self) -> [String; 4] {
        let enter = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", self.group.display());
        ["sh", "-c", &enter, "sh"].map(str::to_owned)
    }

    #[track_caller]
    pub fn freeze(&self) {
        self.set(true);
        let (file, state) = match self.is_second {
            true => ("cgroup.events", "frozen 1"),
            false => ("freezer.state", "FROZEN"),
        };
        wait_until("a frozen group", WATCHDOG, || {
            let text = std::fs::read_to_string(self.group.join(file)).ok()?;
            text.contains(state).then_some(())
        });
    }

    pub fn thaw(&self) {
        self.set(false);
    }

    /// Kills all of them at once, as `docker kill` does and systemd at last. Only of cgroup2.
    #[track_caller]
    pub fn kill(&self) {
        std::fs::write(self.group.join("cgroup.kill"), "1").expect("a group that can be killed");
    }

    fn set(&self, frozen: bool) {
        let (file, words) = match self.is_second {
            true => ("cgroup.freeze", ["0", "1"]),
            false => ("freezer.state", ["THAWED", "FROZEN"]),
        };
        let path: &Path = &self.group;
        std::fs::write(path.join(file), words[usize::from(frozen)]).expect("frozen or thawed");
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.thaw();
        // Not before the last of its processes has gone.
        let _removed = super::poll_until(std::time::Duration::from_secs(5), || {
            std::fs::remove_dir(&self.group).ok()
        });
    }
}
