//! A group of processes that may have only so many threads together: a cgroup of the controller `pids`.

use super::freezer::{group_in, mounted};
use std::path::PathBuf;

pub struct Pids {
    group: PathBuf,
}

impl Pids {
    /// `None`, and says so, where there is no such group that can be written.
    pub fn new(test: &str) -> Option<Pids> {
        let name = format!("{test}-{}", std::process::id());
        let tops = [mounted("cgroup", "pids"), mounted("cgroup2", "")];
        let groups = tops.into_iter().filter_map(|top| group_in(top, &name));
        let found =
            groups.map(|group| Pids { group }).find(|it| it.group.join("pids.max").exists());
        if found.is_none() {
            eprintln!("skipped: {test} needs a cgroup for pids that can be written");
        }
        found
    }

    /// From now on there may be so many of them; `None`: as many as they like.
    #[track_caller]
    pub fn allow(&self, most: Option<u64>) {
        let text = most.map_or("max".into(), |most| most.to_string());
        std::fs::write(self.group.join("pids.max"), text).expect("a limit");
    }

    /// How many there are.
    #[track_caller]
    pub fn count(&self) -> u64 {
        let text = std::fs::read_to_string(self.group.join("pids.current")).expect("the group");
        text.trim().parse().expect("a number")
    }

    /// What starts a program in the group.
    pub fn wrapper(&self) -> [String; 4] {
        let enter = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", self.group.display());
        ["sh", "-c", &enter, "sh"].map(str::to_owned)
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        let removed = || std::fs::remove_dir(&self.group).ok();
        let _removed = super::poll_until(std::time::Duration::from_secs(5), removed);
    }
}
