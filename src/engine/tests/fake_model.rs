//! A model for the engine's own tests: every slot remembers what it was fed, and logits are a hash
//! of all of it, so that a mix-up of rows, a lost position or a stale one gives another answer.
//!
//! Breaches of the contract in `traits` are recorded as faults; tests look at them at the end.
//! `Controls` makes a stage of the model wait or fail.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::engine::image_table::ImageTable;
use crate::engine::{
    DecoderLimits, EmbeddedImage, EncodedImage, Image, ImageEncoder, ImagePrefix, Logits, ModelError, PromptPiece,
    QueryOutput, SavedRow, StepDecoder,
};
use crate::generation::{Continuation, GenerationError, Origin, Outcome, Task};
use crate::image::{ImageLimits, PixelValues, Preprocessor, PreprocessorConfig};

/// Images of different content.
pub(super) const FILES: [&[u8]; 4] = [
    include_bytes!("../../../tests/fixtures/images/png-rgb.png"),
    include_bytes!("../../../tests/fixtures/images/jpeg-rgb.jpg"),
    include_bytes!("../../../tests/fixtures/images/gif.gif"),
    include_bytes!("../../../tests/fixtures/images/webp-lossy.webp"),
];

/// Longer than any test takes, shorter than anybody's patience.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The function that the model computes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Model {
    pub(super) vocabulary: usize,
    /// This token is a little likelier than the others, so that answers end.
    pub(super) end_token: usize,
    /// Rows that hold this token get logits of NaN or infinity now and then. It never comes by
    /// itself.
    pub(super) broken_token: usize,
}

impl Model {
    /// The logits behind a row of positions.
    pub(super) fn logits(&self, row: &[f32]) -> Vec<f32> {
        const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
        const FACTOR: u64 = 0x2545_f491_4f6c_dd1d;
        let mix = |state: u64, position: &f32| {
            (state ^ u64::from(position.to_bits())).wrapping_mul(FACTOR).rotate_left(29).wrapping_add(SEED)
        };
        let mut state = row.iter().fold(SEED, mix);
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 22) as f32 // [0, 4)
        };
        let draw = next();
        let mut logits: Vec<f32> = (0..self.vocabulary).map(|_| next()).collect();
        logits[self.end_token] += 0.5;
        if let Some(logit) = logits.get_mut(self.broken_token) {
            *logit = -4.0;
        }
        if row.contains(&(self.broken_token as f32)) && draw < 1.0 {
            logits[self.vocabulary / 2] = if draw < 0.5 { f32::NAN } else { f32::INFINITY };
        }
        logits
    }

    /// Runs a task alone, without an engine, after the positions of a prompt.
    pub(super) fn answer(&self, mut task: Task, prompt: &[f32]) -> Result<Outcome, GenerationError> {
        let mut rows = vec![prompt.to_vec()];
        while !rows.is_empty() {
            let logits: Vec<Vec<f32>> = rows.iter().map(|row| self.logits(row)).collect();
            let next = task.advance(&logits.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
            let row = |Continuation { origin, token }: &Continuation| match origin {
                Origin::Row(row) => [rows[*row].as_slice(), &[*token as f32]].concat(),
                Origin::Prompt => [prompt, &[*token as f32]].concat(),
            };
            rows = next.iter().map(row).collect();
        }
        Ok(task.into_outcome())
    }
}

/// A prompt as positions: those of the image are negative, those of the text are its ids.
pub(super) fn positions(image: &ImagePrefix, input_ids: &[i64]) -> Vec<f32> {
    cells(image).iter().copied().chain(input_ids.iter().map(|id| *id as f32)).collect()
}

/// The prefix of an image as the fake model keeps it.
fn cells(image: &ImagePrefix) -> &[f32] {
    image.memory::<Vec<f32>>().map_or(&[], Vec::as_slice)
}

/// The prefix of an image: a hash of its pixels and the position, as small integers, which f32
/// holds exactly.
pub(super) fn prefix(pixel_values: &PixelValues, len: usize) -> ImagePrefix {
    let hash = pixel_values.iter().fold(7_u32, |hash, value| (hash ^ value.to_bits()).wrapping_mul(0x0100_0193));
    let position = |position: usize| -(1.0 + (hash.rotate_left(5 * position as u32) >> 9) as f32);
    let cells: Vec<f32> = (0..len).map(position).collect();
    ImagePrefix::new(size_of_val(cells.as_slice()), cells)
}

