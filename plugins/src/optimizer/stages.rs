//! `stages`: a k-level method as a page of data.

use super::Unroll;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::data::TransferSplit;
use tetlo_core::kinds::MultilevelOptimizer;
use tetlo_core::multilevel::{
    Combine, Control, EstimatorRef, InnerSettings, LossTerm, ModelRole, Objective, Stage,
    StageGraph, TermSplit, TransferRef,
};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result, register_multilevel_optimizer};

/// A term of a stage's loss.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, tag = "term", rename_all = "kebab-case")]
pub enum TermOptions {
    /// Cross entropy of the stage's model.
    CrossEntropy {
        /// Its weight.
        #[serde(default = "one")]
        weight: f64,
        /// Its images: those of training, or those of the transfer.
        #[serde(default = "train")]
        split: TermSplit,
    },
    /// A transfer loss from the trained model of an earlier stage to this stage's.
    Transfer {
        /// Name of the earlier stage.
        from: String,
        /// Its weight.
        #[serde(default = "one")]
        weight: f64,
        /// The loss; without it the method's `transfer-loss`.
        #[serde(default)]
        loss: Option<TransferRef>,
        /// Its images.
        #[serde(default = "transfer")]
        split: TermSplit,
    },
}

fn one() -> f64 {
    1.0
}

fn train() -> TermSplit {
    TermSplit::Train
}

fn transfer() -> TermSplit {
    TermSplit::Transfer
}

/// One level: which model is trained, on what, how.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StageOptions {
    /// Its name, for other stages, the objective and the records.
    pub name: String,
    /// Whose weights it trains: `main` (the supernet; the first stage), `twin` (another supernet of the
    /// same architecture parameters), `auxiliary` (the method's `auxiliary`).
    pub model: ModelRole,
    /// Its loss, a sum of terms.
    pub loss: Vec<TermOptions>,
    /// Inner steps that the hypergradient looks through, all on the same batch.
    #[serde(default = "one_step")]
    pub unroll_steps: usize,
    /// How adjoints are pulled back through its training; without it as `estimator` of the whole graph.
    #[serde(default)]
    pub estimator: Option<EstimatorRef>,
    /// Its inner optimiser, where it differs from what `[search]` says for its model.
    #[serde(default)]
    pub inner: InnerSettings,
}

fn one_step() -> usize {
    1
}

/// A term of the objective: cross entropy of a stage's trained model on validation images.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ObjectiveOptions {
    /// Name of the stage.
    pub stage: String,
    /// Its weight.
    #[serde(default = "one")]
    pub weight: f64,
}

/// Options of `stages`. The default is DARTS, second order.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct StagesOptions {
    /// The levels, in the order in which they are trained.
    pub stages: Vec<StageOptions>,
    /// What the architecture minimises, a sum.
    pub objective: Vec<ObjectiveOptions>,
    /// Estimator of all stages that name none of their own.
    pub estimator: EstimatorRef,
    /// How the inner steps are unrolled.
    pub unroll: Unroll,
    /// How the first stage's part of the hypergradient and that of the others become one step.
    pub combine: Combine,
    /// Weight ρ of the others' part.
    pub rho: f64,
    /// Largest factor of `combine = "norm-matched"`.
    pub match_max: f64,
    /// Does the main architecture's direct part in the losses of later stages count?
    pub direct_term: bool,
    /// The architecture is updated every so many weight steps.
    pub hypergrad_every: usize,
    /// Epochs at the start in which the architecture stays as it is.
    pub warmup_epochs: usize,
    /// Where terms with `split = "transfer"` take their images from.
    pub transfer_split: TransferSplit,
    /// What the transfer losses see of their teachers; `shuffled` is the placebo.
    pub control: Control,
}

impl Default for StagesOptions {
    fn default() -> Self {
        Self {
            stages: vec![StageOptions {
                name: "main".into(),
                model: ModelRole::Main,
                loss: vec![TermOptions::CrossEntropy { weight: 1.0, split: TermSplit::Train }],
                unroll_steps: 1,
                estimator: None,
                inner: InnerSettings::default(),
            }],
            objective: vec![ObjectiveOptions { stage: "main".into(), weight: 1.0 }],
            estimator: EstimatorRef::named("central-difference"),
            unroll: Unroll::AsRun,
            combine: Combine::Sum,
            rho: 1.0,
            match_max: 1e4,
            direct_term: true,
            hypergrad_every: 1,
            warmup_epochs: 0,
            transfer_split: TransferSplit::Train,
            control: Control::None,
        }
    }
}

/// Any number of levels. Stage k trains θ_k on its loss L_k(θ_k; θ'_<k, A), a sum of its cross entropy
/// and of transfer losses from earlier stages; the architecture A minimises the objective's validation
/// losses at the trained weights θ'.
///
/// Two stages with a transfer are TETLO, and with other losses Learning by Teaching, Learning from
/// Mistakes and their relatives (presets `lbt`, `lfm`, `sanas`). `tetlo draw --graph CONFIG` draws it.
#[derive(Debug)]
pub struct Stages {
    graph: StageGraph,
}

