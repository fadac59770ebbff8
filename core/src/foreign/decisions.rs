//! Stopping rules and selections in foreign code: a trace as text, and what an answer must keep to.

use crate::genotype::Genotype;
use crate::kinds::{Selection, Stop, StopRule, Trace};
use crate::space::{ArchValues, SpaceSpec};
use crate::{Error, Result};
use serde_json::{Value, json};

/// A trace as recorded searches have it: `genotype_per_epoch`, `hessian_epoch`, `hessian_lambda_max`,
/// and the `epochs` planned in all.
pub fn trace_to_json(trace: &Trace) -> Value {
    let genotypes: Vec<Value> = trace.genotypes.iter().map(Genotype::to_json).collect();
    let (epochs, lambda): (Vec<_>, Vec<_>) = trace.lambda_max.iter().copied().unzip();
    json!({
        "genotype_per_epoch": genotypes,
        "hessian_epoch": epochs,
        "hessian_lambda_max": lambda,
        "epochs": trace.epochs,
    })
}

/// The answer of a stopping rule, if both its epochs are of this trace.
///
/// # Errors
/// They are not.
pub fn checked_stop(trace: &Trace, stop: Stop) -> Result<Stop> {
    if stop.return_epoch > stop.stop_epoch || stop.stop_epoch >= trace.genotypes.len() {
        return Err(Error::Foreign(format!(
            "it stopped after epoch {} and returned the cell of epoch {}, but the search has had \
             the epochs 0 to {}, and a cell can only be returned that is there",
            stop.stop_epoch,
            stop.return_epoch,
            trace.genotypes.len().saturating_sub(1)
        )));
    }
    Ok(stop)
}

/// The genotype that a selection answered, in JSON, if it is one of the space.
///
/// # Errors
/// It is none, or the space does not contain it.
pub fn checked_genotype(space: &SpaceSpec, answer: &Value) -> Result<Genotype> {
    let genotype = Genotype::from_json(answer)?;
    space.check(&genotype)?;
    Ok(genotype)
}

/// A stopping rule or a selection in foreign code, whose name errors tell.
#[derive(Debug)]
pub struct Named<P> {
    name: String,
    plugin: P,
}

impl<P> Named<P> {
    /// The plugin of this name.
    pub fn new(name: &str, plugin: P) -> Self {
        Self { name: name.to_owned(), plugin }
    }
}

impl<P: StopRule> StopRule for Named<P> {
    fn stop(&self, trace: &Trace) -> Result<Option<Stop>> {
        self.plugin.stop(trace).map_err(|e| e.in_plugin(&self.name))
    }
}

impl<P: Selection> Selection for Named<P> {
    fn select(&self, space: &SpaceSpec, alphas: &ArchValues) -> Result<Genotype> {
        alphas
            .check(space)
            .and_then(|()| self.plugin.select(space, alphas))
            .map_err(|e| e.in_plugin(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_that_have_not_been_are_refused() {
        let genotype = Genotype::parse("|none~0|").expect("a genotype");
        let trace = Trace { genotypes: vec![genotype; 3], epochs: 5, ..Trace::default() };
        let stop = |stop_epoch, return_epoch| Stop { stop_epoch, return_epoch };
        assert_eq!(checked_stop(&trace, stop(2, 1)).expect("both are there"), stop(2, 1));
        for wrong in [stop(3, 1), stop(1, 2), stop(usize::MAX, usize::MAX)] {
            let error = checked_stop(&trace, wrong).expect_err("it must be refused").to_string();
            assert!(error.contains("epochs 0 to 2"), "{error}");
        }
    }
}