/// Makes the preprocessor of the tests.
pub(super) fn preprocessor() -> Preprocessor {
    let config = PreprocessorConfig { height: 16, width: 16, mean: [0.5; 3], std: [0.5; 3] };
    Preprocessor::new(&config, ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 22 }).unwrap()
}

/// The images of `FILES`, encoded, with prefixes of so many positions.
pub(super) fn encoded_images(prefix_len: usize) -> Vec<Image> {
    static ENCODED: LazyLock<Mutex<BTreeMap<usize, Vec<Image>>>> = LazyLock::new(Mutex::default);
    let encode = || {
        let table = ImageTable::new(preprocessor(), 0);
        let mut encoder = FakeEncoder::new(prefix_len, Arc::default());
        let images = FILES.map(|file| table.open(file).unwrap());
        for image in &images {
            table.encode(&[image], &mut encoder).remove(0).unwrap();
        }
        images.to_vec()
    };
    ENCODED.lock().entry(prefix_len).or_insert_with(encode).clone()
}

/// A test's controls of a model, and its view of it.
#[derive(Debug, Default)]
pub(super) struct Controls {
    pub(super) encode: Gate,
    pub(super) prefill: Gate,
    pub(super) decode: Gate,
    faults: Mutex<Vec<String>>,
}

impl Controls {
    /// Lets all stages go on.
    pub(super) fn open(&self) {
        [&self.encode, &self.prefill, &self.decode].into_iter().for_each(Gate::open);
    }

    /// Returns the breaches of the contract.
    pub(super) fn faults(&self) -> Vec<String> {
        self.faults.lock().clone()
    }
}

/// Holds the runs of a stage of the model, or makes them fail. Runs are numbered from 0.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    has_changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    runs: usize,
    held_from: Option<usize>,
    failing: Vec<Range<usize>>,
}

impl Gate {
    /// Runs of this number and above wait, others no longer.
    pub(super) fn hold(&self, number: usize) {
        self.state.lock().held_from = Some(number);
        self.has_changed.notify_all();
    }

    /// Runs wait no longer.
    pub(super) fn open(&self) {
        self.hold(usize::MAX);
    }

    /// Lets the runs of these numbers fail.
    pub(super) fn fail(&self, runs: Range<usize>) {
        self.state.lock().failing.push(runs);
    }

    /// Runs that have begun.
    pub(super) fn runs(&self) -> usize {
        self.state.lock().runs
    }

    /// Waits until so many runs have begun.
    pub(super) fn wait_for(&self, runs: usize) {
        let mut state = self.state.lock();
        let waited = self.has_changed.wait_while_for(&mut state, |state| state.runs < runs, PATIENCE);
        assert!(!waited.timed_out(), "run {runs} never began");
    }

    fn run(&self) -> Result<(), ModelError> {
        let mut state = self.state.lock();
        let number = state.runs;
        state.runs += 1;
        self.has_changed.notify_all();
        let is_held = |state: &mut GateState| state.held_from.is_some_and(|first| number >= first);
        let waited = self.has_changed.wait_while_for(&mut state, is_held, PATIENCE);
        if waited.timed_out() {
            return Err(ModelError::new("nobody let the run go on"));
        }
        let is_failing = state.failing.iter().any(|runs| runs.contains(&number));
        if is_failing { Err(ModelError::new(format!("run {number} is to fail"))) } else { Ok(()) }
    }
}

/// Makes `prefix` of pixels.
pub(super) struct FakeEncoder {
    prefix_len: usize,
    at_once: usize,
    controls: Arc<Controls>,
}

impl FakeEncoder {
    pub(super) fn new(prefix_len: usize, controls: Arc<Controls>) -> Self {
        Self { prefix_len, at_once: 1, controls }
    }

    /// Takes so many images in a run.
    pub(super) fn at_once(self, at_once: usize) -> Self {
        Self { at_once, ..self }
    }
}

impl ImageEncoder for FakeEncoder {
    fn images_at_once(&self) -> usize {
        self.at_once
    }

