//! The ViT: `pixel_values [batch, 3, height, width] -> image_embeds [batch, num_tokens, hidden]`.

use ort::value::{TensorElementType, TensorRef};

use crate::bundle::Bundle;
use crate::image::PixelValues;
use crate::runtime::{Expected, GraphSession, Runtime, RuntimeError};

const GRAPH: &str = "vision encoder";

/// The session of the vision encoder.
#[derive(Debug)]
pub struct VisionEncoder {
    session: GraphSession,
    pixel_values: String,
    image_embeds: String,
}

impl VisionEncoder {
    pub(super) fn open(runtime: &Runtime, bundle: &Bundle) -> Result<Self, RuntimeError> {
        let manifest = bundle.manifest();
        let (image, vision) = (&manifest.image, &manifest.vision_encoder);
        let shape = [None, Some(3), Some(image.height as usize), Some(image.width as usize)];
        let input = Expected::new(&vision.inputs.pixel_values, TensorElementType::Float32, &shape);
        let shape = [None, Some(vision.num_tokens), Some(vision.hidden_size)];
        let output = Expected::new(&vision.outputs.image_embeds, TensorElementType::Float32, &shape);
        Ok(Self {
            session: GraphSession::open(runtime, GRAPH, &bundle.path(&vision.file), &[input], &[output])?,
            pixel_values: vision.inputs.pixel_values.clone(),
            image_embeds: vision.outputs.image_embeds.clone(),
        })
    }

    /// Encodes one picture. The elements of `image_embeds [1, num_tokens, hidden]`.
    pub(super) fn run(&mut self, pixel_values: &PixelValues) -> Result<Vec<f32>, RuntimeError> {
        let batch = pixel_values.view().insert_axis(ndarray::Axis(0));
        let tensor = TensorRef::from_array_view(batch).map_err(|source| RuntimeError::Run { graph: GRAPH, source })?;
        self.session.run(ort::inputs![self.pixel_values.as_str() => tensor], &self.image_embeds)
    }
}
