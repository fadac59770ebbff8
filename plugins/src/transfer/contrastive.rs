//! Contrastive distillation.

use super::math::{log_softmax, positive, unit};
use candle_core::{DType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::{Invariances, Needs, Seen, TransferBatch, TransferLoss};
use tetlo_core::layout::{Init, Layout};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result};

/// Names of the projectors in the layout.
const MAIN: &str = "main.projector.weight";
const AUX: &str = "aux.projector.weight";

/// Contrastive distillation: an image's two embeddings are to be more alike than those of different images
/// (after CRD: Tian, Krishnan and Isola, ICLR 2020; `InfoNCE` over the batch in place of a memory bank).
///
/// ```text
/// u_n = P_M z_M[n] / ‖·‖        v_n = P_V z_V[n] / ‖·‖        s[n, m] = ⟨v_n, u_m⟩ / τ
/// loss = −mean_n log softmax_m(s[n, ·])_n
/// symmetric: the mean of that and −mean_n log softmax_m(s[·, n])_n
/// ```
/// P_M (`width` × D_M) and P_V (`width` × D_V) are parameters of the loss, `main.projector.weight` and
/// `aux.projector.weight`, drawn uniformly on ±1/√D and trained with the student's weights; without
/// offsets. Norms are at least 1e-12. Unchanged by a positive scale of either model's embeddings.
/// Differentiable in both models and both projectors.
/// ```toml
/// transfer-loss = { plugin = "contrastive", options = { width = 64, temperature = 0.1 } }
/// ```
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct ContrastiveOptions {
    /// τ.
    pub temperature: f64,
    /// Width that both embeddings are projected to.
    pub width: usize,
    /// Also the teacher's embeddings against the student's.
    pub symmetric: bool,
}

impl Default for ContrastiveOptions {
    fn default() -> Self {
        Self { temperature: 0.07, width: 128, symmetric: true }
    }
}

/// Contrastive distillation: the formula stands at [`ContrastiveOptions`].
#[derive(Debug)]
pub struct Contrastive {
    options: ContrastiveOptions,
}

impl FromOptions for Contrastive {
    type Options = ContrastiveOptions;

    fn from_options(options: ContrastiveOptions) -> Result<Self> {
        positive("temperature", options.temperature)?;
        if options.width == 0 {
            return Err(Error::config("`width` must be at least 1, got `0`"));
        }
        Ok(Self { options })
    }
}

impl TransferLoss for Contrastive {
    fn needs(&self) -> Needs {
        Needs::embeddings(2).with_parameters()
    }

    fn parameters(&self, main: &Seen, aux: &Seen) -> Result<Layout> {
        let mut layout = Layout::new();
        for (name, seen) in [(MAIN, main), (AUX, aux)] {
            let embedding = seen.embedding.as_ref();
            let embedding =
                embedding.ok_or_else(|| Error::Invalid("needs both models' embeddings".into()))?;
            let width = embedding.dim(1)?;
            layout.push(name, &[self.options.width, width], Init::fan_in(width));
        }
        Ok(layout)
    }

    fn invariances(&self) -> Invariances {
        Invariances { order: true, scale: true, ..Invariances::default() }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        let layout = self.parameters(&batch.main, &batch.aux)?;
        let flat = batch.parameters()?;
        let projected = |z: &Tensor, name: &str| -> Result<Tensor> {
            unit(&z.matmul(&layout.view(flat, name)?.t()?)?)
        };
        let (main, aux) = batch.embeddings()?;
        let alike = projected(aux, AUX)?.matmul(&projected(main, MAIN)?.t()?)?;
        let own = Tensor::eye(batch.len(), DType::F64, alike.device())?.to_dtype(alike.dtype())?;
        let of = |rows: &Tensor| -> Result<Tensor> {
            let right = (log_softmax(rows, self.options.temperature)? * &own)?.sum_all()?;
            Ok((right / -(batch.len() as f64))?)
        };
        let student = of(&alike)?;
        if !self.options.symmetric {
            return Ok(student);
        }
        Ok(((student + of(&alike.t()?.contiguous()?)?)? * 0.5)?)
    }
}

tetlo_core::register_transfer_loss!(
    "contrastive",
    Contrastive,
    "contrastive distillation: InfoNCE between both models' embeddings"
);
