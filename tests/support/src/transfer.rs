//! Transfer losses.

use crate::Suite;
use crate::numbers::{
    close, close_to_differences, differences, finite, gradient, largest, normal, same, scalar,
    values,
};
use crate::report::{Check, Report, ensure, refused};
use candle_core::{DType, Tensor, Var};
use tetlo_core::kinds::{Needs, Seen, TransferBatch, TransferLoss};
use tetlo_core::rng::{Key, Purpose};

/// Classes that logits score, and labels name.
const CLASSES: usize = 5;

/// Widths of embeddings, and channels of maps, of the main and of the auxiliary model.
#[derive(Debug, Clone, Copy)]
struct Widths(usize, usize);

/// What a loss sees of `n` images.
#[derive(Debug, Clone)]
struct Images {
    main: Seen,
    aux: Seen,
    labels: Vec<u32>,
    parameters: Option<Tensor>,
}

fn seen(needs: Needs, n: usize, width: usize, seed: u64) -> Check<Seen> {
    let mut seen = Seen::default();
    if needs.embeddings {
        seen.embedding = Some(normal(&[n, width], seed)?);
    }
    if needs.logits {
        seen.logits = Some(normal(&[n, CLASSES], seed + 10)?);
    }
    if needs.maps {
        for (i, side) in [4, 2].into_iter().enumerate() {
            seen.maps.push(normal(&[n, width - 3 + i, side, side], seed + 20 + i as u64)?);
        }
    }
    Ok(seen)
}

impl Images {
    fn new(loss: &dyn TransferLoss, n: usize, widths: Widths) -> Check<Self> {
        let needs = loss.needs();
        let (main, aux) = (seen(needs, n, widths.0, 1)?, seen(needs, n, widths.1, 2)?);
        let parameters = if needs.parameters {
            let layout = loss.parameters(&main, &aux)?;
            ensure!(!layout.is_empty(), "it says that it has parameters, but has none");
            ensure!(layout == loss.parameters(&main, &aux)?, "its parameters change");
            let mut stream = Key::new(3, Purpose::Weights).stream();
            Some(layout.initialise_tensor(&mut stream)?.to_dtype(DType::F64)?)
        } else {
            None
        };
        let labels = (0..n).map(|i| i as u32 % 3).collect();
        Ok(Self { main, aux, labels, parameters })
    }

    /// Everything that may have a gradient, by name.
    fn parts(&self) -> Vec<(String, Tensor)> {
        let mut parts = Vec::new();
        for (whose, seen) in [("main", &self.main), ("aux", &self.aux)] {
            let alone = seen.tensors().count() == 1;
            let name = |what: String| if alone { whose.into() } else { format!("{whose} {what}") };
            let matrices = [("embedding", &seen.embedding), ("logits", &seen.logits)];
            for (what, tensor) in matrices {
                parts.extend(tensor.iter().map(|t| (name(what.into()), t.clone())));
            }
            let maps = seen.maps.iter().enumerate();
            parts.extend(maps.map(|(i, t)| (name(format!("map {i}")), t.clone())));
        }
        parts.extend(self.parameters.iter().map(|t| ("its parameters".to_owned(), t.clone())));
        parts
    }

    /// The same with other values of the parts, in their order.
    fn with(&self, parts: &[Tensor]) -> Check<Self> {
        let mut parts = parts.iter().cloned();
        let mut next = || {
            let missing = || tetlo_core::Error::Invalid("a part is missing".into());
            parts.next().ok_or_else(missing)
        };
        let main = self.main.map(|_| next())?;
        let aux = self.aux.map(|_| next())?;
        let parameters = self.parameters.as_ref().map(|_| next()).transpose()?;
        Ok(Self { main, aux, labels: self.labels.clone(), parameters })
    }

    /// The same with every part replaced by what `f` makes of it.
    fn map(&self, f: impl Fn(usize, &Tensor) -> Check<Tensor>) -> Check<Self> {
        let parts = self.parts();
        let changed: Vec<Tensor> =
            parts.iter().enumerate().map(|(i, (_, t))| f(i, t)).collect::<Check<_>>()?;
        self.with(&changed)
    }
}

