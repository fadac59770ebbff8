//! Relations of triples, the sibling of `qrs`.

use super::qrs::{Qrs, QrsOptions, Quadruples, Target};
use super::similarity::Similarity;
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;
use tetlo_core::kinds::{Invariances, Needs, TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;

/// Which triples of a batch are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TripletSampler {
    /// Three different images, uniformly.
    #[default]
    Random,
    /// Every image with every unordered pair of others.
    All,
}

/// Relations of triples: the auxiliary model is to agree with the main model on which of two images is
/// more similar to a third.
///
/// The ablation of TETLO's quadruples (Sheth and Xie, ICLR 2023) to triples; as with `qrs` the formula is
/// our design. With S the matrix of similarities and a triple q = (i, j, k) of different images:
/// ```text
/// d(q) = S[i, j] − S[i, k]              p(q) = σ(d(q)/τ)          (each for main M and auxiliary V)
/// loss = −mean_q [ p_M log p_V + (1 − p_M) log(1 − p_V) ]
/// hard: r(q) = 1[d_M > 0] in place of p_M; no gradient to the main model
/// ```
/// A batch of two images has no triple and the loss 0. A triple is the quadruple (i, j, i, k) and treated
/// as `qrs` treats it. Cost O(N²D + Q) for Q triples.
/// ```toml
/// transfer-loss = { plugin = "triplet-relation", options = { sampler = "all", temperature = 0.05 } }
/// ```
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct TripletRelationOptions {
    /// Similarity of two embeddings.
    pub similarity: Similarity,
    /// What is to be reproduced; absent: `soft`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Which triples are compared.
    pub sampler: TripletSampler,
    /// Triples drawn a batch; 0: four an image. `sampler = "all"` takes them all.
    pub triples: usize,
    /// τ, in units of the similarity; absent: 0.1 with `cosine`, 1 otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Subtract the batch mean from the embeddings first.
    pub center: bool,
}

/// Relations of triples: the formula stands at [`TripletRelationOptions`].
#[derive(Debug)]
pub struct TripletRelation {
    /// Loss of relations, whichever they are.
    relations: Qrs,
    sampler: TripletSampler,
    triples: usize,
}

impl FromOptions for TripletRelation {
    type Options = TripletRelationOptions;

    fn from_options(o: TripletRelationOptions) -> Result<Self> {
        let relations = Qrs::from_options(QrsOptions {
            similarity: o.similarity,
            target: o.target,
            temperature: o.temperature,
            center: o.center,
            ..QrsOptions::default()
        })?;
        Ok(Self { relations, sampler: o.sampler, triples: o.triples })
    }
}

impl TripletRelation {
    fn draw(&self, batch: &TransferBatch<'_>) -> Result<Quadruples> {
        let images = batch.len();
        let wanted = if self.triples == 0 { 4 * images } else { self.triples };
        match self.sampler {
            TripletSampler::All => Quadruples::all_triples(images),
            TripletSampler::Random => {
                Ok(Quadruples::random_triples(images, wanted, &mut batch.draws.clone()))
            }
        }
    }
}

impl TransferLoss for TripletRelation {
    fn needs(&self) -> Needs {
        Needs::embeddings(2)
    }

    fn reaches_main(&self) -> bool {
        self.relations.reaches_main()
    }

    fn teacher_is_smooth(&self) -> bool {
        self.relations.teacher_is_smooth()
    }

    fn invariances(&self) -> Invariances {
        let order = self.sampler == TripletSampler::All;
        Invariances { order, ..self.relations.invariances() }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        self.relations.mean_over(batch, &self.draw(batch)?)
    }

    /// As those of `qrs`.
    fn diagnostics(&self, batch: &TransferBatch<'_>) -> Result<Vec<(&'static str, f64)>> {
        batch.check(self.needs())?;
        self.relations.figures(batch, &self.draw(batch)?)
    }
}

tetlo_core::register_transfer_loss!(
    "triplet-relation",
    TripletRelation,
    "relations of triples: which of two images is more similar to a third"
);
