//! No connection.

use tetlo_core::Result;
use tetlo_core::kinds::Operation;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::space::{Recipe, Site};

/// `Zero`: contributes nothing, whatever its weight.
#[derive(Debug)]
struct NoConnection;

impl FromOptions for NoConnection {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Operation for NoConnection {
    fn recipe(&self, _: Site) -> Recipe {
        Recipe::Zero
    }
}

tetlo_core::register_operation!("none", NoConnection, "no connection");
