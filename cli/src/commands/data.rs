//! `data list|show`.

use crate::args::{DataCommand, Format};
use crate::commands::setup;
use crate::console;
use crate::exit::Exit;
use anyhow::Result;
use serde_json::json;
use tetlo_core::data::{Data, Images};
use tetlo_core::kinds::Dataset;
use tetlo_core::registry;

/// Runs a `data` command.
pub(crate) fn run(command: DataCommand) -> Result<Exit> {
    match command {
        DataCommand::List(format) => list(format.format),
        DataCommand::Show { name, options, format } => show(&name, &options, format.format),
    }
}

fn list(format: Format) -> Result<Exit> {
    let entries = registry::entries::<dyn Dataset>();
    match format {
        Format::Json => {
            let list: Vec<_> = entries
                .iter()
                .map(|e| json!({"name": e.name, "summary": e.summary, "options": e.defaults()}))
                .collect();
            console::out_json(&list)?;
        }
        Format::Text => {
            for e in entries {
                console::out(&format!("{:<20} {}", e.name, e.summary));
            }
        }
    }
    Ok(Exit::Ok)
}

fn per_class(images: &Images, classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    for label in &images.labels {
        counts[*label as usize] += 1;
    }
    counts
}

fn show(name: &str, options: &str, format: Format) -> Result<Exit> {
    let options = setup::options::<dyn Dataset>(name, options)?;
    let dataset = registry::build::<dyn Dataset>(name, &options)?;
    let data = dataset.load().and_then(Data::validated).map_err(|e| e.in_plugin(name))?;
    let shape = data.train.shape;
    let (train, test) = (per_class(&data.train, data.classes), per_class(&data.test, data.classes));
    match format {
        Format::Json => console::out_json(&json!({
            "name": data.name,
            "notice": data.notice,
            "synthetic": data.synthetic,
            "classes": data.classes,
            "channels": shape.channels,
            "height": shape.height,
            "width": shape.width,
            "train": data.train.len(),
            "test": data.test.len(),
            "train_per_class": train,
            "test_per_class": test,
            "mean": data.mean,
            "std": data.std,
            "content_hash": dataset.content_hash()?,
        }))?,
        Format::Text => {
            let synthetic = if data.synthetic { " (synthetic)" } else { "" };
            console::out(&format!("{}{synthetic}: {}", data.name, data.notice));
            console::out(&format!(
                "{} training and {} test images, {} × {} × {}, {} classes",
                data.train.len(),
                data.test.len(),
                shape.channels,
                shape.height,
                shape.width,
                data.classes
            ));
            console::out(&format!("training images a class: {train:?}"));
            console::out(&format!("test images a class:     {test:?}"));
            console::out(&format!("mean {:?}, std {:?}", data.mean, data.std));
        }
    }
    Ok(Exit::Ok)
}
