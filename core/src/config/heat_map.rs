//! Where a method stands in the report's heat map.

use super::file::MethodFile;
use super::options::Context;
use super::tree::Path;
use crate::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Labels must fit into a table.
const LONGEST_LABEL: usize = 60;

/// A cell of the report's heat map. Rows and columns stand in the order in which the methods name
/// them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a table `{ row = \"…\", column = \"…\" }`"
)]
pub struct HeatMapCell {
    /// The row. `*`: every row, for a method that does not depend on what the rows vary.
    pub row: String,
    /// The column.
    pub column: String,
}

impl HeatMapCell {
    /// The row that stands for every row.
    pub const EVERY_ROW: &str = "*";

    /// Does the method count for every row of its column?
    pub fn every_row(&self) -> bool {
        self.row == Self::EVERY_ROW
    }
}

impl Context<'_, '_> {
    /// Labels that can be shown, one method a cell, and a row for `*` to count for.
    pub(super) fn check_heat_map(&self, methods: &[MethodFile]) -> Result<()> {
        let mut placed: Vec<(&str, &HeatMapCell)> = vec![];
        let mut last = None;
        for (i, method) in methods.iter().enumerate() {
            let Some(cell) = &method.heat_map else { continue };
            let at = Path::of("method").index(i).key("heat-map");
            for (key, label) in [("row", &cell.row), ("column", &cell.column)] {
                self.check_label(label, &at.key(key))?;
            }
            if cell.column == HeatMapCell::EVERY_ROW {
                let what = "a column of the heat map cannot be called `*`";
                let hint = "`*` is for rows: such a method counts for every row of its column";
                return Err(self.error(&at.key("column"), what, hint));
            }
            let meets = |other: &HeatMapCell| {
                other.column == cell.column
                    && (other.row == cell.row || other.every_row() || cell.every_row())
            };
            if let Some((name, _)) = placed.iter().find(|(_, other)| meets(other)) {
                let what = format!(
                    "the methods `{name}` and `{}` stand in one cell of the heat map, in column `{}`",
                    method.name, cell.column
                );
                let hint = "a cell holds one method, and `row = \"*\"` takes every row of its \
                            column; give one of them another `row` or `column`";
                return Err(self.error(&at, what, hint));
            }
            placed.push((&method.name, cell));
            last = Some(at);
        }
        if let Some(at) = last
            && placed.iter().all(|(_, cell)| cell.every_row())
        {
            let what = "the heat map has no rows: every method in it has `row = \"*\"`";
            let hint = "`*` counts for the rows that other methods name; name one";
            return Err(self.error(&at, what, hint));
        }
        Ok(())
    }

    fn check_label(&self, label: &str, at: &Path) -> Result<()> {
        let wrong = if label.trim().is_empty() {
            "a label of the heat map must not be empty".to_owned()
        } else if let Some(c) = label.chars().find(|c| c.is_control()) {
            format!("a label of the heat map contains {c:?}")
        } else if label.chars().count() > LONGEST_LABEL {
            format!("a label of the heat map must not be longer than {LONGEST_LABEL} characters")
        } else {
            return Ok(());
        };
        Err(self.error(at, wrong, "rows and columns are shown as they are written here"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BASE, bad, changed, good};
    use super::super::{difference, explain, load, schema};
    use super::HeatMapCell;
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
            (
                "{ row = '', column = 'x' }",
                "c.toml:16:20: a label of the heat map must not be empty",
            ),
            (
                "{ row = 'a', column = ' ' }",
                "c.toml:16:34: a label of the heat map must not be empty",
            ),
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
}
