//! Packed states: a state of few channels holds several images in one register, side by side.
//!
//! Sixteen lanes for four channels would waste three quarters of all work. A packed state's *item* is
//! a group of images: its kernels run unchanged on items, with weights repeated for every image; only
//! mixing channels, sums over channels and the way in and out (gathers) know about it. The lanes of
//! images that a last item lacks hold nothing of use, and their gradients are zero.

use std::ops::Range;

use super::State;
use crate::chain::{Chain, Conv};
use crate::graph::{Export, Graph, State as GraphState, Weight};

/// Images in a register, and lanes of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packing {
    pub images: usize,
    pub width: usize,
}

impl Packing {
    pub(super) const NONE: Self = Self { images: 1, width: 16 };

    /// The closest packing of so many channels.
    fn of(channels: usize) -> Self {
        let width = channels.next_power_of_two();
        if width < 16 { Self { images: 16 / width, width } } else { Self::NONE }
    }

    pub(super) fn is_packed(self) -> bool {
        self.images > 1
    }

    /// The first lane of an image.
    pub(super) fn lane(self, image: usize) -> usize {
        image % self.images * self.width
    }

    /// Items of a batch.
    pub(super) fn items(self, batch: usize) -> usize {
        batch.div_ceil(self.images)
    }

    /// The items of a range of images that starts with an item.
    pub(super) fn of_images(self, images: &Range<usize>) -> Range<usize> {
        images.start / self.images..images.end.div_ceil(self.images)
    }
}

/// Whether states of so many channels hold several images in a register where they lie between
/// gathers.
pub fn packs(channels: usize) -> bool {
    Packing::of(channels).is_packed()
}

/// How each state is packed. A packed state is gathered from unpacked ones, or a sum over packed ones;
/// what reads it is packed alike, or gathers from it.
pub(super) fn packings(graph: &Graph) -> Vec<Packing> {
    let mut barred = vec![false; graph.states.len()];
    barred[0] = true;
    for id in graph.exports().iter().flat_map(Export::states) {
        barred[id.0] = true;
    }
    loop {
        let mut found = vec![Packing::NONE; barred.len()];
        for (index, state) in graph.computed().filter(|(index, _)| !barred[*index]) {
            let own = Packing::of(state.shape.0);
            let fits = if is_gather(state) {
                state.terms[0].0.input.iter().all(|id| !found[id.0].is_packed())
            } else {
                !state.terms.is_empty()
                    && state.terms.iter().all(|(term, chain)| {
                        let alike = matches!(&*term.input, [id] if found[id.0] == own);
                        alike && !matches!(term.weight, Weight::PerImage(_)) && fits(chain, own)
                    })
            };
            if fits {
                found[index] = own;
            }
        }
        let before = barred.clone();
        for (index, state) in graph.computed().filter(|(_, state)| !is_gather(state)) {
            for id in state.terms.iter().flat_map(|(term, _)| &term.input) {
                barred[id.0] |= found[id.0].is_packed() && !found[index].is_packed();
            }
        }
        if barred == before {
            return found;
        }
    }
}

/// Is this state nothing but a gather?
fn is_gather(state: &GraphState) -> bool {
    matches!(&*state.terms, [(term, Chain::Map { map, norm: None, .. })]
        if term.weight.is_one() && map.packs())
}

/// Do all stages of a chain fit into an image's lanes?
fn fits(chain: &Chain, packing: Packing) -> bool {
    match chain {
        Chain::Identity { .. } | Chain::Pool { .. } => true,
        Chain::Map { map, .. } => map.is_lanewise(),
        Chain::Convs(stages) => stages.iter().all(|s| {
            let code = matches!(s.conv, Conv::Function { .. });
            Packing::of(s.output.0) == packing && !code
        }),
    }
}

impl State {
    /// How many images must be worked on together, for all that waits for this state.
    pub(super) fn group(&self) -> usize {
        self.group.max(self.packing.images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{GraphBuilder, Primitive, StateId, Term};

    /// A gather of `part` of 16 channels, a separable convolution of it with `out` channels, and the
    /// way back; the packings of the middle two.
    fn middle(part: usize, inner: usize, exported: bool, reader: bool) -> [usize; 2] {
        let mut b = GraphBuilder::new(16, 4, 4);
        let pointwise = |out| Primitive::Pointwise { out, stride: 1, weight: 0 };
        let term = |input: StateId, chain| Term { input: vec![input], chain, weight: Weight::One };
        let below = b.state(vec![term(b.input(), vec![pointwise(16)])]).expect("a state");
        let active = b.gather(&[below], &(0..part).collect::<Vec<_>>()).expect("a gather");
        let chain = vec![pointwise(inner), Primitive::Relu, pointwise(part)];
        let sum = b.state(vec![term(active, chain), term(active, vec![])]).expect("a state");
        let channels: Vec<usize> = (0..16).collect();
        let joined = b.gather(&[sum, below], &channels).expect("a gather");
        if reader {
            b.state(vec![term(sum, vec![pointwise(20)])]).expect("a state");
        }
        let states = if exported { vec![joined, active] } else { vec![joined] };
        b.export(Export::Pooled { states, relu: false });
        let found = packings(&b.finish().expect("a graph"));
        assert!([0, below.index(), joined.index()].iter().all(|s| !found[*s].is_packed()));
        [active, sum].map(|s| found[s.index()].images)
    }

    #[test]
    fn few_channels_share_registers() {
        assert_eq!(middle(4, 4, false, false), [4, 4]);
        assert_eq!(middle(3, 4, false, false), [4, 4]);
        assert_eq!(middle(8, 5, false, false), [2, 2]);
        assert_eq!(middle(1, 1, false, false), [16, 16]);
        // Too many channels at the ends or between them; read as images by an export or a sum.
        assert_eq!(middle(12, 12, false, false), [1, 1]);
        assert_eq!(middle(4, 5, false, false), [1, 1]);
        assert_eq!(middle(4, 4, true, false), [1, 1]);
        assert_eq!(middle(4, 4, false, true), [1, 1]);
    }
}
