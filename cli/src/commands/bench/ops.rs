//! `bench ops`: each operation of a space alone.

use super::measure::{Rows, Timed, draws};
use crate::args::{MeasureArgs, OpsArgs};
use crate::console;
use crate::exit::Exit;
use anyhow::{Context, Result};
use candle_core::{Device, Tensor, Var};
use serde_json::json;
use std::time::Instant;
use tetlo_core::kinds::{Operation, SearchSpace};
use tetlo_core::registry;
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::space::{NetworkBuilder, Recipe, Site, Step};
use tetlo_kernels::{Export, Mode, Network, Weight};

/// Times forward and backward of every operation at every stride.
pub(crate) fn run(arguments: &OpsArgs) -> Result<Exit> {
    let OpsArgs { space, channels, stride, measure } = arguments;
    let mut rows = Rows::new(measure)?;
    let spec = registry::build::<dyn SearchSpace>(space, &json!({}))?.spec().validated()?;
    let mut names: Vec<&String> = vec![];
    for name in spec.cells.iter().flat_map(|c| &c.edges).flat_map(|e| &e.operations) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        for s in stride.map_or(1..=2, |s| s..=s) {
            let site = Site { channels: *channels, stride: s.into(), affine: false };
            let timed = match times(name, site, measure) {
                Ok(timed) => timed,
                // Such as a factorised reduction of an odd image.
                Err(error) => {
                    console::note(&format!("`{name}` at stride {s} cannot be timed: {error}"));
                    continue;
                }
            };
            for (phase, timed) in timed {
                let what = json!({
                    "operation": name,
                    "phase": phase,
                    "stride": s,
                    "channels": channels,
                    "image": measure.image,
                    "batch": measure.batch,
                });
                rows.push(what, Some(timed));
            }
        }
    }
    let columns = [
        "operation",
        "stride",
        "phase",
        "ms_median",
        "ms_min",
        "ms_max",
        "gflops",
        "roofline_fraction",
    ];
    rows.print_list(measure.format, &columns)?;
    Ok(Exit::Ok)
}

/// Forward and backward times of an operation with a weight of its own, as on an edge.
///
/// Its input is a state with a gradient: a pointwise convolution of one channel, whose small share
/// is part of the times, but not of the counted work. `none` has no term: what is left is that share.
fn times(name: &str, site: Site, measure: &MeasureArgs) -> Result<[(&'static str, Timed); 2]> {
    let side = measure.image;
    let mut builder = NetworkBuilder::new((1, side, side));
    let pixels = builder.graph.input();
    let stem = vec![Step::Pointwise { name: "stem".into(), out: site.channels, stride: 1 }];
    let input = builder.chain("", stem, &[pixels])?;
    let before = builder.multiply_adds;
    let recipe = registry::build::<dyn Operation>(name, &json!({}))?.recipe(site);
    let term = builder.term("operation", &recipe, &[input], Weight::Shared(0))?;
    let counted = (builder.multiply_adds - before) * measure.batch as u64;
    let trained = match &recipe {
        Recipe::Chain(_) => 2,
        Recipe::Zero => 0,
    };
    let output = builder.graph.state_with_shape(
        site.channels,
        side.div_ceil(site.stride),
        side.div_ceil(site.stride),
        term.into_iter().collect(),
    )?;
    builder.graph.export(Export::Pooled { states: vec![output], relu: false });
    let network = Network::new(builder.graph.finish()?);
    let mut draws = draws();
    let mut normal = |shape: &[usize]| -> Result<Tensor> {
        let len: usize = shape.iter().product();
        let values: Vec<f32> = (0..len).map(|_| draws.normal() as f32).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    };
    let images = normal(&[measure.batch, 1, side, side])?;
    let gradient = normal(&[measure.batch, site.channels])?;
    let mut key = Key::new(0, Purpose::Weights).stream();
    let weights = Var::from_tensor(&builder.weights.initialise_tensor(&mut key)?)?;
    let ops = Var::from_tensor(&Tensor::new(&[0.5f32], &Device::Cpu)?)?;
    let pass = |backward: bool| -> Result<f64> {
        let mut began = Instant::now();
        let said = network.forward(&images, weights.as_tensor(), ops.as_tensor(), Mode::Train)?;
        let mut seconds = began.elapsed().as_secs_f64();
        if backward {
            let sum = (&said.exports[0] * &gradient)?.sum_all()?;
            began = Instant::now();
            let gradients = sum.backward()?;
            seconds = began.elapsed().as_secs_f64();
            gradients.get(&weights).context("no gradient")?;
        }
        Ok(seconds)
    };
    let forward = Timed::parts(measure.steps, |_| pass(false))?.with_multiply_adds(counted);
    let backward =
        Timed::parts(measure.steps, |_| pass(true))?.with_multiply_adds(trained * counted);
    Ok([("forward", forward), ("backward", backward)])
}
