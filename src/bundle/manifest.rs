//! `manifest.json`, schema version 1, as `docs/bundle.md` describes it. Plain data, and the checks
//! that need no file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The schema that this version reads.
const SCHEMA_VERSION: u32 = 1;

/// The preprocessing that `image` implements; another number would mean other pixels.
const PREPROCESSING_VERSION: u32 = 1;

/// The manifest: all that the runtime knows about a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub schema_version: u32,
    /// The name of the model.
    pub name: String,
    /// The provenance of the weights.
    pub checkpoint: Checkpoint,
    /// The target of the graphs.
    pub target: Target,
    /// Precision of each stage.
    pub precision: Precisions,
    /// How pixels become `pixel_values`.
    pub image: ImageManifest,
    /// `pixel_values -> image_embeds`.
    pub vision_encoder: VisionEncoderManifest,
    /// `image_embeds -> query_output, image_prefix`.
    pub qformer: QFormerManifest,
    /// `input_ids, image_prefix, … -> logits`.
    pub decoder: DecoderManifest,
    /// Tokenizer file and special ids.
    pub tokenizer: TokenizerManifest,
    /// Defaults of a request.
    pub generation: GenerationDefaults,
    /// Versions of the tools that wrote the bundle.
    pub tools: BTreeMap<String, String>,
    /// Size and hash of every file except the manifest.
    pub files: BTreeMap<String, FileEntry>,
}

/// Provenance of the weights.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Hub id or folder name.
    pub id: String,
    /// Hub revision, if known.
    pub revision: Option<String>,
    /// The files that were read.
    #[serde(default)]
    pub files: BTreeMap<String, FileEntry>,
}

/// The hardware for which the graphs were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// CPU provider.
    Cpu,
    /// CUDA provider.
    Cuda,
    /// TensorRT provider for vision encoder and Q-Former.
    TensorRt,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        })
    }
}

/// How a stage's weights are stored and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    Fp32,
    /// 16-bit floats.
    Fp16,
    /// 8-bit integers, activations quantised per token.
    Int8,
    /// 4-bit weights in groups.
    Int4,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

/// Precision per stage.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Precisions {
    /// Vision encoder.
    pub vision_encoder: Precision,
    /// Q-Former and language projection.
    pub qformer: Precision,
    /// OPT decoder.
    pub decoder: Precision,
}

/// Preprocessing: size in pixels, mean and deviation of each channel on the scale 0 to 1.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageManifest {
    /// Rows of `pixel_values`.
    pub height: u32,
    /// Columns of `pixel_values`.
    pub width: u32,
    /// Mean of R, G and B.
    pub mean: [f64; 3],
    /// Standard deviation of R, G and B.
    pub std: [f64; 3],
    /// The version of resize and normalisation.
    pub preprocessing_version: u32,
}

/// The vision encoder graph.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VisionEncoderManifest {
    /// ONNX file.
    pub file: String,
    /// Width of `image_embeds`.
    pub hidden_size: usize,
    /// Patches plus one.
    pub num_tokens: usize,
    /// Input names.
    pub inputs: VisionEncoderInputs,
    /// Output names.
    pub outputs: VisionEncoderOutputs,
}

/// Graph names of the vision encoder's inputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VisionEncoderInputs {
    /// f32 `[batch, 3, height, width]`.
    pub pixel_values: String,
}

/// Graph names of the vision encoder's outputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VisionEncoderOutputs {
    /// `[batch, num_tokens, hidden]`.
    pub image_embeds: String,
}

/// The Q-Former graph, language projection included.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QFormerManifest {
    /// ONNX file.
    pub file: String,
    /// Width of `query_output`.
    pub hidden_size: usize,
    /// Length of `image_prefix` in positions.
    pub num_query_tokens: usize,
    /// Input names.
    pub inputs: QFormerInputs,
    /// Output names.
    pub outputs: QFormerOutputs,
}

/// Graph names of the Q-Former's inputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QFormerInputs {
    /// `[batch, num_tokens, vision hidden]`.
    pub image_embeds: String,
}

/// Graph names of the Q-Former's outputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QFormerOutputs {
    /// `[batch, num_query_tokens, hidden]`.
    pub query_output: String,
    /// `[batch, num_query_tokens, decoder hidden]`.
    pub image_prefix: String,
}

/// Element type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvDtype {
    /// 32-bit floats.
    Float32,
    /// 16-bit floats.
    Float16,
}

impl KvDtype {
    fn bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 => 2,
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
        })
    }
}

/// The two halves of a layer's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvKind {
    /// Keys.
    Key,
    /// Values.
    Value,
}

impl KvKind {
    /// Both, in the order in which graphs list them.
    pub const ALL: [Self; 2] = [Self::Key, Self::Value];

    fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Value => "value",
        }
    }
}

/// The decoder graph: prefill, continuation and decode in one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DecoderManifest {
    /// ONNX file.
    pub file: String,
    /// Width of `image_prefix`.
    pub hidden_size: usize,
    /// Layers, and so pairs of cache tensors.
    pub num_layers: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Columns of `logits`.
    pub vocab_size: usize,
    /// The most positions of a row, prompt and new tokens.
    pub max_positions: usize,
    /// Input names.
    pub inputs: DecoderInputs,
    /// Output names.
    pub outputs: DecoderOutputs,
    past: String,
    present: String,
    /// Element type of the cache.
    pub kv_dtype: KvDtype,
    kv_layout: Vec<String>,
}

