//! The child from outside: what it tells, and how it ends.

use super::wire::{FAILED, Line, Message};
use crate::console;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tetlo_core::foreign::ended;

/// How the checks ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All of them ran.
    Finished,
    /// There is nothing to check; the child has said why.
    Usage,
    /// One of them hung or ended the child, and has a row that says so.
    Broken,
}

/// Runs the checks in a child process and hands on what it tells. A check that takes longer than
/// `limit` is ended with the child.
pub(super) fn watch(plugin: &str, limit: Duration, take: &mut dyn FnMut(Message)) -> Result<End> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments_of_child(std::env::args_os().skip(1).collect()))
        .stdin(Stdio::piped()) // closes when this process ends: the child then ends too
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a process for the checks")?;
    let messages = child.stdout.take().map(reader).context("the child has no output")?;
    follow(&mut child, &messages, plugin, limit, take)
}

/// This process's own arguments and `--child`.
fn arguments_of_child(mut own: Vec<OsString>) -> Vec<OsString> {
    // Behind the name of the command, so that a `--` later does not turn it into a plugin's name.
    let at = own.iter().position(|a| a == "check").map_or(own.len(), |i| i + 1);
    own.insert(at, "--child".into());
    own
}

/// Reads messages on a thread; other lines are what plugins print, and go to standard error.
fn reader(output: impl Read + Send + 'static) -> Receiver<Message> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while matches!(output.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&line);
            let (printed, message) = Message::find(text.trim_end_matches(['\n', '\r']));
            if !printed.is_empty() {
                console::note(printed);
            }
            if message.is_some_and(|m| sender.send(m).is_err()) {
                break;
            }
            line.clear();
        }
    });
    receiver
}

fn follow(
    child: &mut Child,
    messages: &Receiver<Message>,
    plugin: &str,
    limit: Duration,
    take: &mut dyn FnMut(Message),
) -> Result<End> {
    let mut whose = (String::new(), plugin.to_owned());
    let mut running: Option<String> = None;
    let mut told = false;
    let mut since = Instant::now();
    let hung = loop {
        match messages.recv_timeout(limit.saturating_sub(since.elapsed())) {
            Ok(message) => {
                match &message {
                    Message::Plugin { kind, name, .. } => whose = (kind.clone(), name.clone()),
                    Message::Begin(what) => running = Some(what.clone()),
                    Message::Row(_) => {
                        running = None;
                        told = true;
                    }
                }
                take(message);
                since = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => break false,
            Err(RecvTimeoutError::Timeout) => break true,
        }
    };
    // Whoever closes its output, or leaves it to a process of its own, is not yet at its end, or is.
    let status = if hung { child.try_wait()? } else { wait(child, limit)? };
    let milliseconds = 1e3 * since.elapsed().as_secs_f64();
    let why = match status {
        Some(status) if !told && status.code() == Some(2) => return Ok(End::Usage),
        Some(status) if running.is_none() && matches!(status.code(), Some(0 | 1)) => {
            return Ok(End::Finished);
        }
        Some(status) => ended(status),
        None => {
            child.kill().context("cannot end the process of the checks")?;
            child.wait()?;
            format!("no end within {} s", limit.as_secs_f64())
        }
    };
    let (kind, name) = whose;
    let check = running.unwrap_or_else(|| "between two checks".to_owned());
    let (outcome, detail) = (FAILED.to_owned(), why);
    take(Message::Row(Line { kind, name, check, outcome, milliseconds, detail }));
    Ok(End::Broken)
}

/// Waits for a process that has closed its output.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        let status = child.try_wait()?;
        if status.is_some() || began.elapsed() > limit {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// What is told of a child that runs this shell script.
    fn watched(script: &str, limit: Duration) -> (End, Vec<Message>) {
        let script = script.replace("MARK", "\\036");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let messages = reader(child.stdout.take().expect("its output"));
        let mut told = vec![];
        let end = follow(&mut child, &messages, "p", limit, &mut |m| told.push(m));
        (end.expect("watched"), told)
    }

    fn last(told: &[Message]) -> (&str, &str) {
        match told.last() {
            Some(Message::Row(line)) if line.outcome == FAILED => (&line.check, &line.detail),
            other => panic!("no failed row: {other:?}"),
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn the_check_that_kills_is_named() {
        let begin = r#"printf 'noise MARK{"begin":"gradient"}\n'; "#;
        let (end, told) = watched(&format!("{begin} kill -SEGV $$"), LONG);
        assert_eq!(end, End::Broken);
        assert_eq!(last(&told), ("gradient", "killed by signal 11 (segmentation fault)"));
        let (end, told) = watched(&format!("{begin} exit 0"), LONG);
        assert_eq!((end, last(&told)), (End::Broken, ("gradient", "exit status 0")));
    }

    #[test]
    fn the_check_that_hangs_is_named_and_ended() {
        let script = r#"printf 'MARK{"begin":"value"}\n'; exec sleep 60"#;
        let began = Instant::now();
        let (end, told) = watched(script, Duration::from_millis(300));
        assert_eq!((end, last(&told)), (End::Broken, ("value", "no end within 0.3 s")));
        assert!(began.elapsed() < Duration::from_secs(30));
        // One that only closed its output hangs no less.
        let script = r#"printf 'MARK{"begin":"value"}\n'; exec sleep 60 >/dev/null"#;
        let (end, told) = watched(script, Duration::from_millis(300));
        assert_eq!((end, last(&told)), (End::Broken, ("value", "no end within 0.3 s")));
    }

    #[test]
    fn the_end_that_should_be() {
        let line =
            r#"{"kind":"k","name":"n","check":"c","outcome":"ok","milliseconds":1,"detail":""}"#;
        let script = format!("printf 'MARK{{\"row\":{line}}}\\n'; exit 1");
        let (end, told) = watched(&script, LONG);
        assert_eq!((end, told.len()), (End::Finished, 1));
        assert_eq!(watched("exit 2", LONG), (End::Usage, vec![]));
    }

    #[test]
    fn the_child_has_the_same_arguments() {
        let given = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        let own = given(&["--no-progress", "plugins", "check", "--", "-x"]);
        let expected = given(&["--no-progress", "plugins", "check", "--child", "--", "-x"]);
        assert_eq!(arguments_of_child(own), expected);
    }
}
