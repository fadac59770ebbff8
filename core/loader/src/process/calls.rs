//! The calls of a plugin in a process, as the kinds make them.

use super::Command;
use super::frame::{Answer, Data, Sent};
use super::instance::{Instance, json};
use candle_core::DType;
use serde_json::Value;
use tetlo_core::foreign::{
    Input, Looks, LossCall, LossCode, PenaltyCall, PenaltyCode, ValueAndGradients, Values,
    checked_genotype, checked_stop, cost, trace_to_json,
};
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{Invariances, Needs, Selection, Stop, StopRule, Trace};
use tetlo_core::space::{ArchValues, SpaceSpec};
use tetlo_core::{Error, Result};

/// A plugin in a process.
#[derive(Debug)]
pub(super) struct Remote {
    instance: Instance,
    says: Says,
}

/// What a plugin says of itself when it is built.
#[derive(Debug, PartialEq)]
pub(super) struct Says {
    looks: Looks,
    /// Never empty; the best first.
    dtypes: Vec<DType>,
}

impl Remote {
    /// Starts a process and creates the plugin in it.
    ///
    /// # Errors
    /// As [`Instance::start`]; or the plugin refuses the options.
    pub(super) fn start(
        command: &Command,
        kind: &str,
        name: &str,
        options: &Value,
    ) -> Result<Self> {
        let (instance, _) = Instance::start(command, name)?;
        let texts = [
            ("kind", kind.to_owned()),
            ("name", name.to_owned()),
            ("options", options.to_string()),
        ];
        let answer = instance.call("create", texts, &[]);
        // Options that it refuses are the config's fault.
        let answer = answer.map_err(|e| Error::config(e.to_string()))?;
        let says = Says::read(&json(&answer, "looks")?)?;
        Ok(Self { instance, says })
    }

    fn dtype_for(&self, of: DType) -> DType {
        let dtypes = &self.says.dtypes;
        if dtypes.contains(&of) { of } else { dtypes[0] }
    }

