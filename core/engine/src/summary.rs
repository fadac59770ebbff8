//! From finished trials to `summary.json`, and the records it is made of.
//!
//! A summary is a function of the trials' results alone: the same results give the same bytes,
//! but for the fields that measure time and memory.

use crate::statistics::{Description, describe, holm, paired_t, wilcoxon};
use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use tetlo_core::kinds::Metric;
use tetlo_core::{Error, Result};

/// Value of `schema` in `result.json`.
pub const RESULT_SCHEMA: &str = "tetlo.result/1";
/// Value of `schema` in `failure-N.json`.
pub const FAILURE_SCHEMA: &str = "tetlo.failure/1";
/// Value of `schema` in `summary.json`.
pub const SUMMARY_SCHEMA: &str = "tetlo.summary/1";

/// The fields of a method's row beside the metric.
const FIELDS: [&str; 14] = [
    "method",
    "task",
    "n",
    "failed",
    "seeds",
    "metric",
    "higher_is_better",
    "best_val_accuracy",
    "params",
    "macs",
    "skip_count",
    "search_seconds",
    "retrain_seconds",
    "peak_memory_bytes",
];

/// `result.json`: what a finished trial found. Its presence means that the trial is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialResult {
    /// [`RESULT_SCHEMA`].
    pub schema: String,
    /// 16 hexadecimal digits.
    pub trial_id: String,
    /// Name of the method.
    pub method: String,
    /// Name of the task.
    pub task: String,
    /// The seed.
    pub seed: u64,
    /// Which number `value` is.
    pub metric: Metric,
    /// The derived architecture.
    pub genotype: Value,
    /// The search.
    pub search: SearchRecord,
    /// The retraining; `None` for evaluators that do not train.
    pub retrain: Option<RetrainRecord>,
    /// The number by which methods are compared.
    pub value: f64,
    /// Weights of the evaluated network.
    pub params: u64,
    /// Multiply-adds of the evaluated network for one image.
    pub macs: u64,
    /// Skip connections of the normal (or only) cell.
    pub skip_count: usize,
    /// Largest resident memory of the trial.
    pub peak_memory_bytes: u64,
}

/// The search of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchRecord {
    /// Wall-clock time.
    pub seconds: f64,
    /// Epochs run.
    pub epochs: usize,
    /// Best accuracy on the validation split while searching, where the search measures one.
    pub best_val_accuracy: Option<f64>,
}

/// The retraining of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrainRecord {
    /// Accuracy on the validation split, where retraining keeps one apart.
    pub val_accuracy: Option<f64>,
    /// Accuracy on the test split, once, at the end.
    pub test_accuracy: Option<f64>,
    /// Wall-clock time.
    pub seconds: f64,
}

/// `failure-N.json`: why an attempt at a trial ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// [`FAILURE_SCHEMA`].
    pub schema: String,
    /// 16 hexadecimal digits.
    pub trial_id: String,
    /// The step, where one is to blame.
    pub step: Option<usize>,
    /// The level (stage), where one is to blame.
    pub level: Option<String>,
    /// The message.
    pub error: String,
    /// The signal that ended the process, if one did.
    pub signal: Option<i32>,
}

/// A line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Step of the phase.
    pub step: usize,
    /// Epoch of the phase.
    pub epoch: usize,
    /// `search`, `retrain` …
    pub phase: String,
    /// What was measured, such as `search/train/loss`.
    pub name: String,
    /// The number; JSON has no NaN and no infinity: both are `null` there and NaN here.
    #[serde(deserialize_with = "null_is_nan")]
    pub value: f64,
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Which trial: what a line of `plan.jsonl` says at least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialName {
    /// 16 hexadecimal digits.
    pub trial_id: String,
    /// Name of the method.
    pub method: String,
    /// Name of the task.
    pub task: String,
    /// The seed.
    pub seed: u64,
}

/// A planned trial and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Which trial.
    pub name: TrialName,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a trial.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It has a result.
    Finished(Box<TrialResult>),
    /// It has no result, and its last attempt failed.
    Failed(Failure),
    /// It has not been run to its end.
    Missing,
}

/// `summary.json`: the comparison in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SUMMARY_SCHEMA`].
    pub schema: String,
    /// Name of the comparison.
    pub name: String,
    /// A row for each method of each task, in the config's order.
    pub methods: Vec<MethodSummary>,
    /// Paired tests of all pairs of methods of a task over the seeds both finished.
    pub tests: Vec<TestSummary>,
    /// For each number: the split it was computed on; `none` where it is not computed on data.
    /// A metric that stands for different splits in different tasks is `task/metric` here.
    pub splits: BTreeMap<String, String>,
}

