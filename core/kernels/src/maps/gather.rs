//! Channels of some states in another order: slices, concatenations and shuffles are all this.

use std::sync::Arc;

use super::{INPUTS, MapPrimitive, Plane};
use crate::graph::Shape;
use crate::reference::{Images, Scalar};
use crate::simd::{LANES, Simd};

/// Output channel k is channel `channels[k]` of the concatenated inputs. No channel is taken twice, so
/// that the gradient is a gather too; those left out get none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gather(Arc<Tables>);

#[derive(Debug, PartialEq, Eq)]
struct Tables {
    /// Channels of each input.
    inputs: Vec<usize>,
    channels: Vec<usize>,
    /// Of each output block: what it is made of.
    forward: Vec<Vec<Piece>>,
    /// Of each input and block: what its gradient is made of.
    backward: Vec<Vec<Vec<Piece>>>,
}

/// Lanes of one block that go to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// The input it is read from (0 for gradients).
    input: usize,
    block: usize,
    /// The lane that each lane takes, or -1.
    lanes: [i32; LANES],
}

impl Gather {
    /// Largest number of states that one gather reads.
    pub const MOST_INPUTS: usize = INPUTS;

    /// A gather from states with these numbers of channels; `channels` are places in their
    /// concatenation.
    ///
    /// # Errors
    /// A channel is taken twice or does not exist, or there are none.
    pub fn new(inputs: &[usize], channels: &[usize]) -> Result<Self, String> {
        if inputs.is_empty() || channels.is_empty() {
            return Err("a gather needs an input and a channel".into());
        }
        // Where each channel of the concatenation lies: input, block, lane.
        let places: Vec<(usize, usize, usize)> = inputs
            .iter()
            .enumerate()
            .flat_map(|(i, n)| (0..*n).map(move |c| (i, c / LANES, c % LANES)))
            .collect();
        let mut taken = vec![false; places.len()];
        let blocks = |n: &usize| n.div_ceil(LANES);
        let mut forward = vec![Vec::new(); blocks(&channels.len())];
        let mut backward: Vec<Vec<_>> =
            inputs.iter().map(|n| vec![Vec::new(); blocks(n)]).collect();
        for (k, &c) in channels.iter().enumerate() {
            let Some(&(input, block, lane)) = places.get(c) else {
                return Err(format!(
                    "channel {c} does not exist: the inputs have {}",
                    places.len()
                ));
            };
            if std::mem::replace(&mut taken[c], true) {
                return Err(format!("channel {c} is taken twice"));
            }
            set(&mut forward[k / LANES], (input, block), k % LANES, lane);
            set(&mut backward[input][block], (0, k / LANES), lane, k % LANES);
        }
        let (inputs, channels) = (inputs.to_vec(), channels.to_vec());
        Ok(Self(Arc::new(Tables { inputs, channels, forward, backward })))
    }
}

/// Lane `to` takes lane `from` of a block.
fn set(pieces: &mut Vec<Piece>, (input, block): (usize, usize), to: usize, from: usize) {
    let known = pieces.iter().position(|p| (p.input, p.block) == (input, block));
    let at = known.unwrap_or_else(|| {
        pieces.push(Piece { input, block, lanes: [-1; LANES] });
        pieces.len() - 1
    });
    pieces[at].lanes[to] = from as i32;
}

/// The same lanes of an image that starts at another lane, read and written.
fn shifted(lanes: &[i32; LANES], from: usize, to: usize) -> [i32; LANES] {
    let moved = |l: usize| match l.checked_sub(to).map(|l| lanes[l]) {
        Some(lane) if lane >= 0 => lane + from as i32,
        _ => -1,
    };
    std::array::from_fn(moved)
}

/// `out (+)= ` the lanes of up to `N` blocks.
#[inline(always)]
unsafe fn assemble<V: Simd, const N: usize>(
    (out, lane): (*mut f32, usize),
    pixels: usize,
    pieces: &[Piece],
    x: &[Plane],
    add: bool,
) {
    let lanes: [V::Lanes; N] = std::array::from_fn(|q| {
        V::lanes(&shifted(&pieces[q].lanes, x[pieces[q].input].lane, lane))
    });
    let from: [*const f32; N] =
        std::array::from_fn(|q| x[pieces[q].input].block(pieces[q].block).cast_const());
    for p in 0..pixels {
        let mut v = V::load(from[0].add(p * 16)).permute(lanes[0]);
        for q in 1..N {
            v = v.add(V::load(from[q].add(p * 16)).permute(lanes[q]));
        }
        if add {
            v = v.add(V::load(out.add(p * 16)));
        }
        v.store(out.add(p * 16));
    }
}

#[inline(always)]
unsafe fn all_pieces<V: Simd>(
    out: (*mut f32, usize),
    pixels: usize,
    pieces: &[Piece],
    x: &[Plane],
    mut add: bool,
) {
    for group in pieces.chunks(4) {
        match group.len() {
            1 => assemble::<V, 1>(out, pixels, group, x, add),
            2 => assemble::<V, 2>(out, pixels, group, x, add),
            3 => assemble::<V, 3>(out, pixels, group, x, add),
            _ => assemble::<V, 4>(out, pixels, group, x, add),
        }
        add = true;
    }
}

