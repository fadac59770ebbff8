//! Training from scratch.

use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{Evaluation, EvaluationHost, Evaluator, Metric, RetrainProtocol};
use tetlo_core::registry::FromOptions;
use tetlo_core::space::KernelNetwork;
use tetlo_core::{Error, Result};

/// Trains the derived network from scratch on all training images and tests it once, at the end.
#[derive(Debug)]
pub struct Retrain {
    protocol: RetrainProtocol,
}

impl FromOptions for Retrain {
    type Options = RetrainProtocol;

    fn from_options(o: RetrainProtocol) -> Result<Self> {
        // Batch statistics of one image say nothing.
        for (key, value, least) in [("epochs", o.epochs, 1), ("batch-size", o.batch_size, 2)] {
            if value < least {
                return Err(Error::config(format!("`{key}` must be at least {least}")));
            }
        }
        for (key, value, most) in [
            ("channels", o.channels, 4096),
            ("cells", o.cells, 512),
            ("batch-size", o.batch_size, 65_536),
            ("epochs", o.epochs, 1_000_000),
        ] {
            if value > most {
                return Err(Error::config(format!("`{key}` can be {most} at most, got {value}")));
            }
        }
        for (key, value) in [
            ("learning-rate", o.learning_rate),
            ("learning-rate-min", o.learning_rate_min),
            ("weight-decay", o.weight_decay),
            ("gradient-clip", o.gradient_clip),
            ("auxiliary-weight", o.auxiliary_weight),
        ] {
            if !value.is_finite() || value < 0.0 {
                return Err(Error::config(format!(
                    "`{key}` must be a number from 0 upwards, got `{value}`"
                )));
            }
        }
        for (key, value) in [("momentum", o.momentum), ("drop-path", o.drop_path)] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::config(format!(
                    "`{key}` must be at least 0 and less than 1, got `{value}`"
                )));
            }
        }
        if o.learning_rate_min > o.learning_rate {
            return Err(Error::config(format!(
                "`learning-rate-min` is `{}`, above `learning-rate` = `{}`",
                o.learning_rate_min, o.learning_rate
            )));
        }
        if o.batch_size > KernelNetwork::MOST_IMAGES_WITH_DROP_PATH && o.drop_path > 0.0 {
            return Err(Error::config(format!(
                "`batch-size` must be at most {} with `drop-path`",
                KernelNetwork::MOST_IMAGES_WITH_DROP_PATH
            )));
        }
        Ok(Self { protocol: o })
    }
}

impl Evaluator for Retrain {
    fn metric(&self) -> Metric {
        Metric { name: "test_accuracy".into(), higher_is_better: true, split: "test".into() }
    }

    fn evaluate(&self, genotype: &Genotype, host: &mut dyn EvaluationHost) -> Result<Evaluation> {
        host.retrain(genotype, &self.protocol)
    }

    fn protocol(&self) -> Option<&RetrainProtocol> {
        Some(&self.protocol)
    }
}

tetlo_core::register_evaluator!(
    "retrain",
    Retrain,
    "trains the derived network from scratch on all training data and tests it once"
);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tetlo_core::registry;

    struct Host(Option<RetrainProtocol>);

    impl EvaluationHost for Host {
        fn retrain(&mut self, _: &Genotype, protocol: &RetrainProtocol) -> Result<Evaluation> {
            self.0 = Some(protocol.clone());
            let test_accuracy = Some(0.5);
            Ok(Evaluation { value: 0.5, val_accuracy: None, test_accuracy, params: 1, macs: 1 })
        }
    }

    #[test]
    fn options_reach_the_host() {
        let options = json!({ "epochs": 5, "batch-size": 7, "channels": 0, "cells": 3,
            "learning-rate": 0.1, "learning-rate-min": 0.01, "momentum": 0.8, "weight-decay": 0.0,
            "gradient-clip": 1.0, "drop-path": 0.3, "auxiliary-weight": 0.0, "cutout": 4,
            "crop-padding": 2, "flip": false });
        let retrain = registry::build::<dyn Evaluator>("retrain", &options).unwrap();
        let mut host = Host(None);
        let genotype = Genotype::new([]);
        assert_eq!(retrain.evaluate(&genotype, &mut host).unwrap().test_accuracy, Some(0.5));
        let seen = serde_json::to_value(host.0.as_ref().unwrap()).unwrap();
        for (key, value) in options.as_object().unwrap() {
            assert_eq!(&seen[key], value, "{key}");
        }
        assert_eq!(seen.as_object().unwrap().len(), options.as_object().unwrap().len());
        assert_eq!(retrain.protocol(), host.0.as_ref());
        assert_eq!(retrain.metric().split, "test");
    }

    #[test]
    fn options_out_of_range_name_the_key() {
        for (key, value) in [
            ("epochs", json!(0)),
            ("batch-size", json!(0)),
            ("learning-rate", json!(-0.1)),
            ("weight-decay", json!(-1.0)),
            ("gradient-clip", json!(-1.0)),
            ("momentum", json!(1.0)),
            ("drop-path", json!(1.5)),
            ("learning-rate-min", json!(0.5)),
        ] {
            let options = json!({ key: value });
            let error = registry::build::<dyn Evaluator>("retrain", &options).unwrap_err();
            assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
        }
    }
}
