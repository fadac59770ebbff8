//! Statistics of a few numbers: a description of one method's values, paired tests of two methods.
//!
//! Comparisons have few seeds, so everything here says what few numbers can and cannot show: exact
//! p-values where they can be had, and a note where no outcome at all could have been significant.

use serde::{Deserialize, Serialize};
use statrs::function::{beta::beta_reg, erf::erfc};
use tetlo_core::rng::{Key, Purpose};

/// Resamples behind a bootstrap interval.
pub const RESAMPLES: usize = 10_000;

/// The level below which a p-value is called significant.
pub const LEVEL: f64 = 0.05;

/// Numbers closer than this, relative to the largest, are taken as equal: accuracies are counts
/// over counts, so their differences tie exactly but for the last bits.
const EQUAL: f64 = 1e-12;

/// What a handful of numbers look like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation with n − 1 in the denominator; 0 for one value.
    pub std: f64,
    /// Median.
    pub median: f64,
    /// Interquartile mean: the mean without the ⌊n/4⌋ smallest and largest (Agarwal et al. 2021).
    pub iqm: f64,
    /// 95 % percentile bootstrap interval of the mean ([`RESAMPLES`] resamples). With few values
    /// it is too narrow.
    pub ci95: [f64; 2],
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// The numbers, in the order given.
    pub values: Vec<f64>,
}

/// Describes `values`; `None` if there are none.
///
/// The bootstrap draws the same resamples for every set of the same size, so equal values give
/// equal intervals, on every machine.
///
/// ```
/// let d = tetlo_engine::statistics::describe(&[1.0, 2.0, 3.0, 10.0]).unwrap();
/// assert_eq!((d.mean, d.median, d.iqm), (4.0, 2.5, 2.5));
/// ```
pub fn describe(values: &[f64]) -> Option<Description> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let cut = sorted.len() / 4;
    Some(Description {
        mean: mean(values),
        std: standard_deviation(values),
        median: quantile(&sorted, 0.5),
        iqm: mean(&sorted[cut..sorted.len() - cut]),
        ci95: bootstrap(values),
        min,
        max,
        values: values.to_vec(),
    })
}

/// Mean, exact where all values are equal.
fn mean(values: &[f64]) -> f64 {
    let first = values[0];
    first + values.iter().map(|v| v - first).sum::<f64>() / values.len() as f64
}

/// Standard deviation with n − 1; 0 for one value.
fn standard_deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// Quantile by linear interpolation between order statistics (type 7, as `numpy.quantile`).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

fn bootstrap(values: &[f64]) -> [f64; 2] {
    let mut stream = Key::new(0, Purpose::Statistics).stream();
    let mut resample = vec![0.0; values.len()];
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for r in &mut resample {
                *r = values[stream.below(values.len())];
            }
            mean(&resample)
        })
        .collect();
    means.sort_by(f64::total_cmp);
    [quantile(&means, 0.025), quantile(&means, 0.975)]
}

/// Outcome of a paired test of a against b.
#[derive(Debug, Clone, PartialEq)]
pub struct PairedTest {
    /// The test statistic; `None` where it is not defined.
    pub statistic: Option<f64>,
    /// Two-sided p-value; `None` where it is not defined.
    pub p: Option<f64>,
    /// Effect size, positive where a is larger; `None` where it is not defined.
    pub effect: Option<f64>,
    /// What limits the outcome.
    pub note: Option<String>,
}

