//! Evaluators.

use crate::Suite;
use crate::numbers::draws;
use crate::report::{Report, ensure};
use crate::space::spaces;
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{Evaluation, EvaluationHost, Evaluator, RetrainProtocol};
use tetlo_core::{Error, Result};

/// Stands in for the engine: trains nothing, or fails.
struct Host {
    fails: bool,
    called: bool,
}

impl EvaluationHost for Host {
    fn retrain(&mut self, _: &Genotype, _: &RetrainProtocol) -> Result<Evaluation> {
        self.called = true;
        if self.fails {
            return Err(Error::Invalid("the training failed".into()));
        }
        let test_accuracy = Some(0.5);
        Ok(Evaluation { value: 0.5, val_accuracy: None, test_accuracy, params: 7, macs: 9 })
    }
}

impl Suite for dyn Evaluator {
    fn suite(evaluator: &Self, report: &mut Report<'_>) {
        report.check("metric", || {
            let metric = evaluator.metric();
            let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let named = !metric.name.is_empty() && metric.name.chars().all(snake);
            ensure!(named, "the name `{}` is not in snake_case", metric.name);
            let split = ["train", "valid", "validation", "test"].contains(&metric.split.as_str());
            ensure!(split, "`{}` is not the name of a split", metric.split);
            ensure!(evaluator.metric() == metric, "two calls differ");
            Ok(())
        });
        report.check("protocol", || {
            let Some(p) = evaluator.protocol() else { return Ok(()) };
            ensure!(p.epochs > 0 && p.batch_size > 0, "no training at all: {p:?}");
            ensure!(p.learning_rate > 0.0 && p.learning_rate.is_finite(), "{p:?}");
            Ok(())
        });
        report.check("evaluation", || {
            let spaces = spaces();
            let genotype = spaces[0].sample(&mut draws(0))?;
            let mut host = Host { fails: false, called: false };
            let found = evaluator.evaluate(&genotype, &mut host)?;
            ensure!(found.value.is_finite(), "the value is {}", found.value);
            let mut host = Host { fails: true, called: false };
            let result = evaluator.evaluate(&genotype, &mut host);
            ensure!(!host.called || result.is_err(), "the engine's error is not passed on");
            Ok(())
        });
    }
}
