//! What can be wrong with a graph.

use std::fmt;

/// Result of building or compiling a graph.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a graph was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The sequence of primitives is not one that can be compiled.
    Chain {
        /// The whole chain, in order.
        chain: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The terms of a state have different shapes.
    TermShape {
        /// Position of the term in the state.
        term: usize,
        /// Its shape (channels, height, width).
        shape: (usize, usize, usize),
        /// The shape of the terms before it.
        expected: (usize, usize, usize),
    },
    /// The inputs of a term, or the states of an export, have different heights or widths.
    InputSize {
        /// Shape of the first one.
        first: (usize, usize, usize),
        /// Shape of the one that differs.
        other: (usize, usize, usize),
    },
    /// A term or export without an input, or a state without a term and without a shape.
    Empty {
        /// Which of them.
        what: &'static str,
    },
    /// A channel count, height or width is zero.
    ZeroSize,
    /// A state of another graph.
    UnknownState {
        /// Its number.
        state: usize,
    },
    /// A linear export that does not read a pooled export before it.
    LinearInput {
        /// Its number.
        export: usize,
        /// What it reads.
        of: usize,
    },
    /// A tensor function of another graph.
    UnknownFunction {
        /// Its number.
        function: usize,
    },
    /// Tensor code has failed, or not given what it promised.
    Function {
        /// The function's name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The plan does not fit into memory.
    Memory {
        /// How much was asked for.
        bytes: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain { chain, reason } => {
                write!(f, "cannot compile the chain [{chain}]: {reason}")
            }
            Self::TermShape { term, shape, expected } => write!(
                f,
                "term {term} has shape {shape:?}, but the terms before it have shape {expected:?} \
                 (channels, height, width)"
            ),
            Self::InputSize { first, other } => write!(
                f,
                "states of shapes {first:?} and {other:?} (channels, height, width) cannot be concatenated: \
                 height and width must agree"
            ),
            Self::Empty { what } => write!(f, "{what}"),
            Self::ZeroSize => write!(f, "channels, height and width must not be zero"),
            Self::UnknownState { state } => {
                write!(f, "state {state} does not belong to this graph")
            }
            Self::LinearInput { export, of } => write!(
                f,
                "export {export} is linear and must read a pooled export before it, not export {of}"
            ),
            Self::UnknownFunction { function } => {
                write!(f, "tensor function {function} does not belong to this graph")
            }
            Self::Function { name, reason } => write!(f, "{name}: {reason}"),
            Self::Memory { bytes } => write!(f, "cannot allocate {bytes} bytes for a plan"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for candle_core::Error {
    fn from(e: Error) -> Self {
        Self::wrap(e)
    }
}
