//! Arithmetic on one row of logits: finiteness, maximum, softmax, largest entries.
//!
//! Passes over the whole vocabulary are the cost of generation. So the loops keep independent
//! lanes, which the compiler turns into vector instructions, and `pulp` picks the widest that the
//! processor has. All of them give the same bits.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use pulp::{Arch, Simd, WithSimd};

/// Logits or scores from which no token can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GenerationError {
    /// The logits hold NaN or infinity.
    #[error("the model's logits for new token {position} hold NaN or infinity")]
    NotFinite {
        /// The number of the new token, from 0.
        position: usize,
    },
    /// The logits processors forbid every token.
    #[error(
        "the generation parameters forbid every token at new token {position}; relax bad_words or no_repeat_ngram_size"
    )]
    NothingAllowed {
        /// The number of the new token, from 0.
        position: usize,
    },
}

const LANES: usize = 16;

/// Returns the number to subtract from scores to get log-probabilities. `None` if a score is NaN or
/// infinite.
pub(super) fn log_normalizer(scores: &[f32]) -> Option<f32> {
    let highest = finite_maximum(scores)?;
    Some(highest + sum_of_exp(scores, highest).ln() as f32)
}

/// Returns the largest score. `None` if a score is not finite, or there is none.
fn finite_maximum(scores: &[f32]) -> Option<f32> {
    Arch::new().dispatch(FiniteMaximum(scores))
}

struct FiniteMaximum<'a>(&'a [f32]);

impl WithSimd for FiniteMaximum<'_> {
    type Output = Option<f32>;

    #[inline(always)] // otherwise it is compiled for the oldest processor
    fn with_simd<S: Simd>(self, _: S) -> Option<f32> {
        const INFINITY_BITS: i32 = 0x7f80_0000;
        let mut highest = [f32::NEG_INFINITY; LANES];
        let mut magnitude = [0_i32; LANES];
        let chunks = self.0.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for lane in 0..LANES {
                highest[lane] = if chunk[lane] > highest[lane] { chunk[lane] } else { highest[lane] };
                // The bits of positive floats are in the order of their values; infinity and NaN
                // are the largest.
                let bits = chunk[lane].abs().to_bits() as i32;
                magnitude[lane] = if bits > magnitude[lane] { bits } else { magnitude[lane] };
            }
        }
        let is_finite =
            magnitude.iter().all(|bits| *bits < INFINITY_BITS) && rest.iter().all(|score| score.is_finite());
        let highest = highest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
        (is_finite && highest > f32::NEG_INFINITY).then_some(highest)
    }
}

/// Returns the sum of exp(score − highest). Blocks are summed in f64: 50,000 terms in f32 would
/// lose digits that the goldens check.
pub(super) fn sum_of_exp(scores: &[f32], highest: f32) -> f64 {
    Arch::new().dispatch(SumOfExp { scores, highest })
}

struct SumOfExp<'a> {
    scores: &'a [f32],
    highest: f32,
}

impl WithSimd for SumOfExp<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        const BLOCK: usize = 64 * LANES;
        let Self { scores, highest } = self;
        let mut total = 0.0;
        for block in scores.chunks(BLOCK) {
            let mut sums = [0_f32; LANES];
            let chunks = block.chunks_exact(LANES);
            let rest = chunks.remainder();
            for chunk in chunks {
                for lane in 0..LANES {
                    sums[lane] += exp(chunk[lane] - highest);
                }
            }
            for sum in sums {
                total += f64::from(sum);
            }
            for score in rest {
                total += f64::from(exp(score - highest));
            }
        }
        total
    }
}

/// Returns e^`x` for `x` ≤ 0, within 2 units in the last place, and 0 below −87. The polynomial is
/// that of the Cephes library; `f32::exp` is a call, which cannot be vectorised.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding this rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let exponent = shifted - ROUND;
    let rest = clamped - exponent * 0.693_359_4 - exponent * -2.121_944_4e-4;
    let mut power = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        power = power * rest + coefficient;
    }
    let power = power * rest * rest + rest + 1.0;
    let scale = f32::from_bits(((shifted.to_bits() << 23) as i32).wrapping_add(127 << 23) as u32);
    if x > -87.0 { power * scale } else { 0.0 }
}

