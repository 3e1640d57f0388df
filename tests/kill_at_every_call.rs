//! SIGKILL at the entry of each system call of each role, from start-up to shut-down, and of the
//! restart that recovers from a kill in mid-flush: each job has its result exactly once.
//!
//! Main is killed by strace itself, which injects the signal. A child can't be: strace follows
//! main into all of its children, and counts in each anew. So strace holds whoever comes to call N
//! for a moment before the call is made, and the test kills it there if it has the role in question.
//!
//! By default every call of the kinds in [`TELLING`] is taken and a third of the others (twenty of
//! a kind at the most), which of them is the seed's choice. PROCSIG_TEST_SWEEP=all takes them all.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use support::place::{OUTPUT, SPOOL, is_rotated};
use support::{
    Balance, Ended, Launch, Line, Place, Process, Running, Seed, Signal, example, log, needs,
    poll_until,
};

/// Calls between which the spool or the output changes, or that others wait for.
const TELLING: [&str; 20] = [
    "clone",
    "clone3",
    "exit_group",
    "fallocate",
    "fchmod",
    "fdatasync",
    "fsync",
    "ftruncate",
    "futex",
    "kill",
    "mmap",
    "openat",
    "pwrite64",
    "rename",
    "renameat2",
    "sendmsg",
    "splice",
    "unlink",
    "waitid",
    "write",
];

const JOBS: usize = 16;

/// How long strace holds a process before the call: the test must have seen it by then.
const HOLD: Duration = Duration::from_millis(100);

/// The parts that are played, by the beginnings of their names.
const CHILDREN: [&str; 3] = ["source", "buffer", "worker"];

/// One instant: before call `number` of this name, in whichever thread of the role makes that many.
#[derive(Debug, Clone)]
struct Point {
    role: String,
    name: String,
    number: usize,
    list: List,
}

/// How the list of jobs comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    File,
    /// Through a pipe, in pieces that are no lines.
    Pipe,
    /// A file; and the output is set aside again and again.
    Rotated,
}

/// The calls of each role by name, in order: does it look at a process in /proc? Of those there are as
/// many as there are processes on the machine, and one is like the other.
type Calls = BTreeMap<(String, String), Vec<bool>>;

fn place() -> Place {
    let place = Place::of(example("test_pipelines"));
    place.jobs(JOBS);
    place
}

/// The pipeline, not started yet.
fn durable(place: &Place, list: List) -> Launch<'_> {
    match list {
        List::File => return place.command(&["durable"]),
        List::Rotated => return place.command(&["durable", "rotated"]),
        List::Pipe => {}
    }
    let (stdin, mut writer) = std::io::pipe().expect("a pipe");
    let watched = stdin.try_clone().expect("a descriptor");
    let list = place.read("jobs.txt");
    // In the middle so much that nobody wants that memory is given back.
    let middle = list[..list.len() / 2].rfind('\n').map_or(0, |end| end + 1);
    let (begin, end) = list.split_at(middle);
    let blank = format!("{}\n", " ".repeat(999)).repeat(300);
    let pieces = begin.as_bytes().chunks(23).chain([blank.as_bytes()]);
    let pieces = pieces.chain(end.as_bytes().chunks(23)).map(<[u8]>::to_vec);
    let pieces: Vec<Vec<u8>> = pieces.collect();
    std::thread::spawn(move || {
        for piece in pieces {
            writer.write_all(&piece).expect("write the list");
            // Each comes when the one before it was taken: or all would be taken at once.
            let taken = || rustix::io::ioctl_fionread(&watched).is_ok_and(|left| left == 0);
            poll_until(support::WATCHDOG, || taken().then_some(()));
        }
    });
    place.command(&["durable", "-"]).stdin(stdin)
}

/// A place in which everything was killed with a batch in the output that is not committed.
fn crashed_place() -> Place {
    crashed_place_with(List::File)
}

fn crashed_place_with(list: List) -> Place {
    let place = place();
    let file = place.private("crash");
    let inject = "inject=fdatasync:signal=KILL:when=3";
    let strace = strace(&file, "fdatasync", inject);
    let run = durable(&place, list).under(&strace.each_ref().map(String::as_str)).start();
    run.until("the buffer killed before it commits", |_| {
        trace(&file).contains("killed by SIGKILL").then_some(())
    });
    // Main first, or it would start again what is killed after it.
    for process in run.of_program() {
        if let Some(handle) = process.handle() {
            handle.send(Signal::KILL);
        }
    }
    let ended = run.wait();
    if ended.code == Some(0) {
        // All was written in one batch, and no buffer has made a third call. The next try will do.
        return crashed_place_with(list);
    }
    // Or it has given up by itself, since each buffer was killed: that leaves the same.
    assert!(ended.signal == Some(9) || ended.code == Some(1), "{}", ended.describe());
    place.until_all_have_ended();
    place
}

