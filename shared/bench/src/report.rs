//! Figures, goals, and how both are shown.

use std::fmt;

use serde::Serialize;

use crate::measure::median;

/// What came of one benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) name: String,
    /// What was measured, in one sentence.
    pub(crate) about: &'static str,
    pub(crate) figures: Vec<Figure>,
}

/// Something that was measured, once a run.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    what: String,
    unit: &'static str,
    runs: Vec<f64>,
    median: f64,
    goal: Option<Goal>,
    met: Option<bool>,
}

/// What the median of a figure is meant to be.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    /// A figure with its value in each run, for which there is no goal.
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, runs: Vec<f64>) -> Self {
        let median = median(&runs);
        Self { what: what.into(), unit, runs, median, goal: None, met: None }
    }

    /// The ratio of two figures, run by run.
    pub(crate) fn ratio(what: impl Into<String>, of: &Self, to: &Self) -> Self {
        let ratios = of.runs.iter().zip(&to.runs).map(|(of, to)| of / to);
        Self::new(what, "x", ratios.collect())
    }

    /// The same under another name.
    pub(crate) fn called(self, what: impl Into<String>) -> Self {
        Self { what: what.into(), ..self }
    }

    /// The same with a goal.
    pub(crate) fn with_goal(self, goal: Goal) -> Self {
        let met = match goal {
            Goal::AtLeast(least) => self.median >= least,
            Goal::AtMost(most) => self.median <= most,
        };
        Self { goal: Some(goal), met: Some(met), ..self }
    }

    fn range(&self) -> (f64, f64) {
        let least = self.runs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (least, most)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.about)?;
        self.figures.iter().try_for_each(|figure| writeln!(f, "  {figure}"))
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = self.range();
        let range = format!("{} .. {}", Number(least), Number(most));
        write!(f, "{:<58} {:>9} {:<9} {range:<22}", self.what, Number(self.median), self.unit)?;
        match (self.goal, self.met) {
            (Some(goal), Some(met)) => write!(f, " {goal:<12} {}", if met { "met" } else { "MISSED" }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::AtLeast(least) => format!(">= {}", Number(*least)),
            Self::AtMost(most) => format!("<= {}", Number(*most)),
        };
        f.pad(&text)
    }
}

/// A number with as many digits as it deserves.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            0.0 => 0,
            size if size < 10.0 => 2,
            size if size < 100.0 => 1,
            _ => 0,
        };
        f.pad(&format!("{:.digits$}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_by_the_median_and_missed_otherwise() {
        let runs = vec![1.0, 9.0, 2.0];
        let met = |goal| Figure::new("x", "ns", runs.clone()).with_goal(goal).met;
        assert_eq!(met(Goal::AtMost(2.0)), Some(true));
        assert_eq!(met(Goal::AtMost(1.9)), Some(false));
        assert_eq!(met(Goal::AtLeast(2.0)), Some(true));
        assert_eq!(met(Goal::AtLeast(2.1)), Some(false));
    }

    #[test]
    fn a_ratio_is_made_run_by_run() {
        let (of, to) = (Figure::new("a", "s", vec![2.0, 9.0]), Figure::new("b", "s", vec![1.0, 3.0]));
        assert_eq!(Figure::ratio("r", &of, &to).runs, [2.0, 3.0]);
    }

    #[test]
    fn a_report_says_what_was_missed() {
        let figure = Figure::new("a hit", "ns", vec![41.0]).with_goal(Goal::AtMost(40.0));
        let report = Report { name: "hits".into(), about: "what a hit takes", figures: vec![figure] };
        let shown = report.to_string();
        assert!(
            shown.contains("41.0 ns") && shown.contains("<= 40.0") && shown.contains("MISSED"),
            "{shown}"
        );
    }
}
