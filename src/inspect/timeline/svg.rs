//! A chart as SVG: one file with nothing outside of it, for light and dark pages.
//!
//! Texts are texts, so that they can be selected, searched and read aloud; signs are drawn, since not
//! every font has them.

use super::chart::{Chart, Doing, Outcome, Row, short};

const WIDTH: f64 = 880.0;
/// Where bars begin and end.
const LEFT: f64 = 170.0;
const RIGHT: f64 = 780.0;
/// Where the first row begins below a title of one line.
const TOP: f64 = 100.0;
const TITLE_LINE: f64 = 20.0;
const TITLE_LETTERS: usize = 86;
const ROW: f64 = 30.0;
const BAR: f64 = 14.0;
/// Widths of letters, as far as they matter here.
const LETTER: f64 = 7.2;
const NAME_LETTERS: usize = 20;

const STYLE: &str = "\
.page{fill:#ffffff;stroke:#d0d7de}text{font:13px ui-sans-serif,system-ui,'Segoe UI',Helvetica,Arial,\
sans-serif;fill:#1f2328}.title{font-size:16px;font-weight:600}.dim{fill:#59636e}.name,.time{font-family:\
ui-monospace,SFMono-Regular,Menlo,'DejaVu Sans Mono',monospace;font-size:12px}.grid{stroke:#d0d7de}\
.running{fill:#8c959f}.draining{fill:#d4a72c}.flushing{fill:#218bff}.mark{fill:none;stroke-width:2.2;\
stroke-linecap:round;stroke-linejoin:round}.ended{stroke:#1a7f37}.died{stroke:#cf222e}.open{stroke:\
#59636e}.reserve{stroke:#bc4c00;stroke-dasharray:3 3}.deadline{stroke:#cf222e}.reserve-text{fill:\
#bc4c00}.deadline-text{fill:#cf222e}\
@media(prefers-color-scheme:dark){.page{fill:#0d1117;stroke:#3d444d}text{fill:#f0f6fc}.dim{fill:#9198a1}\
.grid{stroke:#3d444d}.running{fill:#656c76}.draining{fill:#d29922}.flushing{fill:#4493f8}.ended{stroke:\
#3fb950}.died{stroke:#f85149}.open{stroke:#9198a1}.reserve{stroke:#f0883e}.deadline{stroke:#f85149}\
.reserve-text{fill:#f0883e}.deadline-text{fill:#f85149}}";

/// Draws it.
pub(crate) fn draw(chart: &Chart) -> String {
    let titles = lines(&chart.title, TITLE_LETTERS);
    let below_title = TITLE_LINE * (titles.len() - 1) as f64;
    let top = TOP + below_title;
    let bottom = top + ROW * chart.rows.len() as f64;
    let words: Vec<String> = chart
        .rows
        .iter()
        .filter(|row| row.at.is_none() && !row.words.is_empty())
        .map(|row| format!("{}: {}", row.name, row.words))
        .chain(chart.notes.iter().cloned())
        .chain(chart.balance.clone())
        .flat_map(|text| lines(&text, ((WIDTH - 48.0) / LETTER) as usize))
        .collect();
    let height = bottom + 78.0 + 18.0 * words.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>{0}</title>\n<desc>{1}</desc>\n<style>{STYLE}</style>\n\
         <rect class=\"page\" x=\"0.5\" y=\"0.5\" width=\"{2}\" height=\"{3}\" rx=\"8\"/>\n",
        escaped(&chart.title),
        escaped(&described(chart)),
        WIDTH - 1.0,
        height - 1.0,
    );
    for (number, line) in titles.iter().enumerate() {
        text(&mut out, "title", 24.0, 32.0 + TITLE_LINE * number as f64, line);
    }
    text(&mut out, "dim", 24.0, 54.0 + below_title, &chart.subtitle);
    grid(&mut out, chart, top, bottom);
    for (number, row) in chart.rows.iter().enumerate() {
        draw_row(&mut out, chart, row, top + ROW * number as f64);
    }
    limits(&mut out, chart, top, bottom);
    legend(&mut out, bottom + 50.0);
    for (number, line) in words.iter().enumerate() {
        text(&mut out, "dim", 24.0, bottom + 80.0 + 18.0 * number as f64, line);
    }
    out.push_str("</svg>\n");
    out
}

/// Where a moment is.
fn x(chart: &Chart, at: f64) -> f64 {
    let part = ((at - chart.from) / (chart.to - chart.from)).clamp(0.0, 1.0);
    LEFT + part * (RIGHT - LEFT)
}

fn grid(out: &mut String, chart: &Chart, top: f64, bottom: f64) {
    let step = super::tick(chart.to, 9);
    let digits = super::digits(step);
    for number in 0.. {
        let at = f64::from(number) * step;
        if at > chart.to {
            break;
        }
        let x = x(chart, at);
        out.push_str(&format!(
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>\n\
             <text class=\"dim time\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at:.digits$} s</text>\n",
            top - 4.0,
            bottom + 18.0,
        ));
    }
}

