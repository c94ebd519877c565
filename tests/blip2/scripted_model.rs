//! A model without ONNX Runtime: its answer to a prompt is the prompt, token by token, so that every mix-up of rows shows.

use std::ops::Range;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use blip2::bundle::GenerationDefaults;
use blip2::engine::{
    DecoderLimits, EmbeddedImage, EncodedImage, Engine, EngineLimits, Frontend, ImageEncoder, ImagePrefix, Logits,
    ModelError, PromptPiece, QueryOutput, SavedRow, StepDecoder,
};
use blip2::image::{ImageLimits, PixelValues, Preprocessor, PreprocessorConfig};
use blip2::text::{SpecialIds, Tokenizer};

use crate::helpers::fixture;

const VOCABULARY: usize = 416;
const EOS: i64 = 202;
const SIDE: u32 = 16;

/// Features of an image are its first pixels, as so many rows of such a length.
pub(crate) const QUERIES: usize = 4;
pub(crate) const HIDDEN: usize = 3;

/// What the model does besides echoing.
#[derive(Default)]
pub(crate) struct Script {
    /// The image worker waits for one message per image, when there is a receiver.
    pub(crate) gate: Option<Receiver<()>>,
    /// Prompts of this many tokens fail at prefill.
    pub(crate) failing_prompt_len: Option<usize>,
    /// Logits are NaN.
    pub(crate) broken: bool,
    /// How long a decode step takes.
    pub(crate) pace: Duration,
}

/// An engine over the scripted model: `slots` rows of 128 positions, 4 of them for the image.
pub(crate) fn engine(script: Script, slots: usize, queue_rows: usize) -> Engine {
    let config = PreprocessorConfig { height: SIDE, width: SIDE, mean: [0.5; 3], std: [0.5; 3] };
    let ids = SpecialIds { bos_token_id: 2, eos_token_id: EOS as u32, pad_token_id: 1, image_token_id: Some(410) };
    let frontend = Frontend {
        preprocessor: Preprocessor::new(&config, ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 22 }).unwrap(),
        tokenizer: Tokenizer::from_bytes(&fixture("tokenizer/tokenizer.json"), ids).unwrap().into(),
        defaults: GenerationDefaults { max_new_tokens: 40 },
    };
    let Script { gate, failing_prompt_len, broken, pace } = script;
    let decoder = Echo { rows: vec![Vec::new(); slots], failing_prompt_len, broken, pace };
    let limits = EngineLimits {
        queue_rows,
        prefill_positions: 64,
        image_cache_bytes: 1 << 16,
        kv_prefix_cache_bytes: 1 << 20,
        stored_image_bytes: 1 << 16,
        preprocess_threads: 1,
        timeout: Duration::from_secs(20),
    };
    Engine::start(frontend, Gate(gate), decoder, limits).unwrap()
}

struct Gate(Option<Receiver<()>>);

impl ImageEncoder for Gate {
    fn encode(&mut self, images: &[&PixelValues]) -> Result<Vec<EncodedImage>, ModelError> {
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].dim(), (3, SIDE as usize, SIDE as usize));
        if let Some(gate) = &self.0 {
            gate.recv_timeout(Duration::from_secs(20)).map_err(ModelError::new)?;
        }
        Ok(vec![EncodedImage {
            prefix: ImagePrefix::new(16, ()),
            vision_encoder: Duration::ZERO,
            qformer: Duration::ZERO,
        }])
    }

    fn embed(&mut self, pixel_values: &PixelValues) -> Result<EmbeddedImage, ModelError> {
        if let Some(gate) = &self.0 {
            gate.recv_timeout(Duration::from_secs(20)).map_err(ModelError::new)?;
        }
        let elements = pixel_values.iter().take(QUERIES * HIDDEN).copied().collect();
        Ok(EmbeddedImage {
            query_output: QueryOutput::new(HIDDEN, elements),
            vision_encoder: Duration::ZERO,
            qformer: Duration::ZERO,
        })
    }
}

/// Each row holds what it still has to say.
struct Echo {
    rows: Vec<Vec<i64>>,
    failing_prompt_len: Option<usize>,
    broken: bool,
    pace: Duration,
}

impl Echo {
    fn logits(&self, tokens: impl Iterator<Item = i64>) -> Logits {
        let mut elements = Vec::new();
        for token in tokens {
            let mut row = vec![if self.broken { f32::NAN } else { 0.0 }; VOCABULARY];
            if !self.broken {
                row[token as usize] = 8.0;
            }
            elements.extend(row);
        }
        Logits::new(VOCABULARY, elements)
    }
}

impl StepDecoder for Echo {
    fn limits(&self) -> DecoderLimits {
        let slots = self.rows.len();
        DecoderLimits { slots, max_len: 128, kv_tokens: slots * 128, prefix_len: 4, position_bytes: 0, piece: 64 }
    }

    fn prefill(&mut self, first: usize, pieces: &[PromptPiece<'_>]) -> Result<Logits, ModelError> {
        if pieces.iter().any(|piece| self.failing_prompt_len == Some(piece.input_ids.len())) {
            return Err(ModelError::new("scripted failure with a secret path /etc/passwd"));
        }
        let mut next = Vec::new();
        for (slot, piece) in (first..).zip(pieces) {
            let mut words: Vec<i64> = piece.input_ids[1..].iter().copied().chain([EOS]).collect();
            words.reverse();
            next.extend(words.pop());
            self.rows[slot] = words;
        }
        Ok(self.logits(next.into_iter()))
    }

    fn decode(&mut self, tokens: &[i64]) -> Result<Logits, ModelError> {
        std::thread::sleep(self.pace);
        let next: Vec<i64> = (0..tokens.len()).map(|slot| self.rows[slot].pop().unwrap_or(EOS)).collect();
        Ok(self.logits(next.into_iter()))
    }

    fn save_row(&mut self, _: usize, len: usize, _: SavedRow) -> SavedRow {
        SavedRow::new(len, ())
    }

    fn restore_row(&mut self, _: usize, _: &SavedRow, _: usize) {}

    fn copy_row(&mut self, from: usize, to: usize, _: Range<usize>) {
        self.rows[to] = self.rows[from].clone();
    }

    fn release(&mut self, _: usize, _: usize) {}

    fn held(&self, _: usize) -> usize {
        0
    }
}
