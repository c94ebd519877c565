//! The traits that a model implements for the engine. `model` implements them on ONNX Runtime,
//! tests by script.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::image::PixelValues;

/// The first half of a model. The image worker owns it.
pub trait ImageEncoder: Send {
    /// Returns the most images that a run of [`ImageEncoder::encode`] takes, at least 1. More than
    /// 1 pays only where a batch is faster than its images one by one.
    fn images_at_once(&self) -> usize {
        1
    }

    /// Encodes a batch of images in one run, and returns one prefix for each image, in order.
    ///
    /// # Errors
    /// [`ModelError`] when a run fails.
    fn encode(&mut self, images: &[&PixelValues]) -> Result<Vec<EncodedImage>, ModelError>;

    /// Returns the Q-Former's features of one image, before their projection to the decoder's
    /// width.
    ///
    /// # Errors
    /// [`ModelError`] when a run fails.
    fn embed(&mut self, pixel_values: &PixelValues) -> Result<EmbeddedImage, ModelError>;
}

/// The second half of a model. The decoder worker owns it. Rows live in slots `0..limits().slots`.
pub trait StepDecoder: Send {
    /// Returns the number and length of the rows that there is memory for.
    fn limits(&self) -> DecoderLimits;

    /// Feeds one piece of a prompt to each slot from `first` on. The row of a slot already holds
    /// the positions before its piece. Callers pass several pieces only if all of them begin their
    /// prompt and reach into its text. Returns the logits of each piece's last position,
    /// `[pieces.len(), vocab]`.
    ///
    /// # Errors
    /// [`ModelError`] when the run fails. The rows are then unchanged.
    fn prefill(&mut self, first: usize, pieces: &[PromptPiece<'_>]) -> Result<Logits, ModelError>;

    /// Copies the first `len` positions of the row in `slot` into the memory of `unneeded`: fresh
    /// memory takes far longer to write. Returns an empty row when there is no memory for the copy.
    ///
    /// Copies report no errors. If a device fails during one, the next run reports it.
    fn save_row(&mut self, slot: usize, len: usize, unneeded: SavedRow) -> SavedRow;

    /// Allocates memory for a row of `len` positions, for a later [`StepDecoder::save_row`].
    fn spare_row(&mut self, len: usize) -> SavedRow {
        let _ = len;
        SavedRow::default()
    }

    /// Replaces the row in `slot` by the first `len` positions of a saved row.
    fn restore_row(&mut self, slot: usize, saved: &SavedRow, len: usize);

    /// Runs one decode step: feeds `tokens[i]` to slot `i`. Returns logits `[tokens.len(), vocab]`.
    ///
    /// # Errors
    /// [`ModelError`] when the run fails. All rows are then unchanged, so the step can be repeated.
    fn decode(&mut self, tokens: &[i64]) -> Result<Logits, ModelError>;

    /// Replaces the row in slot `to` by the first `positions.end` positions of the row in slot
    /// `from`. Both rows already agree before `positions.start`.
    fn copy_row(&mut self, from: usize, to: usize, positions: Range<usize>);

    /// Releases the memory of a slot's positions from `from` on, and discards their content.
    fn release(&mut self, slot: usize, from: usize);

    /// Returns the number of positions for which a slot holds memory.
    fn held(&self, slot: usize) -> usize;
}

/// Some positions of a prompt, which consists of an image prefix and the ids of its text.
#[derive(Debug, Clone)]
pub struct PromptPiece<'a> {
    /// The image prefix.
    pub image: &'a ImagePrefix,
    /// The ids of the text.
    pub input_ids: &'a [i64],
    /// The positions to feed. Position 0 is the first of the image.
    pub positions: Range<usize>,
}

/// The decoder's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderLimits {
    /// The most rows decoded together.
    pub slots: usize,
    /// The most positions of a row: image prefix, text and new tokens.
    pub max_len: usize,
    /// The most positions of all rows together. A job waits until all positions that it can reach
    /// are free.
    pub kv_tokens: usize,
    /// Positions of the image prefix.
    pub prefix_len: usize,
    /// Bytes of KV cache for one position.
    pub position_bytes: usize,
    /// The most positions of a prompt in one run. A prompt gives the same bits however it is cut
    /// into pieces of 2 to `piece` positions.
    pub piece: usize,
}