/// strace's arguments: all processes, one kind of call, with this done to it.
fn strace(file: &Path, name: &str, inject: &str) -> [String; 8] {
    let (file, trace) = (file.to_str().expect("UTF-8"), format!("trace={name}"));
    ["strace", "-f", "-o", file, "-e", &trace, "-e", inject].map(str::to_owned)
}

fn trace(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// The name of the call that begins in this line.
fn call(line: &str) -> Option<&str> {
    let (name, _) = line.split_once('(')?;
    let whole = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (whole && !name.is_empty()).then_some(name)
}

/// Counts the calls of a run that nobody kills.
fn calls(place: &Place, list: List) -> Calls {
    let file = place.private("trace");
    let arguments = ["strace", "-f", "-o", file.to_str().expect("UTF-8")];
    let ended = durable(place, list).under(&arguments).finish();
    ended.assert_exit(0);
    let text = trace(&file);
    let lines = || text.lines().filter_map(|line| line.split_once(' '));
    let lines = || lines().map(|(id, line)| (id, line.trim_start()));
    // Who is whose thread, and what the processes call themselves.
    let (mut leaders, mut names) = (BTreeMap::new(), BTreeMap::new());
    for (id, line) in lines() {
        leaders.entry(id.to_owned()).or_insert_with(|| id.to_owned());
        let threads = line.starts_with("clone") || line.starts_with("<... clone");
        let child = line.rsplit_once(" = ").map(|(_, child)| child.trim().to_owned());
        if let Some(child) = child.filter(|_| threads && line.contains("CLONE_THREAD")) {
            let leader = leaders[id].clone();
            leaders.insert(child, leader);
        } else if let Some((_, rest)) = line.split_once("PR_SET_NAME, \"") {
            let name = rest.split(['"', ' ']).next().unwrap_or_default();
            names.entry(id.to_owned()).or_insert_with(|| name.to_owned());
        }
    }
    let role = |id: &str| {
        // A thread whose birth was written in two pieces counts for main and is found there or not.
        let name = leaders.get(id).and_then(|leader| names.get(leader)).map(String::as_str);
        name.filter(|name| CHILDREN.contains(name)).unwrap_or("main").to_owned()
    };
    let mut by_thread: BTreeMap<(&str, &str), Vec<bool>> = BTreeMap::new();
    for (id, line) in lines() {
        if let Some(name) = call(line) {
            by_thread.entry((id, name)).or_default().push(line.contains("\"/proc/"));
        }
    }
    let mut calls = Calls::new();
    for ((id, name), made) in by_thread {
        let most = calls.entry((role(id), name.to_owned())).or_default();
        if made.len() > most.len() {
            *most = made;
        }
    }
    for role in CHILDREN.iter().chain(&["main"]) {
        let total: usize =
            calls.iter().filter(|((r, _), _)| r == role).map(|(_, made)| made.len()).sum();
        eprintln!("{role}: {total} system calls");
        assert!(total > 40, "strace saw hardly anything of {role}: {text}");
    }
    calls
}

/// The points of these roles that are taken, a few more than were counted: the number of wake-ups
/// varies.
fn points(calls: &Calls, list: List, seed: &mut Seed, wanted: impl Fn(&str) -> bool) -> Vec<Point> {
    let all = match std::env::var("PROCSIG_TEST_SWEEP").as_deref() {
        Ok("all") => true,
        Ok(other) => panic!("PROCSIG_TEST_SWEEP={other}: `all`, or nothing"),
        Err(_) => false,
    };
    let mut points = Vec::new();
    // The first is what strace itself starts the program with.
    for ((role, name), made) in calls.iter().filter(|((r, n), _)| wanted(r) && n != "execve") {
        let count = made.len();
        let more = if matches!(name.as_str(), "futex" | "write") { count / 5 } else { 0 };
        for number in 1..=count + more {
            let telling = TELLING.contains(&name.as_str()) && made.get(number - 1) != Some(&true);
            // Of a name that is called hundreds of times (through /proc) no more than twenty.
            if all || telling || seed.below(count.max(60) as u64) < 20 {
                points.push(Point { role: role.clone(), name: name.clone(), number, list });
            }
        }
    }
    points
}

/// Main is killed before its call: the first thread of it, which makes nearly all.
fn kill_main(place: &Place, point: &Point) -> Ended {
    let file = place.private("kill");
    let inject = format!("inject={}:signal=KILL:when={}", point.name, point.number);
    let strace = strace(&file, &point.name, &inject);
    let only_main: Vec<&str> =
        strace.iter().map(String::as_str).filter(|argument| *argument != "-f").collect();
    durable(place, point.list).under(&only_main).finish()
}

/// One child of the role is killed before its call. Says whether one has come to it.
fn kill_child(place: &Place, point: &Point) -> (Ended, bool) {
    let file = place.private("kill");
    let inject =
        format!("inject={}:delay_enter={}:when={}", point.name, HOLD.as_micros(), point.number);
    let strace = strace(&file, &point.name, &inject);
    let strace = strace.each_ref().map(String::as_str);
    let run = durable(place, point.list).under(&strace).start();
    let mut passed = BTreeSet::new();
    let killed = poll_until(support::WATCHDOG, || {
        let over = run.has_ended();
        for thread in held(&trace(&file), point) {
            if passed.insert(thread) && plays(&run, thread, &point.role).is_some_and(kill) {
                return Some(true);
            }
        }
        over.then_some(false)
    });
    let ended = run.wait();
    // On a busy machine it may have gone on, and ended, before the signal came.
    let in_time = trace(&file).contains("+++ killed by SIGKILL");
    (ended, killed == Some(true) && in_time)
}

/// The threads that are in their call with this number at this moment.
fn held(trace: &str, point: &Point) -> Vec<i32> {
    let mut counts: BTreeMap<i32, usize> = BTreeMap::new();
    let mut held = BTreeSet::new();
    for line in trace.lines() {
        let Some((id, line)) = line.split_once(' ') else { continue };
        let Ok(id) = id.parse() else { continue };
        held.remove(&id);
        if call(line.trim_start()) == Some(&point.name) {
            let count = counts.entry(id).or_default();
            *count += 1;
            // What has returned is too late.
            if *count == point.number
                && (line.ends_with("<unfinished ...>") || !line.contains(" = "))
            {
                held.insert(id);
            }
        }
    }
    held.into_iter().collect()
}

/// The process of a thread, if it is a child of main that plays this role. Before it has its name
/// it is known by its place among its siblings: they are started in a fixed order.
fn plays(run: &Running<'_>, thread: i32, role: &str) -> Option<Process> {
    let leader = Process::read(thread)?.status("Tgid")?.parse().ok()?;
    let process = Process::read(leader)?;
    if process.parent == run.pid() {
        return None;
    }
    if CHILDREN.iter().any(|name| process.comm.starts_with(name)) {
        return process.comm.starts_with(role).then_some(process);
    }
    let siblings = Process::all().into_iter().filter(|other| other.parent == process.parent);
    let before =
        siblings.filter(|other| (other.start, other.pid) < (process.start, leader)).count();
    let order = ["buffer", "worker", "worker", "source"];
    (order.get(before) == Some(&role)).then_some(process)
}

fn kill(process: Process) -> bool {
    process.handle().is_some_and(|handle| handle.send(Signal::KILL))
}

/// How often each job of the list is in the output, all lines of which are whole.
#[track_caller]
fn times(place: &Place) -> Vec<usize> {
    let mut times = vec![0; JOBS];
    for line in place.everything().split_inclusive('\n') {
        assert!(line.ends_with('\n'), "half of a line: {line}");
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        let number =
            line["number"].as_u64().unwrap_or_else(|| panic!("no result: {line}")) as usize;
        assert_eq!(line["text"].as_str(), Some(format!("job-{number}").as_str()), "{line}");
        times[number - 1] += 1;
    }
    times
}

#[track_caller]
fn assert_no_stray_file(place: &Place) {
    let mut files = place.files();
    files.retain(|name| !is_rotated(name));
    files.retain(|name| ![OUTPUT, SPOOL, "jobs.txt"].contains(&name.as_str()));
    assert!(files.is_empty(), "files left behind: {files:?}");
}

/// Where a sweep is; what was wrong so far is told at its end, all of it.
#[derive(Default)]
struct Sweep {
    killed: usize,
    not_reached: usize,
    wrong: Vec<String>,
}

impl Sweep {
    /// Judges each point by itself, so that one fault does not hide the others.
    fn run(points: &[Point], seed: &Seed, judge: impl Fn(&Point) -> bool) {
        let _keep = seed;
        let mut sweep = Sweep::default();
        for point in points {
            let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge(point)));
            match judged {
                Ok(true) => sweep.killed += 1,
                Ok(false) => sweep.not_reached += 1,
                Err(_) => {
                    eprintln!("this happened at {point:?}");
                    sweep.wrong.push(format!("{point:?}"));
                }
            }
        }
        eprintln!("{} kills; {} points were not reached", sweep.killed, sweep.not_reached);
        let wrong = &sweep.wrong;
        assert!(wrong.is_empty(), "wrong at {} points:\n{}", wrong.len(), wrong.join("\n"));
        let enough = sweep.killed * 10 >= points.len() * 7;
        assert!(enough, "{} kills at {} points show nothing", sweep.killed, points.len());
    }
}

