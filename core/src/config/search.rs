//! `[search]`: the protocol of the search phase.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a search trains. The defaults are the protocol of DARTS (Liu et al. 2019, §3.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case", expecting = "a table")]
pub struct SearchConfig {
    /// Epochs of the search.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// Images a step.
    #[schemars(range(min = 2))]
    pub batch_size: usize,
    /// Share of the training images that trains weights; the rest is the validation split, which
    /// trains the architecture.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub train_portion: f64,
    /// Learning rate of the weights at the start (SGD, cosine schedule).
    #[schemars(range(min = 0))]
    pub learning_rate: f64,
    /// Learning rate of the weights at the end.
    #[schemars(range(min = 0))]
    pub learning_rate_min: f64,
    /// Momentum of the weights' SGD.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub momentum: f64,
    /// Weight decay of the weights' SGD.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Largest norm of a weight gradient (auxiliary model too); 0: not clipped.
    #[schemars(range(min = 0))]
    pub gradient_clip: f64,
    /// Learning rate of the architecture parameters (Adam).
    #[schemars(range(min = 0))]
    pub arch_learning_rate: f64,
    /// Adam's β₁ of the architecture parameters.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub arch_beta1: f64,
    /// Adam's β₂ of the architecture parameters.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub arch_beta2: f64,
    /// Weight decay of the architecture parameters (added to the gradient, as L2).
    #[schemars(range(min = 0))]
    pub arch_weight_decay: f64,
    /// Pixels of padding before the random crop; 0: no crop.
    pub crop_padding: usize,
    /// Mirror images at random.
    pub flip: bool,
    /// Side of the square that is cut out of each image; 0: none.
    pub cutout: usize,
    /// Learning rate of the auxiliary model at the start (SGD, cosine schedule).
    #[schemars(range(min = 0))]
    pub auxiliary_learning_rate: f64,
    /// Learning rate of the auxiliary model at the end.
    #[schemars(range(min = 0))]
    pub auxiliary_learning_rate_min: f64,
    /// Momentum of the auxiliary model's SGD.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub auxiliary_momentum: f64,
    /// Weight decay of the auxiliary model's SGD.
    #[schemars(range(min = 0))]
    pub auxiliary_weight_decay: f64,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            epochs: 50,
            batch_size: 64,
            train_portion: 0.5,
            learning_rate: 0.025,
            learning_rate_min: 0.001,
            momentum: 0.9,
            weight_decay: 3e-4,
            gradient_clip: 5.0,
            arch_learning_rate: 3e-4,
            arch_beta1: 0.5,
            arch_beta2: 0.999,
            arch_weight_decay: 1e-3,
            crop_padding: 4,
            flip: true,
            cutout: 0,
            auxiliary_learning_rate: 0.025,
            auxiliary_learning_rate_min: 0.001,
            auxiliary_momentum: 0.9,
            auxiliary_weight_decay: 3e-4,
        }
    }
}

impl SearchConfig {
    /// The first key whose value is out of range, and what it must be.
    pub(super) fn out_of_range(&self) -> Option<(&'static str, String)> {
        let wrong =
            |key, what: &str, value: String| (key, format!("`{key}` must be {what}, not {value}"));
        if self.epochs < 1 {
            return Some(wrong("epochs", "at least 1", self.epochs.to_string()));
        }
        if self.epochs > 1_000_000 {
            return Some(wrong("epochs", "at most 1000000", self.epochs.to_string()));
        }
        if self.batch_size > 65_536 {
            return Some(wrong("batch-size", "at most 65536", self.batch_size.to_string()));
        }
        if self.batch_size < 2 {
            let what = "at least 2 (batch normalisation needs two images)";
            return Some(wrong("batch-size", what, self.batch_size.to_string()));
        }
        let portion = self.train_portion;
        if !(portion > 0.0 && portion < 1.0) {
            return Some(wrong(
                "train-portion",
                "between 0 and 1, both excluded",
                portion.to_string(),
            ));
        }
        let non_negative = [
            ("learning-rate", self.learning_rate),
            ("learning-rate-min", self.learning_rate_min),
            ("weight-decay", self.weight_decay),
            ("gradient-clip", self.gradient_clip),
            ("arch-learning-rate", self.arch_learning_rate),
            ("arch-weight-decay", self.arch_weight_decay),
            ("auxiliary-learning-rate", self.auxiliary_learning_rate),
            ("auxiliary-learning-rate-min", self.auxiliary_learning_rate_min),
            ("auxiliary-weight-decay", self.auxiliary_weight_decay),
        ];
        for (key, value) in non_negative {
            if !(value.is_finite() && value >= 0.0) {
                return Some(wrong(key, "finite and at least 0", value.to_string()));
            }
        }
        let shares = [
            ("momentum", self.momentum),
            ("arch-beta1", self.arch_beta1),
            ("arch-beta2", self.arch_beta2),
            ("auxiliary-momentum", self.auxiliary_momentum),
        ];
        for (key, value) in shares {
            if !(0.0..1.0).contains(&value) {
                return Some(wrong(key, "at least 0 and below 1", value.to_string()));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_range() {
        assert_eq!(SearchConfig::default().out_of_range(), None);
        let written = serde_json::to_value(SearchConfig::default()).unwrap();
        for (key, value) in written.as_object().unwrap() {
            // Sizes in pixels have no bound, except that they are unsigned.
            if !value.is_number() || key == "crop-padding" || key == "cutout" {
                continue;
            }
            let mut changed = written.clone();
            changed[key] = if value.is_f64() { (-1e-9).into() } else { 0.into() };
            let changed: SearchConfig = serde_json::from_value(changed).unwrap();
            assert_eq!(changed.out_of_range().map(|(k, _)| k), Some(key.as_str()));
        }
    }

    #[test]
    fn bounds_are_where_they_are_said_to_be() {
        let base = SearchConfig::default;
        for config in [
            SearchConfig { batch_size: 1, ..base() },
            SearchConfig { train_portion: 0.0, ..base() },
            SearchConfig { train_portion: 1.0, ..base() },
            SearchConfig { train_portion: f64::NAN, ..base() },
            SearchConfig { learning_rate: f64::INFINITY, ..base() },
            SearchConfig { momentum: 1.0, ..base() },
            SearchConfig { arch_beta2: f64::NAN, ..base() },
        ] {
            assert!(config.out_of_range().is_some(), "{config:?}");
        }
        let edge = SearchConfig {
            epochs: 1,
            batch_size: 2,
            learning_rate: 0.0,
            momentum: 0.0,
            gradient_clip: 0.0,
            ..base()
        };
        assert_eq!(edge.out_of_range(), None);
    }
}
