//! From rows of image and text to answers, for every caller: the HTTP protocols of `server`, files, other languages.
//!
//! ```text
//! Row { ImageSource, text } ── Scorer::admit ── Admitted ── locate, open, prepare ── PreparedJob ── answers ── Answer
//! ```
//!
//! Reads image strings and tables into [`Row`]s, reserves places in the engine before any image is fetched or decoded, and
//! answers all rows or none. Knows neither HTTP nor a protocol; what a caller counts it learns through [`Observer`].

mod csv;
mod error;
mod image_source;
mod row;
mod scorer;
mod table;

pub use self::csv::rows_of_csv;
pub use self::error::ScoringError;
pub use self::image_source::{ImageSource, ImageStringError};
pub use self::row::{Place, Row, row};
pub use self::scorer::{Admitted, Located, Observer, Scorer};
pub use self::table::{rows_of_records, rows_of_split};