    /// One call with gradients; `name` is that of the value in the answer.
    fn differentiate<const N: usize>(
        &self,
        name: &str,
        texts: [(&str, String); N],
        inputs: &[Input],
        arrays: &[Sent<'_>],
    ) -> Result<ValueAndGradients> {
        let mut answer = self.instance.call(name, texts, arrays)?;
        cost::inside(seconds(&answer)?);
        value_and_gradients(&mut answer, name, inputs)
    }

    /// One call whose answer is a text in JSON.
    fn decide(
        &self,
        call: &str,
        key: &str,
        given: (&str, String),
        arrays: &[Sent<'_>],
    ) -> Result<Value> {
        let answer = self.instance.call(call, [given], arrays)?;
        json(&answer, key)
    }
}

impl LossCode for Remote {
    fn looks(&self) -> Looks {
        self.says.looks
    }

    fn dtype(&self, of: DType) -> DType {
        self.dtype_for(of)
    }

    fn call(&self, call: &LossCall<'_>) -> Result<ValueAndGradients> {
        let mut arrays = sent(call.inputs);
        let labels: Option<Vec<i64>> =
            call.labels.map(|list| list.iter().map(|l| i64::from(*l)).collect());
        let count = [call.images];
        if let Some(labels) = &labels {
            arrays.push(Sent { name: "labels".into(), shape: &count, data: Data::I64(labels) });
        }
        let draws = serde_json::json!(call.draws.state()).to_string();
        let texts = [
            ("images", call.images.to_string()),
            ("draws", draws),
            ("wanted", wanted(call.inputs)),
        ];
        self.differentiate("loss", texts, call.inputs, &arrays)
    }
}

impl PenaltyCode for Remote {
    fn dtype(&self, of: DType) -> DType {
        self.dtype_for(of)
    }

    fn call(&self, call: &PenaltyCall<'_>) -> Result<ValueAndGradients> {
        let texts = [
            ("epoch", call.progress.epoch.to_string()),
            ("epochs", call.progress.epochs.to_string()),
            ("step", call.progress.step.to_string()),
            ("wanted", wanted(call.inputs)),
        ];
        self.differentiate("penalty", texts, call.inputs, &sent(call.inputs))
    }
}

impl StopRule for Remote {
    fn stop(&self, trace: &Trace) -> Result<Option<Stop>> {
        let given = ("trace", trace_to_json(trace).to_string());
        let answer = self.decide("stop", "stop", given, &[])?;
        stop(&answer)?.map(|stop| checked_stop(trace, stop)).transpose()
    }
}

impl Selection for Remote {
    fn select(&self, space: &SpaceSpec, alphas: &ArchValues) -> Result<Genotype> {
        let text = serde_json::to_string(space)
            .map_err(|e| Error::Invalid(format!("the space cannot be told: {e}")))?;
        let flat: Vec<(&str, [usize; 2], Vec<f64>)> = alphas
            .iter()
            .map(|(name, rows)| {
                (name, [rows.len(), rows.first().map_or(0, Vec::len)], rows.concat())
            })
            .collect();
        let arrays: Vec<Sent<'_>> = flat
            .iter()
            .map(|(name, shape, data)| Sent {
                name: (*name).to_owned(),
                shape,
                data: Data::F64(data),
            })
            .collect();
        let answer = self.decide("select", "genotype", ("space", text), &arrays)?;
        checked_genotype(space, &answer)
    }
}

fn sent(inputs: &[Input]) -> Vec<Sent<'_>> {
    let of = |input: &'_ Input| input.role.to_string();
    inputs
        .iter()
        .map(|i| Sent { name: of(i), shape: &i.shape, data: Data::from(&i.values) })
        .collect()
}

fn wanted(inputs: &[Input]) -> String {
    let names: Vec<String> =
        inputs.iter().filter(|i| i.wanted).map(|i| i.role.to_string()).collect();
    serde_json::json!(names).to_string()
}

/// The time inside the author's code; 0 where the answer does not tell it.
fn seconds(answer: &Answer) -> Result<f64> {
    let Some(text) = answer.texts.get("seconds") else { return Ok(0.0) };
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(seconds),
        _ => Err(Error::Foreign(format!("`seconds` of its answer is {text:?}, not a time"))),
    }
}

/// The value called `name` and the gradients of an answer.
///
/// # Errors
/// One is missing, of another type or shape, or there is one that nobody knows.
pub(super) fn value_and_gradients(
    answer: &mut Answer,
    name: &str,
    inputs: &[Input],
) -> Result<ValueAndGradients> {
    let wrong = |what: String| Err(Error::Foreign(what));
    let value = match answer.arrays.remove(name) {
        Some((shape, Values::F64(v))) if shape.is_empty() && v.len() == 1 => v[0],
        Some((shape, values)) => {
            let dtype = values.dtype().as_str();
            return wrong(format!(
                "its `{name}` is {dtype} of shape {shape:?}; f64 without dimension is expected"
            ));
        }
        None => return wrong(format!("its answer has no tensor `{name}`")),
    };
    let mut gradients = Vec::with_capacity(inputs.len());
    for input in inputs {
        let role = input.role;
        let found = answer.arrays.remove(&format!("grad_{role}"));
        if !input.wanted {
            gradients.push(None);
            continue;
        }
        let Some((shape, values)) = found else {
            return wrong(format!("its answer has no tensor `grad_{role}`, which was wanted"));
        };
        if shape != input.shape || values.dtype() != input.values.dtype() {
            return wrong(format!(
                "its `grad_{role}` is {} of shape {shape:?}, `{role}` {} of shape {:?}",
                values.dtype().as_str(),
                input.values.dtype().as_str(),
                input.shape
            ));
        }
        gradients.push(Some(values));
    }
    match answer.arrays.keys().next() {
        Some(other) => wrong(format!("its answer has a tensor `{other}` that belongs to no input")),
        None => Ok(ValueAndGradients { value, gradients }),
    }
}

