//! `bench supernet`: search steps of a method, and their parts.

use super::measure::{CLASSES, Rows, Timed, draws, image_shape, random_batch};
use crate::args::{MeasureArgs, MethodArgs, Phase, SupernetArgs};
use crate::commands::config::INITIAL;
use crate::exit::{Exit, Usage};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tetlo_core::config::{self, OptimizerKind};
use tetlo_core::kinds::{Progress, SearchSpace};
use tetlo_core::multilevel::{Batches, cross_entropy};
use tetlo_core::network::Pass;
use tetlo_core::registry;
use tetlo_core::rng::{Key, Purpose};
use tetlo_engine::method::Method;
use tetlo_engine::record::{Observer, Silent};
use tetlo_engine::store::{self, Recorder, TrialDirectory};

/// Times a phase of a search step.
pub(crate) fn run(arguments: &SupernetArgs) -> Result<Exit> {
    let SupernetArgs { method: chosen, phase, measure } = arguments;
    let mut rows = Rows::new(measure)?;
    let method = method(chosen, measure.image)?;
    let batches = batches(&method, measure)?;
    let mut state = method.initial_state()?;
    let network = &method.networks[0];
    let records = Records::start()?;
    let mut silent = Silent;
    let mut recorder = Recorder::start(&records.directory, &mut silent)?;
    let timed = Timed::run(measure.steps, |i| {
        let at = progress(&method, i);
        match phase {
            Phase::Fwd => {
                let pass = Pass::train(Key::new(0, Purpose::Relaxation));
                let (weights, alpha) = (&state.point.weights[0], &state.point.architecture[0]);
                let said = network.forward(weights, Some(alpha), &batches.train.images, &pass)?;
                cross_entropy(&said.logits, &batches.train.labels)?.to_scalar::<f32>()?;
            }
            Phase::Weight => {
                method.weight_step(&mut state, 0, &batches, at)?;
            }
            Phase::Step => {
                method.step(&mut state, &batches, at, &mut recorder)?;
                recorder.step();
            }
        }
        Ok(())
    })?;
    recorder.finish()?;
    drop(records);
    let (forwards, backwards) = timed.passes();
    let mut what = described(chosen, &method, measure);
    what["phase"] = json!(format!("{phase:?}").to_lowercase());
    what["forwards"] = json!(forwards);
    what["backwards"] = json!(backwards);
    rows.push(what, Some(timed));
    rows.print_one(measure.format)?;
    Ok(Exit::Ok)
}

/// What was timed, for the record.
pub(super) fn described(chosen: &MethodArgs, method: &Method, measure: &MeasureArgs) -> Value {
    let networks = &method.networks;
    json!({
        "space": chosen.size.space,
        "method": preset(chosen),
        "order": chosen.order.or(chosen.method.is_none().then_some(1)),
        "channels": chosen.size.channels,
        "layers": chosen.size.layers,
        "image": measure.image,
        "batch": measure.batch,
        "params": networks[0].weights().len(),
        "macs": networks[0].multiply_adds(),
        "auxiliary_params": networks.get(1).map(|n| n.weights().len()),
        "auxiliary_macs": networks.get(1).map(|n| n.multiply_adds()),
    })
}

fn preset(chosen: &MethodArgs) -> String {
    let usual = || if chosen.order == Some(2) { "darts-2nd" } else { "darts-1st" }.to_owned();
    chosen.method.clone().unwrap_or_else(usual)
}

/// The method, built from its preset for random images.
pub(super) fn method(chosen: &MethodArgs, image: usize) -> Result<Method> {
    let preset = preset(chosen);
    config::preset(&preset)?;
    let mut sets: Vec<String> =
        chosen.set.iter().map(|set| format!("method.{preset}.{set}")).collect();
    if let (Some(order), Some(_)) = (chosen.order, &chosen.method) {
        sets.push(format!("method.{preset}.optimizer.options.order={order}"));
    }
    let text = INITIAL.replace("PRESET", &preset);
    let config = config::load("bench", &text, Path::new("."), &sets)?;
    let method = &config.methods[0];
    if method.optimizer_kind != OptimizerKind::MultilevelOptimizer {
        bail!(Usage(format!("method `{preset}` is a black-box search: it has no supernet")));
    }
    let options = json!({"channels": chosen.size.channels, "cells": chosen.size.layers});
    let space = registry::build::<dyn SearchSpace>(&chosen.size.space, &options)?;
    let spec = space.spec().validated()?;
    Ok(Method::new(method, spec, image_shape(image), CLASSES, 0)?)
}

/// Random batches of every split that the method reads.
pub(super) fn batches(method: &Method, measure: &MeasureArgs) -> Result<Batches> {
    let mut draws = draws();
    let mut batch = || random_batch(&mut draws, measure);
    let (train, valid) = (batch()?, batch()?);
    let transfer = if method.graph.uses_transfer_batch() { Some(batch()?) } else { None };
    Ok(Batches { train, valid, transfer })
}

/// A step in an epoch in which the architecture is searched.
pub(super) fn progress(method: &Method, step: usize) -> Progress {
    let epoch = method.graph.warmup_epochs;
    Progress { epoch, epochs: method.settings.epochs.max(epoch + 1), step }
}

/// A temporary directory in which a search keeps its records.
struct Records {
    path: PathBuf,
    directory: TrialDirectory,
}

impl Records {
    fn start() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tetlo-bench-{}", std::process::id()));
        store::make_directory(&path)?;
        Ok(Self { directory: TrialDirectory::at(&path), path })
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
