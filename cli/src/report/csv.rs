//! The trials as CSV (RFC 4180): raw numbers, a row a trial.

use super::load::Report;
use tetlo_engine::summary::Outcome;

const COLUMNS: [&str; 20] = [
    "task",
    "method",
    "seed",
    "trial_id",
    "status",
    "metric",
    "split",
    "value",
    "search_best_val_accuracy",
    "retrain_val_accuracy",
    "retrain_test_accuracy",
    "params",
    "macs",
    "skip_count",
    "search_epochs",
    "search_seconds",
    "retrain_seconds",
    "peak_memory_bytes",
    "genotype",
    "error",
];

/// The table with its header. A number that does not exist is an empty field.
pub fn csv(report: &Report) -> String {
    let mut out = COLUMNS.join(",");
    out.push_str("\r\n");
    for record in &report.trials {
        let name = &record.trial.name;
        let mut row = vec![
            name.task.clone(),
            name.method.clone(),
            name.seed.to_string(),
            name.trial_id.clone(),
        ];
        match &record.trial.outcome {
            Outcome::Finished(r) => {
                let optional = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
                let retrain = r.retrain.as_ref();
                row.extend([
                    "finished".into(),
                    r.metric.name.clone(),
                    r.metric.split.clone(),
                    r.value.to_string(),
                    optional(r.search.best_val_accuracy),
                    optional(retrain.and_then(|t| t.val_accuracy)),
                    optional(retrain.and_then(|t| t.test_accuracy)),
                    r.params.to_string(),
                    r.macs.to_string(),
                    r.skip_count.to_string(),
                    r.search.epochs.to_string(),
                    r.search.seconds.to_string(),
                    optional(retrain.map(|t| t.seconds)),
                    r.peak_memory_bytes.to_string(),
                    r.genotype.to_string(),
                ]);
            }
            Outcome::Failed(failure) => {
                row.push("failed".into());
                row.resize(COLUMNS.len() - 1, String::new());
                row.push(failure.error.clone());
            }
            Outcome::Missing => row.push("missing".into()),
        }
        row.resize(COLUMNS.len(), String::new());
        let fields: Vec<String> = row.iter().map(|f| quoted(f)).collect();
        out.push_str(&fields.join(","));
        out.push_str("\r\n");
    }
    out
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