/// Reads `null` or `[stop_epoch, return_epoch]`.
fn stop(answer: &Value) -> Result<Option<Stop>> {
    let epoch = |i: usize| answer[i].as_u64().and_then(|e| usize::try_from(e).ok());
    match (answer, answer.as_array().map(Vec::len), epoch(0), epoch(1)) {
        (Value::Null, ..) => Ok(None),
        (_, Some(2), Some(stop_epoch), Some(return_epoch)) => {
            Ok(Some(Stop { stop_epoch, return_epoch }))
        }
        _ => Err(Error::Foreign(format!(
            "it answered `{answer}`; null or [stop epoch, return epoch] is expected"
        ))),
    }
}

impl Says {
    /// Reads what a plugin says of itself; what it does not say is as with [`Looks::default`].
    ///
    /// # Errors
    /// A word that nobody knows, or a value of another type.
    pub(super) fn read(value: &Value) -> Result<Self> {
        let words = |key: &str, default: &[&str], known: &[&str]| -> Result<Vec<String>> {
            let given = match &value[key] {
                Value::Null => return Ok(default.iter().map(|w| (*w).to_owned()).collect()),
                given => given.as_array().into_iter().flatten().map(|w| w.as_str()),
            };
            let list: Option<Vec<&str>> = given.collect();
            match list {
                Some(list) if value[key].is_array() && list.iter().all(|w| known.contains(w)) => {
                    Ok(list.into_iter().map(str::to_owned).collect())
                }
                _ => Err(Error::Foreign(format!(
                    "its `{key}` is {}; a list of {} is expected",
                    value[key],
                    known.join(", ")
                ))),
            }
        };
        let truth = |key: &str| match &value[key] {
            Value::Null => Ok(true),
            Value::Bool(truth) => Ok(*truth),
            other => {
                Err(Error::Foreign(format!("its `{key}` is {other}; true or false is expected")))
            }
        };
        let batch = match &value["min_batch"] {
            Value::Null => 1,
            given => given.as_u64().filter(|n| (1..=1 << 20).contains(n)).ok_or_else(|| {
                Error::Foreign(format!("its `min_batch` is {given}; a whole number is expected"))
            })?,
        };
        let seen = words("needs", &["embeddings"], &["embeddings", "logits", "maps", "labels"])?;
        let unchanged = words("invariances", &[], &["order", "scale", "rotation", "shift"])?;
        let dtypes = words("dtypes", &["f64"], &["f32", "f64"])?;
        let has = |list: &[String], word: &str| list.iter().any(|w| w == word);
        let mut needs = Needs::batch(batch as usize);
        needs.embeddings = has(&seen, "embeddings");
        needs.logits = has(&seen, "logits");
        needs.maps = has(&seen, "maps");
        needs.labels = has(&seen, "labels");
        if !(needs.embeddings || needs.logits || needs.maps) {
            return Err(Error::Foreign(
                "its `needs` name none of embeddings, logits and maps, so it would see nothing"
                    .into(),
            ));
        }
        let invariances = Invariances {
            order: has(&unchanged, "order"),
            scale: has(&unchanged, "scale"),
            rotation: has(&unchanged, "rotation"),
            shift: has(&unchanged, "shift"),
        };
        let dtypes: Vec<DType> =
            dtypes.iter().map(|d| if d == "f32" { DType::F32 } else { DType::F64 }).collect();
        if dtypes.is_empty() {
            return Err(Error::Foreign("its `dtypes` are empty; f32 or f64 is expected".into()));
        }
        let looks = Looks {
            needs,
            reaches_main: truth("reaches_main")?,
            teacher_is_smooth: truth("teacher_is_smooth")?,
            invariances,
        };
        Ok(Self { looks, dtypes })
    }
}
