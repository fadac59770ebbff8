//! Every call against a peer that knows nothing of our code.

use super::{PEER, embeddings, factory, lives, loss, script, value_of};
use crate::process::manifests;
use candle_core::{Device, Tensor, Var};
use serde_json::json;
use tetlo_core::foreign::{cost, messages};
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{Progress, Regularizer, Selection, Stop, StopRule, Trace, TransferLoss};
use tetlo_core::registry::{Describe, Factory};
use tetlo_core::space::{ArchValues, CellSpec, Grammar, Mixing, Skeleton, SpaceSpec};

#[test]
fn a_loss_comes_back_with_its_gradients() {
    for mode in ["good", "f32"] {
        let (_folder, command) = script(PEER, mode);
        let made = factory(&command, "transfer-loss", "peer");
        assert_eq!(made.defaults(), json!({"scale": 1.0, "genotype": {}}));
        let loss: Box<dyn TransferLoss> = made.build(&json!({"scale": 2})).unwrap();
        assert!(loss.needs().embeddings && loss.needs().labels && !loss.needs().logits);
        assert_eq!(loss.needs().batch, 2);
        assert!(loss.invariances().order && !loss.invariances().scale);
        let (main, aux) = embeddings();
        let value = value_of(&*loss, &main, &aux).unwrap();
        // 2 · (0.5 · (1 + 4 + 9 + 16 + 0.25 + 0.0625) + 66)
        assert!((value.to_scalar::<f32>().unwrap() - 162.3125).abs() < 1e-6);
        let gradients = value.backward().unwrap();
        let of_main: Vec<Vec<f32>> = gradients.get(&main).unwrap().to_vec2().unwrap();
        assert_eq!(of_main, [[2.0, 4.0], [6.0, -8.0], [1.0, 0.5]]);
        let of_aux: Vec<Vec<f32>> = gradients.get(&aux).unwrap().to_vec2().unwrap();
        assert_eq!(of_aux, [[2.0; 4]; 3]);
    }
}

#[test]
fn a_gradient_that_nobody_wants_is_not_asked_for() {
    let (_folder, command) = script(PEER, "one-sided");
    let loss = loss(&command, "peer");
    assert!(!loss.reaches_main());
    let (main, aux) = embeddings();
    let gradients = value_of(&*loss, &main, &aux).unwrap().backward().unwrap();
    assert!(gradients.get(&main).is_none() && gradients.get(&aux).is_some());
    let plain = value_of(&*loss, &main.as_detached_tensor(), &aux.as_detached_tensor()).unwrap();
    assert!(!plain.track_op());
}

