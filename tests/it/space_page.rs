//! Search spaces as pages of TOML.

use serde_json::json;
use tetlo_core::kinds::SearchSpace;
use tetlo_core::registry::{self, Entry, Factory};
use tetlo_core::rng::{Key, Purpose, Stream};
use tetlo_core::space::page::{PageFactory, SpacePage};
use tetlo_core::space::{Mixing, SpaceSpec};

const DARTS: &str = r#"kind = "search-space"
name = "darts"
version = "1"
summary = "the space of DARTS"
grammar = "two-inputs-a-node"
operations = [
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect",
    "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
]

[skeleton]
kind = "two-inputs"
channels = 16
cells = 8

[[cell]]
name = "normal"
nodes = 4
connect = "complete"

[[cell]]
name = "reduce"
nodes = 4
connect = "complete"
"#;

const NAS_BENCH_201: &str = r#"kind = "search-space"
name = "nas-bench-201"
version = "1"
summary = "the cells of NAS-Bench-201"
grammar = "one-operation-an-edge"

[skeleton]
kind = "residual-stages"
channels = 16
cells = 5

[[cell]]
name = "cell"
inputs = 1
nodes = 3
connect = "complete"
operations = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]

[operation-options.avg_pool_3x3]
normalise = false
"#;

/// Edges by hand, operations of their own, partial channels.
const BY_HAND: &str = r#"kind = "search-space"
name = "by-hand"
version = "0.1.0"
summary = "three edges into the second node"
grammar = "two-inputs-a-node"
operations = ["skip_connect", "sep_conv_3x3"]

[skeleton]
kind = "two-inputs"
channels = 8
cells = 3
stem-multiplier = 1

[mixing]
factor = 2
edge-normalization = true

[[cell]]
name = "normal"
nodes = 2
operations = ["none", "dil_conv_3x3"]
edges = [
    { from = 0, to = 2 },
    { from = 1, to = 2, operations = ["max_pool_3x3", "skip_connect"] },
    { from = 2, to = 3 },
    { from = 0, to = 3 },
]

[[cell]]
name = "reduce"
nodes = 2
connect = "complete"
"#;

fn page(text: &str) -> SpacePage {
    SpacePage::parse("page.toml", text).unwrap_or_else(|e| panic!("{e}"))
}

fn built_in(name: &str) -> SpaceSpec {
    let space = registry::build::<dyn SearchSpace>(name, &json!({})).expect("a built-in");
    space.spec()
}

#[test]
fn pages_of_the_built_in_spaces_are_those_spaces() {
    assert_eq!(page(DARTS).spec, built_in("darts"));
    assert_eq!(page(NAS_BENCH_201).spec, built_in("nas-bench-201"));
}

#[test]
fn pages_read_as_they_are_written() {
    for text in [DARTS, NAS_BENCH_201, BY_HAND] {
        let read = page(text);
        let written = read.to_toml().expect("a page");
        assert_eq!(page(&written), read, "{written}");
    }
    let spec = page(BY_HAND).spec;
    assert_eq!(spec.mixing, Mixing { factor: 2, edge_normalization: true });
    let operations = |cell: usize, edge: usize| spec.cells[cell].edges[edge].operations.join(" ");
    assert_eq!(operations(0, 0), "none dil_conv_3x3", "of the cell");
    assert_eq!(operations(0, 1), "max_pool_3x3 skip_connect", "of the edge");
    assert_eq!(operations(1, 0), "skip_connect sep_conv_3x3", "of the page");
}

fn entry(text: &str) -> Entry<dyn SearchSpace> {
    let page = page(text);
    let factory = Box::leak(Box::new(PageFactory::new(&page).expect("a space")));
    let (name, summary) = (page.name.leak(), page.summary.leak());
    Entry { name, summary, origin: ("page.toml", page.version.leak()), code: None, factory }
}

#[test]
fn pages_pass_the_suite_of_search_spaces() {
    for text in [DARTS, NAS_BENCH_201, BY_HAND] {
        assert_eq!(tetlo_test_support::check(&entry(text)), Ok(()));
    }
}

#[test]
fn options_are_the_size() {
    let darts = PageFactory::new(&page(DARTS)).expect("a space");
    let size = |options| {
        let skeleton = darts.build(&options).map(|space| space.spec().skeleton);
        skeleton.map(|s| (s.channels(), s.cells())).map_err(|e| e.to_string())
    };
    assert_eq!(size(json!(null)), Ok((16, 8)));
    assert_eq!(size(json!({"cells": 3})), Ok((16, 3)));
    assert_eq!(size(json!({"channels": 8, "cells": 3})), Ok((8, 3)));
    assert!(size(json!({"cells": 0})).is_err_and(|e| e.contains("`cells`")));
    assert!(size(json!({"nodes": 3})).is_err_and(|e| e.contains("`nodes`")));
    let partial = PageFactory::new(&page(BY_HAND)).expect("a space");
    let error = partial.build(&json!({"channels": 5})).expect_err("an odd number").to_string();
    assert!(error.contains("`channels` must be a multiple"), "{error}");
}