/// Graph names of the decoder's inputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DecoderInputs {
    /// i64 `[rows, seq]`.
    pub input_ids: String,
    /// `[rows, prefix, hidden]`.
    pub image_prefix: String,
    /// i64 `[rows, prefix + seq]`.
    pub position_ids: String,
    /// i32 `[rows]`.
    pub seqlens_k: String,
    /// i32 `[]`.
    pub total_sequence_length: String,
    /// i64 `[rows, k]`.
    pub logits_index: String,
}

/// Graph names of the decoder's outputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DecoderOutputs {
    /// f32 `[rows, k, vocab]`.
    pub logits: String,
}

impl DecoderManifest {
    /// Returns the graph's name for the cache that a run reads.
    #[must_use]
    pub fn past_name(&self, layer: usize, kind: KvKind) -> String {
        fill(&self.past, layer, kind)
    }

    /// Returns the graph's name for the cache that a run writes, which is the same memory.
    #[must_use]
    pub fn present_name(&self, layer: usize, kind: KvKind) -> String {
        fill(&self.present, layer, kind)
    }

    /// Returns the bytes of cache for one position of a row, in all layers.
    #[must_use]
    pub fn position_bytes(&self) -> usize {
        self.num_layers * KvKind::ALL.len() * self.num_heads * self.head_dim * self.kv_dtype.bytes()
    }
}

fn fill(template: &str, layer: usize, kind: KvKind) -> String {
    template.replace("{layer}", &layer.to_string()).replace("{kind}", kind.as_str())
}

/// The tokenizer and the ids with a role.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenizerManifest {
    /// `tokenizer.json` of the `tokenizers` library.
    pub file: String,
    /// Begins every text.
    pub bos_token_id: u32,
    /// Ends an answer.
    pub eos_token_id: u32,
    /// Skipped when decoding.
    pub pad_token_id: u32,
    /// Stands for an image position in the history of a row. Old checkpoints have none.
    pub image_token_id: Option<u32>,
}

/// The default parameters of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationDefaults {
    /// The most new tokens.
    pub max_new_tokens: usize,
}

/// One file of the bundle.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileEntry {
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// Size.
    pub bytes: u64,
}

impl Manifest {
    /// Returns the bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// Returns the bytes of a graph by the name of its file, with the weights beside it.
    #[must_use]
    pub fn graph_bytes(&self, file: &str) -> u64 {
        self.files.iter().filter(|(name, _)| name.starts_with(file)).map(|(_, entry)| entry.bytes).sum()
    }

    /// Returns a short fingerprint of the content of all files.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        for (name, FileEntry { sha256, .. }) in &self.files {
            digest.update(format!("{name} {sha256}\n"));
        }
        digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Checks versions, paths, and that the numbers agree. The error is a clause.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.schema_version != SCHEMA_VERSION {
            return Err(format!("schema_version is {}, this version reads {SCHEMA_VERSION}", self.schema_version));
        }
        if self.image.preprocessing_version != PREPROCESSING_VERSION {
            let found = self.image.preprocessing_version;
            return Err(format!("preprocessing_version is {found}, this version does {PREPROCESSING_VERSION}"));
        }
        self.check_paths()?;
        self.check_numbers()
    }

    fn check_paths(&self) -> Result<(), String> {
        let needed = [&self.vision_encoder.file, &self.qformer.file, &self.decoder.file, &self.tokenizer.file];
        if let Some(missing) = needed.into_iter().find(|file| !self.files.contains_key(*file)) {
            return Err(format!("{missing} is not listed in files"));
        }
        let is_inside = |name: &String| Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        match self.files.keys().find(|name| !is_inside(name)) {
            Some(outside) => Err(format!("the path {outside:?} leaves the bundle")),
            None => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<(), String> {
        let decoder = &self.decoder;
        let positive = [
            ("vision_encoder.hidden_size", self.vision_encoder.hidden_size),
            ("vision_encoder.num_tokens", self.vision_encoder.num_tokens),
            ("qformer.num_query_tokens", self.qformer.num_query_tokens),
            ("decoder.num_layers", decoder.num_layers),
            ("decoder.num_heads", decoder.num_heads),
            ("decoder.vocab_size", decoder.vocab_size),
            ("generation.max_new_tokens", self.generation.max_new_tokens),
        ];
        if let Some((name, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} is 0"));
        }
        if decoder.hidden_size != decoder.num_heads * decoder.head_dim {
            return Err("decoder.hidden_size is not num_heads x head_dim".into());
        }
        if decoder.max_positions <= self.qformer.num_query_tokens + 1 {
            return Err("decoder.max_positions leaves no room for text".into());
        }
        if decoder.kv_layout != ["rows", "heads", "max_len", "head_dim"] {
            return Err(format!(
                "decoder.kv_layout is {:?}, this version binds rows, heads, max_len, head_dim",
                decoder.kv_layout
            ));
        }
        let templates = [&decoder.past, &decoder.present];
        if templates.iter().any(|template| !template.contains("{layer}") || !template.contains("{kind}")) {
            return Err("decoder.past and decoder.present need {layer} and {kind}".into());
        }
        let ids = &self.tokenizer;
        if [ids.bos_token_id, ids.eos_token_id, ids.pad_token_id].iter().any(|id| *id as usize >= decoder.vocab_size) {
            return Err("a special token id lies outside the vocabulary".into());
        }
        Ok(())
    }
}
