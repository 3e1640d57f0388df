//! The processes themselves: names, sessions, descriptors, what they inherit, what they leave.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use support::processes::pipes_and_sockets;
use support::verdict::goes_on_to_the_end;
use support::{Place, Process, Running, Signal, Terminal, log, needs, tool};

/// Two workers of two threads of the kind `ping`, with jobs that wait for the file `calm`.
fn place() -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(200);
    place.config("");
    place.work_script("[ -e calm ] || sleep 0.05");
    (place, jobs)
}

#[track_caller]
fn stop(run: Running) -> support::Ended {
    run.signal(Signal::TERM);
    let ended = run.wait();
    ended.assert_exit(5);
    log::assert_full_stop(&ended.log(), 2);
    ended
}

#[test]
fn each_role_has_its_name_in_ps() {
    if !needs("each_role_has_its_name_in_ps", &["ps"]) {
        return;
    }
    let (place, _) = place();
    let run = place.start();
    let mut names = BTreeSet::new();
    for child in run.children(2) {
        let shown = tool("ps", &["-o", "comm=", "-p", &child.pid.to_string()]);
        names.insert(String::from_utf8_lossy(&shown.stdout).trim().to_owned());
    }
    let expected = ["buffer", "source", "worker ping/0", "worker ping/1"];
    assert_eq!(names, expected.map(str::to_owned).into());
    stop(run);
}

#[test]
fn the_log_names_the_role_and_pid_of_each_process() {
    let (place, _) = place();
    let run = place.start();
    let mut processes: BTreeSet<(String, i32)> =
        run.children(2).into_iter().map(|child| (child.comm, child.pid)).collect();
    processes.insert(("supervisor".to_owned(), run.supervisor().pid));
    let log = stop(run).log();
    let logged: BTreeSet<(String, i32)> =
        log.into_iter().map(|line| (line.role, line.pid)).collect();
    assert_eq!(logged, processes);
}

#[test]
fn pgrep_finds_every_process_by_the_command_line() {
    if !needs("pgrep_finds_every_process_by_the_command_line", &["pgrep"]) {
        return;
    }
    let (place, _) = place();
    let run = place.start();
    let mut expected: BTreeSet<i32> = run.children(2).iter().map(|child| child.pid).collect();
    let main = run.supervisor();
    expected.insert(main.pid);
    let found = tool("pgrep", &["-f", &place.name]);
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    let found: BTreeSet<i32> = found.lines().map(|pid| pid.parse().expect("a pid")).collect();
    // A command that is being started can be there too.
    assert!(found.is_superset(&expected), "{found:?} lacks some of {expected:?}");
    for child in run.children(2) {
        assert_eq!(child.command_line(), main.command_line(), "argv was rewritten");
    }
    stop(run);
}

#[test]
fn each_worker_leads_a_session_of_its_own() {
    let (place, _) = place();
    let run = place.start();
    let main = run.supervisor();
    for child in run.children(2) {
        let expected = if child.comm.starts_with("worker ") { child.pid } else { main.session };
        assert_eq!(child.session, expected, "{child:?}");
    }
    stop(run);
}

#[test]
fn no_child_holds_a_channel_of_another_child() {
    let (place, _) = place();
    let run = place.start();
    run.until_started(8);
    let children = run.children(2);
    let main = run.supervisor();
    let mut holders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut everything = String::new();
    let inherited = inherited();
    for process in children.iter().chain([&main]) {
        let descriptors = process.descriptors();
        everything += &format!("{} {}: {descriptors:#?}\n", process.comm, process.pid);
        let is_main = process.pid == main.pid;
        for channel in pipes_and_sockets(&descriptors) {
            // A pipe of main and one child is the two ends of one channel.
            let counts = !is_main || channel.starts_with("socket:");
            if counts && !inherited.contains(&channel) {
                holders.entry(channel).or_default().push(process.comm.clone());
            }
        }
    }
    // In two sockets main keeps the output that every buffer takes from there.
    let mut of_the_output = 0;
    for (channel, holders) in &mut holders {
        holders.dedup();
        if *holders == ["buffer", main.comm.as_str()] {
            of_the_output += 1;
        } else {
            assert_eq!(holders.len(), 1, "{channel} is held by {holders:?}\n{everything}");
        }
    }
    assert_eq!(of_the_output, 2, "{everything}");
    stop(run);
}

