//! Random numbers: Philox4x32-10 (Salmon et al., SC 2011), counter-based.
//!
//! A number is a pure function of (seed, level, purpose, role, step, index). Nothing is carried
//! from call to call, so a resumed run, another thread count or another device draws the same
//! numbers, and passes that must share a draw (METHODS.md §1.2, common random numbers) share it by
//! naming the same key.

pub use tetlo_plugin::Stream;

/// What a stream of numbers is used for. The discriminants are part of the results: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum Purpose {
    /// Initial weights.
    Weights = 1,
    /// Initial architecture parameters.
    Architecture = 2,
    /// Splitting a data set.
    Split = 3,
    /// The order of the images in an epoch.
    Shuffle = 4,
    /// Crops, flips, cut-outs.
    Augment = 5,
    /// Quadruples and other draws of a transfer loss.
    Transfer = 6,
    /// Stochastic relaxations and noise operations.
    Relaxation = 7,
    /// Drop-path and dropout.
    DropPath = 8,
    /// Sampling genotypes.
    Sample = 9,
    /// Permutation of the placebo (`control = "shuffled"`).
    Placebo = 10,
    /// Statistics (bootstrap).
    Statistics = 11,
    /// Built-in check problems.
    Problem = 12,
    /// Operations written as tensor code.
    Operation = 13,
}

/// Names a stream of random numbers. Two equal keys give the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The trial's seed.
    pub seed: u64,
    /// The level (stage) that draws; 0 for what belongs to no level.
    pub level: u16,
    /// What the numbers are for.
    pub purpose: Purpose,
    /// Which batch they belong to (training, validation, transfer …), free for the caller.
    pub role: u32,
    /// The step or epoch.
    pub step: u32,
}

impl Key {
    /// A key with level, role and step zero.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        Self { seed, level: 0, purpose, role: 0, step: 0 }
    }

    /// The same for another level.
    #[must_use]
    pub fn level(self, level: usize) -> Self {
        Self { level: level as u16, ..self }
    }

    /// The same for another role.
    #[must_use]
    pub fn role(self, role: u32) -> Self {
        Self { role, ..self }
    }

    /// The same for another step.
    #[must_use]
    pub fn step(self, step: usize) -> Self {
        Self { step: step as u32, ..self }
    }

    /// The same for another purpose.
    #[must_use]
    pub fn purpose(self, purpose: Purpose) -> Self {
        Self { purpose, ..self }
    }

    /// The stream of this key, from its beginning.
    pub fn stream(self) -> Stream {
        let place = (u32::from(self.level) << 16) | self.purpose as u32;
        Stream::new([self.seed as u32, (self.seed >> 32) as u32], [0, self.step, place, self.role])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_streams() {
        let key = Key::new(7, Purpose::Shuffle).step(3);
        assert_eq!(key.stream().permutation(50), key.stream().permutation(50));
        assert_ne!(key.stream().permutation(50), key.step(4).stream().permutation(50));
        assert_ne!(key.stream().permutation(50), key.level(1).stream().permutation(50));
        assert_ne!(key.stream().permutation(50), key.role(1).stream().permutation(50));
    }

    #[test]
    fn moments() {
        let mut s = Key::new(1, Purpose::Weights).stream();
        let n = 200_000;
        let (mut sum, mut squares, mut uniform) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let z = s.normal();
            sum += z;
            squares += z * z;
            uniform += s.uniform();
        }
        let n = f64::from(n);
        // Four standard errors.
        assert!((sum / n).abs() < 4.0 / n.sqrt());
        assert!((squares / n - 1.0).abs() < 4.0 * (2.0 / n).sqrt());
        assert!((uniform / n - 0.5).abs() < 4.0 / (12.0 * n).sqrt());
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[s.below(6)] += 1;
        }
        assert!(counts.iter().all(|c| (9_600..10_400).contains(c)), "{counts:?}");
    }
}
