//! Presets: methods that ship, as data (`plugins/presets/*.toml`).

use tetlo_core::register_preset;

register_preset!("darts-1st", "DARTS, first order", include_str!("../presets/darts-1st.toml"));
register_preset!("darts-2nd", "DARTS, second order", include_str!("../presets/darts-2nd.toml"));
register_preset!(
    "pc-darts",
    "PC-DARTS: partial channel connections with edge normalisation",
    include_str!("../presets/pc-darts.toml")
);
register_preset!(
    "tetlo",
    "TETLO over DARTS with QRS: both hypergradients added",
    include_str!("../presets/tetlo.toml")
);
register_preset!(
    "tetlo-matched",
    "TETLO over DARTS with QRS: the transferred hypergradient brought to the main one's size",
    include_str!("../presets/tetlo-matched.toml")
);
register_preset!(
    "lbt",
    "Learning by Teaching: a student learns from the searched model's pseudo-labels",
    include_str!("../presets/lbt.toml")
);
register_preset!(
    "lfm",
    "Learning from Mistakes: a second supernet learns from what the first gets wrong",
    include_str!("../presets/lfm.toml")
);
register_preset!(
    "sanas",
    "two sets of weights of one architecture, the second taught by the first",
    include_str!("../presets/sanas.toml")
);
register_preset!(
    "random",
    "random search with the same budget",
    include_str!("../presets/random.toml")
);

#[cfg(test)]
mod tests {
    use std::path::Path;
    use tetlo_core::Result;
    use tetlo_core::config::{self, CompareConfig, OptimizerKind, presets};
    use tetlo_core::kinds::SearchSpace;
    use tetlo_core::registry::{FromOptions, NoOptions};
    use tetlo_core::space::{CellSpec, Grammar, Mixing, Skeleton, SpaceSpec};

    /// A space, since the built-in ones are another crate's.
    #[derive(Debug)]
    struct TestSpace;

    impl FromOptions for TestSpace {
        type Options = NoOptions;

        fn from_options(_: NoOptions) -> Result<Self> {
            Ok(Self)
        }
    }

    impl SearchSpace for TestSpace {
        fn spec(&self) -> SpaceSpec {
            SpaceSpec {
                name: "test-space".into(),
                cells: ["normal", "reduce"].map(|n| CellSpec::complete(n, 2, &["a", "b"])).to_vec(),
                skeleton: Skeleton::TwoInputs { channels: 4, cells: 3, stem_multiplier: 3 },
                grammar: Grammar::TwoInputsANode,
                mixing: Mixing::default(),
                operation_options: std::collections::BTreeMap::new(),
            }
        }
    }

    tetlo_core::register_search_space!("test-space", TestSpace, "for tests");

    /// A comparison of every preset of this crate.
    fn loaded() -> CompareConfig {
        let mut text = String::from(
            "version = 1\nname = \"presets\"\nseeds = [0]\nevaluate = { plugin = \"retrain\" }\n\
             [[task]]\nname = \"digits\"\ndataset = { plugin = \"digits\" }\n\
             search-space = { plugin = \"test-space\" }\n",
        );
        for preset in presets() {
            let name = preset.name;
            text.extend(["[[method]]\nname = \"", name, "\"\npreset = \"", name, "\"\n"]);
        }
        config::load("presets.toml", &text, Path::new("/"), &[]).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn every_preset_resolves() {
        let config = loaded();
        let names: Vec<&str> = config.methods.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "darts-1st",
                "darts-2nd",
                "lbt",
                "lfm",
                "pc-darts",
                "random",
                "sanas",
                "tetlo",
                "tetlo-matched"
            ]
        );
        for method in &config.methods {
            let name = method.name.as_str();
            if name == "random" {
                assert_eq!(method.optimizer_kind, OptimizerKind::BlackBoxSearch);
                assert_eq!(method.optimizer.options["evaluations"], 0);
                continue;
            }
            let plugin = |p: &Option<config::PluginConfig>| p.as_ref().map(|p| p.plugin.clone());
            assert_eq!(plugin(&method.relaxation).as_deref(), Some("softmax"));
            assert_eq!(plugin(&method.selection).as_deref(), Some("magnitude"));
            let transfer = plugin(&method.transfer_loss);
            match name {
                "darts-1st" => assert_eq!(method.optimizer.options["order"], 1),
                "darts-2nd" => assert_eq!(method.optimizer.options["order"], 2),
                "pc-darts" => {
                    assert_eq!(method.optimizer.options["warmup-epochs"], 15);
                    assert_eq!(method.transforms[0].plugin, "partial-channels");
                    assert_eq!(method.transforms[0].options["factor"], 4);
                    let search = &method.search;
                    assert_eq!((search.batch_size, search.epochs), (256, 50));
                    let rates = [search.learning_rate, search.learning_rate_min];
                    assert_eq!((rates, search.arch_learning_rate), ([0.1, 0.0], 6e-4));
                }
                "lbt" | "lfm" | "sanas" => {
                    let options = &method.optimizer.options;
                    assert_eq!(
                        (&*method.optimizer.plugin, options["combine"].as_str()),
                        ("stages", Some("sum"))
                    );
                    let models: Vec<_> =
                        (0..2).map(|i| options["stages"][i]["model"].as_str().unwrap()).collect();
                    let second = if name == "lbt" { "auxiliary" } else { "twin" };
                    assert_eq!(models, ["main", second]);
                    assert_eq!(method.auxiliary.is_some(), name == "lbt");
                    continue;
                }
                _ => {
                    let combine = if name == "tetlo" { "sum" } else { "norm-matched" };
                    assert_eq!(method.optimizer.options["combine"], combine);
                    assert_eq!(transfer.as_deref(), Some("qrs"));
                    assert_eq!(method.auxiliary.as_ref().unwrap().options["depth"], 8);
                    continue;
                }
            }
            assert_eq!(transfer, None);
            assert_eq!(plugin(&method.auxiliary), None);
        }
    }
}
