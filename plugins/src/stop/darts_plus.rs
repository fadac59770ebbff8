//! DARTS+'s first criterion: too many skip connections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::{Stop, StopRule, Trace};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result};

/// Options of `darts-plus`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct DartsPlusOptions {
    /// Skip connections in the normal (or only) cell at which the search ends.
    #[schemars(range(min = 1))]
    pub skips: usize,
}

impl Default for DartsPlusOptions {
    fn default() -> Self {
        Self { skips: 2 }
    }
}

/// Ends the search after the first epoch whose normal cell would have at least `skips` skip
/// connections, and returns that cell (Liang et al. 2020, criterion 1).
#[derive(Debug)]
pub struct DartsPlus {
    options: DartsPlusOptions,
}

impl FromOptions for DartsPlus {
    type Options = DartsPlusOptions;

    fn from_options(options: DartsPlusOptions) -> Result<Self> {
        if options.skips == 0 {
            return Err(Error::config("`skips` must be at least 1"));
        }
        Ok(Self { options })
    }
}

impl StopRule for DartsPlus {
    fn stop(&self, trace: &Trace) -> Result<Option<Stop>> {
        let first = trace.genotypes.iter().position(|g| g.skip_count() >= self.options.skips);
        Ok(first.map(|epoch| Stop { stop_epoch: epoch, return_epoch: epoch }))
    }
}

tetlo_core::register_stop_rule!(
    "darts-plus",
    DartsPlus,
    "ends the search when the normal cell has two skip connections"
);

#[cfg(test)]
mod tests {
    use super::*;
    use tetlo_core::genotype::Genotype;

    /// A trace with this many skips in the normal cell of each epoch; the reduction cell has two.
    fn trace(skips: &[usize]) -> Trace {
        let cell = |n: usize| {
            let operation = |i: usize| if i < n { "skip_connect" } else { "sep_conv_3x3" };
            format!(
                "[[\"{}\", 0], [\"{}\", 1], [\"{}\", 0], [\"{}\", 1]]",
                operation(0),
                operation(1),
                operation(2),
                operation(3)
            )
        };
        let genotype = |n: &usize| {
            let text = format!(
                "{{\"normal\": {}, \"normal_concat\": [2, 3], \"reduce\": {}, \"reduce_concat\": [2, 3]}}",
                cell(*n),
                cell(2)
            );
            Genotype::parse(&text).unwrap()
        };
        Trace { genotypes: skips.iter().map(genotype).collect(), epochs: 50, ..Trace::default() }
    }

    #[test]
    fn stops_at_the_first_epoch_with_too_many_skips() {
        let rule = DartsPlus::from_options(DartsPlusOptions::default()).unwrap();
        let at = |e| Some(Stop { stop_epoch: e, return_epoch: e });
        assert_eq!(rule.stop(&trace(&[])).unwrap(), None);
        assert_eq!(rule.stop(&trace(&[0, 1, 1])).unwrap(), None);
        assert_eq!(rule.stop(&trace(&[0, 1, 2])).unwrap(), at(2));
        assert_eq!(rule.stop(&trace(&[0, 3, 1, 2])).unwrap(), at(1));
        let rule = DartsPlus::from_options(DartsPlusOptions { skips: 3 }).unwrap();
        assert_eq!(rule.stop(&trace(&[2, 2, 4])).unwrap(), at(2));
    }

    #[test]
    fn no_skips_at_all_is_refused() {
        let error = DartsPlus::from_options(DartsPlusOptions { skips: 0 }).unwrap_err();
        assert!(error.to_string().contains("`skips`"));
    }
}