#[test]
fn a_penalty_comes_back_with_its_gradient() {
    let (_folder, command) = script(PEER, "good");
    let made = factory(&command, "regularizer", "peer");
    let plugin: Box<dyn Regularizer> = made.build(&json!({})).unwrap();
    let alpha = Var::new(&[[1f64, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
    let progress = Progress { epoch: 7, epochs: 50, step: 70 };
    let value = plugin.penalty(&[alpha.as_tensor().clone()], progress).unwrap();
    assert!((value.to_scalar::<f64>().unwrap() - 22.0).abs() < 1e-12);
    let gradient: Vec<Vec<f64>> = value.backward().unwrap().get(&alpha).unwrap().to_vec2().unwrap();
    assert_eq!(gradient, [[1.0, 2.0], [3.0, 4.0]]);
}

#[test]
fn a_rule_stops_and_its_epochs_are_checked() {
    let stop = |mode: &str| {
        let (_folder, command) = script(PEER, mode);
        let plugin: Box<dyn StopRule> =
            factory(&command, "stop-rule", "peer").build(&json!({})).unwrap();
        let genotype = Genotype::parse("|none~0|").unwrap();
        plugin.stop(&Trace { genotypes: vec![genotype; 4], epochs: 9, ..Trace::default() })
    };
    assert_eq!(stop("good").unwrap(), Some(Stop { stop_epoch: 3, return_epoch: 0 }));
    assert_eq!(stop("never").unwrap(), None);
    let error = stop("later").unwrap_err().to_string();
    assert!(error.contains("stopped after epoch 4") && error.contains("0 to 3"), "{error}");
    let error = stop("words").unwrap_err().to_string();
    assert!(error.contains("answered `\"soon\"`"), "{error}");
}

#[test]
fn a_selection_answers_genotypes_of_the_space() {
    let space = SpaceSpec {
        name: "small".into(),
        cells: vec![CellSpec::single_input("cell", 1, &["none", "skip_connect"])],
        skeleton: Skeleton::ResidualStages { channels: 16, cells: 1 },
        grammar: Grammar::OneOperationAnEdge,
        mixing: Mixing::default(),
        operation_options: std::collections::BTreeMap::new(),
    };
    let (_folder, command) = script(PEER, "good");
    let made = factory(&command, "selection", "peer");
    let select = |arch: &str| {
        let options = json!({"genotype": {"arch": arch}});
        let plugin: Box<dyn Selection> = made.build(&options).unwrap();
        let alphas = ArchValues::default().with("arch_parameters", vec![vec![0.25, 0.5]]);
        plugin.select(&space, &alphas)
    };
    assert_eq!(select("|skip_connect~0|").unwrap(), Genotype::parse("|skip_connect~0|").unwrap());
    let error = select("|avg_pool_3x3~0|").unwrap_err().to_string();
    assert!(error.contains("avg_pool_3x3"), "{error}");
}

#[test]
fn calls_and_their_time_are_counted() {
    let (_folder, command) = script(PEER, "good");
    let loss = loss(&command, "peer");
    let (main, aux) = embeddings();
    cost::take();
    value_of(&*loss, &main, &aux).unwrap();
    value_of(&*loss, &main, &aux).unwrap();
    let cost = cost::take().expect("there were calls");
    // Other tests of this process may have called meanwhile; each call tells 0.001 s or nothing.
    assert!(cost.calls >= 2 && cost.inside_seconds >= 0.0019, "{cost:?}");
    assert!(cost.total_seconds > 0.0, "{cost:?}");
}

#[test]
fn options_are_checked_here_and_there() {
    let (_folder, command) = script(PEER, "good");
    let made = factory(&command, "transfer-loss", "peer");
    let error = made.check(&json!({"scael": 1})).unwrap_err().to_string();
    assert!(error.contains("unknown field `scael`"), "{error}");
    let error = made.check(&json!({"scale": -1})).unwrap_err();
    assert_eq!(error.to_string(), "`scale` is negative");
    assert!(error.is_usage());
    made.check(&json!({"scale": 1})).unwrap();
}

#[test]
fn standard_error_becomes_messages() {
    let text =
        PEER.replace("MODE = sys.argv[1]", "MODE = sys.argv[1]; print('hej', file=sys.stderr)");
    // Before a name is known, it is the file's.
    let (_folder, command) = script(&text, "--talker");
    manifests(&command).unwrap();
    assert!(messages::take().contains(&("peer.py".to_owned(), "hej".to_owned())));
}

#[test]
fn a_dropped_plugin_leaves_no_process() {
    for mode in ["good", "stubborn"] {
        let (_folder, command) = script(PEER, mode);
        let (_, built_with) = manifests(&command).unwrap();
        let pid = built_with.strip_prefix("pid ").unwrap();
        assert!(pid.parse::<u32>().is_ok() && !lives(pid), "{mode}");
    }
}

#[test]
fn tensors_of_the_wrong_form_never_reach_the_child() {
    let (_folder, command) = script(PEER, "good");
    let loss = loss(&command, "peer");
    let one = Tensor::zeros((1, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(value_of(&*loss, &one, &one).unwrap_err().to_string().contains("at least 2 images"));
}
