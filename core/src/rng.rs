//! Random numbers: Philox4x32-10 (Salmon et al., SC 2011), counter-based.
//!
//! A number is a pure function of (seed, level, purpose, role, step, index). Nothing is carried
//! from call to call, so a resumed run, another thread count or another device draws the same
//! numbers, and passes that must share a draw (METHODS.md §1.2, common random numbers) share it by
//! naming the same key.

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
        Stream {
            key: [self.seed as u32, (self.seed >> 32) as u32],
            counter: [0, self.step, place, self.role],
            block: [0; 4],
            used: 4,
        }
    }
}

/// A sequence of random numbers; its position is a value.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Stream {
    /// Its whole state, from which another implementation can go on: the key (2 numbers), the counter
    /// of the next block (4), the block at hand (4), and how many of its numbers are used.
    pub fn state(&self) -> [u32; 11] {
        let ([k, l], [a, b, c, d], [w, x, y, z]) = (self.key, self.counter, self.block);
        [k, l, a, b, c, d, w, x, y, z, self.used as u32]
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox4x32_10(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | (u64::from(self.next_u32()) << 32)
    }

    /// Uniform on [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform on 0..n without bias (rejection, Lemire 2019). `n` must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0 && u32::try_from(n).is_ok(), "a range of 1 to 2^32 - 1 values");
        let n = n as u32;
        let reject_under = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            if product as u32 >= reject_under {
                return (product >> 32) as usize;
            }
        }
    }

    /// Standard normal (Box and Muller; the second value of each pair is not used).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// A random permutation of 0..n.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }
}

/// One block of Philox4x32 with 10 rounds.
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIER: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for _ in 0..10 {
        let a = MULTIPLIER[0] * u64::from(counter[0]);
        let b = MULTIPLIER[1] * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers shipped with Random123 (`kat_vectors`).
    #[test]
    fn philox_known_answers() {
        let zero = philox4x32_10([0; 4], [0; 2]);
        assert_eq!(zero, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox4x32_10([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox4x32_10(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
        );
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

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
