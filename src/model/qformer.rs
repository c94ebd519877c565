//! The Q-Former with its language projection: `image_embeds -> image_prefix [batch,
//! num_query_tokens, decoder hidden]`.
//!
//! Its other output, `query_output [batch, num_query_tokens, hidden]`, is for embeddings; scoring
//! does not read it.

use ort::value::TensorElementType;

use super::Devices;
use crate::bundle::Bundle;
use crate::engine::{ImagePrefix, QueryOutput};
use crate::runtime::{Binding, Buffer, Expected, GraphSession, Part, Pieces, Place, Runtime, RuntimeError, TensorName};

const GRAPH: &str = "Q-Former";

/// The session of the Q-Former.
#[derive(Debug)]
pub struct QFormer {
    session: GraphSession,
    names: Names,
    /// The outputs of a run.
    outputs: Outputs,
    /// Of an image.
    input_shape: [usize; 2],
    /// The place of the prefixes.
    prefix_place: Place,
    place: Place,
}

#[derive(Debug)]
struct Names {
    image_embeds: TensorName,
    image_prefix: TensorName,
    query_output: TensorName,
}

#[derive(Debug)]
struct Outputs {
    image_prefix: Buffer,
    /// Of an image.
    prefix_shape: [usize; 2],
    /// On the host: small, and read only for embeddings.
    query_output: Buffer,
    /// Of an image.
    query_shape: [usize; 2],
}

impl QFormer {
    /// Opens the graph. `decoder` is the place where image prefixes are read.
    pub(super) fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        devices: &Devices,
        decoder: &Place,
    ) -> Result<Self, RuntimeError> {
        let manifest = bundle.manifest();
        let vision = &manifest.vision_encoder;
        let qformer = &manifest.qformer;
        let input_shape = [vision.num_tokens, vision.hidden_size];
        let query_shape = [qformer.num_query_tokens, qformer.hidden_size];
        let prefix_shape = [qformer.num_query_tokens, manifest.decoder.hidden_size];
        let expected = |name: &str, [rows, width]: [usize; 2]| {
            Expected::new(name, TensorElementType::Float32, &[None, Some(rows), Some(width)])
        };
        let outputs = [
            expected(&qformer.outputs.query_output, query_shape),
            expected(&qformer.outputs.image_prefix, prefix_shape),
        ];
        let inputs = [expected(&qformer.inputs.image_embeds, input_shape)];
        let provider = devices.qformer(manifest)?;
        let session = GraphSession::open(runtime, GRAPH, &bundle.path(&qformer.file), &provider, &inputs, &outputs)?;
        let place = provider.place();
        let prefix_place = place.between(decoder);
        let bytes = |shape: [usize; 2]| devices.images_at_once() * shape.iter().product::<usize>() * size_of::<f32>();
        Ok(Self {
            names: Names {
                image_embeds: session.tensor_name(&qformer.inputs.image_embeds)?,
                image_prefix: session.tensor_name(&qformer.outputs.image_prefix)?,
                query_output: session.tensor_name(&qformer.outputs.query_output)?,
            },
            outputs: Outputs {
                image_prefix: Buffer::new(&prefix_place, bytes(prefix_shape))?,
                prefix_shape,
                query_output: Buffer::on_host(&place, bytes(query_shape))?,
                query_shape,
            },
            session,
            input_shape,
            prefix_place,
            place,
        })
    }

    /// Returns the place of its tensors.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Returns the image prefixes of `count` images from their `image_embeds`.
    pub(super) fn run(&mut self, image_embeds: &Buffer, images: usize) -> Result<Vec<ImagePrefix>, RuntimeError> {
        self.run_both(image_embeds, images)?;
        let bytes = self.outputs.prefix_shape.iter().product::<usize>() * size_of::<f32>();
        // Each prefix has its own memory, because each is evicted at its own time.
        let prefixes = (0..images).map(|image| {
            let mut prefix = Buffer::new(&self.prefix_place, bytes)?;
            prefix.copy_from(&self.outputs.image_prefix, &Pieces::one(image * bytes, 0, bytes))?;
            prefix.wait()?;
            Ok(ImagePrefix::new(bytes, prefix))
        });
        prefixes.collect()
    }

    /// Returns the `query_output` of one image from its `image_embeds`.
    pub(super) fn embed(&mut self, image_embeds: &Buffer) -> Result<QueryOutput, RuntimeError> {
        self.run_both(image_embeds, 1)?;
        let [rows, hidden] = self.outputs.query_shape;
        let elements = self.outputs.query_output.host().unwrap_or_default();
        Ok(QueryOutput::new(hidden, elements[..rows * hidden].to_vec()))
    }

    fn run_both(&mut self, image_embeds: &Buffer, images: usize) -> Result<(), RuntimeError> {
        let failed = self.session.failed();
        let Self { session, names, outputs, .. } = self;
        let [image, prefix, query] =
            [self.input_shape, outputs.prefix_shape, outputs.query_shape].map(|[rows, width]| [images, rows, width]);
        let mut run = || {
            let mut binding = Binding::new(session.session())?;
            binding.input(&names.image_embeds, image_embeds, Part::f32(&image))?;
            binding.output(&names.image_prefix, &mut outputs.image_prefix, Part::f32(&prefix))?;
            binding.output(&names.query_output, &mut outputs.query_output, Part::f32(&query))?;
            binding.run(session.session_mut())
        };
        run().map_err(failed)
    }
}