/// The log, without what strace says of itself.
#[track_caller]
fn log_of(ended: &Ended) -> Vec<Line> {
    let lines = ended.stderr.split_inclusive('\n').filter(|line| !line.starts_with("strace: "));
    log::parse(&lines.collect::<String>())
}

/// Main was killed: started again it ends by itself, with each job in the output exactly once. Only
/// if the list had come to its end before the kill may it begin anew.
fn judge_death_of_main(place: &Place, point: &Point) -> bool {
    let first = kill_main(place, point);
    if first.signal.is_none() {
        first.assert_exit(0);
        assert_eq!(times(place), [1; JOBS], "{}", first.describe());
        return false;
    }
    assert_eq!(first.signal, Some(9), "{}", first.describe());
    // At every other point the next start finds orphans and must wait for them itself.
    if point.number.is_multiple_of(2) {
        place.until_all_have_ended();
    }
    let second = durable(place, point.list).finish();
    let told = || format!("{}\n{}", first.describe(), second.describe());
    assert_eq!((second.code, second.signal), (Some(0), None), "{}", told());
    second.assert_nothing_left();
    let balance = Balance::of(&log_of(&second));
    balance.assert_even();
    assert_eq!((balance.kept, balance.failed, balance.left), (0, 0, 0), "{}", told());
    let anew = first.stderr.contains("requested: finished") && balance.published == JOBS as u64;
    let expected = if anew { 2 } else { 1 };
    assert_eq!(times(place), [expected; JOBS], "{}", told());
    assert_no_stray_file(place);
    true
}