#[test]
fn a_command_sees_its_three_standard_streams_and_nothing_else() {
    let place = Place::new();
    place.jobs(40);
    let list = "n=3; while [ $n -lt 1100 ]; do
        [ -L /proc/$$/fd/$n ] && readlink /proc/$$/fd/$n; n=$((n + 1)); done; true";
    let run = place.run(&["--jobs", "jobs.txt"], &["sh", "-c", list]);
    run.finish().assert_exit(0);
    let inherited = inherited();
    for line in place.results().lines {
        let mut seen: Vec<&str> = line["stdout"].as_str().expect("text").lines().collect();
        seen.retain(|target| !inherited.contains(*target));
        assert!(seen.is_empty(), "{line}");
    }
}

/// What this test program has open, and so perhaps every program that it starts: the pipes of
/// cargo's job server, for one.
fn inherited() -> BTreeSet<String> {
    let us = Process::read(std::process::id() as i32).expect("this process");
    let target = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    us.descriptors().into_values().map(target).collect()
}

#[test]
fn as_the_first_process_of_a_namespace_it_stops_in_order() {
    if !needs("as_the_first_process_of_a_namespace_it_stops_in_order", &["root", "unshare"]) {
        return;
    }
    let (place, jobs) = place();
    // An orphan of a job comes to process 1, which has to reap it.
    place.work_script("[ -e calm ] || { (sleep 0.01 &); sleep 0.05; }");
    let run = place.command(&["run", "pings.toml"]).under(&["unshare", "-pf", "--mount-proc"]);
    let run = run.start();
    run.until_started(20);
    let inside = run.supervisor().status("NSpid").expect("its pids");
    assert_eq!(inside.split_whitespace().last(), Some("1"), "{inside}");
    run.signal(Signal::TERM);
    let ended = run.wait();
    ended.assert_exit(5);
    let log = ended.log();
    log::assert_full_stop(&log, 2);
    assert_eq!(log.last().map(|line| line.pid), Some(1));
    place.write("calm", "");
    let again = place.command(&["run", "pings.toml"]).finish();
    again.assert_exit(0);
    place.results().assert_exactly_once(&jobs);
}

/// A container: process 1, a root that can't be written, one directory that can, no HOME, no terminal.
#[test]
fn in_a_container_with_a_read_only_root_it_needs_one_directory_and_a_second_signal_counts() {
    let name =
        "in_a_container_with_a_read_only_root_it_needs_one_directory_and_a_second_signal_counts";
    if !needs(name, &["root", "unshare", "mount"]) {
        return;
    }
    let (place, _) = place();
    place.work_script("while :; do sleep 0.1; done");
    let inside = "here=$(pwd) && mount --bind \"$here\" \"$here\" && mount -o remount,ro,bind / && \
                  cd \"$here\" && ! touch /read-only 2>/dev/null && exec env -u HOME \"$@\"";
    let container = ["unshare", "-pfm", "--mount-proc", "sh", "-c", inside, "sh"];
    let run = place.command(&["run", "pings.toml"]).under(&container).start();
    run.until_started(4);
    run.signal(Signal::TERM);
    let asked = run.until_logged("stop requested: signal").at;
    // Sooner, it would be the same request.
    support::wait_until("a second request", support::WATCHDOG, || {
        let ago = jiff::Timestamp::now().duration_since(asked);
        (ago.as_millis() > 400).then_some(())
    });
    run.signal(Signal::TERM);
    let ended = run.wait();
    ended.assert_exit(4);
    log::assert_nothing_out_of_order(&ended.log());
}