fn draw_row(out: &mut String, chart: &Chart, row: &Row, top: f64) {
    let middle = top + ROW / 2.0;
    let name: String = match row.name.chars().count() > NAME_LETTERS {
        true => row.name.chars().take(NAME_LETTERS - 1).chain(['…']).collect(),
        false => row.name.clone(),
    };
    text(out, "name", 24.0, middle + 4.0, &name);
    for bar in &row.bars {
        let (from, to) = (x(chart, bar.from), x(chart, bar.to));
        let (class, high) = match bar.doing {
            Doing::Running => ("running", BAR / 3.0),
            Doing::Draining => ("draining", BAR),
            Doing::Flushing => ("flushing", BAR),
        };
        out.push_str(&format!(
            "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{high:.1}\" \
             rx=\"2\"/>\n",
            middle - high / 2.0,
            (to - from).max(if bar.doing == Doing::Running { 1.0 } else { 3.0 }),
        ));
    }
    let end = row.bars.iter().map(|bar| bar.to).max_by(f64::total_cmp).unwrap_or(0.0);
    mark(out, row.end, x(chart, end) + 11.0, middle);
    if let Some(at) = row.at {
        out.push_str(&format!(
            "<text class=\"time\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{at:.3} s</text>\n",
            WIDTH - 24.0,
            middle + 4.0
        ));
        // Beside the bar, or before it if there is no room.
        let wide = LETTER * row.words.chars().count() as f64;
        let beside = x(chart, end) + 24.0;
        if !row.words.is_empty() && beside + wide < RIGHT + 20.0 {
            text(out, "dim", beside, middle + 4.0, &row.words);
        } else if !row.words.is_empty() {
            out.push_str(&format!(
                "<text class=\"dim\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                x(chart, end) - 8.0,
                middle - 9.0,
                escaped(&row.words)
            ));
        }
    }
}

/// How a row ends.
fn mark(out: &mut String, end: Outcome, x: f64, y: f64) {
    let (class, path) = match end {
        Outcome::Ended => ("ended", "m-5 0 4 4 7-8"),
        Outcome::Died => ("died", "m-4-4 8 8m0-8-8 8"),
        Outcome::Runs => ("open", "m-4-4 5 4-5 4"),
        Outcome::Unknown => ("open", "m-3-3a3 3 0 1 1 4 3l-1 1v1m0 3v.5"),
    };
    out.push_str(&format!("<path class=\"mark {class}\" d=\"M{x:.1} {y:.1}{path}\"/>\n"));
}

/// The lines of the reserve and of the deadline, with their names above.
fn limits(out: &mut String, chart: &Chart, top: f64, bottom: f64) {
    let limits = [
        (chart.reserve, "reserve", "workers are killed", "end"),
        (chart.deadline, "deadline", "deadline", "start"),
    ];
    for (at, class, words, anchor) in limits {
        let Some(at) = at else { continue };
        let (x, words) = (x(chart, at), format!("{words} ({})", short(at)));
        // Apart from each other, and inside of the page.
        let beyond = x - 12.0 + LETTER * words.len() as f64 > WIDTH - 24.0;
        let (anchor, label) = match (class, beyond) {
            ("deadline", true) => ("end", WIDTH - 24.0),
            ("deadline", false) => (anchor, x - 12.0),
            _ => (anchor, x + 12.0),
        };
        out.push_str(&format!(
            "<line class=\"{class}\" stroke-width=\"1.5\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" \
             y2=\"{bottom:.1}\"/>\n<text class=\"{class}-text time\" x=\"{label:.1}\" y=\"{:.1}\" \
             text-anchor=\"{anchor}\">{words}</text>\n",
            top - 14.0,
            top - 20.0,
        ));
    }
}

fn legend(out: &mut String, y: f64) {
    let bars =
        [("running", "running"), ("draining", "told to stop, finishing"), ("flushing", "flushing")];
    let mut at = 24.0;
    for (class, words) in bars {
        let high = if class == "running" { BAR / 3.0 } else { BAR };
        out.push_str(&format!(
            "<rect class=\"{class}\" x=\"{at:.1}\" y=\"{:.1}\" width=\"18\" height=\"{high:.1}\" rx=\"2\"/>\n",
            y - 4.5 - high / 2.0
        ));
        text(out, "dim", at + 24.0, y, words);
        at += 24.0 + LETTER * words.len() as f64 + 22.0;
    }
    for (end, words) in [(Outcome::Ended, "exited"), (Outcome::Died, "killed or died")] {
        mark(out, end, at + 5.0, y - 4.5);
        text(out, "dim", at + 18.0, y, words);
        at += 18.0 + LETTER * words.len() as f64 + 22.0;
    }
}

/// For who can't see it.
fn described(chart: &Chart) -> String {
    let row = |row: &Row| {
        let end = match (row.end, row.at) {
            (Outcome::Ended, Some(at)) => format!("exited after {at:.3} s"),
            (Outcome::Died, Some(at)) => format!("died after {at:.3} s"),
            (Outcome::Runs, _) => "is still there".into(),
            _ => "was not seen to end".into(),
        };
        match row.words.as_str() {
            "" => format!("{} {end}.", row.name),
            words => format!("{} {end} ({words}).", row.name),
        }
    };
    chart.rows.iter().map(row).collect::<Vec<_>>().join(" ")
}

fn text(out: &mut String, class: &str, x: f64, y: f64, words: &str) {
    out.push_str(&format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n",
        escaped(words)
    ));
}

/// What XML takes as text. What it can't hold at all is shown as a question mark.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            _ => out.push(letter),
        }
    }
    out
}

/// Words in lines of so many letters.
fn lines(text: &str, letters: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let together = lines[last].chars().count() + 1 + word.chars().count();
        if lines[last].is_empty() {
            lines[last].push_str(word);
        } else if together > letters {
            lines.push(word.into());
        } else {
            lines[last].push(' ');
            lines[last].push_str(word);
        }
    }
    lines
}
