//! Why the pipeline has failed, in the words of who knew it best.

use crate::control::role::Child;

/// What children have said of their failures, and died of.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Who died last, and of what; or what it had said itself.
    last: Option<(Child, String)>,
    /// What was said first by who could not go on, or the last words of who died too often.
    cause: Option<String>,
    /// What comes from now on is no cause.
    closed: bool,
}

impl Words {
    /// It is about to exit, and starting it again would not help.
    pub(super) fn failed(&mut self, child: Child, words: String) {
        if !self.closed {
            self.cause.get_or_insert_with(|| words.clone());
            self.last = Some((child, words));
        }
    }

    /// It is about to exit, or could not be started.
    pub(super) fn said(&mut self, child: Child, words: String) {
        if !self.closed {
            self.last = Some((child, words));
        }
    }

    /// It has died. What it has said itself tells more.
    pub(super) fn died(&mut self, child: Child, words: String) {
        if self.last.as_ref().is_none_or(|(who, _)| *who != child) {
            self.said(child, words);
        }
    }

    /// It was started: what the process before it has said, or died of, is not this one's.
    pub(super) fn started(&mut self, child: Child) {
        self.last.take_if(|(who, _)| *who == child && !self.closed);
    }

    /// Nobody is started any more, since too many have died. Says of what, if anybody knows.
    pub(super) fn given_up(&mut self) -> Option<&str> {
        let last = self.last.as_ref().map(|(_, words)| words);
        self.cause = self.cause.take().or_else(|| last.cloned());
        last.map(String::as_str)
    }

    /// All work is done, or given up: what is said or dies from now on has not been the cause.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Why the pipeline has failed, if it has.
    pub(super) fn cause(self) -> Option<String> {
        self.cause.or(self.last.map(|(_, words)| words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Child = Child::Source;
    const BUFFER: Child = Child::Buffer;

    #[test]
    fn the_cause_is_what_was_said_first_by_who_could_not_go_on() {
        let mut words = Words::default();
        words.said(SOURCE, "trouble".into());
        words.failed(BUFFER, "no disk".into());
        words.failed(SOURCE, "no queue".into());
        words.died(BUFFER, "killed".into());
        assert_eq!(words.cause().as_deref(), Some("no disk"));
    }

    #[test]
    fn without_such_it_is_the_last_words_of_who_died_last_or_too_often() {
        let mut words = Words::default();
        assert_eq!(words.given_up(), None);
        words.said(BUFFER, "no memory".into());
        words.died(BUFFER, "killed".into());
        assert_eq!(words.given_up(), Some("no memory"), "what it says tells more");
        words.started(BUFFER);
        words.died(SOURCE, "killed".into());
        assert_eq!(words.cause().as_deref(), Some("no memory"));
    }

    #[test]
    fn of_who_was_started_again_earlier_words_do_not_count() {
        let mut words = Words::default();
        words.said(BUFFER, "no memory".into());
        words.started(BUFFER);
        words.died(BUFFER, "killed".into());
        assert_eq!(words.cause().as_deref(), Some("killed"));
    }

    #[test]
    fn what_the_last_source_says_and_dies_of_is_no_cause() {
        for said_before in [None, Some((BUFFER, "killed")), Some((SOURCE, "killed"))] {
            let mut words = Words::default();
            if let Some((child, said)) = said_before {
                words.said(child, said.into());
            }
            words.close();
            words.started(SOURCE);
            words.failed(SOURCE, "no queue".into());
            words.said(SOURCE, "trouble".into());
            words.died(SOURCE, "stuck".into());
            assert_eq!(words.cause().as_deref(), said_before.map(|(_, said)| said));
        }
    }
}
