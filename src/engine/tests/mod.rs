//! Tests of the engine, a file for each subject, with a scripted model that can be held, or made to
//! fail, at every stage.
//!
//! `scheduler` runs the decoder worker alone, turn by turn. All others run a whole engine on its
//! threads.

mod caches;
mod cancellation;
mod deadlines;
mod embeddings;
mod failures;
mod fake_model;
mod image_encoding;
mod image_store;
mod phase;
mod rankings;
mod scheduler;
mod setup;
mod streams;
