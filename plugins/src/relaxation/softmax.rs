//! Softmax over the operations of an edge.

use candle_core::{D, Tensor};
use tetlo_core::Result;
use tetlo_core::kinds::Relaxation;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::rng::Stream;

/// `w_eo = exp(α_eo) / Σ_p exp(α_ep)`, the continuous relaxation of DARTS (Liu et al. 2019, eq. 2).
///
/// α is edges × operations; so are the weights, each row of which sums to one.
#[derive(Debug)]
pub struct Softmax;

impl FromOptions for Softmax {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Relaxation for Softmax {
    fn weights(&self, alpha: &Tensor, _draws: &mut Stream) -> Result<Tensor> {
        Ok(candle_nn::ops::softmax(alpha, D::Minus1)?)
    }
}

tetlo_core::register_relaxation!("softmax", Softmax, "softmax over the operations of an edge");

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};
    use tetlo_core::rng::{Key, Purpose};

    #[test]
    fn weights_and_gradient_by_hand() {
        // Row 1: exp(0) : exp(ln 3) = 1/4 : 3/4. Row 2 does not overflow.
        let alpha = Var::new(&[[0.0, 3f64.ln()], [1000.0, 1000.0]], &Device::Cpu).unwrap();
        let mut draws = Key::new(0, Purpose::Relaxation).stream();
        let weights = Softmax.weights(&alpha, &mut draws).unwrap();
        let close = |got: Vec<Vec<f64>>, want: [[f64; 2]; 2]| {
            got.iter().flatten().zip(want.iter().flatten()).all(|(g, w)| (g - w).abs() < 1e-12)
        };
        assert!(close(weights.to_vec2().unwrap(), [[0.25, 0.75], [0.5, 0.5]]));
        // ∂w_1/∂α = (w_1 (1 − w_1), −w_1 w_2) = (3/16, −3/16).
        let first = weights.narrow(0, 0, 1).unwrap().narrow(1, 0, 1).unwrap().sum_all().unwrap();
        let gradient = first.backward().unwrap().get(&alpha).unwrap().to_vec2().unwrap();
        assert!(close(gradient, [[0.1875, -0.1875], [0.0, 0.0]]));
    }
}
