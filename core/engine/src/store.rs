//! Files: the only module that writes them.
//!
//! A file appears whole or not at all (temporary name, fsync, rename); `result.json` is created only
//! where none is, and its presence means done.

use crate::npz;
use crate::record::Observer;
use crate::search::AlphaHistory;
use crate::summary::{Event, FAILURE_SCHEMA, Failure, TrialResult};
use candle_core::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tetlo_core::foreign::messages;
use tetlo_core::genotype::Genotype;
use tetlo_core::{Error, Result};

/// Writes a file as a whole.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary_name(path);
    put(&temporary, bytes)?;
    fs::rename(&temporary, path)
        .map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
}

/// Writes a file as a whole that its owner may run.
pub fn write_executable(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let temporary = temporary_name(path);
    put(&temporary, bytes)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
}

/// Writes a file as a whole where there is none; `false`: there is one, and it stays.
pub fn create(path: &Path, bytes: &[u8]) -> Result<bool> {
    let temporary = temporary_name(path);
    put(&temporary, bytes)?;
    // A hard link fails where the name is taken, a rename would replace it.
    let linked = fs::hard_link(&temporary, path);
    let removed = fs::remove_file(&temporary);
    match linked {
        Ok(()) => {
            removed.map_err(|e| Error::io(format!("cannot remove {}", temporary.display()), e))?;
            Ok(true)
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io(format!("cannot write {}", path.display()), e)),
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| {
        let _ = fs::remove_file(path);
        Error::io(format!("cannot write {}", path.display()), e)
    })
}

/// Makes a directory and those above it.
pub fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io(format!("cannot make {}", path.display()), e))
}

/// Reads a text file.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes =
        fs::read(path).map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
    String::from_utf8(bytes).map_err(|_| {
        Error::config(format!("{} is not a text file (invalid UTF-8)", path.display()))
    })
}

/// A JSON document with a final newline.
pub fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Keeps a second process off an output directory while it lives.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock of `directory`.
    ///
    /// # Errors
    /// Another process holds it.
    pub fn take(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).map_err(|e| {
            Error::config_hint(
                format!("cannot make the directory {}: {e}", directory.display()),
                "choose another `--out`",
            )
        })?;
        let path = directory.join(".lock");
        let doing = || format!("cannot lock {}", path.display());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| Error::io(doing(), e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::config_hint(
                format!("another process is writing to {}", directory.display()),
                "wait for it, or choose another `--out`",
            )),
            Err(fs::TryLockError::Error(e)) => Err(Error::io(doing(), e)),
        }
    }
}

/// The directory of one trial.
#[derive(Debug, Clone)]
pub struct TrialDirectory {
    path: PathBuf,
}

impl TrialDirectory {
    /// `OUT/trials/<trial-id>`.
    pub fn of(out: &Path, trial_id: &str) -> Self {
        Self { path: out.join("trials").join(trial_id) }
    }

    /// A directory of any name (a single search).
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The result, if the trial is done.
    ///
    /// # Errors
    /// `result.json` is there but cannot be read.
    pub fn result(&self) -> Result<Option<TrialResult>> {
        self.read("result.json")
    }

    /// Begins an attempt: the resolved trial and where it runs; earlier records are replaced.
    pub fn begin(&self, run_toml: &str, provenance: &Value) -> Result<()> {
        make_directory(&self.path)?;
        write(&self.path.join("run.toml"), run_toml.as_bytes())?;
        write(&self.path.join("provenance.json"), &json_bytes(provenance))
    }

    /// The derived architecture, as JSON and as Python text.
    pub fn write_genotype(&self, genotype: &Genotype) -> Result<()> {
        let mut value = genotype.to_json();
        if let Some(object) = value.as_object_mut() {
            object.shift_insert(0, "schema".into(), json!("tetlo.genotype/1"));
        }
        write(&self.path.join("genotype.json"), &json_bytes(&value))?;
        let text = format!("{}\n", genotype.to_python());
        write(&self.path.join("genotype.txt"), text.as_bytes())
    }

    /// The architecture parameters after each epoch: one array a name, epochs × edges × operations.
    pub fn write_alphas(&self, history: &AlphaHistory) -> Result<()> {
        let Some(first) = history.first() else { return Ok(()) };
        let mut arrays = Vec::new();
        for (i, (name, _)) in first.iter().enumerate() {
            let epochs: Vec<Tensor> = history.iter().map(|e| e[i].1.clone()).collect();
            arrays.push((name.clone(), Tensor::stack(&epochs, 0)?));
        }
        write(&self.path.join("alpha.npz"), &npz::to_bytes(&arrays)?)
    }

    /// Ends the trial; `false` if another process ended it first.
    pub fn finish(&self, result: &TrialResult) -> Result<bool> {
        create(&self.path.join("result.json"), &json_bytes(result))
    }

