//! Estimators as they are compared: those that are registered, and a method's own.

use serde_json::Value;
use tetlo_core::Result;
use tetlo_core::kinds::Hypergradient;
use tetlo_core::multilevel::check::CheckCase;
use tetlo_core::multilevel::{ErrorBound, Limit};
use tetlo_core::registry::{self, Entry};

/// A registered estimator, built.
pub(super) struct Built {
    pub name: &'static str,
    pub estimator: Box<dyn Hypergradient>,
    claims: bool,
    epsilon: Option<f64>,
}

impl Built {
    /// The same estimator in every stage of a case.
    pub(super) fn candidate(&self, case: &CheckCase) -> Candidate<'_> {
        let Self { name, estimator, claims, epsilon } = self;
        let stages = vec![estimator.as_ref(); case.graph.stages.len()];
        let (name, claims, epsilon) = ((*name).to_owned(), *claims, *epsilon);
        Candidate { name, stages, claims, own: false, epsilon }
    }

    /// An estimator with its defaults or, where it says so, nearer its limit.
    pub(super) fn usual(entry: &Entry<dyn Hypergradient>) -> Result<Self> {
        let build = |options: &Value| entry.build(options).map_err(|e| e.in_plugin(entry.name));
        let plain = build(&Value::Null)?;
        let estimator = plain.near_limit().map_or(Ok(plain), |options| build(&options))?;
        let epsilon = entry.defaults().get("epsilon").and_then(Value::as_f64);
        Ok(Self { name: entry.name, estimator, claims: true, epsilon })
    }

    /// An estimator with another ε.
    fn with(entry: &Entry<dyn Hypergradient>, epsilon: f64, claims: bool) -> Result<Self> {
        let mut options = entry.defaults();
        options["epsilon"] = epsilon.into();
        let estimator = entry.build(&options).map_err(|e| e.in_plugin(entry.name))?;
        Ok(Self { name: entry.name, estimator, claims, epsilon: Some(epsilon) })
    }
}

/// The registered estimators of these names, or all. Those of the inner steps' derivative that have an
/// option `epsilon` once for each of `epsilons`, without a claim; and where claims are to be judged,
/// once with a hundredth of its default.
pub(super) fn candidates(names: &[String], epsilons: &[f64], claims: bool) -> Result<Vec<Built>> {
    /// So near the limit that bounds hold on deep networks too.
    const NEAR: f64 = 0.01;
    for name in names {
        registry::find::<dyn Hypergradient>(name)?;
    }
    let mut list = vec![];
    for entry in registry::entries::<dyn Hypergradient>() {
        if !names.is_empty() && !names.iter().any(|name| name == entry.name) {
            continue;
        }
        let usual = Built::usual(entry)?;
        match usual.epsilon.filter(|_| usual.estimator.limit() == Limit::Updates) {
            Some(default) => {
                if claims {
                    list.push(Built::with(entry, NEAR * default, true)?);
                } else if epsilons.is_empty() {
                    list.push(usual);
                }
                for epsilon in epsilons {
                    list.push(Built::with(entry, *epsilon, false)?);
                }
            }
            None => list.push(usual),
        }
    }
    Ok(list)
}

/// An estimator for each stage of a case.
pub(super) struct Candidate<'a> {
    pub name: String,
    pub stages: Vec<&'a dyn Hypergradient>,
    /// Does it claim the bounds of its estimators?
    pub claims: bool,
    /// Of the method itself: it runs in any case.
    pub own: bool,
    pub epsilon: Option<f64>,
}

impl<'a> Candidate<'a> {
    /// One estimator in every stage of a case, with its claims.
    pub(super) fn of(case: &CheckCase, name: &str, estimator: &'a dyn Hypergradient) -> Self {
        let stages = vec![estimator; case.graph.stages.len()];
        Self { name: name.to_owned(), stages, claims: true, own: false, epsilon: None }
    }
}

impl Candidate<'_> {
    /// What it converges to: the worst of its stages.
    pub(super) fn limit(&self) -> Limit {
        let any = |limit| self.stages.iter().any(|e| e.limit() == limit);
        [Limit::Solution, Limit::Neither].into_iter().find(|l| any(*l)).unwrap_or(Limit::Updates)
    }

    /// The largest bound of its stages; `None` if one claims nothing.
    pub(super) fn bound(&self) -> Option<ErrorBound> {
        if !self.claims {
            return None;
        }
        let bounds: Option<Vec<ErrorBound>> = self.stages.iter().map(|e| e.bound()).collect();
        bounds?
            .into_iter()
            .reduce(|a, b| ErrorBound { total: a.total.max(b.total), term: a.term.max(b.term) })
    }
}

/// What estimators are held against.
#[derive(Clone, Copy)]
pub(super) struct Held<'a> {
    /// Gives the mixed products of the inner steps' derivative.
    pub reference: &'a dyn Hypergradient,
    /// The largest move of the architecture in the differences of J that prove that derivative; `None`:
    /// it is not to be proven.
    pub proven: Option<f64>,
    /// Must the bounds hold that estimators claim?
    pub claims: bool,
}
