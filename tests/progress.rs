//! The bar of a finite run on a terminal: below whole lines of the log, as wide as there is room, gone at
//! the end; and none where nobody wants one.

mod support;

use support::place::{Gate, SPOOL};
use support::terminal::{Recording, screen};
use support::{Launch, Line, Place, Running, Signal, Terminal, log, wait_until};

const WORKERS: usize = 2;

/// Runs a program with standard error on the terminal that is its standard input.
const ON_STDERR: [&str; 4] = ["sh", "-c", "exec \"$@\" 2>&0", "sh"];

/// Forty jobs, of which the first ten end at once, one of them badly, and all others wait at a gate.
fn place() -> (Place, Gate) {
    let place = Place::new();
    place.jobs(40);
    let gate = place.gate();
    place.work_script("case $1 in job-7) exit 1 ;; job-?|job-10) ;; *) : < gate ;; esac");
    place.config("[buffer]\nflush_after = \"50ms\"\n");
    (place, gate)
}

fn on<'a>(launch: Launch<'a>, terminal: &Terminal) -> Launch<'a> {
    launch.on_terminal(terminal).under(&ON_STDERR).env("TERM", "xterm")
}

/// Waits until the bar says this.
#[track_caller]
fn until_drawn(recording: &Recording, text: &str) {
    wait_until(&format!("{text:?} on the terminal"), support::WATCHDOG, || {
        recording.text().contains(text).then_some(())
    });
}

/// The lines of the log that are on a screen, each of which is whole, and all others that are not empty.
#[track_caller]
fn take_apart(lines: &[String]) -> (Vec<Line>, Vec<String>) {
    let mut others = Vec::new();
    let mut parsed = Vec::new();
    for line in lines {
        match Line::parse(line) {
            Some(line) => parsed.push(line),
            None if line.trim().is_empty() => {}
            None => others.push(line.clone()),
        }
    }
    (parsed, others)
}

fn start<'a>(place: &'a Place, terminal: &Terminal) -> Running<'a> {
    on(place.command(&["run", "pings.toml"]), terminal).start()
}

#[test]
fn a_finite_run_on_a_terminal_has_one_bar_below_whole_lines_of_its_log() {
    let (place, mut gate) = place();
    let terminal = Terminal::open();
    terminal.resize(200, 24);
    let recording = terminal.record();
    let run = start(&place, &terminal);
    until_drawn(&recording, "10/40 jobs  1 failed");
    let half = recording.screen();
    let last = half.last().expect("a line");
    assert!(last.starts_with(" 25 % [##########----"), "{last:?}");
    assert_eq!(half.iter().filter(|line| line.contains(" % [")).count(), 1, "{half:#?}");
    // A line of the log takes its place, and it is there again.
    run.signal(Signal::USR1);
    until_drawn(&recording, "longest in hand");
    wait_until("the bar again", support::WATCHDOG, || {
        recording.screen().last().filter(|line| line.contains("10/40 jobs")).map(drop)
    });
    gate.open();
    run.wait().assert_exit(3);
    until_drawn(&recording, "done in ");
    let (lines, others) = take_apart(&recording.screen());
    assert_eq!(others.len(), 1, "{others:#?}");
    assert!(others[0].starts_with("40 of 40 jobs ended in 0:"), "{others:?}");
    assert!(others[0].ends_with(", 1 of them failed"), "{others:?}");
    let told = lines.iter().filter(|line| line.message.starts_with("longest in hand")).count();
    assert_eq!(told, 1, "{lines:#?}");
    support::Balance::of(&lines).assert_even();
}

#[test]
fn ctrl_c_stops_in_order_with_a_bar_as_without() {
    let (place, mut gate) = place();
    let mut terminal = Terminal::open();
    terminal.resize(200, 24);
    let recording = terminal.record();
    let run = start(&place, &terminal);
    until_drawn(&recording, "10/40 jobs");
    terminal.type_ctrl_c();
    until_drawn(&recording, "stopping\x1b[K");
    gate.open();
    run.wait().assert_exit(5);
    until_drawn(&recording, "done in ");
    let (lines, others) = take_apart(&recording.screen());
    log::assert_full_stop(&lines, WORKERS);
    assert!(others.iter().all(|line| line.contains(" of 40 jobs ended in ")), "{others:#?}");
}

#[test]
fn a_bar_is_never_wider_than_its_terminal_also_when_that_shrinks() {
    let (place, mut gate) = place();
    let terminal = Terminal::open();
    terminal.resize(100, 24);
    let recording = terminal.record();
    let run = start(&place, &terminal);
    until_drawn(&recording, "10/40 jobs");
    let before = recording.text().len();
    terminal.resize(30, 24);
    let drawn = |from: usize| -> Vec<String> {
        let text = recording.text();
        let bars = text.get(from..).unwrap_or_default().split('\r');
        bars.filter_map(|bar| bar.strip_suffix("\x1b[K").map(str::to_owned)).collect()
    };
    // What was drawn meanwhile, and is read only now, may have the old width.
    let bars = wait_until("five bars of the new width", support::WATCHDOG, || {
        let mut bars = drawn(before);
        bars.drain(..bars.iter().position(|bar| bar.len() < 30)?);
        Some(bars).filter(|bars| bars.len() >= 5)
    });
    for bar in &bars {
        assert!(bar.len() < 30 && bar.contains("10/40 jobs"), "{bar:?}");
    }
    gate.open();
    run.wait().assert_exit(3);
}

