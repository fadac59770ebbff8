//! Times a first-order search step of the DARTS supernet: eight operations on every edge, through
//! one candle operation. `darts_step [channels layers nodes batch image threads repetitions factor]`;
//! with a factor K > 1 the operations see one channel in K, as in PC-DARTS.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark")]

use std::time::Instant;

use candle_core::{D, Device, Result, Tensor, Var};
use tetlo_kernels::{
    Affine, Export, GraphBuilder, Map, MaxPool2x2, Mode, Network, Primitive, StateId, Term, Weight,
    set_threads,
};

const OPERATIONS: usize = 8;

/// Places of the parameters in the flat vectors.
#[derive(Default)]
struct Offsets {
    weights: usize,
    statistics: usize,
}

impl Offsets {
    fn weights(&mut self, len: usize) -> usize {
        self.weights += len;
        self.weights - len
    }
    fn norm(&mut self, channels: usize) -> Primitive {
        self.statistics += 2 * channels;
        Primitive::BatchNorm { affine: None, statistics: self.statistics - 2 * channels }
    }
    fn pointwise(&mut self, from: usize, out: usize) -> Vec<Primitive> {
        let weight = self.weights(from * out);
        vec![Primitive::Relu, Primitive::Pointwise { out, stride: 1, weight }, self.norm(out)]
    }
    fn reduce(&mut self, from: usize, out: usize) -> Vec<Primitive> {
        let even = self.weights(out / 2 * from);
        let odd = self.weights((out - out / 2) * from);
        vec![Primitive::Relu, Primitive::FactorizedReduce { out, even, odd }, self.norm(out)]
    }
    fn depthwise(
        &mut self,
        c: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
    ) -> Vec<Primitive> {
        let weight = self.weights(c * kernel * kernel);
        let pointwise = self.weights(c * c);
        vec![
            Primitive::Relu,
            Primitive::Depthwise { kernel, stride, dilation, weight },
            Primitive::Pointwise { out: c, stride: 1, weight: pointwise },
            self.norm(c),
        ]
    }
    fn edge(&mut self, c: usize, stride: usize) -> Vec<(usize, Vec<Primitive>)> {
        let separable = |o: &mut Self, kernel| {
            let mut chain = o.depthwise(c, kernel, stride, 1);
            chain.extend(o.depthwise(c, kernel, 1, 1));
            chain
        };
        vec![
            (1, vec![Primitive::MaxPool { stride }, self.norm(c)]),
            (2, vec![Primitive::AvgPool { stride }, self.norm(c)]),
            (3, if stride == 1 { vec![] } else { self.reduce(c, c) }),
            (4, separable(self, 3)),
            (5, separable(self, 5)),
            (6, self.depthwise(c, 3, stride, 2)),
            (7, self.depthwise(c, 5, stride, 2)),
        ]
    }
}

struct Supernet {
    network: Network,
    weights: usize,
    ops: usize,
    edges: usize,
    features: usize,
}

fn term(input: &[StateId], chain: Vec<Primitive>, weight: Weight) -> Term {
    Term { input: input.to_vec(), chain, weight }
}

fn supernet(
    mut c: usize,
    layers: usize,
    nodes: usize,
    image: usize,
    factor: usize,
) -> tetlo_kernels::Result<Supernet> {
    let mut b = GraphBuilder::new(3, image, image);
    let mut o = Offsets::default();
    let edges = nodes * (nodes + 3) / 2;
    let stem_weight = o.weights(3 * c * 27);
    let affine = Some(Affine { gamma: o.weights(3 * c), beta: o.weights(3 * c) });
    let Primitive::BatchNorm { statistics, .. } = o.norm(3 * c) else { unreachable!() };
    let stem = b.state(vec![term(
        &[b.input()],
        vec![
            Primitive::Dense { kernel: 3, stride: 1, out: 3 * c, weight: stem_weight },
            Primitive::BatchNorm { affine, statistics },
        ],
        Weight::One,
    )])?;
    let (mut before, mut last, mut reduced) = (vec![stem], vec![stem], false);
    for layer in 0..layers {
        let reduce = layer == layers / 3 || layer == 2 * layers / 3;
        c *= if reduce { 2 } else { 1 };
        let channels = |b: &GraphBuilder, s: &[StateId]| s.iter().map(|s| b.shape(*s).0).sum();
        let from = channels(&b, &before);
        let chain = if reduced { o.reduce(from, c) } else { o.pointwise(from, c) };
        let mut states = vec![b.state(vec![term(&before, chain, Weight::One)])?];
        let chain = o.pointwise(channels(&b, &last), c);
        states.push(b.state(vec![term(&last, chain, Weight::One)])?);
        let (mut row, mut active) = (0, Vec::new());
        for node in 0..nodes {
            let (mut terms, mut past) = (Vec::new(), Vec::new());
            for (j, source) in states[..node + 2].iter().enumerate() {
                let stride = if reduce && j < 2 { 2 } else { 1 };
                if factor > 1 && active.len() == j {
                    active.push(b.gather(&[*source], &(0..c / factor).collect::<Vec<_>>())?);
                }
                let input = if factor > 1 { active[j] } else { *source };
                for (op, chain) in o.edge(c / factor, stride) {
                    let index = (usize::from(reduce) * edges + row) * OPERATIONS + op;
                    terms.push(term(&[input], chain, Weight::Shared(index)));
                }
                let pool = vec![Primitive::Map(Map::MaxPool2x2(MaxPool2x2))];
                let chain = if stride == 2 { pool } else { vec![] };
                let weight =
                    Weight::Shared(2 * edges * OPERATIONS + usize::from(reduce) * edges + row);
                past.push(term(&[*source], chain, weight));
                row += 1;
            }
            let mixed = b.state(terms)?;
            states.push(if factor > 1 {
                let past = b.state(past)?;
                let part = c / factor;
                let joined = |k: usize| if k < part { k } else { k + part };
                let shuffled = (0..c).map(|k| joined(k % factor * part + k / factor));
                b.gather(&[mixed, past], &shuffled.collect::<Vec<_>>())?
            } else {
                mixed
            });
        }
        before = last;
        last = states.split_off(2);
        reduced = reduce;
    }
    b.export(Export::Pooled { states: last, relu: false });
    let network = Network::new(b.finish()?);
    Ok(Supernet {
        network,
        weights: o.weights,
        ops: 2 * edges * OPERATIONS,
        edges: 2 * edges,
        features: nodes * c,
    })
}

