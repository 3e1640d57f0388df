//! The items of an iterator, as jobs.

use super::api::{Done, Next, Resume, Source, SourceError, Wait, checksum};
use serde::Serialize;

/// A source that hands out what an iterator yields, see [`crate::source::iter`].
pub struct Items<F, I, E> {
    make: F,
    encode: E,
    items: Option<I>,
    handed_out: u64,
}

impl<F, I, E> Items<F, I, E> {
    pub(crate) fn new(make: F, encode: E) -> Items<F, I, E> {
        Items { make, encode, items: None, handed_out: 0 }
    }
}

/// An item that is bytes already.
pub(crate) fn as_bytes<T: AsRef<[u8]>>(item: &T, job: &mut Vec<u8>) -> Result<(), SourceError> {
    job.extend_from_slice(item.as_ref());
    Ok(())
}

/// An item as a line of JSON.
pub(crate) fn as_json<T: Serialize>(item: &T, job: &mut Vec<u8>) -> Result<(), SourceError> {
    // The item does not change by itself: no second try.
    serde_json::to_writer(job, item)
        .map_err(|error| SourceError::fatal(format!("an item can't be written as JSON: {error}")))
}

impl<F, I, E> Source for Items<F, I, E>
where
    F: Fn() -> I,
    I: Iterator,
    E: Fn(&I::Item, &mut Vec<u8>) -> Result<(), SourceError>,
{
    /// Goes through the items that were handed out before, and compares.
    fn open(&mut self, resume: &Resume<'_>) -> Result<(), SourceError> {
        let mut items = (self.make)();
        let (mut sum, mut job) = (0, Vec::new());
        for nth in 0..resume.handed_out() {
            let Some(item) = items.next() else {
                return Err(changed(format!("there are {nth} items now, and ended"), resume));
            };
            job.clear();
            (self.encode)(&item, &mut job)?;
            sum = checksum(sum, &job);
        }
        if sum != resume.checksum() {
            return Err(changed("other items were handed out".into(), resume));
        }
        (self.items, self.handed_out) = (Some(items), resume.handed_out());
        Ok(())
    }

    fn next(&mut self, _: &Wait<'_>, job: &mut Vec<u8>) -> Result<Next, SourceError> {
        let Some(item) = self.items.as_mut().and_then(Iterator::next) else {
            return Ok(Next::End);
        };
        (self.encode)(&item, job)?;
        self.handed_out += 1;
        Ok(Next::Job(self.handed_out))
    }

    fn acknowledge(&mut self, _: &[Done]) -> Result<(), SourceError> {
        Ok(())
    }

    fn acknowledges(&self) -> bool {
        false
    }

    fn is_finite(&self) -> bool {
        true
    }

    fn name(&self) -> String {
        "iterator".into()
    }
}

fn changed(how: String, resume: &Resume<'_>) -> SourceError {
    SourceError::refused(format!(
        "the items have changed in the part that was handed out already: {how} where {} items were \
         handed out before, so they can't be gone on with: yield the same ones again, begin anew \
         with `fresh`, or name another spool",
        resume.handed_out()
    ))
}

#[cfg(test)]
mod tests {
    use super::super::api::ErrorKind;
    use super::*;

    fn resume(items: &[&str]) -> Resume<'static> {
        Resume {
            last: None,
            handed_out: items.len() as u64,
            checksum: items.iter().fold(0, |sum, item| checksum(sum, item.as_bytes())),
            in_hand: &[],
            job_bytes_max: 64,
            only_to_acknowledge: false,
        }
    }

    #[test]
    fn items_are_gone_on_with_if_they_are_the_same_as_before() {
        let open = |before: &[&str], now: &'static [&'static str]| {
            let mut source = Items::new(|| now.iter(), as_bytes);
            source.open(&resume(before)).map(|()| source.items.map_or(0, Iterator::count))
        };
        assert!(matches!(open(&[], &["a", "b"]), Ok(2)));
        assert!(matches!(open(&["a"], &["a", "b"]), Ok(1)));
        assert!(matches!(open(&["a", "b"], &["a", "b"]), Ok(0)));
        for changed in [&["x", "b"][..], &["ab"], &["a"], &["", "ab"], &[]] {
            let error = open(&["a", "b"], Vec::leak(changed.to_vec())).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Refused, "{changed:?}: {error}");
        }
    }
}
