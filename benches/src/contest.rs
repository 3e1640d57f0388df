//! Two at a time, in turns: what disturbs one disturbs the other, so their ratio holds on a machine
//! that is busy with other things.

use std::io;

/// Which way is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// What procsig and a peer came to in one contest.
#[derive(Debug, Clone)]
pub struct Row {
    pub workload: String,
    pub peer: String,
    pub unit: &'static str,
    pub better: Better,
    pub ours: Vec<f64>,
    pub theirs: Vec<f64>,
    /// What the median of ours / theirs should be at least, or at most if lower is better.
    pub goal: Option<f64>,
}

impl Row {
    /// Median of the ratios of the rounds, ours / theirs.
    pub fn ratio(&self) -> f64 {
        median(&self.ours.iter().zip(&self.theirs).map(|(a, b)| a / b).collect::<Vec<_>>())
    }

    /// Is the goal reached? `None`: there is none.
    pub fn reached(&self) -> Option<bool> {
        self.goal.map(|goal| match self.better {
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

/// Runs both in turns, and each second round the other one first.
///
/// # Errors
/// If one of them fails.
pub fn pairs(
    rounds: usize,
    ours: &mut dyn FnMut() -> io::Result<f64>,
    theirs: &mut dyn FnMut() -> io::Result<f64>,
) -> io::Result<(Vec<f64>, Vec<f64>)> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        if round % 2 == 0 {
            a.push(ours()?);
            b.push(theirs()?);
        } else {
            b.push(theirs()?);
            a.push(ours()?);
        }
    }
    Ok((a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            workload: String::new(),
            peer: String::new(),
            unit: "",
            better,
            ours: vec![2.0],
            theirs: vec![1.0],
            goal,
        };
        assert_eq!(row(Better::Higher, Some(2.0)).reached(), Some(true));
        assert_eq!(row(Better::Higher, Some(2.1)).reached(), Some(false));
        assert_eq!(row(Better::Lower, Some(1.9)).reached(), Some(false));
        assert_eq!(row(Better::Lower, None).reached(), None);
    }
}
