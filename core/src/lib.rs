//! tetlo's core: what a plugin author depends on. Traits, plain data, the registry and the config.
//!
//! No file access, no printing, no command line (ARCHITECTURE.md).
//!
//! A complete plugin, a transfer loss with an option:
//!
//! ```
//! use candle_core::Tensor;
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//! use tetlo_core::kinds::{TransferBatch, TransferLoss};
//! use tetlo_core::registry::{self, FromOptions};
//! use tetlo_core::rng::{Key, Purpose};
//! use tetlo_core::{Error, Result};
//!
//! /// Options of `mean-gap`: doc comments become the reference and the JSON schema.
//! #[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
//! #[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
//! pub struct MeanGapOptions {
//!     /// Factor of the loss.
//!     pub scale: f64,
//! }
//!
//! impl Default for MeanGapOptions {
//!     fn default() -> Self {
//!         Self { scale: 1.0 }
//!     }
//! }
//!
//! /// scale · (mean(main) − mean(aux))².
//! #[derive(Debug)]
//! pub struct MeanGap(f64);
//!
//! impl FromOptions for MeanGap {
//!     type Options = MeanGapOptions;
//!
//!     fn from_options(options: MeanGapOptions) -> Result<Self> {
//!         if options.scale <= 0.0 {
//!             return Err(Error::config(format!("`scale` must be positive, got {}", options.scale)));
//!         }
//!         Ok(Self(options.scale))
//!     }
//! }
//!
//! impl TransferLoss for MeanGap {
//!     fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
//!         let (main, aux) = batch.embeddings()?;
//!         let gap = (main.mean_all()? - aux.mean_all()?)?;
//!         Ok((gap.sqr()? * self.0)?)
//!     }
//! }
//!
//! tetlo_core::register_transfer_loss!("mean-gap", MeanGap, "squared gap of the means");
//!
//! # fn main() -> Result<()> {
//! let loss = registry::build::<dyn TransferLoss>("mean-gap", &serde_json::json!({"scale": 2.0}))?;
//! let device = candle_core::Device::Cpu;
//! let (main, aux) = (Tensor::new(&[[3f32], [1.0]], &device)?, Tensor::new(&[[0f32], [1.0]], &device)?);
//! let draws = Key::new(0, Purpose::Transfer).stream();
//! let value = loss.loss(&TransferBatch::of_embeddings(&main, &aux, draws)?)?.to_scalar::<f32>()?;
//! assert_eq!(value, 2.0 * 1.5 * 1.5); // means 2 and 0.5
//! # Ok(())
//! # }
//! ```

pub mod config;
pub mod data;
pub mod error;
pub mod foreign;
pub mod genotype;
pub mod kinds;
pub mod layout;
pub mod multilevel;
pub mod network;
pub mod optim;
pub mod registry;
pub mod rng;
pub mod space;

pub use error::{Error, Result};
#[doc(hidden)]
pub use inventory;
