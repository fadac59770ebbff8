//! Gradients of networks' weights past candle's sums.
//!
//! Candle adds each gradient to a fresh tensor of zeros. For the flat weights of a network that is two
//! more vectors of their length a pass, made and added on one thread (or on candle's own, which then
//! stand in the way of the workers here).

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor};
use std::cell::RefCell;

/// The gradient of one variable so far.
struct Collected {
    variable: Tensor,
    values: Vec<f32>,
}

thread_local! {
    /// Of the [`backward`] that runs on this thread, if one does.
    static COLLECTING: RefCell<Option<Vec<Collected>>> = const { RefCell::new(None) };
}

/// Puts back what was collected before, also if the backward pass fails.
struct Outer(Option<Vec<Collected>>);

impl Outer {
    fn begin() -> Self {
        Self(COLLECTING.replace(Some(Vec::new())))
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        COLLECTING.set(self.0.take());
    }
}

/// The same gradients as `loss.backward()`; those that compiled networks give for variables are
/// summed in one vector each, without candle's additions. Bits may differ in the sign of zeros.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    let outer = Outer::begin();
    let mut gradients = loss.backward()?;
    let collected = COLLECTING.take().unwrap_or_default();
    drop(outer);
    for Collected { variable, values } in collected {
        let mut gradient = Tensor::from_vec(values, variable.shape(), variable.device())?;
        if let Some(others) = gradients.get(&variable) {
            gradient = (others + gradient)?;
        }
        gradients.insert(&variable, gradient);
    }
    Ok(gradients)
}

/// The vector that a gradient of `variable` is to be added to, and whether [`give`] wants it back:
/// else candle does.
pub(crate) fn take(variable: &Tensor) -> (Vec<f32>, bool) {
    let collecting = variable.is_variable() && COLLECTING.with_borrow(Option::is_some);
    let known = COLLECTING.with_borrow_mut(|all| {
        let all = all.as_mut().filter(|_| collecting)?;
        let at = all.iter().position(|c| c.variable.id() == variable.id())?;
        Some(all.swap_remove(at).values)
    });
    (known.unwrap_or_else(|| vec![0.0; variable.elem_count()]), collecting)
}

pub(crate) fn give(variable: &Tensor, values: Vec<f32>) {
    let collected = Collected { variable: variable.clone(), values };
    COLLECTING.with_borrow_mut(|all| all.get_or_insert_default().push(collected));
}
