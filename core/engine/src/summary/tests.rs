use super::*;
use serde_json::json;

fn trial(method: &str, seed: u64, value: f64) -> Trial {
    let name = TrialName {
        trial_id: format!("{method}-{seed}"),
        method: method.into(),
        task: "t".into(),
        seed,
    };
    let result = serde_json::from_value(json!({
        "schema": "tetlo.result/1", "trial_id": name.trial_id, "method": method, "task": "t",
        "seed": seed, "metric": {"name": "test_accuracy", "higher_is_better": true, "split": "test"},
        "genotype": {"normal": [], "normal_concat": []},
        "search": {"seconds": 1.5, "epochs": 2, "best_val_accuracy": null},
        "retrain": {"val_accuracy": null, "test_accuracy": value, "seconds": 2.5},
        "value": value, "params": 1000 + seed, "macs": 5000, "skip_count": seed,
        "peak_memory_bytes": 1_000_000
    }));
    Trial { name, outcome: Outcome::Finished(result.unwrap()) }
}

fn failed(method: &str, seed: u64) -> Trial {
    let mut trial = trial(method, seed, 0.0);
    trial.outcome = Outcome::Failed(Failure {
        schema: FAILURE_SCHEMA.into(),
        trial_id: trial.name.trial_id.clone(),
        step: Some(3),
        level: None,
        error: "training loss is not finite".into(),
        signal: None,
    });
    trial
}

#[test]
fn results_keep_their_fields_and_order() {
    let Outcome::Finished(result) = trial("m", 3, 0.5).outcome else { unreachable!() };
    let text = serde_json::to_string(&result).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = "schema trial_id method task seed metric genotype search retrain value params \
                    macs skip_count peak_memory_bytes";
    assert_eq!(keys, expected.split(' ').collect::<Vec<_>>());
    assert_eq!(serde_json::from_str::<TrialResult>(&text).unwrap(), *result);
}

#[test]
fn rows_follow_the_plan_and_values_the_seeds() -> Result<()> {
    let trials = [
        trial("zeta", 7, 0.9),
        trial("alpha", 7, 0.7),
        trial("zeta", 1, 0.8),
        trial("alpha", 1, 0.75),
        failed("zeta", 2),
        trial("alpha", 2, 0.72),
    ];
    let summary = summarize("name", &trials)?;
    let rows: Vec<_> = summary.methods.iter().map(|m| (m.method.as_str(), m.n, m.failed)).collect();
    assert_eq!(rows, [("zeta", 2, 1), ("alpha", 3, 0)]);
    assert_eq!(summary.methods[0].description.as_ref().unwrap().values, [0.8, 0.9]);
    assert_eq!(summary.methods[0].seeds, [1, 7]);
    assert_eq!(summary.methods[0].params, Some(1004.0));
    // Pairs are those of seeds 1 and 7: differences 0.05 and 0.2, both positive.
    let test = &summary.tests[0];
    assert_eq!((test.a.as_str(), test.b.as_str(), test.n), ("zeta", "alpha", 2));
    assert_eq!(
        (test.statistic, test.p, test.p_holm, test.effect),
        (Some(0.0), Some(0.5), Some(0.5), Some(1.0))
    );
    assert!((test.mean_difference.unwrap() - 0.125).abs() < 1e-12);
    assert!(test.note.as_ref().unwrap().contains("no two-sided p below 0.5 is possible"));
    assert_eq!(summary.splits["test_accuracy"], "test");
    assert_eq!(summary.split("t", "test_accuracy"), Some("test"));

    // The same trials in another order of seeds: the same bytes.
    let mut turned = trials.to_vec();
    turned.swap(0, 2);
    turned.swap(1, 5);
    assert_eq!(
        serde_json::to_string(&summarize("name", &turned)?).unwrap(),
        serde_json::to_string(&summary).unwrap()
    );
    Ok(())
}