/// A child was killed: main goes on, the list is done in the same run, as if nothing had been.
fn judge_death_of_child(place: &Place, point: &Point) -> bool {
    let (ended, killed) = kill_child(place, point);
    assert_eq!((ended.code, ended.signal), (Some(0), None), "{}", ended.describe());
    ended.assert_nothing_left();
    if killed {
        let said = log_of(&ended).iter().any(|line| line.message.contains("has died: "));
        assert!(said, "a death that nobody has noticed\n{}", ended.describe());
    }
    let balance = Balance::of(&log_of(&ended));
    balance.assert_even();
    assert_eq!((balance.kept, balance.failed, balance.left), (0, 0, 0), "{}", ended.describe());
    assert_eq!(times(place), [1; JOBS], "{}", ended.describe());
    assert_no_stray_file(place);
    // That would be somebody else's doing.
    assert!(!ended.stderr.contains("not the file it was"), "{}", ended.describe());
    assert!(!ended.stderr.contains("; appending to a new one"), "{}", ended.describe());
    killed
}

fn is_main(role: &str) -> bool {
    role == "main"
}

fn is_child(role: &str) -> bool {
    role != "main"
}

#[test]
fn main_killed_at_any_system_call_of_a_run_loses_and_doubles_nothing() {
    if needs("main_killed_at_any_system_call_of_a_run", &["strace"]) {
        let mut seed = Seed::new();
        let points = points(&calls(&place(), List::File), List::File, &mut seed, is_main);
        Sweep::run(&points, &seed, |point| judge_death_of_main(&place(), point));
    }
}

#[test]
fn a_child_killed_at_any_system_call_of_a_run_is_replaced_and_the_run_ends_as_if_it_lived() {
    if needs("a_child_killed_at_any_system_call_of_a_run", &["strace"]) {
        let mut seed = Seed::new();
        let points = points(&calls(&place(), List::File), List::File, &mut seed, is_child);
        Sweep::run(&points, &seed, |point| judge_death_of_child(&place(), point));
    }
}