/// A method on a task. In JSON the description stands under the metric's name. Numbers other than
/// the metric are means over the finished seeds, `null` where there is none.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodSummary {
    /// Name of the method.
    pub method: String,
    /// Name of the task.
    pub task: String,
    /// Finished trials.
    pub n: usize,
    /// Failed trials.
    pub failed: usize,
    /// The finished seeds, ascending: `values` has their order.
    pub seeds: Vec<u64>,
    /// Name of the metric; `None` if no trial of the task has finished.
    pub metric: Option<String>,
    /// Is more better?
    pub higher_is_better: bool,
    /// The metric over the seeds.
    pub description: Option<Description>,
    /// Best accuracy on the validation split while searching.
    pub best_val_accuracy: Option<f64>,
    /// Weights of the evaluated network.
    pub params: Option<f64>,
    /// Multiply-adds of one image.
    pub macs: Option<f64>,
    /// Skip connections of the normal (or only) cell.
    pub skip_count: Option<f64>,
    /// Wall-clock time of the search.
    pub search_seconds: Option<f64>,
    /// Wall-clock time of the retraining.
    pub retrain_seconds: Option<f64>,
    /// Largest resident memory.
    pub peak_memory_bytes: Option<f64>,
}

/// A paired test of two methods: the differences are a − b.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestSummary {
    /// Name of the task.
    pub task: String,
    /// The first method.
    pub a: String,
    /// The second method.
    pub b: String,
    /// `wilcoxon` or `paired-t`.
    pub test: String,
    /// min(W⁺, W⁻), or t.
    pub statistic: Option<f64>,
    /// Two-sided p-value.
    pub p: Option<f64>,
    /// The same after Holm over the pairs of the task, each test for itself.
    pub p_holm: Option<f64>,
    /// Effect size.
    pub effect: Option<f64>,
    /// Which: `rank-biserial` (W⁺ − W⁻)/(W⁺ + W⁻), or `cohen-dz` mean/std of the differences.
    pub effect_size: String,
    /// Mean of the differences.
    pub mean_difference: Option<f64>,
    /// Seeds both methods finished.
    pub n: usize,
    /// What limits the test.
    pub note: Option<String>,
}

/// Sums a comparison up. Tasks and methods keep the order in which `trials` first names them.
///
/// # Errors
/// Two metrics in one task, a metric named like a field, or a result that belongs to another trial.
pub fn summarize(name: &str, trials: &[Trial]) -> Result<Summary> {
    let mut summary = Summary {
        schema: SUMMARY_SCHEMA.into(),
        name: name.into(),
        methods: vec![],
        tests: vec![],
        splits: BTreeMap::new(),
    };
    let mut metrics: Vec<(&str, &Metric)> = vec![];
    for task in distinct(trials.iter().map(|t| t.name.task.as_str())) {
        let of_task: Vec<&Trial> = trials.iter().filter(|t| t.name.task == task).collect();
        let metric = task_metric(task, &of_task)?;
        if let Some(m) = metric.filter(|m| FIELDS.contains(&m.name.as_str())) {
            return Err(Error::Invalid(format!(
                "task `{task}`: a metric cannot be called `{}`, summaries use that name",
                m.name
            )));
        }
        metrics.extend(metric.map(|m| (task, m)));
        let first = summary.methods.len();
        for method in distinct(of_task.iter().map(|t| t.name.method.as_str())) {
            let own: Vec<&Trial> =
                of_task.iter().copied().filter(|t| t.name.method == method).collect();
            summary.methods.push(method_summary(method, task, metric, &own));
        }
        let tests = task_tests(&summary.methods[first..]);
        summary.tests.extend(tests);
    }
    summary.splits = splits(&metrics);
    Ok(summary)
}

/// The distinct names in order of first appearance.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = vec![];
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

fn result_of(trial: &Trial) -> Option<&TrialResult> {
    match &trial.outcome {
        Outcome::Finished(result) => Some(result),
        Outcome::Failed(_) | Outcome::Missing => None,
    }
}

