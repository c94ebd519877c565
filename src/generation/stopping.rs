//! The conditions that end an answer: end token, stop string, length.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::Vocabulary;

/// The reason for which generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The end token was generated.
    Eos,
    /// A stop string was completed. It stays in the text, as in transformers.
    StopString,
    /// `max_new_tokens` were generated.
    Length,
}

/// The conditions of one request.
#[derive(Clone)]
pub(super) struct Stopping {
    pub(super) eos_token_id: u32,
    pub(super) max_new_tokens: usize,
    pub(super) strings: Vec<Vec<u8>>,
    /// Whether a string may have begun in the prompt.
    pub(super) may_begin_in_prompt: bool,
    pub(super) vocabulary: Arc<dyn Vocabulary>,
}

impl fmt::Debug for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopping").field("strings", &self.strings.len()).finish_non_exhaustive()
    }
}

impl Stopping {
    /// Returns whether the newest token of a row ends it, and why. Of the ids of the row, the last
    /// `new_tokens` were generated.
    pub(super) fn reason(&self, ids: &[u32], new_tokens: usize) -> Option<StopReason> {
        if ids.last() == Some(&self.eos_token_id) {
            Some(StopReason::Eos)
        } else if self.completes_a_string(if self.may_begin_in_prompt { ids } else { &ids[ids.len() - new_tokens..] }) {
            Some(StopReason::StopString)
        } else if new_tokens >= self.max_new_tokens {
            Some(StopReason::Length)
        } else {
            None
        }
    }

    /// Returns whether a stop string ends within the bytes of the newest token. Image positions and
    /// special tokens have no bytes, and are not part of any string.
    fn completes_a_string(&self, ids: &[u32]) -> bool {
        let Some(longest) = self.strings.iter().map(Vec::len).max() else { return false };
        let Some((newest, earlier)) = ids.split_last() else { return false };
        let newest = self.vocabulary.bytes(*newest);
        let mut before: Vec<&[u8]> = Vec::new();
        let mut len = 0;
        for id in earlier.iter().rev() {
            let bytes = self.vocabulary.bytes(*id);
            if bytes.is_empty() || len >= longest {
                break;
            }
            before.push(bytes);
            len += bytes.len();
        }
        let window: Vec<u8> = before.into_iter().rev().chain([newest]).flatten().copied().collect();
        self.strings.iter().any(|string| {
            let first = (len + 1).saturating_sub(string.len());
            window[first.min(window.len())..].windows(string.len()).any(|part| part == string.as_slice())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::sampling_tests::Letters;

    fn stops(text: &str, strings: &[&str]) -> bool {
        let strings = strings.iter().map(|string| string.as_bytes().to_vec()).collect();
        let vocabulary = Arc::new(Letters);
        let may_begin_in_prompt = true;
        let stopping = Stopping { eos_token_id: 0, max_new_tokens: 99, strings, may_begin_in_prompt, vocabulary };
        let ids = Letters.encode(text);
        stopping.reason(&ids, 1) == Some(StopReason::StopString)
    }

    #[test]
    fn a_string_must_end_in_the_newest_token() {
        assert!(stops("abc", &["bc"]));
        assert!(stops("abc", &["x", "abc"]));
        assert!(!stops("abcd", &["bc"]));
        assert!(!stops("bc", &["abc"]));
        assert!(!stops("abc", &[]));
    }

    #[test]
    fn a_token_that_goes_on_behind_the_string_completes_it_too() {
        // A capital letter of this vocabulary stands for its small letter and two marks.
        assert!(stops("abC", &["bc"]));
        assert!(stops("abC", &["c!"]));
        assert!(stops("abC", &["!!"]));
        assert!(!stops("abCd", &["!!"]));
    }

    #[test]
    fn a_string_that_begins_in_the_prompt_counts_only_where_it_may() {
        for (may_begin_in_prompt, reason) in [(true, Some(StopReason::StopString)), (false, None)] {
            let strings = vec![b"bc".to_vec()];
            let vocabulary = Arc::new(Letters);
            let stopping = Stopping { eos_token_id: 0, max_new_tokens: 99, strings, may_begin_in_prompt, vocabulary };
            assert_eq!(stopping.reason(&Letters.encode("abc"), 1), reason);
            assert_eq!(stopping.reason(&Letters.encode("abc"), 2), Some(StopReason::StopString));
        }
    }

    #[test]
    fn special_tokens_are_no_part_of_a_string() {
        assert!(!stops("a\u{1}b", &["ab"]));
    }
}
