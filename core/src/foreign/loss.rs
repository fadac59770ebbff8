//! Transfer losses in foreign code.

use super::arrays::{Input, Role, ValueAndGradients};
use super::cost;
use crate::kinds::{Invariances, Needs, Seen, TransferBatch, TransferLoss};
use crate::rng::Stream;
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use std::fmt::Debug;
use std::time::Instant;

/// What a loss in foreign code says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Looks {
    /// What it looks at.
    pub needs: Needs,
    /// As [`TransferLoss::reaches_main`].
    pub reaches_main: bool,
    /// As [`TransferLoss::teacher_is_smooth`].
    pub teacher_is_smooth: bool,
    /// As [`TransferLoss::invariances`].
    pub invariances: Invariances,
}

impl Default for Looks {
    /// Embeddings of any batch; smooth, with a gradient to both models.
    fn default() -> Self {
        Self {
            needs: Needs::embeddings(1),
            reaches_main: true,
            teacher_is_smooth: true,
            invariances: Invariances::default(),
        }
    }
}

/// One call of a loss.
#[derive(Debug)]
pub struct LossCall<'a> {
    /// Images in the batch.
    pub images: usize,
    /// What the loss needs of both models, all of one type of numbers.
    pub inputs: &'a [Input],
    /// Labels, where it asked for them.
    pub labels: Option<&'a [u32]>,
    /// The random numbers of this step.
    pub draws: Stream,
}

/// Carries a loss's arrays to foreign code and back.
pub trait LossCode: Debug + Send + Sync {
    /// What the loss says of itself.
    fn looks(&self) -> Looks;

    /// The type of numbers (f32 or f64) that it takes, for tensors of this type.
    fn dtype(&self, of: DType) -> DType;

    /// The loss and its gradients in the inputs that want one.
    ///
    /// # Errors
    /// The code failed; the message says how.
    fn call(&self, call: &LossCall<'_>) -> Result<ValueAndGradients>;
}

/// A transfer loss whose value and gradients come from foreign code, in one call a pass.
///
/// It has no second derivative, and parameters of its own are not supported.
#[derive(Debug)]
pub struct ForeignLoss<C> {
    name: String,
    code: C,
    looks: Looks,
}

impl<C: LossCode> ForeignLoss<C> {
    /// The loss of this name, which errors tell.
    pub fn new(name: &str, code: C) -> Self {
        let looks = code.looks();
        Self { name: name.to_owned(), code, looks }
    }

    fn call(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        let needs = self.looks.needs;
        batch.check(needs)?;
        let began = Instant::now();
        let only = |seen: &Seen| Seen {
            embedding: seen.embedding.clone().filter(|_| needs.embeddings),
            logits: seen.logits.clone().filter(|_| needs.logits),
            maps: if needs.maps { seen.maps.clone() } else { vec![] },
        };
        let (main, aux) = (only(&batch.main), only(&batch.aux));
        let parts: Vec<(Role, &Tensor)> =
            listed(&main, true).into_iter().chain(listed(&aux, false)).collect();
        let Some((_, first)) = parts.first() else {
            return Err(Error::Invalid("looks at neither model".into()));
        };
        if needs.labels && needs.logits {
            check_labels(batch, &main, &aux)?;
        }
        let dtype = self.code.dtype(first.dtype());
        let mut inputs = Vec::with_capacity(parts.len());
        for (role, tensor) in &parts {
            let mut input = Input::new(*role, tensor, dtype)?;
            // Whoever says that nothing reaches the main model is not asked for it.
            let of_main = matches!(role, Role::Main | Role::MainLogits | Role::MainMap(_));
            input.wanted &= self.looks.reaches_main || !of_main;
            inputs.push(input);
        }
        let call = LossCall {
            images: batch.len(),
            inputs: &inputs,
            labels: batch.labels.filter(|_| needs.labels),
            draws: batch.draws.clone(),
        };
        let tensors: Vec<&Tensor> = parts.iter().map(|(_, t)| *t).collect();
        let result = self.code.call(&call)?.attach(&inputs, &tensors)?;
        cost::call(began.elapsed());
        Ok(result)
    }
}

fn listed(seen: &Seen, main: bool) -> Vec<(Role, &Tensor)> {
    let (embedding, logits) =
        if main { (Role::Main, Role::MainLogits) } else { (Role::Aux, Role::AuxLogits) };
    let map = |i| if main { Role::MainMap(i) } else { Role::AuxMap(i) };
    let mut list: Vec<_> = seen.embedding.iter().map(|t| (embedding, t)).collect();
    list.extend(seen.logits.iter().map(|t| (logits, t)));
    list.extend(seen.maps.iter().enumerate().map(|(i, t)| (map(i), t)));
    list
}

impl<C: LossCode> TransferLoss for ForeignLoss<C> {
    fn needs(&self) -> Needs {
        self.looks.needs
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        self.call(batch).map_err(|e| e.in_plugin(&self.name))
    }

    fn reaches_main(&self) -> bool {
        self.looks.reaches_main
    }

    fn teacher_is_smooth(&self) -> bool {
        self.looks.teacher_is_smooth
    }

    fn twice_differentiable(&self) -> bool {
        false
    }

    fn invariances(&self) -> Invariances {
        self.looks.invariances
    }
}

/// Labels index logits in foreign code, so a wrong one must not get there.
fn check_labels(batch: &TransferBatch<'_>, main: &Seen, aux: &Seen) -> Result<()> {
    let width = |seen: &Seen| seen.logits.as_ref().map_or(0, |t| t.dims()[1]);
    let (classes, other) = (width(main), width(aux));
    if classes != other {
        return Err(Error::Invalid(format!(
            "the main model scores {classes} classes, the auxiliary {other}"
        )));
    }
    match batch.labels()?.iter().find(|l| **l as usize >= classes) {
        Some(label) => Err(Error::Invalid(format!("the label {label} of {classes} classes"))),
        None => Ok(()),
    }
}
