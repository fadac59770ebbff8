//! Where the parts of a cell go.
//!
//! Columns from left to right: the inputs, the nodes by their depth, the output. Each operation is
//! a box of its own directly before its node, so no label can lie on another; a connection that
//! skips columns gets a lane through each, so no line runs under a label.

use super::order::{Link, order, spread};
use tetlo_core::genotype::GenotypeCell;

/// Height of an operation's box.
pub(super) const BOX_HEIGHT: f64 = 22.0;
/// Width of a character of a label, for 11 px monospace with room to spare.
const CHARACTER: f64 = 6.8;
/// Half the side of a node.
pub(super) const NODE: f64 = 13.0;
/// Half the width of an input or output.
pub(super) const TERMINAL: f64 = 24.0;
const BOX_PITCH: f64 = 27.0;
const LANE_HEIGHT: f64 = 12.0;
const GAP: f64 = 12.0;
const BETWEEN_COLUMNS: f64 = 44.0;
const BOX_TO_NODE: f64 = 21.0;
const MARGIN: f64 = 10.0;

/// A point.
pub(super) type Point = (f64, f64);

/// A placed cell.
#[derive(Debug)]
pub(super) struct Layout {
    /// Width of the picture.
    pub(super) width: f64,
    /// Height of the picture.
    pub(super) height: f64,
    /// Centres of the states, by number.
    pub(super) states: Vec<Point>,
    /// Centre of the output.
    pub(super) output: Point,
    /// The operations, in the cell's order of edges.
    pub(super) boxes: Vec<Placed>,
    /// Lines from state to box or output, in parts between or across columns.
    pub(super) wires: Vec<Wire>,
}

/// An operation's box.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// Left edge.
    pub(super) left: f64,
    /// Width.
    pub(super) width: f64,
    /// Middle.
    pub(super) y: f64,
}

/// A part of a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire {
    /// Left end.
    pub(super) from: Point,
    /// Right end.
    pub(super) to: Point,
    /// The state whose value it carries.
    pub(super) state: usize,
    /// Part of the concatenation rather than of an operation.
    pub(super) concat: bool,
}

/// What stands in a column.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Item {
    /// A state, with its operations' boxes before it.
    State(usize),
    /// A state's value on its way to later columns.
    Lane(usize),
    Output,
}

/// A column's extent.
#[derive(Debug, Clone, Copy)]
struct Column {
    /// Where lines arrive.
    left: f64,
    /// Width of the boxes.
    boxes: f64,
    /// Centre of the states.
    centre: f64,
    /// Where lines leave.
    right: f64,
}

/// Places a cell.
pub(super) fn layout(cell: &GenotypeCell) -> Layout {
    let depth = depths(cell);
    let last = depth.iter().max().map_or(1, |d| d + 1);
    let columns = columns(cell, &depth, last);
    let items = items(cell, &depth, last);
    let links = links(cell, &items);
    let orders = order(&items.iter().map(Vec::len).collect::<Vec<_>>(), &links);
    let places = places(cell, &items, &links, &orders);
    draw(cell, &depth, &items, &places, &columns)
}

/// The column of each state: one after its latest input.
fn depths(cell: &GenotypeCell) -> Vec<usize> {
    let states = cell.edges.iter().map(|e| e.to).chain(cell.concat.iter().copied());
    let states = states.max().unwrap_or(0).max(cell.inputs - 1) + 1;
    let mut depth = vec![0; states];
    for state in cell.inputs..states {
        // Edges come from lower states, so theirs are known.
        depth[state] = 1 + cell.into_state(state).map(|e| depth[e.from]).max().unwrap_or(0);
    }
    depth
}

