//! All workloads, one after the other, and what comes of them.

use crate::contest::{Better, Row, pairs, percentile};
use crate::processes::is_here;
use crate::report::{Figure, picture, table};
use crate::{commands, growth, idle, latency, record, stop};
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const PRODUCERS: u64 = 2;
const RECORDS: u64 = 1_000_000;

/// Who else carries records to a file, and what the ratio should be.
const CARRIERS: [(&str, f64); 9] = [
    ("append", 0.7),
    ("crossbeam", 2.5),
    ("crossbeam-256", 1.0),
    ("crossbeam-blocks", 1.0),
    ("pipes", 1.0),
    ("ipc-channel", 18.0),
    ("ipc-channel-256", 1.0),
    ("iceoryx2", 3.0),
    ("iceoryx2-256", 1.0),
];

struct Suite<'a> {
    folder: &'a Path,
    rounds: usize,
    rows: Vec<Row>,
    figures: Vec<Figure>,
}

/// Runs the workloads of these names, or all, and writes `results.md` and `results.svg` into the
/// folder, in which everything is done.
///
/// # Errors
/// If one fails, or an output is not as it should be.
pub fn run(folder: &Path, rounds: usize, workloads: &[&str]) -> io::Result<()> {
    let mut suite = Suite { folder, rounds, rows: Vec::new(), figures: Vec::new() };
    type Workload<'a> = (&'static str, fn(&mut Suite<'a>) -> io::Result<()>);
    let all: [Workload<'_>; 6] = [
        ("records", Suite::records),
        ("commands", Suite::commands),
        ("stop", Suite::stop),
        ("idle", Suite::idle),
        ("latency", Suite::latency),
        ("growth", Suite::growth),
    ];
    for (name, workload) in all {
        if workloads.is_empty() || workloads.contains(&name) {
            eprintln!("== {name}");
            workload(&mut suite)?;
        }
    }
    let text = table(&machine(), &suite.rows, &suite.figures);
    print!("{text}");
    fs::write(folder.join("results.md"), text)?;
    fs::write(folder.join("results.svg"), picture(&suite.rows))
}

impl Suite<'_> {
    fn contest(
        &mut self,
        workload: &str,
        peer: &str,
        (unit, better, goal): (&'static str, Better, Option<f64>),
        ours: &mut dyn FnMut() -> io::Result<f64>,
        theirs: &mut dyn FnMut() -> io::Result<f64>,
    ) -> io::Result<()> {
        let (ours, theirs) = pairs(self.rounds, ours, theirs)?;
        let (workload, peer) = (workload.to_string(), peer.to_string());
        let row = Row { workload, peer, unit, better, ours, theirs, goal };
        eprintln!("{} beside {}: {:.3}", row.workload, row.peer, row.ratio());
        self.rows.push(row);
        Ok(())
    }

    fn figure(&mut self, workload: &str, value: f64, unit: &'static str, goal: Option<f64>) {
        eprintln!("{workload}: {value:.3} {unit}");
        self.figures.push(Figure { workload: workload.to_string(), value, unit, goal });
    }

    fn records(&mut self) -> io::Result<()> {
        let folder = self.folder;
        let mut ours = || carry(folder, "procsig", PRODUCERS, RECORDS);
        for (peer, goal) in CARRIERS {
            let what = ("M records/s", Better::Higher, Some(goal));
            let mut theirs = || carry(folder, peer, PRODUCERS, RECORDS);
            self.contest("records to a file", peer, what, &mut ours, &mut theirs)?;
        }
        if is_here("python3") {
            let what = ("M records/s", Better::Higher, Some(70.0));
            let mut theirs = || python(folder);
            let peer = "Python's multiprocessing.Queue";
            self.contest("records to a file", peer, what, &mut ours, &mut theirs)?;
        }
        Ok(())
    }

    fn commands(&mut self) -> io::Result<()> {
        let folder = self.folder;
        commands::prepare(folder)?;
        type Peer = (&'static str, fn(&Path) -> io::Result<f64>, Option<f64>);
        let peers: [Peer; 3] = [
            ("a loop of posix_spawn", commands::spawn_loop, Some(1.2)),
            ("xargs", commands::xargs, Some(1.0)),
            ("parallel", commands::parallel, Some(1.0)),
        ];
        for (peer, run, goal) in peers {
            if peer == "parallel" && !is_here(peer) {
                eprintln!("{peer} is not here");
                continue;
            }
            let what = ("s", Better::Lower, goal);
            let (mut ours, mut theirs) = (|| commands::procsig(folder), || run(folder));
            self.contest("5,000 commands", peer, what, &mut ours, &mut theirs)?;
        }
        Ok(())
    }

    fn stop(&mut self) -> io::Result<()> {
        let folder = self.folder;
        type Peer = (&'static str, fn(&Path) -> io::Result<f64>, Option<f64>);
        let peers: [Peer; 2] =
            [("s6-svscan", stop::s6, Some(1.5)), ("runsvdir", stop::runit, None)];
        for (peer, run, goal) in peers {
            if !is_here(peer) {
                eprintln!("{peer} is not here");
                continue;
            }
            let what = ("s", Better::Lower, goal);
            let (mut ours, mut theirs) = (|| stop::procsig(folder), || run(folder));
            self.contest("stop, idle", peer, what, &mut ours, &mut theirs)?;
        }
        let what = ("s", Better::Lower, None);
        let (mut ours, mut theirs) = (|| stop::with_pending(folder), || stop::disk(folder));
        let peer = "writing as many bytes to the disk";
        self.contest("stop, 1,000,000 records pending", peer, what, &mut ours, &mut theirs)
    }

    fn idle(&mut self) -> io::Result<()> {
        let idle = idle::procsig(self.folder)?;
        self.figure("wake-ups of an idle pipeline", idle.wake_ups, "/s", Some(0.0));
        self.figure("memory of an idle worker (PSS)", idle.worker_kib, "KiB", Some(1024.0));
        self.figure("memory of the idle pipeline, 4 workers (PSS)", idle.all_kib, "KiB", None);
        Ok(())
    }

    fn latency(&mut self) -> io::Result<()> {
        for loaded in [false, true] {
            let _load = loaded.then(latency::Load::start).transpose()?;
            let state = if loaded { "both processors busy" } else { "quiet" };
            let (mut slowest, mut pipe_slowest) = (Vec::new(), Vec::new());
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..self.rounds {
                let (times, pipe) = (latency::procsig(self.folder)?, latency::pipe()?);
                ours.push(percentile(&times, 0.5));
                slowest.push(percentile(&times, 0.999));
                theirs.push(percentile(&pipe, 0.5));
                pipe_slowest.push(percentile(&pipe, 0.999));
            }
            let row = |part: &str, ours, theirs, goal| Row {
                workload: format!("emit to line in the file, {part}, {state}"),
                peer: "a pipe there and back".into(),
                unit: "µs",
                better: Better::Lower,
                ours,
                theirs,
                goal,
            };
            self.rows.push(row("median", ours, theirs, (!loaded).then_some(2.0)));
            self.rows.push(row("99.9 %", slowest, pipe_slowest, None));
        }
        Ok(())
    }

    fn growth(&mut self) -> io::Result<()> {
        for producers in [1, 2, 4, 16, 64, 256] {
            let rate = carry(self.folder, "procsig", producers, 2 * RECORDS / producers)?;
            self.figure(&format!("records, {producers} producers"), rate, "M/s", None);
        }
        let folder = self.folder;
        for workers in [1, 10, 100, 1_000] {
            let what = ("s", Better::Lower, (workers == 1_000).then_some(3.0));
            let mut ours = || growth::start_and_stop(folder, workers);
            let mut theirs = || growth::bare_start_and_stop(workers);
            let workload = format!("start and stop of {workers} workers");
            self.contest(&workload, "bare fork and wait", what, &mut ours, &mut theirs)?;
        }
        for threads in [1, 4, 16, 64] {
            let rate = growth::jobs(folder, threads, 300_000)?;
            let workload = format!("jobs that do nothing, 2 processes of {threads} threads");
            self.figure(&workload, rate, "M/s", None);
        }
        Ok(())
    }
}

/// Million records a second of a contestant, as a whole process. Run once unmeasured right before:
/// memory that has gone back to the host of a virtual machine costs much to get back.
fn carry(folder: &Path, name: &str, producers: u64, records: u64) -> io::Result<f64> {
    let mut rate = 0.0;
    for _ in 0..2 {
        let folder = tempfile::tempdir_in(folder)?;
        let output = folder.path().join("out.jsonl");
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("contestant").arg(name).arg(&output);
        command.args([producers.to_string(), records.to_string()]).stderr(Stdio::null());
        let began = Instant::now();
        let status = command.status()?;
        rate = (producers * records) as f64 / began.elapsed().as_secs_f64() / 1e6;
        if !status.success() {
            return Err(io::Error::other(format!("{name}: {status}")));
        }
        record::verify(&output, producers, records)?;
    }
    Ok(rate)
}

/// The design of many a Python daemon: a queue to a process that writes lines. A tenth of the
/// records, since it is slow.
fn python(folder: &Path) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    let output = folder.path().join("out.jsonl");
    let records = RECORDS / 10;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/queue_to_file.py");
    let began = Instant::now();
    let status = Command::new("python3")
        .arg(script)
        .arg(&output)
        .args([PRODUCERS.to_string(), records.to_string()])
        .status()?;
    let took = began.elapsed();
    if !status.success() {
        return Err(io::Error::other(format!("python3: {status}")));
    }
    record::verify(&output, PRODUCERS, records)?;
    Ok((PRODUCERS * records) as f64 / took.as_secs_f64() / 1e6)
}

/// What it was measured on.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    format!(
        "{processors} processors ({}), Linux {}, load at the end {}",
        model.map_or("unknown", |(_, name)| name),
        read("/proc/sys/kernel/osrelease").trim(),
        load.split(' ').next().unwrap_or("unknown")
    )
}