/// Wilcoxon's signed-rank test of pairs (a, b), two-sided.
///
/// Statistic: min(W⁺, W⁻), the rank sums of the positive and negative differences a − b; equal
/// pairs are left out. Effect: matched-pairs rank-biserial correlation
/// (W⁺ − W⁻) / (W⁺ + W⁻) (Kerby 2014).
///
/// The p-value is that of `scipy.stats.wilcoxon(a, b)`: exact up to 50 pairs, or up to 13 where
/// differences tie or vanish (exact over all sign patterns given the mid-ranks); beyond that the
/// normal approximation with the correction for ties.
pub fn wilcoxon(pairs: &[(f64, f64)]) -> PairedTest {
    if pairs.is_empty() {
        return undefined("no seed in common");
    }
    let scale = magnitude(pairs) * EQUAL;
    let mut differences: Vec<f64> =
        pairs.iter().map(|(a, b)| a - b).filter(|d| d.abs() > scale).collect();
    if differences.is_empty() {
        return PairedTest {
            statistic: Some(0.0),
            p: Some(1.0),
            effect: Some(0.0),
            note: Some("all pairs are equal".into()),
        };
    }
    differences.sort_by(|x, y| x.abs().total_cmp(&y.abs()));
    let (twice_ranks, ties) = twice_mid_ranks(&differences, scale);
    let n = differences.len();
    let total: usize = twice_ranks.iter().sum();
    let plus: usize =
        differences.iter().zip(&twice_ranks).filter(|(d, _)| **d > 0.0).map(|(_, r)| r).sum();
    let least = plus.min(total - plus);
    let plain = ties.is_empty() && n == pairs.len();
    let p = if pairs.len() <= if plain { 50 } else { 13 } {
        exact_tail(&twice_ranks, least)
    } else {
        let n = n as f64;
        let correction: f64 = ties.iter().map(|t| t * t * t - t).sum();
        let variance = (n * (n + 1.0) * (2.0 * n + 1.0) - correction / 2.0) / 24.0;
        let z = (least as f64 / 2.0 - n * (n + 1.0) / 4.0) / variance.sqrt();
        erfc(z.abs() / std::f64::consts::SQRT_2)
    };
    let smallest = 0.5f64.powi(n as i32 - 1);
    PairedTest {
        statistic: Some(least as f64 / 2.0),
        p: Some(p),
        effect: Some((2.0 * plus as f64 - total as f64) / total as f64),
        note: (smallest > LEVEL).then(|| {
            let pairs = if n == 1 { "pair" } else { "pairs" };
            format!("with {n} unequal {pairs} no two-sided p below {smallest} is possible")
        }),
    }
}

/// The largest absolute value.
fn magnitude(pairs: &[(f64, f64)]) -> f64 {
    pairs.iter().map(|(a, b)| a.abs().max(b.abs())).fold(0.0, f64::max)
}

/// Twice the mid-ranks (whole numbers) of differences sorted by size, and the sizes of the groups
/// that tie.
fn twice_mid_ranks(sorted: &[f64], tolerance: f64) -> (Vec<usize>, Vec<f64>) {
    let (mut ranks, mut ties) = (vec![], vec![]);
    while ranks.len() < sorted.len() {
        let start = ranks.len();
        let size = sorted[start..]
            .iter()
            .take_while(|d| d.abs() - sorted[start].abs() <= tolerance)
            .count();
        // Ranks start + 1 to start + size share their mean.
        ranks.extend(std::iter::repeat_n(2 * start + size + 1, size));
        if size > 1 {
            ties.push(size as f64);
        }
    }
    (ranks, ties)
}

/// min(1, 2 P(W ≤ w)) over all sign patterns, ranks and w doubled.
fn exact_tail(twice_ranks: &[usize], least: usize) -> f64 {
    // patterns[s]: how many sign patterns give a positive rank sum of s. At most 2^50: exact.
    let mut patterns = vec![0.0; twice_ranks.iter().sum::<usize>() + 1];
    patterns[0] = 1.0;
    for rank in twice_ranks {
        for s in (*rank..patterns.len()).rev() {
            patterns[s] += patterns[s - rank];
        }
    }
    let tail: f64 = patterns[..=least].iter().sum();
    (2.0 * tail * 0.5f64.powi(twice_ranks.len() as i32)).min(1.0)
}

