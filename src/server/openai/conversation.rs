//! Messages become an image and the prompt that this family of models reads. They know neither roles nor instructions, so
//! everything is written into one text: `text/prompt.rs` has the template.

use serde_json::{Map, Value};

use super::error::{OpenAiError, Shown};
use crate::json::json_type;
use crate::scoring::ImageSource;
use crate::server::HttpError;
use crate::text::{Prompt, Turn};

/// Far more than the model can read; the engine bounds the text.
const MAX_MESSAGES: usize = 256;
const MAX_PARTS: usize = 64;

/// Fields of a message that are accepted and have no effect.
const HARMLESS: [&str; 4] = ["name", "annotations", "id", "refusal"];

/// A parsed conversation: the image and the prompt.
#[derive(Debug)]
pub(super) struct Conversation {
    /// The image.
    pub(super) image: ImageSource,
    /// Where the request has it, for messages.
    pub(super) image_place: String,
    /// The prompt.
    pub(super) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Role {
    User,
    Assistant,
}

/// Messages of the same role that stand side by side.
struct Utterance {
    role: Role,
    text: String,
    /// Where the first of them is.
    place: String,
}

/// Messages while they are read.
#[derive(Default)]
struct Reader<'a> {
    /// Texts of the system's messages.
    context: Vec<String>,
    utterances: Vec<Utterance>,
    image: Option<(&'a str, ImageSource, String)>,
}

impl Conversation {
    /// Reads the `messages` of a request. Decodes base64, so call it where blocking is allowed.
    pub(super) fn parse(messages: Option<&Value>) -> Result<Self, OpenAiError> {
        let messages = match messages {
            Some(Value::Array(messages)) => messages,
            Some(other) => {
                let message = format!("messages must be a list, not {}", json_type(other));
                return Err(OpenAiError::invalid("messages", message));
            }
            None => return Err(OpenAiError::missing("messages", "messages is missing")),
        };
        if messages.is_empty() || messages.len() > MAX_MESSAGES {
            let message = format!("messages has {} entries, but must have 1 to {MAX_MESSAGES}", messages.len());
            return Err(OpenAiError::invalid("messages", message));
        }
        let mut reader = Reader::default();
        for (number, message) in messages.iter().enumerate() {
            reader.message(message, &format!("messages[{number}]"))?;
        }
        let text = prompt(reader.context, reader.utterances)?;
        let Some((_, image, image_place)) = reader.image else {
            let message = "messages hold no image; this model answers about one, so send an `image_url` part";
            return Err(OpenAiError::missing("messages", message));
        };
        Ok(Self { image, image_place, text })
    }
}

impl<'a> Reader<'a> {
    fn message(&mut self, message: &'a Value, place: &str) -> Result<(), OpenAiError> {
        let Value::Object(message) = message else {
            return Err(OpenAiError::invalid(place, format!("{place} must be an object, not {}", json_type(message))));
        };
        check_keys(message, place)?;
        let role = match message.get("role") {
            Some(Value::String(role)) => role.as_str(),
            Some(other) => return Err(wrong_type(&format!("{place}.role"), "a string", other)),
            None => return Err(OpenAiError::missing(format!("{place}.role"), format!("{place} has no role"))),
        };
        let content = message.get("content").unwrap_or(&Value::Null);
        let content_place = format!("{place}.content");
        match role {
            "system" | "developer" => {
                let text = self.content(content, &content_place, false)?;
                self.context.extend((!text.trim().is_empty()).then_some(text));
            }
            "user" => {
                let text = self.content(content, &content_place, true)?;
                self.say(Role::User, text, place);
            }
            "assistant" => {
                let text = self.content(content, &content_place, false)?;
                self.say(Role::Assistant, text, place);
            }
            "tool" | "function" => {
                let message =
                    format!("{place}: this model uses no tools, so there are no messages of the role {role:?}");
                return Err(OpenAiError::unsupported(format!("{place}.role"), message));
            }
            _ => {
                let shown = Shown(&message["role"]);
                let message = format!("{place}.role is {shown}, but must be system, developer, user or assistant");
                return Err(OpenAiError::invalid(format!("{place}.role"), message));
            }
        }
        Ok(())
    }

