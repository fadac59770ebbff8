//! Plugins that tests compile or write: in C, and scripts.

use crate::tetlo::root;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A whole loss in C: the mean squared difference of the first features; `EXTRA` stands where the tests
/// put what is wrong with it.
pub(crate) const LOSS: &str = r#"#include "tetlo_plugin.h"
#include <fenv.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
static int32_t loss(void *self, const tetlo_batch *b, tetlo_gradients *out, char *err, size_t len) {
  (void)self, (void)err, (void)len;
  const double *m = b->main.data, *a = b->aux.data;
  double *gm = out->main, *ga = out->aux, sum = 0, k = 2.0 / (double)b->n;
  for (int64_t i = 0; i < b->n; i++) {
    double d = m[i * b->main.shape[1]] - a[i * b->aux.shape[1]];
    sum += d * d;
    if (gm) gm[i * b->main.shape[1]] = k * d;
    if (ga) ga[i * b->aux.shape[1]] = -k * d;
  }
  out->loss = sum / (double)b->n;
  /* IN LOSS */
  return TETLO_OK;
}
static const tetlo_transfer_loss GAP = {
  .name = "gap", .summary = "squared gap of the first features", .loss = loss, /* IN DESCRIPTOR */
};
TETLO_TRANSFER_LOSS(GAP, "0.3.0")
/* AT END */
"#;

/// Says that a test is skipped.
#[expect(clippy::print_stderr, reason = "says what is skipped")]
pub(crate) fn skipped(test: &str, why: &str) {
    eprintln!("skipped {test}: {why}");
}

/// Does a command succeed?
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|o| o.status.success())
}

/// Is there a C compiler? Where not, one line says that the test is skipped.
pub(crate) fn has_cc(test: &str) -> bool {
    let there = succeeds("cc", &["--version"]);
    if !there {
        skipped(test, "there is no C compiler `cc`");
    }
    there
}

/// Has `python3` these modules? Where not, one line says that the test is skipped.
pub(crate) fn has_python(test: &str, modules: &str) -> bool {
    let there = succeeds("python3", &["-c", &format!("import {modules}")]);
    if !there {
        skipped(test, &format!("there is no `python3` with {modules}"));
    }
    there
}

/// Compiles a shared library from C in `folder`.
#[track_caller]
pub(crate) fn library(folder: &Path, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    std::fs::write(folder.join("tetlo_plugin.h"), tetlo_plugin::HEADER).expect("written");
    compile(folder, name, source, &[&["-shared", "-fPIC", "-O2"], flags].concat())
}

/// Compiles C in `folder`, against the header that stands there.
#[track_caller]
pub(crate) fn compile(folder: &Path, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let (file, out) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&file, source).expect("written");
    let mut command = Command::new("cc");
    command.args(["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter"]).args(flags);
    let done = command.arg(&file).arg("-o").arg(&out).arg("-lm").output().expect("cc runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    out
}

/// A source file of `tests/plugins`.
pub(crate) fn source(name: &str) -> String {
    let path = root().join("tests/plugins").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
