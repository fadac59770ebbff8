//! A plugin in a child of its own: the conversation from `hello` to the last call.

use super::Command;
use super::child::Child;
use super::frame::{self, Answer, PROTOCOL, Sent};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use tetlo_core::foreign::Manifest;
use tetlo_core::{Error, Result};

/// A child that answers calls. Once the conversation is broken, every call gives the error that broke it;
/// an error that the child reports breaks nothing.
#[derive(Debug)]
pub(super) struct Instance {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    child: Child,
    calls: u64,
    broken: Option<String>,
}

/// What a child says first.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) manifests: Vec<Manifest>,
    pub(super) built_with: String,
}

impl Instance {
    /// Starts the command and asks what it has. Its messages come under the name `plugin`.
    ///
    /// # Errors
    /// It cannot be started, does not answer, speaks another protocol, or its manifest is wrong.
    pub(super) fn start(command: &Command, plugin: &str) -> Result<(Self, Greeting)> {
        let child = Child::start(command, plugin).map_err(Error::config)?;
        let this = Self { state: Mutex::new(State { child, calls: 0, broken: None }) };
        let texts =
            [("protocol", PROTOCOL.to_owned()), ("tetlo", env!("CARGO_PKG_VERSION").into())];
        let mut answer = this.call("hello", texts, &[])?;
        let greeting = greeting(&mut answer)?;
        Ok((this, greeting))
    }

    /// One call.
    ///
    /// # Errors
    /// The child reports an error, or the conversation is broken.
    pub(super) fn call<const N: usize>(
        &self,
        call: &str,
        texts: [(&str, String); N],
        arrays: &[Sent<'_>],
    ) -> Result<Answer> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(what) = &state.broken {
            return Err(Error::Foreign(what.clone()));
        }
        state.calls += 1;
        let id = state.calls.to_string();
        let mut all: HashMap<String, String> =
            texts.into_iter().map(|(key, text)| (key.to_owned(), text)).collect();
        all.extend([("call".to_owned(), call.to_owned()), ("id".to_owned(), id.clone())]);
        let payload = frame::encode(all, arrays).map_err(Error::Foreign)?;
        let answer = state.answer(payload, &id).map_err(|what| {
            state.broken = Some(what.clone());
            Error::Foreign(what)
        })?;
        match answer.texts.get("error") {
            Some(error) => Err(Error::Foreign(error.clone())),
            None => Ok(answer),
        }
    }
}

impl State {
    fn answer(&mut self, payload: Vec<u8>, id: &str) -> std::result::Result<Answer, String> {
        let payload = self.child.exchange(payload)?;
        let answer = Answer::decode(&payload).map_err(|what| self.child.stop(what))?;
        match answer.texts.get("id").map(String::as_str) {
            Some(given) if given == id => Ok(answer),
            given => {
                let given = given.unwrap_or_default();
                Err(self.child.stop(format!(
                    "it answered call {id} with a frame for call `{given}`: its answers are out of step"
                )))
            }
        }
    }
}

/// Reads the answer to `hello`.
///
/// # Errors
/// Another protocol, or a wrong manifest.
pub(super) fn greeting(answer: &mut Answer) -> Result<Greeting> {
    let text = |key: &str| answer.texts.get(key).map(String::as_str);
    let protocol = text("protocol").unwrap_or_default();
    if protocol != PROTOCOL {
        return Err(Error::config_hint(
            format!("it speaks protocol `{protocol}`, this tetlo protocol `{PROTOCOL}`"),
            "a copy of `tetlo_plugin.py` beside the script may be of another version of tetlo",
        ));
    }
    let manifest = json(answer, "manifest")?;
    let manifests =
        Manifest::list(&manifest).map_err(|e| Error::config(format!("its manifest: {e}")))?;
    let built_with = text("built_with").unwrap_or_default();
    // For people, on one line.
    let built_with = built_with.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(Greeting { manifests, built_with })
}

/// A text of an answer that is JSON.
///
/// # Errors
/// It is not there, or not JSON (NaN is not).
pub(super) fn json(answer: &Answer, key: &str) -> Result<Value> {
    let Some(text) = answer.texts.get(key) else {
        return Err(Error::Foreign(format!("its answer has no `{key}`")));
    };
    serde_json::from_str(text)
        .map_err(|e| Error::Foreign(format!("`{key}` of its answer is not JSON: {e}")))
}

/// What a command is called before it has told a name: the file name of its last word that is no option.
pub(super) fn label(command: &Command) -> String {
    let words = command.program_and_arguments.iter().rev();
    let word = words.clone().find(|w| !w.starts_with('-')).or(words.clone().next());
    let name = word.and_then(|w| Path::new(w).file_name());
    name.map_or_else(|| "process".into(), |n| n.to_string_lossy().into_owned())
}
