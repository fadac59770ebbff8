//! Stage graphs as text, Graphviz DOT and SVG.

use super::quoted;
use super::svg::{MONO, SANS};
use crate::report::text::escape;
use std::fmt::Write as _;
use tetlo_core::multilevel::{LossTerm, ModelRole, Objective, Stage, StageGraph, TermSplit};

/// Least width of a stage's box, and that of a letter in it.
const BOX: f64 = 250.0;
const LETTER: f64 = 6.7;
/// The space between two boxes.
const GAP: f64 = 110.0;
/// Height of a line of text.
const LINE: f64 = 18.0;
const MARGIN: f64 = 24.0;

/// Stage by stage, as a method reads in a paper.
pub fn text(graph: &StageGraph, loss: &str) -> String {
    let mut out = String::new();
    for i in 0..graph.stages.len() {
        let _ = writeln!(out, "stage {}  {}", i + 1, lines(graph, i, loss).join("\n         "));
    }
    let _ = writeln!(out, "objective  {}", objective(graph));
    out
}

/// A node a stage, an edge a transfer: `dot -Tpdf` draws it.
pub fn dot(graph: &StageGraph, loss: &str) -> String {
    let mut out = String::from(
        "digraph stages {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", \
         fillcolor=\"#f4f4f4\", fontname=\"Helvetica\"];\n  edge [fontname=\"Helvetica\", \
         fontsize=11];\n",
    );
    let _ = writeln!(out, "  A [label=\"architecture A\", fillcolor=\"#fdf3dc\"];");
    for (i, stage) in graph.stages.iter().enumerate() {
        let _ = writeln!(out, "  s{i} [label={}];", quoted(&lines(graph, i, loss).join("\n")));
        if stage.model.has_main_architecture() {
            let _ = writeln!(out, "  A -> s{i} [style=dashed];");
        }
    }
    for (student, term, from, _) in graph.transfers() {
        let label = transfer_name(&graph.stages[student].loss[term], loss);
        let _ = writeln!(out, "  s{from} -> s{student} [label={}];", quoted(&label));
    }
    let aim = format!("J = {}", objective(graph));
    let _ = writeln!(out, "  J [label={}, fillcolor=\"#e3eefb\"];", quoted(&aim));
    for term in counting(graph) {
        let _ = writeln!(out, "  s{} -> J [label={}];", term.stage, quoted(&weight(term.weight)));
    }
    out.push_str("}\n");
    out
}