    /// Records a failed attempt in the next free `failure-N.json`.
    pub fn fail(&self, trial_id: &str, error: &Error, signal: Option<i32>) -> Result<()> {
        make_directory(&self.path)?;
        let (step, level) = match innermost(error) {
            Error::NotFinite { step, level, .. } => (Some(*step), Some(level.clone())),
            _ => (None, None),
        };
        let failure = Failure {
            schema: FAILURE_SCHEMA.into(),
            trial_id: trial_id.to_owned(),
            step,
            level,
            error: error.to_string(),
            signal,
        };
        for n in 0.. {
            if create(&self.path.join(format!("failure-{n}.json")), &json_bytes(&failure))? {
                break;
            }
        }
        Ok(())
    }

    /// The last failed attempt.
    ///
    /// # Errors
    /// A record is there but cannot be read.
    pub fn failure(&self) -> Result<Option<Failure>> {
        let mut last = None;
        for n in 0.. {
            let found: Option<Failure> = self.read(&format!("failure-{n}.json"))?;
            if found.is_none() {
                break;
            }
            last = found;
        }
        Ok(last)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("cannot read {}", path.display()), e)),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| Error::Data(format!("{}: {e}", path.display()))),
        }
    }
}

fn innermost(error: &Error) -> &Error {
    match error {
        Error::Plugin { source, .. } => innermost(source),
        other => other,
    }
}

/// Writes a trial's events and lines, and passes everything on to a person's view.
pub struct Recorder<'a> {
    events: BufWriter<File>,
    log: BufWriter<File>,
    began: Instant,
    failed: Option<std::io::Error>,
    next: &'a mut dyn Observer,
    path: PathBuf,
}

impl std::fmt::Debug for Recorder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<'a> Recorder<'a> {
    /// Starts `events.jsonl` and `log.jsonl` anew.
    pub fn start(directory: &TrialDirectory, next: &'a mut dyn Observer) -> Result<Self> {
        let open = |name: &str| {
            let path = directory.path().join(name);
            File::create(&path)
                .map(BufWriter::new)
                .map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
        };
        Ok(Self {
            events: open("events.jsonl")?,
            log: open("log.jsonl")?,
            began: Instant::now(),
            failed: None,
            next,
            path: directory.path().to_path_buf(),
        })
    }

    /// Brings everything to the disk.
    ///
    /// # Errors
    /// An earlier write failed (a full disk).
    pub fn finish(mut self) -> Result<()> {
        self.put_messages();
        let result = match self.failed.take() {
            Some(error) => Err(error),
            None => self
                .events
                .flush()
                .and_then(|()| self.log.flush())
                .and_then(|()| self.events.get_ref().sync_all()),
        };
        result.map_err(|e| Error::io(format!("cannot write records in {}", self.path.display()), e))
    }

    /// Records a line and passes it on.
    fn put_line(&mut self, text: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        self.put(|r| {
            serde_json::to_writer(&mut r.log, &json!({"seconds": seconds, "text": text}))?;
            r.log.write_all(b"\n")
        });
        self.next.line(text);
    }

    /// Records what loaded code has said meanwhile.
    fn put_messages(&mut self) {
        for (plugin, text) in messages::take() {
            self.put_line(&format!("{plugin}: {text}"));
        }
    }

    fn put(&mut self, write: impl FnOnce(&mut Self) -> std::io::Result<()>) {
        if self.failed.is_none()
            && let Err(error) = write(self)
        {
            self.failed = Some(error);
        }
    }
}

impl Observer for Recorder<'_> {
    fn event(&mut self, event: Event) {
        self.put(|r| {
            serde_json::to_writer(&mut r.events, &event)?;
            r.events.write_all(b"\n")
        });
        self.next.event(event);
    }

    fn phase(&mut self, name: &str, steps: usize) {
        self.next.phase(name, steps);
    }

    fn step(&mut self) {
        self.next.step();
    }

    fn line(&mut self, text: &str) {
        self.put_messages();
        self.put_line(text);
        // An epoch has ended: what is recorded so far survives a killed process.
        self.put(|r| {
            r.log.flush()?;
            r.events.flush()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Silent;

    #[test]
    fn what_loaded_code_says_stands_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let directory = TrialDirectory::at(folder.path());
        let mut silent = Silent;
        let mut recorder = Recorder::start(&directory, &mut silent).unwrap();
        messages::say("talker", "before the epoch's end");
        recorder.line("epoch 0");
        messages::say("talker", "after it");
        recorder.finish().unwrap();
        let log = read_text(&folder.path().join("log.jsonl")).unwrap();
        let texts: Vec<Value> =
            log.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["text"].take()).collect();
        assert_eq!(texts, ["talker: before the epoch's end", "epoch 0", "talker: after it"]);
    }
}
