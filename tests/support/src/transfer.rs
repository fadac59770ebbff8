//! Transfer losses.

mod images;
mod invariance;
mod refusal;
mod speed;

pub use speed::{Speed, median, speed};

use crate::Suite;
use crate::numbers::{Precision, close, gradient, largest, same, scalar};
use crate::report::{Check, Report, accepted, ensure};
use candle_core::{DType, Tensor, Var};
use images::{Images, Shapes};
use tetlo_core::kinds::TransferLoss;

/// A loss, and the features that it is tried on.
struct Case<'a> {
    loss: &'a dyn TransferLoss,
    shapes: [Shapes; 2],
    precision: Precision,
}

impl Suite for dyn TransferLoss {
    fn suite(loss: &Self, report: &mut Report<'_>) {
        let needs = loss.needs();
        let shapes = [Shapes::small(7), Shapes::small(5)];
        let mut case = Case { loss, shapes, precision: Precision::Double };
        report.measure("first call", || {
            case.try_out().map_err(|failure| failure.0)?;
            let widths = case.shapes.each_ref().map(|s| s.width);
            Ok(format!("widths {} and {}, counts in {}", widths[0], widths[1], case.precision))
        });
        if report.failed("first call") {
            report.skip("behaviour", "the first call fails");
            return;
        }
        let mut sizes = vec![needs.batch.max(1), needs.batch.max(8), needs.batch.max(16)];
        sizes.dedup();
        for n in sizes {
            if n == 1 {
                report.check("a batch of 1", || case.on_one());
                continue;
            }
            for (what, check) in CHECKS {
                report.check(format_args!("{what}, batch of {n}"), || check(&case, n));
            }
        }
        report.check("gradients asked for one by one", || case.one_by_one());
        invariance::check(&case, report);
        refusal::check(&case, report);
        report.check("diagnostics", || {
            let images = case.images(8)?;
            for (name, value) in loss.diagnostics(&images.batch(loss)?)? {
                ensure!(!name.is_empty() && value.is_finite(), "`{name}` is {value}");
            }
            Ok(())
        });
    }
}

