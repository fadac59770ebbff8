//! Quadruple relative similarities in plain Rust, with the gradient by hand: cosine similarities, soft
//! targets, random quadruples, as the built-in `qrs` draws them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_plugin::abi::{INVARIANT_ROTATION, INVARIANT_SCALE};
use tetlo_plugin::{Array, Batch, Gradients, Needs, Stream, TransferLoss};

/// Options of `qrs-rust`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Options {
    /// τ, in units of the similarity.
    pub temperature: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { temperature: 0.1 }
    }
}

/// The loss.
#[derive(Debug)]
pub struct Qrs(f64);

/// Rows of unit length, their norms, and their similarities.
struct Units {
    z: Vec<f64>,
    norms: Vec<f64>,
    s: Vec<f64>,
    d: usize,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Units {
    fn of(x: Array<'_>) -> Self {
        let (n, d) = (x.rows(), x.columns());
        let norms: Vec<f64> =
            (0..n).map(|i| dot(x.row(i), x.row(i)).max(1e-16).sqrt()).collect();
        let z: Vec<f64> = (0..n * d).map(|at| x.values[at] / norms[at / d]).collect();
        let row = |i: usize| &z[i * d..][..d];
        let s = (0..n * n).map(|at| dot(row(at / n), row(at % n))).collect();
        Self { z, norms, s, d }
    }

    /// From the gradient in the similarities to that in x.
    fn back(&self, g: &[f64], out: &mut [f64]) {
        let (n, d) = (self.norms.len(), self.d);
        for i in 0..n {
            let row = &mut out[i * d..][..d];
            for j in 0..n {
                let weight = g[i * n + j] + g[j * n + i];
                row.iter_mut().zip(&self.z[j * d..][..d]).for_each(|(r, z)| *r += weight * z);
            }
            let own = &self.z[i * d..][..d];
            let along = dot(row, own);
            row.iter_mut().zip(own).for_each(|(r, z)| *r = (*r - along * z) / self.norms[i]);
        }
    }
}

/// Places in an n × n matrix of the two pairs of each of 4n quadruples.
fn quadruples(n: usize, mut draws: Stream) -> Vec<(usize, usize)> {
    let pairs: Vec<usize> = (0..n * n).filter(|at| at / n < at % n).collect();
    if pairs.len() < 2 {
        return vec![];
    }
    let mut one = || {
        let (first, second) = (draws.below(pairs.len()), draws.below(pairs.len() - 1));
        (pairs[first], pairs[if second == first { pairs.len() - 1 } else { second }])
    };
    (0..4 * n).map(|_| one()).collect()
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

impl TransferLoss for Qrs {
    type Options = Options;

    fn new(options: Options) -> Result<Self, String> {
        if options.temperature <= 0.0 {
            return Err(format!("`temperature` must be positive, got `{}`", options.temperature));
        }
        Ok(Self(options.temperature))
    }

    fn needs(&self) -> Needs {
        Needs::embeddings(2).with(INVARIANT_SCALE | INVARIANT_ROTATION)
    }

    fn loss(&self, batch: &Batch<'_>, gradients: &mut Gradients<'_>) -> Result<f64, String> {
        let (tau, n) = (self.0, batch.images);
        let (main, aux) = (Units::of(batch.main()?), Units::of(batch.aux()?));
        let quadruples = quadruples(n, batch.draws.clone());
        let count = quadruples.len().max(1) as f64;
        let (mut of_main, mut of_aux) = (vec![0.0; n * n], vec![0.0; n * n]);
        let mut sum = 0.0;
        for (f, s) in quadruples {
            let (d_main, d_aux) = ((main.s[f] - main.s[s]) / tau, (aux.s[f] - aux.s[s]) / tau);
            let (p, q) = (1.0 / (1.0 + (-d_main).exp()), 1.0 / (1.0 + (-d_aux).exp()));
            sum += p * softplus(-d_aux) + (1.0 - p) * softplus(d_aux);
            let (g_main, g_aux) = (-d_aux * p * (1.0 - p), q - p);
            of_main[f] += g_main / (tau * count);
            of_main[s] -= g_main / (tau * count);
            of_aux[f] += g_aux / (tau * count);
            of_aux[s] -= g_aux / (tau * count);
        }
        if let Some(out) = &mut gradients.main {
            main.back(&of_main, out);
        }
        if let Some(out) = &mut gradients.aux {
            aux.back(&of_aux, out);
        }
        Ok(sum / count)
    }
}

tetlo_plugin::register_transfer_loss!("qrs-rust", Qrs, "quadruple relative similarities, in Rust");