    fn encode(&mut self, images: &[&PixelValues]) -> Result<Vec<EncodedImage>, ModelError> {
        self.controls.encode.run()?;
        if images.is_empty() || images.len() > self.at_once {
            self.controls.faults.lock().push(format!("{} images in a run of {}", images.len(), self.at_once));
        }
        let encode = |pixel_values: &&PixelValues| {
            let prefix = prefix(pixel_values, self.prefix_len);
            EncodedImage { prefix, vision_encoder: Duration::ZERO, qformer: Duration::ZERO }
        };
        Ok(images.iter().map(encode).collect())
    }

    fn embed(&mut self, pixel_values: &PixelValues) -> Result<EmbeddedImage, ModelError> {
        self.controls.encode.run()?;
        let elements = cells(&prefix(pixel_values, 2 * self.prefix_len)).to_vec();
        let query_output = QueryOutput::new(2, elements);
        Ok(EmbeddedImage { query_output, vision_encoder: Duration::ZERO, qformer: Duration::ZERO })
    }
}

/// A run of the decoder.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Run {
    /// A piece of a prompt, which is told from others by the address of its ids.
    Piece { prompt: usize, positions: Range<usize>, is_ok: bool },
    /// A step of so many rows.
    Step { rows: usize, is_ok: bool },
}

/// Remembers rows, and answers with `Model::logits`.
pub(super) struct FakeDecoder {
    limits: DecoderLimits,
    model: Model,
    controls: Arc<Controls>,
    rows: Vec<Row>,
    /// The runs since a test last took them.
    pub(super) runs: Vec<Run>,
}

/// The content of a slot. Its memory is `cells`; the row is the first `len` of them, those after are
/// left from others.
#[derive(Debug, Clone, Default)]
struct Row {
    cells: Vec<f32>,
    len: usize,
}

impl Row {
    fn as_slice(&self) -> &[f32] {
        &self.cells[..self.len]
    }

    /// Writes positions from `first` on, which end the row.
    fn write(&mut self, first: usize, positions: &[f32]) {
        self.len = first + positions.len();
        if self.cells.len() < self.len {
            self.cells.resize(self.len, f32::NAN);
        }
        self.cells[first..self.len].copy_from_slice(positions);
    }
}

impl FakeDecoder {
    pub(super) fn new(limits: DecoderLimits, model: Model, controls: Arc<Controls>) -> Self {
        Self { rows: vec![Row::default(); limits.slots], limits, model, controls, runs: Vec::new() }
    }

    /// Notes a fault unless all is well.
    fn expect(&self, is_well: bool, fault: impl FnOnce() -> String) -> bool {
        if !is_well {
            self.controls.faults.lock().push(fault());
        }
        is_well
    }

    fn is_slot(&self, slot: usize) -> bool {
        self.expect(slot < self.rows.len(), || format!("slot {slot} of {}", self.rows.len()))
    }

    fn is_allowed(&self, slot: usize, piece: &PromptPiece<'_>) -> bool {
        let prompt = positions(piece.image, piece.input_ids);
        let piece = &piece.positions;
        if !self.is_slot(slot) {
            return false;
        }
        let row = &self.rows[slot];
        self.expect((2..=self.limits.piece).contains(&piece.len()), || format!("a piece of {piece:?}"))
            && self.expect(piece.end <= prompt.len(), || format!("{piece:?} of a prompt of {}", prompt.len()))
            && self.expect(piece.start == 0 || row.len == piece.start, || {
                format!("slot {slot} holds {} positions and is fed {piece:?}", row.len)
            })
            && self.expect(row.cells[..piece.start] == prompt[..piece.start], || {
                format!("slot {slot} is fed {piece:?} behind another's positions")
            })
    }

    fn logits(&self, slots: Range<usize>) -> Logits {
        let elements = self.rows[slots].iter().flat_map(|row| self.model.logits(row.as_slice())).collect();
        Logits::new(self.model.vocabulary, elements)
    }

    fn forbidden() -> ModelError {
        ModelError::new("the contract forbids this run")
    }
}

impl StepDecoder for FakeDecoder {
    fn limits(&self) -> DecoderLimits {
        self.limits
    }

