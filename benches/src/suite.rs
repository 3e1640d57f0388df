//! All workloads, one after the other, and what comes of them.

use crate::contest::{Better, Measure, Row, Timed, pairs, percentile};
use crate::pending::Recovery;
use crate::records::scripts::{PEERS, Peer};
use crate::report::{Figure, Results};
use crate::scale::Scale;
use crate::{commands, growth, idle, latency, machine, pending, processes, record, records, stop};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Processes that produce, where not said otherwise.
const PRODUCERS: u64 = 2;
/// Bytes of a record as a line, about.
const LINE: u64 = 105;

/// Who else carries records to a file, and what the ratio should be.
const CARRIERS: [(&str, Option<f64>); 9] = [
    ("append", Some(0.7)),
    ("crossbeam", Some(2.5)),
    ("crossbeam-256", None),
    ("crossbeam-blocks", Some(1.0)),
    ("pipes", None),
    ("ipc-channel", Some(18.0)),
    ("ipc-channel-256", None),
    ("iceoryx2", Some(3.0)),
    ("iceoryx2-256", None),
];

/// What is measured, where, how often.
#[derive(Debug, Clone)]
pub struct Plan {
    /// A folder in memory.
    pub memory: PathBuf,
    /// A folder on a disk.
    pub disk: PathBuf,
    pub rounds: usize,
    pub scale: Scale,
    /// Names of workloads; none: all.
    pub workloads: Vec<String>,
}

type Workload = fn(&mut Suite) -> io::Result<()>;

/// The workloads by their names.
const WORKLOADS: [(&str, Workload); 8] = [
    ("memory", Suite::memory),
    ("disk", Suite::disk),
    ("commands", Suite::commands),
    ("stop", Suite::stop),
    ("recovery", Suite::recovery),
    ("idle", Suite::idle),
    ("latency", Suite::latency),
    ("growth", Suite::growth),
];

struct Suite {
    plan: Plan,
    /// The last one is being measured.
    sections: Vec<&'static str>,
    rows: Vec<Row>,
    figures: Vec<Figure>,
}

/// Runs the workloads.
///
/// # Errors
/// If one fails, or an output is not as it should be.
pub fn run(plan: Plan) -> io::Result<Results> {
    let unknown = |name: &&String| WORKLOADS.iter().all(|(known, _)| known != name);
    if let Some(name) = plan.workloads.iter().find(unknown) {
        let known = WORKLOADS.map(|(name, _)| name).join(", ");
        return Err(io::Error::other(format!("no workload {name:?}; there are {known}")));
    }
    let before = machine::load();
    let mut suite = Suite { plan, sections: Vec::new(), rows: Vec::new(), figures: Vec::new() };
    for (name, workload) in WORKLOADS {
        if suite.plan.workloads.is_empty() || suite.plan.workloads.iter().any(|it| it == name) {
            eprintln!("== {name}");
            workload(&mut suite)?;
        }
    }
    let conditions = machine::conditions(&suite.plan, &before);
    let Suite { sections, rows, figures, .. } = suite;
    Ok(Results { conditions, sections, rows, figures })
}

impl Suite {
    fn begin(&mut self, section: &'static str) {
        self.sections.push(section);
    }

