//! `POST /v1/rank`: how likely given answers are behind an image and a text.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{Faults, NativeError};
use super::form::{Form, Kind, Part};
use super::input::{Input, image_source, read};
use crate::engine::{RankJob, RankedCandidate, Ranking, TimingsMs};
use crate::server::State;
use crate::server::body::blocking;
use crate::server::examples::EXAMPLE_IMAGE;

const FORM: Form = Form(&[
    Part::new("image", Kind::Image),
    Part::new("text", Kind::Text),
    Part { name: "candidate", key: "candidates", kind: Kind::Texts },
    Part::new("with_end_token", Kind::Json),
]);

/// Answers to rank.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "image": EXAMPLE_IMAGE,
    "text": "Question: what color is the star? Answer:",
    "candidates": ["red", "yellow"],
}))]
pub(super) struct RankRequest {
    /// An image: base64, a data URI, a URL, or the id of a stored one.
    #[schema(required = true, value_type = String)]
    image: Option<String>,
    /// The prompt, as the model reads it; empty to rank captions.
    text: Option<String>,
    /// The answers. A space is set between the text and each, unless one of the two has it.
    #[schema(min_items = 1, max_items = 256)]
    candidates: Vec<String>,
    /// Whether the end of the answer counts as its last token; true if not given. "cat" is then not favoured over "cat food".
    #[schema(default = true)]
    with_end_token: Option<bool>,
}

/// The same as a form.
#[derive(ToSchema)]
#[expect(dead_code, reason = "read by the macro alone")]
pub(super) struct RankForm {
    /// An image's file; or `image`.
    #[schema(required = false, format = Binary, content_media_type = "application/octet-stream", value_type = String)]
    file: Option<Vec<u8>>,
    /// An image string.
    image: Option<String>,
    /// The prompt.
    text: Option<String>,
    /// An answer; once for each.
    candidate: Vec<String>,
    /// Whether the end of the answer counts.
    with_end_token: Option<bool>,
}

/// How likely the answers are.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RankResponse {
    /// The likeliest candidate.
    best: String,
    /// Places in `candidates`, the likeliest first; of equal ones the first given.
    ranking: Vec<usize>,
    /// In the order in which they were given.
    candidates: Vec<RankedCandidate>,
    /// Warnings about the prompt.
    warnings: Vec<String>,
    timings_ms: TimingsMs,
}

impl RankResponse {
    fn new(ranking: Ranking) -> Self {
        let Ranking { candidates, warnings, timings } = ranking;
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by(|a, b| candidates[*b].sum.total_cmp(&candidates[*a].sum));
        let best = order.first().map(|best| candidates[*best].text.clone()).unwrap_or_default();
        Self { best, ranking: order, candidates, warnings, timings_ms: timings.into() }
    }
}

/// Ranks given answers by their likelihood.
#[utoipa::path(
    post,
    path = "/v1/rank",
    tag = "native",
    operation_id = "rank",
    request_body(content((RankRequest = "application/json"), (RankForm = "multipart/form-data"))),
    responses((status = 200, description = "How likely they are.", body = RankResponse), Faults),
)]
pub(super) async fn post(
    request: HttpRequest,
    state: web::Data<State>,
    payload: web::Payload,
) -> Result<HttpResponse, NativeError> {
    let scorer = state.scorer()?;
    let Input { request, files } = read::<RankRequest>(&request, &state, payload, &FORM).await?;
    let RankRequest { image, text, candidates, with_end_token } = request;
    let image = blocking(move || image_source(image.as_deref(), files)).await?;
    let admitted = scorer.admit(1)?;
    let image = admitted.open_image(image, "image").await?;
    let job = RankJob {
        image,
        text: text.unwrap_or_default(),
        candidates,
        with_end_token: with_end_token.unwrap_or(true),
        deadline: Some(admitted.deadline()),
    };
    let engine = scorer.engine().clone();
    let (pending, admitted) = blocking(move || Ok((engine.rank(&job, admitted.permit())?, admitted))).await?;
    let ranking = pending.answer().await.map_err(|error| admitted.failed(error))?;
    state.metrics().observe_row(&ranking.timings);
    Ok(HttpResponse::Ok().json(RankResponse::new(ranking)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Timings;

    #[test]
    fn the_likeliest_comes_first_and_of_equals_the_first_given() {
        let candidate = |(text, sum): (&str, f32)| RankedCandidate {
            text: text.into(),
            token_ids: vec![1],
            logprobs: vec![sum],
            sum,
            mean: sum,
            probability: 0.2,
        };
        let candidates =
            [("a", -3.0), ("b", -1.0), ("c", f32::NEG_INFINITY), ("d", -1.0)].map(candidate).into_iter().collect();
        let ranking = Ranking { candidates, warnings: vec![], timings: Timings::default() };
        let response = RankResponse::new(ranking);
        assert_eq!((response.best.as_str(), response.ranking), ("b", vec![1, 3, 0, 2]));
    }
}
