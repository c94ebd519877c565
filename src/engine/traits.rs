//! What the engine needs of a model. `model` implements it on ONNX Runtime; tests implement it by script.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::image::PixelValues;

/// The first half of a model: owned by the image worker.
pub trait ImageEncoder: Send {
    /// How many images a run of [`ImageEncoder::encode`] takes at most, one at least: as many as are faster together.
    fn images_at_once(&self) -> usize {
        1
    }

    /// Images through vision encoder and Q-Former, in one run. What comes of each, in their order.
    ///
    /// # Errors
    /// [`ModelError`] when a run fails.
    fn encode(&mut self, images: &[&PixelValues]) -> Result<Vec<EncodedImage>, ModelError>;

    /// One image as the Q-Former sees it, before its features are made fit for the decoder.
    ///
    /// # Errors
    /// [`ModelError`] when a run fails.
    fn embed(&mut self, pixel_values: &PixelValues) -> Result<EmbeddedImage, ModelError>;
}

/// The second half: owned by the decoder worker. Rows live in slots `0..limits().slots`.
pub trait StepDecoder: Send {
    /// How many rows of which length there is memory for.
    fn limits(&self) -> DecoderLimits;

    /// Feeds a piece of a prompt to each of the slots from `first` on, whose rows hold the positions before it already.
    /// Several at once only where all of them begin their prompt and reach into its text. Logits of the last position of
    /// each, `[pieces.len(), vocab]`.
    ///
    /// # Errors
    /// [`ModelError`] when the run fails; the rows then hold what they held before.
    fn prefill(&mut self, first: usize, pieces: &[PromptPiece<'_>]) -> Result<Logits, ModelError>;

    /// A copy of the first `len` positions of the row in `slot`, in the memory of one that is not needed any more: fresh
    /// memory takes far longer to write. An empty row when there is no memory for it. This and the other copies cannot fail by
    /// themselves: a model whose memory does says so with the next run.
    fn save_row(&mut self, slot: usize, len: usize, unneeded: SavedRow) -> SavedRow;

    /// Memory for a row of `len` positions to be saved in later, as one that is not needed any more.
    fn spare_row(&mut self, len: usize) -> SavedRow {
        let _ = len;
        SavedRow::default()
    }

    /// Makes the row in `slot` the first `len` positions of a saved one.
    fn restore_row(&mut self, slot: usize, saved: &SavedRow, len: usize);

    /// One decode step: feeds `tokens[i]` to slot `i`. Logits `[tokens.len(), vocab]`.
    ///
    /// # Errors
    /// [`ModelError`] when the run fails; all rows are then as before, and the step can be repeated.
    fn decode(&mut self, tokens: &[i64]) -> Result<Logits, ModelError>;

    /// Makes the row in slot `to` equal to the first `positions.end` positions of the one in slot `from`, of which those
    /// before `positions.start` are known to be equal already.
    fn copy_row(&mut self, from: usize, to: usize, positions: Range<usize>);

    /// Gives back the memory of a slot's positions from `from` on. Nothing of them is kept.
    fn release(&mut self, slot: usize, from: usize);

    /// Positions for which a slot holds memory.
    fn held(&self, slot: usize) -> usize;
}

/// A part of a prompt: of `image` and then `input_ids`, the given positions.
#[derive(Debug, Clone)]
pub struct PromptPiece<'a> {
    /// What precedes the text.
    pub image: &'a ImagePrefix,
    /// The text.
    pub input_ids: &'a [i64],
    /// The positions to feed, counted from the first of the image.
    pub positions: Range<usize>,
}

/// The decoder's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderLimits {
    /// Rows decoded together.
    pub slots: usize,
    /// Positions of a row: image prefix, prompt and new tokens.
    pub max_len: usize,
    /// Positions of all rows together: what there is memory for. A job waits until those that it can reach are free.
    pub kv_tokens: usize,
    /// Positions of the image prefix.
    pub prefix_len: usize,
    /// Bytes of cache that a position takes.
    pub position_bytes: usize,
    /// Positions of a prompt that one run takes at most. A prompt fed in pieces of 2 to so many positions gives the same
    /// bits however it is cut.
    pub piece: usize,
}

