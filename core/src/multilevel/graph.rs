//! Stage graphs: the levels of a method, as data.

use super::oracle::TransferLosses;
use super::plugin_ref::PluginRef;
use crate::data::TransferSplit;
use crate::kinds::{Hypergradient, TransferLoss};
use crate::optim::InnerRule;
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A k-level problem: ordered stages, an objective on top.
#[derive(Debug, Clone, PartialEq)]
pub struct StageGraph {
    /// The stages, from the first that is trained to the last.
    pub stages: Vec<Stage>,
    /// The objective: a sum of validation cross entropies.
    pub objective: Vec<Objective>,
    /// How the parts of the hypergradient become one architecture step.
    pub combine: Combine,
    /// Weight ρ of the transferred part G_a against the main part G_m.
    pub rho: f64,
    /// Largest factor of `norm-matched`.
    pub match_max: f64,
    /// Do later stages' direct dependence on the main architecture count (METHODS.md §1.2)?
    pub direct_term: bool,
    /// The estimator of stages that name none of their own.
    pub estimator: EstimatorRef,
    /// The architecture is updated every so many weight steps.
    pub every: usize,
    /// Epochs at the start in which the architecture stays as it is.
    pub warmup_epochs: usize,
    /// Where the terms on [`TermSplit::Transfer`] take their images from.
    pub transfer_split: TransferSplit,
    /// What the transfer losses see of the teacher.
    pub control: Control,
    /// Do momentum, weight decay and the rule of the inner optimiser belong to the unrolled update?
    pub unroll_as_run: bool,
}

/// An estimator and its options.
pub type EstimatorRef = PluginRef<dyn Hypergradient>;

/// A transfer loss and its options.
pub type TransferRef = PluginRef<dyn TransferLoss>;

/// One level: a model, and the loss its weights are trained on.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Its name in records and errors.
    pub name: String,
    /// Whose weights it trains.
    pub model: ModelRole,
    /// The loss, a sum of terms.
    pub loss: Vec<LossTerm>,
    /// Inner steps T that the hypergradient looks through, all on the same batch.
    pub unroll_steps: usize,
    /// How the adjoint of its weights is pulled back through its training; `None`: as the graph says.
    pub estimator: Option<EstimatorRef>,
    /// What its inner optimiser has of its own.
    pub inner: InnerSettings,
}

impl Stage {
    /// A stage that makes one inner step, by the optimiser and estimator of its role.
    pub fn new(name: impl Into<String>, model: ModelRole, loss: Vec<LossTerm>) -> Self {
        let (unroll_steps, inner) = (1, InnerSettings::default());
        Self { name: name.into(), model, loss, unroll_steps, estimator: None, inner }
    }
}

/// The inner optimiser of a stage, where it differs from what `[search]` says for its model.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct InnerSettings {
    /// Its rule.
    pub optimizer: InnerRule,
    /// Learning rate at the start of the search.
    pub learning_rate: Option<f64>,
    /// Learning rate at its end (cosine schedule).
    pub learning_rate_min: Option<f64>,
    /// Momentum (SGD).
    pub momentum: Option<f64>,
    /// Weight decay.
    pub weight_decay: Option<f64>,
    /// Adam's β₁.
    pub beta1: Option<f64>,
    /// Adam's β₂.
    pub beta2: Option<f64>,
}

