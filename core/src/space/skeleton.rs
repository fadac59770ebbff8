//! How cells are stacked to a network.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name of the only kind of cell of a space of single-input cells.
pub const SINGLE_CELL: &str = "cell";

/// Sizes beyond these are slips.
pub(super) const MOST_CHANNELS: usize = 4096;
pub(super) const MOST_CELLS: usize = 512;
const MOST_STEM_MULTIPLIER: usize = 64;

/// The macro skeleton: everything of a network that is not searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case")]
#[serde(rename_all_fields = "kebab-case")]
pub enum Skeleton {
    /// The DARTS family: stem (convolution, batch norm), cells `normal` and `reduce` that each read
    /// the two before them, global pooling, linear.
    TwoInputs {
        /// Initial channels C; they double in each reduction cell.
        channels: usize,
        /// Number of cells; those at a third and two thirds are reduction cells.
        cells: usize,
        /// The stem has this many times C channels.
        stem_multiplier: usize,
    },
    /// The NAS-Bench-201 family: stem (convolution, batch norm), three stages of single-input cells
    /// with C, 2C and 4C channels, a residual block of stride 2 between them, then batch norm,
    /// rectifier, global pooling, linear.
    ResidualStages {
        /// Initial channels C.
        channels: usize,
        /// Cells of each stage.
        cells: usize,
    },
}

impl Skeleton {
    /// Initial channels C.
    pub fn channels(&self) -> usize {
        let (Self::TwoInputs { channels, .. } | Self::ResidualStages { channels, .. }) = self;
        *channels
    }

    /// Cells: of the network, or of each stage.
    pub fn cells(&self) -> usize {
        let (Self::TwoInputs { cells, .. } | Self::ResidualStages { cells, .. }) = self;
        *cells
    }

    /// The same skeleton in another size.
    #[must_use]
    pub fn resized(self, channels: usize, cells: usize) -> Self {
        match self {
            Self::TwoInputs { stem_multiplier, .. } => {
                Self::TwoInputs { channels, cells, stem_multiplier }
            }
            Self::ResidualStages { .. } => Self::ResidualStages { channels, cells },
        }
    }

    /// Inputs of a cell.
    pub fn inputs(&self) -> usize {
        match self {
            Self::TwoInputs { .. } => 2,
            Self::ResidualStages { .. } => 1,
        }
    }

    /// Names of the kinds of cells it stacks.
    pub fn kinds(&self) -> &'static [&'static str] {
        match self {
            Self::TwoInputs { .. } => &["normal", "reduce"],
            Self::ResidualStages { .. } => &[SINGLE_CELL],
        }
    }

    /// Positions `cells.0`, `cells.1` … of the network, residual blocks included.
    pub fn positions(&self) -> usize {
        match self {
            Self::TwoInputs { cells, .. } => *cells,
            Self::ResidualStages { cells, .. } => 3 * cells + 2,
        }
    }

    /// Does position `i` halve the resolution and double the channels?
    pub fn is_reduction(&self, i: usize) -> bool {
        match self {
            Self::TwoInputs { cells, .. } => i == cells / 3 || i == 2 * cells / 3,
            Self::ResidualStages { cells, .. } => i % (cells + 1) == *cells,
        }
    }

    /// The kind of cell at position `i`; `None` for a residual block.
    pub fn kind_at(&self, i: usize) -> Option<&'static str> {
        match (self, self.is_reduction(i)) {
            (Self::TwoInputs { .. }, false) => Some("normal"),
            (Self::TwoInputs { .. }, true) => Some("reduce"),
            (Self::ResidualStages { .. }, false) => Some(SINGLE_CELL),
            (Self::ResidualStages { .. }, true) => None,
        }
    }

    /// The position whose output the auxiliary head of a derived network reads.
    ///
    /// \[D\] The authors of NAS-Bench-201 have no such head; as in DARTS it stands where the
    /// resolution has just been halved for the second time.
    pub fn auxiliary_position(&self) -> usize {
        match self {
            Self::TwoInputs { cells, .. } => 2 * cells / 3,
            Self::ResidualStages { cells, .. } => 2 * cells + 1,
        }
    }

    /// Channels of the stem.
    pub(super) fn stem(&self, channels: usize) -> usize {
        match self {
            Self::TwoInputs { stem_multiplier, .. } => stem_multiplier * channels,
            Self::ResidualStages { .. } => channels,
        }
    }

    /// Module of the candidate operations of the edge in row `row` of α, in the supernet.
    pub(super) fn mixed_edge(&self, i: usize, row: usize, (from, to): (usize, usize)) -> String {
        match self {
            Self::TwoInputs { .. } => format!("cells.{i}._ops.{row}._ops"),
            Self::ResidualStages { .. } => format!("cells.{i}.edges.{to}<-{from}"),
        }
    }

    /// Module of the `index`-th operation of a cell of a derived network.
    pub(super) fn derived_edge(&self, i: usize, index: usize) -> String {
        match self {
            Self::TwoInputs { .. } => format!("cells.{i}._ops.{index}"),
            Self::ResidualStages { .. } => format!("cells.{i}.layers.{index}"),
        }
    }

    /// The first size that is 0 or absurd: its key, and what it can be.
    pub(super) fn flaw(&self) -> Option<(&'static str, String)> {
        let mut sizes =
            vec![("channels", self.channels(), MOST_CHANNELS), ("cells", self.cells(), MOST_CELLS)];
        if let Self::TwoInputs { stem_multiplier, .. } = self {
            sizes.push(("stem-multiplier", *stem_multiplier, MOST_STEM_MULTIPLIER));
        }
        let wrong = sizes.into_iter().find(|(_, size, most)| !(1..=*most).contains(size))?;
        let (key, size, most) = wrong;
        Some((key, format!("`{key}` must be 1 to {most}, got {size}")))
    }
}
