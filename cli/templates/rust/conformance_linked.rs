//! Everything that tetlo asks of a plugin of this kind.

use my_plugin as _;
use tetlo_plugins as _;

#[test]
fn conforms() {
    tetlo_test_support::@SUITE@("@PLUGIN@");
}
