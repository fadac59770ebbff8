//! What a loss must refuse, and what it must not break on.

use super::images::{CLASSES, Images};
use super::{Case, evaluate, number, with_gradient};
use crate::numbers::{finite, normal, values};
use crate::report::{Check, Failure, Report, accepted, ensure, refused};
use candle_core::Tensor;
use tetlo_core::kinds::{Seen, TransferLoss};

pub(super) fn check(case: &Case<'_>, report: &mut Report<'_>) {
    report.check("what it needs", || needs(case));
    report.check("wrong shapes", || wrong_shapes(case));
    report.check("other shapes", || other_shapes(case));
    report.check("NaN", || not_a_number(case));
    report.check("infinity", || infinity(case));
}

/// The loss on features of other shapes, with parameters for them.
fn on_shapes(loss: &dyn TransferLoss, images: &Images) -> tetlo_core::Result<Tensor> {
    evaluate(loss, &images.clone().with_own_parameters(loss)?)
}

fn needs(case: &Case<'_>) -> Check {
    let loss = case.loss;
    let needs = loss.needs();
    ensure!(needs.batch >= 1, "needs a batch of {} images", needs.batch);
    let images = case.images(8)?;
    let n = images.labels.len();
    for few in [needs.batch - 1, needs.batch.min(2) - 1] {
        if few > 0 {
            let small = images.first(few)?;
            refused(format_args!("a batch of {few}"), || evaluate(loss, &small))?;
        }
    }
    if needs.labels {
        let none = images.batch(loss)?.with_labels(None);
        refused("a batch without labels", || loss.loss(&none))?;
        let few = images.batch(loss)?.with_labels(Some(&images.labels[1..]));
        refused("a batch with a label too few", || loss.loss(&few))?;
    }
    if needs.labels && needs.logits {
        let mut other = images.clone();
        other.labels[1] = CLASSES as u32;
        let what = format!("the label {CLASSES} of {CLASSES} classes");
        refused(what, || evaluate(loss, &other))?;
    }
    if needs.logits {
        let mut other = images.clone();
        other.aux.logits = Some(normal(&[n, CLASSES - 1], 9)?);
        refused("logits of different classes", || evaluate(loss, &other))?;
    }
    if needs.parameters {
        let mut other = images.clone();
        other.parameters = None;
        refused("a batch without the loss's parameters", || evaluate(loss, &other))?;
    }
    // Something that it did not ask for, in place of what it needs.
    let other = if needs.embeddings {
        Seen::logits(normal(&[n, CLASSES], 9)?)
    } else {
        Seen::embedding(normal(&[n, CLASSES], 9)?)
    };
    let other = Images { main: other.clone(), aux: other, ..images };
    refused("a batch of other features than it needs", || evaluate(loss, &other))?;
    Ok(())
}

/// The parts of both models, without the loss's parameters.
fn features(images: &Images) -> Vec<(usize, String, Tensor)> {
    let count = images.main.tensors().count() + images.aux.tensors().count();
    let parts = images.parts().into_iter().take(count).enumerate();
    parts.map(|(at, (name, t))| (at, name, t)).collect()
}

fn wrong_shapes(case: &Case<'_>) -> Check {
    let images = case.images(8)?;
    let n = images.labels.len();
    for (at, name, tensor) in features(&images) {
        let flat = tensor.flatten_all()?.narrow(0, 0, n)?;
        let deep = tensor.unsqueeze(tensor.rank())?;
        let fewer = tensor.narrow(0, 0, n - 1)?;
        let mut wrong = vec![
            (format!("{name} of no width"), tensor.narrow(1, 0, 0)?),
            (format!("{name} of rank 1"), flat),
            (format!("{name} of rank {}", deep.rank()), deep),
            (format!("{name} of an image less"), fewer),
        ];
        if tensor.rank() == 4 {
            wrong.push((format!("{name} of rank 3"), tensor.flatten_from(2)?));
        }
        for (what, tensor) in wrong {
            let other = images.replaced(at, &tensor)?;
            refused(what, || on_shapes(case.loss, &other))?;
        }
    }
    let none = images.first(0)?;
    refused("a batch of no images", || on_shapes(case.loss, &none))?;
    Ok(())
}

/// Shapes that a loss may take or refuse: never a panic, and no nonsense where it takes them.
fn other_shapes(case: &Case<'_>) -> Check {
    let images = case.images(8)?;
    let tried = |what: &str, other: &Images| -> Check<Option<Tensor>> {
        Ok(accepted(what, || on_shapes(case.loss, other))?.ok())
    };
    for (at, name, tensor) in features(&images) {
        let mut dims = tensor.dims().to_vec();
        dims[1] += 1;
        let mut others = vec![(format!("{name} of another width"), normal(&dims, 41)?)];
        if tensor.rank() == 4 {
            let (n, channels) = (dims[0], dims[1] - 1);
            others.push((format!("{name} of 3 × 3 pixels"), normal(&[n, channels, 3, 3], 42)?));
        }
        for (what, tensor) in others {
            if let Some(value) = tried(&what, &images.replaced(at, &tensor)?)? {
                finite(&format!("the loss with {what}"), &value)?;
            }
        }
    }
    let mut one = images.clone();
    if one.aux.maps.pop().is_some() {
        tried("a feature map of aux less", &one)?;
    }
    Ok(())
}

/// One value of every image is spoilt, so that no sample of the batch misses it.
fn spoilt(tensor: &Tensor, by: f64) -> Check<Tensor> {
    let each = tensor.elem_count() / tensor.dims().first().copied().unwrap_or(1).max(1);
    let mut values = values(tensor)?;
    values.iter_mut().step_by(each.max(1)).for_each(|v| *v = by);
    Ok(Tensor::from_vec(values, tensor.dims(), tensor.device())?)
}

fn not_a_number(case: &Case<'_>) -> Check {
    let images = case.images(8)?;
    for (at, (name, tensor)) in images.parts().iter().enumerate() {
        // A loss may leave a map out of account; then it may overlook a NaN there.
        let other = images.replaced(at, &normal(tensor.dims(), 99)?)?;
        if number(case.loss, &images)?.to_bits() == number(case.loss, &other)?.to_bits() {
            continue;
        }
        let images = images.replaced(at, &spoilt(tensor, f64::NAN)?)?;
        let what = format!("NaN in {name}");
        if let Ok(value) = accepted(&what, || evaluate(case.loss, &images))? {
            ensure!(
                finite("the loss", &value).is_err(),
                "with {what} the loss is {value}, which hides it"
            );
        }
    }
    Ok(())
}

/// A loss may be finite where a feature is not; then its gradients are numbers too.
fn infinity(case: &Case<'_>) -> Check {
    let images = case.images(8)?;
    for (at, (name, tensor)) in images.parts().iter().enumerate() {
        for by in [f64::INFINITY, f64::NEG_INFINITY] {
            let images = images.replaced(at, &spoilt(tensor, by)?)?;
            let what = format!("{by} in {name}");
            if accepted(&what, || evaluate(case.loss, &images))?.is_err() {
                continue;
            }
            let (value, gradients) = with_gradient(case.loss, &images)?;
            let parts = images.parts();
            let wrong = parts.iter().zip(&gradients).find(|(_, g)| g.iter().any(|v| v.is_nan()));
            if let (true, Some(((of, _), _))) = (value.is_finite(), wrong) {
                return Err(Failure(format!(
                    "with {what} the loss is {value}, but its gradient in {of} is not a number"
                )));
            }
        }
    }
    Ok(())
}
