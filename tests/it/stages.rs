//! Methods that are pages of data: searches of two, three and four stages.

use crate::tetlo::tetlo_in;

/// The shipped presets and chains, shortened.
#[test]
fn every_stage_graph_that_ships_searches() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let chains = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/chains.toml");
    let mut config = std::fs::read_to_string(chains).expect("the chains");
    for preset in ["lbt", "lfm", "sanas"] {
        config.extend(["\n[[method]]\nname = \"", preset, "\"\npreset = \"", preset, "\"\n"]);
    }
    std::fs::write(here.join("c.toml"), config).expect("a config");
    let arguments = [
        "compare",
        "c.toml",
        "--out",
        "runs",
        "--set",
        "search.epochs=1",
        "--set",
        "search.train-portion=0.1",
        "--set",
        "evaluate.options.epochs=1",
    ];
    tetlo_in(here, &arguments).code(0);
    let trials = std::fs::read_dir(here.join("runs/trials")).expect("trials");
    let done = trials.filter(|t| t.as_ref().is_ok_and(|t| t.path().join("result.json").exists()));
    assert_eq!(done.count(), 5);
}

#[test]
fn graphs_are_drawn() {
    let directory = tempfile::tempdir().expect("a folder");
    let here = directory.path();
    let chains = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/chains.toml");
    let text = tetlo_in(here, &["draw", "--graph", chains, "--method", "chain-4"]).code(0).out();
    assert!(
        text.contains("fourth: the auxiliary model") && text.contains("2 steps of Adam"),
        "{text}"
    );
    tetlo_in(here, &["draw", "--graph", chains, "--svg", "g.svg", "--dot", "g.dot"]).code(0);
    let svg = std::fs::read_to_string(here.join("g.svg")).expect("a picture");
    assert!(svg.contains("second: a twin of the supernet") && svg.ends_with("</svg>\n"));
    assert!(std::fs::read_to_string(here.join("g.dot")).expect("a graph").contains("s1 -> s2"));
    let unknown = tetlo_in(here, &["draw", "--graph", chains, "--method", "chain-5"]).code(2);
    assert!(unknown.err().contains("chain-4"), "{}", unknown.err());
    tetlo_in(here, &["draw"]).code(2);
}