fn columns(cell: &GenotypeCell, depth: &[usize], last: usize) -> Vec<Column> {
    let mut columns = vec![Column {
        left: MARGIN,
        boxes: 0.0,
        centre: MARGIN + TERMINAL,
        right: MARGIN + 2.0 * TERMINAL,
    }];
    for column in 1..=last {
        let left = columns[column - 1].right + BETWEEN_COLUMNS;
        if column == last {
            let (centre, right) = (left + TERMINAL, left + 2.0 * TERMINAL);
            columns.push(Column { left, boxes: 0.0, centre, right });
        } else {
            let edges = cell.edges.iter().filter(|e| depth[e.to] == column);
            let longest = edges.map(|e| e.operation.chars().count()).max().unwrap_or(0);
            let boxes = if longest == 0 { 0.0 } else { longest as f64 * CHARACTER + 16.0 };
            let centre = left + boxes + BOX_TO_NODE + NODE;
            columns.push(Column { left, boxes, centre, right: centre + NODE });
        }
    }
    columns
}

/// What stands in each column.
fn items(cell: &GenotypeCell, depth: &[usize], last: usize) -> Vec<Vec<Item>> {
    let mut items = vec![vec![]; last + 1];
    for (state, own) in depth.iter().enumerate() {
        items[*own].push(Item::State(state));
        let targets = cell.edges.iter().filter(|e| e.from == state).map(|e| depth[e.to]);
        let targets = targets.chain(cell.concat.contains(&state).then_some(last));
        for column in items.iter_mut().take(targets.max().unwrap_or(0)).skip(own + 1) {
            column.push(Item::Lane(state));
        }
    }
    items[last].push(Item::Output);
    items
}

/// The lines between neighbouring columns, by index of item.
fn links(cell: &GenotypeCell, items: &[Vec<Item>]) -> Vec<Vec<Link>> {
    let mut links = vec![];
    for pair in items.windows(2) {
        let source = |state: usize| {
            pair[0].iter().position(|i| matches!(i, Item::State(s) | Item::Lane(s) if *s == state))
        };
        let mut between = vec![];
        for (to, item) in pair[1].iter().enumerate() {
            let sources: Vec<usize> = match item {
                Item::State(state) => cell.into_state(*state).map(|e| e.from).collect(),
                Item::Lane(state) => vec![*state],
                Item::Output => cell.concat.clone(),
            };
            between.extend(sources.into_iter().filter_map(source).map(|from| (from, to)));
        }
        links.push(between);
    }
    links
}

fn height(cell: &GenotypeCell, item: Item) -> f64 {
    match item {
        Item::State(state) => {
            (cell.into_state(state).count() as f64 * BOX_PITCH).max(2.0 * NODE + 4.0)
        }
        Item::Lane(_) => LANE_HEIGHT,
        Item::Output => 2.0 * NODE + 4.0,
    }
}

/// The height at which each item stands.
fn places(
    cell: &GenotypeCell,
    items: &[Vec<Item>],
    links: &[Vec<Link>],
    orders: &[Vec<usize>],
) -> Vec<Vec<f64>> {
    let mut places: Vec<Vec<f64>> = items.iter().map(|c| vec![0.0; c.len()]).collect();
    let settle = |column: usize, places: &mut Vec<Vec<f64>>, wish: &dyn Fn(usize) -> f64| {
        let order = &orders[column];
        let wished: Vec<f64> = order.iter().map(|i| wish(*i)).collect();
        let high = |i: usize| height(cell, items[column][i]);
        let apart: Vec<f64> =
            order.windows(2).map(|w| f64::midpoint(high(w[0]), high(w[1])) + GAP).collect();
        for (item, place) in order.iter().zip(spread(&wished, &apart)) {
            places[column][*item] = place;
        }
    };
    for column in 0..items.len() {
        settle(column, &mut places, &|_| 0.0);
    }
    for _ in 0..24 {
        for column in 0..items.len() {
            let before = places.clone();
            settle(column, &mut places, &|item| {
                let (mut sum, mut weight) = (before[column][item] * 0.25, 0.25);
                let mut pull = |place: f64, lanes: bool| {
                    // Lanes pull harder, so that long lines run straight.
                    let pull = if lanes { 2.0 } else { 1.0 };
                    sum += pull * place;
                    weight += pull;
                };
                let is_lane =
                    |column: usize, item: usize| matches!(items[column][item], Item::Lane(_));
                if column > 0 {
                    for (from, _) in links[column - 1].iter().filter(|(_, to)| *to == item) {
                        pull(before[column - 1][*from], is_lane(column, item));
                    }
                }
                for (_, to) in links.get(column).into_iter().flatten().filter(|(f, _)| *f == item) {
                    pull(before[column + 1][*to], is_lane(column + 1, *to));
                }
                sum / weight
            });
        }
    }
    let edge = |sign: f64| {
        items
            .iter()
            .zip(&places)
            .flat_map(|(items, places)| items.iter().zip(places))
            .map(|(item, place)| sign * (place + sign * height(cell, *item) / 2.0))
            .fold(f64::MIN, f64::max)
    };
    let top = -edge(-1.0);
    for place in places.iter_mut().flatten() {
        *place += MARGIN - top;
    }
    places
}

