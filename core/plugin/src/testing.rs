//! For an author's own tests: a loss's gradient against differences.

use crate::abi;
use crate::{Array, Batch, Gradients, Stream, TransferLoss};

const IMAGES: usize = 6;
const CLASSES: usize = 3;
/// Step of the differences.
const STEP: f64 = 1e-5;

/// Arrays that a loss looks at: name, shape and values.
struct Input {
    name: Name,
    shape: Vec<i64>,
    values: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Name {
    Main,
    Aux,
    MainLogits,
    AuxLogits,
    MainMap,
    AuxMap,
}

impl Name {
    fn is_main(self) -> bool {
        matches!(self, Self::Main | Self::MainLogits | Self::MainMap)
    }
}

/// The largest error of a loss's gradients against central differences, on a random batch of what it
/// needs, relative to the largest difference (or to 1e-12). Where the loss says that no gradient reaches
/// the main model, or that its values jump there, only the auxiliary model's is compared.
///
/// # Errors
/// Those of the loss.
pub fn gradient_error<T: TransferLoss>(loss: &T) -> Result<f64, String> {
    let needs = loss.needs();
    let images = IMAGES.max(needs.min_batch as usize);
    let mut draws = Stream::new([0, 1], [0; 4]);
    let mut inputs = vec![];
    for (name, need, row) in [
        (Name::Main, abi::EMBEDDINGS, &[5][..]),
        (Name::Aux, abi::EMBEDDINGS, &[4]),
        (Name::MainLogits, abi::LOGITS, &[CLASSES as i64]),
        (Name::AuxLogits, abi::LOGITS, &[CLASSES as i64]),
        (Name::MainMap, abi::MAPS, &[2, 4, 4]),
        (Name::MainMap, abi::MAPS, &[3, 2, 2]),
        (Name::AuxMap, abi::MAPS, &[2, 4, 4]),
        (Name::AuxMap, abi::MAPS, &[2, 2, 2]),
    ] {
        if needs.inputs & need != 0 {
            let shape: Vec<i64> = [&[images as i64], row].concat();
            let length = shape.iter().product::<i64>() as usize;
            let values = (0..length).map(|_| draws.normal()).collect();
            inputs.push(Input { name, shape, values });
        }
    }
    let labels: Vec<i64> = (0..images).map(|i| (i % CLASSES) as i64).collect();
    let labels = (needs.inputs & abi::LABELS != 0).then_some(labels.as_slice());

    let mut gradients: Vec<Vec<f64>> = inputs.iter().map(|i| vec![0.0; i.values.len()]).collect();
    call(loss, &inputs, labels, &draws, Some(&mut gradients))?;
    let main_too = needs.properties & (abi::DETACHED_MAIN | abi::JUMPS) == 0;
    let (mut worst, mut largest) = (0f64, 1e-12f64);
    for i in
        (0..inputs.len()).filter(|i| main_too || !inputs[*i].name.is_main()).collect::<Vec<_>>()
    {
        for (j, gradient) in gradients[i].iter().enumerate() {
            let here = inputs[i].values[j];
            let mut at = |value: f64| {
                inputs[i].values[j] = value;
                call(loss, &inputs, labels, &draws, None)
            };
            let difference = (at(here + STEP)? - at(here - STEP)?) / (2.0 * STEP);
            inputs[i].values[j] = here;
            worst = worst.max((gradient - difference).abs());
            largest = largest.max(difference.abs());
        }
    }
    Ok(worst / largest)
}

fn call<T: TransferLoss>(
    loss: &T,
    inputs: &[Input],
    labels: Option<&[i64]>,
    draws: &Stream,
    gradients: Option<&mut Vec<Vec<f64>>>,
) -> Result<f64, String> {
    let arrays = |name: Name| -> Vec<Array<'_>> {
        let named = inputs.iter().filter(|i| i.name == name);
        named.map(|i| Array { values: &i.values, shape: &i.shape }).collect()
    };
    let first = |name: Name| arrays(name).first().copied();
    let batch = Batch {
        images: inputs.first().map_or(0, |i| i.shape[0] as usize),
        draws: draws.clone(),
        main: first(Name::Main),
        aux: first(Name::Aux),
        main_logits: first(Name::MainLogits),
        aux_logits: first(Name::AuxLogits),
        main_maps: arrays(Name::MainMap),
        aux_maps: arrays(Name::AuxMap),
        labels,
    };
    let mut wanted = Gradients::default();
    if let Some(gradients) = gradients {
        for (input, gradient) in inputs.iter().zip(gradients) {
            let gradient = Some(gradient.as_mut_slice());
            match input.name {
                Name::Main => wanted.main = gradient,
                Name::Aux => wanted.aux = gradient,
                Name::MainLogits => wanted.main_logits = gradient,
                Name::AuxLogits => wanted.aux_logits = gradient,
                Name::MainMap => wanted.main_maps.push(gradient),
                Name::AuxMap => wanted.aux_maps.push(gradient),
            }
        }
    } else {
        wanted.main_maps = arrays(Name::MainMap).iter().map(|_| None).collect();
        wanted.aux_maps = arrays(Name::AuxMap).iter().map(|_| None).collect();
    }
    loss.loss(&batch, &mut wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Needs;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    /// A sum of squares of everything, times a draw and 1 + the first label; `WRONG` is added to the
    /// gradient in the last input's first value.
    #[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
    struct Squares<const WRONG: u8>;

    impl<const WRONG: u8> TransferLoss for Squares<WRONG> {
        type Options = Self;

        fn new(options: Self) -> Result<Self, String> {
            Ok(options)
        }

        fn needs(&self) -> Needs {
            Needs::embeddings(7).and(abi::LOGITS | abi::MAPS | abi::LABELS)
        }

        fn loss(&self, batch: &Batch<'_>, gradients: &mut Gradients<'_>) -> Result<f64, String> {
            assert!(batch.images == 7 && batch.labels()?.len() == 7);
            let factor = batch.draws.clone().uniform() * (1 + batch.labels()?[0]) as f64;
            let maps = batch.main_maps().iter().chain(batch.aux_maps());
            let matrices = [batch.main()?, batch.aux()?, batch.main_logits()?, batch.aux_logits()?];
            let of_maps = gradients.main_maps.iter_mut().chain(&mut gradients.aux_maps);
            let of_matrices = [
                &mut gradients.main,
                &mut gradients.aux,
                &mut gradients.main_logits,
                &mut gradients.aux_logits,
            ];
            let mut sum = 0.0;
            for (array, to) in
                matrices.iter().chain(maps).zip(of_matrices.into_iter().chain(of_maps))
            {
                sum += array.values.iter().map(|x| x * x).sum::<f64>();
                for (to, x) in to.iter_mut().flat_map(|to| to.iter_mut()).zip(array.values) {
                    *to = 2.0 * factor * x;
                }
            }
            if let Some(Some(last)) = gradients.aux_maps.last_mut() {
                last[0] += f64::from(WRONG);
            }
            Ok(factor * sum)
        }
    }

    #[test]
    fn a_right_gradient_is_right_and_a_wrong_one_wrong() {
        let right = gradient_error(&Squares::<0>).unwrap();
        assert!(right < 1e-8, "{right}");
        let wrong = gradient_error(&Squares::<1>).unwrap();
        assert!(wrong > 0.1, "{wrong}");
    }
}
