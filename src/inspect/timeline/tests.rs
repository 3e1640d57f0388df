use super::chart::{Outcome, chart};
use super::text::Style;
use super::*;
use crate::flow::about::{About, Kind};
use crate::flow::queue::history::Story;
use std::path::PathBuf;

const SOURCE: usize = 0;
const BUFFER: usize = 1;
const PLAIN: Style = Style { width: 80, unicode: false, color: false };

/// A run of so many workers, in which this happened: seconds since the run has begun, the slot, what.
fn run(workers: u16, main: Main, events: &[(f64, Option<usize>, What)]) -> LastRun {
    let event = |(at, slot, what): &(f64, Option<usize>, What)| Event {
        at: Duration::from_secs_f64(*at),
        wall: Duration::from_secs_f64(1_700_000_000.0 + at),
        slot: *slot,
        what: *what,
    };
    let stop = events.iter().position(|(_, _, what)| matches!(what, What::StopRequested(_)));
    let (before, stop) = events.split_at(stop.unwrap_or(events.len()));
    let kind = Kind {
        name: "check".into(),
        processes: workers,
        threads: 4,
        runs: "command".into(),
        what: vec!["true".into()],
        takes_jobs: true,
    };
    LastRun {
        path: PathBuf::from(".x.spool"),
        run_id: 7,
        main,
        owner: None,
        pid: 4242,
        booted_since: false,
        children: 0,
        started: Duration::from_secs(1_700_000_000),
        deadline: Duration::from_secs(8),
        flush_reserve: Duration::from_secs(2),
        exit: None,
        about: Some(About {
            run_id: 7,
            version: "1".into(),
            name: "checks".into(),
            jobs: None,
            finite: false,
            output: "out".into(),
            own_sink: false,
            format: "JsonLines".into(),
            dead_letters: None,
            log_file: None,
            kinds: vec![kind],
            flush_records: 1,
            flush_bytes: 1,
            flush_after_seconds: 1.0,
        }),
        story: Story {
            run_id: 7,
            before: before.iter().map(event).collect(),
            stop: stop.iter().map(event).collect(),
            ..Story::default()
        },
        balance: None,
    }
}

fn everybody(workers: usize) -> Vec<(f64, Option<usize>, What)> {
    (0..workers + 2).map(|slot| (0.0, Some(slot), What::Started { pid: 100 })).collect()
}

/// A stop that begins ten seconds after the start: one worker is killed.
fn with_a_hung_worker() -> Vec<(f64, Option<usize>, What)> {
    let clean = What::Ended(End::Exited(0));
    let mut events = everybody(2);
    events.extend([
        (10.0, None, What::StopRequested(Reason::Signal)),
        (10.0, Some(SOURCE), What::Told),
        (10.5, Some(SOURCE), clean),
        (10.5, Some(2), What::Told),
        (10.5, Some(3), What::Told),
        (12.0, Some(2), clean),
        (16.0, Some(3), What::Killed(Why::Reserve)),
        (16.25, Some(3), What::Ended(End::Signaled(9))),
        (16.25, Some(BUFFER), What::Told),
        (16.5, Some(BUFFER), clean),
        (16.5, None, What::Done { code: 4 }),
    ]);
    events
}

#[test]
fn a_chart_has_a_row_for_each_process_in_the_order_of_the_stop_and_says_who_was_killed_and_why() {
    let chart = chart(&run(2, Main::Exited, &with_a_hung_worker()), Duration::ZERO).unwrap();
    let rows: Vec<(&str, Outcome, Option<f64>)> =
        chart.rows.iter().map(|row| (row.name.as_str(), row.end, row.at)).collect();
    let expected = [
        ("source", Outcome::Ended, Some(0.5)),
        ("worker check/0", Outcome::Ended, Some(2.0)),
        ("worker check/1", Outcome::Died, Some(6.25)),
        ("buffer", Outcome::Ended, Some(6.5)),
        ("supervisor", Outcome::Ended, Some(6.5)),
    ];
    assert_eq!(rows, expected);
    assert_eq!((chart.reserve, chart.deadline), (Some(6.0), Some(8.0)));
    let title = "checks: stopped by a signal in 6.500 s, exit code 4: something was killed";
    assert_eq!(chart.title, title);
    let text = text::draw(&chart, PLAIN);
    assert!(text.contains("worker check/1: killed: to leave time for the flush"), "{text}");
}

#[test]
fn no_line_is_longer_than_the_terminal_and_ascii_is_ascii() {
    let chart = chart(&run(2, Main::Exited, &with_a_hung_worker()), Duration::ZERO).unwrap();
    for width in 40..=200 {
        for unicode in [false, true] {
            let text = text::draw(&chart, Style { width, unicode, color: false });
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{width}: {line:?}\n{text}");
                assert!(unicode || line.is_ascii(), "{line:?}");
            }
            for row in ["source", "check/0", "check/1", "buffer", "supervi"] {
                assert!(text.contains(row), "{width}: no {row}\n{text}");
            }
        }
    }
    let colored = text::draw(&chart, Style { color: true, ..PLAIN });
    assert!(colored.contains("\u{1b}[31m"));
}

