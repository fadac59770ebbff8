//! The suites as the author of a plugin uses them: plugins of a crate that knows nothing of tetlo's
//! own, so that there is no registered search space either.

use candle_core::Tensor;
use tetlo_core::Result;
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{
    BlackBoxSearch, Evaluated, Progress, Regularizer, SearchSpace, TransferBatch, TransferLoss,
};
use tetlo_core::registry::{FromOptions, NoOptions, entries};
use tetlo_core::rng::Stream;
use tetlo_core::space::SpaceSpec;

#[derive(Debug)]
struct Mine;

impl FromOptions for Mine {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl TransferLoss for Mine {
    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        let (main, aux) = batch.embeddings()?;
        Ok((main.mean(1)? - aux.mean(1)?)?.sqr()?.mean_all()?)
    }
}

impl Regularizer for Mine {
    fn penalty(&self, alphas: &[Tensor], _: Progress) -> Result<Tensor> {
        let squares = alphas.iter().map(|a| a.sqr()?.sum_all()).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::stack(&squares, 0)?.sum_all()?)
    }
}

impl BlackBoxSearch for Mine {
    fn evaluations(&self) -> Option<usize> {
        None
    }

    fn propose(&self, space: &SpaceSpec, _: &[Evaluated], draws: &mut Stream) -> Result<Genotype> {
        space.sample(draws)
    }
}

tetlo_core::register_transfer_loss!("my-loss", Mine, "squared difference of the mean features");
tetlo_core::register_regularizer!("my-penalty", Mine, "sum of squares");
tetlo_core::register_black_box_search!("my-search", Mine, "uniform samples");

#[test]
fn conforms() {
    assert!(entries::<dyn SearchSpace>().is_empty());
    tetlo_test_support::transfer_loss("my-loss");
    tetlo_test_support::regularizer("my-penalty");
    tetlo_test_support::black_box_search("my-search");
}

#[test]
#[should_panic(expected = "unknown transfer-loss `my-los`")]
fn unknown_names_are_said() {
    tetlo_test_support::transfer_loss("my-los");
}
