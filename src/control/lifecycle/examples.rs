//! What the machine promises, one story each. [`super::explore`] tries all stories.

use super::*;

mod moments;

const LIMITS: Limits = Limits {
    deadline: Duration::from_secs(8),
    flush_reserve: Duration::from_secs(2),
    restart_max: 5,
    restart_within: Duration::from_secs(30),
};
const SOURCE: Child = Child::Source;
const FIRST: Child = Child::Worker(0);
const SECOND: Child = Child::Worker(1);
const BUFFER: Child = Child::Buffer;

/// A machine, and the clock that is shown to it.
struct Story {
    machine: Lifecycle,
    now: Duration,
}

impl Story {
    /// Everyone is started, and ready.
    fn begin(source: bool) -> Story {
        Story::begin_with(LIMITS, source)
    }

    fn begin_with(limits: Limits, source: bool) -> Story {
        Story::begin_as(limits, members(source))
    }

    /// As if sources acknowledged.
    fn begin_acknowledging() -> Story {
        Story::begin_as(LIMITS, Members { acknowledges: true, ..members(true) })
    }

    fn begin_as(limits: Limits, members: Members) -> Story {
        let now = Duration::from_secs(100);
        let (machine, actions) = Lifecycle::begin(limits, members, now);
        assert_eq!(actions.first(), Some(&Action::Start(BUFFER)), "the buffer comes first");
        let mut story = Story { machine, now };
        for child in [BUFFER, FIRST, SECOND].into_iter().chain(members.source.then_some(SOURCE)) {
            assert_eq!(story.then(Event::Ready(child)), []);
        }
        story
    }

    /// What is done about it, apart from talk.
    fn then(&mut self, event: Event) -> Vec<Action> {
        let (machine, mut actions) = self.machine.clone().step(event, self.now);
        self.machine = machine;
        actions.retain(|action| !matches!(action, Action::Say(_) | Action::ContinueAll));
        actions
    }

    fn after(&mut self, milliseconds: u64, event: Event) -> Vec<Action> {
        self.now += Duration::from_millis(milliseconds);
        self.then(event)
    }

    /// Lets time pass until something is done about it.
    fn until_something(&mut self) -> Vec<Action> {
        for _ in 0..100 {
            self.now = self.machine.next_alarm().expect("something is pending");
            let actions = self.then(Event::Time);
            if !actions.is_empty() {
                return actions;
            }
        }
        panic!("time passes, and nothing is ever done");
    }
}

/// One that is heard at once.
const SIGNAL: Event = Event::Signal { late: Duration::ZERO };

fn members(source: bool) -> Members {
    Members { source, acknowledges: false, workers: 2 }
}

fn ended(child: Child) -> Event {
    Event::Reaped(child, Ended::Clean)
}

fn died(child: Child) -> Event {
    Event::Reaped(child, Ended::Crashed)
}

#[test]
fn the_first_signal_stops_source_then_workers_then_buffer_then_main() {
    let mut story = Story::begin(true);
    assert_eq!(story.machine.next_alarm(), None, "it does not tick");
    assert_eq!(story.then(SIGNAL), [Action::Stop(SOURCE)]);
    assert_eq!(story.then(ended(SOURCE)), [Action::Stop(FIRST), Action::Stop(SECOND)]);
    assert_eq!(story.then(ended(SECOND)), []);
    assert_eq!(story.then(ended(FIRST)), [Action::Stop(BUFFER)]);
    assert_eq!(story.then(ended(BUFFER)), [Action::Finish]);
    assert!(story.machine.is_done() && !story.machine.has_killed());
    assert_eq!(story.machine.failure(), None);
    assert_eq!(story.machine.next_alarm(), None);
    assert_eq!(story.after(9000, SIGNAL), [], "after the end there is nothing");
}

#[test]
fn without_a_source_workers_are_stopped_at_once() {
    let mut story = Story::begin(false);
    assert_eq!(story.then(SIGNAL), [Action::Stop(FIRST), Action::Stop(SECOND)]);
}

