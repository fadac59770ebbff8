//! Random numbers: Philox4x32-10 (Salmon et al., SC 2011), counter-based.

/// A sequence of random numbers; its position is a value, and that of the C interface.
#[repr(C)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: u32,
}

impl Stream {
    /// The stream of a key, from the block with this counter.
    pub fn new(key: [u32; 2], counter: [u32; 4]) -> Self {
        Self { key, counter, block: [0; 4], used: 4 }
    }

    /// A stream at a position: key, counter of the next block, block, and how much of it is used.
    pub fn at(state: [u32; 11]) -> Self {
        let [k0, k1, c0, c1, c2, c3, b0, b1, b2, b3, used] = state;
        Self { key: [k0, k1], counter: [c0, c1, c2, c3], block: [b0, b1, b2, b3], used }
    }

    /// Its position, as [`Stream::at`] takes it.
    pub fn state(&self) -> [u32; 11] {
        let ([k0, k1], [c0, c1, c2, c3], [b0, b1, b2, b3]) = (self.key, self.counter, self.block);
        [k0, k1, c0, c1, c2, c3, b0, b1, b2, b3, self.used]
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used >= 4 {
            self.block = philox4x32_10(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used as usize - 1]
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
    fn a_position_is_a_value() {
        let mut stream = Stream::new([1, 2], [3, 4, 5, 6]);
        stream.next_u32();
        let mut again = Stream::at(stream.state());
        let mut other = stream.clone();
        assert!((0..9).all(|_| again.next_u32() == other.next_u32()));
        assert_eq!(again, other);
    }
}