/// The one metric of a task's finished trials.
fn task_metric<'a>(task: &str, trials: &[&'a Trial]) -> Result<Option<&'a Metric>> {
    let mut metric = None;
    for trial in trials {
        let Some(result) = result_of(trial) else { continue };
        let name = &trial.name;
        if (&result.trial_id, &result.method, &result.task, result.seed)
            != (&name.trial_id, &name.method, &name.task, name.seed)
        {
            return Err(Error::Invalid(format!(
                "the result of trial `{}` says it is trial `{}` (`{}`, `{}`, seed {}), expected `{}`, `{}`, seed {}",
                name.trial_id,
                result.trial_id,
                result.method,
                result.task,
                result.seed,
                name.method,
                name.task,
                name.seed
            )));
        }
        match metric {
            None => metric = Some(&result.metric),
            Some(m) if *m == result.metric => {}
            Some(m) => {
                return Err(Error::Invalid(format!(
                    "task `{task}` has results in `{}` on {} and in `{}` on {}: they cannot be compared",
                    m.name, m.split, result.metric.name, result.metric.split
                )));
            }
        }
    }
    Ok(metric)
}

fn method_summary(
    method: &str,
    task: &str,
    metric: Option<&Metric>,
    trials: &[&Trial],
) -> MethodSummary {
    let mut results: Vec<&TrialResult> = trials.iter().copied().filter_map(result_of).collect();
    results.sort_by_key(|r| r.seed);
    let average = |f: &dyn Fn(&TrialResult) -> Option<f64>| {
        let values: Vec<f64> = results.iter().filter_map(|r| f(r)).collect();
        describe(&values).map(|d| d.mean)
    };
    let values: Vec<f64> = results.iter().map(|r| r.value).collect();
    MethodSummary {
        method: method.into(),
        task: task.into(),
        n: results.len(),
        failed: trials.iter().filter(|t| matches!(t.outcome, Outcome::Failed(_))).count(),
        seeds: results.iter().map(|r| r.seed).collect(),
        metric: metric.map(|m| m.name.clone()),
        higher_is_better: metric.is_none_or(|m| m.higher_is_better),
        description: describe(&values),
        best_val_accuracy: average(&|r| r.search.best_val_accuracy),
        params: average(&|r| Some(r.params as f64)),
        macs: average(&|r| Some(r.macs as f64)),
        skip_count: average(&|r| Some(r.skip_count as f64)),
        search_seconds: average(&|r| Some(r.search.seconds)),
        retrain_seconds: average(&|r| r.retrain.as_ref().map(|t| t.seconds)),
        peak_memory_bytes: average(&|r| Some(r.peak_memory_bytes as f64)),
    }
}

/// Both tests for every pair of methods, each adjusted over the pairs.
fn task_tests(methods: &[MethodSummary]) -> Vec<TestSummary> {
    let mut tests = vec![];
    for (i, a) in methods.iter().enumerate() {
        for b in &methods[i + 1..] {
            let pairs = common(a, b);
            let differences: Vec<f64> = pairs.iter().map(|(x, y)| x - y).collect();
            for (test, effect_size, outcome) in [
                ("wilcoxon", "rank-biserial", wilcoxon(&pairs)),
                ("paired-t", "cohen-dz", paired_t(&pairs)),
            ] {
                tests.push(TestSummary {
                    task: a.task.clone(),
                    a: a.method.clone(),
                    b: b.method.clone(),
                    test: test.into(),
                    statistic: outcome.statistic,
                    p: outcome.p,
                    p_holm: None,
                    effect: outcome.effect,
                    effect_size: effect_size.into(),
                    mean_difference: describe(&differences).map(|d| d.mean),
                    n: pairs.len(),
                    note: outcome.note,
                });
            }
        }
    }
    for family in ["wilcoxon", "paired-t"] {
        let defined = |t: &TestSummary| t.test == family && t.p.is_some();
        let p: Vec<f64> = tests.iter().filter(|t| defined(t)).filter_map(|t| t.p).collect();
        for (test, adjusted) in tests.iter_mut().filter(|t| defined(t)).zip(holm(&p)) {
            test.p_holm = Some(adjusted);
        }
    }
    tests
}

/// The values of two methods on the seeds both finished, by seed.
fn common(a: &MethodSummary, b: &MethodSummary) -> Vec<(f64, f64)> {
    let by_seed = |m: &MethodSummary| -> BTreeMap<u64, f64> {
        let values = m.description.iter().flat_map(|d| d.values.clone());
        m.seeds.iter().copied().zip(values).collect()
    };
    let b = by_seed(b);
    by_seed(a).into_iter().filter_map(|(seed, x)| b.get(&seed).map(|y| (x, *y))).collect()
}