#[test]
fn a_source_that_does_not_stop_is_killed_after_a_second_and_that_is_no_harm() {
    let mut story = Story::begin(true);
    story.then(SIGNAL);
    assert_eq!(story.after(999, Event::Time), []);
    let actions = [Action::Kill(SOURCE, Why::NotQuiet), Action::Stop(FIRST), Action::Stop(SECOND)];
    assert_eq!(story.after(1, Event::Time), actions);
    assert!(!story.machine.has_killed());
}

#[test]
fn workers_that_do_not_stop_leave_the_buffer_its_reserve() {
    let mut story = Story::begin(false);
    let began = story.now;
    story.then(SIGNAL);
    assert_eq!(
        story.until_something(),
        [Action::Kill(FIRST, Why::Reserve), Action::Kill(SECOND, Why::Reserve)]
    );
    assert_eq!(story.now, began + Duration::from_secs(6));
    assert!(story.machine.has_killed());
    assert_eq!(story.then(died(FIRST)), []);
    assert_eq!(story.then(died(SECOND)), [Action::Stop(BUFFER)]);
    assert_eq!(story.until_something(), [Action::Kill(BUFFER, Why::Deadline)]);
    assert_eq!(story.now, began + Duration::from_secs(8));
    assert_eq!(story.then(died(BUFFER)), [Action::Finish]);
}

#[test]
fn what_can_not_even_be_killed_is_left_behind_after_a_second() {
    let mut story = Story::begin(true);
    let began = story.now;
    story.then(SIGNAL);
    while story.until_something() != [Action::Finish] {}
    assert_eq!(story.now, began + Duration::from_secs(9));
}

#[test]
fn a_second_signal_kills_the_workers_and_the_buffer_still_flushes() {
    let mut story = Story::begin(true);
    story.then(SIGNAL);
    assert_eq!(story.after(299, SIGNAL), [], "delivered twice");
    let actions = story.after(1, SIGNAL);
    for child in [SOURCE, FIRST, SECOND] {
        assert!(actions.contains(&Action::Kill(child, Why::Signal)));
    }
    assert!(!actions.contains(&Action::Kill(BUFFER, Why::Signal)));
    story.then(died(SOURCE));
    story.then(died(FIRST));
    assert_eq!(story.then(died(SECOND)), [Action::Stop(BUFFER)]);
    assert_eq!(story.then(ended(BUFFER)), [Action::Finish]);
    assert!(story.machine.has_killed());
}

#[test]
fn a_third_signal_kills_everything_and_more_change_nothing() {
    let mut story = Story::begin(false);
    story.then(SIGNAL);
    story.after(300, SIGNAL);
    assert_eq!(story.after(299, SIGNAL), []);
    assert_eq!(story.after(1, SIGNAL), [Action::Kill(BUFFER, Why::ThirdSignal)]);
    for _ in 0..3 {
        assert_eq!(story.after(300, SIGNAL), []);
    }
    assert_eq!(story.after(100, SIGNAL), [Action::Finish], "a second after the third");
}

#[test]
fn two_signals_that_a_busy_main_hears_of_at_once_are_two_and_one_that_came_twice_is_one() {
    let heard = |late: u64| Event::Signal { late: Duration::from_millis(late) };
    let mut story = Story::begin(false);
    story.after(5000, heard(700));
    assert_eq!(story.then(heard(401)), [], "delivered twice");
    let killed = [FIRST, SECOND].map(|child| Action::Kill(child, Why::Signal));
    assert_eq!(story.then(heard(400)), killed);
    assert_eq!(story.then(heard(101)), []);
    assert_eq!(story.then(heard(100)), [Action::Kill(BUFFER, Why::ThirdSignal)]);
}

/// Everything has been told to stop, and is gone but the buffer.
fn almost_stopped() -> Story {
    let mut story = Story::begin_acknowledging();
    story.then(SIGNAL);
    for child in [SOURCE, FIRST, SECOND] {
        story.then(ended(child));
    }
    story
}

#[test]
fn one_more_source_acknowledges_when_the_buffer_is_gone_and_then_it_is_over() {
    let mut story = almost_stopped();
    assert_eq!(story.then(ended(BUFFER)), [Action::Acknowledge]);
    assert_eq!(story.then(Event::Ready(SOURCE)), []);
    assert_eq!(story.then(ended(SOURCE)), [Action::Finish]);
    assert!(story.machine.failure().is_none() && !story.machine.has_killed());
}

