//! What a coprocess may write: see [`crate::fuzzing`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::super::command::JobRef;
use super::answer::{Answer, CoprocessResult, Outcome, write_request};
use super::talk::{Exchanged, Idle, Streams, Talk};
use crate::fuzzing::Choices;
use crate::sys::spawn::Ready;

/// A line becomes the result of its job, whole and readable, or is refused; and a stream of bytes,
/// whenever they come, gives each job its own line.
pub(crate) fn answers(data: &[u8]) {
    let mut choices = Choices::new(data);
    if choices.byte().is_multiple_of(2) {
        let len = choices.below(32) as usize;
        let job = choices.bytes(len);
        answer(job, choices.rest());
    } else {
        talk(&mut choices);
    }
}

fn job_of(job: &[u8], seq: u64) -> JobRef<'_> {
    JobRef { job, seq, round: None, attempt: 1 }
}

/// The job as it can be read out of one line of JSON.
fn read_job(line: &[u8]) -> (Vec<u8>, Value) {
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "not one line");
    assert_eq!(line.last(), Some(&b'\n'));
    let value: Value = serde_json::from_slice(line).expect("readable by all");
    let job = match (&value["job"], &value["job_base64"]) {
        (Value::String(text), Value::Null) => text.clone().into_bytes(),
        (Value::Null, Value::String(text)) => BASE64.decode(text).expect("base64"),
        _ => panic!("no job in {value}"),
    };
    (job, value)
}

/// Whatever a job is, a coprocess can read it.
pub(crate) fn assert_job_is_unchanged(job: &[u8], seq: u64) {
    let mut request = Vec::new();
    write_request(job_of(job, seq), &mut request);
    let (read, value) = read_job(&request);
    assert_eq!((read, value["seq"].as_u64()), (job.to_vec(), Some(seq)));
}

/// A line as an answer, up to the line in the output.
fn answer(job: &[u8], line: &[u8]) {
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    let outcome = match Answer::parse(&line[..end]) {
        Ok(Answer::Value(value)) => Outcome::Value(value),
        Ok(Answer::Error { text, retry }) => {
            Outcome::Failed { error: text, timed_out: false, retry }
        }
        Err(error) => {
            assert!(error.starts_with("answered with "), "{error}");
            assert!(!error.contains(char::is_control), "{error:?}");
            Outcome::Failed { error, timed_out: false, retry: true }
        }
    };
    for dead in [false, true] {
        let result = CoprocessResult {
            job: job_of(job, 1),
            worker: "fuzz/0",
            started: Duration::ZERO,
            took: Duration::ZERO,
            outcome: &outcome,
        };
        let mut encoded = Vec::new();
        result.encode(&mut encoded, dead);
        let (read, written) = read_job(&encoded);
        assert_eq!(read, job);
        match &outcome {
            Outcome::Value(value) => {
                let value: Value = serde_json::from_str(value).expect("JSON");
                assert_eq!((&written["value"], &written["ok"]), (&value, &Value::Bool(true)));
            }
            Outcome::Failed { error, .. } | Outcome::Interrupted { error } => {
                let key = if dead { "reason" } else { "error" };
                assert_eq!(written[key].as_str(), Some(error.as_str()));
            }
        }
    }
}

/// What happens next at the other end.
#[derive(Debug)]
enum Step {
    Writes(Vec<u8>),
    /// Takes so many bytes.
    Reads(usize),
    ClosesInput,
    ClosesOutput,
    /// Nothing, for longer than anybody waits.
    Sleeps,
}

