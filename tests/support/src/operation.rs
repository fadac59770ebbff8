//! Operations.

use crate::Suite;
use crate::fused;
use crate::network::check_reach;
use crate::report::{Check, Report, ensure};
use std::collections::BTreeSet;
use tetlo_core::kinds::Operation;
use tetlo_core::network::ImageShape;
use tetlo_core::space::{KernelNetwork, NetworkBuilder, Recipe, Site, Step};

/// Odd, as spaces allow it.
const CHANNELS: usize = 5;
const SIDE: usize = 8;

/// One channel, fewer than a register holds, a register's, and more.
const WIDTHS: [usize; 4] = [1, 3, 16, 20];

impl Suite for dyn Operation {
    const JOINT: char = '_';

    fn suite(operation: &Self, report: &mut Report<'_>) {
        for (stride, affine) in [(1, false), (1, true), (2, false), (2, true)] {
            let site = Site { channels: CHANNELS, stride, affine };
            report.check(format_args!("stride {stride}, affine {affine}"), || {
                let recipe = operation.recipe(site);
                ensure!(operation.recipe(site) == recipe, "two calls differ");
                match recipe {
                    Recipe::Zero => Ok(()),
                    Recipe::Chain(steps) => chain(steps, site),
                }
            });
            for channels in WIDTHS {
                let site = Site { channels, ..site };
                let at = format!("{channels} channels, stride {stride}, affine {affine}");
                report.check(at, || fused::compare(&operation.recipe(site), site));
            }
            let site = Site { channels: 3, ..site };
            report.check(format_args!("stride {stride}, affine {affine}, differences"), || {
                fused::differentiate(&operation.recipe(site), site)
            });
        }
    }
}

fn chain(steps: Vec<Step>, site: Site) -> Check {
    for step in &steps {
        if let Step::BatchNorm { name, affine } = step {
            ensure!(*affine == site.affine, "`{name}` is affine: {affine}");
        }
    }
    let (weights, buffers) = counted(&steps);
    let image = ImageShape { channels: 3, height: SIDE, width: SIDE };
    let mut builder = NetworkBuilder::new((image.channels, SIDE, SIDE));
    // A convolution below shows that the gradient passes through.
    let below = Step::Pointwise { name: "below".into(), out: CHANNELS, stride: 1 };
    let input = builder.graph.input();
    let state = builder.chain("", vec![below], &[input])?;
    let before = builder.weights.len();
    let state = builder.chain("operation", steps.clone(), &[state])?;
    let shape = builder.graph.shape(state);
    let expected = (CHANNELS, SIDE / site.stride, SIDE / site.stride);
    ensure!(shape == expected, "gives {shape:?}, expected {expected:?}");
    let added = builder.weights.len() - before;
    ensure!(added == weights, "{added} weights, counted {weights}");
    let kept = builder.buffers.len();
    ensure!(kept == buffers, "{kept} running statistics, counted {buffers}");
    let names: BTreeSet<&str> = builder.weights.entries().iter().map(|e| e.name.as_str()).collect();
    ensure!(names.len() == builder.weights.entries().len(), "two parameters share a name");
    let network = KernelNetwork::classifier(builder, state, false, 4, "classifier")?;
    check_reach(&network, image)?;

    // An odd side: accepted or refused, and accepted where nothing is halved.
    let odd = || -> tetlo_core::Result<_> {
        let mut builder = NetworkBuilder::new((CHANNELS, SIDE - 1, SIDE - 1));
        let input = builder.graph.input();
        let state = builder.chain("operation", steps, &[input])?;
        Ok(builder.graph.shape(state))
    };
    match odd() {
        Ok(shape) => {
            let half = (SIDE - 2) / site.stride + 1;
            ensure!(shape == (CHANNELS, half, half), "gives {shape:?} of odd sides");
        }
        Err(e) => ensure!(site.stride == 2, "refuses odd sides: {e}"),
    }
    Ok(())
}

/// Weights and running statistics of a chain.
fn counted(steps: &[Step]) -> (usize, usize) {
    let (mut channels, mut weights, mut buffers) = (CHANNELS, 0, 0);
    for step in steps {
        match step {
            Step::Relu | Step::MaxPool { .. } | Step::AvgPool { .. } | Step::AvgPool2 => {}
            Step::Depthwise { kernel, .. } => weights += channels * kernel * kernel,
            Step::Pointwise { out, .. } | Step::FactorizedReduce { out, .. } => {
                weights += channels * out;
                channels = *out;
            }
            Step::Dense { out, kernel, .. } => {
                weights += channels * out * kernel * kernel;
                channels = *out;
            }
            Step::BatchNorm { affine, .. } => {
                weights += if *affine { 2 * channels } else { 0 };
                buffers += 2 * channels;
            }
            Step::Tensor(step) => {
                weights +=
                    step.parameters().map(|(_, s, _)| s.iter().product::<usize>()).sum::<usize>();
                channels = step.output((channels, 1, 1)).0;
            }
        }
    }
    (weights, buffers)
}
