//! Damaged frames: an error or a right answer, never a panic, a hang or a huge allocation.

use crate::process::calls::{Says, value_and_gradients};
use crate::process::frame::{self, Answer, Data, Sent};
use crate::process::instance::{greeting, json};
use serde_json::Value;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tetlo_core::foreign::{Input, Role, Values};
use tetlo_core::rng::{Key, Purpose, Stream};

const MUTATIONS: usize = 100_000;

fn texts(list: &[(&str, &str)]) -> HashMap<String, String> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn bytes(payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u64).to_le_bytes().to_vec();
    frame.extend(payload);
    frame
}

fn inputs() -> Vec<Input> {
    let input =
        |role, wanted| Input { role, shape: vec![2, 3], values: Values::F64(vec![0.5; 6]), wanted };
    vec![input(Role::Main, true), input(Role::Aux, true), input(Role::AuxMap(0), false)]
}

/// One to eight changes: a byte turned, set, inserted or removed, a stretch repeated, the end cut off.
fn mutated(original: &[u8], draws: &mut Stream) -> Vec<u8> {
    let mut data = original.to_vec();
    for _ in 0..=draws.below(8) {
        if data.is_empty() {
            break;
        }
        let at = draws.below(data.len());
        match draws.below(12) {
            0 => data.truncate(at),
            1 => {
                data.remove(at);
            }
            2 => data.insert(at, draws.next_u32() as u8),
            3 => {
                let end = (at + draws.below(16)).min(data.len());
                data.splice(at..at, original.get(at..end).unwrap_or_default().to_vec());
            }
            // A digit for a digit keeps JSON whole, and moves offsets and shapes.
            4..8 => {
                let digits: Vec<usize> =
                    (0..data.len()).filter(|i| data[*i].is_ascii_digit()).collect();
                if !digits.is_empty() {
                    data[digits[draws.below(digits.len())]] = b'0' + draws.below(10) as u8;
                }
            }
            8 | 9 => data[at] ^= 1 << draws.below(8),
            _ => data[at] = draws.next_u32() as u8,
        }
    }
    data
}

fn answer_of(frame: &[u8]) -> Option<Answer> {
    let payload = frame::read(&mut &*frame).ok()?;
    Answer::decode(&payload).ok()
}

/// Right and refused answers among the mutations of `original`.
fn outcomes(original: &[u8], step: usize, is_right: impl Fn(&[u8]) -> bool) -> [usize; 2] {
    assert!(is_right(original), "the frame is right before it is damaged");
    let mut draws = Key::new(1, Purpose::Problem).step(step).stream();
    let mut counts = [0; 2];
    for _ in 0..MUTATIONS {
        counts[usize::from(is_right(&mutated(original, &mut draws)))] += 1;
    }
    counts
}

#[test]
fn damaged_answers_are_refused() {
    let began = Instant::now();
    let (value, gradient) = ([1.5], [0.25; 6]);
    let names = ["grad_aux", "grad_main"];
    let mut arrays = vec![Sent { name: "loss".into(), shape: &[], data: Data::F64(&value) }];
    for name in names {
        arrays.push(Sent { name: name.into(), shape: &[2, 3], data: Data::F64(&gradient) });
    }
    let answer = frame::encode(texts(&[("id", "7"), ("seconds", "0.001")]), &arrays).unwrap();
    let [refused, right] = outcomes(&bytes(&answer), 0, |frame| {
        answer_of(frame).is_some_and(|mut a| value_and_gradients(&mut a, "loss", &inputs()).is_ok())
    });
    assert!(refused > MUTATIONS / 2 && right > 0, "{refused} refused, {right} right");
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
}

#[test]
fn damaged_manifests_are_refused() {
    let manifest = r##"[{"kind":"transfer-loss","name":"my-loss","version":"0.1.0","summary":"a loss",
        "schema":{"properties":{"scale":{"type":"number","minimum":0,"default":1.0},
        "mode":{"enum":["soft","hard"],"default":"soft"},"weights":{"type":"array","items":
        {"anyOf":[{"type":"number"},{"$ref":"#/$defs/W"}]},"maxItems":3,"default":[1,2]}},
        "$defs":{"W":{"const":"all"}}}},
        {"kind":"stop-rule","name":"my-rule","version":"0.1.0","summary":"a rule"}]"##;
    let hello =
        texts(&[("id", "1"), ("protocol", "1"), ("built_with", "C"), ("manifest", manifest)]);
    let payload = frame::encode(hello.clone(), &[]).unwrap();
    let [refused, _] = outcomes(&bytes(&payload), 1, |frame| {
        answer_of(frame).is_some_and(|mut a| greeting(&mut a).is_ok())
    });
    assert!(refused > MUTATIONS / 2, "{refused}");
    // The manifest alone, in a frame that is whole.
    let [refused, right] = outcomes(manifest.as_bytes(), 2, |text| {
        let mut all = hello.clone();
        all.insert("manifest".into(), String::from_utf8_lossy(text).into_owned());
        let mut answer = Answer { texts: all, arrays: std::collections::BTreeMap::new() };
        let Ok(greeting) = greeting(&mut answer) else { return false };
        greeting.manifests.iter().all(|m| m.options.complete(&Value::Null).is_ok())
    });
    assert!(refused > MUTATIONS / 4 && right > 0, "{refused} refused, {right} right");
}

#[test]
fn damaged_words_about_a_loss_are_refused() {
    let looks = r#"{"dtypes":["f64","f32"],"needs":["embeddings","labels"],"min_batch":2,
        "reaches_main":true,"teacher_is_smooth":false,"invariances":["order","scale"]}"#;
    let [refused, right] = outcomes(looks.as_bytes(), 3, |text| {
        let text = String::from_utf8_lossy(text).into_owned();
        let answer =
            Answer { texts: texts(&[("looks", &text)]), arrays: std::collections::BTreeMap::new() };
        json(&answer, "looks").and_then(|value| Says::read(&value)).is_ok()
    });
    assert!(refused > MUTATIONS / 4 && right > 0, "{refused} refused, {right} right");
}
