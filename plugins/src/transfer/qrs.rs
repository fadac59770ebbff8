//! Quadruple relative similarities, TETLO's own transfer loss.

mod quadruples;
#[cfg(test)]
mod tests;

use super::similarity::{self, Similarity};
use candle_core::{DType, Tensor};
pub(super) use quadruples::Quadruples;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::{Invariances, Needs, TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result};

/// What the auxiliary model is to reproduce of a quadruple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// `p_M = σ(d_M/τ)`: carries the gradient to the main model.
    Soft,
    /// `r = 1[d_M > 0]`: no gradient to the main model.
    Hard,
    /// The value of `hard` with the gradient of `soft` (straight through).
    HardForward,
}

/// How target and auxiliary model are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// `−[p log p_V + (1 − p) log(1 − p_V)]`.
    #[default]
    CrossEntropy,
    /// `max(0, m − (2r − 1) d_V)`.
    Margin,
}

/// Which quadruples of a batch are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Sampler {
    /// Two different pairs, uniformly.
    #[default]
    Random,
    /// Every unordered pair of different unordered pairs.
    All,
    /// Four different images.
    Disjoint,
    /// The first pair of one class, the second of two. Uses the labels.
    Stratified,
}

/// Quadruple relative similarities (QRS): the auxiliary model is to agree with the main model on
/// which of two pairs of images is the more similar one.
///
/// TETLO (Sheth and Xie, ICLR 2023) transfers such relations; the formula is our design, since the
/// paper's exact one is not available to us. With S the B × B similarity matrix of a model's
/// embeddings (main `B × D_M`, auxiliary `B × D_V`) and a quadruple q = (i, j, k, l), {i, j} ≠ {k, l}:
/// ```text
/// d(q)  = S[i, j] − S[k, l]              p(q) = σ(d(q)/τ)          (each for main M and auxiliary V)
/// QRS   = −mean_q [ p_M log p_V + (1 − p_M) log(1 − p_V) ]
/// hard:   r(q) = 1[d_M > 0] in place of p_M; no gradient to the main model
/// margin: mean_q max(0, m − (2r − 1) d_V), subgradient 0 at the kink
/// ```
/// `hard-forward` has the value of `hard` and, for each quadruple of Q, `∂/∂d_V = (p_V − r)/(τQ)` and
/// `∂/∂d_M = −d_V p_M(1 − p_M)/(τ²Q)`.
///
/// The mean is over the quadruples that `min-gap` keeps; without any (a batch of two has one pair)
/// the loss is 0. Not differentiated: the draw of quadruples, `min-gap`'s mask and r. Only plain
/// tensor operations, so second derivatives are right where candle keeps them. Cost O(B²D + Q).
/// ```toml
/// transfer-loss = { plugin = "qrs", options = { temperature = 0.05, sampler = "disjoint" } }
/// ```
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct QrsOptions {
    /// Similarity of two embeddings.
    pub similarity: Similarity,
    /// What is to be reproduced; absent: `soft`, with `form = "margin"` `hard`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// How target and auxiliary model are compared.
    pub form: Form,
    /// Which quadruples are compared.
    pub sampler: Sampler,
    /// Quadruples drawn a batch; 0: four an image. `sampler = "all"` takes them all.
    pub quadruples: usize,
    /// τ, in units of the similarity; absent: 0.1 with `cosine`, 1 otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Subtract the batch mean from the embeddings first.
    pub center: bool,
    /// m of `form = "margin"`; absent: τ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Drop quadruples with `|d_M|` up to this value; absent: keep all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_gap: Option<f64>,
}

/// Smallest τ: similarity differences over τ stay finite in f32.
const SMALLEST_TEMPERATURE: f64 = 1e-30;

/// Quadruple relative similarities: the formula stands at [`QrsOptions`].
#[derive(Debug)]
pub struct Qrs {
    similarity: Similarity,
    target: Target,
    form: Form,
    sampler: Sampler,
    quadruples: usize,
    temperature: f64,
    center: bool,
    margin: f64,
    min_gap: Option<f64>,
}

impl FromOptions for Qrs {
    type Options = QrsOptions;

    fn from_options(o: QrsOptions) -> Result<Self> {
        let temperature = o.temperature.unwrap_or(match o.similarity {
            Similarity::Cosine => 0.1,
            Similarity::Dot | Similarity::Euclidean => 1.0,
        });
        if !temperature.is_finite() || temperature < SMALLEST_TEMPERATURE {
            return Err(Error::config(format!(
                "`temperature` must be a number from {SMALLEST_TEMPERATURE:e} upwards, got \
                 `{temperature}`"
            )));
        }
        let margin = o.margin.unwrap_or(temperature);
        for (key, value) in [("margin", margin), ("min-gap", o.min_gap.unwrap_or(0.0))] {
            if !value.is_finite() || value < 0.0 {
                return Err(Error::config(format!(
                    "`{key}` must be a number from 0 upwards, got `{value}`"
                )));
            }
        }
        let target = match (o.form, o.target) {
            (Form::CrossEntropy, None) => Target::Soft,
            (Form::Margin, None) => Target::Hard,
            (Form::Margin, Some(Target::Soft)) => {
                return Err(Error::config_hint(
                    "`form = \"margin\"` compares with hard targets, `target` is `soft`",
                    "set `target` to `hard`, or to `hard-forward` for a gradient to the main model",
                ));
            }
            (_, Some(target)) => target,
        };
        Ok(Self {
            similarity: o.similarity,
            target,
            form: o.form,
            sampler: o.sampler,
            quadruples: o.quadruples,
            temperature,
            center: o.center,
            margin,
            min_gap: o.min_gap,
        })
    }
}

