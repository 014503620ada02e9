//! The choice of the next token among the most likely ones.

/// How many candidates the device hands over when the choice is random.
const CANDIDATES: u32 = 64;

/// Chooses tokens: always the likeliest at temperature 0, else at random by likelihood.
pub struct Sampler {
    temperature: f32,
    state: u64,
}

impl Sampler {
    /// `temperature` divides the logits; the same `seed` makes the same choices.
    pub fn new(temperature: f32, seed: u64) -> Self {
        Self {
            temperature,
            state: seed,
        }
    }

    /// Candidates that [`Sampler::choose`] wants of a vocabulary of `vocab`.
    pub fn candidates(&self, vocab: u32) -> u32 {
        if self.temperature == 0.0 {
            1
        } else {
            CANDIDATES.min(vocab)
        }
    }

    /// One of the candidates: the index into their logits, which fall from the first on.
    pub fn choose(&mut self, logits: &[f32]) -> usize {
        if self.temperature == 0.0 || logits.is_empty() {
            return 0;
        }
        let temperature = self.temperature;
        let weight = |l: f32| f64::from((l - logits[0]) / temperature).exp();
        let sum: f64 = logits.iter().map(|&l| weight(l)).sum();
        let mut left = self.uniform() * sum;
        for (i, &l) in logits.iter().enumerate() {
            left -= weight(l);
            if left < 0.0 {
                return i;
            }
        }
        0
    }

    /// Uniform in [0, 1): SplitMix64 (Steele, Lea, Flood 2014).
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first() {
        let mut s = Sampler::new(0.0, 1);
        assert_eq!(s.candidates(1000), 1);
        assert_eq!(s.choose(&[3.0, 2.9]), 0);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [2.0f32, 1.0, 0.0, -30.0];
        let mut s = Sampler::new(2.0, 7);
        let mut counts = [0u32; 4];
        for _ in 0..40_000 {
            counts[s.choose(&logits)] += 1;
        }
        let weights: Vec<f64> = logits.iter().map(|l| (f64::from(*l) / 2.0).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (count, w) in counts.iter().zip(&weights) {
            let got = f64::from(*count) / 40_000.0;
            assert!((got - w / sum).abs() < 0.01, "{got} for {}", w / sum);
        }
    }

    #[test]
    fn a_seed_repeats() {
        let run = |seed| {
            let mut s = Sampler::new(1.0, seed);
            (0..32).map(|_| s.choose(&[0.0; 64])).collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
