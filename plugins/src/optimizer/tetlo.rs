//! `tetlo`: transferability-encouraging search (Sheth and Xie, ICLR 2023) as a graph of two stages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::data::TransferSplit;
use tetlo_core::kinds::MultilevelOptimizer;
use tetlo_core::multilevel::{
    Combine, Control, EstimatorRef, LossTerm, ModelRole, Objective, Stage, StageGraph,
};
use tetlo_core::optim::at_least;
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result, register_multilevel_optimizer};

/// How the inner steps are unrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unroll {
    /// As the inner optimisers make them, with momentum and weight decay (never with clipping).
    AsRun,
    /// Plain gradient steps.
    Plain,
}

/// Options of `tetlo`. The paper's text leaves these choices open; each is ours, and an ablation.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct TetloOptions {
    /// Weight λ of the transfer loss in the auxiliary model's training.
    pub lambda: f64,
    /// Weight γ of the main model's validation loss; 0: only the auxiliary's counts.
    pub gamma: f64,
    /// Weight ρ of the transferred part of the hypergradient.
    pub rho: f64,
    /// Weight of the auxiliary model's own cross entropy.
    pub aux_ce: f64,
    /// Does the main architecture's direct part in the transfer loss count?
    pub direct_term: bool,
    /// How the two parts of the hypergradient become one step.
    pub combine: Combine,
    /// Largest factor of `combine = "norm-matched"`.
    pub match_max: f64,
    /// The architecture is updated every so many weight steps.
    pub hypergrad_every: usize,
    /// Epochs at the start in which the architecture stays as it is.
    pub warmup_epochs: usize,
    /// Where the transfer loss takes its images from.
    pub transfer_split: TransferSplit,
    /// What the transfer loss sees of the main model; `shuffled` is the placebo.
    pub control: Control,
    /// Estimator of the mixed second derivatives.
    pub estimator: EstimatorRef,
    /// How the inner steps are unrolled.
    pub unroll: Unroll,
}

impl Default for TetloOptions {
    fn default() -> Self {
        Self {
            lambda: 1.0,
            gamma: 1.0,
            rho: 1.0,
            aux_ce: 1.0,
            direct_term: true,
            combine: Combine::Sum,
            match_max: 1e4,
            hypergrad_every: 1,
            warmup_epochs: 0,
            transfer_split: TransferSplit::Train,
            control: Control::None,
            estimator: EstimatorRef::named("central-difference"),
            unroll: Unroll::AsRun,
        }
    }
}

/// Three levels (METHODS.md §1):
///
/// * W*(A) = argmin_W CE(W, A; train)
/// * V*(W*, A) = argmin_V aux-ce·CE(V; train) + λ·T(V, W*, A; transfer)
/// * min_A CE(V*; valid) + γ·CE(W*, A; valid)
#[derive(Debug)]
pub struct Tetlo {
    options: TetloOptions,
    unrolls: bool,
    graph: StageGraph,
}

impl FromOptions for Tetlo {
    type Options = TetloOptions;

    fn from_options(options: TetloOptions) -> Result<Self> {
        let o = &options;
        for (key, value) in [
            ("lambda", o.lambda),
            ("gamma", o.gamma),
            ("rho", o.rho),
            ("aux-ce", o.aux_ce),
            ("match-max", o.match_max),
        ] {
            at_least(key, value, 0.0)?;
        }
        let unrolls = o.estimator.build()?.unrolls();
        if o.gamma == 0.0 && !unrolls {
            return Err(Error::config_hint(
                format!(
                    "`gamma = 0` with the estimator `{}` leaves the architecture without a gradient",
                    o.estimator.plugin
                ),
                "at first order the architecture sees nothing of the transfer",
            ));
        }
        if let (true, Some(off)) = (o.gamma == 0.0, o.transfer_off()) {
            return Err(Error::config(format!(
                "`gamma = 0` and `{off} = 0` leave the architecture without a gradient"
            )));
        }
        let graph = o.graph().validated()?;
        Ok(Self { options, unrolls, graph })
    }
}

