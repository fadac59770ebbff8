//! Hints.

use super::maps::{Features, at_one_size};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::{Invariances, Needs, Seen, TransferBatch, TransferLoss};
use tetlo_core::layout::{Init, Layout};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result};

/// The projector's name in the layout.
const PROJECTOR: &str = "projector.weight";

/// What squared differences are added up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// The sum over features, the mean over images: the paper's ½ ‖·‖².
    #[default]
    Sum,
    /// The mean over both.
    Mean,
}

/// `FitNets`' hints (Romero et al., ICLR 2015): the student's features, brought to the teacher's width by a
/// learnt linear projector, are to be the teacher's.
///
/// ```text
/// loss = mean_n ½ ‖P z_V[n] − z_M[n]‖²        P: D_M × D_V, drawn uniformly on ±1/√D_V
/// ```
/// With `features = "map"` z are feature maps and P is a 1 × 1 convolution; the larger map is averaged
/// over windows to the size of the smaller (the paper's regressor is a larger convolution without
/// padding that does so). `reduction = "mean"` divides by the number of features, as many
/// implementations do. P is a parameter of the loss, `projector.weight`, and trained with the student's
/// weights. Differentiable in both models and P.
/// ```toml
/// transfer-loss = { plugin = "hint", options = { features = "map", map = 1 } }
/// ```
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct HintOptions {
    /// What is compared.
    pub features: Features,
    /// With `features = "map"`: which map, counted from 0, the finest; absent: the coarsest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<usize>,
    /// What squared differences are added up to.
    pub reduction: Reduction,
}

/// Hints: the formula stands at [`HintOptions`].
#[derive(Debug)]
pub struct Hint {
    options: HintOptions,
}

impl FromOptions for Hint {
    type Options = HintOptions;

    fn from_options(options: HintOptions) -> Result<Self> {
        if options.features == Features::Embedding && options.map.is_some() {
            return Err(Error::config_hint(
                "`map` has no effect with `features = \"embedding\"`",
                "set `features = \"map\"`, or leave it out",
            ));
        }
        Ok(Self { options })
    }
}

impl Hint {
    /// The features of a model that are compared.
    fn features<'t>(&self, seen: &'t Seen, whose: &str) -> Result<&'t Tensor> {
        let maps = &seen.maps;
        let found = match (self.options.features, self.options.map) {
            (Features::Embedding, _) => seen.embedding.as_ref(),
            (Features::Map, None) => maps.last(),
            (Features::Map, Some(at)) => maps.get(at),
        };
        found.ok_or_else(|| match self.options.map {
            Some(at) if !maps.is_empty() => Error::config(format!(
                "`map` is {at}, but the {whose} model has the maps 0 to {}",
                maps.len() - 1
            )),
            _ => Error::Invalid(format!("the {whose} model's features are missing")),
        })
    }
}

impl TransferLoss for Hint {
    fn needs(&self) -> Needs {
        self.options.features.needs().with_parameters()
    }

    fn parameters(&self, main: &Seen, aux: &Seen) -> Result<Layout> {
        let (main, aux) = (self.features(main, "main")?, self.features(aux, "auxiliary")?);
        let (out, width) = (main.dim(1)?, aux.dim(1)?);
        let shape = match self.options.features {
            Features::Embedding => vec![out, width],
            Features::Map => vec![out, width, 1, 1],
        };
        let mut layout = Layout::new();
        layout.push(PROJECTOR, &shape, Init::fan_in(width));
        Ok(layout)
    }

    fn invariances(&self) -> Invariances {
        Invariances { order: true, ..Invariances::default() }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        let layout = self.parameters(&batch.main, &batch.aux)?;
        let projector = layout.view(batch.parameters()?, PROJECTOR)?;
        let main = self.features(&batch.main, "main")?;
        let aux = self.features(&batch.aux, "auxiliary")?;
        let apart = match self.options.features {
            Features::Embedding => (aux.matmul(&projector.t()?)? - main)?,
            Features::Map => {
                let [main, aux] = at_one_size(main, aux)?;
                (aux.conv2d(&projector, 0, 1, 1, 1)? - main)?
            }
        };
        let count = match self.options.reduction {
            Reduction::Sum => batch.len(),
            Reduction::Mean => apart.elem_count(),
        };
        Ok((apart.sqr()?.sum_all()? / (2.0 * count as f64))?)
    }
}

tetlo_core::register_transfer_loss!(
    "hint",
    Hint,
    "hints of FitNets: squared error of projected features"
);