    fn say(&mut self, role: Role, text: String, place: &str) {
        match self.utterances.last_mut().filter(|last| last.role == role) {
            Some(last) => last.text = joined([last.text.as_str(), &text]),
            None => self.utterances.push(Utterance { role, text, place: place.to_owned() }),
        }
    }

    /// The text of a message; its image is put aside.
    fn content(&mut self, content: &'a Value, place: &str, may_have_image: bool) -> Result<String, OpenAiError> {
        let parts = match content {
            Value::String(text) => return Ok(text.clone()),
            Value::Array(parts) => parts,
            other => return Err(wrong_type(place, "a string or a list of parts", other)),
        };
        if parts.len() > MAX_PARTS {
            let message = format!("{place} has {} parts, but must have at most {MAX_PARTS}", parts.len());
            return Err(OpenAiError::invalid(place, message));
        }
        let mut texts = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let place = format!("{place}[{number}]");
            let Value::Object(part) = part else { return Err(wrong_type(&place, "an object", part)) };
            match part.get("type").and_then(Value::as_str) {
                Some("text") => texts.push(text_of(part, "text", &place)?),
                Some("refusal") if !may_have_image => texts.push(text_of(part, "refusal", &place)?),
                Some("image_url") if may_have_image => self.image(part, &place)?,
                Some("image_url") => {
                    let message = format!("{place}: an image stands in a message of the user");
                    return Err(OpenAiError::invalid(place, message));
                }
                Some(_) => {
                    let message = format!("{place}: parts of the type {} are not read", Shown(&part["type"]));
                    return Err(OpenAiError::unsupported(place, message));
                }
                None => {
                    let message = format!("{place} has no type; it must be \"text\" or \"image_url\"");
                    return Err(OpenAiError::missing(format!("{place}.type"), message));
                }
            }
        }
        // A caller's only text stays as it is, white space too.
        Ok(if let [only] = texts.as_slice() { (*only).to_owned() } else { joined(texts) })
    }

    fn image(&mut self, part: &'a Map<String, Value>, place: &str) -> Result<(), OpenAiError> {
        let place = format!("{place}.image_url");
        let url = match part.get("image_url") {
            Some(Value::Object(image)) => image.get("url"),
            bare => bare,
        };
        let url = match url {
            Some(Value::String(url)) => url.as_str(),
            Some(other) => return Err(wrong_type(&place, "an object with a url", other)),
            None => return Err(OpenAiError::missing(format!("{place}.url"), format!("{place} has no url"))),
        };
        // Chats send the same image again with every turn.
        if self.image.as_ref().is_some_and(|(known, ..)| *known == url) {
            return Ok(());
        }
        let bad = |error| OpenAiError::image(&place, HttpError::BadRequest(format!("{place}: {error}")));
        let image = ImageSource::parse(url).map_err(bad)?;
        match &self.image {
            None => self.image = Some((url, image, place)),
            Some((_, known, _)) if *known == image => {}
            Some((_, _, first)) => {
                let message = format!(
                    "{place} is another image than {first}; this model sees one image, so send one in a conversation"
                );
                return Err(OpenAiError::invalid(place, message));
            }
        }
        Ok(())
    }
}

