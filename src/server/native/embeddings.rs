//! `POST /v1/embeddings`: what the Q-Former sees in images, as vectors to compare and to search.
//!
//! An image is encoded anew each time, and what comes out is not kept: the engine keeps of an image only what its decoder
//! reads. For that reason a stored image cannot be embedded.

use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{Faults, NativeError};
use super::form::{FileBytes, Form, Kind, Part};
use super::input::{Input, image_sources, read};
use crate::engine::{DecodedImage, Embedding, Engine, QueryOutput, TimingsMs};
use crate::scoring::{Located, ScoringError};
use crate::server::body::blocking;
use crate::server::examples::EXAMPLE_IMAGE;
use crate::server::{HttpError, State};

const FORM: Form =
    Form(&[Part::new("image", Kind::Images), Part::new("pooling", Kind::Text), Part::new("normalize", Kind::Json)]);

/// Images to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"image": [EXAMPLE_IMAGE], "normalize": true}))]
pub(super) struct EmbeddingsRequest {
    #[schema(required = true, value_type = Images)]
    image: Option<Images>,
    pooling: Option<Pooling>,
    /// Whether every vector is brought to length 1; false if not given.
    #[schema(default = false)]
    normalize: Option<bool>,
}

/// An image or a list of them: base64, a data URI, or a URL.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a string or a list of strings")]
enum Images {
    One(String),
    Many(Vec<String>),
}

/// How an image's vectors, one for each query of the Q-Former, are combined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(default = "mean")]
pub(super) enum Pooling {
    /// All of them are given.
    None,
    /// Their mean is given.
    #[default]
    Mean,
}

/// The same as a form.
#[derive(ToSchema)]
#[expect(dead_code, reason = "read by the macro alone")]
pub(super) struct EmbeddingsForm {
    /// An image's file; once for each.
    #[schema(required = false, inline, value_type = Vec<FileBytes>)]
    file: Option<Vec<Vec<u8>>>,
    /// An image string; once for each. These come before the files.
    image: Option<Vec<String>>,
    pooling: Option<Pooling>,
    /// Whether every vector is brought to length 1.
    normalize: Option<bool>,
}

/// The vectors.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmbeddingsResponse {
    /// One for each image, in their order.
    embeddings: Vec<ImageEmbedding>,
    /// Of each: `[hidden]`, or `[queries, hidden]` without pooling.
    shape: Vec<usize>,
    pooling: Pooling,
    normalized: bool,
}

/// The embedding of an image.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ImageEmbedding {
    values: Values,
    timings_ms: TimingsMs,
}

/// A vector, or one for each query.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
enum Values {
    Pooled(Vec<f32>),
    Whole(Vec<Vec<f32>>),
}

impl Values {
    fn new(output: &QueryOutput, pooling: Pooling, is_normalized: bool) -> Self {
        let finish = |vector| if is_normalized { normalized(vector) } else { vector };
        match pooling {
            Pooling::None => Self::Whole(output.rows().map(|row| finish(row.to_vec())).collect()),
            Pooling::Mean => Self::Pooled(finish(mean(output))),
        }
    }

    fn shape(&self) -> Vec<usize> {
        match self {
            Self::Pooled(vector) => vec![vector.len()],
            Self::Whole(vectors) => vec![vectors.len(), vectors.first().map_or(0, Vec::len)],
        }
    }
}

