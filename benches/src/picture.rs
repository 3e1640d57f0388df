//! The contests as a picture: a bar for each, as long as procsig was faster.

use crate::contest::{Better, Row};
use crate::report::short;

/// Width of the picture, and of its parts, in pixels.
const WIDTH: f64 = 980.0;
/// Where bars begin, and where they end at the latest.
const LEFT: f64 = 450.0;
const RIGHT: f64 = 920.0;
const TOP: f64 = 64.0;
const BAR: f64 = 13.0;
const LINE: f64 = 20.0;
/// Above the first line of a section.
const HEADING: f64 = 30.0;

const FASTER: &str = "#2a7f62";
const SLOWER: &str = "#c2703d";
const TEXT: &str = "#24292f";
const GRID: &str = "#d8dee4";

/// The largest and the smallest factor that is shown.
struct Axis {
    lowest: f64,
    highest: f64,
}

impl Axis {
    /// Whole powers of ten around all of them, and around 1.
    fn of(factors: &[f64]) -> Axis {
        let power = |value: f64, round: fn(f64) -> f64| 10f64.powf(round(value.log10()));
        let lowest = factors.iter().copied().fold(0.5, f64::min);
        let highest = factors.iter().copied().fold(2.0, f64::max);
        Axis { lowest: power(lowest, f64::floor), highest: power(highest, f64::ceil) }
    }

    fn x(&self, factor: f64) -> f64 {
        let place = (factor / self.lowest).log10() / (self.highest / self.lowest).log10();
        LEFT + place.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }
}

/// How many times as fast as the other procsig was, and should be.
fn factor(row: &Row, ratio: f64) -> f64 {
    match row.measure.better {
        Better::Higher => ratio,
        Better::Lower => 1.0 / ratio,
    }
}

/// A bar for each contest, on a logarithmic scale, and a mark where its goal is.
pub fn picture(rows: &[Row]) -> String {
    let goals = rows.iter().filter_map(|row| Some(factor(row, row.measure.goal?)));
    let all: Vec<f64> = rows.iter().map(|row| factor(row, row.ratio())).chain(goals).collect();
    let axis = Axis::of(&all);
    let (mut bars, mut y, mut section) = (String::new(), TOP, "");
    for row in rows {
        if row.section != section {
            section = row.section;
            bars += &text(12.0, y + 20.0, "font-weight=\"bold\"", section);
            y += HEADING;
        }
        bars += &bar(row, &axis, y);
        y += LINE;
    }
    let bottom = y + 4.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"{TEXT}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        bottom + 26.0
    );
    svg += &text(12.0, 24.0, "font-size=\"15\" font-weight=\"bold\"", "procsig beside others");
    let explained = "How many times as fast procsig was, median of rounds in turns. \
                     The black mark is the goal, where there is one.";
    svg += &text(12.0, 43.0, "", explained);
    svg += &grid(&axis, bottom);
    svg + &bars + "</svg>\n"
}

/// A line for each power of ten, with its number below.
fn grid(axis: &Axis, bottom: f64) -> String {
    let mut svg = String::new();
    let mut value = axis.lowest;
    while value < axis.highest * 1.5 {
        let is_one = (value - 1.0).abs() < 1e-9;
        let (x, colour) = (axis.x(value), if is_one { TEXT } else { GRID });
        svg += &format!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"{colour}\"/>\n"
        );
        let label = if is_one { "as fast".to_string() } else { format!("{value}") };
        svg += &text(x, bottom + 15.0, "text-anchor=\"middle\"", &label);
        value = (value * 10.0 * 1e6).round() / 1e6;
    }
    svg
}

fn bar(row: &Row, axis: &Axis, y: f64) -> String {
    let factor_reached = factor(row, row.ratio());
    let (one, end) = (axis.x(1.0), axis.x(factor_reached));
    let (from, to) = (one.min(end), one.max(end));
    let colour = if factor_reached >= 1.0 { FASTER } else { SLOWER };
    let middle = y + BAR - 2.5;
    let label = format!("{}: {}", row.workload, row.peer);
    let mut svg = text(LEFT - 12.0, middle, "text-anchor=\"end\"", &shortened(&label));
    svg += &format!(
        "<rect x=\"{from:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n",
        (to - from).max(1.0)
    );
    let mut right = to;
    if let Some(goal) = row.measure.goal {
        let x = axis.x(factor(row, goal));
        svg += &format!(
            "<rect x=\"{:.1}\" y=\"{}\" width=\"3\" height=\"{}\" fill=\"black\"/>\n",
            x - 1.5,
            y - 2.0,
            BAR + 4.0
        );
        // The number stands behind the mark, if that is in its way.
        if x > to - 2.0 && x < to + 40.0 {
            right = x + 2.0;
        }
    }
    svg + &text(right + 5.0, middle, "", &short(factor_reached))
}

/// What fits to the left of the bars.
fn shortened(label: &str) -> String {
    const MOST: usize = 60;
    match label.chars().count() > MOST {
        true => label.chars().take(MOST - 1).chain(['…']).collect(),
        false => label.to_string(),
    }
}

fn text(x: f64, y: f64, attributes: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contest::Measure;

    #[test]
    fn bars_go_to_the_right_for_what_is_faster_whatever_the_unit() {
        let row = |measure, ours| Row {
            section: "S",
            workload: "a < b".into(),
            peer: "p".into(),
            measure,
            ours: vec![ours],
            theirs: vec![2.0],
        };
        let rate = picture(&[row(Measure::rate(None), 4.0), row(Measure::rate(None), 1.0)]);
        let time = picture(&[row(Measure::seconds(None), 1.0), row(Measure::seconds(None), 4.0)]);
        assert_eq!(rate, time);
        assert_eq!((rate.matches(FASTER).count(), rate.matches(SLOWER).count()), (1, 1));
        assert!(rate.contains("a &lt; b: p"), "{rate}");
    }

    #[test]
    fn an_axis_holds_all_factors_and_both_are_apart() {
        let axis = Axis::of(&[0.03, 71.0]);
        assert_eq!((axis.x(0.01), axis.x(100.0)), (LEFT, RIGHT));
        assert_eq!(axis.x(1.0), (LEFT + RIGHT) / 2.0);
    }
}
