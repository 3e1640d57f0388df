//! What holds at one exact moment, or to one exact number, and what is said.

use super::*;
use std::collections::BTreeSet;

impl Story {
    /// What is said about it.
    fn said(&mut self, event: Event) -> Vec<Notice> {
        let (machine, actions) = self.machine.clone().step(event, self.now);
        self.machine = machine;
        let notices = actions.into_iter().filter_map(|action| match action {
            Action::Say(notice) => Some(notice),
            _ => None,
        });
        notices.collect()
    }

    /// Lets time pass, with a main that is awake whenever it is to be.
    fn pass_until(&mut self, moment: Duration) {
        while let Some(alarm) = self.machine.next_alarm().filter(|alarm| *alarm < moment) {
            self.now = alarm;
            self.then(Event::Time);
        }
        self.now = moment;
    }

    /// Everyone but the buffer has ended, after a signal at this moment.
    fn flushing() -> (Story, Duration) {
        let mut story = Story::begin(false);
        let began = story.now;
        story.then(SIGNAL);
        story.then(ended(FIRST));
        assert_eq!(story.then(ended(SECOND)), [Action::Stop(BUFFER)]);
        (story, began)
    }
}

#[test]
fn a_kill_that_is_due_anyway_is_not_put_down_to_a_signal_of_the_same_moment() {
    let mut story = Story::begin(false);
    story.then(SIGNAL);
    let kills = [Action::Kill(FIRST, Why::Reserve), Action::Kill(SECOND, Why::Reserve)];
    story.pass_until(story.now + LIMITS.deadline - LIMITS.flush_reserve);
    assert_eq!(story.then(SIGNAL), kills);
}

#[test]
fn a_signal_beyond_the_third_is_not_even_counted() {
    let mut story = Story::begin(true);
    story.then(SIGNAL);
    for count in 2..=SIGNALS_MAX {
        story.now += REPEAT_AFTER;
        assert!(story.said(SIGNAL).contains(&Notice::Signal(count)), "{count}");
    }
    story.now += REPEAT_AFTER;
    assert_eq!(story.said(SIGNAL), []);
}

#[test]
fn a_buffer_that_dies_at_the_very_deadline_is_not_started_again() {
    let (mut story, began) = Story::flushing();
    story.pass_until(began + LIMITS.deadline);
    assert_eq!(story.then(died(BUFFER)), [Action::Finish]);
    assert_eq!(story.machine.failure(), Some(ExitCode::Failure));
}

#[test]
fn a_buffer_that_was_killed_at_the_deadline_has_not_failed() {
    let (mut story, began) = Story::flushing();
    story.pass_until(began + LIMITS.deadline);
    assert_eq!(story.then(Event::Time), [Action::Kill(BUFFER, Why::Deadline)]);
    assert_eq!(story.then(died(BUFFER)), [Action::Finish]);
    assert!(story.machine.has_killed());
    assert_eq!(story.machine.failure(), None);
}

#[test]
fn whoever_is_left_behind_is_counted_and_nobody_is_if_all_have_gone() {
    let (mut story, began) = Story::flushing();
    story.pass_until(began + LIMITS.deadline);
    story.then(Event::Time);
    story.pass_until(story.now + ABANDON_AFTER);
    let is_abandoned = |notice: &Notice| matches!(notice, Notice::Abandoned(_));
    let last = story.now;
    let mut gone = Story { machine: story.machine.clone(), now: last };
    assert!(story.said(Event::Time).contains(&Notice::Abandoned(1)));
    assert!(!gone.said(died(BUFFER)).iter().any(is_abandoned));
    assert!(story.machine.is_done() && gone.machine.is_done());
}

#[test]
fn after_an_absence_of_main_it_is_heard_who_has_ended_before_it_is_said_who_is_waited_for() {
    let mut story = Story::begin(false);
    story.then(SIGNAL);
    story.now += PROGRESS_EVERY + LATE + Duration::from_millis(1);
    let late = LATE + Duration::from_millis(1) + HEARING;
    assert_eq!(story.said(Event::Time), [Notice::DeadlineMoved(late)]);
    story.now += HEARING;
    let left = LIMITS.deadline - PROGRESS_EVERY;
    assert_eq!(story.said(Event::Time), [Notice::Waiting { left }]);
}

