//! Genotypes as SVG.
//!
//! Presentation attributes give the colours of white paper, understood by every viewer; the
//! classes let a page override them (the report does, for dark screens).

use super::layout::{BOX_HEIGHT, Layout, NODE, Point, TERMINAL, layout};
use super::{Family, StateName, title};
use crate::report::text::escape;
use std::fmt::Write as _;
use tetlo_core::genotype::{Genotype, GenotypeCell};

pub(super) const SANS: &str = "Helvetica, Arial, 'Liberation Sans', sans-serif";
pub(super) const MONO: &str = "'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace";
/// Height of the line with a cell's name.
const TITLE: f64 = 26.0;
/// Distance between cells.
const BETWEEN: f64 = 36.0;

/// All cells of a genotype side by side, each under its name.
pub fn svg(genotype: &Genotype) -> String {
    let cells: Vec<_> = genotype.cells().map(|(name, cell)| (name, cell, layout(cell))).collect();
    let height = cells.iter().map(|(_, _, l)| l.height).fold(0.0, f64::max) + TITLE;
    let width: f64 = cells.iter().map(|(_, _, l)| l.width + BETWEEN).sum::<f64>() - BETWEEN;
    let mut out = open(width.max(1.0), height, "architecture");
    let _ = write!(out, r##"<rect width="100%" height="100%" fill="#ffffff"/>"##);
    let mut x = 0.0;
    for (name, cell, layout) in &cells {
        let _ = write!(
            out,
            r##"<text class="title" x="{:.1}" y="18" fill="#1b1b1b" font-size="14" font-weight="600">{}</text>"##,
            x + 10.0,
            escape(&title(name))
        );
        let y = TITLE + (height - TITLE - layout.height) / 2.0;
        let _ = write!(out, r#"<g transform="translate({x:.1} {y:.1})">"#);
        draw(&mut out, cell, layout);
        out.push_str("</g>");
        x += layout.width + BETWEEN;
    }
    out.push_str("</svg>\n");
    out
}

/// One cell, without background and name, for pages that bring their own; `label` describes it.
pub fn cell_svg(label: &str, cell: &GenotypeCell) -> String {
    let layout = layout(cell);
    let mut out = open(layout.width, layout.height, label);
    draw(&mut out, cell, &layout);
    out.push_str("</svg>");
    out
}

fn open(width: f64, height: f64, title: &str) -> String {
    let title = escape(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"cell\" width=\"{width:.0}\" \
         height=\"{height:.0}\" viewBox=\"0 0 {width:.1} {height:.1}\" font-family=\"{SANS}\" \
         role=\"img\" aria-label=\"{title}\">"
    )
}

fn draw(out: &mut String, cell: &GenotypeCell, layout: &Layout) {
    // The concatenation below, operations' lines above it, then boxes and states.
    for concat in [true, false] {
        for wire in layout.wires.iter().filter(|w| w.concat == concat) {
            let ((x, y), (to_x, to_y)) = (wire.from, wire.to);
            let bend = (to_x - x) / 2.0;
            let (class, colour, width) = match wire.state {
                _ if concat => ("concat", "#b3b3b3", "1.2\" stroke-dasharray=\"4 3"),
                // The inputs' lines cross most: a light and a dark one are told apart.
                0 => ("wire first", "#8a94a1", "1.6"),
                1 => ("wire second", "#2b3038", "1.4"),
                _ => ("wire", "#5f6670", "1.4"),
            };
            let _ = write!(
                out,
                r#"<path class="{class}" d="M{x:.1} {y:.1}C{:.1} {y:.1} {:.1} {to_y:.1} {to_x:.1} {to_y:.1}" fill="none" stroke="{colour}" stroke-width="{width}"/>"#,
                x + bend,
                to_x - bend,
            );
        }
    }
    for (edge, placed) in cell.edges.iter().zip(&layout.boxes) {
        let family = Family::of(&edge.operation);
        let [fill, stroke, text] = family.colours();
        let right = placed.left + placed.width;
        let node = layout.states[edge.to];
        let _ = write!(out, r#"<g class="op {}">"#, family.class());
        arrow(out, (right, placed.y), node, stroke);
        let _ = write!(
            out,
            r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{BOX_HEIGHT}" rx="5" fill="{fill}" stroke="{stroke}"/><text x="{:.1}" y="{:.1}" fill="{text}" font-family="{MONO}" font-size="11" text-anchor="middle">{}</text></g>"#,
            placed.left,
            placed.y - BOX_HEIGHT / 2.0,
            placed.width,
            placed.left + placed.width / 2.0,
            placed.y + 3.8,
            escape(&edge.operation)
        );
    }
    for (state, at) in layout.states.iter().enumerate() {
        match StateName::of(state, cell.inputs) {
            StateName::Input(before) => terminal(out, *at, &format!("k\u{2212}{before}")),
            StateName::Node(node) => {
                let (x, y) = *at;
                let _ = write!(
                    out,
                    r##"<g class="node"><circle cx="{x:.1}" cy="{y:.1}" r="{NODE}" fill="#ffffff" stroke="#3a3f47" stroke-width="1.3"/><text x="{x:.1}" y="{:.1}" fill="#1b1b1b" font-size="12" text-anchor="middle">{}</text></g>"##,
                    y + 4.2,
                    node
                );
            }
        }
    }
    terminal(out, layout.output, "k");
}

/// From an operation's box to the rim of its node.
fn arrow(out: &mut String, from: Point, node: Point, colour: &str) {
    let (dx, dy) = (node.0 - from.0, node.1 - from.1);
    let length = dx.hypot(dy);
    let (ux, uy) = (dx / length, dy / length);
    let tip = (node.0 - ux * (NODE + 1.5), node.1 - uy * (NODE + 1.5));
    let back = (tip.0 - ux * 6.5, tip.1 - uy * 6.5);
    let _ = write!(
        out,
        r#"<path class="stem" d="M{:.1} {:.1}L{:.1} {:.1}" fill="none" stroke="{colour}" stroke-width="1.5"/><path class="head" d="M{:.1} {:.1}L{:.1} {:.1}L{:.1} {:.1}Z" fill="{colour}"/>"#,
        from.0,
        from.1,
        back.0,
        back.1,
        tip.0,
        tip.1,
        back.0 - uy * 3.4,
        back.1 + ux * 3.4,
        back.0 + uy * 3.4,
        back.1 - ux * 3.4,
    );
}

/// An input or the output: c with an index.
fn terminal(out: &mut String, (x, y): Point, index: &str) {
    let _ = write!(
        out,
        r##"<g class="terminal"><rect x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}" rx="6" fill="#f1f2f4" stroke="#3a3f47" stroke-width="1.3"/><text x="{x:.1}" y="{:.1}" fill="#1b1b1b" font-size="13" text-anchor="middle"><tspan font-style="italic">c</tspan><tspan dy="3" font-size="9.5">{index}</tspan></text></g>"##,
        x - TERMINAL,
        y - NODE,
        2.0 * TERMINAL,
        2.0 * NODE,
        y + 3.5,
    );
}
