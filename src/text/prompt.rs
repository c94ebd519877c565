//! The prompts this family of checkpoints was trained and measured with. Used by whoever has a question or a chat
//! rather than a finished text.
//!
//! It must not change a caption's beginning or a raw text: there every character is the caller's.

use std::fmt::Write;

/// What is asked about an image.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A caption, which goes on from the beginning; the default, with an empty one.
    Caption {
        /// Such as `a photo of`, passed on as it is.
        beginning: String,
    },
    /// One question.
    Question(String),
    /// A question with what was asked and answered before.
    Chat {
        /// Earlier turns, the oldest first.
        turns: Vec<Turn>,
        /// What is asked now.
        question: String,
    },
    /// A finished text, passed on as it is.
    Raw(String),
}

/// A question of a chat and the answer it got.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// What was asked.
    pub question: String,
    /// What was answered, with or without a full stop at its end.
    pub answer: String,
}

impl Default for Prompt {
    fn default() -> Self {
        Self::Caption { beginning: String::new() }
    }
}

impl Prompt {
    /// The text that is encoded for the model. It never ends in white space that is not the caller's own.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Caption { beginning: text } | Self::Raw(text) => text.clone(),
            Self::Question(question) => chat(&[], question),
            Self::Chat { turns, question } => chat(turns, question),
        }
    }
}

fn chat(turns: &[Turn], question: &str) -> String {
    let mut text = String::new();
    for Turn { question, answer } in turns {
        // The template ends an answer with a full stop, and a model often has done so itself.
        let answer = answer.trim();
        let stop = if answer.ends_with('.') { "" } else { "." };
        let _ = write!(text, "Question: {} Answer: {answer}{stop} ", question.trim()); // a String takes everything
    }
    text + "Question: " + question.trim() + " Answer:"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(question: &str, answer: &str) -> Turn {
        Turn { question: question.into(), answer: answer.into() }
    }

    fn chat_text(turns: &[(&str, &str)], question: &str) -> String {
        let turns = turns.iter().map(|(question, answer)| turn(question, answer)).collect();
        Prompt::Chat { turns, question: question.into() }.text()
    }

    #[test]
    fn a_caption_is_its_beginning_and_empty_by_default() {
        assert_eq!(Prompt::default().text(), "");
        for beginning in ["", "a photo of", " this is a cartoon of ", "Question:"] {
            assert_eq!(Prompt::Caption { beginning: beginning.into() }.text(), beginning);
        }
    }

    #[test]
    fn a_question_stands_in_its_template_without_trailing_space() {
        let text = |question: &str| Prompt::Question(question.into()).text();
        assert_eq!(text("which city is this?"), "Question: which city is this? Answer:");
        assert_eq!(text("\n which  city? \t"), "Question: which  city? Answer:");
    }

    #[test]
    fn a_chat_is_its_turns_joined_by_spaces() {
        assert_eq!(
            chat_text(&[("which city is this?", "singapore")], "why?"),
            "Question: which city is this? Answer: singapore. Question: why? Answer:"
        );
        assert_eq!(
            chat_text(&[("a?", "b"), (" c? ", " d \n")], " e? "),
            "Question: a? Answer: b. Question: c? Answer: d. Question: e? Answer:"
        );
    }

    #[test]
    fn a_chat_without_turns_is_a_question() {
        assert_eq!(chat_text(&[], "why?"), Prompt::Question("why?".into()).text());
    }

    #[test]
    fn an_answer_that_ends_with_a_full_stop_gets_no_second_one() {
        let expected = "Question: a? Answer: it is b. Question: c? Answer:";
        for answer in ["it is b", "it is b.", " it is b. "] {
            assert_eq!(chat_text(&[("a?", answer)], "c?"), expected);
        }
        assert_eq!(chat_text(&[("a?", "wow!")], "c?"), "Question: a? Answer: wow!. Question: c? Answer:");
    }

    #[test]
    fn a_raw_text_is_passed_on_unchanged() {
        for text in ["", " Question: a? Answer: ", "</s>\n"] {
            assert_eq!(Prompt::Raw(text.into()).text(), text);
        }
    }
}
