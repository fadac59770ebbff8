//! `bench hypergrad`: what each estimator costs on a supernet.

use super::measure::{Rows, Timed};
use super::supernet::{batches, described, method, progress};
use crate::args::HypergradArgs;
use crate::exit::Exit;
use anyhow::Result;
use serde_json::json;
use tetlo_core::kinds::Hypergradient;
use tetlo_core::registry;

/// Times the hypergradient by every estimator.
pub(crate) fn run(arguments: &HypergradArgs) -> Result<Exit> {
    let HypergradArgs { method: chosen, estimator, measure } = arguments;
    let names: Vec<&str> = match estimator {
        Some(name) => vec![registry::find::<dyn Hypergradient>(name)?.name],
        None => registry::entries::<dyn Hypergradient>().iter().map(|e| e.name).collect(),
    };
    let mut rows = Rows::new(measure)?;
    let mut method = method(chosen, measure.image)?;
    let batches = batches(&method, measure)?;
    let mut state = method.initial_state()?;
    // So that there is a momentum to be unrolled.
    for stage in 0..method.networks.len() {
        method.weight_step(&mut state, stage, &batches, progress(&method, 0))?;
    }
    for name in names {
        method.use_estimator(name, &serde_json::Value::Null)?;
        let mut what = json!({ "estimator": name });
        if let (Some(row), Some(more)) =
            (what.as_object_mut(), described(chosen, &method, measure).as_object())
        {
            row.extend(more.clone());
        }
        let mut passes = 0;
        let timed = Timed::run(measure.steps, |i| {
            passes = method.hypergradient(&state, &batches, progress(&method, i))?.passes;
            Ok(())
        });
        match timed {
            Ok(timed) => {
                what["ran"] = json!(true);
                what["passes"] = json!(passes);
                rows.push(what, Some(timed));
            }
            // Such as `exact`, which kernels do not support, or a series that diverges: a result too.
            Err(error) if refused(&error) && estimator.is_none() => {
                what["ran"] = json!(false);
                what["reason"] = json!(error.to_string());
                rows.push(what, None);
            }
            Err(error) => return Err(error),
        }
    }
    let columns = [
        "estimator",
        "ran",
        "passes",
        "ms_median",
        "ms_min",
        "ms_max",
        "gflops",
        "roofline_fraction",
        "peak_rss_mib",
    ];
    rows.print_list(measure.format, &columns)?;
    Ok(Exit::Ok)
}

/// Does the estimator itself refuse, since it does not suit this network?
fn refused(error: &anyhow::Error) -> bool {
    let of_ours = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<tetlo_core::Error>().is_some_and(tetlo_core::Error::is_usage)
    };
    error.chain().any(of_ours)
}