/// Returns the index of the largest score, the lowest index on a tie. `None` if no score is above
/// −∞.
pub(super) fn argmax(scores: &[f32]) -> Option<usize> {
    let highest = Arch::new().dispatch(Maximum(scores));
    (highest > f32::NEG_INFINITY).then(|| scores.iter().position(|score| *score == highest))?
}

struct Maximum<'a>(&'a [f32]);

impl WithSimd for Maximum<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        let mut highest = [f32::NEG_INFINITY; LANES];
        let chunks = self.0.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for lane in 0..LANES {
                highest[lane] = if chunk[lane] > highest[lane] { chunk[lane] } else { highest[lane] };
            }
        }
        highest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
    }
}

/// Returns the tokens above −∞ in the order of their ids, with their softmax as scores.
pub(super) fn probabilities(scores: &[f32]) -> Vec<Scored> {
    let Some(highest) = argmax(scores).map(|index| scores[index]) else { return Vec::new() };
    let sum = sum_of_exp(scores, highest);
    let allowed = scores.iter().enumerate().filter(|(_, score)| **score > f32::NEG_INFINITY);
    allowed.map(|(index, score)| Scored { index, score: (f64::from(score - highest).exp() / sum) as f32 }).collect()
}

/// A score and its index, ordered by score. Of equal scores the one with the lower index is the
/// larger.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scored {
    pub(super) index: usize,
    pub(super) score: f32,
}

impl Eq for Scored {}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.index.cmp(&self.index))
    }
}

/// Returns the `count` largest scores above −∞, the largest first.
pub(super) fn largest(scores: &[f32], count: usize) -> Vec<Scored> {
    if count == 0 {
        return Vec::new();
    }
    let mut heap = BinaryHeap::with_capacity(count + 1);
    let mut threshold = f32::NEG_INFINITY;
    for (index, &score) in scores.iter().enumerate() {
        if score > threshold {
            heap.push(Reverse(Scored { index, score }));
            if heap.len() > count {
                heap.pop();
            }
            if heap.len() == count {
                threshold = heap.peek().map_or(threshold, |Reverse(lowest)| lowest.score);
            }
        }
    }
    heap.into_sorted_vec().into_iter().map(|Reverse(scored)| scored).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_two_units() {
        for step in 0..870_000 {
            let x = -(step as f32) * 1e-4;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2.4e-7, "exp({x}) is off by {error}");
        }
        assert_eq!((exp(0.0), exp(-88.0), exp(-1e30)), (1.0, 0.0, 0.0));
    }

    #[test]
    fn the_normalizer_agrees_with_sums_in_f64() {
        for len in [1, 15, 16, 17, 1460, 50_304] {
            let scores: Vec<f32> = (0..len).map(|i| ((i * 7919) % 2003) as f32 / 100.0 - 10.0).collect();
            let sum: f64 = scores.iter().map(|score| f64::from(*score).exp()).sum();
            let normalizer = log_normalizer(&scores).unwrap();
            assert!((f64::from(normalizer) - sum.ln()).abs() < 2e-6, "{len}: {normalizer} for {}", sum.ln());
        }
    }

    #[test]
    fn large_logits_do_not_overflow() {
        assert_eq!(log_normalizer(&[1e30, 0.0]), Some(1e30));
    }

    #[test]
    fn nan_and_infinity_are_seen_wherever_they_stand() {
        for len in [1, 16, 20, 40] {
            for place in 0..len {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut scores = vec![1.0; len];
                    scores[place] = bad;
                    assert_eq!(log_normalizer(&scores), None, "{bad} at {place} of {len}");
                }
            }
        }
        assert_eq!(log_normalizer(&[]), None);
    }

    #[test]
    fn the_lowest_index_wins_a_tie() {
        let mut scores = vec![0.0; 50];
        scores[19] = 2.0;
        scores[33] = 2.0;
        assert_eq!(argmax(&scores), Some(19));
        assert_eq!(largest(&scores, 3).iter().map(|best| best.index).collect::<Vec<_>>(), [19, 33, 0]);
    }

    #[test]
    fn what_is_forbidden_is_never_among_the_largest() {
        let scores = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY];
        assert_eq!(largest(&scores, 3), [Scored { index: 1, score: 1.0 }]);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 3]), None);
        assert_eq!(argmax(&[]), None);
    }
}
