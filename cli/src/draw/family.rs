//! Families of operations, which share a colour.

/// What an operation does, as far as its name tells. Colour only repeats what the label says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Separable convolutions.
    Separable,
    /// Dilated convolutions.
    Dilated,
    /// Other convolutions.
    Convolution,
    /// Pooling.
    Pooling,
    /// Identities.
    Skip,
    /// Everything else.
    Other,
}

impl Family {
    /// The family of an operation.
    pub fn of(operation: &str) -> Self {
        let has = |part: &str| operation.contains(part);
        if has("skip") || has("identity") {
            Self::Skip
        } else if has("pool") {
            Self::Pooling
        } else if has("dil_") || has("dilated") {
            Self::Dilated
        } else if has("sep_") || has("separable") {
            Self::Separable
        } else if has("conv") {
            Self::Convolution
        } else {
            Self::Other
        }
    }

    /// Name of the CSS class.
    pub fn class(self) -> &'static str {
        match self {
            Self::Separable => "sep",
            Self::Dilated => "dil",
            Self::Convolution => "conv",
            Self::Pooling => "pool",
            Self::Skip => "skip",
            Self::Other => "other",
        }
    }

    /// Fill, line and text on white paper.
    pub fn colours(self) -> [&'static str; 3] {
        match self {
            Self::Separable => ["#dcebfb", "#1f6fb5", "#0d3a63"],
            Self::Dilated => ["#efe2f7", "#8447a8", "#47225c"],
            Self::Convolution => ["#d8f1f5", "#12818f", "#0a424a"],
            Self::Pooling => ["#fdebd3", "#c0700f", "#5e3605"],
            Self::Skip => ["#dcf3e4", "#23844f", "#104026"],
            Self::Other => ["#ededed", "#6b6b6b", "#333333"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_field() {
        for (name, family) in [
            ("sep_conv_5x5", Family::Separable),
            ("dil_conv_3x3", Family::Dilated),
            ("nor_conv_1x1", Family::Convolution),
            ("max_pool_3x3", Family::Pooling),
            ("skip_connect", Family::Skip),
            ("noise", Family::Other),
        ] {
            assert_eq!(Family::of(name), family, "{name}");
        }
    }
}