impl TetloOptions {
    /// The option that keeps the transfer from the architecture, if one does.
    fn transfer_off(&self) -> Option<&'static str> {
        let off = [("lambda", self.lambda), ("rho", self.rho)];
        off.into_iter().find(|(_, value)| *value == 0.0).map(|(key, _)| key)
    }

    fn graph(&self) -> StageGraph {
        let mut graph = StageGraph::bilevel(self.estimator.clone());
        graph.stages.push(Stage::new(
            "auxiliary",
            ModelRole::Auxiliary,
            vec![LossTerm::supervised(self.aux_ce), LossTerm::transfer(0, self.lambda)],
        ));
        StageGraph {
            objective: vec![
                Objective { stage: 0, weight: self.gamma },
                Objective { stage: 1, weight: 1.0 },
            ],
            combine: self.combine,
            rho: self.rho,
            match_max: self.match_max,
            direct_term: self.direct_term,
            every: self.hypergrad_every,
            warmup_epochs: self.warmup_epochs,
            transfer_split: self.transfer_split,
            control: self.control,
            unroll_as_run: self.unroll == Unroll::AsRun,
            ..graph
        }
    }

    /// Which weights do nothing. Adam does not see the size of a gradient, so a factor of all of it
    /// only shifts its weight against the weight decay.
    fn inert(&self) -> Vec<String> {
        let mut remarks = vec![];
        let limited = (self.match_max - Self::default().match_max).abs() > 0.0;
        if self.combine != Combine::NormMatched && limited {
            remarks.push("`match-max` is read by `combine = \"norm-matched\"` only".into());
        }
        if self.gamma == 0.0 {
            remarks.push(match self.combine {
                Combine::NormMatched => "`gamma = 0`: `rho` and `match-max` have no effect, since \
                                         there is nothing to match the transferred part with"
                    .into(),
                _ => "`gamma = 0`: `rho` has no effect, since Adam does not see the size of the \
                      gradient"
                    .to_owned(),
            });
        }
        match self.combine {
            Combine::NormMatched if self.gamma > 0.0 => remarks.push(
                "`combine = \"norm-matched\"`: the sizes of `lambda` and `gamma` have no effect on \
                 the weight of the transferred part, only `rho` and `match-max` have"
                    .into(),
            ),
            Combine::SeparateStates if self.gamma > 0.0 => remarks.push(
                "`combine = \"separate-states\"`: the sizes of `lambda` and `gamma` have no effect \
                 on the weight of the transferred part, only `rho` has"
                    .into(),
            ),
            Combine::Sum if self.gamma > 0.0 => remarks.push(
                "`combine = \"sum\"`: the transferred part carries the inner learning rates and is \
                 usually below a hundredth of the hypergradient; `norm-matched` gives it a weight \
                 of its own"
                    .into(),
            ),
            _ => {}
        }
        remarks
    }
}

impl MultilevelOptimizer for Tetlo {
    fn graph(&self) -> Result<StageGraph> {
        Ok(self.graph.clone())
    }

    fn remarks(&self) -> Vec<String> {
        let o = &self.options;
        if !self.unrolls {
            return vec![format!(
                "with the estimator `{}` the architecture gradient is γ·DARTS first order exactly: \
                 the auxiliary model, `lambda`, `rho`, `aux-ce`, `combine`, `match-max`, \
                 `direct-term`, `control` and `unroll` have no effect on the architecture",
                o.estimator.plugin
            )];
        }
        if let Some(off) = o.transfer_off() {
            return vec![format!(
                "`{off} = 0`: nothing of the transfer reaches the architecture; its gradient is \
                 γ·DARTS second order"
            )];
        }
        let mut remarks = o.inert();
        if o.control == Control::Shuffled {
            remarks.push(
                "`control = \"shuffled\"` is the placebo: the auxiliary model learns from \
                 permuted features"
                    .into(),
            );
        }
        remarks
    }
}

