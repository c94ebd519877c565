//! The OPT decoder: prefill and decode steps over the KV cache, one graph for both.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use ort::memory::Allocator;
use ort::value::{Shape, Tensor, TensorElementType};

use super::{CacheSize, Devices, KvCache};
use crate::bundle::{Bundle, DecoderManifest, KvDtype, KvKind};
use crate::engine::{DecoderLimits, Logits, ModelError, PromptPiece, SavedRow, StepDecoder};
use crate::runtime::{
    Buffer, Element, Expected, GraphSession, KvLayerNames, KvShape, Part, Pieces, Place, Runtime, RuntimeError,
    TensorName,
};

const GRAPH: &str = "decoder";

/// The padding of a prompt that is shorter than others of its run. Nothing reads it, so it can be
/// any id.
const PADDING: i64 = 0;

/// The positions of a warm-up row: start token, a token of a question, two new tokens.
const SHORTEST_TEXT: usize = 4;

/// The session of the decoder, and the cache that it writes.
#[derive(Debug)]
pub struct Decoder {
    session: GraphSession,
    cache: KvCache,
    manifest: DecoderManifest,
    image_prefix: TensorName,
    logits_name: TensorName,
    /// The image positions of a run, `[rows, prefix, hidden]`, gathered where the decoder computes.
    prefixes: Buffer,
    /// The logits of a run, on the host. Lent to the caller, who usually returns them before the
    /// next run.
    logits: Arc<Buffer>,
    place: Place,
    prefix_len: usize,
    kv_tokens: usize,
    /// The reason for which rows are lost: a copy within the GPU's memory failed.
    broken: Option<String>,
}

/// The inputs of a run over `rows` slots. The image positions are in [`Decoder::prefixes`].
struct Step {
    rows: Range<usize>,
    /// `[rows, seq_len]`, padded on the right.
    input_ids: Vec<i64>,
    seq_len: usize,
    prefix_len: usize,
    /// Positions that each row gains: of the prefix and its own tokens.
    gained: Vec<usize>,
}

impl Decoder {
    pub(super) fn open(
        runtime: &Runtime,
        bundle: &Bundle,
        size: CacheSize,
        devices: &Devices,
    ) -> Result<Self, RuntimeError> {
        let manifest = bundle.manifest().decoder.clone();
        let provider = devices.decoder()?;
        let place = provider.place();
        let path = bundle.path(&manifest.file);
        let session = GraphSession::open(runtime, GRAPH, &path, &provider, &inputs(&manifest), &outputs(&manifest))?;
        let slots = size.slots.get();
        let limit = manifest.max_positions;
        let max_len = size.max_len.map_or(limit, |asked| asked.get().min(limit));
        let prefix_len = bundle.manifest().qformer.num_query_tokens;
        if max_len < prefix_len + SHORTEST_TEXT {
            let what = format!("rows of {max_len} positions have no room for an image of {prefix_len} and a text");
            return Err(RuntimeError::Unsupported { what, remedy: "raise --max-len".to_owned() });
        }
        let shape = KvShape {
            slots,
            heads: manifest.num_heads,
            max_len,
            head_dim: manifest.head_dim,
            element: cache_element(&manifest),
        };
        let cache = KvCache::new(place.clone(), cache_names(&session, &manifest)?, shape)?;
        let f32s = |elements: usize| elements * size_of::<f32>();
        Ok(Self {
            image_prefix: session.tensor_name(&manifest.inputs.image_prefix)?,
            logits_name: session.tensor_name(&manifest.outputs.logits)?,
            prefixes: Buffer::new(&place, f32s(slots * prefix_len * manifest.hidden_size))?,
            logits: Arc::new(Buffer::on_host(&place, f32s(slots * manifest.vocab_size))?),
            session,
            cache,
            place,
            prefix_len,
            kv_tokens: size.kv_tokens.map_or(usize::MAX, NonZeroUsize::get).min(slots * max_len),
            manifest,
            broken: None,
        })
    }

