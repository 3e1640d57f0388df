//! What a service manager is told, by systemd's notify protocol: a socket of the test's own.

mod support;

use rustix::process::Signal;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};
use support::{Place, Running, WATCHDOG, needs, poll_until};

/// A service manager: what it has heard so far, a message each.
struct Manager {
    socket: UnixDatagram,
    /// For NOTIFY_SOCKET.
    name: String,
    heard: Vec<String>,
}

impl Manager {
    fn at_path(place: &Place) -> Manager {
        let path = place.private("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Manager::of(socket, path.to_str().expect("UTF-8").to_owned())
    }

    fn abstract_for(place: &Place) -> Manager {
        let address = SocketAddr::from_abstract_name(&place.name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        Manager::of(socket, format!("@{}", place.name))
    }

    fn of(socket: UnixDatagram, name: String) -> Manager {
        socket.set_nonblocking(true).expect("a socket");
        Manager { socket, name, heard: Vec::new() }
    }

    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            self.heard.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
    }

    /// Waits for a message with this text, from the given one on, and says which it is.
    #[track_caller]
    fn until(&mut self, from: usize, text: &str) -> usize {
        let found = poll_until(WATCHDOG, || {
            self.listen();
            let later = self.heard.iter().enumerate().skip(from);
            later.filter(|(_, it)| it.contains(text)).map(|(index, _)| index).next()
        });
        found.unwrap_or_else(|| panic!("not told: {text:?}; told: {:#?}", self.heard))
    }

    /// The first lines of all messages that say more than a status.
    fn states(&mut self) -> Vec<&str> {
        self.listen();
        let first = self.heard.iter().filter_map(|message| message.lines().next());
        first.filter(|line| !line.starts_with("STATUS=")).collect()
    }
}

/// 2 processes of 2 threads whose jobs end when there is a file `calm`, or at once.
fn place(jobs: usize) -> Place {
    let place = Place::new();
    place.jobs(jobs);
    place.work_script("[ -e calm ] || sleep 0.02");
    place.config("[log]\nfile = \"procsig.log\"\n");
    place
}

fn start<'a>(place: &'a Place, manager: &Manager) -> Running<'a> {
    place.command(&["run", "pings.toml"]).env("NOTIFY_SOCKET", &manager.name).start()
}

#[test]
fn the_manager_hears_of_ready_children_of_the_stop_and_its_limit_and_of_the_end() {
    let place = place(4000);
    for mut manager in [Manager::at_path(&place), Manager::abstract_for(&place)] {
        let run = start(&place, &manager);
        manager.until(0, "READY=1\nSTATUS=running: ");
        let (main, all) = (run.supervisor().pid, run.of_program());
        let children = all.iter().filter(|process| process.parent == main).count();
        assert_eq!(children, 4, "all are there: {}", run.describe());
        run.signal(Signal::TERM);
        run.wait().assert_exit(5);
        assert_eq!(manager.states(), ["READY=1", "STOPPING=1"]);
        let stop = manager.until(0, "STOPPING=1");
        // The deadline of 8 s, and 5 s for what comes after it.
        let words = "STOPPING=1\nEXTEND_TIMEOUT_USEC=13000000\nSTATUS=stopping: signal";
        assert_eq!(manager.heard[stop], words);
        let last = manager.heard.last().expect("a message");
        assert!(last.starts_with("STATUS=stopped with exit code 5: "), "{last}");
    }
}

#[test]
fn a_child_that_is_started_again_is_told_and_is_no_second_start() {
    let place = place(100_000);
    let mut manager = Manager::at_path(&place);
    let run = start(&place, &manager);
    let ready = manager.until(0, "READY=1");
    run.role(2, "worker ping/0")[0].send(Signal::KILL);
    let died = manager.until(ready, "STATUS=worker ping/0 has died; it is started again in ");
    manager.until(died, "STATUS=running: ");
    run.signal(Signal::TERM);
    run.wait().assert_exit(5);
    assert_eq!(manager.states(), ["READY=1", "STOPPING=1"]);
}

#[test]
fn a_reload_is_over_when_all_have_opened_their_files_anew() {
    if !needs("a_reload_is_over_when_all_have_opened_their_files_anew", &["setsid"]) {
        return;
    }
    let place = place(100_000);
    let mut manager = Manager::at_path(&place);
    let launch = place.command(&["run", "pings.toml"]).env("NOTIFY_SOCKET", &manager.name);
    let run = launch.without_terminal().start();
    let ready = manager.until(0, "READY=1");
    let now = || rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = |time: rustix::time::Timespec| time.tv_sec * 1_000_000 + time.tv_nsec / 1000;
    for round in 0..20 {
        std::fs::rename(place.path("procsig.log"), place.path("old.log")).expect("the log");
        let (from, before) = (manager.heard.len(), micros(now()));
        run.signal(Signal::HUP);
        let begun = manager.until(from, "RELOADING=1\nMONOTONIC_USEC=");
        let said = manager.heard[begun].rsplit('=').next().and_then(|it| it.parse().ok());
        let said: i64 = said.expect("a number");
        assert!((before..=micros(now())).contains(&said), "{before} {said}");
        manager.until(begun, "READY=1");
        let old = place.path("old.log");
        let (main, mut all) = (run.supervisor().pid, run.of_program());
        // A command that was forked before, and not executed yet, has it for a moment longer.
        all.retain(|it| it.pid == main || it.parent == main);
        assert_eq!(all.len(), 1 + 4, "{all:#?}");
        for process in all {
            let held = process.descriptors();
            assert!(!held.values().any(|it| *it == old), "round {round}: {process:?}");
        }
    }
    assert!(ready < manager.heard.len());
    run.signal(Signal::TERM);
    run.wait().assert_exit(5);
    let states = manager.states();
    assert_eq!(states.len(), 1 + 2 * 20 + 1, "{states:?}");
    assert_eq!(states.last(), Some(&"STOPPING=1"));
}

