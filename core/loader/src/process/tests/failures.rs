//! Children that die, hang or answer nonsense: each is an error that says so.

use super::{PEER, embeddings, lives, loss, script, value_of};
use crate::process::{Command, manifests};
use candle_core::{Device, Tensor};
use std::time::{Duration, Instant};

/// The error of a call of the peer in this mode, and of a second call.
fn errors(mode: &str, limit: Duration) -> [String; 2] {
    let (_folder, mut command) = script(PEER, mode);
    command.time_limit = limit;
    let loss = loss(&command, "peer");
    let (main, aux) = embeddings();
    [(); 2].map(|()| value_of(&*loss, &main, &aux).unwrap_err().to_string())
}

#[test]
fn broken_conversations_stay_broken() {
    for (mode, part) in [
        ("segfault", "it ended before it answered: killed by signal 11 (segmentation fault)"),
        ("exit", "it ended before it answered: exit status 3\nits last words:\n  out of\n  ideas"),
        ("raise", "ZeroDivisionError: by hand"),
        ("close", "it closed its standard output before it answered"),
        ("print", "its standard output has \"epoch 1:\" where a frame should begin"),
        ("cut", "it ended in the midst of an answer: exit status 0"),
        ("huge", "where a frame should begin"),
        ("announce", "in the midst of an answer"),
        ("not-safetensors", "its answer is not a safetensors file"),
        ("no-id", "its answers are out of step"),
        ("integers", "the tensor `loss` of its answer is I64"),
    ] {
        let [first, second] = errors(mode, Duration::from_mins(1));
        assert!(first.contains(part), "{mode}: {first}");
        assert_eq!(first, second, "{mode}");
    }
}

#[test]
fn wrong_answers_are_refused_one_by_one() {
    for (mode, part) in [
        ("error", "ValueError: not today (peer.py, line 7)"),
        ("seconds", "`seconds` of its answer is \"soon\""),
        ("missing", "its answer has no tensor `grad_aux`, which was wanted"),
        ("no-loss", "its answer has no tensor `loss`"),
        ("extra", "a tensor `grad_mian` that belongs to no input"),
        ("shape", "its `grad_aux` is f64 of shape [4, 3], `aux` f64 of shape [3, 4]"),
        ("dtype", "its `grad_aux` is f32 of shape [3, 4], `aux` f64"),
        ("vector", "its `loss` is f64 of shape [1]"),
        ("nan", "it returned the value NaN"),
        ("nan-gradient", "its gradient in `main` is not finite"),
    ] {
        let [first, second] = errors(mode, Duration::from_mins(1));
        assert!(first.contains(part), "{mode}: {first}");
        assert_eq!(first, second, "{mode}");
    }
}

#[test]
fn an_answer_too_many_is_not_taken_for_the_next() {
    let (_folder, command) = script(PEER, "twice");
    let loss = loss(&command, "peer");
    let (main, aux) = embeddings();
    value_of(&*loss, &main, &aux).unwrap();
    let error = value_of(&*loss, &main, &aux).unwrap_err().to_string();
    assert!(error.contains("with a frame for call `3`: its answers are out of step"), "{error}");
}

#[test]
fn endless_loops_end_at_the_time_limit() {
    for mode in ["loop", "family"] {
        let began = Instant::now();
        let [first, second] = errors(mode, Duration::from_secs(2));
        let text = "plugin `peer`: no answer within 2 s (`time-limit`); the process was stopped";
        assert_eq!(first, text, "{mode}");
        assert_eq!(first, second);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}

#[test]
fn a_child_that_does_not_read_does_not_block() {
    let text = "import os, sys, time\nprint(os.getpid(), file=sys.stderr)\ntime.sleep(1000)\n";
    let (_folder, mut command) = script(text, "deaf");
    command.time_limit = Duration::from_millis(500);
    let error = manifests(&command).unwrap_err().to_string();
    assert!(error.contains("no answer within 0.5 s"), "{error}");
    let pid = error.lines().last().unwrap().trim();
    assert!(pid.parse::<u32>().is_ok() && !lives(pid), "{error}");
    // More than a pipe holds, to a peer that is busy.
    let (_folder, mut command) = script(PEER, "busy");
    command.time_limit = Duration::from_secs(2);
    let loss = loss(&command, "peer");
    let big = Tensor::zeros((3, 100_000), candle_core::DType::F64, &Device::Cpu).unwrap();
    for _ in 0..2 {
        let error = value_of(&*loss, &big, &big).unwrap_err().to_string();
        assert!(error.starts_with("plugin `peer`: no answer within 2 s"), "{error}");
    }
}

#[test]
fn what_is_no_plugin_says_so() {
    for (mode, part) in [
        ("quit", "it ended before it answered: exit status 0; a plugin in Python ends with"),
        ("protocol", "it speaks protocol `2`, this tetlo protocol `1`"),
        ("manifest-nan", "`manifest` of its answer is not JSON"),
    ] {
        let (_folder, command) = script(PEER, mode);
        let error = manifests(&command).unwrap_err();
        assert!(error.to_string().contains(part), "{mode}: {error}");
    }
    let (_folder, command) = script("nonsense(", "x");
    let error = manifests(&command).unwrap_err().to_string();
    assert!(error.contains("exit status 1") && error.contains("SyntaxError"), "{error}");
    let command = |words: &[&str]| Command {
        program_and_arguments: words.iter().map(|w| (*w).to_owned()).collect(),
        time_limit: Duration::from_mins(1),
    };
    for (words, part) in [
        (&["/nowhere/python"][..], "cannot start `/nowhere/python`"),
        (&["echo", "hello, world"], "its standard output has \"hello, w\""),
        (&["true"], "it ended before it answered: exit status 0"),
        (&[], "the command is empty"),
    ] {
        let error = manifests(&command(words)).unwrap_err().to_string();
        assert!(error.contains(part), "{words:?}: {error}");
    }
}

#[test]
fn a_plugin_that_needs_what_nobody_has_is_refused() {
    let (_folder, command) = script(PEER, "looks");
    let made = super::factory(&command, "transfer-loss", "peer");
    let error = tetlo_core::registry::Describe::check(&made, &serde_json::json!({})).unwrap_err();
    assert!(error.to_string().contains("its `needs` is [\"embeddings\",\"weights\"]"), "{error}");
}

#[test]
fn what_a_child_has_started_ends_with_it() {
    let start = "import subprocess, sys\nwith open(sys.argv[0] + '.pid', 'w') as file:\n    \
                 file.write(str(subprocess.Popen(['sleep', '600']).pid))\n";
    let (folder, command) = script(&format!("{start}{PEER}"), "");
    manifests(&command).unwrap();
    let pid = std::fs::read_to_string(folder.path().join("peer.py.pid")).unwrap();
    let began = Instant::now();
    while lives(&pid) {
        assert!(began.elapsed() < Duration::from_secs(10), "{pid} lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
}
