//! Mistakes of a configuration as a person sees them: what is wrong, the line, a caret below it.
//!
//! The first line of each is `FILE:LINE:COLUMN: KEY: what is wrong`, for editors and scripts.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use crate::error::{Mistake, Mistakes};
use crate::log::escape;

/// How wide, and with colours?
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) width: usize,
    pub(super) color: bool,
}

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const BLUE: &str = "\x1b[1;34m";
const RESET: &str = "\x1b[0m";

/// Stands for what is cut off a long line.
const CUT: &str = "...";
/// Of a narrow terminal, or none, as much is used all the same. Columns.
const WIDTH_MIN: usize = 40;

impl Style {
    fn paint(self, color: &str, text: &str) -> String {
        match self.color && !text.is_empty() {
            true => format!("{color}{text}{RESET}"),
            false => text.to_owned(),
        }
    }
}

/// All of them, with an empty line behind each.
pub(super) fn mistakes(mistakes: &Mistakes, style: Style) -> String {
    all(mistakes, "", style)
}

/// The same for what is accepted.
pub(super) fn warnings(warnings: &Mistakes, style: Style) -> String {
    all(warnings, "warning: ", style)
}

fn all(mistakes: &Mistakes, kind: &str, style: Style) -> String {
    let style = Style { width: style.width.max(WIDTH_MIN), ..style };
    let mut text = String::new();
    for mistake in mistakes.iter() {
        let place = style.paint(BOLD, &escape(&mistakes.place(mistake)));
        let key = match mistake.key.as_str() {
            "" => String::new(),
            key => format!("{}: ", escape(key)),
        };
        let kind = style.paint(YELLOW, kind);
        let message = mistake.wrong.message();
        let _ = writeln!(text, "{place}{kind}{}{}", style.paint(BOLD, &key), escape(&message));
        below(&mut text, (mistakes, mistake), style);
        text.push('\n');
    }
    text
}

/// The line that is meant, and what is to be said about it.
fn below(text: &mut String, (all, mistake): (&Mistakes, &Mistake), style: Style) {
    let mut notes = Vec::new();
    let suggestion = mistake.wrong.suggestion.as_deref();
    let suggestion = suggestion.map(|meant| format!("did you mean {meant}?"));
    let line = line_of(all, mistake);
    let gutter = line.as_ref().map_or(1, |line| line.number.to_string().len());
    match line {
        Some(line) => {
            let label = suggestion.as_deref().map(escape);
            let label = label.as_deref().unwrap_or_default();
            if !marked(text, &line, (gutter, label), style) {
                notes.extend(suggestion);
            }
        }
        None => notes.extend(suggestion),
    }
    notes.extend(mistake.wrong.allowed.as_ref().map(|allowed| format!("allowed: {allowed}")));
    notes.extend(mistake.wrong.help.as_ref().map(|help| format!("help: {help}")));
    for note in notes {
        for (index, part) in wrap(&escape(&note), style.width - gutter - 3).iter().enumerate() {
            let sign = if index == 0 { "=" } else { " " };
            let _ = writeln!(text, "{:gutter$} {} {part}", "", style.paint(BLUE, sign));
        }
    }
}

/// A line of the file, and which bytes of it are meant.
struct Line<'a> {
    number: usize,
    text: Cow<'a, str>,
    bytes: Range<usize>,
}

fn line_of<'a>(all: &'a Mistakes, mistake: &Mistake) -> Option<Line<'a>> {
    let (bytes, range) = (mistake.bytes.as_ref()?, all.range(mistake)?);
    let text = all.text();
    let begin = text.as_bytes()[..bytes.start.min(text.len())].iter().rposition(|it| *it == b'\n');
    let begin = begin.map_or(0, |newline| newline + 1);
    let line = text.get(begin..)?.split('\n').next().unwrap_or_default();
    let (skipped, line) = match line.strip_prefix('\u{feff}') {
        Some(rest) => (begin + '\u{feff}'.len_utf8(), rest),
        None => (begin, line),
    };
    let line = line.strip_suffix('\r').unwrap_or(line);
    // Of what goes on in the next lines, this is the beginning.
    let in_line = |byte: usize| byte.saturating_sub(skipped).min(line.len());
    let bytes = in_line(bytes.start)..in_line(bytes.end);
    let text = match is_secret(&mistake.key) {
        true => Cow::Owned(hidden(line)),
        false => Cow::Borrowed(line),
    };
    Some(Line { number: range.start.line, text, bytes })
}

