//! The methods that ship: compositions of plugins, as data.

tetlo_core::register_preset!(
    "darts-1st",
    "first-order DARTS",
    include_str!("../presets/darts-1st.toml")
);
tetlo_core::register_preset!(
    "darts-2nd",
    "second-order DARTS",
    include_str!("../presets/darts-2nd.toml")
);
tetlo_core::register_preset!(
    "tetlo",
    "TETLO, quadruple relative similarities to a small residual network",
    include_str!("../presets/tetlo.toml")
);
tetlo_core::register_preset!(
    "tetlo-matched",
    "TETLO with the transferred part at the norm of the main part",
    include_str!("../presets/tetlo-matched.toml")
);
tetlo_core::register_preset!(
    "random",
    "random search with the budget of a search",
    include_str!("../presets/random.toml")
);
