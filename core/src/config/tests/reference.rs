//! The schema and the explanations.

use super::super::{explain, schema};
use serde_json::{Value, json};

/// All `$ref`s in a schema.
fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|v| references(v, found));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

#[test]
fn references_in_the_schema_lead_somewhere() {
    let schema = schema();
    let mut found = vec![];
    references(&schema, &mut found);
    assert!(found.len() > 20);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(schema.pointer(pointer).is_some(), "{reference}");
    }
    assert!(!schema.to_string().contains("x-kinds"));
    // A kind without plugins.
    assert!(schema["$defs"]["plugin.supernet-transform"].get("allOf").is_none());
}

#[test]
fn the_schema_knows_plugins_and_their_options() {
    let schema = schema();
    let defs = &schema["$defs"];
    assert_eq!(schema["properties"]["evaluate"]["$ref"], "#/$defs/plugin.evaluator");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], json!(["version", "name", "seeds", "task", "method"]));
    let regularizers = &defs["MethodFile"]["properties"]["regularizers"];
    assert_eq!(regularizers["items"]["$ref"], "#/$defs/plugin.regularizer");
    let optimizer = &defs["plugin.multilevel-optimizer.black-box-search"];
    let names = &optimizer["properties"]["plugin"]["enum"];
    assert_eq!(names, &json!(["test-both", "test-levels", "test-both", "test-random"]));
    let case = &optimizer["allOf"][1];
    assert_eq!(case["if"]["properties"]["plugin"]["const"], "test-levels");
    assert_eq!(
        case["then"]["properties"]["options"]["$ref"],
        "#/$defs/options.multilevel-optimizer.test-levels"
    );
    let options = &defs["options.multilevel-optimizer.test-levels"];
    assert_eq!(options["properties"]["lambda"]["default"], 1.0);
    assert_eq!(
        options["properties"]["inner"]["$ref"],
        "#/$defs/options.multilevel-optimizer.test-levels.Inner"
    );
    // Only a loadable kind has a library, and then any name goes.
    assert!(optimizer["properties"]["library"].is_null());
    let loss = &defs["plugin.transfer-loss"];
    assert!(loss["properties"]["library"].is_object());
    assert!(loss["properties"]["plugin"]["enum"].is_null());
    assert!(
        defs["MethodFile"]["properties"]["preset"]["enum"]
            .as_array()
            .is_some_and(|names| names.contains(&json!("test-tri")))
    );
}

#[track_caller]
fn explained(key: &str, pieces: &[&str]) {
    let text = explain(key).unwrap_or_else(|e| panic!("{key}: {e}"));
    for piece in pieces {
        assert!(text.contains(piece), "expected `{piece}` in:\n{text}");
    }
}

#[test]
fn keys_are_explained() {
    explained(
        "search.batch-size",
        &["type: whole number, at least 2", "default: 64", "Images a step."],
    );
    explained("search.train-portion", &["above 0, below 1", "default: 0.5"]);
    explained("method.search.flip", &["type: true or false", "default: true"]);
    explained("seeds", &["type: array of: whole number", "required"]);
    explained("device", &["type: text", "default: \"cpu\"", "`cuda:0`"]);
    explained("search", &["type: table", "epochs = 50", "Epochs of the search."]);
    explained("task", &["array of: table", "search-space", "dataset"]);
    explained(
        "method.regularizers",
        &["array of: plugin of kind regularizer", "test-penalty: a penalty"],
    );
    explained(
        "method.optimizer",
        &[
            "plugin of kind multilevel-optimizer or black-box-search",
            "default: none",
            "test-random: draws",
        ],
    );
    explained("method.transfer-loss", &["type: plugin of kind transfer-loss", "test-loss: a loss"]);
    explained("method.optimizer.options", &["type: table", "Its options"]);
}

#[test]
fn plugins_and_options_are_explained() {
    for key in ["transfer-loss.test-loss.temperature", "test-loss.temperature"] {
        let heading =
            "transfer-loss.test-loss.temperature\n  type: number, above 0\n  default: 1.0";
        explained(key, &[heading, "Temperature τ of the softmax."]);
    }
    explained(
        "test-levels.combine",
        &["type: one of \"sum\", \"norm-matched\"", "default: \"sum\"", "`sum`: Added up."],
    );
    explained("test-levels.inner", &["type: table", "rate = 0.5"]);
    explained("test-levels.inner.rate", &["type: number", "default: 0.5", "A rate."]);
    explained("test-levels.limit", &["type: number", "default: none"]);
    explained("test-data.path", &["type: path, relative to the configuration file"]);
    explained(
        "dataset.test-data",
        &["data from a path", "from: tetlo-core", "limit = 100", "Images used."],
    );
    explained("transfer-loss", &["plugins of kind transfer-loss", "test-loss: a loss"]);
    explained("stop-rule", &["none in this binary"]);
    // One name, two kinds.
    explained("test-both", &["multilevel-optimizer.test-both", "black-box-search.test-both"]);
    explained("method.test-tri", &["three levels", "momentum = 0.8"]);
}

#[test]
fn slips_are_understood() {
    for (key, near) in [
        ("search.bach-size", "`search.batch-size`"),
        ("test-loss.temprature", "`test-loss.temperature`"),
        ("method.tranfer-loss", "`method.transfer-loss`"),
        ("", "`search.epochs`"),
        ("no.such.thing.at.all", "`search.epochs`"),
    ] {
        let e = explain(key).unwrap_err();
        assert!(e.is_usage());
        assert!(e.hint().unwrap().contains(near), "{key}: {:?}", e.hint());
    }
}
