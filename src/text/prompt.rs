//! The prompt templates with which this family of checkpoints was trained and evaluated.
//!
//! The beginning of a caption and a raw text are passed on unchanged.

use std::fmt::Write;

/// A prompt, before its template is applied.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A caption that continues a beginning. The default is an empty beginning.
    Caption {
        /// The beginning, such as `a photo of`.
        beginning: String,
    },
    /// One question.
    Question(String),
    /// A question with earlier questions and answers.
    Chat {
        /// Earlier turns, the oldest first.
        turns: Vec<Turn>,
        /// The current question.
        question: String,
    },
    /// A text without template.
    Raw(String),
}

/// An earlier question of a chat, and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// The question.
    pub question: String,
    /// The answer, with or without a full stop.
    pub answer: String,
}

impl Default for Prompt {
    fn default() -> Self {
        Self::Caption { beginning: String::new() }
    }
}

impl Prompt {
    /// Returns the text for the model. Templates never end in white space.
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
        // The template ends an answer with a full stop, which the model has often written already.
        let answer = answer.trim();
        let stop = if answer.ends_with('.') { "" } else { "." };
        let _ = write!(text, "Question: {} Answer: {answer}{stop} ", question.trim()); // writing to a String does not fail
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