    fn section(&self) -> &'static str {
        self.sections.last().copied().unwrap_or_default()
    }

    fn contest(
        &mut self,
        workload: &str,
        peer: &str,
        measure: Measure,
        ours: Timed<'_>,
        theirs: Timed<'_>,
    ) -> io::Result<()> {
        let (ours, theirs) = pairs(self.plan.rounds, ours, theirs)?;
        self.row(workload, peer, measure, ours, theirs);
        Ok(())
    }

    fn row(
        &mut self,
        workload: &str,
        peer: &str,
        measure: Measure,
        ours: Vec<f64>,
        theirs: Vec<f64>,
    ) {
        let (workload, peer, section) = (workload.to_string(), peer.to_string(), self.section());
        let row = Row { section, workload, peer, measure, ours, theirs };
        eprintln!("{} beside {}: {:.3}", row.workload, row.peer, row.ratio());
        self.rows.push(row);
    }

    fn figure(&mut self, what: &str, value: f64, unit: &'static str, goal: Option<f64>) {
        eprintln!("{what}: {value:.3} {unit}");
        self.figures.push(Figure {
            section: self.section(),
            what: what.to_string(),
            value,
            unit,
            goal,
        });
    }

    /// Is what is compared with on this machine? Says so if not.
    fn has(&self, program: &str) -> bool {
        let is_here = processes::is_here(program);
        if !is_here {
            eprintln!("{program} is not here: skipped");
        }
        is_here
    }

    fn memory(&mut self) -> io::Result<()> {
        self.begin("Records to a file in memory");
        let (folder, records) = (self.plan.memory.clone(), self.plan.scale.records);
        let workload = format!("{PRODUCERS} × {} records", grouped(records));
        let mut ours = || carry(&folder, "procsig", PRODUCERS, records);
        for (peer, goal) in CARRIERS {
            if peer.starts_with("iceoryx2") && !cfg!(feature = "iceoryx2") {
                eprintln!("{peer} was not built (--features iceoryx2): skipped");
                continue;
            }
            let mut theirs = || carry(&folder, peer, PRODUCERS, records);
            self.contest(&workload, peer, Measure::rate(goal), &mut ours, &mut theirs)?;
        }
        for peer in PEERS {
            if !peer.is_here() {
                eprintln!("{} is not here: skipped", peer.name);
                continue;
            }
            let mut theirs = || carry_by_script(&folder, &peer, PRODUCERS, records / peer.part);
            let measure = Measure::rate(peer.goal);
            self.contest(&workload, peer.name, measure, &mut ours, &mut theirs)?;
        }
        Ok(())
    }

    fn disk(&mut self) -> io::Result<()> {
        self.begin("Records to a file on a disk");
        let (folder, records) = (self.plan.disk.clone(), self.plan.scale.records);
        let workload = format!("{PRODUCERS} × {} records", grouped(records));
        let mut ours = || carry(&folder, "procsig", PRODUCERS, records);
        for (peer, goal) in [("append-synced", Some(0.7)), ("append", None)] {
            let mut theirs = || carry(&folder, peer, PRODUCERS, records);
            self.contest(&workload, peer, Measure::rate(goal), &mut ours, &mut theirs)?;
        }
        Ok(())
    }

    fn commands(&mut self) -> io::Result<()> {
        self.begin("A command for each job");
        let (folder, count) = (self.plan.disk.clone(), self.plan.scale.commands);
        let commands = commands::Commands { folder: &folder, count };
        commands.prepare()?;
        let workload = format!("{} × /bin/true, 4 at a time", grouped(count as u64));
        let mut ours = || commands.procsig();
        type Peer<'a> = (&'static str, &'static str, Option<f64>, Timed<'a>);
        let peers: [Peer<'_>; 3] = [
            ("a loop of posix_spawn", "true", Some(1.2), &mut || commands.spawn_loop()),
            ("xargs -P4", "xargs", Some(1.0), &mut || commands.xargs()),
            ("GNU parallel with a joblog", "parallel", Some(1.0), &mut || commands.parallel()),
        ];
        for (peer, program, goal, theirs) in peers {
            if self.has(program) {
                self.contest(&workload, peer, Measure::seconds(goal), &mut ours, theirs)?;
            }
        }
        Ok(())
    }

    fn stop(&mut self) -> io::Result<()> {
        self.begin("Stop, from the signal to the end of the last process");
        let (folder, records) = (self.plan.disk.clone(), self.plan.scale.pending);
        type Peer = (&'static str, fn(&Path) -> io::Result<f64>, Option<f64>);
        let peers: [Peer; 3] = [
            ("s6-svscan", stop::s6, Some(1.5)),
            ("runsvdir", stop::runit, None),
            ("sigwait, kill, waitpid", stop::bare, None),
        ];
        for (peer, theirs, goal) in peers {
            if peer.contains(' ') || self.has(peer) {
                let (mut ours, mut theirs) = (|| stop::procsig(&folder), || theirs(&folder));
                let measure = Measure::seconds(goal);
                self.contest("idle, 4 workers", peer, measure, &mut ours, &mut theirs)?;
            }
        }
        let workload = format!("{} records pending", grouped(records));
        let mut ours = || pending::stop(&folder, records);
        let mut theirs = || pending::disk(&folder, record::bytes(1, records));
        let peer = "write and fdatasync of as many bytes";
        self.contest(&workload, peer, Measure::seconds(None), &mut ours, &mut theirs)
    }

    fn recovery(&mut self) -> io::Result<()> {
        self.begin("Start after everything was killed");
        let folder = self.plan.disk.clone();
        for mib in self.plan.scale.killed_mib {
            let records = (mib << 20) / LINE;
            let mut own = 0.0;
            let mut ours = || {
                let Recovery { seconds, own_kib } = pending::recover(&folder, records)?;
                own = f64::max(own, own_kib);
                Ok(seconds)
            };
            let mut theirs = || pending::disk(&folder, record::bytes(1, records));
            let workload = format!("{mib} MiB pending, until all is written");
            let peer = "write and fdatasync of as many bytes";
            self.contest(&workload, peer, Measure::seconds(None), &mut ours, &mut theirs)?;
            let what = format!("memory of all processes meanwhile, {mib} MiB pending");
            self.figure(&what, own, "KiB", None);
        }
        let lane = self.plan.scale.large_lane;
        let large = pending::large(&folder, lane, self.plan.rounds)?;
        let spool = format!("a spool of {} MiB", lane >> 20);
        self.figure(&format!("start with {spool}, which is created"), large.new, "s", None);
        let what = format!("start with {spool} after everything was killed");
        self.figure(&what, large.after_kill, "s", None);
        let what = format!("memory of all processes then (PSS), with {spool}");
        self.figure(&what, large.pss_mib, "MiB", None);
        Ok(())
    }

    fn idle(&mut self) -> io::Result<()> {
        self.begin("Idle");
        let watched = self.plan.scale.watched;
        let idle = idle::procsig(&self.plan.disk, watched)?;
        let seconds = watched.as_secs_f64();
        let what = format!("wake-ups of the whole pipeline, 4 workers, in {seconds} s");
        self.figure(&what, idle.wake_ups, "/s", Some(0.0));
        self.figure("memory of a worker process (PSS)", idle.worker_kib, "KiB", Some(1024.0));
        self.figure("memory of all 7 processes (PSS)", idle.all_kib, "KiB", None);
        if self.has("s6-svscan") {
            let s6 = idle::s6(&self.plan.disk, watched)?;
            self.figure("wake-ups of s6-svscan, 4 services", s6.wake_ups, "/s", None);
            self.figure("memory of its 9 processes (PSS)", s6.all_kib, "KiB", None);
        }
        Ok(())
    }

    fn latency(&mut self) -> io::Result<()> {
        self.begin("Latency, from emit to the line in the file");
        for loaded in [false, true] {
            let _load = loaded.then(latency::Load::start).transpose()?;
            let state = if loaded { "both processors busy" } else { "quiet" };
            self.latency_beside("a pipe there and back", state, |count| {
                latency::pipe(count).map(Some)
            })?;
            self.latency_beside(
                "a pipe there and back between two processors",
                state,
                latency::pipe_between_processors,
            )?;
        }
        Ok(())
    }

    /// `theirs`: as many times; `None` if they can't be measured here.
    fn latency_beside(
        &mut self,
        peer: &str,
        state: &str,
        theirs: impl Fn(u64) -> io::Result<Option<Vec<f64>>>,
    ) -> io::Result<()> {
        const PARTS: [(&str, f64); 2] = [("median", 0.5), ("99.9 %", 0.999)];
        let count = self.plan.scale.latencies;
        let (mut ours, mut others) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for _ in 0..self.plan.rounds {
            let times = latency::procsig(&self.plan.disk, count)?;
            let Some(other) = theirs(count)? else { return Ok(()) };
            for (index, (_, part)) in PARTS.into_iter().enumerate() {
                ours[index].push(percentile(&times, part));
                others[index].push(percentile(&other, part));
            }
        }
        for (((name, part), ours), others) in PARTS.into_iter().zip(ours).zip(others) {
            let goal = (state == "quiet" && part == 0.5).then_some(2.0);
            let measure = Measure { unit: "µs", better: Better::Lower, goal };
            self.row(&format!("{name}, {state}"), peer, measure, ours, others);
        }
        Ok(())
    }

    fn growth(&mut self) -> io::Result<()> {
        self.begin("Growth");
        let Scale { records, producers, workers, threads, jobs, .. } = self.plan.scale;
        let (memory, disk) = (self.plan.memory.clone(), self.plan.disk.clone());
        let two = || carry(&memory, "procsig", PRODUCERS, records);
        for number in producers {
            let each = (PRODUCERS * records).div_ceil(*number);
            let mut ours = || carry(&memory, "procsig", *number, each);
            let workload = format!("records of {number} producers");
            // From as many as there are processors it should not become less.
            let measure = Measure::rate((*number > PRODUCERS).then_some(1.0));
            self.contest(&workload, "the same of 2 producers", measure, &mut ours, &mut || two())?;
        }
        for workers in workers {
            let goal = (*workers == 1_000).then_some(3.0);
            let mut ours = || growth::start_and_stop(&disk, *workers);
            let mut theirs = || growth::bare_start_and_stop(*workers);
            let workload = format!("start and stop of {} workers", grouped(*workers as u64));
            let peer = "fork, kill, waitpid of as many";
            self.contest(&workload, peer, Measure::seconds(goal), &mut ours, &mut theirs)?;
        }
        for threads in threads {
            let mut ours = || growth::jobs(&memory, *threads, jobs);
            let workload = format!("jobs that do nothing, 2 × {threads} threads");
            let measure = Measure::rate(Some(0.1));
            self.contest(&workload, "records of 2 producers", measure, &mut ours, &mut || two())?;
        }
        Ok(())
    }
}