    fn prefill(&mut self, first: usize, pieces: &[PromptPiece<'_>]) -> Result<Logits, ModelError> {
        let prefix_len = self.limits.prefix_len;
        let is_well = self.expect(!pieces.is_empty(), || "a run without a piece".into())
            && pieces.iter().zip(first..).all(|(piece, slot)| self.is_allowed(slot, piece))
            && self.expect(
                pieces.len() == 1
                    || pieces.iter().all(|piece| piece.positions.start == 0 && piece.positions.end > prefix_len),
                || "several pieces in one run that do not begin a prompt and reach into its text".into(),
            );
        if !is_well {
            return Err(Self::forbidden());
        }
        let ran = self.controls.prefill.run();
        for PromptPiece { input_ids, positions, .. } in pieces {
            let prompt = input_ids.as_ptr().addr();
            self.runs.push(Run::Piece { prompt, positions: positions.clone(), is_ok: ran.is_ok() });
        }
        ran?;
        // Padding is written too, after the rows.
        let longest = pieces.iter().map(|piece| piece.positions.len()).max().unwrap_or(0);
        for (PromptPiece { image, input_ids, positions: fed }, slot) in pieces.iter().zip(first..) {
            let row = &mut self.rows[slot];
            row.write(fed.start, &vec![f32::NAN; longest]);
            row.write(fed.start, &positions(image, input_ids)[fed.clone()]);
        }
        Ok(self.logits(first..first + pieces.len()))
    }

    fn save_row(&mut self, slot: usize, len: usize, _: SavedRow) -> SavedRow {
        let elements = if self.is_slot(slot)
            && self.expect(len <= self.rows[slot].len, || format!("{len} positions of slot {slot} are saved"))
        {
            self.rows[slot].cells[..len].to_vec()
        } else {
            vec![f32::NAN; len]
        };
        SavedRow::new(len, elements)
    }

    fn restore_row(&mut self, slot: usize, saved: &SavedRow, len: usize) {
        let cells = saved.memory::<Vec<f32>>().map_or(&[][..], Vec::as_slice);
        let is_there = len <= cells.len();
        if self.is_slot(slot) && self.expect(is_there, || format!("{len} of {} saved positions", cells.len())) {
            self.rows[slot].write(0, &cells[..len]);
        }
    }

    fn decode(&mut self, tokens: &[i64]) -> Result<Logits, ModelError> {
        let count = tokens.len();
        let is_well = self.expect((1..=self.rows.len()).contains(&count), || format!("a step of {count} rows"))
            && self.rows[..count].iter().enumerate().all(|(slot, row)| {
                self.expect((1..self.limits.max_len).contains(&row.len), || {
                    format!("a step over slot {slot}, which holds {} positions", row.len)
                })
            });
        if !is_well {
            return Err(Self::forbidden());
        }
        let ran = self.controls.decode.run();
        self.runs.push(Run::Step { rows: count, is_ok: ran.is_ok() });
        ran?;
        for (row, token) in self.rows.iter_mut().zip(tokens) {
            row.write(row.len, &[*token as f32]);
        }
        Ok(self.logits(0..count))
    }

    fn copy_row(&mut self, from: usize, to: usize, positions: Range<usize>) {
        if !self.is_slot(from) || !self.is_slot(to) {
            return;
        }
        let source = &self.rows[from];
        let target = &self.rows[to];
        let is_well = self.expect(positions.end <= source.len, || {
            format!("{positions:?} are copied from slot {from}, which holds {}", source.len)
        }) && self
            .expect(target.cells.get(..positions.start) == Some(&source.cells[..positions.start]), || {
                format!("the first {} positions of slots {from} and {to} differ", positions.start)
            });
        if is_well {
            let copied = source.cells[positions.clone()].to_vec();
            self.rows[to].write(positions.start, &copied);
        }
    }

    fn release(&mut self, slot: usize, from: usize) {
        if self.is_slot(slot) {
            let row = &mut self.rows[slot];
            row.cells.truncate(from);
            row.len = row.len.min(from);
        }
    }

    fn held(&self, slot: usize) -> usize {
        if self.is_slot(slot) { self.rows[slot].cells.len() } else { 0 }
    }
}
