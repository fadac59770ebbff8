//! Transfer losses.

mod attention;
mod contrastive;
mod example_loss;
mod hint;
mod kd;
mod maps;
mod math;
mod mistake_weights;
mod none;
mod pkt;
mod pseudo_label;
mod qrs;
mod rkd_angle;
mod rkd_distance;
mod similarity;
mod similarity_preserving;
#[cfg(test)]
mod tests;
mod triplet_relation;

pub use attention::{Attention, AttentionOptions};
pub use contrastive::{Contrastive, ContrastiveOptions};
pub use example_loss::SimilarityMse;
pub use hint::{Hint, HintOptions, Reduction};
pub use kd::{Kd, KdOptions};
pub use maps::{Features, Maps};
pub use mistake_weights::{MistakeWeights, MistakeWeightsOptions, Normalisation};
pub use none::{NoTransfer, NoTransferOptions};
pub use pkt::{Pkt, PktOptions};
pub use pseudo_label::{Labels, PseudoLabel, PseudoLabelOptions};
pub use qrs::{Form, Qrs, QrsOptions, Sampler, Target};
pub use rkd_angle::{RkdAngle, RkdAngleOptions};
pub use rkd_distance::{RkdDistance, RkdDistanceOptions};
pub use similarity::Similarity;
pub use similarity_preserving::{SimilarityPreserving, SimilarityPreservingOptions};
pub use triplet_relation::{TripletRelation, TripletRelationOptions, TripletSampler};
