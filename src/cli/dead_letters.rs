//! `procsig dead-letters`: the jobs that have failed for good, one a line, to be run again.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use crate::error::{Error, ExitCode};
use crate::log::escape;

/// What is needed of a line. Whatever else stands there is for others.
#[derive(Deserialize)]
struct DeadLetter {
    job: Option<String>,
    job_base64: Option<String>,
    #[serde(default)]
    job_cut: bool,
    /// Every dead letter has one, and no result.
    #[serde(rename = "reason")]
    _reason: String,
}

/// Prints the jobs of a file of dead letters. A line of which none can be made is said, and the others
/// are printed all the same; the exit code is 1 then.
pub(super) fn print(path: &Path, complain: impl Fn(&str)) -> Result<ExitCode, Error> {
    let unreadable = |error| Error::file(path, "can't read the dead letters", error);
    let file = BufReader::new(File::open(path).map_err(unreadable)?);
    let out = io::stdout().lock();
    // A person sees what it says; what it goes into gets the bytes.
    let is_seen = out.is_terminal();
    let mut out = BufWriter::new(out);
    let mut code = ExitCode::Success;
    for (number, line) in (1_u64..).zip(file.split(b'\n')) {
        let job = match job_of(&line.map_err(unreadable)?) {
            Ok(job) if is_seen => escape(&String::from_utf8_lossy(&job)).into_owned().into_bytes(),
            Ok(job) => job,
            Err(message) => {
                complain(&format!("{}:{number}: {message}", path.display()));
                code = ExitCode::Failure;
                continue;
            }
        };
        match out.write_all(&job).and_then(|()| out.write_all(b"\n")) {
            Ok(()) => {}
            Err(error) => return ended(error, code),
        }
    }
    out.flush().map_or_else(|error| ended(error, code), |()| Ok(code))
}

/// Nothing more can be printed.
fn ended(error: io::Error, code: ExitCode) -> Result<ExitCode, Error> {
    match error.kind() {
        // Whoever reads has seen enough.
        io::ErrorKind::BrokenPipe => Ok(code),
        _ => Err(Error::System { what: "can't write to standard output", source: error }),
    }
}

/// The job of a line, as a line of a list.
fn job_of(line: &[u8]) -> Result<Vec<u8>, String> {
    let letter: DeadLetter = serde_json::from_slice(line)
        .map_err(|error| format!("this is no dead letter, or half of one ({error}); skipped"))?;
    let job = match (letter.job, letter.job_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(encoded)) => BASE64
            .decode(encoded)
            .map_err(|error| format!("its job_base64 is none ({error}); skipped"))?,
        _ => return Err("it needs either job or job_base64; skipped".into()),
    };
    if letter.job_cut {
        return Err("only the beginning of this job is known, so it can't be run again; skipped \
                    (the list has it)"
            .into());
    }
    if job.contains(&b'\n') || job.ends_with(b"\r") {
        return Err(
            "this job has a line end in it, and so can't be a line of a list; skipped".into()
        );
    }
    if job.iter().all(u8::is_ascii_whitespace) {
        return Err("this job is blank, and a list skips such a line; skipped".into());
    }
    Ok(job)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_printed_as_its_bytes() {
        let job = |line: &str| job_of(line.as_bytes());
        assert_eq!(job(r#"{"job":"a \"b\"","seq":1,"reason":"no"}"#), Ok(b"a \"b\"".to_vec()));
        assert_eq!(job(r#"{"job_base64":"//4=","seq":1,"reason":"no"}"#), Ok(vec![0xff, 0xfe]));
    }

    #[test]
    fn what_can_not_be_a_line_of_a_list_is_said() {
        for (line, message) in [
            (r#"{"job":"a\nb","reason":""}"#, "a line end"),
            (r#"{"job":"a\r","reason":""}"#, "a line end"),
            (r#"{"job":" ","reason":""}"#, "blank"),
            (r#"{"job":"a","job_cut":true,"reason":""}"#, "only the beginning"),
            (r#"{"job":"a","rea"#, "half of one"),
            (r#"{"job":"a","ok":false}"#, "no dead letter"),
            (r#"{"seq":1,"reason":""}"#, "either job or job_base64"),
            (r#"{"job_base64":"*","reason":""}"#, "job_base64"),
            ("", "no dead letter"),
        ] {
            let error = job_of(line.as_bytes()).unwrap_err();
            assert!(error.contains(message), "{line}: {error}");
        }
    }
}
