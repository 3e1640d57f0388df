//! A chart as text, for a terminal of any width from 40 columns on.

use super::chart::{Chart, Doing, Outcome, Row, short};
use crate::log::escape;

/// How a chart is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    pub width: usize,
    /// Otherwise ASCII only.
    pub unicode: bool,
    pub color: bool,
}

const WIDTH: std::ops::RangeInclusive<usize> = 40..=200;
/// Columns of the names at most, in a terminal of 80.
const NAME_MAX: usize = 24;

/// Signs for all that is drawn.
struct Signs {
    running: char,
    draining: char,
    flushing: char,
    ended: char,
    died: char,
    runs: char,
    unknown: char,
    reserve: char,
    deadline: char,
    axis: char,
    tick: char,
}

const UNICODE: Signs = Signs {
    running: '─',
    draining: '█',
    flushing: '▒',
    ended: '✓',
    died: '✗',
    runs: '▸',
    unknown: '?',
    reserve: '┊',
    deadline: '│',
    axis: '─',
    tick: '┴',
};

const ASCII: Signs = Signs {
    running: '-',
    draining: '#',
    flushing: '=',
    ended: '|',
    died: 'X',
    runs: '>',
    unknown: '?',
    reserve: ':',
    deadline: '!',
    axis: '-',
    tick: '+',
};

const PLAIN: &str = "";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BLUE: &str = "34";
const BOLD: &str = "1";

/// Draws it.
pub(crate) fn draw(chart: &Chart, style: Style) -> String {
    let width = style.width.clamp(*WIDTH.start(), *WIDTH.end());
    let signs = if style.unicode { UNICODE } else { ASCII };
    let longest = chart.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let names = longest.min(NAME_MAX.min(width / 4));
    let times = if width < 60 { 8 } else { 10 };
    let bars = width - names - 1 - times;
    let canvas = Canvas { chart, style, signs, names, bars, width };
    let mut out = String::new();
    canvas.paragraph(&mut out, &chart.title, BOLD);
    canvas.paragraph(&mut out, &chart.subtitle, DIM);
    out.push('\n');
    for row in &chart.rows {
        canvas.row(&mut out, row);
    }
    canvas.axis(&mut out);
    canvas.legend(&mut out);
    for row in chart.rows.iter().filter(|row| !row.words.is_empty()) {
        canvas.paragraph(&mut out, &format!("{}: {}", row.name, row.words), PLAIN);
    }
    for note in chart.notes.iter().chain(&chart.balance) {
        canvas.paragraph(&mut out, note, PLAIN);
    }
    out
}

struct Canvas<'a> {
    chart: &'a Chart,
    style: Style,
    signs: Signs,
    /// Columns of the names, and of the bars.
    names: usize,
    bars: usize,
    width: usize,
}