#[test]
fn summaries_have_the_documented_fields_and_round_trip() -> Result<()> {
    let trials = [trial("a", 0, 0.9), trial("b", 0, 0.7), failed("c", 0)];
    let summary = summarize("name", &trials)?;
    let value = serde_json::to_value(&summary).unwrap();
    let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&value), ["schema", "name", "methods", "tests", "splits"]);
    assert_eq!(value["schema"], "tetlo.summary/1");
    let mut fields = FIELDS.to_vec();
    fields.insert(7, "test_accuracy");
    assert_eq!(keys(&value["methods"][0]), fields);
    let description = ["mean", "std", "median", "iqm", "ci95", "min", "max", "values"];
    assert_eq!(keys(&value["methods"][0]["test_accuracy"]), description);
    assert_eq!(value["methods"][2]["test_accuracy"], Value::Null);
    assert_eq!(value["methods"][2]["metric"], "test_accuracy");
    assert_eq!(value["tests"][2]["note"], "no seed in common");
    assert_eq!(value["tests"][2]["p_holm"], Value::Null);
    let read: Summary = serde_json::from_value(value).unwrap();
    assert_eq!(read, summary);
    Ok(())
}

#[test]
fn holm_runs_over_the_pairs_of_a_task() -> Result<()> {
    // Six seeds, all differences of one sign: p = 2/64 for each of the three pairs.
    let values = [("a", 0.90), ("b", 0.80), ("c", 0.70)];
    let trials: Vec<Trial> = values
        .iter()
        .flat_map(|(m, v)| (0..6).map(move |s| trial(m, s, v + 0.001 * (s * s) as f64)))
        .collect();
    let summary = summarize("name", &trials)?;
    let wilcoxon: Vec<_> = summary.tests.iter().filter(|t| t.test == "wilcoxon").collect();
    assert_eq!(wilcoxon.len(), 3);
    for test in wilcoxon {
        assert_eq!((test.p, test.p_holm), (Some(0.03125), Some(0.09375)));
    }
    Ok(())
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let mut other = trial("b", 0, 0.5);
    let Outcome::Finished(result) = &mut other.outcome else { unreachable!() };
    result.metric.split = "validation".into();
    let error = summarize("n", &[trial("a", 0, 0.4), other.clone()]).unwrap_err().to_string();
    assert!(
        error.contains("`test_accuracy` on test and in `test_accuracy` on validation"),
        "{error}"
    );

    let mut swapped = trial("a", 0, 0.4);
    swapped.name.seed = 1;
    let error = summarize("n", &[swapped]).unwrap_err().to_string();
    assert!(error.contains("seed 0), expected `a`, `t`, seed 1"), "{error}");

    let Outcome::Finished(result) = &mut other.outcome else { unreachable!() };
    result.metric.name = "params".into();
    let error = summarize("n", &[other]).unwrap_err().to_string();
    assert!(error.contains("cannot be called `params`"), "{error}");
}

#[test]
fn one_metric_on_two_splits_names_the_task() -> Result<()> {
    let mut other = trial("a", 0, 0.5);
    other.name.task = "u".into();
    let Outcome::Finished(result) = &mut other.outcome else { unreachable!() };
    result.task = "u".into();
    result.metric.split = "validation".into();
    let summary = summarize("n", &[trial("a", 0, 0.4), other])?;
    assert_eq!(summary.splits["t/test_accuracy"], "test");
    assert_eq!(summary.split("u", "test_accuracy"), Some("validation"));
    assert_eq!(summary.tasks(), ["t", "u"]);
    Ok(())
}

#[test]
fn events_read_null_as_nan() {
    let line =
        r#"{"step": 3, "epoch": 1, "phase": "search", "name": "search/train/loss", "value": null}"#;
    let event: Event = serde_json::from_str(line).unwrap();
    assert!(event.value.is_nan());
    assert_eq!(serde_json::to_value(&event).unwrap()["value"], Value::Null);
}
