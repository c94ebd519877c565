//! The OPT decoder: prefill and decode steps over the KV cache, one graph for both.

use std::num::NonZeroUsize;
use std::ops::Range;

use ort::value::{Shape, Tensor, TensorElementType};

use super::{CacheSize, KvCache};
use crate::bundle::{Bundle, DecoderManifest, KvKind};
use crate::engine::{DecoderLimits, Logits, ModelError, PromptPiece, SavedRow, StepDecoder};
use crate::runtime::{Expected, GraphSession, KvLayerNames, Runtime, RuntimeError, f32_tensor};

const GRAPH: &str = "decoder";

/// What stands behind a prompt that is shorter than the others of its run. Nothing reads it, so any id does.
const PADDING: i64 = 0;

/// The session of the decoder, and the cache that it writes.
#[derive(Debug)]
pub struct Decoder {
    session: GraphSession,
    cache: KvCache,
    manifest: DecoderManifest,
    prefix_len: usize,
    kv_tokens: usize,
}

/// What one run feeds to `rows` slots.
struct Step {
    rows: Range<usize>,
    /// `[rows, seq_len]`, padded on the right.
    input_ids: Vec<i64>,
    seq_len: usize,
    /// `[rows, prefix_len, hidden]`.
    image_prefix: Vec<f32>,
    prefix_len: usize,
    /// Positions that each row gains: of the prefix and its own tokens.
    gained: Vec<usize>,
}

impl Decoder {
    pub(super) fn open(runtime: &Runtime, bundle: &Bundle, size: CacheSize) -> Result<Self, RuntimeError> {
        let manifest = bundle.manifest().decoder.clone();
        let path = bundle.path(&manifest.file);
        let session = GraphSession::open(runtime, GRAPH, &path, &inputs(&manifest), &outputs(&manifest))?;
        let names = cache_names(&manifest).map_err(|error| RuntimeError::Signature {
            graph: GRAPH,
            path,
            detail: format!("a cache name: {error}"),
        })?;
        let limit = manifest.max_positions;
        let max_len = size.max_len.map_or(limit, |asked| asked.get().min(limit));
        let cache = KvCache::new(names, size.slots.get(), manifest.num_heads, max_len, manifest.head_dim)
            .map_err(|source| RuntimeError::CacheMemory { slots: size.slots.get(), max_len, source })?;
        let prefix_len = bundle.manifest().qformer.num_query_tokens;
        let kv_tokens = size.kv_tokens.map_or(usize::MAX, NonZeroUsize::get).min(size.slots.get() * max_len);
        Ok(Self { session, cache, manifest, prefix_len, kv_tokens })
    }

    /// GroupQueryAttention takes the queries of a run in blocks of 2 · `head_dim` positions, or fewer where the L2 cache is
    /// small, and a block of one position by another kernel, with other bits. In runs of one block that happens to nobody.
    fn piece(&self) -> usize {
        const FITS_EVERY_CACHE: usize = 64;
        (2 * self.manifest.head_dim).clamp(4, FITS_EVERY_CACHE)
    }

    fn step(&mut self, step: Step) -> Result<Logits, RuntimeError> {
        let (rows, gained) = (step.rows.clone(), step.gained.clone());
        let logits = self.run(step).map_err(|source| RuntimeError::Run { graph: self.session.graph(), source })?;
        // The run wrote these positions, so the rows grow only now. After a failed run the same step can be repeated.
        rows.zip(gained).for_each(|(slot, gained)| self.cache.advance(slot, gained));
        Ok(logits)
    }

    fn run(&mut self, step: Step) -> ort::Result<Logits> {
        let Step { rows, input_ids, seq_len, image_prefix, prefix_len, gained } = step;
        let (count, hidden, vocab) = (rows.len(), self.manifest.hidden_size, self.manifest.vocab_size);
        let lens: Vec<usize> = rows.clone().map(|slot| self.cache.len(slot)).collect();
        let written = prefix_len + seq_len; // what is padded is written too
        let longest = lens.iter().max().map_or(0, |len| len + written);
        // Older kernels do not check this, and the binding's safety rests on it.
        assert!(longest <= self.cache.max_len(), "the engine admits only what fits max_len");
        rows.clone().zip(&lens).for_each(|(slot, len)| self.cache.will_write(slot, len + written));

        let names = &self.manifest.inputs;
        let positions: Vec<i64> =
            lens.iter().flat_map(|len| (*len..len + written).map(|position| position as i64)).collect();
        let seqlens_k: Vec<i32> = lens.iter().zip(&gained).map(|(len, gained)| (len + gained - 1) as i32).collect();
        let last: Vec<i64> = gained.iter().map(|gained| *gained as i64 - 1).collect();
        let session = self.session.session_mut();
        let mut binding = self.cache.bind(session, rows, (&self.manifest.outputs.logits, [count, 1, vocab]))?;
        binding.input(&names.input_ids, Tensor::<i64>::from_array(([count, seq_len], input_ids))?)?;
        let prefix = f32_tensor([count, prefix_len, hidden], image_prefix)?;
        binding.input(&names.image_prefix, prefix)?;
        binding.input(&names.position_ids, Tensor::<i64>::from_array(([count, written], positions))?)?;
        binding.input(&names.seqlens_k, Tensor::<i32>::from_array(([count], seqlens_k))?)?;
        let total = Tensor::<i32>::from_array((Shape::new([]), vec![longest as i32]))?;
        binding.input(&names.total_sequence_length, total)?;
        binding.input(&names.logits_index, Tensor::<i64>::from_array(([count, 1], last))?)?;
        Ok(Logits::new(vocab, binding.run(session)?))
    }
}