/// A copy of the keys and values of some positions, in the decoder's own layout and memory.
#[derive(Debug, Default)]
pub struct SavedRow {
    len: usize,
    memory: Option<Box<dyn Any + Send>>,
}

impl SavedRow {
    /// Wraps `len` positions in the decoder's own memory.
    #[must_use]
    pub fn new(len: usize, memory: impl Any + Send) -> Self {
        Self { len, memory: Some(Box::new(memory)) }
    }

    /// Returns the number of positions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether it holds no position.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the memory, if it is of this type.
    #[must_use]
    pub fn memory<M: Any>(&self) -> Option<&M> {
        self.memory.as_ref()?.downcast_ref()
    }

    /// Takes the memory for another use, if it is of this type.
    #[must_use]
    pub fn into_memory<M: Any>(self) -> Option<M> {
        self.memory?.downcast().ok().map(|memory| *memory)
    }
}

/// The `image_prefix [num_query_tokens, hidden]` of one image, in the model's own memory. Clones
/// share it.
#[derive(Debug, Clone)]
pub struct ImagePrefix {
    bytes: usize,
    memory: Arc<dyn Any + Send + Sync>,
}

impl ImagePrefix {
    /// Wraps `bytes` bytes of the model's own memory.
    #[must_use]
    pub fn new(bytes: usize, memory: impl Any + Send + Sync) -> Self {
        Self { bytes, memory: Arc::new(memory) }
    }

    /// Returns its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the memory, if it is of this type.
    #[must_use]
    pub fn memory<M: Any>(&self) -> Option<&M> {
        self.memory.downcast_ref()
    }
}

/// An image prefix, and the time of its two stages.
#[derive(Debug, Clone)]
pub struct EncodedImage {
    /// The prefix.
    pub prefix: ImagePrefix,
    /// Time in the vision encoder.
    pub vision_encoder: Duration,
    /// Time in the Q-Former.
    pub qformer: Duration,
}

/// The `query_output [num_query_tokens, hidden]` of one image: the features that the Q-Former's
/// queries found.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryOutput {
    hidden: usize,
    elements: Vec<f32>,
}

impl QueryOutput {
    /// Wraps row-major elements. `hidden` is the length of a row, at least 1.
    #[must_use]
    pub fn new(hidden: usize, elements: Vec<f32>) -> Self {
        Self { hidden, elements }
    }

    /// Returns the features of each query.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.elements.chunks_exact(self.hidden)
    }

    pub(super) fn is_finite(&self) -> bool {
        self.elements.iter().all(|element| element.is_finite())
    }
}

/// The features of an image, and the time of their two stages.
#[derive(Debug, Clone)]
pub struct EmbeddedImage {
    /// The features.
    pub query_output: QueryOutput,
    /// Time in the vision encoder.
    pub vision_encoder: Duration,
    /// Time in the Q-Former.
    pub qformer: Duration,
}

/// Logits `[rows, vocab]`. The memory may be the model's, which reuses it when this is dropped.
#[derive(Clone)]
pub struct Logits {
    vocab: usize,
    rows: usize,
    elements: Arc<dyn AsRef<[f32]> + Send + Sync>,
}

impl Logits {
    /// Wraps row-major elements. `vocab` is the length of a row, at least 1.
    #[must_use]
    pub fn new(vocab: usize, elements: Vec<f32>) -> Self {
        Self { vocab, rows: elements.len() / vocab, elements: Arc::new(elements) }
    }

    /// Wraps the first `rows` rows of the model's memory.
    #[must_use]
    pub fn lent(vocab: usize, rows: usize, elements: Arc<dyn AsRef<[f32]> + Send + Sync>) -> Self {
        Self { vocab, rows, elements }
    }

    /// Returns the rows, in the order of the slots.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        (*self.elements).as_ref().chunks_exact(self.vocab).take(self.rows)
    }
}

impl fmt::Debug for Logits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logits [{}, {}]", self.rows, self.vocab)
    }
}

/// A failure of a model, with its cause.
#[derive(Debug)]
pub struct ModelError(Box<dyn Error + Send + Sync>);

impl ModelError {
    /// Wraps a cause.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for ModelError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
