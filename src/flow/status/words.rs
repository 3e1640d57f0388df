//! Numbers, times and texts as people read them.

use std::fmt::Write;

use crate::log::escape;

/// A whole number, in groups of three: `1,234,567`.
pub(crate) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How often in a second: `0.3`, `12.5`, `1,234`.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second < 100.0 { format!("{per_second:.1}") } else { number(per_second as u64) }
}

/// Bytes: `17 B`, `1.5 KiB`.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// A time: `0.42 s`, `12 s`, `3 min 12 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn time(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        _ if seconds < 10.0 => format!("{:.1} s", seconds.max(0.0)),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// A time in a column: `0.4s`, `12s`, `3m12s`, `2h05m`, `3d04h`.
pub(crate) fn short_time(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        _ if seconds < 10.0 => format!("{:.1}s", seconds.max(0.0)),
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Columns that a text takes: those of East Asia have two each, what is put onto the one before none.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(char_columns).sum()
}

fn char_columns(character: char) -> usize {
    match u32::from(character) {
        0x300..=0x36f | 0x200b..=0x200f | 0x20d0..=0x20ff | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// At most so many columns of a text that comes from anywhere; what is cut off ends in `...`.
pub(crate) fn cut(text: &str, width: usize) -> String {
    let text = escape(text);
    if columns(&text) <= width {
        return text.into_owned();
    }
    let dots = if width > 6 { "..." } else { "" };
    let mut left = width - dots.len();
    let mut kept = String::new();
    for character in text.chars() {
        let Some(rest) = left.checked_sub(char_columns(character)) else { break };
        left = rest;
        kept.push(character);
    }
    kept + dots
}

/// Fills a text up to a width: to the left if `right`.
pub(crate) fn pad(text: &str, width: usize, right: bool) -> String {
    let missing = width.saturating_sub(columns(text));
    let mut padded = String::new();
    let blanks = " ".repeat(missing);
    let (before, after) = if right { (&*blanks, "") } else { ("", &*blanks) };
    let _always = write!(padded, "{before}{text}{after}");
    padded
}

/// `1 process`, `2 processes`.
pub(crate) fn count(value: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(value), if value == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_times_and_bytes_are_short_and_have_their_unit() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1023, 1536, 1 << 20].map(bytes), ["0 B", "1023 B", "1.5 KiB", "1.0 MiB"]);
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        let seconds = [0.42, 59.9, 192.0, 7500.0, 273_600.0];
        assert_eq!(seconds.map(time), ["0.4 s", "59 s", "3 min 12 s", "2 h 5 min", "3 d 4 h"]);
        assert_eq!(seconds.map(short_time), ["0.4s", "59s", "3m12s", "2h05m", "3d04h"]);
        assert_eq!(time(f64::MAX), "213503982334601 d 7 h");
        assert_eq!([0.25, 12.54, 1234.5].map(rate), ["0.2", "12.5", "1,234"]);
    }

    #[test]
    fn a_text_is_cut_to_its_width_and_harmless() {
        assert_eq!(cut("example.org", 11), "example.org");
        assert_eq!(cut("example.org/path", 11), "example....");
        assert_eq!(cut("a\x1b[31m\nb", 20), "a\\x1b[31m\\nb");
        assert_eq!(cut("abcdefgh", 3), "abc");
        for width in 0..20 {
            for text in
                ["example.org is there", "漢字かな交じり文の例", "e\u{301}te\u{301} et tout"]
            {
                assert!(columns(&cut(text, width)) <= width, "{text} {width}");
            }
        }
    }
}