fn splits(metrics: &[(&str, &Metric)]) -> BTreeMap<String, String> {
    // Architectures are chosen while searching, and a search sees no other split.
    let mut splits: BTreeMap<String, String> = [
        ("architecture", "validation"),
        ("best_val_accuracy", "validation"),
        ("params", "none"),
        ("macs", "none"),
        ("skip_count", "none"),
        ("search_seconds", "none"),
        ("retrain_seconds", "none"),
        ("peak_memory_bytes", "none"),
    ]
    .map(|(name, split)| (name.into(), split.into()))
    .into();
    for (task, metric) in metrics {
        let one_split =
            metrics.iter().all(|(_, m)| m.name != metric.name || m.split == metric.split);
        let key = if one_split { metric.name.clone() } else { format!("{task}/{}", metric.name) };
        splits.insert(key, metric.split.clone());
    }
    splits
}

impl Summary {
    /// The split on which a task's metric was computed.
    pub fn split(&self, task: &str, metric: &str) -> Option<&str> {
        let own = self.splits.get(&format!("{task}/{metric}"));
        own.or_else(|| self.splits.get(metric)).map(String::as_str)
    }

    /// The tasks, in order.
    pub fn tasks(&self) -> Vec<&str> {
        distinct(self.methods.iter().map(|m| m.task.as_str()))
    }

    /// The methods of a task, in order.
    pub fn of_task(&self, task: &str) -> Vec<&MethodSummary> {
        self.methods.iter().filter(|m| m.task == task).collect()
    }
}

impl Serialize for MethodSummary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("method", &self.method)?;
        map.serialize_entry("task", &self.task)?;
        map.serialize_entry("n", &self.n)?;
        map.serialize_entry("failed", &self.failed)?;
        map.serialize_entry("seeds", &self.seeds)?;
        map.serialize_entry("metric", &self.metric)?;
        map.serialize_entry("higher_is_better", &self.higher_is_better)?;
        if let Some(metric) = &self.metric {
            map.serialize_entry(metric, &self.description)?;
        }
        map.serialize_entry("best_val_accuracy", &self.best_val_accuracy)?;
        map.serialize_entry("params", &self.params)?;
        map.serialize_entry("macs", &self.macs)?;
        map.serialize_entry("skip_count", &self.skip_count)?;
        map.serialize_entry("search_seconds", &self.search_seconds)?;
        map.serialize_entry("retrain_seconds", &self.retrain_seconds)?;
        map.serialize_entry("peak_memory_bytes", &self.peak_memory_bytes)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for MethodSummary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn take<T: serde::de::DeserializeOwned, E: serde::de::Error>(
            map: &mut Map<String, Value>,
            key: &str,
        ) -> Result<T, E> {
            let value = map.remove(key).unwrap_or(Value::Null);
            serde_json::from_value(value).map_err(|e| E::custom(format!("`{key}`: {e}")))
        }
        let mut map = Map::deserialize(deserializer)?;
        let metric: Option<String> = take(&mut map, "metric")?;
        let description = match &metric {
            Some(name) => take(&mut map, name)?,
            None => None,
        };
        let method = Self {
            method: take(&mut map, "method")?,
            task: take(&mut map, "task")?,
            n: take(&mut map, "n")?,
            failed: take(&mut map, "failed")?,
            seeds: take(&mut map, "seeds")?,
            metric,
            higher_is_better: take(&mut map, "higher_is_better")?,
            description,
            best_val_accuracy: take(&mut map, "best_val_accuracy")?,
            params: take(&mut map, "params")?,
            macs: take(&mut map, "macs")?,
            skip_count: take(&mut map, "skip_count")?,
            search_seconds: take(&mut map, "search_seconds")?,
            retrain_seconds: take(&mut map, "retrain_seconds")?,
            peak_memory_bytes: take(&mut map, "peak_memory_bytes")?,
        };
        let values = method.description.as_ref().map_or(0, |d| d.values.len());
        if values != method.n || method.seeds.len() != method.n {
            return Err(D::Error::custom(format!(
                "method `{}`: n is {}, but there are {values} values and {} seeds",
                method.method,
                method.n,
                method.seeds.len()
            )));
        }
        Ok(method)
    }
}

#[cfg(test)]
mod tests;
