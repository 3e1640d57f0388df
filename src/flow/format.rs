//! How a record looks in the output, and what stands there of a job that has failed.

use super::job::JobError;
use super::sink::file::Shape;
use super::sink::own::Transport;
use crate::config::{self, Format};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::Arc;

use super::emitter::Encode;

/// Where it is recorded that a job has failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failures {
    /// In the output, as a record with `"ok": false`.
    Output,
    /// In the dead letters, and not in the output.
    DeadLetters,
    /// In the log only.
    Log,
}

/// What is recorded of jobs, and where.
#[derive(Debug, Clone)]
pub(crate) struct Recording {
    pub format: Format,
    pub failures: Failures,
}

impl Recording {
    /// Of workers whose records are those of `procsig` itself, or of a type of the program's own.
    pub(crate) fn of(config: &config::Config, own_type: bool) -> Recording {
        let format = config.output.format.clone();
        let failures = match &format {
            _ if config.dead_letters.is_some() => Failures::DeadLetters,
            Format::JsonLines => Failures::Output,
            // One row for each job, whatever it came to.
            Format::Csv { .. } | Format::Sqlite { .. } if !own_type => Failures::Output,
            _ => Failures::Log,
        };
        Recording { format, failures }
    }
}

/// What appends records of a type to the bytes that the output will write.
pub(crate) fn encoder_for<T: Serialize>(output: &config::Output) -> Encode<T> {
    let format = output.format.clone();
    Arc::new(move |record, out| encode(&format, record, out))
}

/// Appends a record to the bytes that the output will write.
///
/// # Errors
/// If the format can't hold it. What was appended until then is to be taken off again.
pub(crate) fn encode<T: Serialize + ?Sized>(
    format: &Format,
    record: &T,
    out: &mut Vec<u8>,
) -> Result<(), JobError> {
    match format {
        Format::JsonLines => {
            serde_json::to_writer(&mut *out, record)?;
            out.push(b'\n');
            Ok(())
        }
        Format::Postcard => {
            out.extend_from_slice(&postcard::to_stdvec_cobs(record)?);
            Ok(())
        }
        Format::Csv { columns } => {
            let fields = fields(record)?;
            let texts = columns.iter().map(|column| fields.get(column).map(text));
            row(texts.map(Option::unwrap_or_default), out);
            Ok(())
        }
        Format::Lines => match serde_json::to_value(record)? {
            Value::String(text) => line(text.as_bytes(), out),
            other => line(other.to_string().as_bytes(), out),
        },
        Format::Sqlite { .. } => {
            let fields = fields(record)?;
            check_columns(&fields)?;
            serde_json::to_writer(&mut *out, &fields)?;
            out.push(Transport::Json as u8);
            Ok(())
        }
        Format::Own(name) => {
            Err(JobError::new(format_args!("{name}: only its own program can encode its records")))
        }
    }
}

/// Appends a line of any bytes but the end of a line.
pub(crate) fn line(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), JobError> {
    for (byte, name) in [(b'\n', "newline"), (0, "NUL byte")] {
        if let Some(at) = bytes.iter().position(|it| *it == byte) {
            return Err(JobError::new(format_args!(
                "a record has a {name} (byte {at} of {}), and can't be a line of the output: take \
                 it out, or write JSON",
                bytes.len()
            )));
        }
    }
    out.extend_from_slice(bytes);
    out.push(b'\n');
    Ok(())
}

/// How the records stand in the output's file.
pub(crate) fn shape(format: &Format) -> Shape {
    match format {
        Format::Postcard => Shape::ended_by(0),
        Format::Csv { columns } => {
            let mut header = Vec::new();
            row(columns.iter().cloned(), &mut header);
            Shape { quoted: true, header, ..Shape::ended_by(b'\n') }
        }
        Format::JsonLines | Format::Lines | Format::Sqlite { .. } | Format::Own(_) => {
            Shape::ended_by(b'\n')
        }
    }
}

/// The fields of a struct or a map.
fn fields<T: Serialize + ?Sized>(record: &T) -> Result<Map<String, Value>, JobError> {
    match serde_json::to_value(record)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(JobError::new("a record of columns must be a struct or a map with named fields")),
    }
}

/// A value as it stands in a field of text.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        // Zeroes are what a power loss leaves of a file; no field has any.
        Value::String(text) => text.replace('\0', "\u{fffd}"),
        other => other.to_string(),
    }
}