/// The paired t-test of pairs (a, b), two-sided.
///
/// t = d̄ √n / s with the mean d̄ and the standard deviation s (n − 1) of the differences a − b;
/// p from Student's distribution with n − 1 degrees of freedom,
/// I_{ν/(ν+t²)}(ν/2, 1/2) with the regularised incomplete beta function I. Effect: `d_z` = d̄ / s.
/// It assumes normal differences, which few seeds cannot show.
pub fn paired_t(pairs: &[(f64, f64)]) -> PairedTest {
    match pairs.len() {
        0 => return undefined("no seed in common"),
        1 => return undefined("one pair has no spread"),
        _ => {}
    }
    let differences: Vec<f64> = pairs.iter().map(|(a, b)| a - b).collect();
    let (mean, std) = (mean(&differences), standard_deviation(&differences));
    let tolerance = magnitude(pairs) * EQUAL;
    if std <= tolerance {
        if mean.abs() <= tolerance {
            return PairedTest {
                statistic: Some(0.0),
                p: Some(1.0),
                effect: Some(0.0),
                note: Some("all pairs are equal".into()),
            };
        }
        return undefined("all differences are equal: t is infinite");
    }
    let freedom = (differences.len() - 1) as f64;
    let t = mean / std * (differences.len() as f64).sqrt();
    PairedTest {
        statistic: Some(t),
        p: Some(beta_reg(freedom / 2.0, 0.5, freedom / (freedom + t * t))),
        effect: Some(mean / std),
        note: (differences.len() < 5)
            .then(|| format!("{} pairs cannot show that differences are normal", pairs.len())),
    }
}

fn undefined(note: &str) -> PairedTest {
    PairedTest { statistic: None, p: None, effect: None, note: Some(note.into()) }
}

