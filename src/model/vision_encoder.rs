//! The ViT: `pixel_values [batch, 3, height, width] -> image_embeds [batch, num_tokens, hidden]`.

use ort::value::TensorElementType;

use super::Devices;
use crate::bundle::Bundle;
use crate::image::PixelValues;
use crate::runtime::{Binding, Buffer, Expected, GraphSession, Part, Place, Runtime, RuntimeError, TensorName};

const GRAPH: &str = "vision encoder";

/// The session of the vision encoder.
#[derive(Debug)]
pub struct VisionEncoder {
    session: GraphSession,
    pixel_values: TensorName,
    image_embeds: TensorName,
    /// The pixels of a run, on the host.
    pixels: Buffer,
    /// Of an image.
    input_shape: [usize; 3],
    /// Of an image.
    output_shape: [usize; 2],
    place: Place,
}

impl VisionEncoder {
    pub(super) fn open(runtime: &Runtime, bundle: &Bundle, devices: &Devices) -> Result<Self, RuntimeError> {
        let manifest = bundle.manifest();
        let image = &manifest.image;
        let vision = &manifest.vision_encoder;
        let input_shape = [3, image.height as usize, image.width as usize];
        let output_shape = [vision.num_tokens, vision.hidden_size];
        let f32 = TensorElementType::Float32;
        let [channels, height, width] = input_shape.map(Some);
        let input = Expected::new(&vision.inputs.pixel_values, f32, &[None, channels, height, width]);
        let output =
            Expected::new(&vision.outputs.image_embeds, f32, &[None, Some(output_shape[0]), Some(output_shape[1])]);
        let provider = devices.vision_encoder(manifest)?;
        let path = bundle.path(&vision.file);
        let session = GraphSession::open(runtime, GRAPH, &path, &provider, &[input], &[output])?;
        let image_bytes = input_shape.iter().product::<usize>() * size_of::<f32>();
        Ok(Self {
            pixel_values: session.tensor_name(&vision.inputs.pixel_values)?,
            image_embeds: session.tensor_name(&vision.outputs.image_embeds)?,
            session,
            pixels: Buffer::on_host(&provider.place(), devices.images_at_once() * image_bytes)?,
            input_shape,
            output_shape,
            place: provider.place(),
        })
    }

    /// Returns the place of its tensors.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Returns channels, height and width of an image.
    pub(super) fn input_shape(&self) -> [usize; 3] {
        self.input_shape
    }

    /// Returns the bytes of the `image_embeds` of an image.
    pub(super) fn output_bytes(&self) -> usize {
        self.output_shape.iter().product::<usize>() * size_of::<f32>()
    }

    /// Encodes images into `image_embeds`, as `[images.len(), num_tokens, hidden]`.
    pub(super) fn run(&mut self, images: &[&PixelValues], image_embeds: &mut Buffer) -> Result<(), RuntimeError> {
        let failed = self.session.failed();
        let image_len: usize = self.input_shape.iter().product();
        let gathered = self.pixels.host_mut().and_then(|pixels| pixels.get_mut(..images.len() * image_len));
        let gathered = gathered.ok_or_else(|| failed(ort::Error::new("there are more images than a run takes")))?;
        for (place, image) in gathered.chunks_exact_mut(image_len).zip(images) {
            let in_pieces = || failed(ort::Error::new("the pixels of an image are not in one piece"));
            place.copy_from_slice(image.as_slice().ok_or_else(in_pieces)?);
        }
        let [channels, height, width] = self.input_shape;
        let [tokens, hidden] = self.output_shape;
        let mut run = || {
            let mut binding = Binding::new(self.session.session())?;
            let input = [images.len(), channels, height, width];
            binding.input(&self.pixel_values, &self.pixels, Part::f32(&input))?;
            binding.output(&self.image_embeds, image_embeds, Part::f32(&[images.len(), tokens, hidden]))?;
            binding.run(self.session.session_mut())
        };
        run().map_err(failed)
    }
}
