//! What was measured, as tables and as numbers.

use crate::contest::{Better, Row, median};

/// A line of what has no peer to be compared with.
#[derive(Debug, Clone)]
pub struct Figure {
    pub section: &'static str,
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    /// At most so much.
    pub goal: Option<f64>,
}

impl Figure {
    fn reached(&self) -> Option<bool> {
        // As it is shown: what is 0.00 has reached 0.
        self.goal.map(|goal| (self.value * 100.0).round() <= goal * 100.0)
    }
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Results {
    /// On what, how often.
    pub conditions: String,
    /// In the order in which they are shown.
    pub sections: Vec<&'static str>,
    pub rows: Vec<Row>,
    pub figures: Vec<Figure>,
}

impl Results {
    /// Tables in Markdown, one for each section.
    pub fn tables(&self) -> String {
        let mut text = format!("{}\n", self.conditions);
        for section in &self.sections {
            text += &format!("\n### {section}\n");
            let rows: Vec<&Row> = self.rows.iter().filter(|it| it.section == *section).collect();
            if !rows.is_empty() {
                text += "\n| what | beside | procsig | the other | procsig / the other | lowest, \
                         highest | goal |\n| --- | --- | --- | --- | --- | --- | --- |\n";
            }
            rows.into_iter().for_each(|row| text += &contest(row));
            let figures: Vec<&Figure> =
                self.figures.iter().filter(|it| it.section == *section).collect();
            if !figures.is_empty() {
                text += "\n| what | measured | goal |\n| --- | --- | --- |\n";
            }
            figures.into_iter().for_each(|it| text += &single(it));
        }
        text + &self.goals()
    }

    fn goals(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            let ratio = short(row.ratio());
            let what =
                format!("{}, beside {}: {ratio}, not {}", row.workload, row.peer, limit(row));
            (what, row.reached())
        });
        let figures = self.figures.iter().map(|figure| {
            let value = quantity(figure.value, figure.unit);
            (format!("{}: {value}", figure.what), figure.reached())
        });
        let goals: Vec<(String, bool)> =
            rows.chain(figures).filter_map(|(what, reached)| Some((what, reached?))).collect();
        let missed: Vec<&str> =
            goals.iter().filter(|goal| !goal.1).map(|goal| goal.0.as_str()).collect();
        let mut text =
            format!("\n{} of {} goals are reached.", goals.len() - missed.len(), goals.len());
        if !missed.is_empty() {
            text += &format!(" Not reached:\n\n- {}", missed.join("\n- "));
        }
        text + "\n"
    }

    /// Each round of each contest, for other programs: a line each, with tabs in between.
    pub fn raw(&self) -> String {
        let mut text = "section\twhat\tbeside\tunit\tround\tprocsig\tother\n".to_string();
        for row in &self.rows {
            for (round, (ours, theirs)) in row.ours.iter().zip(&row.theirs).enumerate() {
                let (what, unit) = (&row.workload, row.measure.unit);
                text += &format!(
                    "{}\t{what}\t{}\t{unit}\t{}\t{ours}\t{theirs}\n",
                    row.section,
                    row.peer,
                    round + 1
                );
            }
        }
        for it in &self.figures {
            text += &format!("{}\t{}\t\t{}\t1\t{}\t\n", it.section, it.what, it.unit, it.value);
        }
        text
    }
}

fn contest(row: &Row) -> String {
    let lowest = row.ratios().into_iter().fold(f64::INFINITY, f64::min);
    let highest = row.ratios().into_iter().fold(0.0, f64::max);
    let unit = row.measure.unit;
    line(&[
        &row.workload,
        &row.peer,
        &quantity(median(&row.ours), unit),
        &quantity(median(&row.theirs), unit),
        &short(row.ratio()),
        &format!("{}, {}", short(lowest), short(highest)),
        &goal(row),
    ])
}

fn single(figure: &Figure) -> String {
    let goal = figure.goal.map_or(String::new(), |goal| {
        format!("at most {}: {}", quantity(goal, figure.unit), word(figure.reached()))
    });
    line(&[&figure.what, &quantity(figure.value, figure.unit), &goal])
}

fn line(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn goal(row: &Row) -> String {
    match row.reached() {
        Some(_) => format!("{}: {}", limit(row), word(row.reached())),
        None => String::new(),
    }
}

/// What the ratio should be, if there is a goal.
fn limit(row: &Row) -> String {
    let limit = if row.measure.better == Better::Higher { "at least" } else { "at most" };
    row.measure.goal.map_or(String::new(), |goal| format!("{limit} {}", short(goal)))
}

fn word(reached: Option<bool>) -> &'static str {
    if reached == Some(true) { "reached" } else { "**not reached**" }
}

/// Seconds in the unit in which they are read most easily.
fn quantity(value: f64, unit: &str) -> String {
    match unit {
        "s" if value < 0.1 => format!("{} ms", short(value * 1e3)),
        "KiB" if value >= 10_000.0 => format!("{} MiB", short(value / 1024.0)),
        _ => format!("{} {unit}", short(value)),
    }
}

/// Three digits.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        it if it >= 100.0 => 0,
        it if it >= 10.0 => 1,
        it if (0.0005..1.0).contains(&it) => 3,
        _ => 2,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contest::Measure;

    fn results() -> Results {
        let row = |section, goal| Row {
            section,
            workload: "records".into(),
            peer: "pipes".into(),
            measure: Measure::rate(goal),
            ours: vec![3.0, 4.0, 5.0],
            theirs: vec![2.0, 2.0, 2.0],
        };
        let figure = |value, goal| Figure {
            section: "Idle",
            what: format!("wake-ups {value}"),
            value,
            unit: "/s",
            goal,
        };
        Results {
            conditions: "Somewhere.".into(),
            sections: vec!["In memory", "Idle", "On disk"],
            rows: vec![row("In memory", Some(2.0)), row("On disk", Some(2.1))],
            figures: vec![figure(0.001, Some(0.0)), figure(0.5, Some(0.0)), figure(7.0, None)],
        }
    }

    #[test]
    fn a_table_has_medians_ratios_and_what_is_not_reached() {
        let text = results().tables();
        let row = "| records | pipes | 4.00 M/s | 2.00 M/s | 2.00 | 1.50, 2.50 | at least 2.00: reached |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("at least 2.10: **not reached**"), "{text}");
        assert!(
            text.contains("| wake-ups 0.001 | 0.001 /s | at most 0.00 /s: reached |"),
            "{text}"
        );
        assert!(text.contains("2 of 4 goals are reached. Not reached:\n\n- "), "{text}");
        assert!(text.contains("- records, beside pipes: 2.00, not at least 2.10\n"), "{text}");
        let in_order = ["Somewhere.", "### In memory", "### Idle", "### On disk"];
        let places: Vec<_> = in_order.iter().map(|part| text.find(part).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn every_round_is_there_for_other_programs() {
        let text = results().raw();
        assert!(text.contains("In memory\trecords\tpipes\tM/s\t2\t4\t2\n"), "{text}");
        assert_eq!(text.lines().count(), 1 + 6 + 3);
    }

    #[test]
    fn quantities_are_short() {
        let shown = [(0.0123, "s"), (1.5, "s"), (20_480.0, "KiB"), (0.0, "/s"), (123.4, "µs")];
        let shown = shown.map(|(value, unit)| quantity(value, unit));
        assert_eq!(shown, ["12.3 ms", "1.50 s", "20.0 MiB", "0.00 /s", "123 µs"]);
    }
}
