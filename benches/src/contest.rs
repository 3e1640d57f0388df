//! Two at a time, in turns: what disturbs one disturbs the other, so their ratio holds on a machine
//! that is busy with other things.

use std::io;

/// Which way is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// What is measured, and what is to come of it.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    pub unit: &'static str,
    pub better: Better,
    /// What ours / theirs should be at least, or at most if lower is better.
    pub goal: Option<f64>,
}

impl Measure {
    /// Million records a second.
    pub fn rate(goal: Option<f64>) -> Measure {
        Measure { unit: "M/s", better: Better::Higher, goal }
    }

    pub fn seconds(goal: Option<f64>) -> Measure {
        Measure { unit: "s", better: Better::Lower, goal }
    }
}

/// What procsig and a peer came to in one contest.
#[derive(Debug, Clone)]
pub struct Row {
    /// Rows of a section stand together.
    pub section: &'static str,
    pub workload: String,
    pub peer: String,
    pub measure: Measure,
    pub ours: Vec<f64>,
    pub theirs: Vec<f64>,
}

impl Row {
    /// Of each round, ours / theirs.
    pub fn ratios(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| ours / theirs).collect()
    }

    /// Median of the ratios of the rounds.
    pub fn ratio(&self) -> f64 {
        median(&self.ratios())
    }

    /// Is the goal reached? `None`: there is none.
    pub fn reached(&self) -> Option<bool> {
        self.measure.goal.map(|goal| match self.measure.better {
            Better::Higher => self.ratio() >= goal,
            Better::Lower => self.ratio() <= goal,
        })
    }
}

/// The middle one; the mean of the two in the middle if there are as many on both sides.
///
/// # Panics
/// Without any.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// The value that so much of all is below, as 0.999 for the 99.9th percentile.
///
/// # Panics
/// Without any value.
pub fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() - 1) as f64 * part).ceil() as usize;
    sorted[at.min(sorted.len() - 1)]
}

/// Something that is done and says how fast it was, or how long it took.
pub type Timed<'a> = &'a mut dyn FnMut() -> io::Result<f64>;

/// Runs both in turns, and each second round the other one first. Each runs once unmeasured right
/// before it is timed: memory that a virtual machine has given back to its host costs much to get
/// back, and whoever comes first would pay for it.
///
/// # Errors
/// If one of them fails.
pub fn pairs(
    rounds: usize,
    ours: Timed<'_>,
    theirs: Timed<'_>,
) -> io::Result<(Vec<f64>, Vec<f64>)> {
    fn warm(run: Timed<'_>) -> io::Result<f64> {
        run()?;
        run()
    }
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        if round % 2 == 0 {
            a.push(warm(ours)?);
            b.push(warm(theirs)?);
        } else {
            b.push(warm(theirs)?);
            a.push(warm(ours)?);
        }
    }
    Ok((a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn middles_are_found() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 1.0), 3.0);
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 0.0), 1.0);
    }

    #[test]
    fn a_goal_is_a_limit_on_the_right_side() {
        let row = |better, goal| Row {
            section: "",
            workload: String::new(),
            peer: String::new(),
            measure: Measure { unit: "", better, goal },
            ours: vec![2.0],
            theirs: vec![1.0],
        };
        assert_eq!(row(Better::Higher, Some(2.0)).reached(), Some(true));
        assert_eq!(row(Better::Higher, Some(2.1)).reached(), Some(false));
        assert_eq!(row(Better::Lower, Some(1.9)).reached(), Some(false));
        assert_eq!(row(Better::Lower, None).reached(), None);
    }

    #[test]
    fn each_runs_unmeasured_right_before_it_is_timed_and_they_take_turns_to_be_first() {
        let order = RefCell::new(String::new());
        let run = |name: char| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                Ok(order.borrow().len() as f64)
            }
        };
        let (ours, theirs) = pairs(2, &mut run('a'), &mut run('b')).unwrap();
        assert_eq!(*order.borrow(), "aabbbbaa");
        assert_eq!((ours, theirs), (vec![2.0, 8.0], vec![4.0, 6.0]));
    }
}
