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