/// Turns places into coordinates and draws the lines.
fn draw(
    cell: &GenotypeCell,
    depth: &[usize],
    items: &[Vec<Item>],
    places: &[Vec<f64>],
    columns: &[Column],
) -> Layout {
    // Where the line of a state leaves a column.
    let leaves = |column: usize, state: usize| -> Point {
        let own = |i: &Item| *i == Item::State(state) || *i == Item::Lane(state);
        let y = items[column].iter().position(own).map_or(0.0, |i| places[column][i]);
        (columns[column].right, y)
    };
    let mut layout = Layout {
        width: columns.last().map_or(0.0, |c| c.right) + MARGIN,
        height: 0.0,
        states: vec![(0.0, 0.0); depth.len()],
        output: (0.0, 0.0),
        boxes: vec![Placed { left: 0.0, width: 0.0, y: 0.0 }; cell.edges.len()],
        wires: vec![],
    };
    for (c, column) in columns.iter().enumerate() {
        for (item, y) in items[c].iter().copied().zip(places[c].iter().copied()) {
            layout.height = layout.height.max(y + height(cell, item) / 2.0 + MARGIN);
            let mut wire = |state: usize, from: Point, to: Point, concat: bool| {
                layout.wires.push(Wire { from, to, state, concat });
            };
            match item {
                Item::State(state) => {
                    layout.states[state] = (column.centre, y);
                    let mut edges: Vec<usize> =
                        (0..cell.edges.len()).filter(|e| cell.edges[*e].to == state).collect();
                    let from = |edge: usize| leaves(c - 1, cell.edges[edge].from);
                    edges.sort_by(|a, b| from(*a).1.total_cmp(&from(*b).1));
                    let first = y - (edges.len() as f64 - 1.0) / 2.0 * BOX_PITCH;
                    for (i, edge) in edges.into_iter().enumerate() {
                        let y = first + i as f64 * BOX_PITCH;
                        layout.boxes[edge] = Placed { left: column.left, width: column.boxes, y };
                        wire(cell.edges[edge].from, from(edge), (column.left, y), false);
                    }
                }
                Item::Lane(state) => {
                    // A lane that leads to the output alone is drawn like the concatenation.
                    let concat = !cell.edges.iter().any(|e| e.from == state && depth[e.to] > c);
                    wire(state, leaves(c - 1, state), (column.left, y), concat);
                    wire(state, (column.left, y), (column.right, y), concat);
                }
                Item::Output => {
                    layout.output = (column.centre, y);
                    for state in &cell.concat {
                        wire(*state, leaves(c - 1, *state), (column.left, y), true);
                    }
                }
            }
        }
    }
    layout
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetlo_core::genotype::Genotype;

    fn cell(edges: &str, concat: &str) -> GenotypeCell {
        let text = format!("Genotype(normal=[{edges}], normal_concat={concat})");
        Genotype::parse(&text).unwrap().cell("normal").unwrap().clone()
    }

    fn cells() -> Vec<GenotypeCell> {
        let flat = "('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), \
                    ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)";
        let chain = "('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('a', 0), \
                     ('b', 3), ('dil_conv_5x5', 1), ('c', 4), ('d', 0)";
        vec![
            cell(flat, "range(2, 6)"),
            cell(chain, "range(2, 6)"),
            cell(
                "('a', 2, 0), ('b', 2, 0), ('c', 2, 1), ('long_operation_name_7x7', 5, 2)",
                "[2, 5]",
            ),
            cell("", "[0, 1]"),
            cell("('a', 0), ('b', 0)", "[]"),
            Genotype::parse("|nor_conv_3x3~0|+|none~0|a~1|+|skip_connect~0|none~1|avg_pool_3x3~2|")
                .unwrap()
                .cell("cell")
                .unwrap()
                .clone(),
        ]
    }

    /// Every rectangle that carries text.
    fn labels(cell: &GenotypeCell, layout: &Layout) -> Vec<(f64, f64, f64, f64)> {
        let around = |(x, y): Point, half: f64| (x - half, y - NODE, x + half, y + NODE);
        let boxes = layout
            .boxes
            .iter()
            .map(|b| (b.left, b.y - BOX_HEIGHT / 2.0, b.left + b.width, b.y + BOX_HEIGHT / 2.0));
        let states = layout.states.iter().enumerate();
        boxes
            .chain(states.map(|(i, s)| around(*s, if i < cell.inputs { TERMINAL } else { NODE })))
            .chain([around(layout.output, TERMINAL)])
            .inspect(|l| {
                assert!(l.0 >= 0.0 && l.1 >= 0.0, "{cell:?} {l:?}");
                assert!(l.2 <= layout.width && l.3 <= layout.height, "{cell:?} {l:?}");
            })
            .collect()
    }

    #[test]
    fn no_label_lies_on_another_and_labels_fit() {
        for cell in cells() {
            let layout = layout(&cell);
            let labels = labels(&cell, &layout);
            for (i, a) in labels.iter().enumerate() {
                for b in &labels[i + 1..] {
                    let apart = a.2 <= b.0 || b.2 <= a.0 || a.3 <= b.1 || b.3 <= a.1;
                    assert!(apart, "{a:?} and {b:?} of {cell:?}");
                }
            }
            for (edge, placed) in cell.edges.iter().zip(&layout.boxes) {
                assert!(placed.width > edge.operation.len() as f64 * 6.6 + 4.0);
            }
        }
    }

    #[test]
    fn no_line_runs_under_a_label() {
        for cell in cells() {
            let layout = layout(&cell);
            for wire in &layout.wires {
                assert!(wire.from.0 < wire.to.0, "{wire:?}");
                for label in labels(&cell, &layout) {
                    // A curve stays within the rectangle of its ends.
                    let (low, high) = (wire.from.1.min(wire.to.1), wire.from.1.max(wire.to.1));
                    let beside = label.2 <= wire.from.0 || label.0 >= wire.to.0;
                    assert!(beside || high < label.1 || low > label.3, "{wire:?} {label:?}");
                }
            }
        }
    }

    #[test]
    fn each_edge_and_each_member_of_the_output_is_drawn() {
        for cell in cells() {
            let layout = layout(&cell);
            let into = |x: f64| layout.wires.iter().filter(|w| (w.to.0 - x).abs() < 1e-9).count();
            let output = layout.output.0 - TERMINAL;
            assert_eq!(into(output), cell.concat.len(), "{cell:?}");
            for placed in &layout.boxes {
                let at = |w: &&Wire| (w.to.0 - placed.left).hypot(w.to.1 - placed.y) < 1e-9;
                assert_eq!(layout.wires.iter().filter(at).count(), 1, "{placed:?}");
            }
        }
    }
}
