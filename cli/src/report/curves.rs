//! From events to learning curves: the mean over seeds, and its range.

use super::load::{Report, TrialRecord};
use std::collections::BTreeMap;

/// Most points a curve keeps; longer ones are averaged in bins.
const POINTS: usize = 240;

/// A quantity over time, for all methods of a task.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Curves {
    /// Name of the quantity.
    pub(super) name: String,
    /// `epoch` or `step`.
    pub(super) axis: &'static str,
    /// The curves.
    pub(super) series: Vec<Series>,
}

/// One method's curve.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    /// The method's place in the task, which decides its colour.
    pub(super) index: usize,
    /// Name of the method.
    pub(super) method: String,
    /// The curve, in order of x.
    pub(super) points: Vec<CurvePoint>,
}

/// Seeds at one x.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CurvePoint {
    /// Epoch or step.
    pub(super) x: f64,
    /// Mean over the seeds.
    pub(super) mean: f64,
    /// Smallest.
    pub(super) min: f64,
    /// Largest.
    pub(super) max: f64,
    /// Number of seeds.
    pub(super) seeds: usize,
}

/// All quantities of a task: the search's first, the retraining's last.
pub(super) fn curves(report: &Report, task: &str) -> Vec<Curves> {
    let methods: Vec<String> =
        report.summary.of_task(task).iter().map(|m| m.method.clone()).collect();
    let mut names: Vec<&str> =
        report.trials_of(task).flat_map(|t| t.events.iter().map(|e| e.name.as_str())).collect();
    names.sort_by_key(|n| (rank(n), *n));
    names.dedup();
    names
        .into_iter()
        .filter_map(|name| {
            let by_epoch = report.trials_of(task).all(|t| one_an_epoch(t, name));
            let series: Vec<Series> = methods
                .iter()
                .enumerate()
                .filter_map(|(index, method)| {
                    let trials: Vec<BTreeMap<usize, f64>> = report
                        .trials_of(task)
                        .filter(|t| t.trial.name.method == *method)
                        .map(|t| trace(t, name, by_epoch))
                        .filter(|t| !t.is_empty())
                        .collect();
                    let points = points(&trials);
                    (!points.is_empty()).then(|| Series { index, method: method.clone(), points })
                })
                .collect();
            let axis = if by_epoch { "epoch" } else { "step" };
            (!series.is_empty()).then(|| Curves { name: name.into(), axis, series })
        })
        .collect()
}

/// The order of groups: search, others, retrain; training before validation and test.
fn rank(name: &str) -> (usize, usize) {
    let phase = match name.split('/').next() {
        Some("search") => 0,
        Some("retrain") => 2,
        _ => 1,
    };
    let split = match name.split('/').nth(1) {
        Some("train") => 0,
        Some("val") => 1,
        Some("test") => 2,
        _ => 3,
    };
    (phase, split)
}

/// Does a trial record the quantity at most once an epoch?
fn one_an_epoch(trial: &TrialRecord, name: &str) -> bool {
    let mut steps: BTreeMap<usize, usize> = BTreeMap::new();
    trial.events.iter().filter(|e| e.name == name).all(|e| {
        // The same step again is a resumed trial's second record.
        *steps.entry(e.epoch).or_insert(e.step) == e.step
    })
}

/// A trial's finite values by epoch or step; what was recorded later replaces what was earlier.
fn trace(trial: &TrialRecord, name: &str, by_epoch: bool) -> BTreeMap<usize, f64> {
    let events = trial.events.iter().filter(|e| e.name == name);
    let mut trace: BTreeMap<usize, f64> =
        events.map(|e| (if by_epoch { e.epoch } else { e.step }, e.value)).collect();
    trace.retain(|_, value| value.is_finite());
    trace
}

fn points(trials: &[BTreeMap<usize, f64>]) -> Vec<CurvePoint> {
    let last = trials.iter().filter_map(|t| t.keys().last()).max().copied().unwrap_or(0);
    let width = last / POINTS + 1;
    let mut bins: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for trial in trials {
        let mut own: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
        for (x, value) in trial {
            let bin = own.entry(x / width).or_insert((0.0, 0));
            bin.0 += value;
            bin.1 += 1;
        }
        for (bin, (sum, n)) in own {
            bins.entry(bin).or_default().push(sum / n as f64);
        }
    }
    bins.into_iter()
        .map(|(bin, values)| CurvePoint {
            x: (bin * width) as f64 + (width - 1) as f64 / 2.0,
            mean: values.iter().sum::<f64>() / values.len() as f64,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            seeds: values.len(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_averaged_and_long_traces_binned() {
        let a: BTreeMap<usize, f64> = [(0, 1.0), (1, 3.0)].into();
        let b: BTreeMap<usize, f64> = [(0, 2.0)].into();
        let p = points(&[a, b]);
        assert_eq!((p[0].mean, p[0].min, p[0].max, p[0].seeds), (1.5, 1.0, 2.0, 2));
        assert_eq!((p[1].mean, p[1].seeds), (3.0, 1));
        let long: BTreeMap<usize, f64> = (0..1000).map(|i| (i, i as f64)).collect();
        let p = points(&[long]);
        assert_eq!(p.len(), 200); // bins of 1 + 999 / 240 = 5
        assert_eq!((p[0].x, p[0].mean), (2.0, 2.0));
    }

    #[test]
    fn quantities_have_an_order() {
        let mut names = [
            "retrain/test/accuracy",
            "hypergrad/direct/norm",
            "search/skip_count",
            "search/val/accuracy",
            "search/train/loss",
        ];
        names.sort_by_key(|n| (rank(n), *n));
        assert_eq!(
            names,
            [
                "search/train/loss",
                "search/val/accuracy",
                "search/skip_count",
                "hypergrad/direct/norm",
                "retrain/test/accuracy"
            ]
        );
    }
}