/// Appends a row of comma-separated values (RFC 4180, each row ended by a newline).
fn row(fields: impl Iterator<Item = String>, out: &mut Vec<u8>) {
    let mut writer = csv_core::Writer::new();
    let mut room = Vec::new();
    for (index, field) in fields.enumerate() {
        // Each byte may become two, with two quotes around and a comma before them.
        room.resize(2 * field.len() + 8, 0);
        let mut written = 0;
        if index > 0 {
            written += writer.delimiter(&mut room).1;
        }
        written += writer.field(field.as_bytes(), &mut room[written..]).2;
        out.extend_from_slice(&room[..written]);
    }
    let mut end = [0; 8];
    let written = writer.terminator(&mut end).1;
    out.extend_from_slice(&end[..written]);
}

/// Can these be columns of one table? To be found out in the worker, where it costs one job and
/// not the whole pipeline.
fn check_columns(fields: &Map<String, Value>) -> Result<(), JobError> {
    let mut names = BTreeSet::new();
    for name in fields.keys() {
        if name.is_empty() || name.contains('\0') {
            return Err(JobError::new(format_args!("a field called {name:?} can't be a column")));
        }
        if !names.insert(name.to_ascii_lowercase()) {
            return Err(JobError::new(format_args!(
                "two fields of a record are called {name:?}, and case makes no difference to SQLite"
            )));
        }
    }
    if fields.is_empty() || fields.len() > COLUMNS_MAX {
        return Err(JobError::new(format_args!(
            "a row has 1 to {COLUMNS_MAX} fields, and this record {}",
            fields.len()
        )));
    }
    Ok(())
}

/// Columns of a table, at the most.
pub(crate) const COLUMNS_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn encoded(format: &Format, record: &Value) -> Result<String, JobError> {
        let mut out = Vec::new();
        encode(format, record, &mut out)?;
        Ok(String::from_utf8(out).expect("UTF-8"))
    }

    fn csv(columns: &[&str]) -> Format {
        Format::Csv { columns: columns.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn columns_are_picked_by_name_and_what_is_missing_is_empty() {
        let record = json!({"ms": 12, "host": "a", "up": true, "note": null, "tags": ["x", "y"]});
        let row = |columns: &[&str]| encoded(&csv(columns), &record).expect("a row");
        assert_eq!(row(&["host", "ms", "gone", "up"]), "a,12,,true\n");
        assert_eq!(row(&["tags", "note"]), "\"[\"\"x\"\",\"\"y\"\"]\",\n");
        assert_eq!(row(&["gone"]), "\"\"\n", "an empty line would be no row");
        assert!(encoded(&csv(&["a"]), &json!(["a"])).is_err());
    }

    #[test]
    fn what_would_end_a_field_is_quoted() {
        let record =
            json!({"a": "1,5", "b": "say \"no\"", "c": "two\nlines", "d": " plain ", "e": "\0"});
        let row = encoded(&csv(&["a", "b", "c", "d", "e"]), &record).expect("a row");
        assert_eq!(row, "\"1,5\",\"say \"\"no\"\"\",\"two\nlines\", plain ,\u{fffd}\n");
        assert_eq!(shape(&csv(&["a,b", "c"])).header, b"\"a,b\",c\n");
    }

    #[test]
    fn a_string_is_its_line_and_anything_else_json() {
        assert_eq!(encoded(&Format::Lines, &json!("a \"b\"")).expect("a line"), "a \"b\"\n");
        assert_eq!(
            encoded(&Format::Lines, &json!({"a": "b\n"})).expect("a line"),
            "{\"a\":\"b\\n\"}\n"
        );
        let error = encoded(&Format::Lines, &json!("a\nb")).expect_err("two lines").to_string();
        assert!(error.contains("newline (byte 1 of 3)"), "{error}");
    }

    #[test]
    fn a_record_that_no_table_can_hold_fails_in_the_worker() {
        let table = Format::Sqlite { table: "t".into() };
        assert!(encoded(&table, &json!({"a": 1, "b": {"c": 2}})).is_ok());
        for record in [json!({}), json!({"": 1}), json!({"a": 1, "A": 2}), json!(5)] {
            assert!(encoded(&table, &record).is_err(), "{record}");
        }
    }
}
