//! Pairs of feature maps of two models.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::{Needs, TransferBatch};
use tetlo_core::{Error, Result};

/// What of a model a loss compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Features {
    /// The features after global pooling.
    #[default]
    Embedding,
    /// Feature maps.
    Map,
}

impl Features {
    /// The needs of a loss on these features.
    pub(super) fn needs(self) -> Needs {
        match self {
            Self::Embedding => Needs::embeddings(2),
            Self::Map => Needs::batch(2).with_maps(),
        }
    }
}

/// Which feature maps a loss compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Maps {
    /// The finest with the finest and so on; both models must have as many.
    #[default]
    All,
    /// The coarsest of each model.
    Last,
}

impl Maps {
    /// The pairs (main, auxiliary).
    ///
    /// # Errors
    /// There are none, or with `All` more of one model than of the other.
    pub(super) fn pairs<'t>(self, batch: &'t TransferBatch<'_>) -> Result<Vec<[&'t Tensor; 2]>> {
        let (main, aux) = batch.maps()?;
        match self {
            Self::Last => {
                Ok(main.last().zip(aux.last()).map(|(m, a)| [m, a]).into_iter().collect())
            }
            Self::All if main.len() == aux.len() => {
                Ok(main.iter().zip(aux).map(|(m, a)| [m, a]).collect())
            }
            Self::All => Err(Error::config_hint(
                format!(
                    "the main model has {} feature maps, the auxiliary {}: not pairs",
                    main.len(),
                    aux.len()
                ),
                "set `maps = \"last\"`, or choose an auxiliary with as many resolutions",
            )),
        }
    }
}

/// Both maps at the smaller of their sizes, the larger averaged over windows.
///
/// # Errors
/// The larger side is no multiple of the smaller one.
pub(super) fn at_one_size(main: &Tensor, aux: &Tensor) -> Result<[Tensor; 2]> {
    let ((_, _, main_h, main_w), (_, _, aux_h, aux_w)) = (main.dims4()?, aux.dims4()?);
    let (h, w) = (main_h.min(aux_h), main_w.min(aux_w));
    let fits = |(y, x): (usize, usize)| h > 0 && w > 0 && y % h == 0 && x % w == 0;
    if !fits((main_h, main_w)) || !fits((aux_h, aux_w)) {
        return Err(Error::Invalid(format!(
            "feature maps of {main_h} × {main_w} (main) and {aux_h} × {aux_w} (auxiliary) cannot be \
             brought to one size: the larger side must be a multiple of the smaller"
        )));
    }
    Ok([averaged(main, h, w)?, averaged(aux, h, w)?])
}

/// Averages over windows, so that h × w remain.
fn averaged(map: &Tensor, h: usize, w: usize) -> Result<Tensor> {
    let (n, c, height, width) = map.dims4()?;
    if (height, width) == (h, w) {
        return Ok(map.clone());
    }
    let windows = [n * c * h, height / h, w, width / w];
    Ok(map.reshape(&windows)?.mean(3)?.mean(1)?.reshape((n, c, h, w))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_larger_map_is_averaged() {
        let ramp = |n: u32, shape: [usize; 4]| {
            Tensor::arange(0f64, f64::from(n), &Device::Cpu).unwrap().reshape(&shape).unwrap()
        };
        let [large, small] = at_one_size(&ramp(8, [1, 1, 2, 4]), &ramp(2, [1, 1, 1, 2])).unwrap();
        // Windows {0, 1, 4, 5} and {2, 3, 6, 7}.
        assert_eq!(large.flatten_all().unwrap().to_vec1::<f64>().unwrap(), [2.5, 4.5]);
        assert_eq!(small.flatten_all().unwrap().to_vec1::<f64>().unwrap(), [0.0, 1.0]);
        // Each side for itself.
        let [a, b] = at_one_size(&ramp(4, [1, 1, 4, 1]), &ramp(4, [1, 1, 1, 4])).unwrap();
        assert_eq!((a.dims(), b.dims()), ([1, 1, 1, 1].as_slice(), [1, 1, 1, 1].as_slice()));
        let error = at_one_size(&ramp(9, [1, 1, 3, 3]), &ramp(4, [1, 1, 2, 2])).unwrap_err();
        assert!(error.to_string().contains("3 × 3 (main) and 2 × 2 (auxiliary)"), "{error}");
    }
}
