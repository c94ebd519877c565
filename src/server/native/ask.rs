//! `POST /v1/ask`: many questions about one image, which is opened once and encoded once.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::error::{Faults, NativeError};
use super::form::{Form, Kind, Part};
use super::input::{Input, image_source, read};
use crate::engine::{Answer, AnswerSequence, Engine, Image, TimingsMs};
use crate::generation::{Alternative, GenerationParams, StopReason};
use crate::scoring::{Admitted, ImageSource, Scorer};
use crate::server::body::blocking;
use crate::server::examples::EXAMPLE_IMAGE;
use crate::server::{HttpError, State};
use crate::text::{Prompt, Turn};

/// More than anybody asks about an image at once.
const MAX_QUESTIONS: usize = 256;

const FORM: Form = Form(&[
    Part::new("image", Kind::Image),
    Part { name: "question", key: "questions", kind: Kind::Texts },
    Part::new("template", Kind::Text),
    Part::new("params", Kind::Json),
]);

/// Questions about an image.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "image": EXAMPLE_IMAGE,
    "questions": ["what is in the picture?", "what color is it?"],
    "params": {"max_new_tokens": 20},
}))]
pub(super) struct AskRequest {
    /// An image: base64, a data URI, a URL, or the id of a stored one.
    #[schema(required = true, value_type = String)]
    image: Option<String>,
    /// The questions. Without any, the answer is a caption.
    #[schema(max_items = 256)]
    questions: Option<Vec<String>>,
    template: Option<Template>,
    /// Generation parameters under transformers' names, for all questions.
    #[schema(value_type = Option<Object>)]
    params: Option<Value>,
}

/// How a question becomes a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Template {
    /// `Question: {} Answer:`, each question by itself. The default where there are questions.
    Vqa,
    /// As it stands.
    Raw,
    /// As it stands, and without questions an empty one: the beginning of a caption.
    Caption,
    /// As `vqa`, one after the other, each behind all questions before it and their answers.
    Chat,
}

/// The same as a form. An image alone is asked for a caption.
#[derive(ToSchema)]
#[expect(dead_code, reason = "read by the macro alone")]
pub(super) struct AskForm {
    /// An image's file; or `image`.
    #[schema(required = false, format = Binary, content_media_type = "application/octet-stream", value_type = String)]
    file: Option<Vec<u8>>,
    /// An image string.
    image: Option<String>,
    /// A question; repeat it for each.
    question: Option<Vec<String>>,
    template: Option<Template>,
    /// Generation parameters, as JSON.
    #[schema(value_type = Option<Object>)]
    params: Option<Value>,
}

/// The answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "answers": [{"text": "a stream in the desert", "warnings": [], "timings_ms": {
        "preprocess": 4.1, "queue": 0.1, "vision_encoder": 310.5, "qformer": 12.2, "prefill": 95.0, "decode": 402.3,
        "total": 824.2,
    }}],
}))]
pub(super) struct AskResponse {
    /// One for each question, in their order.
    answers: Vec<QuestionAnswer>,
}

/// The answer to a question.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QuestionAnswer {
    #[serde(flatten)]
    best: Words,
    /// All answers, best first, when `num_return_sequences` asks for more than one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sequences: Vec<Words>,
    /// Warnings about the question and the parameters.
    warnings: Vec<String>,
    timings_ms: TimingsMs,
}

/// An answer: its text, and all else there is to tell of it with `"logprobs": true` in `params`.
#[derive(Debug, Serialize, ToSchema)]
struct Words {
    /// The new tokens as text, stripped.
    text: String,
    /// The new tokens, the end token included if it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    /// Natural log of each new token's probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<f32>>,
    /// The likeliest tokens at each place, if `top_logprobs` was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_logprobs: Vec<Vec<Alternative>>,
    /// Beams: the final score of the search. Otherwise the sum of `logprobs` over length to the power of `length_penalty`.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    /// Mean of the tokens' probabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_probability: Option<f32>,
    /// The smallest of the tokens' probabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    min_probability: Option<f32>,
    /// Why generation ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<StopReason>,
}

impl Words {
    fn new(sequence: AnswerSequence, is_detailed: bool) -> Self {
        Self {
            text: sequence.text,
            token_ids: is_detailed.then_some(sequence.token_ids),
            logprobs: is_detailed.then_some(sequence.logprobs),
            top_logprobs: sequence.top_logprobs, // empty without logprobs
            score: is_detailed.then_some(sequence.score),
            mean_probability: is_detailed.then_some(sequence.mean_probability),
            min_probability: is_detailed.then_some(sequence.min_probability),
            stop_reason: is_detailed.then_some(sequence.stop_reason),
        }
    }
}

impl QuestionAnswer {
    fn new(answer: Answer, is_detailed: bool) -> Self {
        let Answer { best, sequences, warnings, timings } = answer;
        Self {
            best: Words::new(best, is_detailed),
            sequences: sequences.into_iter().map(|sequence| Words::new(sequence, is_detailed)).collect(),
            warnings,
            timings_ms: timings.into(),
        }
    }
}

/// A checked request.
#[derive(Debug)]
struct Questions {
    image: ImageSource,
    texts: Vec<String>,
    template: Template,
    params: GenerationParams,
}