/// Refuses what would change the meaning of a message.
fn check_keys(message: &Map<String, Value>, place: &str) -> Result<(), OpenAiError> {
    let asks = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    for (key, value) in message {
        match key.as_str() {
            "role" | "content" => {}
            key if HARMLESS.contains(&key) => {}
            "tool_calls" | "tool_call_id" | "function_call" | "audio" if asks(value) => {
                let message = format!("{place}.{key}: this model uses no tools and hears nothing");
                return Err(OpenAiError::unsupported(format!("{place}.{key}"), message));
            }
            key if asks(value) => {
                let key: String = key.chars().take(40).collect();
                let message = format!("{place}: unknown key {key:?}");
                return Err(OpenAiError::unknown(format!("{place}.{key}"), message));
            }
            _ => {}
        }
    }
    Ok(())
}

fn text_of<'a>(part: &'a Map<String, Value>, key: &str, place: &str) -> Result<&'a str, OpenAiError> {
    match part.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong_type(&format!("{place}.{key}"), "a string", other)),
        None => Err(OpenAiError::missing(format!("{place}.{key}"), format!("{place} has no {key}"))),
    }
}

fn wrong_type(place: &str, expected: &str, found: &Value) -> OpenAiError {
    OpenAiError::invalid(place, format!("{place} must be {expected}, not {}", json_type(found)))
}

/// Texts with a space between them, which is what the model's template has. A line break would end it.
fn joined<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts.into_iter().map(str::trim).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The text that the model reads.
fn prompt(mut context: Vec<String>, mut utterances: Vec<Utterance>) -> Result<String, OpenAiError> {
    // An answer that stands last is one to go on with.
    let beginning = utterances.pop_if(|last| last.role == Role::Assistant).map(|last| last.text);
    let Some(Utterance { text: question, place, .. }) = utterances.pop() else {
        return Err(OpenAiError::invalid("messages", "messages hold none of the user"));
    };
    let turns = turns(&mut context, utterances)?;
    let prompt = if question.trim().is_empty() {
        if !turns.is_empty() {
            return Err(OpenAiError::invalid(
                &place,
                format!("{place} has no text, and a chat goes on with a question"),
            ));
        }
        // Text before a caption is its beginning.
        String::new()
    } else if turns.is_empty() {
        if has_marks(&question) { Prompt::Raw(question).text() } else { Prompt::Question(question).text() }
    } else {
        Prompt::Chat { turns, question: unwrapped(&question, &place)? }.text()
    };
    if context.is_empty() && beginning.is_none() {
        return Ok(prompt);
    }
    let context = context.iter().map(String::as_str);
    Ok(joined(context.chain([prompt.as_str()]).chain(beginning.as_deref())))
}

/// The questions that have an answer. A caption that opens the chat goes to the context.
fn turns(context: &mut Vec<String>, utterances: Vec<Utterance>) -> Result<Vec<Turn>, OpenAiError> {
    let mut turns = Vec::new();
    let mut utterances = utterances.into_iter();
    while let Some(Utterance { role, text: question, place }) = utterances.next() {
        if role == Role::Assistant {
            return Err(OpenAiError::invalid(&place, format!("{place}: the first to speak is the user")));
        }
        let answer = utterances.next().map(|answer| answer.text).unwrap_or_default();
        if !question.trim().is_empty() {
            turns.push(Turn { question: unwrapped(&question, &place)?, answer });
        } else if turns.is_empty() {
            let caption = answer.trim();
            let stop = if caption.is_empty() || caption.ends_with('.') { "" } else { "." };
            context.push(format!("{caption}{stop}"));
        } else {
            return Err(OpenAiError::invalid(&place, format!("{place} has no text")));
        }
    }
    Ok(turns)
}

/// Whether a text is written in the template already, at least in part.
fn has_marks(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("question:") || text.contains("answer:")
}