#[test]
fn without_a_terminal_or_with_one_that_can_not_or_quietly_there_is_none() {
    let (place, mut gate) = place();
    gate.open();
    let plain = place.command(&["run", "pings.toml"]).env("TERM", "xterm").finish();
    plain.assert_exit(3);
    plain.log();
    let cases: [(&[&str], &str); 4] =
        [(&["-q"], "xterm"), (&["--log-format", "json"], "xterm"), (&[], "dumb"), (&[], "")];
    for (options, term) in cases {
        let terminal = Terminal::open();
        let recording = terminal.record();
        let run = place.command(&[&["run", "pings.toml", "--fresh"], options].concat());
        on(run, &terminal).env("TERM", term).finish().assert_exit(3);
        until_drawn(&recording, "jobs that have failed for good");
        let text = recording.text();
        assert!(!text.contains('\x1b') && !text.contains(" % "), "{options:?} {term}: {text}");
    }
}

#[test]
fn a_run_that_does_not_end_by_itself_has_none() {
    let (place, _gate) = place();
    place.work_script(":");
    let terminal = Terminal::open();
    let recording = terminal.record();
    let run = on(place.command(&["run", "pings.toml", "--every", "1h"]), &terminal).start();
    run.until_written(40);
    run.signal(Signal::TERM);
    run.wait().assert_exit(0);
    until_drawn(&recording, "done in ");
    assert!(!recording.text().contains('\x1b'), "{}", recording.text());
}

#[test]
fn with_a_log_file_the_bar_is_alone_and_the_file_has_none_of_it() {
    let (place, mut gate) = place();
    let terminal = Terminal::open();
    let recording = terminal.record();
    let run = place.command(&["run", "pings.toml", "--log-file", "run.log"]);
    let run = on(run, &terminal).start();
    until_drawn(&recording, "10/40 jobs");
    gate.open();
    run.wait().assert_exit(3);
    until_drawn(&recording, "ended in");
    let (lines, others) = take_apart(&recording.screen());
    assert!(lines.is_empty() && others.len() == 1, "{lines:?} {others:?}");
    support::Balance::of(&log::parse(&place.read("run.log")));
}

#[test]
fn killed_by_force_it_leaves_the_terminal_as_it_was() {
    let (place, mut gate) = place();
    let terminal = Terminal::open();
    terminal.resize(200, 24);
    let modes = terminal.modes();
    let recording = terminal.record();
    let run = start(&place, &terminal);
    until_drawn(&recording, "10/40 jobs");
    // The one who draws: another one takes its place.
    run.role(WORKERS, "buffer")[0].send(Signal::KILL);
    until_drawn(&recording, "starting buffer again");
    let before = recording.text().len();
    wait_until("a new bar", support::WATCHDOG, || {
        recording.text()[before..].contains("10/40 jobs").then_some(())
    });
    let all: Vec<_> = run.of_program().iter().filter_map(|process| process.handle()).collect();
    // Main first, or it would start again what dies.
    all.iter().for_each(|process| {
        process.send(Signal::KILL);
    });
    all.iter().for_each(|process| {
        process.wait(support::WATCHDOG);
    });
    run.wait_for_main();
    assert_eq!(terminal.modes(), modes);
    assert!(place.files().contains(SPOOL));
    gate.open();
}

#[test]
fn orphans_draw_nothing_over_the_prompt() {
    let (place, mut gate) = place();
    let terminal = Terminal::open();
    terminal.resize(200, 24);
    let recording = terminal.record();
    let run = start(&place, &terminal);
    until_drawn(&recording, "10/40 jobs");
    let children = run.children(WORKERS);
    let children: Vec<_> = children.iter().filter_map(|child| child.handle()).collect();
    run.signal(Signal::KILL);
    run.wait_for_main();
    until_drawn(&recording, "the supervisor is gone; stopping");
    wait_until("the bar is gone", support::WATCHDOG, || {
        recording.screen().iter().all(|line| !line.contains("/40 jobs")).then_some(())
    });
    gate.open();
    for child in children {
        assert!(child.wait(support::WATCHDOG), "{:?}", child.process);
    }
    let (_, others) = take_apart(&recording.screen());
    assert!(others.iter().all(|line| !line.contains("/40 jobs")), "{others:#?}");
}

#[test]
fn a_screen_shows_what_a_terminal_would() {
    assert_eq!(screen("50 %\r\x1b[Kline\r\n 60 %\r 7\x1b[K"), ["line", " 7"]);
}
