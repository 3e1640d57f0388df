//! Service managers: the files of `packaging/` under the real supervisord, runit and s6. Their own
//! commands stop it in order with nothing lost, and so does the end of the manager itself.

mod support;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use support::managers::{Kind, Runit, S6, Supervisord, operate};
use support::{
    Balance, Handle, Line, Place, Process, Seed, Signal, WATCHDOG, log, needs, poll_until,
};

/// How often each of them stops it and starts it again, under load.
const STOPS: usize = 20;
const WORKERS: usize = 2;
/// More than are done in all rounds together.
const JOBS: usize = 4000;

/// A pipeline in the care of a service manager.
struct Service {
    place: Place,
    jobs: Vec<String>,
    kind: Box<dyn Kind>,
    manager: Option<Child>,
    /// How much of the log belongs to runs before.
    seen: usize,
}

impl Service {
    fn new(kind: impl Kind + 'static) -> Service {
        let place = Place::new();
        let jobs = place.jobs(JOBS);
        place.work_script("[ -e calm ] || sleep 0.05");
        place.config("");
        kind.install(&place);
        Service { place, jobs, kind: Box::new(kind), manager: None, seen: 0 }
    }

    /// Starts the service manager, and with it the pipeline.
    #[track_caller]
    fn start_manager(&mut self) {
        let mut command = self.kind.manager(&self.place);
        command.env(support::MARKER, &self.place.name).process_group(0);
        command.current_dir(self.place.private("")).stdin(Stdio::null());
        let printed = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.place.private("manager.log"))
            .expect("a file for what the manager prints");
        command.stdout(printed.try_clone().expect("a copy")).stderr(printed);
        self.manager = Some(support::spawn(&mut command).expect("the service manager"));
    }

    /// The manager's process.
    #[track_caller]
    fn manager(&self) -> Handle {
        let pid = self.manager.as_ref().expect("a manager").id() as i32;
        Process::read(pid).and_then(|it| it.handle()).expect("the manager is running")
    }

    #[track_caller]
    fn signal_manager(&mut self, signal: Signal) {
        let handle = self.manager();
        assert!(handle.send(signal), "no manager");
        assert!(handle.wait(WATCHDOG), "the manager goes on\n{}", self.describe());
        self.manager.take().expect("a manager").wait().expect("its status");
    }

    /// Living processes that run the program.
    fn of_program(&self) -> Vec<Process> {
        let mut all = Process::marked(&self.place.name);
        all.retain(|it| !it.is_zombie() && it.executable().as_ref() == Some(&self.place.program));
        all
    }

    #[track_caller]
    fn until<T>(&self, what: &str, answer: impl FnMut() -> Option<T>) -> T {
        poll_until(WATCHDOG, answer)
            .unwrap_or_else(|| panic!("waited {WATCHDOG:?} in vain: {what}\n{}", self.describe()))
    }

    /// Waits until so many more jobs have started than before.
    #[track_caller]
    fn until_under_load(&self, before: usize) {
        self.until("it works", || (self.place.started().len() >= before + 12).then_some(()));
    }

    /// Whole lines of the log that were written since the last time.
    #[track_caller]
    fn new_lines(&mut self) -> Vec<Line> {
        let lines = self.lines();
        lines[std::mem::replace(&mut self.seen, lines.len())..].to_vec()
    }

    #[track_caller]
    fn lines(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(self.kind.log(&self.place)).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        // Beside the log, a start that finds the spool held says so.
        text[..whole].lines().filter_map(Line::parse).collect()
    }

    /// Waits until the log of a run has its last line, and judges its stop.
    #[track_caller]
    fn assert_stopped_in_order(&mut self) -> Balance {
        self.until("nobody is left", || self.of_program().is_empty().then_some(()));
        let seen = self.seen;
        self.until("the last line of the log", || {
            let lines = self.lines();
            lines[seen..].iter().any(|it| it.message.starts_with("done in ")).then_some(())
        });
        let lines = self.new_lines();
        log::assert_full_stop(&lines, WORKERS);
        assert_eq!(log::stop_requests(&lines), 1, "{lines:#?}");
        let balance = Balance::of(&lines);
        balance.assert_even();
        assert_eq!(balance.kept, 0, "{lines:#?}");
        balance
    }

    /// Lets the rest of the list be done, and judges everything.
    #[track_caller]
    fn assert_goes_on_to_the_end(&mut self) {
        self.place.write("calm", "");
        self.until("the end of the list", || {
            (self.kind.codes(&self.place).last() == Some(&0)).then_some(())
        });
        self.until("it is not started again", || self.kind.has_given_up(&self.place).then_some(()));
        assert!(self.of_program().is_empty(), "{}", self.describe());
        self.place.results().assert_exactly_once(&self.jobs);
        self.place.assert_each_ran_once(&self.jobs);
    }

    fn describe(&self) -> String {
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let all = Process::marked(&self.place.name);
        let all: Vec<String> = all.iter().map(Process::describe).collect();
        let tail = |text: String| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        format!(
            "exit codes: {:?}\nprocesses: {all:#?}\nmanager:\n{}\nlog:\n{}",
            self.kind.codes(&self.place),
            tail(read(self.place.private("manager.log"))),
            tail(read(self.kind.log(&self.place)))
        )
    }

    /// Stops it and starts it again, many times under load; then to the end.
    fn is_stopped_many_times_and_loses_nothing(&mut self) {
        let mut seed = Seed::new();
        self.start_manager();
        for round in 0..STOPS {
            if round > 0 {
                self.kind.start(&self.place);
            }
            self.until_under_load(self.place.started().len());
            std::thread::sleep(seed.time_below(std::time::Duration::from_millis(100)));
            self.kind.stop(&self.place);
            let balance = self.assert_stopped_in_order();
            assert!(balance.left > 0, "the list is done before the last stop: {balance:?}");
            self.until("the exit code", || {
                (self.kind.codes(&self.place).len() > round).then_some(())
            });
            assert_eq!(self.kind.codes(&self.place)[round], 5, "{}", self.describe());
        }
        self.kind.start(&self.place);
        self.assert_goes_on_to_the_end();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut manager) = self.manager.take() {
            let _ = manager.kill();
            let _ = manager.wait();
        }
        // What is left: the manager's own children first, or they would start again what is killed.
        for own in [false, true] {
            for process in Process::marked(&self.place.name) {
                let is_program = process.executable().as_ref() == Some(&self.place.program);
                if let Some(handle) = process.handle().filter(|_| is_program == own) {
                    handle.send(Signal::KILL);
                }
            }
        }
    }
}

