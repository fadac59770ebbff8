//! Splits the primitives of a term into the stages that the compiler knows.

use crate::error::{Error, Result};
use crate::function::TensorFunction;
use crate::graph::{Affine, Primitive, Shape};
use crate::maps::{Map, Same};
use crate::primitives::{TileSize, team};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chain {
    Identity { relu: bool },
    Pool { max: bool, stride: usize, norm: Option<Norm>, channels: usize },
    Map { map: Map, norm: Option<Norm>, output: Shape },
    Convs(Vec<Stage>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Norm {
    pub affine: Option<Affine>,
    pub statistics: usize,
}

/// Rectifier (or not), a convolution that mixes channels, normalisation (or not).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stage {
    pub relu: bool,
    pub conv: Conv,
    pub norm: Option<Norm>,
    pub input: Shape,
    pub output: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conv {
    Separable {
        kernel: usize,
        stride: usize,
        dilation: usize,
        depthwise: usize,
        pointwise: usize,
    },
    /// Kernel 1 is the pointwise convolution.
    Dense {
        kernel: usize,
        stride: usize,
        weight: usize,
    },
    Factorized {
        even: usize,
        odd: usize,
    },
    /// Tensor code with this many weights.
    Function {
        function: usize,
        weight: usize,
        len: usize,
    },
}

/// Tiles of forward passes, smallest errors first.
const FORWARD_TILES: &[TileSize] = &[TileSize::TwoByTwo, TileSize::TwoByFour];
/// The same of gradients.
const BACKWARD_TILES: &[TileSize] =
    &[TileSize::TwoByTwo, TileSize::TwoByFour, TileSize::FourByFour];

/// How a convolution and its gradients go through Winograd's transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Winograd {
    pub forward: TileSize,
    /// Of both gradients.
    pub back: TileSize,
    /// Images that are worked on together, because one has few tiles.
    pub team: usize,
}

impl Conv {
    pub(crate) fn stride(&self) -> usize {
        match self {
            Self::Separable { stride, .. } | Self::Dense { stride, .. } => *stride,
            Self::Factorized { .. } => 2,
            Self::Function { .. } => 1,
        }
    }

    /// How far its taps reach beyond a pixel.
    pub(crate) fn reach(&self) -> usize {
        match self {
            Self::Separable { kernel, dilation, .. } => dilation * (kernel - 1) / 2,
            Self::Dense { kernel, .. } => (kernel - 1) / 2,
            Self::Factorized { .. } => 1,
            Self::Function { .. } => 0,
        }
    }
}

impl Stage {
    /// Whether Winograd's transform pays: enough channels to make up for it, and enough pixels for
    /// the memory traffic of weights that become 16/9 times larger.
    pub(crate) fn winograd(&self) -> Option<Winograd> {
        let ((ci, h, w), co) = (self.input, self.output.0);
        let pays = matches!(self.conv, Conv::Dense { kernel: 3, stride: 1, .. })
            && ci.min(co) >= 12
            && h.min(w) >= 4
            && (ci.max(co) <= 256 || h * w >= 36);
        let products = |tile: TileSize| tile.tiles(h, w) * tile.elements();
        let best = |sizes: &[TileSize]| sizes.iter().copied().min_by_key(|t| products(*t));
        // Errors before a rectifier may decide the other way what passes through it: only tiles
        // with errors as small as those of plain sums.
        let forward = best(FORWARD_TILES)?;
        let back = best(BACKWARD_TILES)?;
        let tiles = forward.tiles(h, w).min(back.tiles(h, w));
        pays.then(|| Winograd { forward, back, team: team(tiles) })
    }

    /// How far beyond a pixel of the image its reads go: Winograd's last tiles may be larger than
    /// what is left.
    pub(crate) fn reach(&self) -> usize {
        let (_, h, w) = self.input;
        let beyond = |tile: TileSize| {
            let (rows, cols) = tile.out();
            (h.next_multiple_of(rows) - h).max(w.next_multiple_of(cols) - w)
        };
        let more = self.winograd().map_or(0, |w| beyond(w.forward).max(beyond(w.back)));
        self.conv.reach() + more
    }

    /// The weights it uses, as (offset, length).
    pub(crate) fn weights(&self) -> Vec<(usize, usize)> {
        let (ci, co) = (self.input.0, self.output.0);
        let mut used = match self.conv {
            Conv::Separable { kernel, depthwise, pointwise, .. } => {
                vec![(depthwise, ci * kernel * kernel), (pointwise, ci * co)]
            }
            Conv::Dense { kernel, weight, .. } => vec![(weight, ci * co * kernel * kernel)],
            Conv::Factorized { even, odd } => vec![(even, co / 2 * ci), (odd, (co - co / 2) * ci)],
            Conv::Function { weight, len, .. } if len > 0 => vec![(weight, len)],
            Conv::Function { .. } => vec![],
        };
        used.extend(self.norm.iter().flat_map(|n| n.weights(co)));
        used
    }
}

impl Stage {
    /// Multiply-adds of an image.
    fn multiply_adds(&self) -> usize {
        let ((inputs, ..), (outputs, height, width)) = (self.input, self.output);
        let per_pixel = match self.conv {
            Conv::Separable { kernel, .. } => inputs * (kernel * kernel + outputs),
            Conv::Dense { kernel, .. } => inputs * outputs * kernel * kernel,
            Conv::Factorized { .. } => inputs * outputs,
            // What tensor code computes is not known here.
            Conv::Function { .. } => 0,
        };
        height * width * per_pixel
    }
}

impl Norm {
    fn weights(&self, channels: usize) -> Vec<(usize, usize)> {
        self.affine.map_or(vec![], |a| vec![(a.gamma, channels), (a.beta, channels)])
    }
}

impl Chain {
    /// `input` is the shape of the concatenation of `inputs`.
    pub(crate) fn parse(
        primitives: &[Primitive],
        input: Shape,
        inputs: &[Shape],
        functions: &[Arc<dyn TensorFunction>],
    ) -> Result<Self> {
        for primitive in primitives {
            if let Primitive::Function { function, .. } = primitive
                && function.0 >= functions.len()
            {
                return Err(Error::UnknownFunction { function: function.0 });
            }
        }
        let fail = |reason: String| Error::Chain { chain: names(primitives, functions), reason };
        let single = |what: &str| {
            if inputs.len() == 1 {
                Ok(())
            } else {
                Err(fail(format!(
                    "{what} of concatenated states is not supported; use one term a state"
                )))
            }
        };
        match primitives {
            [] => single("the identity").map(|()| Self::Identity { relu: false }),
            [Primitive::Relu] => single("a rectifier").map(|()| Self::Identity { relu: true }),
            [norm @ Primitive::BatchNorm { .. }] => {
                let map = Map::Same(Same);
                let output = map.output(inputs).map_err(fail)?;
                let norm = only_norm(std::slice::from_ref(norm), map.name()).map_err(fail)?;
                Ok(Self::Map { map, norm, output })
            }
            [pool @ (Primitive::MaxPool { stride } | Primitive::AvgPool { stride }), rest @ ..] => {
                single("a pool")?;
                if !(1..=2).contains(stride) {
                    return Err(fail(format!("stride {stride}: only 1 and 2 are supported")));
                }
                let max = matches!(pool, Primitive::MaxPool { .. });
                let norm = only_norm(rest, "a pool").map_err(fail)?;
                Ok(Self::Pool { max, stride: *stride, norm, channels: input.0 })
            }
            [Primitive::Map(map), rest @ ..] => {
                let output = map.output(inputs).map_err(fail)?;
                let norm = only_norm(rest, "a map").map_err(fail)?;
                Ok(Self::Map { map: map.clone(), norm, output })
            }
            _ => stages(primitives, input, functions).map(Self::Convs).map_err(fail),
        }
    }

    pub(crate) fn output(&self, input: Shape) -> Shape {
        match self {
            Self::Identity { .. } => input,
            Self::Pool { stride, .. } => {
                (input.0, out_size(input.1, *stride), out_size(input.2, *stride))
            }
            Self::Map { output, .. } => *output,
            Self::Convs(stages) => stages.last().map_or(input, |s| s.output),
        }
    }

    /// The weights it uses, as (offset, length).
    pub(crate) fn weights(&self) -> Vec<(usize, usize)> {
        match self {
            Self::Identity { .. } => vec![],
            Self::Pool { norm, channels, .. } => norm.map_or(vec![], |n| n.weights(*channels)),
            Self::Map { norm, output, .. } => norm.map_or(vec![], |n| n.weights(output.0)),
            Self::Convs(stages) => stages.iter().flat_map(Stage::weights).collect(),
        }
    }

    /// Multiply-adds of an image in convolutions.
    pub(crate) fn multiply_adds(&self) -> usize {
        match self {
            Self::Identity { .. } | Self::Pool { .. } | Self::Map { .. } => 0,
            Self::Convs(stages) => stages.iter().map(Stage::multiply_adds).sum(),
        }
    }

    pub(crate) fn weights_end(&self) -> usize {
        self.weights().into_iter().map(|(at, len)| at + len).max().unwrap_or(0)
    }

    pub(crate) fn statistics_end(&self) -> usize {
        let end =
            |norm: &Option<Norm>, channels: usize| norm.map_or(0, |n| n.statistics + 2 * channels);
        match self {
            Self::Identity { .. } => 0,
            Self::Pool { norm, channels, .. } => end(norm, *channels),
            Self::Map { norm, output, .. } => end(norm, output.0),
            Self::Convs(stages) => {
                stages.iter().map(|s| end(&s.norm, s.output.0)).max().unwrap_or(0)
            }
        }
    }
}

/// What follows a primitive that only a normalisation may follow.
fn only_norm(rest: &[Primitive], what: &str) -> std::result::Result<Option<Norm>, String> {
    match rest {
        [] => Ok(None),
        [Primitive::BatchNorm { affine, statistics }] => {
            Ok(Some(Norm { affine: *affine, statistics: *statistics }))
        }
        _ => Err(format!("only a BatchNorm may follow {what}")),
    }
}

pub(crate) fn out_size(size: usize, stride: usize) -> usize {
    (size - 1) / stride + 1
}

fn names(primitives: &[Primitive], functions: &[Arc<dyn TensorFunction>]) -> String {
    let name = |p: &Primitive| match p {
        Primitive::Relu => "Relu".to_owned(),
        Primitive::Depthwise { kernel, stride, dilation, .. } => {
            format!("Depthwise {kernel}x{kernel} stride {stride} dilation {dilation}")
        }
        Primitive::Pointwise { out, stride, .. } => format!("Pointwise to {out} stride {stride}"),
        Primitive::Dense { kernel, stride, out, .. } => {
            format!("Dense {kernel}x{kernel} to {out} stride {stride}")
        }
        Primitive::FactorizedReduce { out, .. } => format!("FactorizedReduce to {out}"),
        Primitive::MaxPool { stride } => format!("MaxPool stride {stride}"),
        Primitive::AvgPool { stride } => format!("AvgPool stride {stride}"),
        Primitive::Map(map) => map.name().to_owned(),
        Primitive::Function { function, .. } => functions[function.0].name().to_owned(),
        Primitive::BatchNorm { affine: Some(_), .. } => "BatchNorm affine".to_owned(),
        Primitive::BatchNorm { .. } => "BatchNorm".to_owned(),
    };
    primitives.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn stages(
    primitives: &[Primitive],
    mut input: Shape,
    functions: &[Arc<dyn TensorFunction>],
) -> std::result::Result<Vec<Stage>, String> {
    let mut stages = Vec::new();
    let mut rest = primitives;
    while !rest.is_empty() {
        let relu = rest[0] == Primitive::Relu;
        rest = &rest[usize::from(relu)..];
        let (conv, output, used) = match rest.first() {
            Some(Primitive::Function { function, weight }) => {
                let code = &functions[function.0];
                let (output, len) = (code.output(input)?, code.weights(input));
                if output.0 == 0 || output.1 == 0 || output.2 == 0 {
                    return Err(format!("{} gives the empty shape {output:?}", code.name()));
                }
                (Conv::Function { function: function.0, weight: *weight, len }, output, 1)
            }
            _ => convolution(rest, input)?,
        };
        rest = &rest[used..];
        let norm = match rest.first() {
            Some(Primitive::BatchNorm { affine, statistics }) => {
                rest = &rest[1..];
                Some(Norm { affine: *affine, statistics: *statistics })
            }
            _ => None,
        };
        stages.push(Stage { relu, conv, norm, input, output });
        input = output;
    }
    Ok(stages)
}

fn convolution(
    rest: &[Primitive],
    input: Shape,
) -> std::result::Result<(Conv, Shape, usize), String> {
    let (conv, out, used) = match *rest {
        [
            Primitive::Depthwise { kernel, stride, dilation, weight },
            Primitive::Pointwise { out, stride: 1, weight: pointwise },
            ..,
        ] => (Conv::Separable { kernel, stride, dilation, depthwise: weight, pointwise }, out, 2),
        [Primitive::Depthwise { .. }, ..] => {
            return Err("a Depthwise must be followed by a Pointwise of stride 1".into());
        }
        [Primitive::Pointwise { out, stride, weight }, ..] => {
            (Conv::Dense { kernel: 1, stride, weight }, out, 1)
        }
        [Primitive::Dense { kernel, stride, out, weight }, ..] => {
            (Conv::Dense { kernel, stride, weight }, out, 1)
        }
        [Primitive::FactorizedReduce { out, even, odd }, ..] => {
            if !input.1.is_multiple_of(2) || !input.2.is_multiple_of(2) {
                return Err(format!(
                    "FactorizedReduce needs an even height and width, but they are {} and {}",
                    input.1, input.2
                ));
            }
            (Conv::Factorized { even, odd }, out, 1)
        }
        [] => return Err("a Relu at the end must be alone".into()),
        _ => {
            return Err("expected a convolution here: the supported chains are (Relu?, Depthwise + Pointwise | \
                        Pointwise | Dense | FactorizedReduce | Function, BatchNorm?) repeated, (MaxPool | AvgPool | a map, BatchNorm?), BatchNorm alone, Relu alone, or nothing"
                .into());
        }
    };
    if let Conv::Separable { kernel, dilation, .. } = conv
        && (kernel % 2 == 0 || dilation == 0)
    {
        return Err(format!("kernel {kernel} must be odd and dilation {dilation} positive"));
    }
    if let Conv::Dense { kernel, .. } = conv
        && kernel % 2 == 0
    {
        return Err(format!("kernel {kernel} must be odd"));
    }
    if !(1..=2).contains(&conv.stride()) {
        return Err(format!("stride {}: only 1 and 2 are supported", conv.stride()));
    }
    if out == 0 {
        return Err("no output channels".into());
    }
    let stride = conv.stride();
    let output = (out, out_size(input.1, stride), out_size(input.2, stride));
    Ok((conv, output, used))
}
