//! Problems with known hypergradients.

mod arrays;
mod as_run;
mod cleaning;
mod linear;
mod logistic;
mod quadratic;
mod quadratic_parts;
mod ridge;
mod smooth;
mod smooth_network;
mod training;

pub use as_run::{AsRun, AsRunOptions};
pub use logistic::{Logistic, LogisticOptions};
pub use quadratic::{Quadratic, QuadraticOptions};
pub use ridge::{Ridge, RidgeOptions};
pub use smooth::{Smooth, SmoothOptions, Target};