impl FromOptions for Stages {
    type Options = StagesOptions;

    fn from_options(options: StagesOptions) -> Result<Self> {
        let graph = graph(options)?.validated()?;
        let mut unrolls = false;
        for stage in 0..graph.stages.len() {
            unrolls |= graph.estimator(stage).build()?.unrolls();
        }
        let direct = |o: &Objective| graph.stages[o.stage].model.has_main_architecture();
        if !unrolls && !graph.objective.iter().any(|o| o.weight > 0.0 && direct(o)) {
            return Err(Error::config_hint(
                "at first order nothing gives the architecture a gradient: no term of `objective` is \
                 on a stage with the main architecture",
                "take an estimator that unrolls, or add the stage `main` to `objective`",
            ));
        }
        Ok(Self { graph })
    }
}

fn graph(options: StagesOptions) -> Result<StageGraph> {
    let names: Vec<String> = options.stages.iter().map(|s| s.name.clone()).collect();
    let index = |name: &str, what: &str| {
        names.iter().position(|n| n == name).ok_or_else(|| {
            Error::config_hint(
                format!("{what} names the stage `{name}`, which does not exist"),
                format!("there are `{}`", names.join("`, `")),
            )
        })
    };
    let mut stages = vec![];
    for stage in options.stages {
        if stage.name.is_empty() || stage.name.contains(['.', '/']) {
            let name = stage.name;
            return Err(Error::config(format!("`{name}` cannot be the name of a stage")));
        }
        let term = |term: TermOptions| -> Result<LossTerm> {
            Ok(match term {
                TermOptions::CrossEntropy { weight, split } => {
                    LossTerm::Supervised { weight, split }
                }
                TermOptions::Transfer { from, weight, loss, split } => {
                    if let Some(loss) = &loss {
                        loss.build()?;
                    }
                    let from = index(&from, &format!("a transfer to stage `{}`", stage.name))?;
                    LossTerm::Transfer { from, weight, loss, split }
                }
            })
        };
        let loss = stage.loss.into_iter().map(term).collect::<Result<_>>()?;
        stages.push(Stage {
            loss,
            model: stage.model,
            unroll_steps: stage.unroll_steps,
            estimator: stage.estimator,
            inner: stage.inner,
            name: stage.name,
        });
    }
    let objective = options
        .objective
        .into_iter()
        .map(|o| Ok(Objective { stage: index(&o.stage, "`objective`")?, weight: o.weight }));
    Ok(StageGraph {
        objective: objective.collect::<Result<_>>()?,
        stages,
        combine: options.combine,
        rho: options.rho,
        match_max: options.match_max,
        direct_term: options.direct_term,
        estimator: options.estimator,
        every: options.hypergrad_every,
        warmup_epochs: options.warmup_epochs,
        transfer_split: options.transfer_split,
        control: options.control,
        unroll_as_run: options.unroll == Unroll::AsRun,
    })
}

impl MultilevelOptimizer for Stages {
    fn graph(&self) -> Result<StageGraph> {
        Ok(self.graph.clone())
    }

    fn remarks(&self) -> Vec<String> {
        let g = &self.graph;
        let mut remarks = vec![];
        for (i, stage) in g.stages.iter().enumerate() {
            let counts = |o: &Objective| o.stage == i && o.weight > 0.0;
            if !g.objective.iter().any(counts) && !g.transfers().any(|(_, _, from, _)| from == i) {
                remarks.push(format!(
                    "stage `{}` is trained for nothing: neither the objective nor a later stage \
                     depends on it",
                    stage.name
                ));
            }
        }
        let on = |main: bool| g.objective.iter().any(|o| o.weight > 0.0 && (o.stage == 0) == main);
        if g.rho == 0.0 || (g.combine == Combine::NormMatched && g.match_max == 0.0 && on(true)) {
            remarks.push(
                "`rho = 0` or `match-max = 0`: the part of later stages does not reach the \
                 architecture"
                    .into(),
            );
        }
        if !g.uses_transfer() && g.control != Control::None {
            remarks.push("`control` has no effect: no stage has a transfer".into());
        }
        if !g.uses_transfer_batch() && g.transfer_split != TransferSplit::Train {
            remarks
                .push("`transfer-split` has no effect: no term has `split = \"transfer\"`".into());
        }
        if on(true) && on(false) && g.combine == Combine::Sum {
            remarks.push(
                "`combine = \"sum\"`: what comes through later stages carries their learning rates \
                 and is usually a small part of the hypergradient"
                    .into(),
            );
        }
        if g.combine != Combine::NormMatched && (g.match_max - 1e4).abs() > 0.0 {
            remarks.push("`match-max` is read by `combine = \"norm-matched\"` only".into());
        }
        remarks
    }
}

