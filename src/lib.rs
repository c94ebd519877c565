//! BLIP-2 with an OPT decoder on ONNX Runtime: images and prompts in, text out, with the answers of transformers.
//!
//! ```text
//! bytes ── image ──────────────▶ pixel_values   f32 [1, 3, height, width]
//! pixel_values ── VisionEncoder ▶ image_embeds  f32 [1, num_tokens, vision hidden]
//! image_embeds ── QFormer ─────▶ image_prefix   f32 [1, num_query_tokens, decoder hidden]
//! text ── text ────────────────▶ input_ids      i64 [1, seq]
//! image_prefix, input_ids ── Decoder ▶ logits   f32 [rows, vocab], and the KV cache grows in place
//! logits ── generation ────────▶ next token, until the end token or max_new_tokens
//! ```
//!
//! Start reading at [`engine::Engine`], the path of a request, and [`bundle::Manifest`], all that is known of a model.

pub mod bundle;
pub mod cli;
pub mod engine;
pub mod fetch;
pub mod generation;
pub mod image;
mod json;
pub mod launch;
pub mod memory;
pub mod model;
pub mod runtime;
pub mod scoring;
pub mod server;
pub mod telemetry;
pub mod text;