impl TransferLoss for Qrs {
    fn needs(&self) -> Needs {
        let needs = Needs::embeddings(2);
        if self.sampler == Sampler::Stratified { needs.with_labels() } else { needs }
    }

    fn reaches_main(&self) -> bool {
        self.target != Target::Hard
    }

    fn teacher_is_smooth(&self) -> bool {
        self.target == Target::Soft
    }

    fn invariances(&self) -> Invariances {
        Invariances {
            order: self.sampler == Sampler::All,
            scale: self.similarity == Similarity::Cosine,
            rotation: true,
            shift: self.center || self.similarity == Similarity::Euclidean,
        }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        self.mean_over(batch, &self.draw(batch)?)
    }

    /// `kl`: the mean of `KL(p_M ‖ p_V) = QRS − H(p_M)` with soft targets, 0 where both models agree;
    /// `std_main`, `std_aux`: standard deviations of the similarities of different images.
    fn diagnostics(&self, batch: &TransferBatch<'_>) -> Result<Vec<(&'static str, f64)>> {
        batch.check(self.needs())?;
        self.figures(batch, &self.draw(batch)?)
    }
}

impl Qrs {
    /// The mean loss of these quadruples of a batch of embeddings.
    pub(super) fn mean_over(
        &self,
        batch: &TransferBatch<'_>,
        quadruples: &Quadruples,
    ) -> Result<Tensor> {
        let view = self.view(batch, quadruples)?;
        let mean = view.mean(&self.terms(&view.main, &view.aux)?)?;
        Ok(mean.to_dtype(batch.embeddings()?.1.dtype())?)
    }

    /// What [`TransferLoss::diagnostics`] of `qrs` tells, over these quadruples.
    pub(super) fn figures(
        &self,
        batch: &TransferBatch<'_>,
        quadruples: &Quadruples,
    ) -> Result<Vec<(&'static str, f64)>> {
        let view = self.view(batch, quadruples)?;
        let (main, aux) = (view.main.detach(), view.aux.detach());
        let (main, aux) =
            (log_loss(&(main / self.temperature)?)?, log_loss(&(aux / self.temperature)?)?);
        let (p, q) = (main.of_one.neg()?.exp()?, main.of_zero.neg()?.exp()?);
        let kl = ((p * (aux.of_one - main.of_one)?)? + (q * (aux.of_zero - main.of_zero)?)?)?;
        let kl = view.mean(&kl)?.to_dtype(DType::F64)?.to_scalar()?;
        Ok(vec![
            ("kl", kl),
            ("std_main", similarity::spread(&view.s_main)?),
            ("std_aux", similarity::spread(&view.s_aux)?),
        ])
    }
}

/// What the loss sees of a batch.
struct View {
    /// Similarities of the main and of the auxiliary model, B × B.
    s_main: Tensor,
    s_aux: Tensor,
    /// `d_M` and `d_V`, one a quadruple.
    main: Tensor,
    aux: Tensor,
    /// 1 for quadruples that count, 0 for dropped ones, and the number of those that count.
    kept: Option<Tensor>,
    count: usize,
}

impl View {
    /// The mean of `terms` over the quadruples that count; 0 (still a function of the embeddings,
    /// so that gradients exist) without any.
    fn mean(&self, terms: &Tensor) -> Result<Tensor> {
        if self.count == 0 {
            let touched = (self.s_main.sum_all()? + self.s_aux.sum_all()?)?;
            // Not `* 0.0`: candle takes that for a constant and cuts the graph.
            return Ok((&touched * touched.zeros_like()?)?);
        }
        let sum = match &self.kept {
            Some(kept) => (terms * kept)?.sum_all()?,
            None => terms.sum_all()?,
        };
        Ok((sum / self.count as f64)?)
    }
}

impl Qrs {
    fn view(&self, batch: &TransferBatch<'_>, quadruples: &Quadruples) -> Result<View> {
        let (main, aux) = batch.embeddings()?;
        let main = match self.target {
            Target::Hard => main.detach(),
            Target::Soft | Target::HardForward => main.clone(),
        };
        // Differences of similarities cancel, and estimators take differences of this loss's gradients in
        // turn: in double precision inside, so that what is seen of it is right to its last digit.
        self.view_of(&main.to_dtype(DType::F64)?, &aux.to_dtype(DType::F64)?, quadruples)
    }

