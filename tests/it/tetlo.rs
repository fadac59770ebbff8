//! Runs the binary.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A run of the binary that has ended.
pub(crate) struct Ran(pub(crate) Output);

/// Runs `tetlo` with these arguments in `directory`.
pub(crate) fn tetlo_in(directory: &Path, arguments: &[&str]) -> Ran {
    Ran(command(directory, arguments).output().expect("the binary starts"))
}

/// The command, for tests that change its environment.
pub(crate) fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tetlo-under-test"));
    command.args(arguments).current_dir(directory).env_remove("TETLO_THREADS");
    command
}

impl Ran {
    /// Expects this exit code; shows the output otherwise.
    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Self {
        let code = self.0.status.code();
        assert_eq!(code, Some(expected), "stdout:\n{}\nstderr:\n{}", self.out(), self.err());
        self
    }

    /// Standard output.
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    /// Standard error.
    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// Standard output as one JSON document on one line.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let out = self.out();
        assert_eq!(out.lines().count(), 1, "one line expected:\n{out}");
        serde_json::from_str(&out).expect("JSON on standard output")
    }
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_path_buf()
}

/// A file of the committed fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A comparison small enough for a test: digits (8 × 8), 4 channels, 3 cells.
pub(crate) const TINY: &str = r#"version = 1
name = "tiny"
seeds = [0]
device = "cpu"

[[task]]
name = "digits"
dataset = { plugin = "digits" }
search-space = { plugin = "darts", options = { channels = 4, cells = 3 } }

[search]
epochs = 1
batch-size = 64
crop-padding = 0
flip = false

[[method]]
name = "darts-1st"
preset = "darts-1st"

[[method]]
name = "tetlo"
preset = "tetlo"

[[method]]
name = "random"
preset = "random"

[evaluate]
plugin = "retrain"

[evaluate.options]
epochs = 1
batch-size = 64
channels = 4
cells = 3
drop-path = 0.1
auxiliary-weight = 0.0
cutout = 0
crop-padding = 0
flip = false
"#;
