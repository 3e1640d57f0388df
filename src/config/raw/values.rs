//! Text to value: durations, sizes, names and `${VAR}`, each with a message that says what is
//! allowed. Nothing here knows where a text came from: the command line reads its options with
//! the same functions.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;
use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde::de::{self, Deserialize, Deserializer, Visitor};

/// Looks up a variable of the environment. A parameter, so that tests need not change a process.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Result<String, std::env::VarError>;

/// A number of bytes as written: a plain number, or a text such as `"64KiB"`.
#[derive(Debug)]
pub(super) struct Amount(pub(super) String);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        struct AmountVisitor;

        impl Visitor<'_> for AmountVisitor {
            type Value = Amount;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a size such as \"64KiB\", or a number of bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                Ok(Amount(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Amount, E> {
                Ok(Amount(bytes.to_string()))
            }
        }

        deserializer.deserialize_any(AmountVisitor)
    }
}

/// More than anybody waits for, and small enough that no sum with a point in time overflows.
const DURATION_MAX: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

/// Reads a duration that may be zero. A day has 24 hours; months and years have no fixed length
/// and are refused.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let refuse = |why: &str| {
        format!(
            "{text:?} is no duration{why}: write one such as \"500ms\", \"30s\", \"1m 30s\" or \"1day\""
        )
    };
    let span: Span = text.parse().map_err(|_| {
        if text.trim().parse::<f64>().is_ok() {
            refuse(", its unit is missing")
        } else {
            refuse("")
        }
    })?;
    let signed: SignedDuration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| refuse(", since months and years have no fixed length"))?;
    let duration = Duration::try_from(signed)
        .map_err(|_| format!("{text:?} is negative: zero or more is allowed"))?;
    if duration > DURATION_MAX {
        return Err(format!("{text:?} is too long: at most 36500 days are allowed"));
    }
    Ok(duration)
}

/// Reads a duration that may not be zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("{text:?} is too short: more than zero is needed")),
        positive => Ok(positive),
    }
}

/// Reads a number of bytes within `allowed`.
pub(super) fn size(text: &str, allowed: &RangeInclusive<u64>) -> Result<u64, String> {
    let bytes = match text.trim().parse::<ByteSize>() {
        Ok(size) => size.as_u64(),
        Err(_) if text.trim_start().starts_with('-') => {
            return Err(format!("{text} is negative: {} is allowed", size_range(allowed)));
        }
        Err(_) => {
            return Err(format!(
                "{text:?} is no size: write one such as \"64KiB\", \"1MiB\" or a number of bytes"
            ));
        }
    };
    if allowed.contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("{text} is out of range: {} is allowed", size_range(allowed)))
    }
}

fn size_range(allowed: &RangeInclusive<u64>) -> String {
    let show = |bytes: u64| match bytes {
        0..1024 => format!("{bytes} bytes"),
        _ => ByteSize(bytes).display().iec().to_string().replace(".0 ", " "),
    };
    match *allowed.end() {
        u64::MAX => format!("{} or more", show(*allowed.start())),
        end => format!("{} to {}", show(*allowed.start()), show(end)),
    }
}

/// Checks a number against its range.
pub(super) fn whole(value: i64, allowed: &RangeInclusive<i64>) -> Result<i64, String> {
    if allowed.contains(&value) {
        return Ok(value);
    }
    let (start, end) = (allowed.start(), allowed.end());
    if *end >= i64::from(u32::MAX) && value < *start {
        return Err(format!("{value} is out of range: {start} or more is allowed"));
    }
    Err(format!("{value} is out of range: {start} to {end} is allowed"))
}

/// Checks the name of a kind of worker: it stands in log lines and results as `NAME/0`.
pub(super) fn worker_name(name: &str) -> Result<(), String> {
    let why = match name.len() {
        0 => "it is empty",
        65.. => "it is longer than 64 bytes",
        _ if name.contains('/') => "it contains a '/'",
        _ if name.contains(char::is_control) => "it contains a control character",
        _ => return Ok(()),
    };
    Err(format!(
        "{name:?} can't be the name of a worker, {why}: \
         1 to 64 bytes without '/' and control characters are allowed"
    ))
}

/// Makes a valid name out of any text: what a default is built from is not the user's mistake.
pub(super) fn tame(text: &str, length_max: usize) -> String {
    let mut name = String::new();
    for character in text.chars() {
        let character = if character.is_control() || character == '/' { '_' } else { character };
        if name.len() + character.len_utf8() > length_max {
            break;
        }
        name.push(character);
    }
    name
}

/// Replaces each `${VAR}` and `${VAR:-default}`. As in a shell, the default also stands in for a
/// variable that is empty. `$${` is a literal `${`; a `$` before anything else is just a `$`.
pub(super) fn interpolate(text: &str, environment: Environment<'_>) -> Result<String, String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            result.push_str(before);
            result.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        result.push_str(&rest[..start]);
        let Some(length) = rest[start + 2..].find('}') else {
            return Err(format!("\"{}\" has no closing '}}'", &rest[start..]));
        };
        result.push_str(&variable(&rest[start + 2..start + 2 + length], environment)?);
        rest = &rest[start + 2 + length + 1..];
    }
    result.push_str(rest);
    Ok(result)
}