/// What replaces what in which page, and the place and words of the error.
#[test]
fn errors_show_their_place() {
    let mut wrong_ones = vec![];
    for (text, wrong, right, place, what, hint) in [
        (DARTS, "cells = 8", "cells = 8\nwidth = 1", "15:1", "unknown key `width`", ""),
        (DARTS, "\"search-space\"", "\"space\"", "1:8", "unknown variant `space`", ""),
        (DARTS, "nodes = 4", "nodes = 0", "18:9", "0 nodes, 1 to 64 can be", ""),
        (DARTS, "nodes = 4", "nodes = 99999999", "18:9", "99999999 nodes", ""),
        (DARTS, "nodes = 4", "nodes = -1", "18:9", "a whole number, at least 0", ""),
        (DARTS, "nodes = 4\n", "nodes = 4\ninputs = 1\n", "19:10", "has 1 inputs", ""),
        (DARTS, "\"reduce\"", "\"reduction\"", "16:1", "the cell `reduce` is missing", ""),
        (DARTS, "\"sep_conv_3x3\"", "\"sep_cnv_3x3\"", "8:5", "`sep_cnv_3x3`", "`sep_conv_3x3`?"),
        (DARTS, "\"sep_conv_3x3\"", "\"none\"", "6:14", "has `none` twice", ""),
        (DARTS, "connect = \"complete\"", "", "16:1", "neither `connect` nor `edges`", "joins"),
        (DARTS, "channels = 16", "channels = 0", "13:12", "`channels` must be 1 to 4096", ""),
        (DARTS, "summary = ", "summary = \"\\n\" #", "4:11", "one line", ""),
        (DARTS, "name = \"darts\"", "name = \"DARTS\"", "2:8", "lower-case words", ""),
        (DARTS, "cells = 8", "cells = inf", "14:9", "must be finite", ""),
        (DARTS, "cells = 8", "cells =", "14:8", "", "TOML"),
        (NAS_BENCH_201, "one-operation-an-edge", "two-inputs-a-node", "12:1", "it needs 2", ""),
        (NAS_BENCH_201, "cells = 5", "cells = 5\nstem-multiplier = 3", "11:19", "has no", ""),
        (NAS_BENCH_201, "normalise = false", "normalize = false", "20:1", "options of", "`normal"),
        (NAS_BENCH_201, "options.avg_pool_3x3", "options.max_pool_3x3", "19:1", "no edge", ""),
        (BY_HAND, "factor = 2", "factor = 3", "15:10", "3", ""),
        (BY_HAND, "from = 2, to = 3", "from = 3, to = 3", "25:14", "edge 2 of cell `normal`", ""),
        (BY_HAND, "from = 2, to = 3", "from = 2, to = 4", "25:22", "the nodes are 2 to 3", ""),
        (BY_HAND, "from = 2, to = 3", "from = 0, to = 3", "26:22", "and so does edge 2", ""),
        (BY_HAND, "    { from = 0, to = 3 },\n", "", "22:9", "has 1 edges into it", ""),
        (BY_HAND, "[\"none\", \"dil_conv_3x3\"]", "[\"none\"]", "24:38", "2 operations, the", ""),
        (
            BY_HAND,
            "[\"max_pool_3x3\", \"skip",
            "[\"max_pool_3x3\", \"skop",
            "24:55",
            "skop",
            "skip",
        ),
    ] {
        assert!(text.contains(wrong), "{wrong}");
        let error = SpacePage::parse("page.toml", &text.replacen(wrong, right, 1));
        let error = error.expect_err(right);
        let (message, found) = (error.to_string(), error.hint().unwrap_or_default());
        let start = message.starts_with(&format!("page.toml:{place}: "));
        let good = start && message.contains(what) && message.contains('^');
        if !(good && found.contains(hint) && !found.is_empty()) {
            wrong_ones.push(format!("{right}: {message}\nhint: {found}"));
        }
    }
    assert!(wrong_ones.is_empty(), "{}", wrong_ones.join("\n\n"));
}

/// One random change: a piece of text taken out, doubled, or replaced by one from elsewhere.
fn mutate(text: &str, draws: &mut Stream) -> String {
    const NUMBERS: [&str; 6] = ["0", "18446744073709551615", "-1", "nan", "65", "[[]]"];
    let mut bytes = text.as_bytes().to_vec();
    let range = |draws: &mut Stream, length: usize| {
        let start = draws.below(length);
        start..(start + draws.below(6)).min(length)
    };
    let piece = range(draws, bytes.len());
    let by = match draws.below(4) {
        0 => vec![],
        1 => bytes[range(draws, bytes.len())].to_vec(),
        2 => NUMBERS[draws.below(NUMBERS.len())].into(),
        _ => vec![draws.below(256) as u8],
    };
    bytes.splice(piece, by);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn mutated_pages_never_panic() {
    let mut draws = Key::new(6, Purpose::Sample).stream();
    let (mut good, mut bad) = (0, 0);
    for i in 0..10_000 {
        let mut text = [DARTS, NAS_BENCH_201, BY_HAND][i % 3].to_owned();
        for _ in 0..=draws.below(2) {
            text = mutate(&text, &mut draws);
        }
        match SpacePage::parse("page.toml", &text) {
            // What is taken for a page is one: it builds and can be sampled.
            Ok(page) => {
                let factory = PageFactory::new(&page).expect("a space");
                let spec = factory.build(&json!({})).expect("a space").spec();
                spec.sample(&mut draws).expect("a genotype");
                assert_eq!(
                    SpacePage::parse("again", &page.to_toml().expect("a page")).ok(),
                    Some(page)
                );
                good += 1;
            }
            Err(e) => {
                assert!(e.to_string().starts_with("page.toml:") && e.hint().is_some(), "{e}");
                bad += 1;
            }
        }
    }
    assert!(good > 500 && bad > 5000, "{good} pages, {bad} errors");
}
