//! Why the pipeline has failed, in the words of who knew it best.

use crate::control::role::Child;

/// What children have said of their failures, and died of.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Who died last, and of what; or what it had said itself.
    last: Option<(Child, String)>,
    /// What was said first by who could not go on, or the last words of who died too often.
    cause: Option<String>,
}

impl Words {
    /// It is about to exit, and starting it again would not help.
    pub(super) fn failed(&mut self, child: Child, words: String) {
        self.cause.get_or_insert_with(|| words.clone());
        self.last = Some((child, words));
    }

    /// It is about to exit, or could not be started.
    pub(super) fn said(&mut self, child: Child, words: String) {
        self.last = Some((child, words));
    }

    /// It has died. What it has said itself tells more.
    pub(super) fn died(&mut self, child: Child, words: String) {
        if self.last.as_ref().is_none_or(|(who, _)| *who != child) {
            self.last = Some((child, words));
        }
    }

    /// It was started: what the process before it has said, or died of, is not this one's.
    pub(super) fn started(&mut self, child: Child) {
        self.last.take_if(|(who, _)| *who == child);
    }

    /// Nobody is started any more, since too many have died. Says of what, if anybody knows.
    pub(super) fn given_up(&mut self) -> Option<&str> {
        let last = self.last.as_ref().map(|(_, words)| words);
        self.cause = self.cause.take().or_else(|| last.cloned());
        last.map(String::as_str)
    }

    /// Why the pipeline has failed, if it has.
    pub(super) fn cause(self) -> Option<String> {
        self.cause.or(self.last.map(|(_, words)| words))
    }
}
