//! Text to value: durations, sizes, names and `${VAR}`, each with a message that says what is
//! allowed. Nothing here knows where a text came from: the command line reads its options with
//! the same functions.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;
use jiff::{SignedDuration, Span, SpanRelativeTo};

use crate::error::Wrong;

/// Looks up a variable of the environment. A parameter, so that tests need not change a process.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Result<String, std::env::VarError>;

/// More than anybody waits for, and small enough that no sum with a point in time overflows.
const DURATION_MAX: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

/// What a duration looks like.
const DURATIONS: &str = "a duration such as \"500ms\", \"30s\", \"1m 30s\" or \"1day\"";

/// Reads a duration that may be zero. A day has 24 hours; months and years have no fixed length
/// and are refused.
pub(crate) fn duration(text: &str) -> Result<Duration, Wrong> {
    let refuse = |what: &str| Wrong::of(format!("{text:?}"), what).allowed(DURATIONS);
    let span: Span = text.parse().map_err(|_| match text.trim().parse::<f64>() {
        Ok(number) if number >= 0.0 => unit_missing(&format!("{text:?}"), text.trim()),
        _ => refuse("is no duration"),
    })?;
    let signed: SignedDuration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| refuse("is no duration, since months and years have no fixed length"))?;
    let duration = Duration::try_from(signed).map_err(|_| refuse("is negative"))?;
    if duration > DURATION_MAX {
        return Err(refuse("is too long").allowed("at most 36500 days"));
    }
    Ok(duration)
}

/// Reads a duration that may not be zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, Wrong> {
    match duration(text)? {
        Duration::ZERO => {
            Err(Wrong::of(format!("{text:?}"), "is too short").allowed("more than zero"))
        }
        positive => Ok(positive),
    }
}

/// A number stands where a duration belongs. Seconds are what is usually meant.
pub(super) fn unit_missing(given: &str, number: &str) -> Wrong {
    let suggestion = number.parse::<f64>().is_ok().then(|| format!("\"{number}s\""));
    Wrong::of(given, "is no duration: its unit is missing").allowed(DURATIONS).suggest(suggestion)
}

/// Reads a number of bytes within `allowed`.
pub(super) fn size(text: &str, allowed: &RangeInclusive<u64>) -> Result<u64, Wrong> {
    let shown = match text.trim().parse::<f64>() {
        Ok(_) => text.to_owned(),
        Err(_) => format!("{text:?}"),
    };
    let refuse = |what: &str| Wrong::of(&shown, what).allowed(size_range(allowed));
    let bytes = match text.trim().parse::<ByteSize>() {
        Ok(size) => size.as_u64(),
        Err(_) if text.trim_start().starts_with('-') => return Err(refuse("is negative")),
        Err(_) => return Err(refuse("is no size").allowed(SIZES)),
    };
    if allowed.contains(&bytes) { Ok(bytes) } else { Err(refuse("is out of range")) }
}

/// What a size looks like.
pub(super) const SIZES: &str = "a size such as \"64KiB\" or \"1MiB\", or a number of bytes";

pub(super) fn size_range(allowed: &RangeInclusive<u64>) -> String {
    let show = |bytes: u64| match bytes {
        0..1024 => format!("{bytes} bytes"),
        _ => ByteSize(bytes).display().iec().to_string().replace(".0 ", " "),
    };
    match *allowed.end() {
        u64::MAX => format!("{} or more", show(*allowed.start())),
        end => format!("{} to {}", show(*allowed.start()), show(end)),
    }
}

/// The whole numbers of a range. Nobody needs to be told of the end of a large one.
pub(super) fn number_range(allowed: &RangeInclusive<i64>) -> String {
    let (start, end) = (allowed.start(), allowed.end());
    match *end >= i64::from(u32::MAX) {
        true => format!("{start} or more"),
        false => format!("{start} to {end}"),
    }
}

/// Checks the name of a kind of worker: it stands in log lines and results as `NAME/0`.
pub(super) fn worker_name(name: &str) -> Result<(), Wrong> {
    let why = match name.len() {
        0 => "it is empty",
        65.. => "it is longer than 64 bytes",
        _ if name.contains('/') => "it contains a '/'",
        _ if name.contains(char::is_control) => "it contains a control character",
        _ => return Ok(()),
    };
    Err(Wrong::of(format!("{name:?}"), format!("can't be the name of a worker: {why}"))
        .allowed("1 to 64 bytes without '/' and control characters"))
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
pub(super) fn interpolate(text: &str, environment: Environment<'_>) -> Result<String, Wrong> {
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
            return Err(Wrong::new("\"${\" has no closing \"}\"").allowed(VARIABLES));
        };
        result.push_str(&variable(&rest[start + 2..start + 2 + length], environment)?);
        rest = &rest[start + 2 + length + 1..];
    }
    result.push_str(rest);
    Ok(result)
}