#[test]
fn a_child_that_is_stopped_does_not_hold_up_a_reload_for_ever() {
    if !needs("a_child_that_is_stopped_does_not_hold_up_a_reload_for_ever", &["setsid"]) {
        return;
    }
    let place = place(100_000);
    let mut manager = Manager::at_path(&place);
    let launch = place.command(&["run", "pings.toml"]).env("NOTIFY_SOCKET", &manager.name);
    let run = launch.without_terminal().start();
    manager.until(0, "READY=1");
    run.role(2, "worker ping/1")[0].send(Signal::STOP);
    run.signal(Signal::HUP);
    let begun = manager.until(0, "RELOADING=1");
    manager.until(begun, "READY=1");
    // The stop wakes it.
    run.signal(Signal::TERM);
    run.wait().assert_exit(5);
}

#[test]
fn a_start_that_fails_is_told_with_its_reason_and_never_as_ready() {
    let place = place(100_000);
    let first = place.start();
    first.until_started(1);
    let mut manager = Manager::at_path(&place);
    // What the first has started is not left over from the second.
    let ended = start(&place, &manager).wait();
    assert_eq!(ended.code, Some(75), "{}", ended.describe());
    manager.listen();
    assert_eq!(manager.heard.len(), 1, "{:?}", manager.heard);
    assert!(manager.heard[0].starts_with("STATUS="), "{:?}", manager.heard);
    assert!(manager.heard[0].contains(".out.jsonl.spool"), "{:?}", manager.heard);
    first.signal(Signal::TERM);
    first.wait().assert_exit(5);
}

#[test]
fn a_stop_that_takes_long_tells_whom_it_waits_for_and_for_how_long_it_may() {
    let place = place(4);
    place.work_script("until [ -e calm ]; do sleep 0.02; done");
    place.config("[shutdown]\ndeadline = \"60s\"\n");
    let mut manager = Manager::at_path(&place);
    let run = start(&place, &manager);
    run.until_started(4);
    run.signal(Signal::TERM);
    let waits = manager.until(0, "STATUS=stopping: waiting for worker ping/");
    let told = manager.heard[waits].clone();
    let micros = told.lines().next().and_then(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
    let micros: u64 = micros.and_then(|it| it.parse().ok()).expect("a number");
    assert!((5_000_000..65_000_000).contains(&micros), "{told}");
    place.write("calm", "");
    run.wait().assert_exit(0);
}

#[test]
fn commands_and_children_never_speak_to_the_manager() {
    let place = place(4);
    place.work_script("env > env.$1; touch calm");
    let manager = Manager::at_path(&place);
    let launch = place.command(&["run", "pings.toml"]).env("NOTIFY_SOCKET", &manager.name);
    let run = launch.env("WATCHDOG_USEC", "3000000").env("WATCHDOG_PID", "1").start();
    run.wait().assert_exit(0);
    for job in 1..=4 {
        let environment = place.read(&format!("env.job-{job}"));
        assert!(environment.contains("PROCSIG_RUN="), "{environment}");
        assert!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG_"));
    }
}

#[test]
fn a_watchdog_hears_from_a_main_that_turns_and_not_from_one_that_hangs() {
    let place = place(100_000);
    let mut manager = Manager::at_path(&place);
    // As systemd does it: the pid is that of the process it has started.
    let ours = ["sh", "-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"];
    let launch = place.command(&["run", "pings.toml"]).under(&ours);
    let launch = launch.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "600000");
    let run = launch.start();
    let mut seen = 0;
    for _ in 0..4 {
        seen = manager.until(seen, "WATCHDOG=1\nSTATUS=") + 1;
    }
    let main = run.supervisor();
    let handle = main.handle().expect("main");
    handle.send(Signal::STOP);
    let stopped = || support::Process::read(main.pid).filter(|it| it.state == 'T');
    poll_until(WATCHDOG, stopped).expect("main is stopped");
    manager.listen();
    let before = manager.heard.len();
    // Several times the time in which it has to be heard.
    let until = Instant::now() + Duration::from_secs(2);
    poll_until(Duration::from_secs(2), || (Instant::now() >= until).then_some(()));
    manager.listen();
    assert_eq!(manager.heard.len(), before, "{:?}", manager.heard);
    handle.send(Signal::CONT);
    manager.until(before, "WATCHDOG=1");
    run.signal(Signal::TERM);
    run.wait().assert_exit(5);
}

#[test]
fn a_watchdog_for_another_process_is_not_ours_to_answer() {
    let place = place(100);
    let mut manager = Manager::at_path(&place);
    let launch = place.command(&["run", "pings.toml"]).env("NOTIFY_SOCKET", &manager.name);
    let run = launch.env("WATCHDOG_USEC", "20000").env("WATCHDOG_PID", "1").start();
    run.wait().assert_exit(0);
    assert!(!manager.states().contains(&"WATCHDOG=1"));
}

#[test]
fn a_manager_that_is_not_there_is_a_warning_and_nothing_else() {
    let place = place(100);
    place.config("");
    for (socket, words) in [
        ("/nonexistent/notify", "the service manager can't be told how it goes: "),
        ("vsock:2:1234", "NOTIFY_SOCKET=vsock:2:1234: neither a path nor an abstract name"),
    ] {
        let launch = place.command(&["run", "pings.toml", "--fresh"]);
        let ended = launch.env("NOTIFY_SOCKET", socket).finish();
        ended.assert_exit(0);
        assert_eq!(ended.stderr.matches(words).count(), 1, "{}", ended.describe());
    }
}