impl Suite for dyn TransferLoss {
    fn suite(loss: &Self, report: &mut Report) {
        let needs = loss.needs();
        // A loss may want features of one width.
        let widths = if accepts(loss, Widths(7, 5)) { Widths(7, 5) } else { Widths(6, 6) };
        for n in [needs.batch.max(1), needs.batch.max(8), needs.batch.max(16)] {
            report.check(format_args!("a batch of {n}"), || on_batch(loss, n, widths));
        }
        report.check("what it needs", || refuses(loss, widths));
        report.check("features that are not a number", || not_a_number(loss, widths));
        report.check("diagnostics", || {
            let images = Images::new(loss, needs.batch.max(8), widths)?;
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
    Ok(TransferBatch::new(images.main.clone(), images.aux.clone(), draws)?
        .with_labels(labels)
        .with_parameters(images.parameters.clone()))
}

fn evaluate(loss: &dyn TransferLoss, images: &Images) -> tetlo_core::Result<Tensor> {
    loss.loss(&batch(images, loss)?)
}

fn accepts(loss: &dyn TransferLoss, widths: Widths) -> bool {
    let images = Images::new(loss, loss.needs().batch.max(8), widths);
    images.is_ok_and(|images| evaluate(loss, &images).is_ok())
}

/// Value, and gradients in all parts.
fn with_gradient(loss: &dyn TransferLoss, images: &Images) -> Check<(f64, Vec<Vec<f64>>)> {
    let parts = images.parts();
    let vars: Vec<Var> =
        parts.iter().map(|(_, t)| Ok(Var::from_tensor(t)?)).collect::<Check<_>>()?;
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let value = evaluate(loss, &images.with(&tracked)?)?;
    let dtype = parts.first().map_or(DType::F64, |(_, t)| t.dtype());
    let number = scalar(&value, dtype)?;
    Ok((number, gradient(&value, &vars.iter().collect::<Vec<_>>())?))
}

fn on_batch(loss: &dyn TransferLoss, n: usize, widths: Widths) -> Check {
    let images = Images::new(loss, n, widths)?;
    let parts = images.parts();
    let (value, gradients) = with_gradient(loss, &images)?;
    ensure!(value.is_finite(), "the loss is {value}");
    let again = with_gradient(loss, &images)?;
    same("the loss", &[value], &[again.0])?;
    for ((name, _), (first, second)) in parts.iter().zip(gradients.iter().zip(&again.1)) {
        same(&format!("the gradient of {name}"), first, second)?;
    }

    let of = |whose: &str| {
        let named = parts.iter().zip(&gradients).filter(|((name, _), _)| name.starts_with(whose));
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

    let number = |at: usize, moved: &Tensor| {
        let images = images.map(|i, t| Ok(if i == at { moved.clone() } else { t.clone() }))?;
        scalar(&evaluate(loss, &images)?, DType::F64)
    };
    for (i, ((name, tensor), gradient)) in parts.iter().zip(&gradients).enumerate().rev() {
        if reaches || !name.starts_with("main") {
            let differences = differences(tensor, |moved| number(i, moved))?;
            close_to_differences(name, gradient, &differences)?;
        }
    }

    let (single, in_single) =
        with_gradient(loss, &images.map(|_, t| Ok(t.to_dtype(DType::F32)?))?)?;
    close("the loss in f32", &[single], &[value], 1e-3, 1e-5)?;
    for ((name, _), (single, double)) in parts.iter().zip(in_single.iter().zip(&gradients)) {
        close(&format!("the gradient of {name} in f32"), single, double, 1e-2, 1e-5)?;
    }
    Ok(())
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

fn refuses(loss: &dyn TransferLoss, widths: Widths) -> Check {
    let needs = loss.needs();
    let n = needs.batch.max(8);
    ensure!(needs.batch >= 1, "needs a batch of {} images", needs.batch);
    let images = Images::new(loss, n, widths)?;
    if needs.batch > 1 {
        let few = |t: &Tensor| Ok(t.narrow(0, 0, needs.batch - 1)?);
        let (main, aux) = (images.main.map(few)?, images.aux.map(few)?);
        let labels = images.labels[..needs.batch - 1].to_vec();
        let few = Images { main, aux, labels, parameters: images.parameters.clone() };
        refused(format_args!("a batch of {}", needs.batch - 1), || evaluate(loss, &few))?;
    }
    if needs.labels {
        let none = batch(&images, loss)?.with_labels(None);
        refused("a batch without labels", || loss.loss(&none))?;
        let few = batch(&images, loss)?.with_labels(Some(&images.labels[1..]));
        refused("a batch with a label too few", || loss.loss(&few))?;
    }
    if needs.labels && needs.logits {
        let mut other = images.clone();
        other.labels[1] = CLASSES as u32;
        refused(format_args!("the label {CLASSES} of {CLASSES} classes"), || {
            evaluate(loss, &other)
        })?;
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

/// One value of every image is NaN, so that no sample of the batch misses it.
fn not_a_number(loss: &dyn TransferLoss, widths: Widths) -> Check {
    let images = Images::new(loss, loss.needs().batch.max(8), widths)?;
    for (at, (name, tensor)) in images.parts().iter().enumerate() {
        let each = tensor.elem_count() / tensor.dims().first().copied().unwrap_or(1).max(1);
        let mut spoilt = values(tensor)?;
        spoilt.iter_mut().step_by(each.max(1)).for_each(|v| *v = f64::NAN);
        let spoilt = Tensor::from_vec(spoilt, tensor.dims(), tensor.device())?;
        let replaced =
            |by: &Tensor| images.map(|i, t| Ok(if i == at { by.clone() } else { t.clone() }));
        // A loss may leave a map out of account; then it may overlook a NaN there.
        let other = replaced(&normal(tensor.dims(), 99)?)?;
        let number = |images: &Images| scalar(&evaluate(loss, images)?, DType::F64);
        if number(&images)?.to_bits() == number(&other)?.to_bits() {
            continue;
        }
        if let Ok(value) = evaluate(loss, &replaced(&spoilt)?) {
            ensure!(
                finite("the loss", &value).is_err(),
                "with NaN in {name} the loss is {value}, which hides it"
            );
        }
    }
    Ok(())
}