#[test]
fn without_proc_it_works_and_says_what_it_can_not_do() {
    let tools = ["root", "unshare", "umount"];
    if !needs("without_proc_it_works_and_says_what_it_can_not_do", &tools) {
        return;
    }
    let (place, jobs) = place();
    place.write("calm", "");
    // Not mounted at all; and that of the processes outside, whose numbers mean others in here.
    for no_proc in ["while umount /proc; do :; done 2>/dev/null; exec \"$@\"", "exec \"$@\""] {
        let without = ["unshare", "-pfm", "sh", "-c", no_proc, "sh"];
        let ended = place.command(&["run", "pings.toml", "--fresh"]).under(&without).finish();
        ended.assert_exit(0);
        assert!(ended.stderr.contains("/proc is not mounted, or "), "{}", ended.describe());
        place.results().assert_exactly_once(&jobs);
        std::fs::remove_file(place.path("out.jsonl")).expect("the output");
    }
}

#[test]
fn under_nohup_it_outlives_its_terminal() {
    if !needs("under_nohup_it_outlives_its_terminal", &["setsid"]) {
        return;
    }
    let (place, jobs) = place();
    let terminal = Terminal::open();
    let inherit = ["env", "--ignore-signal=HUP"];
    let run = place.command(&["run", "pings.toml"]).on_terminal(&terminal).under(&inherit).start();
    run.until_started(8);
    drop(terminal);
    run.wait().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
}

#[test]
fn under_nohup_a_hangup_stays_ignored() {
    let (place, jobs) = place();
    let run = place.command(&["run", "pings.toml"]).under(&["env", "--ignore-signal=HUP"]).start();
    run.until_started(8);
    for process in run.children(2).into_iter().chain([run.supervisor()]) {
        assert!(process.mask_has("SigIgn", Signal::HUP), "{process:?}");
        assert!(process.handle().is_some_and(|process| process.send(Signal::HUP)));
    }
    let ended = run.wait();
    ended.assert_exit(0);
    place.results().assert_exactly_once(&jobs);
}

#[test]
fn without_a_terminal_a_hangup_does_not_stop_it() {
    if !needs("without_a_terminal_a_hangup_does_not_stop_it", &["setsid"]) {
        return;
    }
    let (place, jobs) = place();
    let run = place.command(&["run", "pings.toml"]).without_terminal().start();
    run.until_started(8);
    run.signal(Signal::HUP);
    run.wait().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
}

#[test]
fn an_inherited_mask_and_an_ignored_sigchld_do_no_harm() {
    let (place, jobs) = place();
    let inherit =
        ["env", "--ignore-signal=CHLD", "--block-signal=TERM,INT,HUP,QUIT,CHLD,USR1,ALRM"];
    let run = place.command(&["run", "pings.toml"]).under(&inherit).start();
    run.until_started(8);
    let main = run.supervisor();
    assert!(!main.mask_has("SigIgn", Signal::CHILD), "SIGCHLD is still ignored");
    for child in run.children(2) {
        // While a worker starts a command everything is blocked for a moment.
        support::wait_until(&format!("an empty mask of {child:?}"), support::WATCHDOG, || {
            (!child.mask_has("SigBlk", Signal::ALARM)).then_some(())
        });
    }
    stop(run);
    place.write("calm", "");
    let again = place.command(&["run", "pings.toml"]).under(&inherit).finish();
    again.assert_exit(0);
    place.results().assert_exactly_once(&jobs);
}

#[test]
fn with_any_standard_streams_closed_no_file_of_ours_takes_their_place() {
    for closed in ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
        let (place, jobs) = place();
        place.write("jobs.txt", jobs.join("\n") + "\n");
        let script = format!("exec \"$@\" {closed}");
        let closed = ["sh", "-c", &script, "sh"];
        let run = place.command(&["run", "pings.toml"]).under(&closed).start();
        run.until_started(8);
        let outer = [place.private("stdout.0"), place.private("stderr.0")];
        for process in run.children(2).into_iter().chain([run.supervisor()]) {
            let streams: Vec<_> =
                process.descriptors().into_iter().take_while(|it| it.0 <= 2).collect();
            assert_eq!(streams.len(), 3, "{closed:?}: {streams:?} of {process:?}");
            for (fd, target) in streams {
                let is_theirs = target == Path::new("/dev/null") || outer.contains(&target);
                assert!(is_theirs, "{closed:?}: {fd} is {target:?} of {process:?}");
            }
        }
        run.signal(Signal::TERM);
        run.wait().assert_exit(5);
        place.write("calm", "");
        place.command(&["run", "pings.toml"]).under(&closed).finish().assert_exit(0);
        place.results().assert_exactly_once(&jobs);
    }
}

