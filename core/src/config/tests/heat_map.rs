//! `heat-map` of a method.

use super::super::{HeatMapCell, difference, explain, load, schema};
use super::{BASE, bad, changed, good};
use serde_json::json;
use std::path::Path;

/// [`BASE`] with places for its two methods.
fn placed(tri: &str, draws: &str) -> String {
    let put = |text: &str, preset: &str, place: &str| {
        let line = format!("preset = \"{preset}\"\n");
        assert!(text.contains(&line));
        text.replacen(&line, &format!("{line}heat-map = {place}\n"), 1)
    };
    put(&put(BASE, "test-tri", tri), "test-draws", draws)
}

#[test]
fn the_place_is_read_and_written_and_decides_nothing() {
    let text = placed("{ row = 'ä b', column = 'x' }", "{ row = '*', column = 'y' }");
    let config = good(&text, &[]);
    let [tri, draws] = config.methods.as_slice() else { panic!("two methods") };
    let cell = HeatMapCell { row: "ä b".into(), column: "x".into() };
    assert_eq!(tri.heat_map.as_ref(), Some(&cell));
    assert!(!cell.every_row() && draws.heat_map.as_ref().unwrap().every_row());
    let written = config.to_toml().unwrap();
    assert_eq!(load("r.toml", &written, Path::new("/"), &[]).unwrap(), config);
    let plain = good(BASE, &[]);
    assert_eq!(plain.methods[0].heat_map, None);
    for (a, b) in config.methods.iter().zip(&plain.methods) {
        assert_eq!(a.identity(), b.identity());
    }
    let moved = good(&text, &["method.tri.heat-map.row=other"]);
    let value = |c| serde_json::to_value(c).unwrap();
    assert_eq!(difference(&value(&config), &value(&moved)), ["method.tri.heat-map.row"]);
}

#[test]
fn a_cell_holds_one_method() {
    let check = |tri: &str, draws: &str, head: &str, hint: &str| {
        let (message, got) = bad(&placed(tri, draws), &[]);
        assert!(message.starts_with(head), "expected `{head}` in:\n{message}");
        assert!(got.contains(hint), "expected `{hint}` in: {got}");
    };
    let two = "c.toml:21:12: the methods `tri` and `draws` stand in one cell of the heat map, \
               in column `x`";
    let (a, every) = ("{ row = 'a', column = 'x' }", "{ row = '*', column = 'x' }");
    check(a, a, two, "a cell holds one method");
    check(a, every, two, "every row");
    check(every, a, two, "every row");
    check(every, every, two, "every row");
    good(&placed(a, "{ row = 'b', column = 'x' }"), &[]);
    good(&placed(a, "{ row = 'a', column = 'y' }"), &[]);
    good(&placed("{ row = '*', column = 'y' }", a), &[]);
    let only = changed(
        "preset = \"test-draws\"\n",
        "preset = \"test-draws\"\nheat-map = { row = '*', column = 'x' }\n",
    );
    let (message, hint) = bad(&only, &[]);
    assert!(message.starts_with("c.toml:20:12: the heat map has no rows"), "{message}");
    assert!(hint.contains("name one"), "{hint}");
}

#[test]
fn labels_can_be_shown() {
    let long = format!("{{ row = '{}', column = 'x' }}", "é".repeat(61));
    for (place, head) in [
        ("{ row = '', column = 'x' }", "c.toml:16:20: a label of the heat map must not be empty"),
        ("{ row = 'a', column = ' ' }", "c.toml:16:34: a label of the heat map must not be empty"),
        ("{ row = \"a\\nb\", column = 'x' }", "c.toml:16:20: a label of the heat map contains"),
        (&long, "c.toml:16:20: a label of the heat map must not be longer than 60"),
        ("{ row = 'a', column = '*' }", "c.toml:16:34: a column of the heat map cannot be"),
        ("{ row = 'a' }", "c.toml:16:12: missing key `column`"),
        ("{ row = 'a', colum = 'x' }", "c.toml:16:25: unknown key `colum`"),
        ("'a'", "c.toml:16:12: invalid type: string \"a\", expected a table `{ row = "),
    ] {
        let (message, _) = bad(&placed(place, "{ row = 'b', column = 'y' }"), &[]);
        assert!(message.starts_with(head), "expected `{head}` in:\n{message}");
    }
}

#[test]
fn the_key_is_explained() {
    let text = explain("method.heat-map").unwrap();
    assert!(text.contains("`*`: every row") && text.contains("column"), "{text}");
    assert!(explain("method.heat-map.row").unwrap().contains("`*`: every row"));
    let cell = &schema()["$defs"]["HeatMapCell"];
    assert_eq!(cell["required"], json!(["row", "column"]));
}
