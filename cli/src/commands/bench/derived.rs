//! `bench derived`: training steps of a derived network, or of an auxiliary model.

use super::measure::{CLASSES, Rows, Timed, draws, image_shape, random_batch};
use crate::args::{DerivedArgs, DerivedPhase};
use crate::commands::setup;
use crate::exit::{Exit, Usage};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::sync::Arc;
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{Auxiliary, AuxiliarySite, RetrainProtocol, SearchSpace};
use tetlo_core::multilevel::cross_entropy;
use tetlo_core::network::{Network, Pass};
use tetlo_core::optim::{Inner, Sgd};
use tetlo_core::registry;
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::space::SpaceSpec;
use tetlo_engine::retrain::derived_network_of;
use tetlo_engine::training::Trainee;

/// The published cell of DARTS, second order, CIFAR-10 (Liu, Simonyan and Yang, ICLR 2019).
const DARTS_V2: &str = include_str!("darts_v2.json");

/// Times a phase of a training step.
pub(crate) fn run(arguments: &DerivedArgs) -> Result<Exit> {
    let DerivedArgs { size, drop_path, auxiliary_head, phase, measure, .. } = arguments;
    let mut rows = Rows::new(measure)?;
    let protocol = RetrainProtocol {
        channels: size.channels,
        cells: size.layers,
        drop_path: *drop_path,
        auxiliary_weight: if *auxiliary_head { 0.4 } else { 0.0 },
        ..RetrainProtocol::default()
    };
    let options = json!({"channels": size.channels, "cells": size.layers});
    let space = registry::build::<dyn SearchSpace>(&size.space, &options)?.spec().validated()?;
    let image = image_shape(measure.image);
    let network: Arc<dyn Network> = if let Some(name) = &arguments.network {
        auxiliary(name, &arguments.options, measure.image, &space)?
    } else {
        let genotype = genotype(&arguments.genotype)?;
        Arc::new(derived_network_of(&space, &genotype, image, CLASSES, &protocol)?)
    };
    let batch = random_batch(&mut draws(), measure)?;
    let key = Key::new(0, Purpose::Weights);
    let mut trainee = Trainee::new(network.as_ref(), key)?;
    let inner = Inner::Sgd(Sgd {
        learning_rate: protocol.learning_rate,
        momentum: protocol.momentum,
        weight_decay: protocol.weight_decay,
    });
    let timed = Timed::run(measure.steps, |i| {
        let pass = Pass::train(key.step(i)).with_drop_path(*drop_path);
        match phase {
            DerivedPhase::Fwd => {
                let said = network.forward(&trainee.weights, None, &batch.images, &pass)?;
                cross_entropy(&said.logits, &batch.labels)?.to_scalar::<f32>()?;
            }
            DerivedPhase::Step => {
                trainee.step(network.as_ref(), &batch, &pass, inner, &protocol)?;
            }
        }
        Ok(())
    })?;
    let mut what = json!({
        "phase": format!("{phase:?}").to_lowercase(),
        "image": measure.image,
        "batch": measure.batch,
        "params": network.weights().len(),
        "macs": network.multiply_adds(),
    });
    let which = match &arguments.network {
        Some(name) => json!({"network": name}),
        None => json!({
            "network": "derived",
            "space": size.space,
            "genotype": arguments.genotype,
            "channels": size.channels,
            "layers": size.layers,
            "drop_path": drop_path,
            "auxiliary_head": auxiliary_head,
        }),
    };
    if let (Some(row), Value::Object(which)) = (what.as_object_mut(), which) {
        row.extend(which);
    }
    rows.push(what, Some(timed));
    rows.print_one(measure.format)?;
    Ok(Exit::Ok)
}

fn genotype(text: &str) -> Result<Genotype> {
    if text.eq_ignore_ascii_case("darts_v2") {
        return Ok(Genotype::parse(DARTS_V2)?);
    }
    setup::genotype(text)
}

/// An auxiliary model by its name, or by its name and the option `depth`.
fn auxiliary(
    name: &str,
    options: &str,
    image: usize,
    space: &SpaceSpec,
) -> Result<Arc<dyn Network>> {
    let (plugin, depth) = match name.rsplit_once('-') {
        Some((plugin, depth)) if depth.bytes().all(|b| b.is_ascii_digit()) => {
            (plugin, Some(format!("depth = {depth}")))
        }
        _ => (name, None),
    };
    let options = match (depth, options) {
        (Some(depth), "") => depth,
        (Some(_), _) => bail!(Usage(format!(
            "`--network {name}` says the depth already: write `--network {plugin} --options …`"
        ))),
        (None, options) => options.to_owned(),
    };
    let options = setup::options::<dyn Auxiliary>(plugin, &options)?;
    let model = registry::build::<dyn Auxiliary>(plugin, &options)?;
    let site = AuxiliarySite::new(image_shape(image), CLASSES, space);
    let network = model.network(&site)?;
    if !network.architecture().is_empty() {
        bail!(Usage(format!("`{plugin}` has an architecture of its own: it is no fixed network")));
    }
    Ok(network)
}
