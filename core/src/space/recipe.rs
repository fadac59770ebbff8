//! Operations as data: chains of primitives with named parameters.

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Channels in and out.
    pub channels: usize,
    /// 1, or 2 in a reduction cell on an edge from an input.
    pub stride: usize,
    /// Batch normalisation with a learnt scale and shift (derived networks)?
    pub affine: bool,
}

/// An operation as a chain of primitives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipe {
    /// Contributes nothing (`none`).
    Zero,
    /// The primitives in order; an empty chain is the identity.
    Chain(Vec<Step>),
}

/// A primitive. Names are those of the parameters below the operation's own name, as in the
/// authors' modules (`op.1` gives `op.1.weight`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// max(0, x).
    Relu,
    /// Depthwise convolution, padding dilation·(kernel − 1)/2.
    Depthwise {
        /// Module name.
        name: String,
        /// Side of the kernel (odd).
        kernel: usize,
        /// Stride.
        stride: usize,
        /// Dilation.
        dilation: usize,
    },
    /// 1 × 1 convolution.
    Pointwise {
        /// Module name.
        name: String,
        /// Output channels.
        out: usize,
        /// Stride.
        stride: usize,
    },
    /// Dense convolution, padding (kernel − 1)/2.
    Dense {
        /// Module name.
        name: String,
        /// Output channels.
        out: usize,
        /// Side of the kernel (odd).
        kernel: usize,
        /// Stride.
        stride: usize,
    },
    /// Two 1 × 1 convolutions of stride 2 side by side, the second one pixel further.
    FactorizedReduce {
        /// Module name of the first.
        even: String,
        /// Module name of the second.
        odd: String,
        /// Output channels.
        out: usize,
    },
    /// 3 × 3 maximum, padding 1.
    MaxPool {
        /// Stride.
        stride: usize,
    },
    /// 3 × 3 average without the padding.
    AvgPool {
        /// Stride.
        stride: usize,
    },
    /// Mean of each 2 × 2 square, stride 2; the sides must be even.
    AvgPool2,
    /// Batch normalisation.
    BatchNorm {
        /// Module name.
        name: String,
        /// Learnt scale and shift?
        affine: bool,
    },
}
