//! What was measured, as a table and as a picture.

use crate::contest::{Better, Row, median};

/// A line of what has no peer to be compared with.
#[derive(Debug, Clone)]
pub struct Figure {
    pub workload: String,
    pub value: f64,
    pub unit: &'static str,
    /// At most so much.
    pub goal: Option<f64>,
}

/// Tables in Markdown.
pub fn table(machine: &str, rows: &[Row], figures: &[Figure]) -> String {
    let mut text = format!("{machine}\n\n");
    text += "| workload | beside | procsig | the other | ratio | lowest, highest | goal |\n";
    text += "| --- | --- | --- | --- | --- | --- | --- |\n";
    for row in rows {
        let ratios = || row.ours.iter().zip(&row.theirs).map(|(ours, theirs)| ours / theirs);
        let lowest = ratios().fold(f64::INFINITY, f64::min);
        let highest = ratios().fold(0.0, f64::max);
        text += &line(&[
            &row.workload,
            &row.peer,
            &format!("{} {}", short(median(&row.ours)), row.unit),
            &format!("{} {}", short(median(&row.theirs)), row.unit),
            &short(row.ratio()),
            &format!("{}, {}", short(lowest), short(highest)),
            &goal(row),
        ]);
    }
    text += "\n| what | procsig | goal |\n| --- | --- | --- |\n";
    for figure in figures {
        let goal = figure.goal.map_or(String::new(), |goal| {
            let reached = if figure.value <= goal { "reached" } else { "**not reached**" };
            format!("at most {}: {reached}", short(goal))
        });
        let value = format!("{} {}", short(figure.value), figure.unit);
        text += &line(&[&figure.workload, &value, &goal]);
    }
    text
}

fn line(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn goal(row: &Row) -> String {
    let Some(goal) = row.goal else { return String::new() };
    let limit = if row.better == Better::Higher { "at least" } else { "at most" };
    let reached = if row.reached() == Some(true) { "reached" } else { "**not reached**" };
    format!("{limit} {}: {reached}", short(goal))
}

/// Three digits.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        it if it >= 100.0 => 0,
        it if it >= 10.0 => 1,
        it if it >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Width of the picture, and of its parts, in pixels.
const WIDTH: f64 = 760.0;
const LABELS: f64 = 330.0;
const BAR: f64 = 16.0;
const GAP: f64 = 10.0;

/// A bar for each contest: how many times as fast procsig was. The line is where both are the same.
pub fn picture(rows: &[Row]) -> String {
    let times = |row: &Row| match row.better {
        Better::Higher => row.ratio(),
        Better::Lower => 1.0 / row.ratio(),
    };
    // From a tenth to what the largest needs, each factor of ten as wide.
    let decades = rows.iter().map(times).fold(10.0, f64::max).log10().ceil();
    let x = |value: f64| {
        let place = (value.clamp(0.1, 10f64.powf(decades)).log10() + 1.0) / (decades + 1.0);
        LABELS + place * (WIDTH - LABELS - 60.0)
    };
    let height = rows.len() as f64 * (BAR + GAP) + 50.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n<text x=\"10\" y=\"20\" font-weight=\"bold\">procsig is so many times \
         as fast as</text>\n"
    );
    for (index, row) in rows.iter().enumerate() {
        let y = 35.0 + index as f64 * (BAR + GAP);
        let (from, to) = (x(1.0).min(x(times(row))), x(1.0).max(x(times(row))));
        let colour = if times(row) >= 1.0 { "#2a7f62" } else { "#b5651d" };
        svg += &format!(
            "<text x=\"10\" y=\"{}\">{}</text>\n<rect x=\"{from:.1}\" y=\"{y}\" width=\"{:.1}\" \
             height=\"{BAR}\" fill=\"{colour}\"/>\n<text x=\"{:.1}\" y=\"{}\">{}</text>\n",
            y + 13.0,
            escape(&format!("{}: {}", row.workload, row.peer)),
            (to - from).max(1.0),
            to + 5.0,
            y + 13.0,
            short(times(row)),
        );
    }
    svg += &format!(
        "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"30\" y2=\"{1}\" stroke=\"black\"/>\n</svg>\n",
        x(1.0),
        height - 12.0
    );
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