/// Mistakes end up in logs that others read, and environments hold passwords.
fn is_secret(key: &str) -> bool {
    key.starts_with("workers.") && (key.ends_with(".env") || key.contains(".env."))
}

/// The line with stars in place of what stands in quotation marks, as many bytes long.
fn hidden(line: &str) -> String {
    let (mut text, mut quote, mut escaped) = (String::with_capacity(line.len()), None, false);
    for character in line.chars() {
        match quote {
            None => {
                quote = Some(character).filter(|it| ['"', '\''].contains(it));
                text.push(character);
            }
            Some(quote_now) if character == quote_now && !escaped => {
                quote = None;
                text.push(character);
            }
            Some(quote_now) => {
                escaped = character == '\\' && quote_now == '"' && !escaped;
                text.extend(std::iter::repeat_n('*', character.len_utf8()));
            }
        }
    }
    text
}

/// Writes the line with carets below what is meant, and the label if there is room for it.
fn marked(
    text: &mut String,
    line: &Line<'_>,
    (gutter, label): (usize, &str),
    style: Style,
) -> bool {
    let room = style.width - gutter - 3;
    let (shown, marks) = cut(line, room);
    let bar = style.paint(BLUE, "|");
    let number = style.paint(BLUE, &format!("{:gutter$}", line.number));
    let carets = "^".repeat(marks.len());
    let has_room = marks.end + 1 + width(label) <= room;
    let label = if has_room && !label.is_empty() { format!(" {label}") } else { String::new() };
    let carets = style.paint(RED, &format!("{carets}{label}"));
    let _ = writeln!(text, "{:gutter$} {bar}", "");
    let _ = writeln!(text, "{number} {bar} {shown}");
    let _ = writeln!(text, "{:gutter$} {bar} {:indent$}{carets}", "", "", indent = marks.start);
    has_room
}

/// A line as it is shown in so many columns, and the columns that are meant: at least one.
fn cut(line: &Line<'_>, room: usize) -> (String, Range<usize>) {
    let mut cells: Vec<(usize, String)> = Vec::new();
    let (mut column, mut from, mut to) = (0, None, None);
    for (byte, character) in line.text.char_indices() {
        if byte >= line.bytes.start {
            from.get_or_insert(column);
        }
        if byte >= line.bytes.end {
            to.get_or_insert(column);
        }
        let cell = visible(character);
        let cell_width = width(&cell);
        cells.push((column, cell));
        column += cell_width;
    }
    let from = from.unwrap_or(column);
    let to = to.unwrap_or(column).max(from + 1);
    if column.max(to) <= room {
        return (cells.into_iter().map(|(_, cell)| cell).collect(), from..to);
    }
    // A third of the room for what stands before the mark, unless more fits.
    let inner = room - 2 * CUT.len();
    let begin = match to <= room - CUT.len() {
        true => 0,
        false => from.saturating_sub(inner / 3).min(column.saturating_sub(inner)),
    };
    let end = if begin == 0 { room - CUT.len() } else { begin + inner };
    let before = if begin == 0 { "" } else { CUT };
    let after = if end < column { CUT } else { "" };
    let inside = |(at, cell): &&(usize, String)| *at >= begin && *at + width(cell) <= end;
    let shown: String = cells.iter().filter(inside).map(|(_, cell)| cell.as_str()).collect();
    let first = cells.iter().find(inside).map_or(begin, |(at, _)| *at);
    let shift = |at: usize| at.clamp(first, end.max(first + 1)) - first + before.len();
    let marks = shift(from)..shift(to).max(shift(from) + 1);
    (format!("{before}{shown}{after}"), marks)
}

