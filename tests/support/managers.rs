//! Service managers as the packaged files set them up.

use super::place::Place;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What differs between service managers.
pub trait Kind {
    /// Puts the packaged files in their place, with what they name replaced.
    fn install(&self, place: &Place);
    /// Its command, in the foreground.
    fn manager(&self, place: &Place) -> Command;
    /// The stop command that an operator types; it has waited when it returns.
    fn stop(&self, place: &Place);
    fn start(&self, place: &Place);
    /// The exit codes that it has seen so far.
    fn codes(&self, place: &Place) -> Vec<i32>;
    /// Where it keeps what the pipeline prints.
    fn log(&self, place: &Place) -> PathBuf;
    /// Whether it has said that it will not start it again.
    fn has_given_up(&self, place: &Place) -> bool;
}

/// Replaces what a packaged file names; each of it must be there.
#[track_caller]
fn replaced(mut text: String, replacements: &[(&str, &str)]) -> String {
    for (from, to) in replacements {
        assert!(text.contains(from), "{from:?} is not in the packaged file any more:\n{text}");
        text = text.replace(from, to);
    }
    text
}

fn packaged(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Runs an operator's command, which must succeed.
#[track_caller]
pub fn operate(place: &Place, words: &[&str]) -> String {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(place.private("")).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert!(output.status.success(), "{words:?}: {:?}\n{printed}", output.status);
    printed
}

/// With more of its section replaced.
pub struct Supervisord(pub &'static [(&'static str, &'static str)]);

impl Supervisord {
    fn control(&self, place: &Place, words: &[&str]) -> String {
        operate(place, &[&["supervisorctl", "-c", "s.conf"], words].concat())
    }
}

impl Kind for Supervisord {
    fn install(&self, place: &Place) {
        let program = text(&place.program).to_owned();
        let (work, config, log) = (place.path(""), place.path("pings.toml"), self.log(place));
        let section = replaced(packaged("supervisor/procsig.conf"), self.0);
        let section = replaced(
            section,
            &[
                ("/usr/bin/procsig", &program),
                ("/etc/procsig/pings.toml", text(&config)),
                ("user=procsig\n", ""),
                ("/var/lib/procsig", text(&work)),
                ("/var/log/procsig/pings.log", text(&log)),
            ],
        );
        let user = if rustix::process::geteuid().is_root() { "user=root\n" } else { "" };
        let own = format!(
            "[supervisord]\nnodaemon=true\n{user}logfile=%(here)s/supervisord.log\n\
             pidfile=%(here)s/supervisord.pid\n\
             [unix_http_server]\nfile=%(here)s/s.sock\n\
             [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = \
             supervisor.rpcinterface:make_main_rpcinterface\n\
             [supervisorctl]\nserverurl=unix://%(here)s/s.sock\n"
        );
        std::fs::write(place.private("s.conf"), own + &section).expect("a configuration");
    }

    fn manager(&self, _: &Place) -> Command {
        let mut command = Command::new("supervisord");
        command.args(["-c", "s.conf"]);
        command
    }

    fn stop(&self, place: &Place) {
        let printed = self.control(place, &["stop", "pings"]);
        assert!(printed.contains("pings: stopped"), "{printed}");
    }

    fn start(&self, place: &Place) {
        let printed = self.control(place, &["start", "pings"]);
        assert!(printed.contains("pings: started"), "{printed}");
    }

    fn codes(&self, place: &Place) -> Vec<i32> {
        let text = std::fs::read_to_string(place.private("supervisord.log")).unwrap_or_default();
        let code = |line: &str| {
            let is_end = line.contains("stopped: pings") || line.contains("exited: pings");
            let rest = line.split_once("(exit status ").filter(|_| is_end)?.1;
            rest.split([';', ')']).next()?.parse().ok()
        };
        text.lines().filter_map(code).collect()
    }

    fn log(&self, place: &Place) -> PathBuf {
        place.private("pings.log")
    }

    fn has_given_up(&self, place: &Place) -> bool {
        let mut command = Command::new("supervisorctl");
        let command = command.args(["-c", "s.conf", "status"]).current_dir(place.private(""));
        let output = command.output().expect("supervisorctl");
        String::from_utf8_lossy(&output.stdout).contains("EXITED")
    }
}

/// Copies a packaged directory of scripts, with what it names replaced.
fn copy(from: &str, to: &Path, replacements: &[(&str, &str)], more: &[(&str, &str)]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(from);
    let cp = super::tool("cp", &["-r", text(&source), text(to)]);
    assert!(cp.status.success(), "{cp:?}");
    for (name, words) in [("run", replacements), ("log/run", more)] {
        let script = replaced(packaged(&format!("{from}/{name}")), words);
        std::fs::write(to.join(name), script).expect("a script");
    }
    // What it ends with is noted, ahead of what the packaged script does.
    let finish = to.join("finish");
    let script = std::fs::read_to_string(&finish).expect("a finish script");
    std::fs::write(
        &finish,
        replaced(script, &[("#!/bin/sh\n", "#!/bin/sh\necho \"$1\" >> codes\n")]),
    )
    .expect("a script");
    let mode =
        |name: &str| std::fs::metadata(to.join(name)).expect("a script").permissions().mode();
    assert!(["run", "finish", "log/run"].iter().all(|name| mode(name) & 0o111 == 0o111));
}

/// The exit codes that a finish script has noted.
fn noted_codes(service: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(service.join("codes")).unwrap_or_default();
    text.lines().map(|line| line.parse().expect("a code")).collect()
}

pub struct Runit;

impl Kind for Runit {
    fn install(&self, place: &Place) {
        let (work, config, logs) =
            (place.path(""), place.path("pings.toml"), place.private("logs"));
        std::fs::create_dir(&logs).expect("a directory");
        let run = [
            ("chpst -u procsig ", ""),
            ("/var/lib/procsig", text(&work)),
            ("/usr/bin/procsig", text(&place.program)),
            ("/etc/procsig/pings.toml", text(&config)),
        ];
        let log = [("chpst -u procsig ", ""), ("/var/log/procsig/pings", text(&logs))];
        copy("runit/procsig", &place.private("pings"), &run, &log);
    }

    fn manager(&self, _: &Place) -> Command {
        let mut command = Command::new("runsv");
        command.arg("pings");
        command
    }

    fn stop(&self, place: &Place) {
        let printed = operate(place, &["sv", "-w", "13", "down", "./pings"]);
        assert!(printed.contains("ok: down: ./pings"), "{printed}");
    }

    fn start(&self, place: &Place) {
        operate(place, &["sv", "up", "./pings"]);
    }

    fn codes(&self, place: &Place) -> Vec<i32> {
        noted_codes(&place.private("pings"))
    }

    fn log(&self, place: &Place) -> PathBuf {
        place.private("logs/current")
    }

    fn has_given_up(&self, place: &Place) -> bool {
        let output = super::tool("sv", &["status", text(&place.private("pings"))]);
        String::from_utf8_lossy(&output.stdout).starts_with("down: ")
    }
}

pub struct S6;

impl Kind for S6 {
    fn install(&self, place: &Place) {
        let (work, config, logs) =
            (place.path(""), place.path("pings.toml"), place.private("logs"));
        std::fs::create_dir(&logs).expect("a directory");
        std::fs::create_dir(place.private("scan")).expect("a directory");
        let run = [
            ("s6-setuidgid procsig ", ""),
            ("/var/lib/procsig", text(&work)),
            ("/usr/bin/procsig", text(&place.program)),
            ("/etc/procsig/pings.toml", text(&config)),
        ];
        // One file for the whole test.
        let log = [
            ("s6-setuidgid procsig ", ""),
            ("s1000000 ", "s10000000 "),
            ("/var/log/procsig/pings", text(&logs)),
        ];
        copy("s6/procsig", &place.private("scan/pings"), &run, &log);
    }

    fn manager(&self, _: &Place) -> Command {
        let mut command = Command::new("s6-svscan");
        command.arg("scan");
        command
    }

    fn stop(&self, place: &Place) {
        operate(place, &["s6-svc", "-wD", "-d", "scan/pings"]);
    }

    fn start(&self, place: &Place) {
        operate(place, &["s6-svc", "-wu", "-u", "scan/pings"]);
    }

    fn codes(&self, place: &Place) -> Vec<i32> {
        noted_codes(&place.private("scan/pings"))
    }

    fn log(&self, place: &Place) -> PathBuf {
        place.private("logs/current")
    }

    fn has_given_up(&self, place: &Place) -> bool {
        let output = super::tool("s6-svstat", &[text(&place.private("scan/pings"))]);
        String::from_utf8_lossy(&output.stdout).starts_with("down (exitcode 0)")
    }
}