/// What is checked on a batch of some images.
type OnBatch = fn(&Case<'_>, usize) -> Check;

const CHECKS: [(&str, OnBatch); 4] = [
    ("value, twice the same", |case, n| case.is_pure(n)),
    ("whom the gradient reaches", |case, n| case.reaches(n)),
    ("gradient against differences", |case, n| case.gradient_is_right(n)),
    ("f32 beside f64", |case, n| case.single_is_close(n)),
];

fn evaluate(loss: &dyn TransferLoss, images: &Images) -> tetlo_core::Result<Tensor> {
    loss.loss(&images.batch(loss)?)
}

/// The loss on features in f64.
fn number(loss: &dyn TransferLoss, images: &Images) -> Check<f64> {
    scalar(&evaluate(loss, images)?, DType::F64)
}

fn accepts(loss: &dyn TransferLoss, shapes: &[Shapes; 2]) -> bool {
    let what = "features of different widths";
    // A panic counts as taking them: the checks that follow will say so.
    let tried = accepted(what, || {
        let images = Images::new(loss, loss.needs().batch.max(8), shapes);
        images.map_or_else(|e| Err(tetlo_core::Error::Invalid(e.0)), |i| evaluate(loss, &i))
    });
    !matches!(tried, Ok(Err(_)))
}

/// Variables of all parts, and the images made of them.
fn tracked(images: &Images) -> Check<(Vec<Var>, Images)> {
    let parts = images.parts();
    let vars: Vec<Var> =
        parts.iter().map(|(_, t)| Ok(Var::from_tensor(t)?)).collect::<Check<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    Ok((vars, images.with(&tensors)?))
}

/// Value, and gradients in all parts.
fn with_gradient(loss: &dyn TransferLoss, images: &Images) -> Check<(f64, Vec<Vec<f64>>)> {
    let (vars, images) = tracked(images)?;
    let value = evaluate(loss, &images)?;
    let number = scalar(&value, vars.first().map_or(DType::F64, |v| v.dtype()))?;
    Ok((number, gradient(&value, &vars.iter().collect::<Vec<_>>())?))
}

impl Case<'_> {
    /// At least `n` images, and as many as the loss needs.
    fn images(&self, n: usize) -> Check<Images> {
        Images::new(self.loss, self.loss.needs().batch.max(n), &self.shapes)
    }

    /// Finds out what the loss takes and how it counts.
    fn try_out(&mut self) -> Check {
        // A loss may want features of one width.
        if !accepts(self.loss, &self.shapes) {
            self.shapes = [6, 6].map(Shapes::small);
        }
        let images = self.images(8)?;
        let parts: Vec<Tensor> = images.parts().into_iter().map(|(_, t)| t).collect();
        self.precision = Precision::of(&parts, |parts| number(self.loss, &images.with(parts)?))?;
        Ok(())
    }

    /// One image alone may be refused; else the loss and its gradient are right.
    fn on_one(&self) -> Check {
        let taken = accepted("it", || {
            let images = self.images(1).map_err(|failure| tetlo_core::Error::Invalid(failure.0))?;
            evaluate(self.loss, &images)
        })?;
        if taken.is_err() {
            return Ok(());
        }
        CHECKS.iter().try_for_each(|(_, check)| check(self, 1))
    }

    fn is_pure(&self, n: usize) -> Check {
        let images = self.images(n)?;
        let (value, gradients) = with_gradient(self.loss, &images)?;
        ensure!(value.is_finite(), "the loss is {value}");
        let again = with_gradient(self.loss, &images)?;
        same("the loss", &[value], &[again.0])?;
        for ((name, _), (first, second)) in
            images.parts().iter().zip(gradients.iter().zip(&again.1))
        {
            same(&format!("the gradient of {name}"), first, second)?;
        }
        Ok(())
    }

    fn reaches(&self, n: usize) -> Check {
        let loss = self.loss;
        let images = self.images(n)?;
        let parts = images.parts();
        let (value, gradients) = with_gradient(loss, &images)?;
        let of = |whose: &str| {
            let named =
                parts.iter().zip(&gradients).filter(|((name, _), _)| name.starts_with(whose));
            named.map(|(_, g)| largest(g)).fold(0.0, f64::max)
        };
        // No gradient to the teacher is a choice; then it is exactly none, and said.
        let (reaches, said) = (of("main") > 0.0, loss.reaches_main());
        ensure!(said || !reaches, "a gradient reaches main, but `reaches_main` is false");
        if n >= 8 {
            ensure!(reaches || !said, "no gradient reaches main, but `reaches_main` is true");
            // A loss of zero, which transfers nothing on purpose, depends on nothing.
            let depends = of("aux") > 0.0 || (value == 0.0 && !reaches);
            ensure!(depends, "nothing of the loss depends on aux");
            every_parameter_is_used(loss, &images, gradients.last())?;
        }
        Ok(())
    }

    fn gradient_is_right(&self, n: usize) -> Check {
        let loss = self.loss;
        let images = self.images(n)?;
        let (value, gradients) = with_gradient(loss, &images)?;
        // Differences see the jumps of a teacher that is not smooth, no gradient does.
        let of_main = loss.reaches_main() && loss.teacher_is_smooth();
        let parts = images.parts();
        for (i, ((name, tensor), gradient)) in parts.iter().zip(&gradients).enumerate().rev() {
            if of_main || !name.starts_with("main") {
                let differences = self
                    .precision
                    .differences(tensor, |moved| number(loss, &images.replaced(i, moved)?))?;
                self.precision.close_to_differences(name, gradient, &differences, value)?;
            }
        }
        Ok(())
    }

    fn single_is_close(&self, n: usize) -> Check {
        let images = self.images(n)?;
        let (value, gradients) = with_gradient(self.loss, &images)?;
        let (single, in_single) =
            with_gradient(self.loss, &images.map(|_, t| Ok(t.to_dtype(DType::F32)?))?)?;
        close("the loss in f32", &[single], &[value], 1e-3, 1e-5)?;
        for ((name, _), (single, double)) in
            images.parts().iter().zip(in_single.iter().zip(&gradients))
        {
            close(&format!("the gradient of {name} in f32"), single, double, 1e-2, 1e-5)?;
        }
        Ok(())
    }

    /// Value and gradients do not depend on which gradients are wanted.
    fn one_by_one(&self) -> Check {
        let images = self.images(8)?;
        let (value, gradients) = with_gradient(self.loss, &images)?;
        let plain = number(self.loss, &images)?;
        ensure!(
            plain.to_bits() == value.to_bits(),
            "the loss is {plain} where no gradient is wanted, else {value}"
        );
        for (at, ((name, tensor), expected)) in images.parts().iter().zip(&gradients).enumerate() {
            let var = Var::from_tensor(tensor)?;
            let value = evaluate(self.loss, &images.replaced(at, var.as_tensor())?)?;
            let alone = gradient(&value, &[&var])?.concat();
            let what = format!("the gradient of {name} where no other is wanted");
            close(&what, &alone, expected, 1e-9, 1e-12)?;
        }
        Ok(())
    }
}

/// Each named parameter has a gradient.
fn every_parameter_is_used(
    loss: &dyn TransferLoss,
    images: &Images,
    gradient: Option<&Vec<f64>>,
) -> Check {
    let (Some(gradient), Some(_)) = (gradient, &images.parameters) else { return Ok(()) };
    let layout = loss.parameters(&images.main, &images.aux)?;
    ensure!(layout.len() == gradient.len(), "{} gradients of its parameters", gradient.len());
    for entry in layout.entries() {
        let own = &gradient[entry.offset..][..entry.len()];
        ensure!(
            largest(own) > 0.0,
            "nothing of the loss depends on its parameter `{}`",
            entry.name
        );
    }
    Ok(())
}
