//! The prompt doctor: warns of prompts that are known to give bad answers with this family of
//! checkpoints.
//!
//! It never changes or rejects a text. It prefers to miss a fault over warning of a good text:
//! documented templates, beginnings of captions and empty texts give no warning.

/// The most tokens of a text in training, with the start token (`max_txt_len` of LAVIS).
const TRAINED_TOKENS: usize = 32;
/// The most tokens of a chat. Chats were not part of training and work by example, so they may be
/// longer.
const CHAT_TOKENS: usize = 256;

/// A fault of a prompt that may spoil its answer, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptWarning {
    /// The text holds a special string such as `<image>`. The tokenizer reports it in
    /// `Encoded::special_text`.
    #[error("the text holds {special}, which was read as plain text")]
    SpecialText {
        /// The string.
        special: String,
    },
    /// A question or instruction without the template. The decoder then often answers nothing, or
    /// repeats itself.
    #[error(
        "the text reads as a question or an instruction without the template, \
         write it as \"Question: … Answer:\", or send no text for a caption"
    )]
    NoTemplate,
    /// A question of the template without `Answer:`.
    #[error("the text has a \"Question:\" without an \"Answer:\" after it, write it as \"Question: … Answer:\"")]
    NoAnswerMark,
    /// Two marks of the template in a row, as when the template is applied twice.
    #[error(
        "the text has nothing between \"{before}\" and \"{after}\", fill in what is missing or remove one of the two"
    )]
    NothingBetween {
        /// The first mark.
        before: &'static str,
        /// The second.
        after: &'static str,
    },
    /// White space at the end, which is a token between text and answer.
    #[error("the text ends in white space, which is a token of its own and changes the answer, remove it")]
    TrailingWhiteSpace,
    /// A caption or question longer than those in training.
    #[error("the text has {tokens} tokens, the model was trained with at most {TRAINED_TOKENS}, shorten it")]
    LongText {
        /// Its length, with the start token.
        tokens: usize,
    },
    /// A chat that is too long.
    #[error("the chat has {tokens} tokens, more than {CHAT_TOKENS} spoil the answer, leave out its earliest turns")]
    LongChat {
        /// Its length, with the start token.
        tokens: usize,
    },
}

/// Returns warnings about a text of `tokens` tokens, with the start token, as in
/// `Encoded::input_ids`.
#[must_use]
pub fn diagnose(text: &str, tokens: usize) -> Vec<PromptWarning> {
    let marks = marks(text);
    let template = if marks.is_empty() { missing_template(text) } else { broken_template(text, &marks) };
    let trailing = text.ends_with(char::is_whitespace).then_some(PromptWarning::TrailingWhiteSpace);
    [template, trailing, too_long(&marks, tokens)].into_iter().flatten().collect()
}

fn too_long(marks: &[Mark], tokens: usize) -> Option<PromptWarning> {
    let is_chat = marks.iter().filter(|mark| mark.kind == Kind::Question).count() > 1;
    let (limit, warning) = if is_chat {
        (CHAT_TOKENS, PromptWarning::LongChat { tokens })
    } else {
        (TRAINED_TOKENS, PromptWarning::LongText { tokens })
    };
    (tokens > limit).then_some(warning)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Question,
    Answer,
}

impl Kind {
    const fn text(self) -> &'static str {
        match self {
            Self::Question => "Question:",
            Self::Answer => "Answer:",
        }
    }
}

/// A mark of the template, and its position. `Short answer:` is a mark of an answer, too.
#[derive(Clone, Copy)]
struct Mark {
    kind: Kind,
    start: usize,
    end: usize,
}

/// Returns the marks of a text in order, in capital or small letters.
fn marks(text: &str) -> Vec<Mark> {
    let text = text.to_ascii_lowercase();
    let mut marks = Vec::new();
    for kind in [Kind::Question, Kind::Answer] {
        let mark = kind.text().to_ascii_lowercase();
        for (start, _) in text.match_indices(&mark) {
            let is_short = kind == Kind::Answer && text[..start].ends_with("short ");
            let end = start + mark.len();
            marks.push(Mark { kind, start: if is_short { start - "short ".len() } else { start }, end });
        }
    }
    marks.sort_by_key(|mark| mark.start);
    marks
}

/// Returns the first fault of a text with marks. Text after the last mark of an answer counts as
/// the answer's beginning.
fn broken_template(text: &str, marks: &[Mark]) -> Option<PromptWarning> {
    for pair in marks.windows(2) {
        let before = pair[0];
        let after = pair[1];
        if text[before.end..after.start].trim().is_empty() {
            return Some(PromptWarning::NothingBetween { before: before.kind.text(), after: after.kind.text() });
        }
        if before.kind == Kind::Question && after.kind == Kind::Question {
            return Some(PromptWarning::NoAnswerMark);
        }
    }
    match marks.last()? {
        Mark { kind: Kind::Question, .. } => Some(PromptWarning::NoAnswerMark),
        last => ends_as_question(&text[last.end..]).then_some(PromptWarning::NoTemplate),
    }
}