impl InnerSettings {
    /// Checks the ranges, and that no key of the other rule is given.
    fn validated(&self, stage: &str) -> Result<()> {
        let wrong = |key: &str, what: &str| {
            Err(Error::config(format!("`inner` of stage `{stage}`: `{key}` {what}")))
        };
        let at_least_0 = [
            ("learning-rate", self.learning_rate),
            ("learning-rate-min", self.learning_rate_min),
            ("weight-decay", self.weight_decay),
        ];
        let below_1 = [("momentum", self.momentum), ("beta1", self.beta1), ("beta2", self.beta2)];
        for (key, value) in at_least_0 {
            if value.is_some_and(|v| !(v.is_finite() && v >= 0.0)) {
                return wrong(key, "must be at least 0");
            }
        }
        for (key, value) in below_1 {
            if value.is_some_and(|v| !(0.0..1.0).contains(&v)) {
                return wrong(key, "must be at least 0 and below 1");
            }
        }
        match self.optimizer {
            InnerRule::Sgd if self.beta1.or(self.beta2).is_some() => {
                wrong("beta1", "and `beta2` are read by `optimizer = \"adam\"` only")
            }
            InnerRule::Adam if self.momentum.is_some() => {
                wrong("momentum", "is read by `optimizer = \"sgd\"` only")
            }
            _ => Ok(()),
        }
    }
}

/// Which network a stage trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ModelRole {
    /// The supernet that is searched.
    Main,
    /// A second supernet with the main model's architecture parameters and weights of its own.
    Twin,
    /// The auxiliary model.
    Auxiliary,
}

impl ModelRole {
    /// Does it carry the main architecture?
    pub fn has_main_architecture(self) -> bool {
        matches!(self, Self::Main | Self::Twin)
    }
}

/// A term of a stage's loss.
#[derive(Debug, Clone, PartialEq)]
pub enum LossTerm {
    /// Cross entropy of the stage's model.
    Supervised {
        /// Its weight.
        weight: f64,
        /// Its batch.
        split: TermSplit,
    },
    /// The transfer loss from an earlier stage's updated model (teacher) to this one's (student).
    Transfer {
        /// Index of the teacher's stage.
        from: usize,
        /// Its weight λ.
        weight: f64,
        /// The loss; `None`: the method's `transfer-loss`.
        loss: Option<TransferRef>,
        /// Its batch.
        split: TermSplit,
    },
}

impl LossTerm {
    /// Cross entropy on the training batch.
    pub fn supervised(weight: f64) -> Self {
        Self::Supervised { weight, split: TermSplit::Train }
    }

    /// The method's transfer loss on the transfer batch.
    pub fn transfer(from: usize, weight: f64) -> Self {
        Self::Transfer { from, weight, loss: None, split: TermSplit::Transfer }
    }

    /// Its weight.
    pub fn weight(&self) -> f64 {
        match self {
            Self::Supervised { weight, .. } | Self::Transfer { weight, .. } => *weight,
        }
    }

    /// Its batch.
    pub fn split(&self) -> TermSplit {
        match self {
            Self::Supervised { split, .. } | Self::Transfer { split, .. } => *split,
        }
    }
}

/// The batch that a term of a stage's loss is computed on. None is the validation batch of the
/// objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TermSplit {
    /// The training batch.
    Train,
    /// The batch of the graph's `transfer-split`.
    Transfer,
}

/// A term of the objective: cross entropy of a stage's updated model on the validation split.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    /// The stage.
    pub stage: usize,
    /// Its weight.
    pub weight: f64,
}

/// How G_m (through the main model's own validation loss) and G_a (through the transfer) become one
/// architecture step (METHODS.md §1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Combine {
    /// Adam(G_m + ρ·G_a + wd·A).
    #[default]
    Sum,
    /// Two Adam states, steps averaged with weights 1 and ρ.
    SeparateStates,
    /// G_a is scaled to the running norm of G_m first.
    NormMatched,
    /// G_a without the inner learning rates, then as `sum`.
    NoLrFactors,
}

/// What a transfer loss sees of the teacher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// The teacher's features.
    #[default]
    None,
    /// The teacher's features permuted within the batch: the placebo. Same cost, no relation left.
    Shuffled,
}

impl StageGraph {
    /// A sentence where so many epochs end before the architecture is trained at all.
    pub fn untrained(&self, epochs: usize) -> Option<String> {
        let warmup = self.warmup_epochs;
        (warmup >= epochs).then(|| {
            format!(
                "`warmup-epochs = {warmup}` leaves none of the search's {epochs} epochs to train the \
                 architecture: its cell is a draw"
            )
        })
    }

