//! Chance that repeats itself.

use std::sync::{Mutex, PoisonError};

use pulse_kernel::Entropy;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Random bytes that are the same for the same seed. Never for anything but tests.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<StdRng>);

impl SeededEntropy {
    /// The source with this seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Default for SeededEntropy {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(source: &SeededEntropy) -> [u8; 32] {
        let mut buffer = [0; 32];
        source.fill(&mut buffer);
        buffer
    }

    #[test]
    fn the_seed_decides() {
        let (a, b) = (SeededEntropy::new(7), SeededEntropy::new(7));
        let first = bytes(&a);
        assert_eq!(first, bytes(&b));
        assert_ne!(first, bytes(&a), "it moves on");
        assert_ne!(first, bytes(&SeededEntropy::new(8)));
    }
}