#[test]
fn what_jobs_leave_behind_is_gone_when_it_has_ended() {
    let place = Place::new();
    let jobs = place.jobs(8);
    place.work_script(
        "sleep 1000 >/dev/null 2>&1 &\n\
         setsid sleep 1000 >/dev/null 2>&1 &\n\
         setsid sh -c 'setsid sleep 1000 & setsid sleep 1000 & wait' >/dev/null 2>&1 &\n\
         (trap '' TERM INT HUP; exec sleep 1000) >/dev/null 2>&1 &",
    );
    // `finish` looks for processes by their environment and `assert_exit` fails if any is left.
    goes_on_to_the_end(&place, &[], &jobs);
}

/// It is in no group and below no process that is ended anyway: only a look at all that is below what
/// main has inherited finds it.
#[test]
fn what_a_killed_worker_leaves_below_another_session_is_gone_while_others_go_on() {
    let place = Place::new();
    let jobs = place.jobs(8);
    place.config("");
    // `timeout` begins a process group, but no session.
    place.work_script(
        "if mkdir once 2>/dev/null; then\n\
         (timeout 1000 sleep 1000 & echo $! > inner; exec setsid sleep 1000) >/dev/null 2>&1 &\n\
         fi\n: < gate",
    );
    let mut gate = place.gate();
    let run = place.start();
    let (inner, outer) = run.until("a tree of two sessions", |_| {
        let pid = std::fs::read_to_string(place.path("inner")).ok()?.trim().parse().ok()?;
        let inner = Process::read(pid)?;
        let outer = Process::read(inner.parent)?;
        let there = inner.group == pid && outer.session == outer.pid && inner.session != outer.pid;
        there.then(|| Some((inner.handle()?, outer.handle()?)))?
    });
    let workers = run.role(2, "worker ");
    let worker = workers.iter().find(|worker| worker.process.pid == inner.process.session);
    assert!(worker.expect("the worker whose session it is").send(Signal::KILL));
    assert!(inner.wait(support::WATCHDOG), "left behind: {}", inner.process.describe());
    // What is in no session of a worker is looked for at the end.
    assert!(!outer.has_ended() && !run.has_ended());
    gate.open();
    run.wait().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
}

#[test]
fn what_jobs_leave_behind_is_gone_after_a_stop_too() {
    let (place, _) = place();
    place.work_script("setsid sleep 1000 >/dev/null 2>&1 & sleep 0.05");
    let run = place.start();
    run.until_started(10);
    stop(run);
}

/// A child that was there before the program, as with `exec` from a shell, is none of its own.
#[test]
fn children_from_before_are_left_alone() {
    let (place, jobs) = place();
    place.write("calm", "");
    let before = ["sh", "-c", "sleep 1000 & echo $! > stranger; exec \"$@\"", "sh"];
    let run = place.command(&["run", "pings.toml"]).under(&before).start();
    let stranger = run.until("the child from before", |_| {
        let process = Process::read(place.read("stranger").trim().parse().ok()?)?;
        (process.comm == "sleep").then(|| process.handle())?
    });
    run.until_written(jobs.len());
    let ended = run.wait();
    let unharmed = !stranger.has_ended();
    stranger.send(Signal::KILL);
    assert_eq!((ended.code, ended.signal), (Some(0), None), "{}", ended.describe());
    assert!(unharmed, "the child from before was ended\n{}", ended.describe());
    place.results().assert_exactly_once(&jobs);
}

