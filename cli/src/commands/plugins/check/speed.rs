//! How long a transfer loss takes, and what crossing the border to it costs.

use super::example;
use serde_json::Value;
use std::time::Instant;
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
use tetlo_test_support::{Report, entry, speed};

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
const STEPS: usize = 20;
const SECONDS: f64 = 2.0;

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
        cost::take();
        let speed = speed(loss.as_ref())?;
        border = cost::take().map(|c| c.overhead());
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
        (Tier::Process, Some(seconds)) => report.measure("overhead", || of_a_call(seconds)),
        (Tier::SharedLibrary, Some(_)) => {
            report.measure("overhead", || of_a_step(&step(plugin, options)?));
        }
    }
}

fn of_a_call(seconds: f64) -> Result<String, String> {
    let text = format!("{:.3} ms a call beside the author's code", 1e3 * seconds);
    let most = 1e3 * MOST_OF_A_CALL;
    if seconds >= MOST_OF_A_CALL {
        return Err(format!("{text}: {most} ms is the limit"));
    }
    Ok(format!("{text} (limit {most} ms)"))
}

/// Search steps, and what foreign code cost in them.
#[derive(Debug)]
struct Steps {
    seconds: f64,
    /// Calls a step, and seconds of one that are not the author's.
    calls: f64,
    overhead: f64,
}

fn of_a_step(steps: &Steps) -> Result<String, String> {
    let part = steps.calls * steps.overhead / steps.seconds;
    let text = format!(
        "{:.2} % of a search step of {:.0} ms: {:.0} calls of {:.3} ms beside the author's code",
        1e2 * part,
        1e3 * steps.seconds,
        steps.calls,
        1e3 * steps.overhead
    );
    let most = 1e2 * MOST_OF_A_STEP;
    if part >= MOST_OF_A_STEP {
        return Err(format!("{text}; {most} % is the limit"));
    }
    Ok(format!("{text} (limit {most} %)"))
}

/// Times steps of a small search with this loss.
fn step(plugin: &Plugin, options: Option<&Value>) -> Result<Steps, String> {
    let config = example::config(plugin, options, &SMALL)?;
    timed(&config).map_err(|e| e.to_string())
}

fn timed(config: &tetlo_core::config::CompareConfig) -> tetlo_core::Result<Steps> {
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
    let mut step = |step: usize| -> tetlo_core::Result<f64> {
        let epoch = method.graph.warmup_epochs;
        let at = Progress { epoch, epochs: settings.epochs.max(epoch + 1), step };
        let began = Instant::now();
        method.step(&mut state, &batches, at, &mut Silent)?;
        Ok(began.elapsed().as_secs_f64())
    };
    step(0)?;
    cost::take();
    let began = Instant::now();
    let (mut seconds, mut count) = (0.0, 0);
    while count == 0 || (count < STEPS && began.elapsed().as_secs_f64() < SECONDS) {
        count += 1;
        seconds += step(count)?;
    }
    let cost = cost::take();
    let calls = cost.map_or(0.0, |c| c.calls as f64) / count as f64;
    let overhead = cost.map_or(0.0, |c| c.overhead());
    Ok(Steps { seconds: seconds / count as f64, calls, overhead })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_held() {
        assert_eq!(
            of_a_call(4e-4).as_deref(),
            Ok("0.400 ms a call beside the author's code (limit 2 ms)")
        );
        assert!(of_a_call(2e-3).is_err_and(|e| e.contains("2 ms is the limit")));
        let steps = |overhead| Steps { seconds: 0.1, calls: 4.0, overhead };
        let good = of_a_step(&steps(1e-4)).expect("below the limit");
        assert!(
            good.starts_with("0.40 % of a search step of 100 ms: 4 calls of 0.100 ms"),
            "{good}"
        );
        assert!(of_a_step(&steps(3e-3)).is_err_and(|e| e.contains("10 % is the limit")));
    }
}
