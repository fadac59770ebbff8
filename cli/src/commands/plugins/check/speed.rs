//! How long a transfer loss takes, and what crossing the border to it costs.

use super::example;
use serde_json::Value;
use std::time::Instant;
use tetlo_core::config::CompareConfig;
use tetlo_core::foreign::cost;
use tetlo_core::kinds::{Progress, TransferLoss};
use tetlo_core::multilevel::Batches;
use tetlo_core::registry::catalog::Plugin;
use tetlo_core::registry::{Kind, Tier};
use tetlo_core::rng::{Key, Purpose};
use tetlo_engine::loader::Loader;
use tetlo_engine::method::Method;
use tetlo_engine::plan::plan;
use tetlo_engine::record::Silent;
use tetlo_engine::trial::{load_data, space};
use tetlo_test_support::{Report, entry, median, speed};

/// Largest part of a search step that a shared library may cost beside the author's own code.
const MOST_OF_A_STEP: f64 = 0.1;

/// Most seconds a call that a process may cost beside the author's own code.
const MOST_OF_A_CALL: f64 = 2e-3;

/// The method in which a step is timed: small images, few channels, so that the border weighs most.
const SMALL: [&str; 6] = [
    "task.fashion.dataset={ plugin = \"digits\" }",
    "task.fashion.search-space.options.channels=4",
    "task.fashion.search-space.options.cells=3",
    "search.batch-size=64",
    "search.crop-padding=0",
    "search.flip=false",
];

/// Steps that are timed at most, and seconds after which there are no more.
const STEPS: usize = 10;
const SECONDS: f64 = 1.0;

/// Adds the rows `speed` and `overhead` of a transfer loss.
pub(super) fn check(plugin: &Plugin, options: Option<&Value>, report: &mut Report<'_>) {
    if plugin.kind != <dyn TransferLoss>::NAME {
        return;
    }
    let mut border = None;
    report.measure("speed", || {
        let options = options.cloned().unwrap_or_else(|| plugin.describe.defaults());
        let text = |e: tetlo_core::Error| e.to_string();
        let loss =
            entry::<dyn TransferLoss>(plugin).map_err(text)?.build(&options).map_err(text)?;
        let speed = speed(loss.as_ref())?;
        border = speed.overhead.map(|seconds| (seconds, speed.sees_maps));
        Ok(format!(
            "{:.3} ms a call with gradients: {} images, {}, f32, median of {}",
            1e3 * speed.seconds,
            speed.images,
            speed.sees,
            speed.calls
        ))
    });
    match (plugin.tier(), border) {
        (Tier::Linked | Tier::Data, _) => report.skip("overhead", "linked: there is no border"),
        (_, None) => report.skip("overhead", "no call was counted"),
        (Tier::Process, Some((seconds, maps))) => {
            report.measure("overhead", || of_a_call(seconds, maps));
        }
        (Tier::SharedLibrary, Some(_)) => {
            report.measure("overhead", || of_a_step(&steps(plugin, options)?));
        }
    }
}

/// Feature maps are as large as they are: for them there is no limit.
fn of_a_call(seconds: f64, maps: bool) -> Result<String, String> {
    let text = format!("{:.3} ms a call beside the author's code", 1e3 * seconds);
    if maps {
        return Ok(format!("{text} (feature maps: no limit)"));
    }
    let most = 1e3 * MOST_OF_A_CALL;
    if seconds >= MOST_OF_A_CALL {
        return Err(format!("{text}: {most} ms is the limit"));
    }
    Ok(format!("{text} (limit {most} ms)"))
}

/// A search step, and what foreign code cost in it.
#[derive(Debug, Clone, Copy)]
struct Step {
    seconds: f64,
    calls: u64,
    /// Seconds of a call that are not the author's.
    overhead: f64,
}

impl Step {
    fn part(&self) -> f64 {
        self.calls as f64 * self.overhead / self.seconds
    }
}

fn of_a_step(steps: &[Step]) -> Result<String, String> {
    let part = median(steps.iter().map(Step::part)).unwrap_or_default();
    let of = |what: fn(&Step) -> f64| 1e3 * median(steps.iter().map(what)).unwrap_or_default();
    let text = format!(
        "{:.2} % of a search step of {:.0} ms: {} calls of {:.3} ms beside the author's code",
        1e2 * part,
        of(|s| s.seconds),
        steps.first().map_or(0, |s| s.calls),
        of(|s| s.overhead)
    );
    let most = 1e2 * MOST_OF_A_STEP;
    if part >= MOST_OF_A_STEP {
        return Err(format!("{text}; {most} % is the limit"));
    }
    Ok(format!("{text} (limit {most} %)"))
}

/// Times steps of a small search with this loss.
fn steps(plugin: &Plugin, options: Option<&Value>) -> Result<Vec<Step>, String> {
    let config = example::config(plugin, options, &SMALL)?;
    timed(&config).map_err(|e| e.to_string())
}

fn timed(config: &CompareConfig) -> tetlo_core::Result<Vec<Step>> {
    let trials = plan(config)?;
    let trial = &trials[0];
    let data = load_data(trial)?;
    let settings = &trial.method.search;
    let method =
        Method::new(&trial.method, space(trial)?, data.train.shape, data.classes, trial.seed)?;
    let key = Key::new(trial.seed, Purpose::Shuffle);
    let indices = (0..data.train.len()).collect();
    let loader = Loader::plain(&data, indices, settings.batch_size, key);
    let epoch = loader.in_order();
    let transfer = if method.graph.uses_transfer_batch() { Some(epoch.batch(2)?) } else { None };
    let batches = Batches { train: epoch.batch(0)?, valid: epoch.batch(1)?, transfer };
    let mut state = method.initial_state()?;
    let mut step = |step: usize| -> tetlo_core::Result<Step> {
        let epoch = method.graph.warmup_epochs;
        let at = Progress { epoch, epochs: settings.epochs.max(epoch + 1), step };
        cost::take();
        let began = Instant::now();
        method.step(&mut state, &batches, at, &mut Silent)?;
        let (seconds, cost) = (began.elapsed().as_secs_f64(), cost::take());
        let (calls, overhead) = cost.map_or((0, 0.0), |c| (c.calls, c.overhead()));
        Ok(Step { seconds, calls, overhead })
    };
    step(0)?;
    let began = Instant::now();
    let mut steps = vec![step(1)?];
    while steps.len() < STEPS && began.elapsed().as_secs_f64() < SECONDS {
        steps.push(step(steps.len() + 1)?);
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_held() {
        assert_eq!(
            of_a_call(4e-4, false).as_deref(),
            Ok("0.400 ms a call beside the author's code (limit 2 ms)")
        );
        assert!(of_a_call(2e-3, false).is_err_and(|e| e.contains("2 ms is the limit")));
        assert!(of_a_call(2e-2, true).is_ok());
        let step = |overhead| Step { seconds: 0.1, calls: 4, overhead };
        let good = of_a_step(&[step(1e-4); 3]).expect("below the limit");
        assert!(
            good.starts_with("0.40 % of a search step of 100 ms: 4 calls of 0.100 ms"),
            "{good}"
        );
        // One step that was held up is no verdict.
        assert!(of_a_step(&[step(1e-4), step(1e-4), step(1.0)]).is_ok());
        let bad = of_a_step(&[step(3e-3), step(3e-3), step(1e-4)]);
        assert!(bad.is_err_and(|e| e.contains("10 % is the limit")));
    }
}