#[test]
fn it_is_over_as_well_if_there_is_nothing_to_acknowledge_or_no_source_can_be_started() {
    for event in [Event::NothingToAcknowledge, Event::NotStarted(SOURCE)] {
        let mut story = almost_stopped();
        assert_eq!(story.then(ended(BUFFER)), [Action::Acknowledge]);
        assert_eq!(story.then(event), [Action::Finish]);
        assert!(story.machine.failure().is_none() && !story.machine.has_killed());
    }
}

#[test]
fn whatever_becomes_of_the_last_source_is_no_failure_and_it_is_not_started_again() {
    let mut story = almost_stopped();
    story.then(ended(BUFFER));
    assert_eq!(story.then(Event::Failed(SOURCE, ExitCode::Io)), []);
    assert_eq!(story.then(died(SOURCE)), [Action::Finish]);
    assert!(story.machine.failure().is_none() && !story.machine.has_killed());
}

#[test]
fn the_last_source_has_what_is_left_of_the_deadline() {
    let mut story = almost_stopped();
    let began = story.now;
    story.after(2000, Event::Time);
    assert_eq!(story.then(ended(BUFFER)), [Action::Acknowledge]);
    assert_eq!(story.until_something(), [Action::Kill(SOURCE, Why::Deadline)]);
    assert_eq!(story.now, began + Duration::from_secs(8));
    assert_eq!(story.then(died(SOURCE)), [Action::Finish]);
    assert!(story.machine.failure().is_none() && !story.machine.has_killed());
}

#[test]
fn the_last_source_has_a_second_at_least_and_is_left_behind_after_another() {
    let mut story = almost_stopped();
    for _ in 0..7 {
        assert_eq!(story.after(1000, Event::Time), []);
    }
    assert_eq!(story.after(999, ended(BUFFER)), [Action::Acknowledge]);
    assert_eq!(story.after(999, Event::Time), []);
    assert_eq!(story.after(1, Event::Time), [Action::Kill(SOURCE, Why::Deadline)]);
    assert_eq!(story.after(999, Event::Time), []);
    assert_eq!(story.after(1, Event::Time), [Action::Finish]);
}

#[test]
fn any_further_signal_kills_the_last_source_unless_it_is_the_same_one_twice() {
    let mut story = almost_stopped();
    story.then(ended(BUFFER));
    assert_eq!(story.after(299, SIGNAL), [], "delivered twice");
    assert_eq!(story.after(1, SIGNAL), [Action::Kill(SOURCE, Why::Signal)]);
    assert_eq!(story.after(300, SIGNAL), [], "it is killed already");
    assert_eq!(story.after(700, Event::Time), [Action::Finish], "a second after the kill");
    // Also a third one, and the first one of a stop that no signal has begun.
    let mut story = almost_stopped();
    story.after(300, SIGNAL);
    assert_eq!(story.then(ended(BUFFER)), [Action::Acknowledge]);
    assert_eq!(story.after(300, SIGNAL), [Action::Kill(SOURCE, Why::ThirdSignal)]);
    let mut story = Story::begin_acknowledging();
    story.then(Event::Finished(SOURCE));
    for child in [SOURCE, FIRST, SECOND, BUFFER] {
        story.then(ended(child));
    }
    assert_eq!(story.then(SIGNAL), [Action::Kill(SOURCE, Why::Signal)]);
}

#[test]
fn after_the_deadline_or_a_third_signal_no_source_is_started_to_acknowledge() {
    let mut story = almost_stopped();
    assert_eq!(story.until_something(), [Action::Kill(BUFFER, Why::Deadline)]);
    assert_eq!(story.then(died(BUFFER)), [Action::Finish]);
    let mut story = almost_stopped();
    story.after(300, SIGNAL);
    assert_eq!(story.after(300, SIGNAL), [Action::Kill(BUFFER, Why::ThirdSignal)]);
    // However late main is, and even if it could not be killed.
    assert_eq!(story.after(5000, Event::Time), []);
    assert_eq!(story.until_something(), [Action::Finish]);
}