fn variable<'a>(reference: &'a str, environment: Environment<'_>) -> Result<Cow<'a, str>, String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(plain) || name.as_bytes()[0].is_ascii_digit() {
        return Err(format!(
            "\"${{{reference}}}\" names no variable: ${{VAR}} and ${{VAR:-default}} are allowed, \
             and $${{ stands for a literal ${{"
        ));
    }
    match (environment(name), default) {
        (Ok(value), Some(default)) if value.is_empty() => Ok(default.into()),
        (Ok(value), _) => Ok(value.into()),
        (Err(std::env::VarError::NotPresent), Some(default)) => Ok(default.into()),
        (Err(std::env::VarError::NotPresent), None) => Err(format!(
            "the variable {name} is not set: set it, or give a default with ${{{name}:-default}}"
        )),
        (Err(std::env::VarError::NotUnicode(_)), _) => {
            Err(format!("the variable {name} is not valid UTF-8"))
        }
    }
}

/// `: did you mean ...?` for the candidate that is nearest to what was written, if any is near.
pub(super) fn near_miss(written: &str, candidates: &[&str]) -> Option<String> {
    let written = written.to_lowercase();
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&written, candidate), *candidate))
        .filter(|(distance, candidate)| {
            *distance <= (candidate.len().min(written.len()) / 3).max(1)
                && *distance < candidate.len()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| format!("did you mean \"{candidate}\"?"))
}

/// Finds a word in a list of allowed words.
pub(super) fn word<T: Copy>(written: &str, allowed: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = allowed.iter().find(|(name, _)| *name == written) {
        return Ok(*value);
    }
    let names: Vec<&str> = allowed.iter().map(|(name, _)| *name).collect();
    let list = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let suggestion = near_miss(written, &names).map(|text| format!("{text} ")).unwrap_or_default();
    Err(format!("{written:?} is not known: {suggestion}{list} are allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Result<String, std::env::VarError> {
        match name {
            "HOME" => Ok("/root".into()),
            "EMPTY" => Ok(String::new()),
            _ => Err(std::env::VarError::NotPresent),
        }
    }

    #[test]
    fn durations_have_units_and_a_day_has_24_hours() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1day"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("1w"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("0.25s"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("5").unwrap_err().contains("unit is missing"));
        assert!(duration("1 month").unwrap_err().contains("no fixed length"));
        assert!(duration("-5s").unwrap_err().contains("negative"));
        assert!(duration("5s ago").unwrap_err().contains("negative"));
        assert!(duration("4000000d").unwrap_err().contains("too long"));
        for nonsense in ["", "s", "5 parsecs", "\0", "99999999999999999999999s"] {
            assert!(duration(nonsense).is_err(), "{nonsense:?}");
        }
        assert!(positive_duration("0s").is_err());
        assert_eq!(positive_duration("1ns"), Ok(Duration::from_nanos(1)));
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit_and_say_what_is_allowed() {
        let all = 0..=u64::MAX;
        assert_eq!(size("64KiB", &all), Ok(65_536));
        assert_eq!(size("1 MiB", &all), Ok(1 << 20));
        assert_eq!(size("100", &all), Ok(100));
        assert!(size("-1", &all).unwrap_err().contains("negative"));
        assert!(size("many", &all).unwrap_err().contains("64KiB"));
        let message = size("63", &(64..=1 << 20)).unwrap_err();
        assert_eq!(message, "63 is out of range: 64 bytes to 1 MiB is allowed");
    }

    #[test]
    fn variables_are_replaced_or_named() {
        let replace = |text| interpolate(text, &environment);
        assert_eq!(replace("${HOME}/a${EMPTY}b"), Ok("/root/ab".into()));
        assert_eq!(replace("${NONE:-x}${EMPTY:-y}${HOME:-z}"), Ok("xy/root".into()));
        assert_eq!(replace("${NONE:-}"), Ok(String::new()));
        assert_eq!(replace("$HOME $5 $ $$"), Ok("$HOME $5 $ $$".into()));
        assert_eq!(replace("$${f%.txt}"), Ok("${f%.txt}".into()));
        assert!(replace("${NONE}").unwrap_err().contains("NONE is not set"));
        assert!(replace("${HOME").unwrap_err().contains("no closing"));
        for bad in ["${}", "${1}", "${a b}", "${:-x}", "${ä}"] {
            assert!(replace(bad).unwrap_err().contains("names no variable"), "{bad}");
        }
    }

    #[test]
    fn names_of_workers_fit_into_a_log_line() {
        assert_eq!(worker_name("ping"), Ok(()));
        assert_eq!(worker_name(&"x".repeat(64)), Ok(()));
        for bad in ["", "a/b", "a\nb", &"x".repeat(65)] {
            assert!(worker_name(bad).is_err(), "{bad:?}");
            assert!(bad.is_empty() || worker_name(&tame(bad, 64)).is_ok());
        }
        assert_eq!(tame("äöü", 5), "äö");
    }

    #[test]
    fn words_are_suggested_when_they_are_near() {
        let allowed = [("text", 1), ("json", 2)];
        assert_eq!(word("json", &allowed), Ok(2));
        assert!(word("jsno", &allowed).unwrap_err().contains("did you mean \"json\"?"));
        assert!(!word("yaml", &allowed).unwrap_err().contains("did you mean"));
    }
}