/// A character as it may be shown: nothing that steers a terminal, or turns a line around.
fn visible(character: char) -> String {
    match character {
        '\t' => "    ".to_owned(),
        _ => escape(character.encode_utf8(&mut [0; 4])).into_owned(),
    }
}

/// Columns of a text on a terminal.
fn width(text: &str) -> usize {
    let of = |character: char| match u32::from(character) {
        0x0300..=0x036f => 0,
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff => 2,
        0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 => 2,
        0x1f300..=0x1faff | 0x20000..=0x3fffd => 2,
        _ => 1,
    };
    text.chars().map(of).sum()
}

/// Lines of so many columns, broken between words.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is always one");
        if last.is_empty() || width(last) + 1 + width(word) <= columns {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        } else {
            lines.push(format!("  {word}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::{self, Known, Overrides};
    use crate::error::{Error, Wrong};
    use std::path::Path;

    const PLAIN: Style = Style { width: 80, color: false };

    /// The mistakes of a text, shown; the folder of the file is left out.
    fn shown(text: &str, style: Style) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pings.toml");
        std::fs::write(&path, text).unwrap();
        let error = raw::load(&path, &Overrides::default(), &Known::default()).unwrap_err();
        let Error::Mistakes(all) = error else { panic!("{error}") };
        mistakes(&all, style).replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn a_mistake_in_an_environment_shows_no_value_of_it() {
        let text = "[workers.ping]\ncommand = [\"echo\"]\n\
                    env = { A = \"hünt\\\"er2\", B = 5, C = \"hunter3${NO_SUCH_VARIABLE}\" }\n\n\
                    [workers.other.env]\nD = ['hunter4']\n";
        let shown = shown(text, PLAIN);
        assert!(!shown.contains("nter"), "{shown}");
        let line = r#"3 | env = { A = "**********", B = 5, C = "**************************" }"#;
        assert!(shown.contains(line), "{shown}");
        // The stars take as much room as what they stand for, in bytes: the mark is where it belongs.
        let mark = shown.lines().skip_while(|it| *it != line).nth(1).expect("a mark");
        assert_eq!(mark.find('^'), line.find('5'), "{shown}");
        assert!(shown.contains("D = ['*******']"), "{shown}");
    }

    #[test]
    fn each_mistake_has_its_line_a_caret_what_is_allowed_and_what_was_meant() {
        let text = "[workers.ping]\ncommand = [\"echo\", \"${NO_SUCH_VARIABLE}\"]\nthread = 2\n\
                    timeout = 10\nprocesses = 20000\n\n[shutdown]\n\n\ndeadline = \"8 s ago\"\n";
        let expected = r#"pings.toml:2:20: workers.ping.command: the variable NO_SUCH_VARIABLE is not set
  |
2 | command = ["echo", "${NO_SUCH_VARIABLE}"]
  |                    ^^^^^^^^^^^^^^^^^^^^^
  = help: set it, or give a default: ${NO_SUCH_VARIABLE:-default}

pings.toml:3:1: workers.ping.thread: "thread" is no key here
  |
3 | thread = 2
  | ^^^^^^ did you mean threads?
"#;
        let told = shown(text, PLAIN);
        assert!(told.starts_with(expected), "{told}");
        let expected = r#"pings.toml:4:11: workers.ping.timeout: 10 is no duration: its unit is missing
  |
4 | timeout = 10
  |           ^^ did you mean "10s"?
  = allowed: a duration such as "500ms", "30s", "1m 30s" or "1day"

pings.toml:5:13: workers.ping.processes: 20000 is out of range
  |
5 | processes = 20000
  |             ^^^^^
  = allowed: 1 to 10000

pings.toml:10:12: shutdown.deadline: "8 s ago" is negative
   |
10 | deadline = "8 s ago"
   |            ^^^^^^^^^
   = allowed: a duration such as "500ms", "30s", "1m 30s" or "1day"

"#;
        assert!(told.ends_with(expected), "{told}");
    }

    /// The line that is shown, and what the carets below it are below.
    fn marked_of(told: &str) -> (String, String) {
        let mut lines = told.lines().skip_while(|line| !line.starts_with("1 | "));
        let source = lines.next().unwrap().chars();
        let carets = lines.next().unwrap();
        let below = source.clone().zip(carets.chars()).filter(|(_, mark)| *mark == '^');
        (source.collect(), below.map(|(character, _)| character).collect())
    }

    #[test]
    fn of_a_long_line_the_part_that_is_meant_is_shown_in_80_columns() {
        let command = |before: usize, after: usize| {
            let words = |number| "\"word\", ".repeat(number);
            format!("workers.w.command = [{}5, {}\"end\"]\n", words(before), words(after))
        };
        for (before, after) in [(0, 40), (3, 40), (6, 40), (20, 20), (40, 0), (40, 1), (400, 400)] {
            let told = shown(&command(before, after), PLAIN);
            let (line, below) = marked_of(&told);
            assert_eq!(below, "5", "{before}, {after}:\n{told}");
            assert!(line.chars().count() <= 80, "{told}");
            assert_eq!(line.contains("| ..."), before > 6, "{told}");
            assert_eq!(line.ends_with("..."), after > 1, "{told}");
        }
        // What is meant may itself be longer.
        let told = shown(&format!("log.level = \"{}\"\n", "x".repeat(300)), PLAIN);
        assert!(told.lines().skip(1).all(|line| line.chars().count() <= 80), "{told}");
        assert!(marked_of(&told).1.starts_with("\"xxx"), "{told}");
        let told = shown(&format!("{}log.level = 7\n", "\"a\".".repeat(60)), PLAIN);
        assert!(told.contains('^'), "{told}");
    }

    #[test]
    fn nothing_in_a_line_steers_the_terminal_and_carets_stay_below() {
        let line = "workers.w.command = [\"\u{202e}ä語\", 5,\t\"\u{1f600}\"]\n";
        let told = shown(line, PLAIN);
        assert!(!told.contains('\u{202e}') && !told.contains('\t'), "{told}");
        assert!(told.contains("\\u{202e}ä語"), "{told}");
        let mut lines = told.lines().filter(|line| line.contains(" | "));
        let (source, carets) = (lines.next().unwrap(), lines.next().unwrap());
        let at = |text: &str, what: char| width(&text[..text.find(what).unwrap()]);
        assert_eq!(at(source, '5'), at(carets, '^'), "{told}");
    }

    #[test]
    fn colours_are_there_only_when_they_are_wanted() {
        let text = "nam = 1\n";
        let colored = shown(text, Style { color: true, ..PLAIN });
        assert!(colored.contains("\x1b[1;31m^^^ did you mean name?\x1b[0m"), "{colored:?}");
        let mut plain = colored;
        for code in [BOLD, RED, BLUE, YELLOW, RESET] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, shown(text, PLAIN));
        assert!(!plain.contains('\x1b'));
    }

    #[test]
    fn any_place_in_any_text_is_shown_somehow() {
        let texts =
            ["", "\n", "\u{feff}a = 1\r\n", "ä\n語\u{1f600}", "a = \"\"\"\nb\nc\"\"\"\n", "\t\t"];
        for text in texts {
            for start in 0..=text.len() + 2 {
                for end in start..=text.len() + 2 {
                    let wrong = Wrong::new("wrong").suggest(Some("x ".repeat(50)));
                    let mistake = Mistake { key: "k".into(), wrong, bytes: Some(start..end) };
                    let all = Mistakes::new(Some((Path::new("f"), text)), vec![mistake]);
                    for width in [0, 10, 80] {
                        assert!(mistakes(&all, Style { width, color: false }).contains("f:"));
                    }
                }
            }
        }
    }
}