/// A coprocess that does what the input says, and then ends.
#[derive(Debug, Default)]
struct Told {
    steps: VecDeque<Step>,
    readable: Option<Vec<u8>>,
    takes: usize,
    input_closed: bool,
    output_closed: bool,
    /// All that it has been given, and all that was read of it.
    taken: Vec<u8>,
    given: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Other(Rc<RefCell<Told>>);

impl Streams for Other {
    fn wait(&self, input: bool, _: Option<Duration>) -> io::Result<Ready> {
        let mut told = self.0.borrow_mut();
        if told.readable.is_none() {
            match told.steps.pop_front() {
                Some(Step::Writes(_)) if told.output_closed => {}
                Some(Step::Writes(bytes)) => told.readable = Some(bytes),
                Some(Step::Reads(bytes)) => told.takes += bytes,
                Some(Step::ClosesInput) => told.input_closed = true,
                Some(Step::ClosesOutput) => told.output_closed = true,
                Some(Step::Sleeps) => return Ok(Ready::default()),
                None => return Ok(Ready { ended: true, output: false, input: false }),
            }
        }
        let input = input && (told.takes > 0 || told.input_closed);
        Ok(Ready { output: told.readable.is_some(), input, ended: false })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut told = self.0.borrow_mut();
        if told.input_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = told.takes.min(bytes.len());
        told.takes -= taken;
        told.taken.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn read(&mut self, into: &mut Vec<u8>) -> usize {
        let mut told = self.0.borrow_mut();
        let Some(bytes) = told.readable.take() else { return 0 };
        told.given.extend_from_slice(&bytes);
        into.extend_from_slice(&bytes);
        bytes.len()
    }

    fn read_rest(&mut self, into: &mut Vec<u8>, _: usize) {
        self.read(into);
    }

    fn output_is_closed(&self) -> bool {
        self.0.borrow().output_closed
    }
}

fn steps(choices: &mut Choices<'_>) -> VecDeque<Step> {
    let mut steps = VecDeque::new();
    while !choices.is_over() && steps.len() < 40 {
        steps.push_back(match choices.below(8) {
            0 => Step::ClosesInput,
            1 => Step::ClosesOutput,
            2 => Step::Sleeps,
            3..=5 => {
                let len = choices.below(24) as usize;
                let mut bytes = choices.bytes(len).to_vec();
                // So that lines are frequent.
                bytes.iter_mut().filter(|byte| **byte >= 0xe0).for_each(|byte| *byte = b'\n');
                Step::Writes(bytes)
            }
            _ => Step::Reads(choices.byte().into()),
        });
    }
    steps
}

/// Several jobs, one after the other, as long as the coprocess keeps to its one line for each.
fn talk(choices: &mut Choices<'_>) {
    let max = choices.below(32) as usize;
    let requests: Vec<Vec<u8>> = (0..1 + choices.below(4))
        .map(|number| format!("{number}").repeat(1 + choices.below(32) as usize).into_bytes())
        .collect();
    let told = Rc::new(RefCell::new(Told { steps: steps(choices), ..Told::default() }));
    let mut talk = Talk::new(Other(told.clone()), Vec::new(), None);
    // Bytes of what it gave that belong to answers, and of what it took that belong to requests.
    let (mut answered, mut asked) = (0, 0);
    for request in &requests {
        if talk.look().expect("no error") != Idle::Waiting {
            break;
        }
        assert_eq!(told.borrow().given.len(), answered, "it has written more than its answer");
        let exchanged = talk.exchange(request, max, Some(Duration::ZERO)).expect("no error");
        let told = told.borrow();
        let sent = &told.taken[asked..];
        assert!(request.starts_with(sent), "it was sent something else");
        match exchanged {
            Exchanged::Answer(line) => {
                assert_eq!(sent, request, "it has answered a job that it did not have");
                let end = answered + line.len();
                assert_eq!(told.given[answered..end], line);
                assert_eq!(told.given[end], b'\n');
                assert!(!line.contains(&b'\n') && line.len() <= max);
                (answered, asked) = (end + 1, asked + request.len());
            }
            Exchanged::NotTaken => {
                assert!(sent.is_empty());
                break;
            }
            Exchanged::TooLong => {
                let line = told.given[answered..].split(|byte| *byte == b'\n').next();
                assert!(line.is_some_and(|line| line.len() > max));
                break;
            }
            Exchanged::TooEarly => {
                assert!(sent.len() < request.len());
                break;
            }
            Exchanged::Died | Exchanged::Late => break,
        }
    }
}