/// The stages from left to right, the objective above, the architecture below them.
pub fn svg(graph: &StageGraph, loss: &str) -> String {
    let texts: Vec<Vec<String>> = (0..graph.stages.len()).map(|i| lines(graph, i, loss)).collect();
    let rows = texts.iter().map(Vec::len).max().unwrap_or(1) as f64;
    let longest = texts.iter().flatten().map(|line| line.chars().count()).max().unwrap_or(0);
    let box_width = BOX.max(longest as f64 * LETTER + 24.0);
    let (count, height) = (graph.stages.len() as f64, rows * LINE + 20.0);
    // Transfers that pass over a stage run below the boxes.
    let long = graph.transfers().any(|(to, _, from, _)| to > from + 1);
    let below = if long { 70.0 } else { 40.0 };
    let width = (2.0 * MARGIN + count * box_width + (count - 1.0) * GAP).max(420.0);
    let (aim, top) = (MARGIN, MARGIN + 40.0 + 44.0);
    let bottom = top + height + below;
    let total = bottom + 36.0 + MARGIN;
    let x = |i: usize| MARGIN + i as f64 * (box_width + GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{total:.0}\" \
         viewBox=\"0 0 {width:.0} {total:.0}\" font-family=\"{SANS}\" role=\"img\" \
         aria-label=\"stage graph\"><defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" \
         markerWidth=\"8\" markerHeight=\"8\" orient=\"auto-start-reverse\"><path d=\"M0 0L8 4L0 8Z\" \
         fill=\"#3a3f47\"/></marker></defs><rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
    );
    let aims = format!("min over A:  J = {}", objective(graph));
    rectangle(&mut out, (MARGIN, aim), (width - 2.0 * MARGIN, 40.0), "#e3eefb", "#35679f");
    label(&mut out, (width / 2.0, aim + 25.0), &aims, "middle", 14.0);
    rectangle(&mut out, (MARGIN, bottom), (width - 2.0 * MARGIN, 36.0), "#fdf3dc", "#a7771c");
    label(&mut out, (width / 2.0, bottom + 23.0), "architecture A", "middle", 14.0);
    for (i, (stage, texts)) in graph.stages.iter().zip(&texts).enumerate() {
        let left = x(i);
        rectangle(&mut out, (left, top), (box_width, height), "#f4f5f7", "#3a3f47");
        for (row, line) in texts.iter().enumerate() {
            let size = if row == 0 { 14.0 } else { 12.0 };
            label(&mut out, (left + 12.0, top + 22.0 + row as f64 * LINE), line, "start", size);
        }
        if stage.model.has_main_architecture() {
            let at = left + 40.0;
            wire(
                &mut out,
                &format!("M{at} {bottom}V{:.1}", top + height + 1.0),
                "stroke-dasharray=\"5 4\"",
            );
        }
    }
    for term in counting(graph) {
        let at = x(term.stage) + box_width / 2.0;
        wire(&mut out, &format!("M{at} {top}V{:.1}", aim + 41.0), "");
        label(&mut out, (at + 8.0, top - 16.0), &weight(term.weight), "start", 12.0);
    }
    for (to, term, from, _) in graph.transfers() {
        let name = transfer_name(&graph.stages[to].loss[term], loss);
        let (start, end) = (x(from) + box_width, x(to));
        if to == from + 1 {
            let y = top + height / 2.0;
            wire(&mut out, &format!("M{start} {y:.1}H{:.1}", end - 1.0), "");
            for (row, word) in name.split(' ').rev().enumerate() {
                let at = (f64::midpoint(start, end), y - 8.0 - row as f64 * 14.0);
                label(&mut out, at, word, "middle", 11.0);
            }
        } else {
            let (y, deep) = (top + height, top + height + 30.0);
            let (a, b) = (start - 60.0, end + 90.0);
            wire(&mut out, &format!("M{a} {y:.1}V{deep:.1}H{b}V{:.1}", y + 1.0), "");
            label(&mut out, (f64::midpoint(a, b), deep - 5.0), &name, "middle", 11.0);
        }
    }
    out.push_str("</svg>\n");
    out
}

fn rectangle(out: &mut String, at: (f64, f64), size: (f64, f64), fill: &str, stroke: &str) {
    let _ = write!(
        out,
        "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"7\" fill=\"{fill}\" \
         stroke=\"{stroke}\" stroke-width=\"1.3\"/>",
        at.0, at.1, size.0, size.1
    );
}

fn label(out: &mut String, at: (f64, f64), text: &str, anchor: &str, size: f64) {
    let font = if size < 13.0 { format!(" font-family=\"{MONO}\"") } else { String::new() };
    let size = if size < 13.0 { size - 1.0 } else { size };
    let _ = write!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#1b1b1b\" font-size=\"{size}\" \
         text-anchor=\"{anchor}\"{font}>{}</text>",
        at.0,
        at.1,
        escape(text)
    );
}

fn wire(out: &mut String, path: &str, style: &str) {
    let _ = write!(
        out,
        "<path d=\"{path}\" fill=\"none\" stroke=\"#3a3f47\" stroke-width=\"1.4\" \
         marker-end=\"url(#tip)\" {style}/>"
    );
}

fn counting(graph: &StageGraph) -> impl Iterator<Item = &Objective> {
    graph.objective.iter().filter(|o| o.weight > 0.0)
}