    /// A bilevel graph (DARTS): the main model's training loss below, its validation loss on top.
    pub fn bilevel(estimator: EstimatorRef) -> Self {
        Self {
            stages: vec![Stage::new("main", ModelRole::Main, vec![LossTerm::supervised(1.0)])],
            objective: vec![Objective { stage: 0, weight: 1.0 }],
            combine: Combine::Sum,
            rho: 1.0,
            match_max: 1e4,
            direct_term: true,
            estimator,
            every: 1,
            warmup_epochs: 0,
            transfer_split: TransferSplit::Train,
            control: Control::None,
            unroll_as_run: true,
        }
    }

    /// The estimator of a stage.
    pub fn estimator(&self, stage: usize) -> &EstimatorRef {
        self.stages[stage].estimator.as_ref().unwrap_or(&self.estimator)
    }

    /// Does any stage train an auxiliary model?
    pub fn uses_auxiliary(&self) -> bool {
        self.stages.iter().any(|s| s.model == ModelRole::Auxiliary)
    }

    /// The transfer terms that count (λ > 0): stage, index of the term, its teacher, its loss.
    pub fn transfers(
        &self,
    ) -> impl Iterator<Item = (usize, usize, usize, Option<&TransferRef>)> + '_ {
        self.stages.iter().enumerate().flat_map(|(i, stage)| {
            stage.loss.iter().enumerate().filter_map(move |(t, term)| match term {
                LossTerm::Transfer { from, weight, loss, .. } if *weight > 0.0 => {
                    Some((i, t, *from, loss.as_ref()))
                }
                _ => None,
            })
        })
    }

    /// Does any stage have a transfer term that counts (λ > 0)?
    pub fn uses_transfer(&self) -> bool {
        self.transfers().next().is_some()
    }

    /// Does any term that counts take its images from the transfer batch?
    pub fn uses_transfer_batch(&self) -> bool {
        let mut terms = self.stages.iter().flat_map(|s| &s.loss);
        terms.any(|t| t.weight() > 0.0 && t.split() == TermSplit::Transfer)
    }

    /// Can the objective's term on this stage reach the main architecture? Through a transfer only if the
    /// student's estimator looks through its training.
    fn reaches_architecture(&self, stage: usize, losses: &TransferLosses) -> bool {
        self.stages[stage].model.has_main_architecture()
            || (self.estimator(stage).build().is_ok_and(|e| e.unrolls())
                && self.transfers().any(|(student, term, from, _)| {
                    student == stage
                        && losses.get(student, term).is_ok_and(TransferLoss::reaches_main)
                        && self.reaches_architecture(from, losses)
                }))
    }

    /// Checks the graph against what its transfer losses look at: something must give the
    /// architecture a gradient, and a stage on whose validation loss the objective stands must have a
    /// loss that trains its classifier.
    ///
    /// # Errors
    /// No term of the objective reaches the architecture, or a stage in the objective has no cross
    /// entropy and no transfer loss that reaches its logits.
    pub fn check_transfer(&self, losses: &TransferLosses) -> Result<()> {
        let counting = || self.objective.iter().filter(|o| o.weight > 0.0);
        if !counting().any(|o| self.reaches_architecture(o.stage, losses)) {
            return Err(Error::config_hint(
                "nothing gives the architecture a gradient: no term of the objective is on a stage \
                 with the main architecture (as with `gamma = 0`), and none reaches it through a transfer",
                "set `gamma` above 0, or take a transfer loss that reaches the main model (soft \
                 targets) and an estimator that unrolls",
            ));
        }
        let unlabelled = self.transfer_split == TransferSplit::ValidUnlabelled;
        for (stage, term, ..) in self.transfers() {
            let on_it = self.stages[stage].loss[term].split() == TermSplit::Transfer;
            if unlabelled && on_it && losses.get(stage, term)?.needs().labels {
                return Err(Error::config_hint(
                    "`transfer-split = \"valid-unlabelled\"` with a transfer loss that reads labels",
                    "take `transfer-split = \"train\"` or `\"held-out\"`",
                ));
            }
        }
        for objective in counting() {
            let stage = &self.stages[objective.stage];
            let mut terms = stage.loss.iter().enumerate().filter(|(_, t)| t.weight() > 0.0);
            let trained = terms.any(|(i, term)| match term {
                LossTerm::Supervised { .. } => true,
                LossTerm::Transfer { .. } => {
                    losses.get(objective.stage, i).is_ok_and(|loss| loss.needs().logits)
                }
            });
            if !trained {
                return Err(Error::config_hint(
                    format!(
                        "nothing trains the classifier of stage `{}`, whose validation loss the \
                         objective is: its cross entropy has no weight (as with `aux-ce = 0`), and no transfer loss \
                         of it reaches the logits",
                        stage.name
                    ),
                    "give its cross entropy a weight, or take a transfer loss on logits",
                ));
            }
        }
        Ok(())
    }

    /// Checks that indices point backwards and numbers are in range.
    ///
    /// # Errors
    /// Names the stage and what is wrong with it.
    pub fn validated(self) -> Result<Self> {
        let finite = |what: &str, v: f64| {
            if v.is_finite() && v >= 0.0 {
                Ok(())
            } else {
                Err(Error::config(format!("{what} must be a number of at least 0, got {v}")))
            }
        };
        if self.stages.is_empty() || self.objective.is_empty() {
            return Err(Error::config("a stage graph needs a stage and an objective"));
        }
        let mains = self.stages.iter().filter(|s| s.model == ModelRole::Main).count();
        if mains != 1 || self.stages[0].model != ModelRole::Main {
            return Err(Error::config_hint(
                "the first stage, and no other, must train the model `main`",
                "a second supernet of the same architecture is the model `twin`",
            ));
        }
        if self.every == 0 {
            return Err(Error::config("`hypergrad-every` must be at least 1"));
        }
        finite("`rho`", self.rho)?;
        finite("`match-max`", self.match_max)?;
        for (i, stage) in self.stages.iter().enumerate() {
            let name = &stage.name;
            if self.stages[..i].iter().any(|s| s.name == *name) {
                return Err(Error::config(format!("two stages are called `{name}`")));
            }
            if stage.loss.is_empty() {
                return Err(Error::config(format!("stage `{name}` has no loss")));
            }
            if !(1..=Self::MOST_STEPS).contains(&stage.unroll_steps) {
                return Err(Error::config(format!(
                    "`unroll-steps` of stage `{name}` must be 1 to {}, got {}",
                    Self::MOST_STEPS,
                    stage.unroll_steps
                )));
            }
            stage.inner.validated(name)?;
            for term in &stage.loss {
                finite(&format!("the weight of a loss of stage `{name}`"), term.weight())?;
                match term {
                    LossTerm::Supervised { split, .. } => {
                        if *split == TermSplit::Transfer
                            && self.transfer_split == TransferSplit::ValidUnlabelled
                        {
                            return Err(Error::config(format!(
                                "stage `{name}` would train on labels of the validation images: a \
                                 cross entropy with `split = \"transfer\"` does not go with \
                                 `transfer-split = \"valid-unlabelled\"`"
                            )));
                        }
                    }
                    LossTerm::Transfer { from, .. } => {
                        if *from >= i {
                            return Err(Error::config(format!(
                                "stage `{name}` can learn from earlier stages only"
                            )));
                        }
                    }
                }
            }
        }
        for objective in &self.objective {
            finite("the weight of a stage in the objective", objective.weight)?;
            if objective.stage >= self.stages.len() {
                return Err(Error::config("the objective names a stage that does not exist"));
            }
        }
        Ok(self)
    }

    /// Most inner steps that a hypergradient looks through.
    pub const MOST_STEPS: usize = 1000;
}