impl MapPrimitive for Gather {
    fn name(&self) -> &'static str {
        "Gather"
    }

    fn output(&self, inputs: &[Shape]) -> Result<Shape, String> {
        let channels: Vec<usize> = inputs.iter().map(|s| s.0).collect();
        if channels != self.0.inputs {
            return Err(format!(
                "a gather from states of {:?} channels was given {channels:?}",
                self.0.inputs
            ));
        }
        if inputs.len() > INPUTS {
            return Err(format!("a gather reads at most {INPUTS} states, not {}", inputs.len()));
        }
        Ok((self.0.channels.len(), inputs[0].1, inputs[0].2))
    }

    #[inline(always)]
    unsafe fn forward<V: Simd>(&self, x: &[Plane], out: Plane) {
        for (b, pieces) in self.0.forward.iter().enumerate() {
            // Images side by side: the first one clears the lanes of the others.
            let to = (out.block(b), out.lane);
            all_pieces::<V>(to, out.pixels(), pieces, x, out.lane > 0);
        }
    }

    #[inline(always)]
    unsafe fn backward<V: Simd>(&self, _x: &[Plane], g: Plane, dx: &[Plane]) {
        for (dx, blocks) in dx.iter().zip(&self.0.backward) {
            if dx.data.is_null() {
                continue;
            }
            for (b, pieces) in blocks.iter().enumerate() {
                all_pieces::<V>((dx.block(b), dx.lane), g.pixels(), pieces, &[g], true);
            }
        }
    }

    fn is_lanewise(&self) -> bool {
        false
    }

    fn packs(&self) -> bool {
        true
    }

    fn reference<T: Scalar>(&self, x: &Images<T>) -> Images<T> {
        let (n, _, h, w) = x.shape;
        let mut out = Images::zeros((n, self.0.channels.len(), h, w));
        self.moves(x, |to, from| out.data[to] = x.data[from]);
        out
    }

    fn reference_back<T: Scalar>(&self, x: &Images<T>, g: &Images<T>) -> Images<T> {
        let mut dx = Images::zeros(x.shape);
        self.moves(x, |to, from| dx.data[from] += g.data[to]);
        dx
    }
}

impl Gather {
    /// Calls `f(output, input)` for all positions.
    fn moves<T: Scalar>(&self, x: &Images<T>, mut f: impl FnMut(usize, usize)) {
        let (n, c, h, w) = x.shape;
        let (channels, pixels) = (&self.0.channels, h * w);
        for image in 0..n {
            for (k, from) in channels.iter().enumerate() {
                for p in 0..pixels {
                    f((image * channels.len() + k) * pixels + p, (image * c + from) * pixels + p);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::{Map, testing};

    fn map(inputs: &[Shape], channels: &[usize]) -> Map {
        let inputs: Vec<usize> = inputs.iter().map(|s| s.0).collect();
        Map::Gather(Gather::new(&inputs, channels).unwrap())
    }

    /// Every `step`-th channel, wrapping: all of them if `step` and the number are coprime.
    fn shuffled(inputs: &[Shape], step: usize) -> Vec<usize> {
        let n: usize = inputs.iter().map(|s| s.0).sum();
        (0..n).map(|k| k * step % n).collect()
    }

    #[test]
    fn agrees_with_the_reference() {
        for inputs in [&[(1, 1, 1)][..], &[(16, 3, 5)], &[(19, 5, 3), (4, 5, 3)]] {
            testing::check(&map(inputs, &shuffled(inputs, 1)), inputs);
            let n: usize = inputs.iter().map(|s| s.0).sum();
            testing::check(&map(inputs, &[n - 1]), inputs);
        }
        let several = [(7, 4, 3), (20, 4, 3), (33, 4, 3), (1, 4, 3), (40, 4, 3), (2, 4, 3)];
        testing::check(&map(&several, &shuffled(&several, 17)), &several);
        testing::check(&map(&several, &shuffled(&several, 17)[5..60]), &several);
    }

    #[test]
    fn by_hand() {
        let gather = Gather::new(&[2, 1], &[2, 0]).unwrap();
        let x = Images { shape: (1, 3, 1, 2), data: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] };
        assert_eq!(gather.reference(&x).data, [5.0, 6.0, 1.0, 2.0]);
        let g = Images { shape: (1, 2, 1, 2), data: vec![10.0, 20.0, 30.0, 40.0] };
        assert_eq!(gather.reference_back(&x, &g).data, [30.0, 40.0, 0.0, 0.0, 10.0, 20.0]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        assert!(Gather::new(&[2, 2], &[0, 4]).unwrap_err().contains("channel 4"));
        assert!(Gather::new(&[2, 2], &[3, 1, 3]).unwrap_err().contains("twice"));
        assert!(Gather::new(&[2], &[]).unwrap_err().contains("needs"));
        let gather = Gather::new(&[2, 2], &[0]).unwrap();
        assert!(gather.output(&[(2, 1, 1), (3, 1, 1)]).unwrap_err().contains("[2, 3]"));
    }
}