fn objective(graph: &StageGraph) -> String {
    let terms = counting(graph).map(|o| {
        let name = &graph.stages[o.stage].name;
        format!("{}CE({name}′; valid)", factor(o.weight))
    });
    terms.collect::<Vec<_>>().join(" + ")
}

fn weight(weight: f64) -> String {
    format!("× {weight}")
}

fn factor(weight: f64) -> String {
    if (weight - 1.0).abs() < f64::EPSILON { String::new() } else { format!("{weight}·") }
}

fn transfer_name(term: &LossTerm, default: &str) -> String {
    match term {
        LossTerm::Transfer { loss, weight, .. } => {
            let name = loss.as_ref().map_or(default, |l| l.plugin.as_str());
            format!("{}{name}", factor(*weight))
        }
        LossTerm::Supervised { .. } => String::new(),
    }
}

/// What a stage's box says: its name, the terms of its loss, how it is trained and looked through.
fn lines(graph: &StageGraph, index: usize, loss: &str) -> Vec<String> {
    let stage: &Stage = &graph.stages[index];
    let model = match stage.model {
        ModelRole::Main => "the supernet",
        ModelRole::Twin => "a twin of the supernet",
        ModelRole::Auxiliary => "the auxiliary model",
    };
    let mut lines = vec![format!("{}: {model}", stage.name)];
    let split = |split: TermSplit| match split {
        TermSplit::Train => "train".to_owned(),
        TermSplit::Transfer => "transfer".to_owned(),
    };
    for (i, term) in stage.loss.iter().filter(|t| t.weight() > 0.0).enumerate() {
        let sign = if i == 0 { "min " } else { "  + " };
        lines.push(match term {
            LossTerm::Supervised { weight, split: on } => {
                format!("{sign}{}CE({})", factor(*weight), split(*on))
            }
            LossTerm::Transfer { from, split: on, .. } => format!(
                "{sign}{}({}′; {})",
                transfer_name(term, loss),
                graph.stages[*from].name,
                split(*on)
            ),
        });
    }
    let rule = match stage.inner.optimizer {
        tetlo_core::optim::InnerRule::Sgd => "SGD",
        tetlo_core::optim::InnerRule::Adam => "Adam",
    };
    let steps = if stage.unroll_steps == 1 { "step" } else { "steps" };
    lines.push(format!("{} {steps} of {rule}", stage.unroll_steps));
    lines.push(graph.estimator(index).plugin.clone());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetlo_core::multilevel::EstimatorRef;

    fn graph() -> StageGraph {
        let mut graph = StageGraph::bilevel(EstimatorRef::named("central-difference"));
        for (name, from) in [("second", 0), ("third", 0)] {
            let loss = vec![LossTerm::supervised(1.0), LossTerm::transfer(from, 0.5)];
            graph.stages.push(Stage::new(name, ModelRole::Auxiliary, loss));
        }
        graph.objective.push(Objective { stage: 2, weight: 2.0 });
        graph
    }

    #[test]
    fn every_form_names_every_part() {
        let graph = graph();
        for drawn in [text(&graph, "a<b"), dot(&graph, "a<b"), svg(&graph, "a<b")] {
            for part in ["second", "third", "central-difference", "2·CE(third′; valid)", "0.5·a"]
            {
                assert!(drawn.contains(part), "{part} is not in\n{drawn}");
            }
        }
        assert!(svg(&graph, "a<b").contains("a&lt;b") && !svg(&graph, "a<b").contains("a<b("));
        assert_eq!(dot(&graph, "kd").matches(" -> ").count(), 1 + 2 + 2);
    }

    #[test]
    fn what_does_not_count_is_not_drawn() {
        let mut graph = graph();
        graph.objective[1].weight = 0.0;
        assert!(!text(&graph, "kd").contains("CE(third′"));
    }
}
