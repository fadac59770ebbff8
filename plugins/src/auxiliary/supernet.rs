//! An auxiliary model with an architecture of its own, searched beside the main one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tetlo_core::kinds::{Auxiliary, AuxiliarySite, Relaxation};
use tetlo_core::network::Network;
use tetlo_core::registry::{self, FromOptions};
use tetlo_core::{Error, Result};

/// Options of `supernet`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct SupernetOptions {
    /// Initial channels.
    pub channels: usize,
    /// Number of cells (of each stage where the space has stages).
    pub cells: usize,
    /// Relaxation of its own architecture parameters.
    pub relaxation: String,
}

impl Default for SupernetOptions {
    fn default() -> Self {
        Self { channels: 8, cells: 3, relaxation: "softmax".into() }
    }
}

/// A second supernet over the main model's space, of another size.
#[derive(Debug)]
struct AuxiliarySupernet {
    options: SupernetOptions,
    relaxation: Arc<dyn Relaxation>,
}

impl FromOptions for AuxiliarySupernet {
    type Options = SupernetOptions;

    fn from_options(options: SupernetOptions) -> Result<Self> {
        if options.channels == 0 || options.cells == 0 {
            return Err(Error::config("`channels` and `cells` must be at least 1"));
        }
        let relaxation =
            registry::build::<dyn Relaxation>(&options.relaxation, &serde_json::Value::Null)?;
        Ok(Self { relaxation: Arc::from(relaxation), options })
    }
}

impl Auxiliary for AuxiliarySupernet {
    fn network(&self, site: &AuxiliarySite<'_>) -> Result<Arc<dyn Network>> {
        let SupernetOptions { channels, cells, .. } = self.options;
        let mut space = site.space.clone();
        let channels = channels.min(site.most_channels);
        space.skeleton = space.skeleton.resized(channels, cells);
        let relaxation = self.relaxation.clone();
        let network = space.supernet(site.image, site.classes, relaxation)?;
        Ok(Arc::new(if site.maps { network.with_maps()? } else { network }))
    }
}

tetlo_core::register_auxiliary!(
    "supernet",
    AuxiliarySupernet,
    "a second supernet whose architecture is searched too"
);
