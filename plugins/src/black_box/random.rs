//! Random search.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{BlackBoxSearch, Evaluated};
use tetlo_core::registry::FromOptions;
use tetlo_core::rng::Stream;
use tetlo_core::space::SpaceSpec;

/// Options of `random`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct RandomOptions {
    /// Architectures to evaluate; 0: as many as the search has epochs.
    pub evaluations: usize,
}

/// Uniform samples of the space's grammar, independent of all scores; the best one wins.
#[derive(Debug)]
pub struct Random {
    options: RandomOptions,
}

impl FromOptions for Random {
    type Options = RandomOptions;

    fn from_options(options: RandomOptions) -> Result<Self> {
        Ok(Self { options })
    }
}

impl BlackBoxSearch for Random {
    fn evaluations(&self) -> Option<usize> {
        match self.options.evaluations {
            0 => None,
            n => Some(n),
        }
    }

    fn propose(&self, space: &SpaceSpec, _: &[Evaluated], draws: &mut Stream) -> Result<Genotype> {
        space.sample(draws)
    }
}

tetlo_core::register_black_box_search!("random", Random, "uniform random architectures");

#[cfg(test)]
mod tests {
    use super::*;
    use tetlo_core::rng::{Key, Purpose};
    use tetlo_core::space::{CellSpec, Grammar, Skeleton};

    #[test]
    fn zero_evaluations_leave_the_number_to_the_search() {
        let random = |evaluations| Random::from_options(RandomOptions { evaluations }).unwrap();
        assert_eq!(random(0).evaluations(), None);
        assert_eq!(random(7).evaluations(), Some(7));
    }

    #[test]
    fn proposals_differ_and_repeat_with_their_key() {
        let space = SpaceSpec {
            name: "test".into(),
            cells: vec![CellSpec::complete("normal", 4, &["none", "a", "b", "c"])],
            skeleton: Skeleton::TwoInputs { channels: 4, cells: 3, stem_multiplier: 3 },
            grammar: Grammar::TwoInputsANode,
            operation_options: std::collections::BTreeMap::new(),
        };
        let random = Random::from_options(RandomOptions::default()).unwrap();
        let propose = |step: usize| {
            let mut draws = Key::new(1, Purpose::Sample).step(step).stream();
            random.propose(&space, &[], &mut draws).unwrap()
        };
        space.check(&propose(0)).unwrap();
        assert_eq!(propose(0), propose(0));
        assert_ne!(propose(0), propose(1));
    }
}