const VARIABLES: &str = "${VAR}, ${VAR:-default}, and $${ for a literal ${";

fn variable<'a>(reference: &'a str, environment: Environment<'_>) -> Result<Cow<'a, str>, Wrong> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(plain) || name.as_bytes()[0].is_ascii_digit() {
        let given = format!("\"${{{reference}}}\"");
        return Err(Wrong::of(given, "names no variable").allowed(VARIABLES));
    }
    match (environment(name), default) {
        (Ok(value), Some(default)) if value.is_empty() => Ok(default.into()),
        (Ok(value), _) => Ok(value.into()),
        (Err(std::env::VarError::NotPresent), Some(default)) => Ok(default.into()),
        (Err(std::env::VarError::NotPresent), None) => {
            Err(Wrong::new(format!("the variable {name} is not set"))
                .help(format!("set it, or give a default: ${{{name}:-default}}")))
        }
        (Err(std::env::VarError::NotUnicode(_)), _) => {
            Err(Wrong::new(format!("the variable {name} is not valid UTF-8")))
        }
    }
}

/// The candidate that is nearest to what was written, if any is near.
pub(super) fn near_miss<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let written = written.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&written, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= (candidate.len().min(written.len()) / 3).max(1)
                && *distance < candidate.len()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Finds a word in a list of allowed words.
pub(super) fn word<T: Copy>(written: &str, allowed: &[(&str, T)]) -> Result<T, Wrong> {
    if let Some((_, value)) = allowed.iter().find(|(name, _)| *name == written) {
        return Ok(*value);
    }
    let names: Vec<&str> = allowed.iter().map(|(name, _)| *name).collect();
    let suggestion = near_miss(written, names.iter().copied()).map(|name| format!("{name:?}"));
    Err(Wrong::of(format!("{written:?}"), "is not known").suggest(suggestion).allowed(list(&names)))
}

/// `"a", "b", "c"`
pub(super) fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
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
        assert!(duration("5").unwrap_err().to_string().contains("unit is missing"));
        assert!(duration("1 month").unwrap_err().to_string().contains("no fixed length"));
        assert!(duration("-5s").unwrap_err().to_string().contains("negative"));
        assert!(duration("5s ago").unwrap_err().to_string().contains("negative"));
        assert!(duration("4000000d").unwrap_err().to_string().contains("too long"));
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
        assert!(size("-1", &all).unwrap_err().to_string().contains("negative"));
        assert!(size("many", &all).unwrap_err().to_string().contains("64KiB"));
        let message = size("63", &(64..=1 << 20)).unwrap_err().to_string();
        assert_eq!(message, "63 is out of range; allowed: 64 bytes to 1 MiB");
    }

    #[test]
    fn variables_are_replaced_or_named() {
        let replace = |text| interpolate(text, &environment);
        assert_eq!(replace("${HOME}/a${EMPTY}b"), Ok("/root/ab".into()));
        assert_eq!(replace("${NONE:-x}${EMPTY:-y}${HOME:-z}"), Ok("xy/root".into()));
        assert_eq!(replace("${NONE:-}"), Ok(String::new()));
        assert_eq!(replace("$HOME $5 $ $$"), Ok("$HOME $5 $ $$".into()));
        assert_eq!(replace("$${f%.txt}"), Ok("${f%.txt}".into()));
        assert!(replace("${NONE}").unwrap_err().to_string().contains("NONE is not set"));
        assert!(replace("${HOME").unwrap_err().to_string().contains("no closing"));
        for bad in ["${}", "${1}", "${a b}", "${:-x}", "${ä}"] {
            assert!(replace(bad).unwrap_err().to_string().contains("names no variable"), "{bad}");
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
        assert!(word("jsno", &allowed).unwrap_err().to_string().contains("did you mean \"json\"?"));
        assert!(!word("yaml", &allowed).unwrap_err().to_string().contains("did you mean"));
    }
}
