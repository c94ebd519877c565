//! Preparation of jobs: tokenizes the text, and checks the job against the limits of the decoder.

use std::time::Instant;

use super::{Engine, Image, JobError, PreparedJob, RankJob, ScoreJob, Shared};
use crate::generation::Task;
use crate::text::{PromptWarning, diagnose};

/// The most candidates of a ranking. Each is a text that must be tokenized.
const MAX_CANDIDATES: usize = 256;

impl Engine {
    /// Tokenizes a job, and checks it against the limits of the decoder.
    ///
    /// # Errors
    /// [`JobError`] when the job can never run. The fault is the caller's.
    pub fn prepare(&self, job: &ScoreJob) -> Result<PreparedJob, JobError> {
        let (input_ids, mut warnings) = self.encode(&job.text)?;
        // Checked before the task allocates the rows: a request may ask for any number.
        let rows = job.params.rows();
        let slots = self.shared.decoder.slots;
        if rows > slots {
            return Err(JobError::TooManyRows { rows, slots });
        }
        let seed = job.params.seed.unwrap_or_else(rand::random);
        let task = Task::generate(self.prompt(&input_ids), job.params.clone(), seed);
        warnings.extend(job.params.warnings.iter().cloned());
        self.prepared(&job.image, input_ids, task, warnings, job.deadline)
    }

    pub(super) fn prepare_ranking(&self, job: &RankJob) -> Result<PreparedJob, JobError> {
        let (input_ids, warnings) = self.encode(&job.text)?;
        let candidates = self.candidates(job)?;
        let decoder = &self.shared.decoder;
        let longest = candidates.iter().map(Vec::len).max().unwrap_or(0);
        let row_len = decoder.prefix_len + input_ids.len() + longest;
        // Half of slots and memory, so that a ranking need not wait until all other jobs have
        // ended. One row always suffices.
        let rows = decoder.slots.div_ceil(2).min(decoder.kv_tokens / 2 / row_len);
        let task = Task::rank(candidates, rows);
        self.prepared(&job.image, input_ids, task, warnings, job.deadline)
    }

    /// Returns the ids of a prompt, and warnings about it.
    fn encode(&self, text: &str) -> Result<(Vec<i64>, Vec<String>), JobError> {
        let room = self.shared.decoder.max_len - self.shared.decoder.prefix_len;
        let encoded = self.shared.tokenizer.encode(text, room)?;
        let special = encoded.special_text.into_iter().map(|special| PromptWarning::SpecialText { special });
        let warnings = special.chain(diagnose(text, encoded.input_ids.len())).map(|warning| warning.to_string());
        Ok((encoded.input_ids, warnings.collect()))
    }

    /// Returns the tokens of a ranking's candidates.
    fn candidates(&self, job: &RankJob) -> Result<Vec<Vec<u32>>, JobError> {
        let count = job.candidates.len();
        if !(1..=MAX_CANDIDATES).contains(&count) {
            return Err(JobError::Candidates(format!("{count} were given; give 1 to {MAX_CANDIDATES}")));
        }
        let follows_a_word = job.text.chars().next_back().is_some_and(|last| !last.is_whitespace());
        let max_len = self.shared.decoder.max_len;
        let tokens = |(number, text): (usize, &String)| {
            if text.trim().is_empty() {
                return Err(JobError::Candidates(format!("number {number} is empty")));
            }
            let space = if follows_a_word && !text.starts_with(char::is_whitespace) { " " } else { "" };
            // Encoded like a prompt, because that bounds the work. The start token is then dropped.
            let encoded = self.shared.tokenizer.encode(&format!("{space}{text}"), max_len);
            let ids = encoded.map_err(|error| JobError::Candidates(format!("number {number}: {error}")))?.input_ids;
            let end = job.with_end_token.then(|| self.shared.tokenizer.special_ids().eos_token_id);
            Ok(ids[1..].iter().map(|id| *id as u32).chain(end).collect())
        };
        job.candidates.iter().enumerate().map(tokens).collect()
    }

    /// Returns the prompt as logits processors see it: one id for each image position, then the
    /// text.
    fn prompt(&self, input_ids: &[i64]) -> Vec<u32> {
        let image = self.shared.tokenizer.special_ids().image_token_id;
        let image = image.into_iter().flat_map(|id| vec![id; self.shared.decoder.prefix_len]);
        image.chain(input_ids.iter().map(|id| *id as u32)).collect()
    }

    fn prepared(
        &self,
        image: &Image,
        input_ids: Vec<i64>,
        task: Task,
        warnings: Vec<String>,
        deadline: Option<Instant>,
    ) -> Result<PreparedJob, JobError> {
        let Shared { decoder, limits, .. } = &*self.shared;
        let rows = task.rows();
        let max_new_tokens = task.max_new_tokens();
        let prompt_len = decoder.prefix_len + input_ids.len();
        let row_len = prompt_len.saturating_add(max_new_tokens);
        if row_len > decoder.max_len {
            return Err(JobError::TooLong { prompt_len, max_new_tokens, max_len: decoder.max_len });
        }
        if rows * row_len > decoder.kv_tokens {
            return Err(JobError::TooManyPositions { rows, row_len, kv_tokens: decoder.kv_tokens });
        }
        let deadline = deadline.unwrap_or_else(|| Instant::now() + limits.timeout);
        Ok(PreparedJob { image: image.clone(), input_ids, task, warnings, deadline })
    }
}
