//! A child process that answers frames, within a time limit.

use super::Command;
use super::frame::{self, Broken};
use super::group::{self, State};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::process::{ChildStderr, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tetlo_core::foreign::{ended, messages};

/// Lines of standard error that an error message repeats.
const LAST_WORDS: usize = 6;

/// Bytes of a line of standard error; longer ones are broken.
const LONGEST_LINE: u64 = 2000;

/// How long a child may take to end after its input, and its standard error after it.
const PATIENCE: Duration = Duration::from_millis(500);

/// A child process.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    requests: Option<Sender<Vec<u8>>>,
    answers: Receiver<Result<Vec<u8>, Broken>>,
    last_words: Arc<Mutex<VecDeque<String>>>,
    /// Disconnected when standard error has ended.
    stderr: Receiver<()>,
    time_limit: Duration,
    answered: bool,
    _helper: TempDir,
}

impl Child {
    /// Starts the command. Its standard error goes to [`messages`] under the name `plugin`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(command: &Command, plugin: &str) -> Result<Self, String> {
        let Some((program, arguments)) = command.program_and_arguments.split_first() else {
            return Err("the command is empty".into());
        };
        let helper = helper().map_err(|e| format!("cannot write the Python helper: {e}"))?;
        let mut builder = std::process::Command::new(program);
        builder
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("PYTHONPATH", python_path(helper.path()))
            .env("PYTHONUNBUFFERED", "1")
            // What lies beside the script is not there in a trial, which runs a copy of that one file.
            .env("PYTHONSAFEPATH", "1")
            .env("TETLO_PLUGIN_PIPES", "1");
        if std::env::var_os("OMP_NUM_THREADS").is_none() {
            // The same bytes on any machine, and no threads that wait for work while tetlo computes.
            builder.env("OMP_NUM_THREADS", "1");
        }
        // A signal for the terminal's programs is for tetlo alone, which then ends the child.
        group::lead(&mut builder);
        let mut process = builder.spawn().map_err(|e| cannot_start(program, &e))?;
        let (Some(mut stdin), Some(mut stdout), Some(stderr)) =
            (process.stdin.take(), process.stdout.take(), process.stderr.take())
        else {
            return Err(format!("cannot start `{program}`: it has no pipes"));
        };
        let (requests, to_send) = channel::<Vec<u8>>();
        let (received, answers) = channel();
        thread::spawn(move || {
            for payload in to_send {
                let answer = match frame::write(&mut stdin, &payload) {
                    Ok(()) => frame::read(&mut stdout),
                    // What a child that does not listen has said tells what it is.
                    Err(Broken::Ended) => frame::read(&mut stdout).and(Err(Broken::Ended)),
                    Err(broken) => Err(broken),
                };
                let broken = answer.is_err();
                if received.send(answer).is_err() || broken {
                    break;
                }
            }
        });
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let (open, stderr_ended) = channel();
        let (words, name) = (Arc::clone(&last_words), plugin.to_owned());
        thread::spawn(move || {
            listen(stderr, &name, &words);
            drop(open);
        });
        Ok(Self {
            process,
            requests: Some(requests),
            answers,
            last_words,
            stderr: stderr_ended,
            time_limit: command.time_limit,
            answered: false,
            _helper: helper,
        })
    }

    /// Sends a payload and waits for the answer's.
    ///
    /// # Errors
    /// There is none; the child has then been stopped, and the message says what happened.
    pub(super) fn exchange(&mut self, payload: Vec<u8>) -> Result<Vec<u8>, String> {
        // A thread that is gone has left its last answer.
        let _ = self.requests.as_ref().map(|requests| requests.send(payload));
        match self.answers.recv_timeout(self.time_limit) {
            Ok(Ok(payload)) => {
                self.answered = true;
                Ok(payload)
            }
            Ok(Err(broken)) => Err(self.post_mortem(&broken)),
            Err(RecvTimeoutError::Disconnected) => Err(self.post_mortem(&Broken::Ended)),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = self.time_limit.as_secs_f64();
                Err(self.stop(format!(
                    "no answer within {seconds} s (`time-limit`); the process was stopped"
                )))
            }
        }
    }

    /// Stops the child; its last words come after `message`.
    pub(super) fn stop(&mut self, message: String) -> String {
        group::kill(&mut self.process);
        self.with_last_words(message)
    }

    fn post_mortem(&mut self, broken: &Broken) -> String {
        let place = match broken {
            Broken::Length(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                return self.stop(format!(
                    "its standard output has {text:?} where a frame should begin; what is for \
                     people belongs on standard error"
                ));
            }
            Broken::Pipe(e) => return self.stop(format!("its pipe failed: {e}")),
            Broken::Ended => "before it answered",
            Broken::Cut => "in the midst of an answer",
        };
        match self.wait() {
            None => self.stop(format!("it closed its standard output {place}")),
            Some(status) => {
                let how = ended(status);
                let first = status.success() && !self.answered;
                let hint =
                    if first { "; a plugin in Python ends with `tetlo.serve()`" } else { "" };
                self.with_last_words(format!("it ended {place}: {how}{hint}"))
            }
        }
    }

    /// The child's end, if it comes soon.
    fn wait(&mut self) -> Option<ExitStatus> {
        let began = Instant::now();
        loop {
            match group::state(&self.process) {
                State::Running if began.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(2));
                }
                State::Running => return None,
                State::Ended | State::Gone => {
                    // What it has started goes with it.
                    group::kill(&mut self.process);
                    return self.process.wait().ok();
                }
            }
        }
    }

    fn with_last_words(&self, message: String) -> String {
        // Its end is a disconnection; something it started may keep its standard error open.
        let _ = self.stderr.recv_timeout(PATIENCE);
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.is_empty() {
            return message;
        }
        let lines: Vec<&str> = words.iter().map(String::as_str).collect();
        format!("{message}\nits last words:\n  {}", lines.join("\n  "))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The end of its input is the child's end; one that does not listen is killed.
        self.requests = None;
        if self.wait().is_none() {
            group::kill(&mut self.process);
        }
    }
}

/// Why a program did not start, with what often helps.
fn cannot_start(program: &str, e: &std::io::Error) -> String {
    let hint = match e.kind() {
        ErrorKind::PermissionDenied => {
            "; may it be run? `chmod +x`, or name what runs it: `command = [\"…\", \"{library}\"]`"
        }
        ErrorKind::NotFound if Path::new(program).exists() => {
            "; it is there, but not what its first line (`#!…`) names: Windows line ends?"
        }
        _ => "",
    };
    format!("cannot start `{program}`: {e}{hint}")
}

/// A folder with `tetlo_plugin.py` alone.
fn helper() -> std::io::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("tetlo-plugin-").tempdir()?;
    std::fs::write(folder.path().join("tetlo_plugin.py"), tetlo_plugin::PYTHON)?;
    Ok(folder)
}

/// The helper's folder after the user's, so that a helper of theirs comes first.
fn python_path(helper: &Path) -> std::ffi::OsString {
    match std::env::var_os("PYTHONPATH").filter(|path| !path.is_empty()) {
        None => helper.as_os_str().to_owned(),
        Some(mut path) => {
            path.push(":");
            path.push(helper);
            path
        }
    }
}

fn listen(stderr: ChildStderr, plugin: &str, last_words: &Mutex<VecDeque<String>>) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    while reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if text.is_empty() {
            continue;
        }
        messages::say(plugin, &text);
        let mut words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() == LAST_WORDS {
            words.pop_front();
        }
        words.push_back(text);
    }
}