#[test]
fn a_source_that_reads_a_pipe_killed_at_any_system_call_is_replaced_and_no_line_is_lost() {
    if needs("a_source_that_reads_a_pipe_killed_at_any_system_call", &["strace"]) {
        let mut seed = Seed::new();
        let calls = calls(&place(), List::Pipe);
        let points = points(&calls, List::Pipe, &mut seed, |role| role == "source");
        let moves = points.iter().filter(|point| point.name == "splice").count();
        assert!(moves > 5, "hardly anything was moved: {points:?}");
        Sweep::run(&points, &seed, |point| judge_death_of_child(&place(), point));
    }
}

#[test]
fn main_killed_at_any_system_call_of_the_restart_that_recovers_loses_and_doubles_nothing() {
    if needs("main_killed_at_any_system_call_of_the_restart", &["strace"]) {
        let mut seed = Seed::new();
        let points = points(&calls(&crashed_place(), List::File), List::File, &mut seed, is_main);
        Sweep::run(&points, &seed, |point| judge_death_of_main(&crashed_place(), point));
    }
}

#[test]
fn a_child_killed_at_any_system_call_of_the_restart_that_recovers_is_replaced() {
    if needs("a_child_killed_at_any_system_call_of_the_restart", &["strace"]) {
        let mut seed = Seed::new();
        let points = points(&calls(&crashed_place(), List::File), List::File, &mut seed, is_child);
        Sweep::run(&points, &seed, |point| judge_death_of_child(&crashed_place(), point));
    }
}

#[test]
fn a_buffer_killed_at_any_system_call_of_a_rotation_is_replaced_and_each_record_is_there_once() {
    if needs("a_buffer_killed_at_any_system_call_of_a_rotation", &["strace"]) {
        let mut seed = Seed::new();
        let list = List::Rotated;
        let mut points = points(&calls(&place(), list), list, &mut seed, |role| role == "buffer");
        points.retain(|point| TELLING.contains(&&*point.name));
        let renames = points.iter().filter(|point| point.name == "renameat2").count();
        assert!(renames >= 3, "hardly anything was rotated: {points:?}");
        Sweep::run(&points, &seed, |point| {
            let place = place();
            let killed = judge_death_of_child(&place, point);
            assert!(place.rotated().len() >= 3, "{:?}", place.files());
            killed
        });
    }
}

/// All is killed in mid-rotation, main as well, before each call of the buffer that names a file.
#[test]
fn everything_killed_at_any_call_of_a_rotation_that_names_a_file_loses_and_doubles_nothing() {
    let test = "everything_killed_at_any_call_of_a_rotation_that_names_a_file";
    if !needs(test, &["strace"]) {
        return;
    }
    let seed = Seed::new();
    let list = List::Rotated;
    let point = |name: &str, number| {
        let (role, name) = ("buffer".to_owned(), name.to_owned());
        Point { role, name, number, list }
    };
    let calls = ["renameat2", "fsync", "fchmod", "fdatasync", "openat"];
    let points = calls.iter().flat_map(|name| (1..=4).map(|number| point(name, number)));
    let points: Vec<Point> = points.collect();
    Sweep::run(&points, &seed, |point| {
        let place = place();
        let killed = kill_all_when_the_buffer_calls(&place, point);
        place.until_all_have_ended();
        let second = durable(&place, list).finish();
        assert_eq!((second.code, second.signal), (Some(0), None), "{}", second.describe());
        second.assert_nothing_left();
        Balance::of(&log_of(&second)).assert_even();
        assert_no_stray_file(&place);
        // If it had come to its end before, the list was begun anew.
        let found = times(&place);
        assert!(found == [1; JOBS] || (!killed && found == [2; JOBS]), "{found:?}");
        killed
    });
}

/// Kills main and then all others while the buffer is held before its call. Says whether it was.
fn kill_all_when_the_buffer_calls(place: &Place, point: &Point) -> bool {
    let file = place.private("kill");
    let hold = 10 * HOLD.as_micros();
    let inject = format!("inject={}:delay_enter={hold}:when={}", point.name, point.number);
    let strace = strace(&file, &point.name, &inject);
    let strace = strace.each_ref().map(String::as_str);
    let run = durable(place, point.list).under(&strace).start();
    let caught = poll_until(support::WATCHDOG, || {
        let over = run.has_ended();
        let held = held(&trace(&file), point);
        let is_buffer = |thread: &i32| plays(&run, *thread, &point.role).is_some();
        if held.iter().any(is_buffer) {
            for process in run.of_program() {
                if let Some(handle) = process.handle() {
                    handle.send(Signal::KILL);
                }
            }
            return Some(true);
        }
        over.then_some(false)
    });
    let ended = run.wait();
    caught == Some(true) && ended.signal == Some(9)
}