/// Holm's step-down adjustment of p-values (Holm 1979): in ascending order the i-th of m is
/// multiplied by m − i + 1, made monotone and cut at 1. The order of the input is kept.
///
/// ```
/// assert_eq!(tetlo_engine::statistics::holm(&[0.04, 0.01, 0.03]), [0.06, 0.03, 0.06]);
/// ```
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest: f64 = 0.0;
    for (i, index) in order.into_iter().enumerate() {
        largest = largest.max(p[index] * (p.len() - i) as f64).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance * b.abs().max(1e-300), "{a} is not {b}");
    }

    /// a − b are the differences.
    fn against_zero(differences: &[f64]) -> Vec<(f64, f64)> {
        differences.iter().map(|d| (*d, 0.0)).collect()
    }

    #[test]
    fn descriptions_by_hand() {
        // Mean 30/5 = 6; (−4)² + (−3)² + (−1)² + 2² + 6² = 66, 66/4 = 16.5. One value is cut on
        // each side for the interquartile mean: (3 + 5 + 8)/3.
        let d = describe(&[12.0, 3.0, 5.0, 2.0, 8.0]).unwrap();
        assert_eq!((d.mean, d.median, d.min, d.max), (6.0, 5.0, 2.0, 12.0));
        close(d.std, 16.5f64.sqrt(), 1e-15);
        close(d.iqm, 16.0 / 3.0, 1e-15);
        assert_eq!(d.values, [12.0, 3.0, 5.0, 2.0, 8.0]);
        assert!(describe(&[]).is_none());
        let one = describe(&[0.25]).unwrap();
        assert_eq!(
            (one.mean, one.std, one.median, one.iqm, one.ci95),
            (0.25, 0.0, 0.25, 0.25, [0.25, 0.25])
        );
        // A third of these in floating point is not 0.1 unless the mean is taken with care.
        let equal = describe(&[0.1; 3]).unwrap();
        assert_eq!((equal.mean.to_bits(), equal.std.to_bits()), (0.1f64.to_bits(), 0));
    }

    #[test]
    fn the_bootstrap_knows_its_distribution() {
        // Two values: the mean of a resample is 0 (1/4), 1/2 (1/2) or 1 (1/4).
        let [low, high] = describe(&[0.0, 1.0]).unwrap().ci95;
        assert_eq!((low, high), (0.0, 1.0));
        // Many values: mean ± 1.96 s/√n, up to sampling error.
        let mut stream = Key::new(5, Purpose::Problem).stream();
        let values: Vec<f64> = (0..400).map(|_| stream.normal()).collect();
        let d = describe(&values).unwrap();
        let half = 1.96 * d.std / 20.0;
        close(d.ci95[0], d.mean - half, 0.1);
        close(d.ci95[1], d.mean + half, 0.1);
        assert_eq!(describe(&values).unwrap(), d);
    }

    #[test]
    fn two_pairs_cannot_be_significant() {
        let test = wilcoxon(&[(0.9, 0.5), (0.8, 0.7)]);
        assert_eq!((test.statistic, test.p, test.effect), (Some(0.0), Some(0.5), Some(1.0)));
        assert_eq!(
            test.note.as_deref(),
            Some("with 2 unequal pairs no two-sided p below 0.5 is possible")
        );
        assert!(wilcoxon(&against_zero(&[1.0, 2.0, 3.0, 4.0, 5.0])).note.is_some()); // 1/16
        assert!(wilcoxon(&against_zero(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).note.is_none()); // 1/32
    }

    #[test]
    fn signed_ranks_by_hand() {
        // |d| ranks 1 2 3 4, negative: rank 2. W = 2; patterns with W+ <= 2: {}, {1}, {2}: 2·3/16.
        let test = wilcoxon(&against_zero(&[1.0, -2.0, 3.0, 4.0]));
        assert_eq!((test.statistic, test.p, test.effect), (Some(2.0), Some(0.375), Some(0.6)));
        // Ties share 1.5; zero is dropped: ranks 1.5 (−), 1.5, 3. W = 1.5; patterns of {1.5, 1.5, 3}
        // with sum <= 1.5: {}, {1.5}, {1.5}: 2·3/8.
        let test = wilcoxon(&against_zero(&[-1.0, 1.0, 0.0, 2.0]));
        assert_eq!((test.statistic, test.p, test.effect), (Some(1.5), Some(0.75), Some(0.5)));
        // Accuracies on 1000 images: 0.003 and 0.003 tie although their last bits differ.
        let pairs = [(0.563, 0.56), (0.297, 0.3), (0.9, 0.8)];
        assert_ne!((0.563 - 0.56f64).to_bits(), (0.3 - 0.297f64).to_bits());
        assert_eq!(wilcoxon(&pairs).statistic, Some(1.5));
    }

    #[test]
    fn nothing_to_test_is_said() {
        for test in [wilcoxon(&[]), paired_t(&[])] {
            assert_eq!((test.p, test.note.as_deref()), (None, Some("no seed in common")));
        }
        for test in [wilcoxon(&[(0.5, 0.5); 3]), paired_t(&[(0.5, 0.5); 3])] {
            assert_eq!((test.p, test.effect), (Some(1.0), Some(0.0)));
        }
        assert_eq!(paired_t(&[(0.5, 0.4)]).note.as_deref(), Some("one pair has no spread"));
        // 0.85 − 0.84 and 0.84 − 0.83 differ in the last bits only: no evidence of a spread.
        let test = paired_t(&[(0.85, 0.84), (0.84, 0.83)]);
        assert_eq!(
            (test.p, test.note.as_deref()),
            (None, Some("all differences are equal: t is infinite"))
        );
    }

    #[test]
    fn student_with_one_and_two_degrees_of_freedom() {
        // One degree: Cauchy, p = 1 − 2/π·atan t. Differences 1, 3: mean 2, std √2, t = 2.
        let test = paired_t(&against_zero(&[1.0, 3.0]));
        close(test.statistic.unwrap(), 2.0, 1e-14);
        close(test.p.unwrap(), 1.0 - 2.0 / std::f64::consts::PI * 2f64.atan(), 1e-12);
        close(test.effect.unwrap(), 2f64.sqrt(), 1e-14);
        // Two degrees: p = 1 − t/√(2 + t²). Differences −1, 0, 4: mean 1, s² = 7, t = √(3/7).
        let t = (3.0f64 / 7.0).sqrt();
        let test = paired_t(&against_zero(&[-1.0, 0.0, 4.0]));
        close(test.statistic.unwrap(), t, 1e-14);
        close(test.p.unwrap(), 1.0 - t / (2.0 + t * t).sqrt(), 1e-12);
    }

    #[test]
    fn holm_by_hand() {
        // Sorted 0.005 0.01 0.03 0.04 times 4 3 2 1 = 0.02 0.03 0.06 0.04, made monotone.
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (a, b) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            close(*a, b, 1e-15);
        }
        assert_eq!(holm(&[0.5, 0.9]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    /// The answers of `scipy.stats` (`tests/fixtures/scripts/statistics_reference.py`).
    #[test]
    fn scipy_agrees() {
        #[derive(Deserialize)]
        struct Fixture {
            samples: Vec<Sample>,
            pairs: Vec<Pair>,
            holm: Vec<Family>,
        }
        #[derive(Deserialize)]
        struct Sample {
            values: Vec<f64>,
            mean: f64,
            std: f64,
            median: f64,
            iqm: f64,
        }
        #[derive(Deserialize)]
        struct Pair {
            a: Vec<f64>,
            b: Vec<f64>,
            wilcoxon: Outcome,
            ttest: Outcome,
        }
        #[derive(Deserialize)]
        struct Outcome {
            statistic: Option<f64>,
            p: Option<f64>,
        }
        #[derive(Deserialize)]
        struct Family {
            p: Vec<f64>,
            adjusted: Vec<f64>,
        }
        let text = include_str!("../../../tests/fixtures/statistics.json");
        let fixture: Fixture = serde_json::from_str(text).unwrap();
        assert!(fixture.samples.len() >= 8 && fixture.pairs.len() >= 9 && fixture.holm.len() >= 6);
        for sample in fixture.samples {
            let d = describe(&sample.values).unwrap();
            close(d.mean, sample.mean, 1e-13);
            assert!((d.std - sample.std).abs() < 1e-12);
            close(d.median, sample.median, 1e-13);
            close(d.iqm, sample.iqm, 1e-13);
        }
        for pair in fixture.pairs {
            let pairs: Vec<_> = pair.a.into_iter().zip(pair.b).collect();
            for (ours, scipy) in [(wilcoxon(&pairs), pair.wilcoxon), (paired_t(&pairs), pair.ttest)]
            {
                match (scipy.statistic, scipy.p) {
                    (Some(statistic), Some(p)) => {
                        assert!((ours.statistic.unwrap() - statistic).abs() < 1e-9, "{pairs:?}");
                        close(ours.p.unwrap(), p, 1e-9);
                    }
                    // SciPy has no answer: ours says why.
                    _ => assert!(ours.note.unwrap().contains("equal"), "{pairs:?}"),
                }
            }
        }
        for family in fixture.holm {
            for (ours, scipy) in holm(&family.p).iter().zip(&family.adjusted) {
                close(*ours, *scipy, 1e-13);
            }
        }
    }

    /// `scipy.stats.wilcoxon(d)`, version 1.17.1, on either side of the exact range.
    #[test]
    fn scipy_agrees_on_many_pairs() {
        let plain = |n: i32| -> Vec<f64> {
            (0..n).map(|i| f64::from(7 * i % 23) - 9.5 + f64::from(i) / 100.0).collect()
        };
        let tied = |n: i32| -> Vec<f64> { (0..n).map(|i| f64::from(5 * i % 11) - 4.0).collect() };
        for (differences, statistic, p) in [
            (plain(40), 288.0, 0.102_890_670_403_212_43),
            (plain(60), 660.0, 0.060_489_486_634_613_454),
            (tied(13), 31.0, 0.564_453_125),
            (tied(20), 51.0, 0.131_590_600_624_398_9),
        ] {
            let test = wilcoxon(&against_zero(&differences));
            assert_eq!(test.statistic, Some(statistic));
            close(test.p.unwrap(), p, 1e-9);
        }
    }
}