/// As of a container's entry point: `true & exec procsig`. The child from before ends and is
/// nobody's to reap; the orphans behind it are ours.
#[test]
fn a_zombie_from_before_does_not_keep_orphans_from_being_reaped() {
    let place = Place::new();
    let jobs = place.jobs(30);
    place.write("jobs.txt", place.read("jobs.txt") + "last\n");
    let mut gate = place.gate();
    // Each leaves an orphan behind that ends at once.
    place.work_script("[ $1 != last ] || : < gate\n(true &)");
    let before = ["sh", "-c", "true & exec \"$@\"", "sh"];
    let options = ["--jobs", "jobs.txt", "-P", "1", "-j", "2"];
    let command = place.run(&options, &["sh", "work.sh", "{}"]);
    let run = command.under(&before).start();
    run.until_started(jobs.len() + 1);
    let main = run.supervisor().pid;
    let zombies = || Process::all().into_iter().filter(|it| it.parent == main && it.is_zombie());
    // The one from before stays: whoever has started it may want to wait for it.
    support::wait_until("no more than one zombie", support::WATCHDOG, || {
        (zombies().count() <= 1).then_some(())
    });
    gate.open();
    let ended = run.wait();
    assert_eq!((ended.code, ended.signal), (Some(0), None), "{}", ended.describe());
    assert_eq!(place.results().len(), jobs.len() + 1);
}

#[test]
fn all_commands_of_a_run_have_its_marker_in_their_environment() {
    let place = Place::new();
    place.jobs(8);
    let show = ["sh", "-c", "env | grep ^PROCSIG_RUN="];
    place.run(&["--jobs", "jobs.txt"], &show).finish().assert_exit(0);
    let markers: BTreeSet<String> = place
        .results()
        .lines
        .iter()
        .map(|line| line["stdout"].as_str().expect("text").to_owned())
        .collect();
    assert_eq!(markers.len(), 1, "one marker for the whole run: {markers:?}");
    let marker = markers.first().expect("a marker");
    assert!(marker.starts_with("PROCSIG_RUN=") && marker.len() > 16, "{marker:?}");
}

/// A thread that starts holds a lock of the standard library for a moment (its stack's guard is
/// noted under it). A child that is forked in that moment has the lock and not the thread: its
/// own first thread then waits for ever. strace draws the moment out.
#[test]
fn nothing_is_forked_before_the_signal_threads_have_started() {
    if !needs("nothing_is_forked_before_the_signal_threads_have_started", &["strace"]) {
        return;
    }
    let place = Place::new();
    place.jobs(2);
    let trace = place.private("trace");
    let strace = ["strace", "-f", "-o", trace.to_str().expect("UTF-8")];
    let calls = ["-e", "trace=clone,clone3,fork,vfork,sched_getaffinity,sigaltstack"];
    let delay = ["-e", "inject=sched_getaffinity:delay_enter=100000"];
    let run = place.run(&["--jobs", "jobs.txt"], &["true"]);
    run.under(&[&strace[..], &calls, &delay].concat()).finish().assert_exit(0);
    let text = std::fs::read_to_string(&trace).expect("the trace");
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    let (main, _) = *lines.first().expect("a trace");
    let creates = |line: &str| ["clone", "fork", "vfork"].iter().any(|call| line.starts_with(call));
    let first_fork = lines.iter().position(|(pid, line)| {
        let line = line.trim_start();
        *pid == main && creates(line) && !line.contains("CLONE_THREAD")
    });
    let before = &lines[..first_fork.expect("a fork")];
    let threads: BTreeSet<&str> =
        before.iter().map(|(pid, _)| *pid).filter(|pid| *pid != main).collect();
    assert_eq!(threads.len(), 2, "main's two threads, of which {threads:?} are seen: {text}");
    for thread in threads {
        // The last that the standard library does before it runs the thread's own code.
        let started = |(pid, line): &&(&str, &str)| *pid == thread && line.contains("sigaltstack");
        let steps = before.iter().filter(started).count();
        assert!(steps >= 1, "forked while thread {thread} was about to start:\n{text}");
    }
}