#[test]
fn signals_are_counted_from_the_first_also_in_a_stop_for_another_reason() {
    let mut story = Story::begin(true);
    story.then(Event::Finished(SOURCE));
    assert_eq!(story.then(SIGNAL), [], "the stop is under way");
    assert!(story.after(300, SIGNAL).contains(&Action::Kill(FIRST, Why::Signal)));
}

#[test]
fn a_finished_list_stops_the_pipeline() {
    let mut story = Story::begin(true);
    assert_eq!(story.then(Event::Finished(SOURCE)), [Action::Stop(SOURCE)]);
    assert_eq!(story.then(ended(SOURCE)), [Action::Stop(FIRST), Action::Stop(SECOND)]);
}

#[test]
fn when_the_last_producer_has_finished_the_buffer_is_stopped() {
    let mut story = Story::begin(false);
    story.then(Event::Finished(FIRST));
    assert_eq!(story.then(ended(FIRST)), []);
    story.then(Event::Finished(SECOND));
    assert_eq!(story.then(ended(SECOND)), [Action::Stop(BUFFER)]);
    assert_eq!(story.then(ended(BUFFER)), [Action::Finish]);
    assert_eq!(story.machine.failure(), None);
}

#[test]
fn a_dead_worker_is_started_again_after_a_pause_that_grows() {
    let mut story = Story::begin(true);
    let mut last = Duration::ZERO;
    for _ in 0..5 {
        let death = story.now;
        assert_eq!(story.then(died(FIRST)), []);
        assert_eq!(story.until_something(), [Action::Start(FIRST)]);
        assert!(story.now - death > last, "{:?} after {last:?}", story.now - death);
        last = story.now - death;
        story.then(Event::Ready(FIRST));
    }
    assert!(last > Duration::from_secs(1) && last < Duration::from_secs(3));
    assert_eq!(story.machine.next_alarm(), None);
}

#[test]
fn more_deaths_than_allowed_are_an_ordered_stop_and_a_failure() {
    let mut story = Story::begin(true);
    for _ in 0..5 {
        story.then(died(FIRST));
        story.until_something();
    }
    assert_eq!(story.then(died(FIRST)), [Action::Stop(SOURCE)]);
    assert_eq!(story.machine.failure(), Some(ExitCode::Failure));
    assert_eq!(story.then(ended(SOURCE)), [Action::Stop(SECOND)], "the dead stays dead");
}

#[test]
fn deaths_long_ago_do_not_count() {
    let mut story = Story::begin(true);
    for _ in 0..20 {
        story.then(died(SECOND));
        assert_eq!(story.until_something(), [Action::Start(SECOND)]);
        assert_eq!(story.after(6000, Event::Ready(SECOND)), []);
    }
    assert_eq!(story.machine.failure(), None);
}

#[test]
fn a_worker_that_ends_for_a_timed_out_job_is_started_again_at_once_however_often() {
    let mut story = Story::begin(true);
    for how in [Ended::Clean, Ended::Crashed].into_iter().cycle().take(20) {
        assert_eq!(story.after(10, Event::Overdue(FIRST)), []);
        assert_eq!(story.then(Event::Reaped(FIRST, how)), [Action::Start(FIRST)]);
        story.then(Event::Ready(FIRST));
    }
    assert_eq!((story.machine.failure(), story.machine.next_alarm()), (None, None));
    assert_eq!(story.then(died(FIRST)), [], "a real death is counted, and paused after");
    assert!(story.machine.next_alarm().is_some());
}

#[test]
fn a_worker_that_ends_for_a_timed_out_job_during_a_stop_stays_ended() {
    let mut story = Story::begin(false);
    story.then(SIGNAL);
    story.then(Event::Overdue(FIRST));
    assert_eq!(story.then(ended(FIRST)), []);
    story.then(ended(SECOND));
    assert_eq!(story.then(ended(BUFFER)), [Action::Finish]);
    assert!(!story.machine.has_killed() && story.machine.failure().is_none());
}