register_multilevel_optimizer!(
    "tetlo",
    Tetlo,
    "three levels: TETLO, an auxiliary model that learns"
);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tetlo_core::kinds::TransferLoss;
    use tetlo_core::multilevel::TransferLosses;
    use tetlo_core::registry::build;

    fn tetlo(options: &Value) -> Result<Box<dyn MultilevelOptimizer>> {
        build::<dyn MultilevelOptimizer>("tetlo", options)
    }

    #[test]
    fn options_reach_the_graph() -> Result<()> {
        let graph = tetlo(&json!({
            "lambda": 2.0, "gamma": 0.5, "rho": 3.0, "aux-ce": 0.25, "direct-term": false,
            "combine": "norm-matched", "match-max": 10.0, "hypergrad-every": 4, "warmup-epochs": 5,
            "transfer-split": "held-out", "control": "shuffled", "unroll": "plain",
            "estimator": {"plugin": "central-difference", "options": {"epsilon": 0.1}},
        }))?
        .graph()?;
        assert_eq!(graph.stages[1].loss, [LossTerm::supervised(0.25), LossTerm::transfer(0, 2.0)]);
        let objective = [Objective { stage: 0, weight: 0.5 }, Objective { stage: 1, weight: 1.0 }];
        assert_eq!(graph.objective, objective);
        assert_eq!((graph.combine, graph.rho, graph.match_max), (Combine::NormMatched, 3.0, 10.0));
        assert_eq!((graph.every, graph.warmup_epochs), (4, 5));
        assert_eq!(graph.transfer_split, TransferSplit::HeldOut);
        assert_eq!(graph.control, Control::Shuffled);
        assert!(!graph.direct_term && !graph.unroll_as_run);
        assert_eq!(graph.estimator.options, json!({"epsilon": 0.1}));
        let default = tetlo(&Value::Null)?.graph()?;
        assert!(default.direct_term && default.unroll_as_run && default.uses_auxiliary());
        Ok(())
    }

    #[test]
    fn configurations_without_a_gradient_are_errors() {
        for (options, message) in [
            (
                json!({"gamma": 0.0, "estimator": {"plugin": "first-order"}}),
                "`gamma = 0` with the estimator `first-order` leaves the architecture without a \
                 gradient",
            ),
            (
                json!({"gamma": 0.0, "lambda": 0.0}),
                "`gamma = 0` and `lambda = 0` leave the architecture without a gradient",
            ),
            (json!({"rho": -1.0}), "`rho` must be at least 0, got -1"),
        ] {
            let error = tetlo(&options).unwrap_err().to_string();
            assert_eq!(error, format!("plugin `tetlo`: {message}"));
        }
    }

    #[test]
    fn an_untrained_classifier_is_an_error() -> Result<()> {
        let without = tetlo(&json!({"aux-ce": 0.0}))?.graph()?;
        let check = |graph: &StageGraph, loss: &str, options: Value| {
            let loss = || build::<dyn TransferLoss>(loss, &options);
            graph.check_transfer(&TransferLosses::build(graph, loss)?)
        };
        let error = check(&without, "qrs", json!({})).unwrap_err();
        assert!(error.to_string().contains("has no weight (as with `aux-ce = 0`)"), "{error}");
        check(&without, "kd", json!({}))?;
        check(&tetlo(&Value::Null)?.graph()?, "qrs", json!({}))?;
        let no_gamma = tetlo(&json!({"gamma": 0.0}))?.graph()?;
        let error = check(&no_gamma, "qrs", json!({"target": "hard"})).unwrap_err();
        assert!(error.to_string().contains("nothing gives the architecture a gradient"), "{error}");
        check(&no_gamma, "qrs", json!({}))
    }

    #[test]
    fn remarks_name_what_is_inert() -> Result<()> {
        let remarks = |options: Value| Ok::<_, Error>(tetlo(&options)?.remarks().join("\n"));
        let has = |text: &str, words: &[&str]| words.iter().all(|w| text.contains(w));
        let first = remarks(json!({"estimator": {"plugin": "first-order"}}))?;
        assert!(has(&first, &["γ·DARTS first order exactly", "`lambda`", "`rho`"]), "{first}");
        let sum = remarks(json!({"match-max": 5.0}))?;
        assert!(has(&sum, &["`match-max` is read by", "a hundredth"]), "{sum}");
        for combine in ["norm-matched", "separate-states"] {
            let both = remarks(json!({"combine": combine}))?;
            assert!(
                has(&both, &[combine, "sizes of `lambda` and `gamma` have no effect"]),
                "{both}"
            );
        }
        assert_eq!(remarks(json!({"combine": "no-lr-factors"}))?, "");
        let no_gamma = remarks(json!({"gamma": 0.0}))?;
        assert!(has(&no_gamma, &["`gamma = 0`: `rho` has no effect"]), "{no_gamma}");
        let no_transfer = remarks(json!({"lambda": 0.0}))?;
        assert!(has(&no_transfer, &["`lambda = 0`", "γ·DARTS second order"]), "{no_transfer}");
        assert!(remarks(json!({"control": "shuffled"}))?.contains("placebo"));
        Ok(())
    }
}
