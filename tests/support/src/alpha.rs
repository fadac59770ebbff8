//! Functions of architecture parameters: relaxations and regularisers.

use crate::Suite;
use crate::numbers::{
    Precision, close_to_differences, differences, draws, finite, gradient, largest, normal, same,
    scalar,
};
use crate::report::{Check, Report, ensure, refused};
use crate::space::spaces;
use candle_core::{DType, Tensor, Var};
use tetlo_core::kinds::{Progress, Regularizer, Relaxation};
use tetlo_core::space::SpaceSpec;

/// Random α of each kind of cell, in f64.
fn alphas(space: &SpaceSpec, seed: u64) -> Check<Vec<Tensor>> {
    let layout = space.architecture();
    layout.entries().iter().zip(seed..).map(|(e, seed)| normal(&e.shape, seed)).collect()
}

impl Suite for dyn Relaxation {
    fn suite(relaxation: &Self, report: &mut Report<'_>) {
        for space in spaces() {
            report.check(format_args!("on the space `{}`", space.name), || {
                alphas(&space, 1)?.iter().try_for_each(|alpha| relaxes(relaxation, alpha))
            });
        }
    }
}

fn relaxes(relaxation: &dyn Relaxation, alpha: &Tensor) -> Check {
    let weights = |alpha: &Tensor| relaxation.weights(alpha, &mut draws(5));
    for scale in [1e-3, 1.0, 1e3] {
        for dtype in [DType::F64, DType::F32] {
            let alpha = (alpha * scale)?.to_dtype(dtype)?;
            let got = weights(&alpha)?;
            ensure!(got.dims() == alpha.dims(), "{:?} of α {:?}", got.dims(), alpha.dims());
            ensure!(got.dtype() == dtype, "{:?} of α in {dtype:?}", got.dtype());
            let got = finite("the weights", &got)?;
            same("the weights", &got, &finite("the weights", &weights(&alpha)?)?)?;
        }
    }
    // Any function of the weights: a random linear one.
    let factors = normal(alpha.dims(), 9)?;
    let function =
        |alpha: &Tensor| Ok::<_, tetlo_core::Error>((weights(alpha)? * &factors)?.sum_all()?);
    let var = Var::from_tensor(alpha)?;
    let of_alpha = gradient(&function(var.as_tensor())?, &[&var])?.concat();
    ensure!(largest(&of_alpha) > 0.0, "the weights give no gradient to α");
    let expected = differences(alpha, |alpha| scalar(&function(alpha)?, DType::F64))?;
    close_to_differences("α", &of_alpha, &expected)
}

impl Suite for dyn Regularizer {
    fn suite(regularizer: &Self, report: &mut Report<'_>) {
        for space in spaces() {
            for epoch in [0, 2, 4] {
                report.check(format_args!("on the space `{}`, epoch {epoch}", space.name), || {
                    let progress = Progress { epoch, epochs: 5, step: 10 * epoch };
                    penalises(regularizer, &alphas(&space, 1)?, progress)
                });
            }
        }
        report.check("no α at all", || {
            let progress = Progress { epoch: 0, epochs: 1, step: 0 };
            refused("it", || regularizer.penalty(&[], progress)).map(drop)
        });
    }
}

fn penalises(regularizer: &dyn Regularizer, alphas: &[Tensor], progress: Progress) -> Check {
    let vars: Vec<Var> = alphas.iter().map(Var::from_tensor).collect::<Result<_, _>>()?;
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let penalty = regularizer.penalty(&tracked, progress)?;
    let value = scalar(&penalty, DType::F64)?;
    ensure!(value.is_finite(), "the penalty is {value}");
    same(
        "the penalty",
        &[value],
        &[scalar(&regularizer.penalty(&tracked, progress)?, DType::F64)?],
    )?;
    let number = |alphas: &[Tensor]| scalar(&regularizer.penalty(alphas, progress)?, DType::F64);
    let precision = Precision::of(alphas, number)?;
    for (i, of_alpha) in gradient(&penalty, &vars.iter().collect::<Vec<_>>())?.iter().enumerate() {
        let expected = precision.differences(&alphas[i], |alpha| {
            let mut moved = alphas.to_vec();
            moved[i] = alpha.clone();
            number(&moved)
        })?;
        precision.close_to_differences("α", of_alpha, &expected, value)?;
    }
    let single: Vec<Tensor> =
        alphas.iter().map(|a| a.to_dtype(DType::F32)).collect::<Result<_, _>>()?;
    let in_f32 = scalar(&regularizer.penalty(&single, progress)?, DType::F32)?;
    ensure!((in_f32 - value).abs() <= 1e-4 * value.abs() + 1e-6, "{in_f32} in f32, {value} in f64");
    Ok(())
}