/// The question in a text that may have the template around it, for a chat that puts it there.
fn unwrapped(text: &str, place: &str) -> Result<String, OpenAiError> {
    let inner = text.trim().strip_prefix("Question:").and_then(|text| text.strip_suffix("Answer:")).unwrap_or(text);
    if has_marks(inner) {
        let message = format!(
            "{place}: a text with the marks \"Question:\" or \"Answer:\" stands alone; send it as the only message, or the \
             questions and answers as messages without marks"
        );
        return Err(OpenAiError::invalid(place, message));
    }
    Ok(inner.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn image() -> Value {
        json!({"type": "image_url", "image_url": {"url": "QUJD"}})
    }

    fn parse(messages: &Value) -> Result<Conversation, (String, String)> {
        Conversation::parse(Some(messages)).map_err(|error| {
            let body = error.body();
            let field = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
            (field("param"), field("message"))
        })
    }

    /// The prompt of messages of role and text, of which the user's first shows the image.
    fn prompt_of(messages: &[(&str, &str)]) -> String {
        let mut image = Some(image());
        let message = |(role, text): &(&str, &str)| {
            let image = if *role == "user" { image.take() } else { None };
            let parts: Vec<Value> = image.into_iter().chain([json!({"type": "text", "text": text})]).collect();
            json!({"role": role, "content": parts})
        };
        parse(&messages.iter().map(message).collect()).unwrap().text
    }

    #[test]
    fn a_question_gets_the_template_and_a_text_that_has_it_stays() {
        assert_eq!(prompt_of(&[("user", "which city? ")]), "Question: which city? Answer:");
        for text in
            ["Question: which city? Answer:", "Question: a? Short answer: ", " question: a\nAnswer: b. Question:"]
        {
            assert_eq!(prompt_of(&[("user", text)]), text);
        }
    }

    #[test]
    fn no_text_asks_for_a_caption() {
        for text in ["", " \n"] {
            assert_eq!(prompt_of(&[("user", text)]), "");
        }
        assert_eq!(parse(&json!([{"role": "user", "content": [image()]}])).unwrap().text, "");
    }

    #[test]
    fn earlier_turns_stand_in_front_without_a_template_of_their_own() {
        let chat = "Question: a? Answer: b. Question: c? Answer:";
        assert_eq!(prompt_of(&[("user", "a?"), ("assistant", "b"), ("user", "c?")]), chat);
        let templates = [("user", "Question: a? Answer:"), ("assistant", " b. "), ("user", " Question: c? Answer: ")];
        assert_eq!(prompt_of(&templates), chat);
    }

    #[test]
    fn a_caption_that_opens_a_chat_stands_in_front_of_its_questions() {
        let messages = [("user", ""), ("assistant", "a dog"), ("user", "which?")];
        assert_eq!(prompt_of(&messages), "a dog. Question: which? Answer:");
    }

    #[test]
    fn the_text_of_the_system_stands_in_front_of_all() {
        let messages =
            [("system", "In Paris."), ("user", "a?"), ("assistant", "b"), ("developer", "Rain."), ("user", "c?")];
        assert_eq!(prompt_of(&messages), "In Paris. Rain. Question: a? Answer: b. Question: c? Answer:");
        assert_eq!(prompt_of(&[("system", "a photo of"), ("user", "")]), "a photo of", "a caption's beginning");
        assert_eq!(prompt_of(&[("system", " "), ("user", "a?")]), "Question: a? Answer:");
    }

    #[test]
    fn an_assistant_who_speaks_last_has_begun_the_answer() {
        assert_eq!(prompt_of(&[("user", "a?"), ("assistant", "it is ")]), "Question: a? Answer: it is");
        assert_eq!(prompt_of(&[("user", ""), ("assistant", "a photo of")]), "a photo of");
    }

    #[test]
    fn messages_of_one_role_and_parts_of_a_message_are_joined_by_spaces() {
        let messages = json!([
            {"role": "user", "content": [image()]},
            {"role": "user", "content": [{"type": "text", "text": "which "}, {"type": "text", "text": " city?"}]},
        ]);
        assert_eq!(parse(&messages).unwrap().text, "Question: which city? Answer:");
    }

    #[test]
    fn the_image_may_come_again_in_any_spelling_and_stand_in_any_turn() {
        let again = json!({"type": "image_url", "image_url": "data:image/png;base64,QUJD"});
        let messages = json!([
            {"role": "user", "content": "a?"},
            {"role": "assistant", "content": "b", "refusal": null, "tool_calls": [], "annotations": []},
            {"role": "user", "name": "me", "content": [image(), again, image(), {"type": "text", "text": "c?"}]},
        ]);
        let conversation = parse(&messages).unwrap();
        assert_eq!(conversation.image, ImageSource::File(b"ABC".as_slice().into()));
        assert_eq!(conversation.image_place, "messages[2].content[0].image_url");
    }

    #[test]
    fn a_fault_is_named_with_its_place() {
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        let other = json!({"type": "image_url", "image_url": {"url": "QUJE"}});
        let cases = [
            (json!("hello"), "messages", "messages must be a list, not a string"),
            (json!([]), "messages", "0 entries"),
            (json!(vec![0; 257]), "messages", "257 entries"),
            (json!([1]), "messages[0]", "must be an object, not a number"),
            (json!([{"content": ""}]), "messages[0].role", "has no role"),
            (json!([{"role": 1}]), "messages[0].role", "must be a string"),
            (json!([{"role": "robot", "content": ""}]), "messages[0].role", "is \"robot\", but must be"),
            (json!([{"role": "tool", "content": ""}]), "messages[0].role", "uses no tools"),
            (json!([{"role": "user"}]), "messages[0].content", "must be a string or a list of parts, not null"),
            (user(json!(vec![0; 65])), "messages[0].content", "65 parts"),
            (user(json!([1])), "messages[0].content[0]", "must be an object"),
            (user(json!([{"text": "a"}])), "messages[0].content[0].type", "has no type"),
            (user(json!([{"type": "text"}])), "messages[0].content[0].text", "has no text"),
            (user(json!([{"type": "text", "text": 1}])), "messages[0].content[0].text", "must be a string"),
            (user(json!([{"type": "input_audio"}])), "messages[0].content[0]", "\"input_audio\" are not read"),
            (user(json!([{"type": "image_url"}])), "messages[0].content[0].image_url.url", "has no url"),
            (
                user(json!([{"type": "image_url", "image_url": {"url": 1}}])),
                "messages[0].content[0].image_url",
                "a url",
            ),
            (
                user(json!([{"type": "image_url", "image_url": {"url": "ftp://x"}}])),
                "messages[0].content[0].image_url",
                "scheme",
            ),
            (user(json!([image(), other])), "messages[0].content[1].image_url", "another image than messages[0]"),
            (user(json!("a?")), "messages", "no image"),
            (json!([{"role": "system", "content": [image()]}]), "messages[0].content[0]", "message of the user"),
            (json!([{"role": "user", "content": [image()], "tool_calls": [1]}]), "messages[0].tool_calls", "no tools"),
            (json!([{"role": "user", "content": [image()], "contents": ""}]), "messages[0].contents", "unknown key"),
            (json!([{"role": "system", "content": "a"}]), "messages", "none of the user"),
            (
                json!([{"role": "assistant", "content": "a"}, {"role": "user", "content": [image()]}]),
                "messages[0]",
                "the first to speak",
            ),
            (
                json!([{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"},
                       {"role": "user", "content": [image()]}]),
                "messages[2]",
                "has no text",
            ),
            (
                json!([{"role": "user", "content": "Question: a? Answer: b. Question: c? Answer:"},
                       {"role": "assistant", "content": "d"}, {"role": "user", "content": "e?"}]),
                "messages[0]",
                "stands alone",
            ),
        ];
        for (messages, param, part) in cases {
            let (found, message) = parse(&messages).unwrap_err();
            assert_eq!(found, param, "{messages}: {message}");
            assert!(message.contains(part) && message.len() < 300, "{messages}: {message}");
        }
    }
}