#[test]
fn of_a_thousand_workers_the_first_the_slowest_and_the_killed_have_rows_and_the_rest_has_one() {
    let mut events = everybody(1000);
    events.push((10.0, None, What::StopRequested(Reason::Signal)));
    events.extend((2..1002).map(|slot| (10.0, Some(slot), What::Told)));
    for slot in 2..1002 {
        let (at, how) = match slot {
            500 => (16.0, End::Signaled(9)),
            700 => (13.0, End::Exited(0)),
            _ => (10.0 + slot as f64 / 10_000.0, End::Exited(0)),
        };
        events.push((at, Some(slot), What::Ended(how)));
    }
    let chart = chart(&run(1000, Main::Exited, &events), Duration::ZERO).unwrap();
    let names: Vec<&str> = chart.rows.iter().map(|row| row.name.as_str()).collect();
    assert!(names.len() < 20, "{names:?}");
    for shown in ["worker check/0", "worker check/498", "worker check/698", "... and 994 more"] {
        assert!(names.contains(&shown), "{shown} in {names:?}");
    }
    let folded = chart.rows.iter().find(|row| row.name.starts_with("...")).unwrap();
    assert!(folded.words.starts_with("all within 0.1"), "{}", folded.words);
}

#[test]
fn a_stop_that_is_under_way_goes_on_until_now_and_one_whose_main_was_killed_says_so() {
    let mut events = with_a_hung_worker();
    events.truncate(10);
    let now = Duration::from_secs(14);
    let alive = chart(&run(2, Main::Runs(4242), &events), now).unwrap();
    assert!(alive.title.ends_with("the stop is under way for 4.000 s"), "{}", alive.title);
    let hung = alive.rows.iter().find(|row| row.name == "worker check/1").unwrap();
    assert_eq!((hung.end, hung.bars.last().unwrap().to), (Outcome::Runs, 4.0));
    let dead = chart(&run(2, Main::Killed, &events), now).unwrap();
    assert!(dead.title.contains("the supervisor was killed in the middle of the stop"));
    assert!(dead.notes.iter().any(|note| note.starts_with("what came after 2.000 s")));
    assert_eq!(dead.rows.last().unwrap().end, Outcome::Died);
}

#[test]
fn without_a_stop_there_is_no_chart_and_it_is_said_what_runs() {
    let run_of = |main| run(2, main, &everybody(2));
    assert_eq!(chart(&run_of(Main::Runs(4242)), Duration::ZERO), None);
    let text = without_stop(&run_of(Main::Runs(4242)));
    assert!(text.contains("checks runs since") && text.contains("worker check: 2 processes"));
    assert!(without_stop(&run_of(Main::Never)).contains("nothing was run with this spool yet"));
}

#[test]
fn names_from_anywhere_are_text_in_an_svg_and_steer_no_terminal() {
    let mut run = run(2, Main::Exited, &with_a_hung_worker());
    let about = run.about.as_mut().unwrap();
    about.kinds[0].name = "</text><script>alert('&')</script>\u{1b}[31m".into();
    about.name = "\"<&>\u{0}".into();
    let chart = chart(&run, Duration::ZERO).unwrap();
    let svg = svg::draw(&chart);
    assert!(!svg.contains("<script") && !svg.contains('\u{1b}') && !svg.contains('\u{0}'), "{svg}");
    assert!(svg.contains("&lt;/text&gt;&lt;script&gt;") || svg.contains("&lt;script&gt;"), "{svg}");
    assert!(svg.contains("&quot;&lt;&amp;&gt;?"), "{svg}");
    assert!(!text::draw(&chart, PLAIN).contains('\u{1b}'));
}

/// Any prefix of any stop is a chart, also with events that make no sense together.
#[test]
fn whatever_the_history_says_there_is_a_chart_and_no_panic() {
    let whole = with_a_hung_worker();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mains = [Main::Runs(1), Main::Frozen(1), Main::Exited, Main::Killed, Main::Elsewhere];
    let draw = |run: &LastRun| {
        if let Some(chart) = chart(run, Duration::from_secs(11)) {
            let style = Style { width: 40, unicode: true, color: true };
            assert!(text::draw(&chart, style).contains("supervisor"));
            assert!(svg::draw(&chart).ends_with("</svg>\n"));
        }
        json(run);
        without_stop(run);
    };
    for len in 0..=whole.len() {
        mains.iter().for_each(|main| draw(&run(2, *main, &whole[..len])));
    }
    for round in 0..2000 {
        let mut events = whole.clone();
        for _ in 0..random(12) {
            let (from, to) = (random(events.len() as u64), random(events.len() as u64));
            let times = [0.0, 9.0, 10.0, 1e-9, 1e9];
            events[from as usize].0 = times[random(5) as usize];
            events[from as usize].1 = Some(random(5) as usize);
            events[to as usize].2 = events[from as usize].2;
        }
        draw(&run(2, mains[round % mains.len()], &events));
    }
}
