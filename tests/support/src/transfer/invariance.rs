//! What a loss says that it does not notice.

use super::{Case, number};
use crate::numbers::{Precision, close, normal};
use crate::report::{Check, Report, ensure};
use candle_core::{DType, Device, Tensor};
use tetlo_core::kinds::Invariances;

/// A change of one model's embeddings.
type Change = Box<dyn Fn(&Tensor) -> Check<Tensor>>;
/// Changes by name.
type Changes = Vec<(String, Change)>;

/// Images in the batches.
const SIZES: [usize; 2] = [8, 13];

/// Checks each invariance that is declared.
pub(super) fn check(case: &Case<'_>, report: &mut Report<'_>) {
    let Invariances { order, scale, rotation, shift } = case.loss.invariances();
    if order {
        report.check("invariance: order of the images", || of_order(case));
    }
    let of_embeddings: [(_, _, fn() -> Changes); 3] =
        [("scale", scale, scales), ("rotation", rotation, rotations), ("shift", shift, shifts)];
    for (name, declared, changes) in of_embeddings {
        if declared {
            report.check(format_args!("invariance: {name}"), || of_changes(case, name, &changes()));
        }
    }
    if case.loss.invariances() == Invariances::default() {
        report.skip("invariances", "it declares none");
    }
}

fn unchanged(case: &Case<'_>, what: &str, after: f64, before: f64) -> Check {
    let (relative, absolute) = match case.precision {
        Precision::Double => (1e-8, 1e-12),
        Precision::Single => (1e-4, 1e-6),
    };
    close(&format!("{what} changes the loss"), &[after], &[before], relative, absolute)
}

fn of_order(case: &Case<'_>) -> Check {
    for size in SIZES {
        let images = case.images(size)?;
        let n = images.labels.len() as u32;
        let before = number(case.loss, &images)?;
        let orders: [Vec<u32>; 2] =
            [(0..n).rev().collect(), (0..n).map(|i| (i + n / 3 + 1) % n).collect()];
        for order in orders {
            let after = number(case.loss, &images.reordered(&order)?)?;
            unchanged(case, "another order of the images", after, before)?;
        }
    }
    Ok(())
}

fn of_changes(case: &Case<'_>, name: &str, changes: &Changes) -> Check {
    ensure!(case.loss.needs().embeddings, "it declares `{name}`, but looks at no embeddings");
    for size in SIZES {
        let images = case.images(size)?;
        let before = number(case.loss, &images)?;
        for (what, change) in changes {
            for whose in ["main", "aux"] {
                let mut changed = images.clone();
                let seen = if whose == "main" { &mut changed.main } else { &mut changed.aux };
                seen.embedding = seen.embedding.as_ref().map(change).transpose()?;
                let after = number(case.loss, &changed)?;
                unchanged(case, &format!("{what} of {whose}"), after, before)?;
            }
        }
    }
    Ok(())
}

fn scales() -> Changes {
    let by = |factor: f64| -> (String, Change) {
        (format!("the scale {factor}"), Box::new(move |z| Ok((z * factor)?)))
    };
    vec![by(0.3), by(4.0)]
}

fn rotations() -> Changes {
    vec![
        ("a mirror".to_owned(), Box::new(|z| mirrored(z, 31))),
        ("a rotation".to_owned(), Box::new(|z| mirrored(&mirrored(z, 31)?, 32))),
    ]
}

fn shifts() -> Changes {
    let by = |z: &Tensor| Ok(z.broadcast_add(&(normal(&[1, z.dim(1)?], 33)? * 2.0)?)?);
    vec![("a shift".to_owned(), Box::new(by))]
}

/// Rows mirrored at a plane through the origin: z (1 − 2 vᵀv / ‖v‖²).
fn mirrored(z: &Tensor, seed: u64) -> Check<Tensor> {
    let width = z.dim(1)?;
    let v = normal(&[width, 1], seed)?;
    let square = v.sqr()?.sum_all()?.to_scalar::<f64>()?;
    let identity = Tensor::eye(width, DType::F64, &Device::Cpu)?;
    Ok(z.matmul(&(identity - (v.matmul(&v.t()?)? * (2.0 / square))?)?)?)
}
