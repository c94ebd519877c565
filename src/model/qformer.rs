//! The Q-Former with its language projection: `image_embeds -> image_prefix [batch, num_query_tokens, decoder hidden]`.
//!
//! Its other output, `query_output [batch, num_query_tokens, hidden]`, is for embeddings; scoring does not read it.

use ort::value::{Tensor, TensorElementType};

use crate::bundle::Bundle;
use crate::engine::QueryOutput;
use crate::runtime::{Expected, GraphSession, Runtime, RuntimeError};

const GRAPH: &str = "Q-Former";

/// The session of the Q-Former.
#[derive(Debug)]
pub struct QFormer {
    session: GraphSession,
    image_embeds: String,
    image_prefix: String,
    query_output: String,
    hidden_size: usize,
    input_shape: [usize; 3],
}

impl QFormer {
    pub(super) fn open(runtime: &Runtime, bundle: &Bundle) -> Result<Self, RuntimeError> {
        let manifest = bundle.manifest();
        let (vision, qformer) = (&manifest.vision_encoder, &manifest.qformer);
        let f32 = TensorElementType::Float32;
        let input = [None, Some(vision.num_tokens), Some(vision.hidden_size)];
        let query_output = [None, Some(qformer.num_query_tokens), Some(qformer.hidden_size)];
        let image_prefix = [None, Some(qformer.num_query_tokens), Some(manifest.decoder.hidden_size)];
        let outputs = [
            Expected::new(&qformer.outputs.query_output, f32, &query_output),
            Expected::new(&qformer.outputs.image_prefix, f32, &image_prefix),
        ];
        let inputs = [Expected::new(&qformer.inputs.image_embeds, f32, &input)];
        Ok(Self {
            session: GraphSession::open(runtime, GRAPH, &bundle.path(&qformer.file), &inputs, &outputs)?,
            image_embeds: qformer.inputs.image_embeds.clone(),
            image_prefix: qformer.outputs.image_prefix.clone(),
            query_output: qformer.outputs.query_output.clone(),
            hidden_size: qformer.hidden_size,
            input_shape: [1, vision.num_tokens, vision.hidden_size],
        })
    }

    /// The elements of `image_prefix [num_query_tokens, decoder hidden]` for the `image_embeds` of one picture.
    pub(super) fn run(&mut self, image_embeds: Vec<f32>) -> Result<Vec<f32>, RuntimeError> {
        let tensor = self.input(image_embeds)?;
        self.session.run(ort::inputs![self.image_embeds.as_str() => tensor], &self.image_prefix)
    }

    /// `query_output` for the `image_embeds` of one picture.
    pub(super) fn embed(&mut self, image_embeds: Vec<f32>) -> Result<QueryOutput, RuntimeError> {
        let tensor = self.input(image_embeds)?;
        let elements = self.session.run(ort::inputs![self.image_embeds.as_str() => tensor], &self.query_output)?;
        Ok(QueryOutput::new(self.hidden_size, elements))
    }

    fn input(&self, image_embeds: Vec<f32>) -> Result<Tensor<f32>, RuntimeError> {
        Tensor::from_array((self.input_shape, image_embeds))
            .map_err(|source| RuntimeError::Run { graph: GRAPH, source })
    }
}