register_multilevel_optimizer!("stages", Stages, "any number of levels, described in the config");

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tetlo_core::registry::build;

    fn of(plugin: &str, options: &Value) -> Result<StageGraph> {
        build::<dyn MultilevelOptimizer>(plugin, options)?.graph()
    }

    /// TETLO's two stages as data.
    fn two() -> Value {
        json!({
            "stages": [
                {"name": "main", "model": "main", "loss": [{"term": "cross-entropy"}]},
                {"name": "auxiliary", "model": "auxiliary", "loss": [
                    {"term": "cross-entropy"},
                    {"term": "transfer", "from": "main", "weight": 0.5},
                ]},
            ],
            "objective": [{"stage": "main"}, {"stage": "auxiliary"}],
        })
    }

    #[test]
    fn darts_and_tetlo_are_pages_of_data() -> Result<()> {
        assert_eq!(of("stages", &Value::Null)?, of("darts", &Value::Null)?);
        assert_eq!(of("stages", &two())?, of("tetlo", &json!({"lambda": 0.5}))?);
        Ok(())
    }

    #[test]
    fn what_a_stage_has_of_its_own() -> Result<()> {
        let mut options = two();
        options["stages"][1]["unroll-steps"] = json!(3);
        options["stages"][1]["estimator"] = json!({"plugin": "neumann", "options": {"terms": 2}});
        options["stages"][1]["inner"] = json!({"optimizer": "adam", "learning-rate": 0.01});
        options["stages"][1]["loss"][1]["loss"] = json!({"plugin": "kd"});
        let graph = of("stages", &options)?;
        assert_eq!(graph.estimator(0).plugin, "central-difference");
        assert_eq!(graph.estimator(1).options["terms"], 2);
        assert_eq!(graph.stages[1].unroll_steps, 3);
        assert_eq!(graph.stages[1].inner.learning_rate, Some(0.01));
        let (stage, term, from, loss) = graph.transfers().next().unwrap();
        assert_eq!((stage, term, from, loss.unwrap().plugin.as_str()), (1, 1, 0, "kd"));
        Ok(())
    }

    #[test]
    fn slips_are_named() {
        let wrong = |change: &dyn Fn(&mut Value)| {
            let mut options = two();
            change(&mut options);
            of("stages", &options).unwrap_err().to_string()
        };
        for (message, change) in [
            (
                "a transfer to stage `auxiliary` names the stage `mian`",
                &(|o: &mut Value| o["stages"][1]["loss"][1]["from"] = json!("mian"))
                    as &dyn Fn(&mut Value),
            ),
            ("`objective` names the stage `aux`", &|o| o["objective"][1]["stage"] = json!("aux")),
            ("two stages are called `main`", &|o| {
                o["stages"][1]["name"] = json!("main");
                o["objective"] = json!([{"stage": "main"}]);
            }),
            ("must train the model `main`", &|o| o["stages"][0]["model"] = json!("twin")),
            ("`unroll-steps` of stage `auxiliary`", &|o| {
                o["stages"][1]["unroll-steps"] = json!(0);
            }),
            ("`momentum` must be at least 0 and below 1", &|o| {
                o["stages"][1]["inner"] = json!({"momentum": 1.5});
            }),
            ("are read by `optimizer = \"adam\"` only", &|o| {
                o["stages"][1]["inner"] = json!({"beta1": 0.5});
            }),
            ("labels of the validation images", &|o| {
                o["transfer-split"] = json!("valid-unlabelled");
                o["stages"][1]["loss"][0]["split"] = json!("transfer");
            }),
            ("at first order nothing gives the architecture a gradient", &|o| {
                o["estimator"] = json!({"plugin": "first-order"});
                o["objective"] = json!([{"stage": "auxiliary"}]);
            }),
            ("unknown transfer-loss `kdd`", &|o| {
                o["stages"][1]["loss"][1]["loss"] = json!({"plugin": "kdd"});
            }),
        ] {
            let error = wrong(change);
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn defaults_of_named_plugins_are_written_out() {
        let read = |value: Value| serde_json::from_value::<EstimatorRef>(value).unwrap();
        let plain = read(json!({"plugin": "central-difference"}));
        assert_eq!(plain.options, json!({"epsilon": 0.01}));
        assert_eq!(plain, EstimatorRef::named("central-difference"));
        let given = json!({"plugin": "central-difference", "options": {"epsilon": 0.1}});
        assert_eq!(read(given).options, json!({"epsilon": 0.1}));
        let unknown = EstimatorRef::named("central-diference").build().unwrap_err();
        assert!(unknown.hint().unwrap().starts_with("did you mean `central-difference`?"));
        let misspelt = json!({"plugin": "central-difference", "options": {"epsilom": 0.1}});
        let message = read(misspelt).build().unwrap_err().to_string();
        assert!(message.contains("central-difference") && message.contains("epsilom"), "{message}");
    }

    #[test]
    fn a_stage_without_effect_is_remarked() -> Result<()> {
        let mut options = two();
        options["objective"] = json!([{"stage": "main"}]);
        let remarks = build::<dyn MultilevelOptimizer>("stages", &options)?.remarks().join("\n");
        assert!(remarks.contains("stage `auxiliary` is trained for nothing"), "{remarks}");
        Ok(())
    }
}