#[test]
fn supervisorctl_stops_it_in_order_twenty_times_under_load_and_nothing_is_lost() {
    let test = "supervisorctl_stops_it_in_order_twenty_times_under_load_and_nothing_is_lost";
    if needs(test, &["supervisord", "setpriv"]) {
        Service::new(Supervisord(&[])).is_stopped_many_times_and_loses_nothing();
    }
}

#[test]
fn sv_stops_it_in_order_twenty_times_under_load_and_nothing_is_lost() {
    let test = "sv_stops_it_in_order_twenty_times_under_load_and_nothing_is_lost";
    if needs(test, &["runsv", "setpriv"]) {
        Service::new(Runit).is_stopped_many_times_and_loses_nothing();
    }
}

#[test]
fn s6_svc_stops_it_in_order_twenty_times_under_load_and_nothing_is_lost() {
    let test = "s6_svc_stops_it_in_order_twenty_times_under_load_and_nothing_is_lost";
    if needs(test, &["s6-svscan", "setpriv"]) {
        Service::new(S6).is_stopped_many_times_and_loses_nothing();
    }
}

#[test]
fn sv_restart_is_an_ordered_stop_and_a_start() {
    if !needs("sv_restart_is_an_ordered_stop_and_a_start", &["runsv", "setpriv"]) {
        return;
    }
    let mut service = Service::new(Runit);
    // Endless: it exits with 0 when it is told to stop, as a finished list does by itself.
    service.place.jobs(8);
    let text = service.place.read("pings.toml").replace("[jobs]\n", "[jobs]\nevery = \"10ms\"\n");
    service.place.write("pings.toml", text);
    service.start_manager();
    for round in 1..4 {
        service.until_under_load(service.place.started().len());
        operate(&service.place, &["sv", "-w", "13", "restart", "./pings"]);
        service.until("the exit code", || {
            (service.kind.codes(&service.place).len() == round).then_some(())
        });
        assert_eq!(service.kind.codes(&service.place).last(), Some(&0), "{}", service.describe());
    }
    service.until_under_load(service.place.started().len());
    service.kind.stop(&service.place);
    service.until("nobody is left", || service.of_program().is_empty().then_some(()));
    service.place.results().by_job();
}

