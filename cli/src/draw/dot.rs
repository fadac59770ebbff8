//! Genotypes as Graphviz DOT text.

use super::{Family, StateName};
use std::fmt::Write as _;
use tetlo_core::genotype::Genotype;

/// A graph with a cluster for each cell, left to right: `dot -Tpdf` draws it.
pub fn dot(genotype: &Genotype) -> String {
    let mut out = String::from(
        "digraph genotype {\n  rankdir=LR;\n  fontname=\"Helvetica\";\n  \
         node [shape=box, style=\"rounded,filled\", fillcolor=\"#f4f4f4\", fontname=\"Helvetica\"];\n  \
         edge [fontname=\"Helvetica\", fontsize=11];\n",
    );
    for (i, (name, cell)) in genotype.cells().enumerate() {
        let _ = write!(out, "  subgraph cluster_{i} {{\n    label={};\n", quoted(name));
        let states = cell.edges.iter().flat_map(|e| [e.from, e.to]).chain(cell.concat.clone());
        let states = states.max().unwrap_or(0).max(cell.inputs - 1) + 1;
        for state in 0..states {
            let label = match StateName::of(state, cell.inputs) {
                StateName::Input(before) => quoted(&format!("c_{{k-{before}}}")),
                StateName::Node(node) => quoted(&node.to_string()),
            };
            let _ = writeln!(out, "    s{i}_{state} [label={label}];");
        }
        let _ = writeln!(out, "    out{i} [label=\"c_{{k}}\"];");
        for edge in &cell.edges {
            let [_, colour, _] = Family::of(&edge.operation).colours();
            let _ = writeln!(
                out,
                "    s{i}_{} -> s{i}_{} [label={}, color=\"{colour}\"];",
                edge.from,
                edge.to,
                quoted(&edge.operation)
            );
        }
        for state in &cell.concat {
            let _ = writeln!(out, "    s{i}_{state} -> out{i} [style=dashed, color=\"#888888\"];");
        }
        out.push_str("  }\n");
    }
    out.push_str("}\n");
    out
}

/// A quoted DOT string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cell() {
        let text = r#"{"normal": [["skip_connect", 0], ["my \"op\"\\", 1]], "normal_concat": [2]}"#;
        let dot = dot(&Genotype::parse(text).unwrap());
        for line in [
            "label=\"normal\";",
            "s0_0 [label=\"c_{k-2}\"];",
            "s0_2 [label=\"0\"];",
            "out0 [label=\"c_{k}\"];",
            "s0_0 -> s0_2 [label=\"skip_connect\", color=\"#23844f\"];",
            r##"s0_1 -> s0_2 [label="my \"op\"\\", color="#6b6b6b"];"##,
            "s0_2 -> out0 [style=dashed, color=\"#888888\"];",
        ] {
            assert!(dot.contains(line), "{line} is not in\n{dot}");
        }
        assert_eq!(dot.matches('{').count(), dot.matches('}').count());
    }

    #[test]
    fn a_cell_with_one_input() {
        let dot = dot(&Genotype::parse("|nor_conv_3x3~0|+|none~0|skip_connect~1|").unwrap());
        for line in [
            "label=\"cell\";",
            "s0_0 [label=\"c_{k-1}\"];",
            "s0_1 [label=\"1\"];",
            "s0_1 -> s0_2 [label=\"skip_connect\", color=\"#23844f\"];",
            "s0_2 -> out0 [style=dashed, color=\"#888888\"];",
        ] {
            assert!(dot.contains(line), "{line} is not in\n{dot}");
        }
        assert!(!dot.contains("s0_1 -> out0"));
    }
}