impl Questions {
    fn parse(input: Input<AskRequest>, engine: &Engine) -> Result<Self, HttpError> {
        let Input { request: AskRequest { image, questions, template, params }, files } = input;
        let (texts, template) = texts(questions.unwrap_or_default(), template)?;
        let params = engine.parse_params(&params.unwrap_or_default());
        let params = params.map_err(|error| HttpError::BadRequest(format!("params: {error}")))?;
        Ok(Self { image: image_source(image.as_deref(), files)?, texts, template, params })
    }
}

/// The questions with the template that is meant: without any, one caption is asked for.
fn texts(mut questions: Vec<String>, template: Option<Template>) -> Result<(Vec<String>, Template), HttpError> {
    let bad = |message| Err(HttpError::BadRequest(message));
    if questions.len() > MAX_QUESTIONS {
        return bad(format!("questions: {} were given; give {MAX_QUESTIONS} at most", questions.len()));
    }
    let template = template.unwrap_or(if questions.is_empty() { Template::Caption } else { Template::Vqa });
    if let Template::Vqa | Template::Chat = template {
        if questions.is_empty() {
            return bad("questions is empty; give one, or leave out template for a caption".into());
        }
        if let Some(number) = questions.iter().position(|question| question.trim().is_empty()) {
            return bad(format!("questions[{number}] is empty; for a caption take the template \"caption\""));
        }
    }
    if questions.is_empty() {
        questions.push(String::new());
    }
    Ok((questions, template))
}

/// Answers questions about an image.
#[utoipa::path(
    post,
    path = "/v1/ask",
    tag = "native",
    operation_id = "ask",
    request_body(content((AskRequest = "application/json"), (AskForm = "multipart/form-data"))),
    responses((status = 200, description = "The answers.", body = AskResponse), Faults),
)]
pub(super) async fn post(
    request: HttpRequest,
    state: web::Data<State>,
    payload: web::Payload,
) -> Result<HttpResponse, NativeError> {
    let scorer = state.scorer()?;
    let input = read(&request, &state, payload, &FORM).await?;
    let engine = scorer.engine().clone();
    let questions = blocking(move || Questions::parse(input, &engine)).await?;
    let is_detailed = questions.params.logprobs;
    let answers = answer_all(scorer, questions).await?;
    let answers = answers.into_iter().map(|answer| QuestionAnswer::new(answer, is_detailed)).collect();
    Ok(HttpResponse::Ok().json(AskResponse { answers }))
}

/// An image that is open, its places in the engine, and how to answer.
struct Sitting {
    admitted: Admitted,
    image: Image,
    params: GenerationParams,
}

async fn answer_all(scorer: &Scorer, questions: Questions) -> Result<Vec<Answer>, HttpError> {
    let Questions { image, texts, template, params } = questions;
    // The turns of a chat come one after the other, and need one place.
    let rows = if template == Template::Chat { 1 } else { texts.len() };
    let admitted = scorer.admit(rows)?;
    let image = admitted.open_image(image, "image").await?;
    let sitting = Sitting { admitted, image, params };
    let prompt = match template {
        Template::Chat => return sitting.chat(texts).await,
        Template::Vqa => Prompt::Question,
        Template::Raw => Prompt::Raw,
        Template::Caption => |beginning| Prompt::Caption { beginning },
    };
    sitting.answer(texts.into_iter().map(prompt).collect(), 0).await
}

impl Sitting {
    /// The answers to some prompts, the first of which is that of question `first`.
    async fn answer(&self, prompts: Vec<Prompt>, first: usize) -> Result<Vec<Answer>, HttpError> {
        let rows = prompts.iter().map(|prompt| (self.image.clone(), prompt.text())).collect();
        let place = move |number: usize| format!("questions[{}]", first + number);
        let jobs = self.admitted.prepare_jobs(rows, self.params.clone(), place).await?;
        Ok(self.admitted.answers(jobs).await?)
    }

    /// The answers to questions that each stand behind all before them.
    async fn chat(&self, questions: Vec<String>) -> Result<Vec<Answer>, HttpError> {
        let (mut turns, mut answered) = (Vec::new(), Vec::new());
        for (number, question) in questions.into_iter().enumerate() {
            let prompt = Prompt::Chat { turns: turns.clone(), question: question.clone() };
            for answer in self.answer(vec![prompt], number).await? {
                turns.push(Turn { question: question.clone(), answer: answer.best.text.clone() });
                answered.push(answer);
            }
        }
        Ok(answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_questions_a_caption_is_asked_for_and_with_some_they_are_meant_as_such() {
        let question = || vec!["why?".to_owned()];
        assert_eq!(texts(vec![], None).unwrap(), (vec![String::new()], Template::Caption));
        assert_eq!(texts(question(), None).unwrap(), (question(), Template::Vqa));
        assert_eq!(texts(vec![], Some(Template::Raw)).unwrap(), (vec![String::new()], Template::Raw));
        assert_eq!(texts(vec![" ".into()], Some(Template::Caption)).unwrap().0, [" "]);
    }

    #[test]
    fn a_question_that_asks_nothing_is_named() {
        for template in [None, Some(Template::Vqa), Some(Template::Chat)] {
            let message = texts(vec!["why?".into(), " ".into()], template).unwrap_err().to_string();
            assert!(message.starts_with("questions[1] is empty"), "{message}");
        }
        assert!(texts(vec![], Some(Template::Vqa)).unwrap_err().to_string().starts_with("questions is empty"));
        assert!(texts(vec!["?".into(); 257], None).unwrap_err().to_string().contains("256 at most"));
    }
}