/// With a comma for each three digits.
fn grouped(number: u64) -> String {
    match number {
        0..=999 => number.to_string(),
        _ => format!("{},{:03}", grouped(number / 1_000), number % 1_000),
    }
}

/// Million records a second of a contestant, as a whole process.
fn carry(folder: &Path, name: &str, producers: u64, records: u64) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    let task = records::Task { output: folder.path().join("out.jsonl"), producers, records };
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("contestant").arg(name).arg(&task.output);
    command.args([producers.to_string(), records.to_string()]);
    timed(folder.path(), &mut command, &task)
}

fn carry_by_script(folder: &Path, peer: &Peer, producers: u64, records: u64) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    let task = records::Task { output: folder.path().join("out"), producers, records };
    timed(folder.path(), &mut peer.command(&task)?, &task)
}

/// Runs it, and looks at each line of its output.
fn timed(folder: &Path, command: &mut Command, task: &records::Task) -> io::Result<f64> {
    let said = folder.join("stderr");
    command.stdout(Stdio::null()).stderr(File::create(&said)?);
    let began = Instant::now();
    let status = command.status()?;
    let took = began.elapsed().as_secs_f64();
    if !status.success() {
        let said = fs::read_to_string(said)?;
        return Err(io::Error::other(format!("{command:?}: {status}: {said}")));
    }
    record::verify(&task.output, task.producers, task.records)?;
    Ok((task.producers * task.records) as f64 / took / 1e6)
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped() {
        let shown = [5, 1_000, 12_034, 1_000_000].map(super::grouped);
        assert_eq!(shown, ["5", "1,000", "12,034", "1,000,000"]);
    }
}
