//! tetlo's own plugins as a shared library, candle inside.
use tetlo_plugins as _;
tetlo_core::export_plugins!();