/// The pipeline's first process; setpriv becomes it.
#[track_caller]
fn main_of(service: &Service) -> Handle {
    service.until("its main process", || {
        let all = service.of_program();
        let is_main = |it: &&Process| !all.iter().any(|other| other.pid == it.parent);
        all.iter().find(is_main).and_then(Process::handle)
    })
}

#[test]
fn a_supervisord_that_is_told_to_end_stops_it_in_order_and_the_next_one_goes_on() {
    let test = "a_supervisord_that_is_told_to_end_stops_it_in_order_and_the_next_one_goes_on";
    if !needs(test, &["supervisord", "setpriv"]) {
        return;
    }
    let mut service = Service::new(Supervisord(&[]));
    for _ in 0..3 {
        service.start_manager();
        service.until_under_load(service.place.started().len());
        service.signal_manager(Signal::TERM);
        service.assert_stopped_in_order();
    }
    service.start_manager();
    service.assert_goes_on_to_the_end();
}

#[test]
fn a_service_manager_that_is_killed_takes_it_down_in_order_and_the_next_one_goes_on() {
    let test = "a_service_manager_that_is_killed_takes_it_down_in_order_and_the_next_one_goes_on";
    if !needs(test, &["supervisord", "runsv", "s6-svscan", "setpriv"]) {
        return;
    }
    // Killing s6-svscan leaves s6-supervise in place, which is the one that counts.
    for mut service in [Service::new(Supervisord(&[])), Service::new(Runit)] {
        for _ in 0..3 {
            service.start_manager();
            service.until_under_load(service.place.started().len());
            let main = main_of(&service);
            service.signal_manager(Signal::KILL);
            // No orphan works on, and the next one waits for what is left of it.
            assert!(main.wait(WATCHDOG), "{}", service.describe());
        }
        service.start_manager();
        service.assert_goes_on_to_the_end();
    }
}

#[test]
fn a_pipeline_that_outlives_its_supervisord_keeps_its_spool_until_it_is_told_to_stop() {
    let test = "a_pipeline_that_outlives_its_supervisord_keeps_its_spool_until_it_is_told_to_stop";
    if !needs(test, &["supervisord"]) {
        return;
    }
    let mut service = Service::new(Supervisord(&[("/usr/bin/setpriv --pdeathsig TERM -- ", "")]));
    service.start_manager();
    service.until_under_load(0);
    let orphan = main_of(&service);
    service.signal_manager(Signal::KILL);
    service.start_manager();
    service.until("a start that finds it held", || {
        service.kind.codes(&service.place).contains(&75).then_some(())
    });
    // It works on, although nobody reads what it prints any more.
    service.until_under_load(service.place.started().len());
    assert!(!orphan.has_ended(), "{}", service.describe());
    assert!(orphan.send(Signal::TERM));
    assert!(orphan.wait(WATCHDOG), "{}", service.describe());
    service.assert_goes_on_to_the_end();
    let codes = service.kind.codes(&service.place);
    assert!(codes.iter().all(|code| [0, 75].contains(code)), "{codes:?}");
}
