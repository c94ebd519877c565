//! Tables as pandas writes them in JSON: `split` (columns, index, data) and `records` (a list of objects).
//!
//! Columns are found by name; the first of a name counts, others are ignored. Messages name the row (from 0), the column or the
//! key that is at fault, and never hold the image.

use serde_json::{Map, Value};

use super::{Row, ScoringError};
use crate::json::{json_type, shorten};

/// The rows of a table in split form. Messages call the table `name`. Decodes base64.
///
/// # Errors
/// [`ScoringError::Invalid`] or [`ScoringError::MissingColumn`] for the first fault.
pub fn rows_of_split(name: &'static str, table: &Value) -> Result<Vec<Row>, ScoringError> {
    let table = Split::parse(name, table)?;
    (0..table.rows.len()).map(|row| table.row(row)).collect()
}

/// A table whose columns are found.
struct Split<'a> {
    columns: usize,
    image: usize,
    /// `None` when images are to be captioned.
    text: Option<usize>,
    rows: &'a [Value],
}

impl<'a> Split<'a> {
    fn parse(name: &'static str, table: &'a Value) -> Result<Self, ScoringError> {
        let Value::Object(fields) = table else {
            return Err(invalid(format!("{name} must be an object with columns and data")));
        };
        if let Some(key) = fields.keys().find(|key| !["columns", "index", "data"].contains(&key.as_str())) {
            return Err(invalid(format!("{name}: unknown key {:?}; known are columns, index and data", shorten(key))));
        }
        let columns = list(name, fields, "columns")?.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
        let columns = columns.ok_or_else(|| invalid(format!("{name}: columns must be a list of strings")))?;
        let rows = list(name, fields, "data")?;
        if rows.is_empty() {
            return Err(invalid(format!("{name}: data is empty; send at least one row")));
        }
        check_index(name, fields, rows.len())?;
        let (image, text) = find_columns(name, &columns)?;
        Ok(Self { columns: columns.len(), image, text, rows })
    }

    fn row(&self, row: usize) -> Result<Row, ScoringError> {
        let invalid_row = |reason: String| invalid(format!("row {row}: {reason}"));
        let image = self.cell(row, self.image).map_err(invalid_row)?;
        let text = self.text.map(|column| self.cell(row, column)).transpose().map_err(invalid_row)?;
        Row::of_values(image, text).map_err(invalid_row)
    }

    fn cell(&self, row: usize, column: usize) -> Result<&'a Value, String> {
        match &self.rows[row] {
            Value::Array(cells) if cells.len() == self.columns => Ok(&cells[column]),
            Value::Array(cells) => Err(format!("{} values for {} columns", cells.len(), self.columns)),
            bare @ Value::String(_) if self.columns == 1 => Ok(bare),
            other => Err(format!("must be a list of values, not {}", json_type(other))),
        }
    }
}

/// The places of image and text. Without a text, images are to be captioned, if image is the only column: a misspelt column
/// must not turn a question into a caption.
pub(super) fn find_columns(
    table: &'static str,
    columns: &[impl AsRef<str>],
) -> Result<(usize, Option<usize>), ScoringError> {
    let find = |wanted: &str| columns.iter().position(|column| column.as_ref() == wanted);
    let image = find("image").ok_or(ScoringError::MissingColumn { table, column: "image" })?;
    let text = find("text");
    if text.is_none() && columns.len() > 1 {
        return Err(ScoringError::MissingColumn { table, column: "text" });
    }
    Ok((image, text))
}

fn list<'a>(name: &str, fields: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], ScoringError> {
    match fields.get(key) {
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(invalid(format!("{name}: {key} must be a list, not {}", json_type(other)))),
        None => Err(invalid(format!("{name}: {key} is missing"))),
    }
}

/// The index is never echoed, but one of another length means that rows were lost on the way.
fn check_index(name: &str, fields: &Map<String, Value>, rows: usize) -> Result<(), ScoringError> {
    match fields.get("index") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(index)) if index.len() == rows => Ok(()),
        Some(Value::Array(index)) => {
            Err(invalid(format!("{name}: index has {} entries for {rows} rows of data", index.len())))
        }
        Some(other) => Err(invalid(format!("{name}: index must be a list, not {}", json_type(other)))),
    }
}

/// The rows of a list of objects. Which columns there are, all rows say together. Messages call the list `name`. Decodes base64.
///
/// # Errors
/// As [`rows_of_split`].
pub fn rows_of_records(name: &'static str, records: &Value) -> Result<Vec<Row>, ScoringError> {
    let Value::Array(records) = records else {
        return Err(invalid(format!("{name} must be a list of objects, not {}", json_type(records))));
    };
    if records.is_empty() {
        return Err(invalid(format!("{name} is empty; send at least one row")));
    }
    for (number, record) in records.iter().enumerate() {
        if !record.is_object() {
            return Err(invalid(format!("row {number}: must be an object, not {}", json_type(record))));
        }
    }
    let has = |column: &str| records.iter().any(|record| record.get(column).is_some());
    if !has("image") {
        return Err(ScoringError::MissingColumn { table: name, column: "image" });
    }
    let has_text = has("text");
    let has_others = || records.iter().filter_map(Value::as_object).flat_map(Map::keys).any(|column| column != "image");
    // A misspelt column must not turn a question into a caption.
    if !has_text && has_others() {
        return Err(ScoringError::MissingColumn { table: name, column: "text" });
    }
    let cell = |number: usize, column: &str| {
        records[number].get(column).ok_or_else(|| invalid(format!("row {number}: {column} is missing")))
    };
    (0..records.len())
        .map(|number| {
            let image = cell(number, "image")?;
            let text = if has_text { Some(cell(number, "text")?) } else { None };
            Row::of_values(image, text).map_err(|reason| invalid(format!("row {number}: {reason}")))
        })
        .collect()
}

pub(super) fn invalid(message: String) -> ScoringError {
    ScoringError::Invalid(message)
}
