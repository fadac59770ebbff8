//! The gradient against central differences; `tetlo plugins check` checks all else.

use my_loss::MyLoss;

#[test]
fn the_gradient_is_the_derivative() {
    let error = tetlo_plugin::testing::gradient_error(&MyLoss::default());
    assert!(error.as_ref().is_ok_and(|e| *e < 1e-6), "{error:?}");
}