    /// GroupQueryAttention takes the queries of a run in blocks of 2 · `head_dim` positions, or
    /// fewer where the L2 cache is small, and a block of one position by another kernel, with other
    /// bits. A run of one block avoids that.
    fn piece(&self) -> usize {
        const FITS_EVERY_CACHE: usize = 64;
        (2 * self.manifest.head_dim).clamp(4, FITS_EVERY_CACHE)
    }

    fn step(&mut self, step: Step) -> Result<Logits, RuntimeError> {
        if let Some(reason) = &self.broken {
            return Err(RuntimeError::Broken { reason: reason.clone() });
        }
        let rows = step.rows.clone();
        let gained = step.gained.clone();
        if Arc::get_mut(&mut self.logits).is_none() {
            self.logits = Arc::new(Buffer::on_host(&self.place, self.logits.bytes())?); // somebody still reads the last ones
        }
        self.run(step).map_err(self.session.failed())?;
        // Rows grow only after the run that wrote their positions, so a failed step can be
        // repeated.
        rows.clone().zip(gained).for_each(|(slot, gained)| self.cache.advance(slot, gained));
        Ok(Logits::lent(self.manifest.vocab_size, rows.len(), Arc::<Buffer>::clone(&self.logits)))
    }

    fn run(&mut self, step: Step) -> ort::Result<()> {
        let Step { rows, input_ids, seq_len, prefix_len, gained } = step;
        let count = rows.len();
        let hidden = self.manifest.hidden_size;
        let vocab = self.manifest.vocab_size;
        let lens: Vec<usize> = rows.clone().map(|slot| self.cache.len(slot)).collect();
        let written = prefix_len + seq_len; // what is padded is written too
        let longest = lens.iter().max().map_or(0, |len| len + written);
        // Older kernels do not check this, and the safety of the binding depends on it.
        assert!(longest <= self.cache.max_len(), "the engine admits only what fits max_len");
        rows.clone().zip(&lens).for_each(|(slot, len)| self.cache.will_write(slot, len + written));

        let names = &self.manifest.inputs;
        let positions: Vec<i64> =
            lens.iter().flat_map(|len| (*len..len + written).map(|position| position as i64)).collect();
        let seqlens_k: Vec<i32> = lens.iter().zip(&gained).map(|(len, gained)| (len + gained - 1) as i32).collect();
        let last: Vec<i64> = gained.iter().map(|gained| *gained as i64 - 1).collect();
        let mut binding = self.cache.bind(self.session.session(), rows)?;
        if prefix_len > 0 {
            binding.input(&self.image_prefix, &self.prefixes, Part::f32(&[count, prefix_len, hidden]))?;
        } else {
            binding.copied(&names.image_prefix, Tensor::<f32>::new(&Allocator::default(), [count, 0, hidden])?)?;
        }
        binding.copied(&names.input_ids, Tensor::<i64>::from_array(([count, seq_len], input_ids))?)?;
        binding.copied(&names.position_ids, Tensor::<i64>::from_array(([count, written], positions))?)?;
        binding.copied(&names.seqlens_k, Tensor::<i32>::from_array(([count], seqlens_k))?)?;
        let total = Tensor::<i32>::from_array((Shape::new([]), vec![longest as i32]))?;
        binding.copied(&names.total_sequence_length, total)?;
        binding.copied(&names.logits_index, Tensor::<i64>::from_array(([count, 1], last))?)?;
        let logits =
            Arc::get_mut(&mut self.logits).ok_or_else(|| ort::Error::new("the logits are still being read"))?;
        binding.output(&self.logits_name, logits, Part::f32(&[count, 1, vocab]))?;
        binding.run(self.session.session_mut())
    }

