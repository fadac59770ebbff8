//! One registration macro a kind.

#[doc(hidden)]
#[macro_export]
macro_rules! __register {
    ($kind:path, $name:literal, $plugin:ty, $summary:literal) => {
        $crate::inventory::submit! {
            $crate::registry::Entry::<dyn $kind> {
                name: $name,
                summary: $summary,
                origin: (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
                code: None,
                factory: &$crate::registry::Linked::<$plugin>::FACTORY,
            }
        }
    };
}

/// Declares a kind: implements [`crate::registry::Kind`] for the trait object and collects its
/// entries.
macro_rules! declare_kind {
    ($trait:path, $name:literal) => {
        impl $crate::registry::Kind for dyn $trait {
            const NAME: &'static str = $name;

            fn submitted() -> Box<dyn Iterator<Item = &'static $crate::registry::Entry<dyn $trait>>>
            {
                Box::new(inventory::iter::<$crate::registry::Entry<dyn $trait>>.into_iter())
            }

            fn loaded() -> &'static std::sync::RwLock<Vec<&'static $crate::registry::Entry<Self>>> {
                static LOADED: std::sync::RwLock<
                    Vec<&'static $crate::registry::Entry<dyn $trait>>,
                > = std::sync::RwLock::new(Vec::new());
                &LOADED
            }
        }

        impl<P: $trait + $crate::registry::FromOptions + 'static>
            $crate::registry::Factory<dyn $trait> for $crate::registry::Linked<P>
        {
            fn build(&self, options: &serde_json::Value) -> $crate::Result<Box<dyn $trait>> {
                Ok(Box::new(Self::plugin(options)?))
            }

            fn exported(&self) -> Option<tetlo_plugin::abi::Create> {
                Some($crate::foreign::export::create::<dyn $trait, P>)
            }
        }

        inventory::collect!($crate::registry::Entry<dyn $trait>);
    };
}
pub(crate) use declare_kind;

/// Makes a `cdylib` a plugin library: exports every transfer loss, regulariser, stopping rule and
/// selection that the crate registers, with its own tensor library inside. Once a crate, in its
/// `lib.rs`; at most one such crate can be linked into a binary.
#[macro_export]
macro_rules! export_plugins {
    () => {
        /// The one symbol that a library exports.
        #[expect(unsafe_code, reason = "the symbol's name is the interface")]
        #[unsafe(no_mangle)]
        pub extern "C" fn tetlo_plugin_v1() -> *const $crate::foreign::export::Plugin {
            $crate::foreign::export::library(env!("CARGO_PKG_VERSION"))
        }
    };
}

/// Registers a search space: `register_search_space!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`SearchSpace`](crate::kinds::SearchSpace).
#[macro_export]
macro_rules! register_search_space {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::SearchSpace, $name, $plugin, $summary);
    };
}

/// Registers a candidate operation: `register_operation!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`Operation`](crate::kinds::Operation).
#[macro_export]
macro_rules! register_operation {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::Operation, $name, $plugin, $summary);
    };
}

/// Registers a relaxation: `register_relaxation!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`Relaxation`](crate::kinds::Relaxation).
#[macro_export]
macro_rules! register_relaxation {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::Relaxation, $name, $plugin, $summary);
    };
}

/// Registers a supernet transform: `register_supernet_transform!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`SupernetTransform`](crate::kinds::SupernetTransform).
#[macro_export]
macro_rules! register_supernet_transform {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::SupernetTransform, $name, $plugin, $summary);
    };
}

/// Registers a multilevel optimizer: `register_multilevel_optimizer!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`MultilevelOptimizer`](crate::kinds::MultilevelOptimizer).
#[macro_export]
macro_rules! register_multilevel_optimizer {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::MultilevelOptimizer, $name, $plugin, $summary);
    };
}

/// Registers a hypergradient estimator: `register_hypergradient!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`Hypergradient`](crate::kinds::Hypergradient).
#[macro_export]
macro_rules! register_hypergradient {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::Hypergradient, $name, $plugin, $summary);
    };
}

/// Registers a transfer loss: `register_transfer_loss!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`TransferLoss`](crate::kinds::TransferLoss).
#[macro_export]
macro_rules! register_transfer_loss {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::TransferLoss, $name, $plugin, $summary);
    };
}

/// Registers a regulariser: `register_regularizer!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`Regularizer`](crate::kinds::Regularizer).
#[macro_export]
macro_rules! register_regularizer {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::Regularizer, $name, $plugin, $summary);
    };
}

/// Registers a stopping rule: `register_stop_rule!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`StopRule`](crate::kinds::StopRule).
#[macro_export]
macro_rules! register_stop_rule {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::StopRule, $name, $plugin, $summary);
    };
}

/// Registers a selection rule: `register_selection!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`Selection`](crate::kinds::Selection).
#[macro_export]
macro_rules! register_selection {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::Selection, $name, $plugin, $summary);
    };
}

/// Registers a black-box search: `register_black_box_search!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`BlackBoxSearch`](crate::kinds::BlackBoxSearch).
#[macro_export]
macro_rules! register_black_box_search {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::BlackBoxSearch, $name, $plugin, $summary);
    };
}

/// Registers an auxiliary model: `register_auxiliary!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`Auxiliary`](crate::kinds::Auxiliary).
#[macro_export]
macro_rules! register_auxiliary {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::Auxiliary, $name, $plugin, $summary);
    };
}

/// Registers a data set: `register_dataset!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`Dataset`](crate::kinds::Dataset).
#[macro_export]
macro_rules! register_dataset {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::Dataset, $name, $plugin, $summary);
    };
}

/// Registers an evaluator: `register_evaluator!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`Evaluator`](crate::kinds::Evaluator).
#[macro_export]
macro_rules! register_evaluator {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::Evaluator, $name, $plugin, $summary);
    };
}

/// Registers a check problem: `register_check_problem!("name", Type, "one line for listings")`.
///
/// `Type` implements [`FromOptions`](crate::registry::FromOptions) and
/// [`CheckProblem`](crate::kinds::CheckProblem).
#[macro_export]
macro_rules! register_check_problem {
    ($name:literal, $plugin:ty, $summary:literal) => {
        $crate::__register!($crate::kinds::CheckProblem, $name, $plugin, $summary);
    };
}
