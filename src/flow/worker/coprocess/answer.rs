//! The two lines of a talk, and the result that comes of it.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::Verdict;
use super::super::command::{JobRef, put, put_base64, put_dead, put_end, put_job, put_text};

/// The key of an answer that says that the job has failed.
const ERROR_KEY: &str = "procsig_error";

/// Bytes of an answer that is no JSON which the error shows.
const SHOWN_MAX: usize = 80;

/// Writes what the coprocess is asked, with its line end.
pub(super) fn write_request(job: JobRef<'_>, out: &mut Vec<u8>) {
    let JobRef { job, seq, round, attempt } = job;
    out.clear();
    out.push(b'{');
    match std::str::from_utf8(job) {
        Ok(text) => put_text(out, "job", text),
        Err(_) => put_base64(out, "job", job),
    }
    put(out, format_args!(",\"seq\":{seq},\"attempt\":{attempt}"));
    if let Some(round) = round {
        put(out, format_args!(",\"round\":{round}"));
    }
    out.extend_from_slice(b"}\n");
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The result's value, as it came: a piece of JSON.
    Value(String),
    /// The job has failed, by the coprocess's own word.
    Error { text: String, retry: bool },
}

#[derive(Deserialize)]
struct Failed {
    procsig_error: Option<String>,
    #[serde(default = "yes")]
    retry: bool,
}

fn yes() -> bool {
    true
}

impl Answer {
    /// Reads a line.
    ///
    /// # Errors
    /// Why it is no answer: then nobody knows what the next line will belong to.
    pub(super) fn parse(line: &[u8]) -> Result<Answer, String> {
        let text = std::str::from_utf8(line)
            .map_err(|error| not_json(line, &format!("no UTF-8 at byte {}", error.valid_up_to())))?
            .trim_matches([' ', '\t', '\r']);
        let mut reader = serde_json::Deserializer::from_str(text);
        Readable { depth: 0 }
            .deserialize(&mut reader)
            .and_then(|()| reader.end())
            .map_err(|error| not_json(line, &without_line(&error)))?;
        if text.starts_with('{') && text.contains(ERROR_KEY) {
            // Deeper inside the key means nothing; there the first of these finds none.
            let top: std::collections::BTreeMap<String, IgnoredAny> = serde_json::from_str(text)
                .map_err(|error| not_json(line, &without_line(&error)))?;
            if top.contains_key(ERROR_KEY) {
                return Answer::failed(text);
            }
        }
        // Between two tokens it means nothing in JSON, but to others it can end a line.
        Ok(Answer::Value(text.replace('\r', " ")))
    }

    fn failed(text: &str) -> Result<Answer, String> {
        match serde_json::from_str(text) {
            Ok(Failed { procsig_error: Some(text), retry }) => Ok(Answer::Error { text, retry }),
            Ok(Failed { procsig_error: None, .. }) => Ok(Answer::Value(text.replace('\r', " "))),
            Err(error) => Err(format!(
                "answered with a {ERROR_KEY:?} that can't be understood ({}): it must be a text, \
                 and \"retry\" beside it true or false",
                without_line(&error)
            )),
        }
    }
}

/// What serde_json says, without its "at line 1".
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(what) => format!("{what} at byte {}", error.column()),
        None => text,
    }
}

fn not_json(line: &[u8], why: &str) -> String {
    let mut shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN_MAX)]).into_owned();
    if line.len() > SHOWN_MAX {
        shown.push_str("...");
    }
    format!("answered with a line that is no JSON ({why}): {shown:?}")
}

/// So deep an answer may be nested: in its result it stands one deeper, and readers, serde_json among
/// them, refuse what is 128 deep.
const DEPTH_MAX: usize = 126;

/// Any JSON that every reader of the output can read as well. The grammar alone would allow
/// halves of surrogate pairs, numbers beyond all numbers, and any depth.
#[derive(Clone, Copy)]
struct Readable {
    /// Of how many lists and objects it is a part.
    depth: usize,
}

impl Readable {
    fn inside<E: Error>(self) -> Result<Readable, E> {
        match self.depth + 1 {
            depth @ ..=DEPTH_MAX => Ok(Readable { depth }),
            _ => Err(E::custom(format_args!("nested more than {DEPTH_MAX} deep"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Readable {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inside = self.inside()?;
        while items.next_element_seed(inside)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inside = self.inside()?;
        while entries.next_entry_seed(inside, inside)?.is_some() {}
        Ok(())
    }
}

/// What came of an attempt.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The answer, a piece of JSON.
    Value(String),
    /// Why there is none.
    Failed { error: String, timed_out: bool, retry: bool },
    /// Somebody else has ended the coprocess, in a way that means more than this job.
    Interrupted { error: String },
}

impl Outcome {
    /// Why there is no answer, and what is to come of it.
    pub(super) fn failure(&self) -> Option<(&str, Verdict)> {
        match self {
            Outcome::Value(_) => None,
            Outcome::Failed { error, retry, .. } => {
                Some((error, Verdict::Failed { retry: *retry }))
            }
            Outcome::Interrupted { error } => Some((error, Verdict::Interrupted)),
        }
    }
}

/// The result of one attempt.
#[derive(Debug)]
pub(super) struct CoprocessResult<'a> {
    pub(super) job: JobRef<'a>,
    pub(super) worker: &'a str,
    pub(super) started: Duration,
    pub(super) took: Duration,
    pub(super) outcome: &'a Outcome,
}

impl CoprocessResult<'_> {
    /// Appends the result as one line of JSON with its line end: as one that has failed for good, if
    /// it is for the dead letters.
    pub(super) fn encode(&self, out: &mut Vec<u8>, dead: bool) {
        let attempt = self.job.attempt;
        let (error, timed_out) = match self.outcome {
            Outcome::Value(value) => {
                put_job(out, self.job);
                put(out, format_args!(",\"ok\":true,\"value\":{value},\"attempt\":{attempt}"));
                return put_end(out, self.worker, self.started, self.took);
            }
            Outcome::Failed { error, timed_out, .. } => (error, *timed_out),
            Outcome::Interrupted { error } => (error, false),
        };
        put_job(out, self.job);
        if dead {
            put_dead(out, error, attempt);
        } else {
            put(out, format_args!(",\"ok\":false"));
        }
        if timed_out {
            put(out, format_args!(",\"timed_out\":true"));
        }
        if !dead {
            out.push(b',');
            put_text(out, "error", error);
            put(out, format_args!(",\"attempt\":{attempt}"));
        }
        put_end(out, self.worker, self.started, self.took);
    }
}