fn missing_template(text: &str) -> Option<PromptWarning> {
    (ends_as_question(text) || begins_as_question(text)).then_some(PromptWarning::NoTemplate)
}

fn ends_as_question(text: &str) -> bool {
    text.trim_end().ends_with(['?', '？'])
}

/// Verbs that make a question of the words after a question word.
const AUXILIARIES: [&str; 14] =
    ["is", "are", "was", "were", "do", "does", "did", "can", "could", "will", "would", "should", "has", "have"];
const DETERMINERS: [&str; 13] =
    ["the", "a", "an", "this", "that", "these", "those", "my", "your", "his", "her", "its", "their"];
const PRONOUNS: [&str; 8] = ["you", "we", "i", "they", "he", "she", "it", "there"];
/// The objects of an instruction, besides a noun with its determiner: "list all", "tell me", "count
/// how".
const OBJECTS: [&str; 7] = ["all", "every", "each", "me", "us", "how", "what"];
/// The most words up to the verb of a question: "what kind of dog breed is this".
const WORDS_TO_VERB: usize = 5;

/// Returns whether a text begins like a question or an instruction. Many first words may begin a
/// caption, too ("can of soda", "show jumping", "what appears to be", "where the river ends"), so
/// the next words decide.
fn begins_as_question(text: &str) -> bool {
    let words: Vec<String> = text.split_whitespace().take(1 + WORDS_TO_VERB).map(plain_word).collect();
    let Some((first, rest)) = words.split_first() else { return false };
    let next_is = |list: &[&str]| rest.first().is_some_and(|word| list.contains(&word.as_str()));
    let has_verb_within = |words: usize| rest.iter().take(words).any(|word| AUXILIARIES.contains(&word.as_str()));
    match first.as_str() {
        "why" | "what's" | "whats" | "who's" | "where's" | "how's" => true,
        "what" | "which" | "whose" => !next_is(&DETERMINERS) && has_verb_within(WORDS_TO_VERB),
        "how" => next_is(&["many", "much"]) || has_verb_within(2), // "how old is"
        "who" | "whom" | "where" | "when" => has_verb_within(1),
        "is" | "are" | "was" | "were" | "does" | "did" => !rest.is_empty(),
        "can" | "could" | "do" | "will" | "would" | "should" => next_is(&PRONOUNS),
        "please" | "describe" | "explain" | "identify" | "summarize" | "summarise" | "transcribe" => true,
        "answer" | "caption" | "classify" | "count" | "find" | "generate" | "give" | "list" | "name" | "show"
        | "tell" | "write" => next_is(&DETERMINERS) || next_is(&OBJECTS),
        _ => false,
    }
}