    /// Gathers the image positions of the pieces, the same number of each, and returns that number.
    fn gather_prefixes(&mut self, pieces: &[PromptPiece<'_>]) -> Result<usize, RuntimeError> {
        let position = self.manifest.hidden_size * size_of::<f32>();
        let mut end = 0;
        for piece in pieces {
            let [start, stop] = [piece.positions.start, piece.positions.end].map(|end| end.min(self.prefix_len));
            let Some(memory) = piece.image.memory::<Buffer>() else {
                return Err(RuntimeError::Broken { reason: "an image prefix is of another model".to_owned() });
            };
            let len = (stop - start) * position;
            self.prefixes.copy_from(memory, &Pieces::one(start * position, end, len))?;
            end += len;
        }
        self.prefixes.wait()?;
        Ok(end / position / pieces.len().max(1))
    }

    /// Records the result of a copy. After a failed one all rows are lost.
    fn note<T: Default>(&mut self, copied: Result<T, RuntimeError>) -> T {
        copied.unwrap_or_else(|error| {
            tracing::error!(error = %error, "a copy within the KV cache failed; all further runs fail until the service is restarted");
            self.broken = Some(error.to_string());
            T::default()
        })
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
        let of_text = |position: usize| position.saturating_sub(self.prefix_len);
        let text_of = |piece: &PromptPiece<'_>| of_text(piece.positions.start)..of_text(piece.positions.end);
        let seq_len = pieces.iter().map(|piece| text_of(piece).len()).max().unwrap_or(0);

        let mut input_ids = Vec::new();
        for (slot, piece) in (first..).zip(pieces) {
            self.cache.set_len(slot, piece.positions.start);
            input_ids.extend_from_slice(&piece.input_ids[text_of(piece)]);
            input_ids.resize(input_ids.len().next_multiple_of(seq_len.max(1)), PADDING);
        }
        let prefix_len = self.gather_prefixes(pieces)?;
        Ok(self.step(Step {
            rows: first..first + pieces.len(),
            input_ids,
            seq_len,
            prefix_len,
            gained: pieces.iter().map(|piece| piece.positions.len()).collect(),
        })?)
    }

    fn save_row(&mut self, slot: usize, len: usize, unneeded: SavedRow) -> SavedRow {
        let saved = self.cache.save_row(slot, len, unneeded);
        self.note(saved)
    }

    fn spare_row(&mut self, len: usize) -> SavedRow {
        self.cache.spare_row(len)
    }

    fn restore_row(&mut self, slot: usize, saved: &SavedRow, len: usize) {
        let restored = self.cache.restore_row(slot, saved, len);
        self.note(restored);
    }

    fn decode(&mut self, tokens: &[i64]) -> Result<Logits, ModelError> {
        let rows = 0..tokens.len();
        let input_ids = tokens.to_vec();
        let gained = vec![1; tokens.len()];
        Ok(self.step(Step { rows, input_ids, seq_len: 1, prefix_len: 0, gained })?)
    }

    fn copy_row(&mut self, from: usize, to: usize, positions: Range<usize>) {
        let copied = self.cache.copy_row(from, to, positions);
        self.note(copied);
    }

    fn release(&mut self, slot: usize, from: usize) {
        self.cache.release(slot, from);
    }

    fn held(&self, slot: usize) -> usize {
        self.cache.held(slot)
    }
}

fn cache_names(session: &GraphSession, manifest: &DecoderManifest) -> Result<Vec<KvLayerNames>, RuntimeError> {
    let names = |(layer, kind)| {
        let past = session.tensor_name(&manifest.past_name(layer, kind))?;
        Ok(KvLayerNames { past, present: session.tensor_name(&manifest.present_name(layer, kind))? })
    };
    cache_tensors(manifest).map(names).collect()
}

fn cache_element(manifest: &DecoderManifest) -> Element {
    match manifest.kv_dtype {
        KvDtype::Float32 => Element::F32,
        KvDtype::Float16 => Element::F16,
    }
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
    let cache = cache_element(manifest).onnx();
    let shape = [None, Some(manifest.num_heads), None, Some(manifest.head_dim)];
    expected.extend(
        cache_tensors(manifest).map(|(layer, kind)| Expected::new(&manifest.past_name(layer, kind), cache, &shape)),
    );
    expected
}

fn outputs(manifest: &DecoderManifest) -> Vec<Expected> {
    let logits = [None, None, Some(manifest.vocab_size)];
    let cache = cache_element(manifest).onnx();
    let shape = [None, Some(manifest.num_heads), None, Some(manifest.head_dim)];
    let mut expected = vec![Expected::new(&manifest.outputs.logits, TensorElementType::Float32, &logits)];
    expected.extend(
        cache_tensors(manifest).map(|(layer, kind)| Expected::new(&manifest.present_name(layer, kind), cache, &shape)),
    );
    expected
}
