//! One answer in the making: it takes the logits of each step, and says which token comes next or why it ended.

use serde::Serialize;

use super::GenerationParams;
use super::greedy::argmax;
use super::processors::{History, process};

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StopReason {
    /// The end token came.
    Eos,
    /// `max_new_tokens` were written.
    Length,
}

/// Logits that no token can be chosen from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GenerationError {
    /// NaN, or nothing above −∞.
    #[error("the logits for new token {position} hold no usable number")]
    NotFinite {
        /// Which new token, from 0.
        position: usize,
    },
}

/// A row: the ids so far, the new ones among them, and their log-probabilities.
#[derive(Debug, Clone)]
pub struct Row {
    params: GenerationParams,
    eos_token_id: u32,
    ids: Vec<u32>,
    prompt_len: usize,
    logprobs: Vec<f32>,
}

impl Row {
    /// A row that holds its prompt: the image positions' id (if the checkpoint has one), then the text's.
    #[must_use]
    pub fn new(prompt: Vec<u32>, eos_token_id: u32, params: GenerationParams) -> Self {
        Self { params, eos_token_id, prompt_len: prompt.len(), ids: prompt, logprobs: Vec::new() }
    }

    /// Chooses the next token from `logits [vocab]`, as the model wrote them, and appends it.
    ///
    /// # Errors
    /// [`GenerationError::NotFinite`] when no token can be chosen; the row is as before.
    pub fn accept(&mut self, logits: &[f32]) -> Result<Option<StopReason>, GenerationError> {
        let mut scores = logits.to_vec();
        let history = History { ids: &self.ids, new_tokens: self.new_tokens(), eos_token_id: self.eos_token_id };
        process(&mut scores, history, &self.params);
        let chosen = argmax(&scores).ok_or(GenerationError::NotFinite { position: self.new_tokens() })?;
        // From the model's own logits, so that it says what the model believes, whatever the processors forbade.
        self.logprobs.push(log_probability(logits, chosen));
        self.ids.push(chosen as u32);
        Ok(self.stop_reason())
    }

    /// The newest token: what the next step feeds.
    #[must_use]
    pub fn newest(&self) -> u32 {
        self.ids.last().copied().unwrap_or_default()
    }

    /// The new tokens, the end token included if it came.
    #[must_use]
    pub fn token_ids(&self) -> &[u32] {
        &self.ids[self.prompt_len..]
    }

    /// For each new token the natural log of its probability.
    #[must_use]
    pub fn logprobs(&self) -> &[f32] {
        &self.logprobs
    }

    /// Sum of the log-probabilities over length to the power of `length_penalty`; with the default of 1, their mean.
    #[must_use]
    pub fn score(&self) -> f32 {
        let length = self.logprobs.len().max(1) as f32;
        self.logprobs.iter().sum::<f32>() / length.powf(self.params.length_penalty)
    }

    fn new_tokens(&self) -> usize {
        self.ids.len() - self.prompt_len
    }

    fn stop_reason(&self) -> Option<StopReason> {
        if self.newest() == self.eos_token_id {
            Some(StopReason::Eos)
        } else if self.new_tokens() >= self.params.max_new_tokens {
            Some(StopReason::Length)
        } else {
            None
        }
    }
}

/// The log of the softmax of `logits` at `index`. Summed in f64: 50,000 terms in f32 would cost digits that the goldens have.
fn log_probability(logits: &[f32], index: usize) -> f32 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
    (f64::from(logits[index] - highest) - sum.ln()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::GenerationDefaults;

    const EOS: u32 = 2;

    fn row(max_new_tokens: usize) -> Row {
        Row::new(vec![1, 0], EOS, GenerationParams::new(GenerationDefaults { max_new_tokens }))
    }

    #[test]
    fn the_end_token_ends_a_row_and_belongs_to_it() {
        let mut row = row(5);
        assert_eq!(row.accept(&[0.0, 1.0, 0.0]), Ok(None));
        assert_eq!(row.accept(&[0.0, 0.0, 1.0]), Ok(Some(StopReason::Eos)));
        assert_eq!(row.token_ids(), [1, EOS]);
    }

    #[test]
    fn an_end_token_in_the_prompt_ends_nothing_and_the_length_does() {
        let params = GenerationParams::new(GenerationDefaults { max_new_tokens: 1 });
        let mut row = Row::new(vec![EOS], EOS, params);
        assert_eq!(row.accept(&[1.0, 0.0, 0.0]), Ok(Some(StopReason::Length)));
    }

    #[test]
    fn logprobs_come_from_the_unprocessed_logits() {
        let mut row = row(1);
        row.params.min_new_tokens = 1; // forbids the likeliest token
        row.accept(&[0.0, 0.0, 3.0]).unwrap();
        let expected = -(2.0 + 3f32.exp()).ln();
        assert_eq!(row.token_ids(), [0]);
        assert!((row.logprobs()[0] - expected).abs() < 1e-6);
    }

    #[test]
    fn score_divides_by_length_to_the_penalty() {
        let mut row = row(2);
        row.accept(&[0.0, 0.0, -9.0]).unwrap();
        row.accept(&[0.0, 0.0, -9.0]).unwrap();
        let sum: f32 = row.logprobs().iter().sum();
        assert!((row.score() - sum / 2.0).abs() < 1e-7);
        row.params.length_penalty = 0.0;
        assert!((row.score() - sum).abs() < 1e-7);
    }

    #[test]
    fn nan_is_an_error_and_leaves_the_row_as_it_was() {
        let mut row = row(2);
        assert_eq!(row.accept(&[f32::NAN, 0.0, 0.0]), Err(GenerationError::NotFinite { position: 0 }));
        assert!(row.token_ids().is_empty());
    }

    #[test]
    fn large_logits_do_not_overflow() {
        assert_eq!(log_probability(&[1e30, 0.0], 0), 0.0);
    }
}
