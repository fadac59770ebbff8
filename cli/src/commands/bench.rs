//! `bench supernet`: times passes through the product's ordinary path.

use crate::args::{BenchArgs, Phase};
use crate::commands::config::INITIAL;
use crate::commands::setup::place;
use crate::console;
use crate::exit::{Exit, Usage};
use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;
use tetlo_core::config;
use tetlo_core::kinds::{Progress, SearchSpace};
use tetlo_core::multilevel::{Batch, Batches, cross_entropy};
use tetlo_core::network::{ImageShape, Pass};
use tetlo_core::registry;
use tetlo_core::rng::{Key, Purpose};
use tetlo_engine::memory;
use tetlo_engine::method::Method;
use tetlo_engine::record::Silent;

/// Times `steps` repetitions after one to warm up and prints JSON.
pub(crate) fn supernet(arguments: &BenchArgs) -> Result<Exit> {
    if arguments.batch < 2 || arguments.steps == 0 {
        bail!(Usage("`--batch` must be at least 2 and `--steps` at least 1".into()));
    }
    let place = place(&arguments.device, arguments.threads)?;
    let method = method(arguments)?;
    let (batches, classes) = (random_batches(arguments)?, 10);
    debug_assert!(batches.train.labels.iter().all(|l| *l < classes));
    let mut state = method.initial_state()?;
    let mut times = Vec::with_capacity(arguments.steps);
    let before = tetlo_kernels::counters();
    for i in 0..=arguments.steps {
        let at = Progress { epoch: 0, epochs: 50, step: i };
        let began = Instant::now();
        match arguments.phase {
            Phase::Fwd => {
                let pass = Pass::train(Key::new(0, Purpose::Relaxation));
                let (weights, alpha) = (&state.point.weights[0], &state.point.architecture[0]);
                let network = &method.networks[0];
                let said = network.forward(weights, Some(alpha), &batches.train.images, &pass)?;
                cross_entropy(&said.logits, &batches.train.labels)?.to_scalar::<f32>()?;
            }
            Phase::Weight => {
                method.weight_step(&mut state, 0, &batches, at)?;
            }
            Phase::Step => {
                method.step(&mut state, &batches, at, &mut Silent)?;
            }
        }
        if i > 0 {
            times.push(1e3 * began.elapsed().as_secs_f64());
        }
    }
    let after = tetlo_kernels::counters();
    times.sort_by(f64::total_cmp);
    let network = &method.networks[0];
    console::out_json(&json!({
        "space": arguments.space,
        "phase": format!("{:?}", arguments.phase).to_lowercase(),
        "order": arguments.order,
        "channels": arguments.channels,
        "layers": arguments.layers,
        "image": arguments.image,
        "batch": arguments.batch,
        "device": place.device,
        "threads": place.threads,
        "simd": tetlo_kernels::simd_name(),
        "steps": times.len(),
        "ms_median": median(&times),
        "ms_min": times[0],
        "ms_max": times[times.len() - 1],
        "peak_rss_mib": memory::peak_bytes() as f64 / f64::from(1 << 20),
        "params": network.weights().len(),
        "macs": network.multiply_adds(),
        "forwards": after.forwards - before.forwards,
        "backwards": after.backwards - before.backwards,
    }))?;
    Ok(Exit::Ok)
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// The bilevel method of the order asked for, from its preset.
fn method(arguments: &BenchArgs) -> Result<Method> {
    let preset = if arguments.order == 1 { "darts-1st" } else { "darts-2nd" };
    let text = INITIAL.replace("PRESET", preset);
    let config = config::load("bench", &text, Path::new("."), &[])?;
    let options: Value = json!({"channels": arguments.channels, "cells": arguments.layers});
    let space = registry::build::<dyn SearchSpace>(&arguments.space, &options)?;
    let spec = space.spec().validated()?;
    let image = ImageShape { channels: 3, height: arguments.image, width: arguments.image };
    Ok(Method::new(&config.methods[0], spec, image, 10, 0)?)
}

fn random_batches(arguments: &BenchArgs) -> Result<Batches> {
    let mut draws = Key::new(0, Purpose::Problem).stream();
    let mut batch = || -> Result<Batch> {
        let shape = (arguments.batch, 3, arguments.image, arguments.image);
        let len = arguments.batch * 3 * arguments.image * arguments.image;
        let pixels: Vec<f32> = (0..len).map(|_| draws.normal() as f32).collect();
        let labels = (0..arguments.batch).map(|_| draws.below(10) as u32).collect();
        Ok(Batch { images: Tensor::from_vec(pixels, shape, &Device::Cpu)?, labels })
    };
    Ok(Batches { train: batch()?, valid: batch()?, transfer: None })
}
