//! Tests with real children: a peer in plain Python, and scripts with the helper where NumPy is.

mod failures;
mod helper;
mod mutations;
mod round_trip;

use super::{Command, Factory, manifests};
use candle_core::{Device, Tensor, Var};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tetlo_core::Result;
use tetlo_core::kinds::{TransferBatch, TransferLoss};
use tetlo_core::registry::Factory as _;
use tetlo_core::rng::{Key, Purpose, Stream};

const PEER: &str = include_str!("peer.py");

/// A script in a folder of its own, and the command that starts it with this argument.
fn script(text: &str, argument: &str) -> (TempDir, Command) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peer.py");
    std::fs::write(&path, text).unwrap();
    let words = ["python3", path.to_str().unwrap(), argument].map(str::to_owned);
    (folder, Command { program_and_arguments: words.to_vec(), time_limit: Duration::from_mins(1) })
}

/// The factory of a script's plugin of this kind and name.
fn factory(command: &Command, kind: &str, name: &str) -> Factory {
    let (list, _) = manifests(command).unwrap();
    let manifest = list.into_iter().find(|m| m.kind == kind && m.name == name).unwrap();
    Factory { command: command.clone(), code: None, manifest }
}

fn loss(command: &Command, name: &str) -> Box<dyn TransferLoss> {
    factory(command, "transfer-loss", name).build(&serde_json::json!({})).unwrap()
}

fn draws() -> Stream {
    Key::new(5, Purpose::Transfer).step(9).stream()
}

/// Embeddings of 3 images, 2 and 4 wide, in f32.
fn embeddings() -> (Var, Var) {
    let device = Device::Cpu;
    let main = Tensor::new(&[[1f32, 2.0], [3.0, -4.0], [0.5, 0.25]], &device).unwrap();
    let aux = Tensor::arange(0f32, 12.0, &device).unwrap().reshape((3, 4)).unwrap();
    (Var::from_tensor(&main).unwrap(), Var::from_tensor(&aux).unwrap())
}

/// The loss on [`embeddings`] with labels.
fn value_of(loss: &dyn TransferLoss, main: &Tensor, aux: &Tensor) -> Result<Tensor> {
    let batch = TransferBatch::of_embeddings(main, aux, draws())?;
    loss.loss(&batch.with_labels(Some(&[0, 1, 1])))
}

/// Is a process of this number there, other than as a zombie?
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|text| !text.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}