fn mean(output: &QueryOutput) -> Vec<f32> {
    let rows = output.rows();
    let count = rows.len().max(1) as f64;
    let mut sums: Vec<f64> = Vec::new();
    for row in rows {
        sums.resize(row.len(), 0.0);
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

/// At length 1; a vector of zeros stays as it is.
fn normalized(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
    vector
}

impl EmbeddingsResponse {
    fn new(embeddings: Vec<Embedding>, pooling: Pooling, normalized: bool) -> Self {
        let embedding = |Embedding { query_output, timings }: Embedding| ImageEmbedding {
            values: Values::new(&query_output, pooling, normalized),
            timings_ms: timings.into(),
        };
        let embeddings: Vec<_> = embeddings.into_iter().map(embedding).collect();
        let shape = embeddings.first().map(|embedding| embedding.values.shape()).unwrap_or_default();
        Self { embeddings, shape, pooling, normalized }
    }
}

/// Returns the Q-Former's features of images.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "native",
    operation_id = "embeddings",
    request_body(content((EmbeddingsRequest = "application/json"), (EmbeddingsForm = "multipart/form-data"))),
    responses((status = 200, description = "A vector for each image.", body = EmbeddingsResponse), Faults),
)]
pub(super) async fn post(
    request: HttpRequest,
    state: web::Data<State>,
    payload: web::Payload,
) -> Result<HttpResponse, NativeError> {
    let scorer = state.scorer()?;
    let Input { request, files } = read::<EmbeddingsRequest>(&request, &state, payload, &FORM).await?;
    let EmbeddingsRequest { image, pooling, normalize } = request;
    let images = blocking(move || {
        let images = match &image {
            None => &[],
            Some(Images::One(image)) => std::slice::from_ref(image),
            Some(Images::Many(images)) => images.as_slice(),
        };
        image_sources(&images.iter().map(String::as_str).collect::<Vec<_>>(), files)
    });
    let images = images.await?;
    let admitted = scorer.admit(images.len())?;
    let engine = scorer.engine();
    let files = admitted.locate(images, place).await?.into_iter().enumerate().map(file);
    let decoded = decode(engine, files.collect::<Result<_, _>>()?).await?;
    // All are handed over before the first is awaited, and the first fault ends them all.
    let embeddings = try_join_all(
        decoded.into_iter().map(|image| engine.embed(image, Some(admitted.deadline()), admitted.permit())),
    );
    let embeddings = embeddings.await.map_err(|error| admitted.failed(error))?;
    embeddings.iter().for_each(|embedding| state.metrics().observe_row(&embedding.timings));
    let respond =
        move || Ok(EmbeddingsResponse::new(embeddings, pooling.unwrap_or_default(), normalize.unwrap_or(false)));
    Ok(HttpResponse::Ok().json(blocking(respond).await?))
}

fn place(number: usize) -> String {
    format!("image {number}")
}

fn file((number, located): (usize, Located)) -> Result<Bytes, HttpError> {
    match located {
        Located::File(file) => Ok(file),
        Located::Stored(_) => Err(HttpError::BadRequest(format!(
            "{}: it is stored, and of a stored image only what is needed for questions is kept; send its file or a URL",
            place(number)
        ))),
    }
}

async fn decode(engine: &Engine, files: Vec<Bytes>) -> Result<Vec<DecodedImage>, HttpError> {
    let engine = engine.clone();
    blocking(move || {
        let decoded = engine.decode_images(&files).into_iter().enumerate();
        decoded
            .map(|(number, image)| image.map_err(|error| ScoringError::from(error).at(&place(number)).into()))
            .collect()
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_taken_over_the_queries_and_rows_are_given_without_it() {
        let output = QueryOutput::new(2, vec![1.0, 2.0, 3.0, 6.0, 5.0, 4.0]);
        assert_eq!(Values::new(&output, Pooling::Mean, false), Values::Pooled(vec![3.0, 4.0]));
        assert_eq!(Values::new(&output, Pooling::Mean, true), Values::Pooled(vec![0.6, 0.8]));
        let whole = Values::new(&output, Pooling::None, false);
        assert_eq!(whole.shape(), [3, 2]);
        assert_eq!(whole, Values::Whole(vec![vec![1.0, 2.0], vec![3.0, 6.0], vec![5.0, 4.0]]));
    }

    #[test]
    fn a_vector_of_zeros_has_no_direction_and_stays() {
        assert_eq!(normalized(vec![0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(normalized(vec![0.0, -1e-30]), [0.0, -1.0]);
    }
}