#[test]
fn a_worker_that_has_done_enough_is_replaced_at_once_however_often() {
    let mut story = Story::begin(false);
    for _ in 0..100 {
        assert_eq!(story.then(Event::Recycled(FIRST)), []);
        assert_eq!(story.then(ended(FIRST)), [Action::Start(FIRST)]);
        story.then(Event::Ready(FIRST));
    }
    assert_eq!((story.machine.failure(), story.machine.next_alarm()), (None, None));
}

#[test]
fn a_worker_that_dies_on_its_way_out_has_died() {
    let mut story = Story::begin(false);
    story.then(Event::Recycled(FIRST));
    assert_eq!(story.then(died(FIRST)), [], "counted, and paused after");
    assert_eq!(story.until_something(), [Action::Start(FIRST)]);
}

#[test]
fn a_worker_that_has_done_enough_during_a_stop_stays_ended() {
    let mut story = Story::begin(false);
    story.then(Event::Recycled(FIRST));
    story.then(SIGNAL);
    assert_eq!(story.then(ended(FIRST)), []);
    story.then(ended(SECOND));
    assert_eq!(story.then(ended(BUFFER)), [Action::Finish]);
}

#[test]
fn deaths_that_are_put_down_to_jobs_end_nothing_and_hide_no_others() {
    let mut story = Story::begin(false);
    for _ in 0..100 {
        assert_eq!(story.then(Event::Reaped(FIRST, Ended::ByJob)), []);
        assert_eq!(story.until_something(), [Action::Start(FIRST)]);
        story.then(Event::Ready(FIRST));
    }
    for _ in 0..5 {
        assert_eq!(story.then(died(SECOND)), []);
        assert_eq!(story.until_something(), [Action::Start(SECOND)]);
    }
    story.then(died(SECOND));
    assert_eq!(story.machine.failure(), Some(ExitCode::Failure));
}

#[test]
fn after_too_many_deaths_of_the_buffer_one_more_is_started_to_flush() {
    let mut story = Story::begin(false);
    for _ in 0..5 {
        story.then(died(BUFFER));
        assert_eq!(story.until_something(), [Action::Start(BUFFER)]);
    }
    let actions = [Action::Stop(FIRST), Action::Stop(SECOND), Action::Start(BUFFER)];
    assert_eq!(story.then(died(BUFFER)), actions);
    assert_eq!(story.then(died(BUFFER)), [], "and no other");
    story.then(ended(FIRST));
    assert_eq!(story.then(ended(SECOND)), [Action::Finish]);
}

#[test]
fn a_buffer_that_dies_while_it_flushes_is_started_once_more_and_told_at_once() {
    let mut story = Story::begin(false);
    story.then(SIGNAL);
    story.then(ended(FIRST));
    story.then(ended(SECOND));
    assert_eq!(story.then(died(BUFFER)), [Action::Start(BUFFER), Action::Stop(BUFFER)]);
    assert_eq!(story.machine.failure(), None);
    assert_eq!(story.then(died(BUFFER)), [Action::Finish]);
    assert_eq!(story.machine.failure(), Some(ExitCode::Failure));
}

#[test]
fn no_buffer_is_started_after_the_third_signal_however_late_main_is() {
    let mut story = Story::begin(false);
    story.after(900, SIGNAL);
    story.after(800, SIGNAL);
    story.after(800, SIGNAL);
    // The line about waiting was due after 0.4 s; main is late for it.
    assert_eq!(story.after(1900, died(BUFFER)), []);
}

#[test]
fn a_buffer_that_does_not_get_ready_during_a_stop_is_a_failure() {
    let deadline = Duration::from_secs(100);
    let mut story = Story::begin_with(Limits { deadline, ..LIMITS }, false);
    story.then(SIGNAL);
    story.then(ended(FIRST));
    story.then(ended(SECOND));
    assert_eq!(story.then(died(BUFFER)), [Action::Start(BUFFER), Action::Stop(BUFFER)]);
    assert_eq!(story.until_something(), [Action::Kill(BUFFER, Why::NotReady)]);
    assert_eq!(story.then(died(BUFFER)), [Action::Finish]);
    assert_eq!(story.machine.failure(), Some(ExitCode::Failure));
}