impl Canvas<'_> {
    /// The column of a moment, from 0; the last one, if it is later than all that is shown.
    fn column(&self, at: f64) -> usize {
        let Chart { from, to, .. } = *self.chart;
        let part = ((at - from) / (to - from)).clamp(0.0, 1.0);
        ((part * self.bars as f64) as usize).min(self.bars - 1)
    }

    fn row(&self, out: &mut String, row: &Row) {
        let signs = &self.signs;
        let mut cells = vec![(' ', PLAIN); self.bars];
        for (at, sign, color) in [
            (self.chart.reserve, signs.reserve, YELLOW),
            (self.chart.deadline, signs.deadline, RED),
        ] {
            if let Some(at) = at {
                cells[self.column(at)] = (sign, color);
            }
        }
        for bar in &row.bars {
            let cell = match bar.doing {
                Doing::Running => (signs.running, DIM),
                Doing::Draining => (signs.draining, YELLOW),
                Doing::Flushing => (signs.flushing, BLUE),
            };
            let (from, to) = (self.column(bar.from), self.column(bar.to));
            cells[from..=to].fill(cell);
        }
        if let Some(last) = row.bars.last() {
            let (from, end) = (self.column(last.from), self.column(last.to));
            if from == end && end > 0 {
                // However short, it is seen beside the sign of its end.
                cells[end - 1] = cells[end];
            }
            cells[end] = match row.end {
                Outcome::Ended => (signs.ended, GREEN),
                Outcome::Died => (signs.died, RED),
                Outcome::Runs => (signs.runs, PLAIN),
                Outcome::Unknown => (signs.unknown, PLAIN),
            };
        }
        self.name(out, &row.name);
        self.cells(out, &cells);
        if let Some(at) = row.at {
            let digits = if at >= 1000.0 {
                0
            } else if self.width < 60 {
                2
            } else {
                3
            };
            let time = format!(" {at:.digits$} s");
            let room = self.width - self.names - 1 - self.bars;
            out.push_str(&format!("{time:>room$}"));
        }
        end_line(out);
    }

    fn name(&self, out: &mut String, name: &str) {
        let name = escape(name);
        let long = name.chars().count() > self.names;
        let name = name.strip_prefix("worker ").filter(|_| long).map_or(name.clone(), Into::into);
        let cut: String = match name.chars().count() > self.names {
            true => name.chars().take(self.names - 1).chain(['~']).collect(),
            false => name.into_owned(),
        };
        let names = self.names;
        out.push_str(&format!("{cut:<names$} "));
    }

    /// Neighbours of the same colour are coloured together.
    fn cells(&self, out: &mut String, cells: &[(char, &'static str)]) {
        for group in cells.chunk_by(|a, b| a.1 == b.1) {
            let text: String = group.iter().map(|(sign, _)| sign).collect();
            out.push_str(&self.colored(&text, group[0].1));
        }
    }

    fn colored(&self, text: &str, color: &str) -> String {
        match self.style.color && !color.is_empty() {
            true => format!("\u{1b}[{color}m{text}\u{1b}[0m"),
            false => text.into(),
        }
    }

    /// The line with ticks, and the line with their times.
    fn axis(&self, out: &mut String) {
        let step = super::tick(self.chart.to, (self.bars / 10).max(2));
        let digits = super::digits(step);
        let mut line = vec![self.signs.axis; self.bars];
        let mut times = vec![' '; self.bars + 10];
        let mut free = 0;
        for number in 0.. {
            let at = f64::from(number) * step;
            if at > self.chart.to {
                break;
            }
            let column = self.column(at);
            line[column] = self.signs.tick;
            let text = format!("{at:.digits$}");
            let text = if number == 0 { format!("{text} s") } else { text };
            if column >= free {
                for (place, letter) in times[column..].iter_mut().zip(text.chars()) {
                    *place = letter;
                }
                free = column + text.len() + 1;
            }
        }
        let indent = " ".repeat(self.names + 1);
        let line: String = line.into_iter().collect();
        let times: String = times.into_iter().collect();
        out.push_str(&format!("{indent}{line}\n{indent}{}\n", times.trim_end()));
    }

    fn legend(&self, out: &mut String) {
        let Signs { running, draining, flushing, ended, died, runs, unknown, .. } = self.signs;
        let bar = |sign: char| format!("{sign}{sign}");
        let mut items = vec![
            (bar(running), DIM, "running"),
            (bar(draining), YELLOW, "told to stop, finishing"),
        ];
        let rows = &self.chart.rows;
        let any = |outcome| rows.iter().any(|row| row.end == outcome);
        let flushes = rows.iter().flat_map(|row| &row.bars).any(|bar| bar.doing == Doing::Flushing);
        let optional = [
            (flushes, bar(flushing), BLUE, "flushing"),
            (any(Outcome::Ended), ended.into(), GREEN, "exited"),
            (any(Outcome::Died), died.into(), RED, "killed or died"),
            (any(Outcome::Runs), runs.into(), PLAIN, "still there"),
            (any(Outcome::Unknown), unknown.into(), PLAIN, "not known"),
        ];
        items.extend(
            optional
                .into_iter()
                .filter(|item| item.0)
                .map(|(_, sign, color, word)| (sign, color, word)),
        );
        let lines = [
            (self.chart.reserve, self.signs.reserve, YELLOW, "workers are killed"),
            (self.chart.deadline, self.signs.deadline, RED, "deadline"),
        ];
        let times: Vec<String> =
            lines.iter().map(|(at, ..)| at.map(short).unwrap_or_default()).collect();
        let mut used = 0;
        let mut put = |sign: &str, color: &str, words: &str| {
            let columns = sign.chars().count() + 1 + words.chars().count();
            if used > 0 && used + 3 + columns > self.width {
                out.push('\n');
                used = 0;
            } else if used > 0 {
                out.push_str("   ");
                used += 3;
            }
            out.push_str(&format!("{} {words}", self.colored(sign, color)));
            used += columns;
        };
        for (sign, color, word) in &items {
            put(sign, color, word);
        }
        for ((at, sign, color, word), time) in lines.iter().zip(&times) {
            if at.is_some() {
                put(&sign.to_string(), color, &format!("{word} ({time})"));
            }
        }
        out.push('\n');
    }

    /// Words in lines that fit.
    fn paragraph(&self, out: &mut String, text: &str, color: &str) {
        let text = escape(text);
        let mut line = String::new();
        for (number, word) in text.split(' ').enumerate() {
            let together = line.chars().count() + 1 + word.chars().count();
            if number > 0 && together > self.width {
                out.push_str(&self.colored(&line, color));
                out.push('\n');
                line = "  ".into();
            } else if number > 0 {
                line.push(' ');
            }
            line.push_str(word);
        }
        out.push_str(&self.colored(&line, color));
        out.push('\n');
    }
}

/// Without the spaces at its end.
fn end_line(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}