/// Returns a word in small letters, without punctuation around it.
fn plain_word(word: &str) -> String {
    word.trim_matches(|character: char| !character.is_alphanumeric()).replace('’', "'").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::super::{Prompt, Turn};
    use super::PromptWarning::{self, *};
    use super::diagnose;

    /// A text of common words has about as many tokens as words; no text of these tests is near a
    /// limit.
    fn warnings(text: &str) -> Vec<PromptWarning> {
        diagnose(text, text.split_whitespace().count() + 1)
    }

    fn question(text: &str) -> Prompt {
        Prompt::Question(text.into())
    }

    fn chat(answers: &[&str]) -> Prompt {
        let turn = |answer: &&str| Turn { question: "what is it?".into(), answer: (*answer).into() };
        Prompt::Chat { turns: answers.iter().map(turn).collect(), question: "why?".into() }
    }

    #[test]
    fn documented_templates_pass_in_silence() {
        let prompts = [
            Prompt::default(),
            Prompt::Caption { beginning: "a photo of".into() },
            Prompt::Caption { beginning: "this is a cartoon of".into() },
            question("which city is this?"),
            question("describe the image"),
            question("what is the answer: a dog or a cat?"),
            chat(&[]),
            chat(&["singapore"]),
            chat(&["singapore.", "it has a statue of a merlion"]),
            Prompt::Raw("Question: which city is this? Short answer:".into()),
            Prompt::Raw("Given the image, answer the question. Question: what is it? Answer:".into()),
        ];
        for prompt in prompts {
            assert_eq!(warnings(&prompt.text()), [], "{prompt:?}");
        }
    }

    #[test]
    fn beginnings_of_captions_and_answers_pass_in_silence() {
        for text in [
            "a",
            "there is",
            "the man is",
            "two dogs that are",
            "a list of",
            "an answer to",
            "a sign that says \"what?\" and",
            "a sign that says \"Who is it",
            "in the image there is",
            "what appears to be a dog that is",
            "what looks like",
            "what a lovely",
            "where the river meets the sea, there is",
            "when the sun is setting",
            "which",
            "how",
            "is",
            "can of soda",
            "will smith and",
            "show jumping at",
            "name tags on",
            "count dracula is",
            "find",
            "list",
            "answers to a test",
            "description of",
            "question mark on a wall",
            "-",
            "Question: what is it? Answer: it is a",
            "Question: what is it? Answer: what the man is holding",
            "what is it? Answer:",
            "Describe the image. Short answer:",
            "describe the image. answer: it shows",
            "question: what is it? answer:",
            " a photo of",
        ] {
            assert_eq!(warnings(text), [], "{text:?}");
        }
    }

    #[test]
    fn a_question_or_instruction_without_the_template_is_noticed() {
        for text in [
            "which city is this?",
            "Which city is this",
            "what is this",
            "What's this",
            "what’s in the image",
            "what kind of dog breed is this",
            "\"What color is it\"",
            "how many cats are there",
            "how old is she",
            "how is the weather",
            "who is standing there",
            "where are they",
            "why",
            "Is there a dog in the image",
            "are they happy, yes or no",
            "can you see a dog",
            "Do you see a dog",
            "the color of the car?",
            "what is it? Answer briefly.",
            "这是什么？",
            "describe",
            "Describe this image in detail.",
            "please caption it",
            "list all objects",
            "Count the cats",
            "tell me a story",
            "Write a short description for the image.",
            "Q: what is it?",
            "Question: what is it? Answer: a dog. which breed?",
        ] {
            assert_eq!(warnings(text), [NoTemplate], "{text:?}");
        }
    }

    #[test]
    fn a_broken_template_is_noticed_once() {
        let between = |before, after| NothingBetween { before, after };
        for (text, expected) in [
            ("Question: what is it?", NoAnswerMark),
            ("Question: what is it? Answer", NoAnswerMark),
            ("question: what is it", NoAnswerMark),
            ("Question:", NoAnswerMark),
            ("Answer the question: what is it?", NoAnswerMark),
            ("Question: what is it? Question: why? Answer:", NoAnswerMark),
            ("Question: what is it? Answer: a dog. Question: why?", NoAnswerMark),
            ("Question: Question: what is it? Answer: Answer:", between("Question:", "Question:")),
            ("Question: what is it? Answer: Short answer:", between("Answer:", "Answer:")),
            ("Question: Answer:", between("Question:", "Answer:")),
            ("Question: Short answer:", between("Question:", "Answer:")),
            ("Question: what is it? Answer: Question: why? Answer:", between("Answer:", "Question:")),
        ] {
            assert_eq!(warnings(text), [expected], "{text:?}");
        }
        let twice = question(&question("why?").text()).text();
        assert_eq!(warnings(&twice), [between("Question:", "Question:")]);
    }

    #[test]
    fn white_space_at_the_end_is_noticed_besides_other_faults() {
        for text in [" ", "\n", "a photo of ", "Question: what is it? Answer: ", "a photo of\n", "a\u{A0}"] {
            assert_eq!(warnings(text), [TrailingWhiteSpace], "{text:?}");
        }
        assert_eq!(diagnose("what is it? ", 40), [NoTemplate, TrailingWhiteSpace, LongText { tokens: 40 }]);
    }

    #[test]
    fn a_text_beyond_training_is_noticed_and_a_chat_later() {
        let one_turn = question("why?").text();
        let two_turns = chat(&["a dog"]).text();
        for (text, tokens, expected) in [
            ("", 1, None),
            ("a photo of", 32, None),
            ("a photo of", 33, Some(LongText { tokens: 33 })),
            (&one_turn, 32, None),
            (&one_turn, 33, Some(LongText { tokens: 33 })),
            (&two_turns, 256, None),
            (&two_turns, 257, Some(LongChat { tokens: 257 })),
        ] {
            assert_eq!(diagnose(text, tokens), Vec::from_iter(expected), "{text:?} {tokens}");
        }
    }

    #[test]
    fn every_message_is_one_line_with_its_remedy() {
        for (warning, expected) in [
            (SpecialText { special: "<image>".into() }, "the text holds <image>, which was read as plain text"),
            (
                NoTemplate,
                "the text reads as a question or an instruction without the template, write it as \"Question: … Answer:\", or send no text for a caption",
            ),
            (
                NoAnswerMark,
                "the text has a \"Question:\" without an \"Answer:\" after it, write it as \"Question: … Answer:\"",
            ),
            (
                NothingBetween { before: "Answer:", after: "Question:" },
                "the text has nothing between \"Answer:\" and \"Question:\", fill in what is missing or remove one of the two",
            ),
            (
                TrailingWhiteSpace,
                "the text ends in white space, which is a token of its own and changes the answer, remove it",
            ),
            (LongText { tokens: 33 }, "the text has 33 tokens, the model was trained with at most 32, shorten it"),
            (
                LongChat { tokens: 300 },
                "the chat has 300 tokens, more than 256 spoil the answer, leave out its earliest turns",
            ),
        ] {
            assert_eq!(warning.to_string(), expected);
        }
    }
}