/// Keys and values of some positions, in whatever order and memory the decoder keeps them.
#[derive(Debug, Default)]
pub struct SavedRow {
    len: usize,
    memory: Option<Box<dyn Any + Send>>,
}

impl SavedRow {
    /// Takes `len` positions in the decoder's own memory.
    #[must_use]
    pub fn new(len: usize, memory: impl Any + Send) -> Self {
        Self { len, memory: Some(Box::new(memory)) }
    }

    /// Positions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no position.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where they lie, if a decoder with memory of this type made it.
    #[must_use]
    pub fn memory<M: Any>(&self) -> Option<&M> {
        self.memory.as_ref()?.downcast_ref()
    }

    /// As [`SavedRow::memory`], to be used for something else.
    #[must_use]
    pub fn into_memory<M: Any>(self) -> Option<M> {
        self.memory?.downcast().ok().map(|memory| *memory)
    }
}

/// `image_prefix [num_query_tokens, hidden]` of one image, in whatever memory the model keeps it. Clones are the same.
#[derive(Debug, Clone)]
pub struct ImagePrefix {
    bytes: usize,
    memory: Arc<dyn Any + Send + Sync>,
}

impl ImagePrefix {
    /// Takes so many bytes of the model's own memory.
    #[must_use]
    pub fn new(bytes: usize, memory: impl Any + Send + Sync) -> Self {
        Self { bytes, memory: Arc::new(memory) }
    }

    /// What it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it lies, if a model with memory of this type made it.
    #[must_use]
    pub fn memory<M: Any>(&self) -> Option<&M> {
        self.memory.downcast_ref()
    }
}

/// An image prefix, and how long its two stages took.
#[derive(Debug, Clone)]
pub struct EncodedImage {
    /// What precedes the text.
    pub prefix: ImagePrefix,
    /// Time in the vision encoder.
    pub vision_encoder: Duration,
    /// Time in the Q-Former.
    pub qformer: Duration,
}

/// `query_output [num_query_tokens, hidden]` of one image: what the Q-Former's queries found in it.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryOutput {
    hidden: usize,
    elements: Vec<f32>,
}

impl QueryOutput {
    /// Takes row-major elements; `hidden` is the length of a row and above 0.
    #[must_use]
    pub fn new(hidden: usize, elements: Vec<f32>) -> Self {
        Self { hidden, elements }
    }

    /// The features of each query.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.elements.chunks_exact(self.hidden)
    }

    pub(super) fn is_finite(&self) -> bool {
        self.elements.iter().all(|element| element.is_finite())
    }
}

/// Features of an image, and how long their two stages took.
#[derive(Debug, Clone)]
pub struct EmbeddedImage {
    /// The features.
    pub query_output: QueryOutput,
    /// Time in the vision encoder.
    pub vision_encoder: Duration,
    /// Time in the Q-Former.
    pub qformer: Duration,
}

/// Logits `[rows, vocab]`. The memory may be the model's, which uses it again once this is dropped.
#[derive(Clone)]
pub struct Logits {
    vocab: usize,
    rows: usize,
    elements: Arc<dyn AsRef<[f32]> + Send + Sync>,
}

impl Logits {
    /// Takes row-major elements; `vocab` is the length of a row and above 0.
    #[must_use]
    pub fn new(vocab: usize, elements: Vec<f32>) -> Self {
        Self { vocab, rows: elements.len() / vocab, elements: Arc::new(elements) }
    }

    /// The first `rows` rows of memory that the model keeps.
    #[must_use]
    pub fn lent(vocab: usize, rows: usize, elements: Arc<dyn AsRef<[f32]> + Send + Sync>) -> Self {
        Self { vocab, rows, elements }
    }

    /// The rows, in the order of the slots.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        (*self.elements).as_ref().chunks_exact(self.vocab).take(self.rows)
    }
}

impl fmt::Debug for Logits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logits [{}, {}]", self.rows, self.vocab)
    }
}

/// A model's failure, whatever the model is; the cause stays a cause.
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