/// Milliseconds of wall time, or (with `CPU_TIME` set, on Linux) of this thread: for machines that
/// are shared.
struct Clock(Instant, Option<f64>);

impl Clock {
    fn cpu() -> Option<f64> {
        std::env::var_os("CPU_TIME")?;
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        Some(text.split(' ').next()?.parse::<f64>().ok()? / 1e6)
    }
    fn start() -> Self {
        Self(Instant::now(), Self::cpu())
    }
    fn elapsed(&self) -> f64 {
        match (self.1, Self::cpu()) {
            (Some(start), Some(now)) => now - start,
            _ => self.0.elapsed().as_secs_f64() * 1e3,
        }
    }
}

/// Uniform in -1..1.
fn random(seed: u64) -> impl FnMut() -> f32 {
    let mut s = seed;
    move || {
        s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (s >> 40) as f32 / 8_388_608.0 - 1.0
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> Result<()> {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let arg = |i: usize, default| given.get(i).copied().unwrap_or(default);
    let (c, layers, nodes, batch, image) =
        (arg(0, 16), arg(1, 8), arg(2, 4), arg(3, 8), arg(4, 32));
    set_threads(arg(5, 1));
    let repetitions = arg(6, 7);
    let device = &Device::Cpu;
    let net = supernet(c, layers, nodes, image, arg(7, 1))?;
    let edge_weights = Tensor::full(0.25f32, net.edges, device)?;
    let mut r = random(1);
    let classes = 10;
    let head = classes * (net.features + 1);
    let mut weights =
        Var::from_vec((0..net.weights).map(|_| 0.15 * r()).collect(), net.weights, device)?;
    let linear = Var::from_vec(
        (0..head).map(|_| 0.15 * r()).collect(),
        (net.features + 1, classes),
        device,
    )?;
    let logits_of = Var::from_vec((0..net.ops).map(|_| 1e-3 * r()).collect(), net.ops, device)?;
    let images: Vec<f32> = (0..batch * 3 * image * image).map(|_| r()).collect();
    let images = Tensor::from_vec(images, (batch, 3, image, image), device)?;
    let labels: Vec<u32> = (0..batch as u32).map(|i| i * 7 % classes as u32).collect();
    let labels = Tensor::from_vec(labels, (batch, 1), device)?;

    let loss = |weights: &Tensor, alpha: &Tensor| -> Result<Tensor> {
        let alpha = alpha.reshape(((), OPERATIONS))?;
        let exp = alpha.broadcast_sub(&alpha.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let ops = exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?.flatten_all()?;
        let ops = Tensor::cat(&[&ops, &edge_weights], 0)?;
        let features = net.network.forward(&images, weights, &ops, Mode::Train)?.exports[0].clone();
        let logits = features
            .matmul(&linear.narrow(0, 0, net.features)?)?
            .broadcast_add(&linear.narrow(0, net.features, 1)?)?;
        let logits = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
        let log_sum = logits.exp()?.sum_keepdim(D::Minus1)?.log()?;
        logits.broadcast_sub(&log_sum)?.gather(&labels, 1)?.mean_all()?.neg()
    };
    let mut momentum = vec![0.0f32; weights.elem_count()];
    let mut times: [Vec<f64>; 4] = Default::default();
    let mut last = 0.0;
    for repetition in 0..=repetitions {
        let clock = Clock::start();
        loss(&weights.detach(), &logits_of.detach())?.to_scalar::<f32>()?;
        let forward = clock.elapsed();
        let clock = Clock::start();
        loss(&weights.detach(), &logits_of)?.backward()?;
        let arch = clock.elapsed();
        let clock = Clock::start();
        let value = loss(&weights, &logits_of.detach())?;
        let gradients = value.backward()?;
        last = value.to_scalar::<f32>()?;
        let gradient = gradients.get(&weights).unwrap().to_vec1::<f32>()?;
        let weight = clock.elapsed();
        let mut values = weights.to_vec1::<f32>()?;
        let norm = gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        let scale = (5.0 / (norm + 1e-6)).min(1.0) as f32;
        for ((w, g), m) in values.iter_mut().zip(&gradient).zip(&mut momentum) {
            *m = 0.9 * *m + scale * g + 3e-4 * *w;
            *w -= 0.025 * *m;
        }
        weights = Var::from_vec(values, weights.elem_count(), device)?;
        let step = clock.elapsed();
        if repetition > 0 {
            let all = [forward, arch, weight, arch + step];
            for (times, time) in times.iter_mut().zip(all) {
                times.push(time);
            }
        }
    }
    let [forward, arch, weight, step] = times.map(median);
    println!(
        "{} weights {} forward {forward:.1} arch {arch:.1} weight {weight:.1} step {step:.1} ms, loss {last:.4}",
        net.network.simd(),
        net.weights + head,
    );
    println!("{:?}", tetlo_kernels::counters());
    Ok(())
}