impl StepDecoder for Decoder {
    fn limits(&self) -> DecoderLimits {
        DecoderLimits {
            slots: self.cache.slots(),
            max_len: self.cache.max_len(),
            kv_tokens: self.kv_tokens,
            prefix_len: self.prefix_len,
            position_bytes: self.cache.position_bytes(),
            piece: self.piece(),
        }
    }

    fn prefill(&mut self, first: usize, pieces: &[PromptPiece<'_>]) -> Result<Logits, ModelError> {
        let (prefix_len, hidden) = (self.prefix_len, self.manifest.hidden_size);
        let of_image = |position: usize| position.min(prefix_len);
        let of_text = |position: usize| position.saturating_sub(prefix_len);
        let text_of = |piece: &PromptPiece<'_>| of_text(piece.positions.start)..of_text(piece.positions.end);
        let image_of = |piece: &PromptPiece<'_>| of_image(piece.positions.start)..of_image(piece.positions.end);
        let seq_len = pieces.iter().map(|piece| text_of(piece).len()).max().unwrap_or(0);

        let (mut input_ids, mut image_prefix) = (Vec::new(), Vec::new());
        for (slot, piece) in (first..).zip(pieces) {
            self.cache.set_len(slot, piece.positions.start);
            input_ids.extend_from_slice(&piece.input_ids[text_of(piece)]);
            input_ids.resize(input_ids.len().next_multiple_of(seq_len.max(1)), PADDING);
            let Range { start, end } = image_of(piece);
            image_prefix.extend_from_slice(&piece.image.as_slice()[start * hidden..end * hidden]);
        }
        Ok(self.step(Step {
            rows: first..first + pieces.len(),
            input_ids,
            seq_len,
            prefix_len: image_prefix.len() / hidden / pieces.len().max(1),
            image_prefix,
            gained: pieces.iter().map(|piece| piece.positions.len()).collect(),
        })?)
    }

    fn save_row(&self, slot: usize, len: usize, unneeded: SavedRow) -> SavedRow {
        self.cache.save_row(slot, len, unneeded)
    }

    fn restore_row(&mut self, slot: usize, saved: &SavedRow, len: usize) {
        self.cache.restore_row(slot, saved, len);
    }

    fn decode(&mut self, tokens: &[i64]) -> Result<Logits, ModelError> {
        let rows = 0..tokens.len();
        let (input_ids, gained) = (tokens.to_vec(), vec![1; tokens.len()]);
        Ok(self.step(Step { rows, input_ids, seq_len: 1, image_prefix: Vec::new(), prefix_len: 0, gained })?)
    }

    fn copy_row(&mut self, from: usize, to: usize, positions: Range<usize>) {
        self.cache.copy_row(from, to, positions);
    }

    fn release(&mut self, slot: usize, from: usize) {
        self.cache.release(slot, from);
    }

    fn held(&self, slot: usize) -> usize {
        self.cache.held(slot)
    }
}

fn cache_names(manifest: &DecoderManifest) -> Result<Vec<KvLayerNames>, std::ffi::NulError> {
    cache_tensors(manifest)
        .map(|(layer, kind)| KvLayerNames::new(manifest.past_name(layer, kind), manifest.present_name(layer, kind)))
        .collect()
}

fn cache_tensors(manifest: &DecoderManifest) -> impl Iterator<Item = (usize, KvKind)> {
    (0..manifest.num_layers).flat_map(|layer| KvKind::ALL.map(|kind| (layer, kind)))
}

fn inputs(manifest: &DecoderManifest) -> Vec<Expected> {
    use TensorElementType::{Float32, Int32, Int64};
    let names = &manifest.inputs;
    let mut expected = vec![
        Expected::new(&names.input_ids, Int64, &[None, None]),
        Expected::new(&names.image_prefix, Float32, &[None, None, Some(manifest.hidden_size)]),
        Expected::new(&names.position_ids, Int64, &[None, None]),
        Expected::new(&names.seqlens_k, Int32, &[None]),
        Expected::new(&names.total_sequence_length, Int32, &[]),
        Expected::new(&names.logits_index, Int64, &[None, None]),
    ];
    let shape = [None, Some(manifest.num_heads), None, Some(manifest.head_dim)];
    expected.extend(
        cache_tensors(manifest).map(|(layer, kind)| Expected::new(&manifest.past_name(layer, kind), Float32, &shape)),
    );
    expected
}

fn outputs(manifest: &DecoderManifest) -> Vec<Expected> {
    let logits = [None, None, Some(manifest.vocab_size)];
    let shape = [None, Some(manifest.num_heads), None, Some(manifest.head_dim)];
    let mut expected = vec![Expected::new(&manifest.outputs.logits, TensorElementType::Float32, &logits)];
    expected.extend(
        cache_tensors(manifest).map(|(layer, kind)| {
            Expected::new(&manifest.present_name(layer, kind), TensorElementType::Float32, &shape)
        }),
    );
    expected
}
