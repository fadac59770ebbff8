//! Stage graphs: the levels of a method, as data.

use crate::data::TransferSplit;
use crate::kinds::Needs;
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
    /// Name of the estimator of the mixed products.
    pub estimator: String,
    /// Options of the estimator.
    pub estimator_options: serde_json::Value,
    /// The architecture is updated every so many weight steps.
    pub every: usize,
    /// Epochs at the start in which the architecture stays as it is.
    pub warmup_epochs: usize,
    /// Where transfer losses take their images from.
    pub transfer_split: TransferSplit,
    /// What the transfer losses see of the teacher.
    pub control: Control,
    /// Do momentum and weight decay of the inner optimiser belong to the unrolled update?
    pub unroll_as_run: bool,
}

/// One level: a model, and the loss its weights are trained on.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Its name in records and errors.
    pub name: String,
    /// Whose weights it trains.
    pub model: ModelRole,
    /// The loss, a sum of terms.
    pub loss: Vec<LossTerm>,
}

/// Which network a stage trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelRole {
    /// The supernet that is searched.
    Main,
    /// The auxiliary model.
    Auxiliary,
}

/// A term of a stage's loss.
#[derive(Debug, Clone, PartialEq)]
pub enum LossTerm {
    /// Cross entropy of the stage's model on the training split.
    Supervised {
        /// Its weight.
        weight: f64,
    },
    /// The transfer loss from an earlier stage's updated model (teacher) to this one's (student).
    Transfer {
        /// Index of the teacher's stage.
        from: usize,
        /// Its weight λ.
        weight: f64,
    },
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
    pub fn bilevel(estimator: impl Into<String>) -> Self {
        Self {
            stages: vec![Stage {
                name: "main".into(),
                model: ModelRole::Main,
                loss: vec![LossTerm::Supervised { weight: 1.0 }],
            }],
            objective: vec![Objective { stage: 0, weight: 1.0 }],
            combine: Combine::Sum,
            rho: 1.0,
            match_max: 1e4,
            direct_term: true,
            estimator: estimator.into(),
            estimator_options: serde_json::Value::Null,
            every: 1,
            warmup_epochs: 0,
            transfer_split: TransferSplit::Train,
            control: Control::None,
            unroll_as_run: true,
        }
    }

    /// Does any stage train an auxiliary model?
    pub fn uses_auxiliary(&self) -> bool {
        self.stages.iter().any(|s| s.model == ModelRole::Auxiliary)
    }

    /// Does any stage have a transfer term that counts (λ > 0)?
    pub fn uses_transfer(&self) -> bool {
        let mut terms = self.stages.iter().flat_map(|s| &s.loss);
        terms.any(|t| matches!(t, LossTerm::Transfer { weight, .. } if *weight > 0.0))
    }

    /// Checks the graph against what its transfer loss looks at: a stage on whose validation loss
    /// the objective stands must have a loss that trains its classifier.
    ///
    /// # Errors
    /// A stage in the objective has no cross entropy, and the transfer loss does not reach its
    /// logits.
    pub fn check_transfer(&self, needs: Needs, reaches_main: bool) -> Result<()> {
        let main_counts = self.objective.iter().any(|o| o.stage == 0 && o.weight > 0.0);
        if !reaches_main && !main_counts {
            return Err(Error::config_hint(
                "`gamma = 0` with a transfer loss that does not reach the main model: nothing gives \
                 the architecture a gradient",
                "set `gamma` above 0, or take soft targets",
            ));
        }
        if needs.logits {
            return Ok(());
        }
        for objective in self.objective.iter().filter(|o| o.weight > 0.0) {
            let stage = &self.stages[objective.stage];
            let trained =
                |t: &LossTerm| matches!(t, LossTerm::Supervised { weight } if *weight > 0.0);
            if !stage.loss.iter().any(trained) {
                return Err(Error::config_hint(
                    format!(
                        "`aux-ce = 0` with a transfer loss that does not reach the logits: nothing \
                         trains the classifier of stage `{}`, whose validation loss the objective is",
                        stage.name
                    ),
                    "set `aux-ce` above 0, or take a transfer loss on logits",
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
                Err(Error::config(format!("`{what}` must be a number of at least 0, got {v}")))
            }
        };
        if self.stages.is_empty() || self.objective.is_empty() {
            return Err(Error::config("a stage graph needs a stage and an objective"));
        }
        if self.every == 0 {
            return Err(Error::config("`hypergrad-every` must be at least 1"));
        }
        finite("rho", self.rho)?;
        finite("match-max", self.match_max)?;
        for (i, stage) in self.stages.iter().enumerate() {
            if stage.loss.is_empty() {
                return Err(Error::config(format!("stage `{}` has no loss", stage.name)));
            }
            for term in &stage.loss {
                match term {
                    LossTerm::Supervised { weight } => finite("weight", *weight)?,
                    LossTerm::Transfer { from, weight } => {
                        finite("lambda", *weight)?;
                        if *from >= i {
                            return Err(Error::config(format!(
                                "stage `{}` can learn from earlier stages only",
                                stage.name
                            )));
                        }
                    }
                }
            }
        }
        for objective in &self.objective {
            finite("gamma", objective.weight)?;
            if objective.stage >= self.stages.len() {
                return Err(Error::config("the objective names a stage that does not exist"));
            }
        }
        Ok(self)
    }
}