#[test]
fn a_death_counts_until_its_time_is_over_and_not_a_moment_longer() {
    for (longer, starts) in [(0, false), (1, true)] {
        let mut story = Story::begin(true);
        let first = story.now;
        for _ in 0..LIMITS.restart_max {
            story.then(died(FIRST));
            assert_eq!(story.until_something(), [Action::Start(FIRST)]);
            story.then(Event::Ready(FIRST));
        }
        story.now = first + LIMITS.restart_within + Duration::from_millis(longer);
        let stops = story.then(died(FIRST)).contains(&Action::Stop(SOURCE));
        assert_eq!(stops, !starts, "{longer} ms after the first death's time");
    }
}

#[test]
fn pauses_begin_with_a_tenth_of_a_second_are_doubled_and_end_at_ten() {
    let mut story = Story::begin_with(Limits { restart_max: 40, ..LIMITS }, true);
    for death in 0..40 {
        // All at one moment, so that none of them is forgotten.
        let pause = match &story.said(died(FIRST))[..] {
            [Notice::Restarting(FIRST, pause)] => pause.as_secs_f64(),
            other => panic!("{other:?}"),
        };
        let expected = (0.1 * f64::powi(2.0, death)).min(10.0);
        let (least, most) = (0.7499 * expected, 1.2501 * expected);
        assert!((least..=most).contains(&pause), "death {death}: {pause} s");
        story.machine.workers[0] = Status::Running;
    }
}

#[test]
fn those_that_die_together_are_started_again_all_over_the_range() {
    let workers = (0..1000).map(Child::Worker);
    let children: Vec<Child> = [SOURCE, BUFFER].into_iter().chain(workers).collect();
    for deaths in [1, 2, 1000] {
        let drawn: Vec<f64> = children.iter().map(|child| jitter(*child, deaths)).collect();
        assert!(drawn.iter().all(|factor| (0.75..=1.25).contains(factor)));
        let tenth = |factor: &f64| (((factor - 0.75) * 20.0) as usize).min(9);
        for part in 0..10 {
            let here = drawn.iter().filter(|factor| tenth(factor) == part).count();
            assert!((70..=130).contains(&here), "{here} of a thousand in tenth {part}");
        }
        let distinct: BTreeSet<u64> = drawn.iter().map(|factor| factor.to_bits()).collect();
        assert!(distinct.len() > 980, "{}", distinct.len());
    }
    let of_one: BTreeSet<u64> = (1..=5).map(|deaths| jitter(FIRST, deaths).to_bits()).collect();
    assert_eq!(of_one.len(), 5, "nor is one's own next pause drawn the same");
}

#[test]
fn a_producer_that_is_to_be_started_again_is_waited_for_after_all_others_have_finished() {
    let mut story = Story::begin(false);
    story.then(Event::Finished(SECOND));
    assert_eq!(story.then(ended(SECOND)), []);
    assert_eq!(story.then(died(FIRST)), []);
    assert_eq!(story.until_something(), [Action::Start(FIRST)]);
    story.then(Event::Ready(FIRST));
    story.then(Event::Finished(FIRST));
    assert_eq!(story.then(ended(FIRST)), [Action::Stop(BUFFER)]);
}

#[test]
fn who_is_waited_for_is_said_two_seconds_into_a_stop_and_then_every_two() {
    let mut story = Story::begin(false);
    let began = story.now;
    story.then(SIGNAL);
    let mut said = Vec::new();
    while story.now < began + Duration::from_secs(5) {
        story.now += Duration::from_millis(500);
        if story.said(Event::Time).iter().any(|it| matches!(it, Notice::Waiting { .. })) {
            said.push((story.now - began).as_millis());
        }
    }
    assert_eq!(said, [2000, 4000]);
}

#[test]
fn that_all_are_ready_is_said_before_a_stop_for_lack_of_work_and_not_before_another() {
    for (event, said) in [(Event::Finished(SOURCE), true), (SIGNAL, false)] {
        let (machine, _) = Lifecycle::begin(LIMITS, members(true), Duration::from_secs(100));
        let mut story = Story { machine, now: Duration::from_secs(100) };
        assert_eq!(story.said(event).contains(&Notice::AllReady), said, "{event:?}");
    }
}

#[test]
fn a_source_that_ended_while_main_was_away_is_heard_before_it_is_killed() {
    let mut story = Story::begin(true);
    story.then(SIGNAL);
    assert_eq!(story.after(3000, Event::Time), [], "main was away for two seconds");
    assert_eq!(story.after(999, Event::Time), []);
    let kill = Action::Kill(SOURCE, Why::NotQuiet);
    assert_eq!(story.after(1, Event::Time).first(), Some(&kill));
}
