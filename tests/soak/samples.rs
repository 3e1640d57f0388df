//! What grows, or does not: memory and descriptors of each role, the spool, files, processes.

use crate::support::processes::children_of;
use crate::support::{Place, Process};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// Fewer looks in a quarter say nothing.
const LOOKS: usize = 5;
/// So long nobody looks at a zombie of main's, which reaps at once.
const ZOMBIE: Duration = Duration::from_secs(10);

/// Figures of one thing, each with its time.
type Series = Vec<(Duration, u64)>;

/// Of one pipeline.
pub struct Samples {
    began: Instant,
    last: Option<Instant>,
    known: BTreeMap<(i32, u64), Instant>,
    zombies: BTreeMap<(i32, u64), Instant>,
    /// By role and what was measured.
    series: BTreeMap<(String, &'static str), Series>,
}

/// What may not become larger than it was, in the last quarter against the first: by so much of it,
/// and by so much more.
struct Limit {
    what: &'static str,
    factor: f64,
    more: u64,
}

const LIMITS: [Limit; 7] = [
    Limit { what: "RssAnon, KiB", factor: 1.5, more: 1024 },
    Limit { what: "descriptors", factor: 1.0, more: 6 },
    Limit { what: "children", factor: 1.0, more: 3 },
    Limit { what: "spool, bytes", factor: 1.0, more: 0 },
    Limit { what: "spool, blocks of 512", factor: 1.0, more: 128 },
    Limit { what: "files", factor: 2.0, more: 20 },
    Limit { what: "all bytes", factor: 2.0, more: 2 << 20 },
];

impl Samples {
    pub fn new(began: Instant) -> Samples {
        let (known, zombies, series) = Default::default();
        Samples { began, last: None, known, zombies, series }
    }

    fn add(&mut self, role: &str, what: &'static str, value: u64) {
        let at = self.began.elapsed();
        self.series.entry((role.to_owned(), what)).or_default().push((at, value));
    }

    /// Looks at a run that works, not more often than once in `every`, and only if all of its processes
    /// were there at the last look as well: what they set up first is no growth.
    #[track_caller]
    pub fn take(&mut self, main: i32, place: &Place, (spool, all): (&str, usize), every: Duration) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now - last < every) {
            return;
        }
        self.last = Some(now);
        let Some(main) = Process::read(main).filter(|main| !main.is_zombie()) else { return };
        let children = children_of(main.pid);
        self.look_for_zombies(&children, now);
        let mut known = BTreeMap::new();
        let mut found = Vec::new();
        for process in children.iter().chain([&main]).filter(|process| !process.is_zombie()) {
            let key = (process.pid, process.start);
            let since = self.known.get(&key).copied().unwrap_or(now);
            known.insert(key, since);
            let role = match process.comm.as_str() {
                _ if process.pid == main.pid => "supervisor",
                "source" => "source",
                "buffer" => "buffer",
                name if name.starts_with("worker ") => "worker",
                // Its name comes a moment after the fork; or it is an orphan of a job.
                _ => continue,
            };
            found.push((process, role, now > since));
        }
        self.known = known;
        if found.len() != all || found.iter().any(|(.., is_old)| !is_old) {
            return;
        }
        for (process, role, _) in found {
            let fds = process.descriptors().len() as u64;
            if let Some(rss) = rss_anon(process).filter(|_| fds > 0) {
                self.add(role, "RssAnon, KiB", rss);
                self.add(role, "descriptors", fds);
            }
        }
        self.add("pipeline", "children", children.len() as u64);
        if let Ok(spool) = std::fs::metadata(place.path(spool)) {
            self.add("pipeline", "spool, bytes", spool.len());
            self.add("pipeline", "spool, blocks of 512", spool.blocks());
        }
        let (files, bytes) = below(&place.path(""));
        self.add("pipeline", "files", files);
        self.add("pipeline", "all bytes", bytes);
    }

    /// Main stood still, and has reaped nobody.
    pub fn forget_zombies(&mut self) {
        self.zombies.clear();
    }

    #[track_caller]
    fn look_for_zombies(&mut self, children: &[Process], now: Instant) {
        let mut zombies = BTreeMap::new();
        for zombie in children.iter().filter(|child| child.is_zombie()) {
            let key = (zombie.pid, zombie.start);
            let since = self.zombies.get(&key).copied().unwrap_or(now);
            assert!(now - since < ZOMBIE, "main does not reap {}", zombie.describe());
            zombies.insert(key, since);
        }
        self.zombies = zombies;
    }

    /// The middle of the first and of the last quarter of each series, and how many figures it has; an
    /// error for each that has grown.
    pub fn judge(&self, pipeline: &str) -> (String, Vec<String>) {
        let (mut table, mut errors) = (String::new(), Vec::new());
        for limit in &LIMITS {
            for ((role, _), series) in self.series.iter().filter(|((_, it), _)| *it == limit.what) {
                let quarter = self.began.elapsed() / 4;
                let middle = |from: Duration, to: Duration| {
                    let within = series.iter().filter(|(at, _)| (from..to).contains(at));
                    let mut values: Vec<u64> = within.map(|(_, value)| *value).collect();
                    values.sort_unstable();
                    let enough = values.len() >= LOOKS;
                    values.get(values.len() / 2).copied().filter(|_| enough)
                };
                let Some((first, last)) =
                    middle(Duration::ZERO, quarter).zip(middle(quarter * 3, Duration::MAX))
                else {
                    continue;
                };
                let most = series.iter().map(|(_, value)| *value).max().unwrap_or(0);
                let (what, count) = (limit.what, series.len());
                let _ = writeln!(
                    table,
                    "{pipeline:8} {role:11} {what:21} {first:>9} {last:>9} {most:>9} {count:>7}"
                );
                let allowed = (first as f64 * limit.factor) as u64 + limit.more;
                if last > allowed {
                    errors.push(format!(
                        "{pipeline}, {role}: {what}: {first} in the first quarter, {last} in the last, \
                         and {allowed} would be flat"
                    ));
                }
            }
        }
        (table, errors)
    }
}

fn rss_anon(process: &Process) -> Option<u64> {
    process.status("RssAnon")?.split_whitespace().next()?.parse().ok()
}

/// Files below a folder, and their bytes.
fn below(folder: &std::path::Path) -> (u64, u64) {
    let (mut files, mut bytes) = (0, 0);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(data) if data.is_dir() => {
                let (more, of_them) = below(&entry.path());
                (files, bytes) = (files + more, bytes + of_them);
            }
            Ok(data) => (files, bytes) = (files + 1, bytes + data.len()),
            Err(_) => {}
        }
    }
    (files, bytes)
}