#[test]
fn a_child_that_failed_for_good_stops_the_pipeline_even_if_it_hangs_on_its_way_out() {
    let mut story = Story::begin(true);
    assert_eq!(story.then(Event::Failed(BUFFER, ExitCode::Io)), [Action::Stop(SOURCE)]);
    assert_eq!(story.machine.failure(), Some(ExitCode::Io));
    while story.until_something() != [Action::Finish] {}
    assert_eq!(story.machine.failure(), Some(ExitCode::Io));
}

#[test]
fn the_worst_failure_wins_whichever_comes_first() {
    for codes in [[ExitCode::Io, ExitCode::Failure], [ExitCode::Failure, ExitCode::Io]] {
        let mut story = Story::begin(true);
        story.then(Event::Failed(FIRST, codes[0]));
        story.then(Event::Failed(SECOND, codes[1]));
        assert_eq!(story.machine.failure(), Some(ExitCode::Io));
    }
}

#[test]
fn what_was_said_before_a_kill_is_heard_after_it() {
    let mut story = Story::begin(true);
    story.then(SIGNAL);
    story.after(300, SIGNAL);
    story.then(Event::Failed(FIRST, ExitCode::Io));
    assert_eq!(story.machine.failure(), Some(ExitCode::Io));
}

#[test]
fn a_child_that_does_not_get_ready_is_killed_and_started_again() {
    let now = Duration::from_secs(100);
    let (machine, _) = Lifecycle::begin(LIMITS, members(false), now);
    let mut story = Story { machine, now };
    story.then(Event::Ready(BUFFER));
    story.then(Event::Ready(SECOND));
    assert_eq!(story.after(29_999, Event::Time), []);
    assert_eq!(story.after(1, Event::Time), [Action::Kill(FIRST, Why::NotReady)]);
    assert!(!story.machine.has_killed(), "it had nothing in hand");
    story.then(died(FIRST));
    assert_eq!(story.until_something(), [Action::Start(FIRST)]);
}

#[test]
fn a_source_that_is_being_killed_is_not_told_to_stop() {
    let now = Duration::from_secs(100);
    let (machine, _) = Lifecycle::begin(LIMITS, members(true), now);
    let mut story = Story { machine, now };
    for child in [BUFFER, FIRST, SECOND] {
        story.then(Event::Ready(child));
    }
    assert_eq!(story.after(30_000, Event::Time), [Action::Kill(SOURCE, Why::NotReady)]);
    assert_eq!(story.then(SIGNAL), []);
    assert_eq!(story.then(died(SOURCE)), [Action::Stop(FIRST), Action::Stop(SECOND)]);
}

#[test]
fn a_late_main_hears_who_has_ended_before_it_kills() {
    let mut story = Story::begin(false);
    story.then(SIGNAL);
    for _ in 0..2 {
        assert_eq!(story.after(2000, Event::Time), []);
    }
    assert_eq!(story.after(1900, Event::Time), []);
    // Stopped until long after the deadline; both have ended in order meanwhile.
    assert_eq!(story.after(20_000, ended(FIRST)), []);
    assert_eq!(story.then(ended(SECOND)), [Action::Stop(BUFFER)]);
    assert_eq!(story.after(2000, ended(BUFFER)), [Action::Finish]);
    assert!(!story.machine.has_killed());
}

#[test]
fn a_late_main_gives_a_starting_child_its_time() {
    let now = Duration::from_secs(100);
    let (machine, _) = Lifecycle::begin(LIMITS, members(false), now);
    let mut story = Story { machine, now };
    assert_eq!(story.after(3_600_000, Event::Ready(BUFFER)), []);
    assert_eq!(story.then(Event::Ready(FIRST)), []);
    assert_eq!(story.then(Event::Ready(SECOND)), []);
    assert_eq!(story.machine.next_alarm(), None);
}

#[test]
fn a_child_that_can_not_be_started_counts_as_dead() {
    let mut story = Story::begin(true);
    story.then(died(FIRST));
    assert_eq!(story.until_something(), [Action::Start(FIRST)]);
    assert_eq!(story.then(Event::NotStarted(FIRST)), []);
    assert_eq!(story.until_something(), [Action::Start(FIRST)]);
}