    fn view_of(&self, main: &Tensor, aux: &Tensor, quadruples: &Quadruples) -> Result<View> {
        let s_main = similarity::matrix(main, self.similarity, self.center)?;
        let s_aux = similarity::matrix(aux, self.similarity, self.center)?;
        let (main, aux) = (quadruples.differences(&s_main)?, quadruples.differences(&s_aux)?);
        let (kept, count) = match self.min_gap {
            None => (None, quadruples.len()),
            Some(gap) => {
                let kept = main.detach().abs()?.gt(gap)?.to_dtype(DType::F64)?;
                let count = kept.sum_all()?.to_scalar::<f64>()? as usize;
                (Some(kept.to_dtype(aux.dtype())?), count)
            }
        };
        Ok(View { s_main, s_aux, main, aux, kept, count })
    }

    fn draw(&self, batch: &TransferBatch<'_>) -> Result<Quadruples> {
        let images = batch.len();
        let wanted = if self.quadruples == 0 { 4 * images } else { self.quadruples };
        let mut draws = batch.draws.clone();
        match self.sampler {
            Sampler::Random => Ok(Quadruples::random(images, wanted, &mut draws)),
            Sampler::All => Quadruples::all(images),
            Sampler::Disjoint => Ok(Quadruples::disjoint(images, wanted, &mut draws)),
            Sampler::Stratified => {
                let labels = batch.labels.unwrap_or_default();
                Ok(Quadruples::stratified(labels, wanted, &mut draws))
            }
        }
    }

    /// The loss of each quadruple, from `d_M` and `d_V`.
    fn terms(&self, main: &Tensor, aux: &Tensor) -> Result<Tensor> {
        let target = self.target(main)?;
        match self.form {
            Form::CrossEntropy => {
                let student = log_loss(&(aux / self.temperature)?)?;
                Ok(((target.one * student.of_one)? + (target.zero * student.of_zero)?)?)
            }
            Form::Margin => {
                let sign = (target.one - target.zero)?;
                let short = ((sign * aux)?.neg()? + self.margin)?;
                let positive = short.detach().gt(0.0)?.to_dtype(short.dtype())?;
                Ok((short * positive)?)
            }
        }
    }

    fn target(&self, main: &Tensor) -> Result<Probabilities> {
        let soft = || -> Result<Probabilities> {
            let LogLoss { of_one, of_zero } = log_loss(&(main / self.temperature)?)?;
            Ok(Probabilities { one: of_one.neg()?.exp()?, zero: of_zero.neg()?.exp()? })
        };
        let hard = || -> Result<Probabilities> {
            let one = main.detach().gt(0.0)?.to_dtype(main.dtype())?;
            let zero = (1.0 - &one)?;
            Ok(Probabilities { one, zero })
        };
        match self.target {
            Target::Soft => soft(),
            Target::Hard => hard(),
            Target::HardForward => {
                let (soft, hard) = (soft()?, hard()?);
                let through = (&soft.one - soft.one.detach())?;
                Ok(Probabilities { one: (hard.one + &through)?, zero: (hard.zero - &through)? })
            }
        }
    }
}

/// Probability of "the first pair is the more similar one" and of its contrary. Both, since 1 − p
/// has no correct digit for p near 1.
struct Probabilities {
    one: Tensor,
    zero: Tensor,
}

/// −log σ(x) and −log(1 − σ(x)) = −log σ(−x).
struct LogLoss {
    of_one: Tensor,
    of_zero: Tensor,
}

/// −log σ(x) = max(−x, 0) + log(1 + exp(−|x|)), which neither overflows nor cancels.
///
/// The kinks of max and |·| at 0 take one and the same side, so that the derivative there is that of
/// the smooth function.
fn log_loss(x: &Tensor) -> Result<LogLoss> {
    let above = x.detach().ge(0.0)?.to_dtype(x.dtype())?;
    let sign = ((&above * 2.0)? - 1.0)?;
    let small = (x * sign)?.neg()?.exp()?;
    // log(1 + y) with what 1 + y lost to rounding, which matters for y below 1e-8.
    let shifted = (&small + 1.0)?;
    let lost = ((small.detach() - (shifted.detach() - 1.0)?)? / shifted.detach())?;
    let log = (shifted.log()? + lost)?;
    // max(x, 0) and max(−x, 0) apart: one as the other minus x would leave rounding in the slope.
    let (up, down) = ((x * &above)?, (x * (above - 1.0)?)?);
    Ok(LogLoss { of_one: (down + &log)?, of_zero: (up + log)? })
}

tetlo_core::register_transfer_loss!(
    "qrs",
    Qrs,
    "quadruple relative similarities: which of two pairs of images is the more similar one"
);
