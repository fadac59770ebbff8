//! Transfer losses.

use crate::Suite;
use crate::numbers::{
    close, close_to_differences, differences, finite, gradient, largest, normal, same, scalar,
    values,
};
use crate::report::{Check, Report, ensure, refused};
use candle_core::{DType, Tensor, Var};
use tetlo_core::kinds::{Seen, TransferBatch, TransferLoss};
use tetlo_core::rng::{Key, Purpose};

/// Features of `n` images.
struct Images {
    main: Tensor,
    aux: Tensor,
    labels: Vec<u32>,
}

impl Images {
    fn new(n: usize, widths: (usize, usize)) -> Check<Self> {
        let labels = (0..n).map(|i| i as u32 % 3).collect();
        Ok(Self { main: normal(&[n, widths.0], 1)?, aux: normal(&[n, widths.1], 2)?, labels })
    }
}

impl Suite for dyn TransferLoss {
    fn suite(loss: &Self, report: &mut Report) {
        let needs = loss.needs();
        let widths = match needs {
            needs if needs.logits => (5, 5),
            // A loss may want embeddings of one width.
            _ if accepts(loss, (7, 5)) => (7, 5),
            _ => (6, 6),
        };
        for n in [needs.batch.max(1), needs.batch.max(8), needs.batch.max(16)] {
            report.check(format_args!("a batch of {n}"), || on_batch(loss, n, widths));
        }
        report.check("what it needs", || refuses(loss, widths));
        report.check("features that are not a number", || not_a_number(loss, widths));
        report.check("diagnostics", || {
            let images = Images::new(needs.batch.max(8), widths)?;
            for (name, value) in loss.diagnostics(&batch(&images, loss)?)? {
                ensure!(!name.is_empty() && value.is_finite(), "`{name}` is {value}");
            }
            Ok(())
        });
    }
}

fn batch<'a>(images: &'a Images, loss: &dyn TransferLoss) -> tetlo_core::Result<TransferBatch<'a>> {
    let draws = Key::new(3, Purpose::Transfer).stream();
    let labels = loss.needs().labels.then_some(images.labels.as_slice());
    let seen = |t: &Tensor| match loss.needs() {
        needs if needs.logits => Seen::logits(t.clone()),
        _ => Seen::embedding(t.clone()),
    };
    Ok(TransferBatch::new(seen(&images.main), seen(&images.aux), draws)?.with_labels(labels))
}

fn evaluate(loss: &dyn TransferLoss, images: &Images) -> tetlo_core::Result<Tensor> {
    loss.loss(&batch(images, loss)?)
}

fn accepts(loss: &dyn TransferLoss, widths: (usize, usize)) -> bool {
    let images = Images::new(loss.needs().batch.max(8), widths);
    images.is_ok_and(|images| evaluate(loss, &images).is_ok())
}

/// Value and gradients in both features.
fn with_gradient(loss: &dyn TransferLoss, images: &Images) -> Check<(f64, [Vec<f64>; 2])> {
    let (main, aux) = (Var::from_tensor(&images.main)?, Var::from_tensor(&images.aux)?);
    let seen = Images {
        main: main.as_tensor().clone(),
        aux: aux.as_tensor().clone(),
        labels: images.labels.clone(),
    };
    let value = evaluate(loss, &seen)?;
    let number = scalar(&value, images.main.dtype())?;
    let mut gradients = gradient(&value, &[&main, &aux])?.into_iter();
    let mut next = || gradients.next().unwrap_or_default();
    Ok((number, [next(), next()]))
}

fn on_batch(loss: &dyn TransferLoss, n: usize, widths: (usize, usize)) -> Check {
    let images = Images::new(n, widths)?;
    let (value, [main, aux]) = with_gradient(loss, &images)?;
    ensure!(value.is_finite(), "the loss is {value}");
    let again = with_gradient(loss, &images)?;
    same("the loss", &[value], &[again.0])?;
    same("the gradient of main", &main, &again.1[0])?;
    same("the gradient of aux", &aux, &again.1[1])?;

    let number = |main: &Tensor, aux: &Tensor| {
        let moved = Images { main: main.clone(), aux: aux.clone(), labels: images.labels.clone() };
        scalar(&evaluate(loss, &moved)?, DType::F64)
    };
    let in_aux = differences(&images.aux, |aux| number(&images.main, aux))?;
    close_to_differences("aux", &aux, &in_aux)?;
    ensure!(n < 8 || largest(&aux) > 0.0, "nothing of the loss depends on aux");
    // No gradient to the teacher is a choice; then it is exactly none.
    if largest(&main) > 0.0 {
        let in_main = differences(&images.main, |main| number(main, &images.aux))?;
        close_to_differences("main", &main, &in_main)?;
    }

    let single = Images {
        main: images.main.to_dtype(DType::F32)?,
        aux: images.aux.to_dtype(DType::F32)?,
        labels: images.labels.clone(),
    };
    let (single, [single_main, single_aux]) = with_gradient(loss, &single)?;
    close("the loss in f32", &[single], &[value], 1e-3, 1e-5)?;
    close("the gradient of main in f32", &single_main, &main, 1e-2, 1e-5)?;
    close("the gradient of aux in f32", &single_aux, &aux, 1e-2, 1e-5)
}

fn refuses(loss: &dyn TransferLoss, widths: (usize, usize)) -> Check {
    let needs = loss.needs();
    ensure!(needs.batch >= 1, "needs a batch of {} images", needs.batch);
    if needs.batch > 1 {
        let few = Images::new(needs.batch - 1, widths)?;
        refused(format_args!("a batch of {}", needs.batch - 1), || evaluate(loss, &few))?;
    }
    let images = Images::new(needs.batch.max(8), widths)?;
    if needs.labels {
        let none = batch(&images, loss)?.with_labels(None);
        refused("a batch without labels", || loss.loss(&none))?;
        let few = batch(&images, loss)?.with_labels(Some(&images.labels[1..]));
        refused("a batch with a label too few", || loss.loss(&few))?;
    }
    if needs.logits {
        let other = Images::new(needs.batch.max(8), (5, 4))?;
        refused("logits of different classes", || evaluate(loss, &other))?;
    }
    Ok(())
}

/// One value of every image is NaN, so that no sample of the batch misses it.
fn not_a_number(loss: &dyn TransferLoss, widths: (usize, usize)) -> Check {
    let with = |tensor: &Tensor| -> Check<Tensor> {
        let width = tensor.dims()[1];
        let mut values = values(tensor)?;
        values.iter_mut().step_by(width).for_each(|v| *v = f64::NAN);
        Ok(Tensor::from_vec(values, tensor.dims(), tensor.device())?)
    };
    for side in ["main", "aux"] {
        let mut images = Images::new(loss.needs().batch.max(8), widths)?;
        let spoilt = if side == "main" { &mut images.main } else { &mut images.aux };
        *spoilt = with(spoilt)?;
        if let Ok(value) = evaluate(loss, &images) {
            ensure!(
                finite("the loss", &value).is_err(),
                "with NaN in {side} the loss is {value}, which hides it"
            );
        }
    }
    Ok(())
}
