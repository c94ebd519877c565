//! The body of `/score`, parsed and checked: `{"input_data": {"columns", "index", "data"}, "params": {…}}`.
//!
//! A handler never sees a raw body. Messages name the row (from 0), the column or the key that is at fault, and never
//! hold the image.

use serde_json::{Map, Value};

use crate::generation::{GenerationParams, ParamError};
use crate::json::json_type;
use crate::server::HttpError;
use crate::server::answering::Row;
use crate::server::body::parse_object;
use crate::server::image_source::ImageSource;

/// What is asked for.
#[derive(Debug)]
pub(super) struct ScoreRequest {
    /// The rows, in order; at least one.
    pub rows: Vec<Row>,
    /// The parameters that all rows share.
    pub params: GenerationParams,
}

impl ScoreRequest {
    /// Reads a body.
    pub(super) fn parse(
        body: &[u8],
        parse_params: impl Fn(&Value) -> Result<GenerationParams, ParamError>,
    ) -> Result<Self, HttpError> {
        Self::read(&parse_object(body)?, parse_params)
    }

    /// Reads the fields of a body, or of a query.
    pub(super) fn read(
        body: &Map<String, Value>,
        parse_params: impl Fn(&Value) -> Result<GenerationParams, ParamError>,
    ) -> Result<Self, HttpError> {
        let Some(input_data) = body.get("input_data") else {
            return Err(bad("A value is not provided for the 'input_data' parameter."));
        };
        let params = parse_params(params_value(body)?).map_err(|error| bad(error.to_string()))?;
        Ok(Self { rows: rows_of_table("input_data", input_data)?, params })
    }
}

/// The rows of a table in pandas' split form; `name` is what messages call it.
pub(in crate::server) fn rows_of_table(name: &'static str, table: &Value) -> Result<Vec<Row>, HttpError> {
    let table = Table::parse(name, table)?;
    (0..table.rows.len()).map(|row| table.row(row)).collect()
}

/// A table, its columns found.
struct Table<'a> {
    columns: usize,
    image: usize,
    /// `None` when images are to be captioned.
    text: Option<usize>,
    rows: &'a [Value],
}

impl<'a> Table<'a> {
    fn parse(name: &'static str, table: &'a Value) -> Result<Self, HttpError> {
        let Value::Object(fields) = table else {
            return Err(bad(format!("{name} must be an object with columns and data")));
        };
        if let Some(key) = fields.keys().find(|key| !["columns", "index", "data"].contains(&key.as_str())) {
            return Err(bad(format!("{name}: unknown key {:?}; known are columns, index and data", shorten(key))));
        }
        let columns = list(name, fields, "columns")?.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
        let columns = columns.ok_or_else(|| bad(format!("{name}: columns must be a list of strings")))?;
        let rows = list(name, fields, "data")?;
        if rows.is_empty() {
            return Err(bad(format!("{name}: data is empty; send at least one row")));
        }
        check_index(name, fields, rows.len())?;
        let find = |wanted: &str| columns.iter().position(|column| *column == wanted);
        let image = find("image").ok_or_else(|| HttpError::MissingColumn { table: name, column: "image" })?;
        let text = find("text");
        // A misspelt column must not turn a question into a caption.
        if text.is_none() && columns.len() > 1 {
            return Err(HttpError::MissingColumn { table: name, column: "text" });
        }
        Ok(Self { columns: columns.len(), image, text, rows })
    }

    fn row(&self, row: usize) -> Result<Row, HttpError> {
        let bad_row = |reason: String| bad(format!("row {row}: {reason}"));
        let image = self.cell(row, self.image).map_err(bad_row)?;
        let text = self.text.map(|column| self.cell(row, column)).transpose().map_err(bad_row)?;
        row_of_values(image, text).map_err(bad_row)
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

fn params_value(body: &Map<String, Value>) -> Result<&Value, HttpError> {
    match (body.get("params"), body.get("parameters")) {
        (Some(Value::Null) | None, other) => Ok(other.unwrap_or(&Value::Null)),
        (Some(params), Some(Value::Null) | None) => Ok(params),
        (Some(_), Some(_)) => Err(bad("params and parameters mean the same; send one of them")),
    }
}

/// A row of an image string and a text, which is absent for captions. The error is a reason without a place.
pub(in crate::server) fn row_of_values(image: &Value, text: Option<&Value>) -> Result<Row, String> {
    let image = match image {
        Value::String(image) => ImageSource::parse(image).map_err(|error| error.to_string())?,
        other => return Err(format!("image must be a string, not {}", json_type(other))),
    };
    let text = match text {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => return Err(format!("text must be a string, not {}", json_type(other))),
    };
    Ok(Row { image, text })
}

fn list<'a>(name: &str, fields: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], HttpError> {
    match fields.get(key) {
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(bad(format!("{name}: {key} must be a list, not {}", json_type(other)))),
        None => Err(bad(format!("{name}: {key} is missing"))),
    }
}

/// The index is never echoed, but one of another length means that rows were lost on the way.
fn check_index(name: &str, fields: &Map<String, Value>, rows: usize) -> Result<(), HttpError> {
    match fields.get("index") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(index)) if index.len() == rows => Ok(()),
        Some(Value::Array(index)) => {
            Err(bad(format!("{name}: index has {} entries for {rows} rows of data", index.len())))
        }
        Some(other) => Err(bad(format!("{name}: index must be a list, not {}", json_type(other)))),
    }
}

fn bad(message: impl Into<String>) -> HttpError {
    HttpError::BadRequest(message.into())
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bundle::GenerationDefaults;
    use crate::generation::letters;

    /// Parameters are parsed as an engine with the tests' tokenizer would.
    fn parse_params(params: &Value) -> Result<GenerationParams, ParamError> {
        GenerationParams::parse(params, GenerationDefaults { max_new_tokens: 20 }, &letters())
    }

    fn parse(body: &Value) -> Result<ScoreRequest, String> {
        ScoreRequest::parse(body.to_string().as_bytes(), parse_params).map_err(|error| error.to_string())
    }

    fn input(columns: &Value, data: &Value) -> Value {
        json!({"input_data": {"columns": columns, "data": data}})
    }

    #[test]
    fn columns_are_found_by_name_and_the_first_counts() {
        let columns = json!(["extra", "text", "image", "text"]);
        let request = parse(&input(&columns, &json!([[1, "a question", "QUJD", "another"]]))).unwrap();
        let abc = ImageSource::File(b"ABC".as_slice().into());
        assert_eq!((&request.rows[0].image, request.rows[0].text.as_str()), (&abc, "a question"));
    }

    #[test]
    fn an_image_column_alone_asks_for_captions_in_rows_or_bare() {
        for data in [json!([["QUJD"], ["QUJD"]]), json!(["QUJD", "QUJD"])] {
            let request = parse(&input(&json!(["image"]), &data)).unwrap();
            assert!(request.rows.len() == 2 && request.rows.iter().all(|row| row.text.is_empty()));
        }
    }

    #[test]
    fn an_index_may_hold_anything_but_another_number_of_entries() {
        for index in [json!(null), json!(["a"]), json!([null]), json!([17])] {
            let mut body = input(&json!(["image", "text"]), &json!([["QUJD", ""]]));
            body["input_data"]["index"] = index;
            assert!(parse(&body).is_ok(), "{body}");
        }
    }

    #[test]
    fn a_fault_is_named_with_its_place() {
        let both = json!(["image", "text"]);
        let cases = [
            (json!({}), "A value is not provided for the 'input_data' parameter."),
            (json!([]), "POST body should be a JSON dictionary."),
            (json!({"input_data": null}), "input_data must be an object"),
            (json!({"input_data": {"data": []}}), "columns is missing"),
            (json!({"input_data": {"columns": ["image"]}}), "data is missing"),
            (json!({"input_data": {"columns": ["image"], "data": {}}}), "data must be a list, not an object"),
            (json!({"input_data": {"columns": [1], "data": [[]]}}), "columns must be a list of strings"),
            (json!({"input_data": {"columns": ["image"], "data": [["QUJD"]], "rows": 1}}), "unknown key \"rows\""),
            (
                json!({"input_data": {"columns": ["image"], "data": [["QUJD"]], "index": []}}),
                "index has 0 entries for 1 rows",
            ),
            (json!({"input_data": {"columns": ["image"], "data": [["QUJD"]], "index": "0"}}), "index must be a list"),
            (input(&both, &json!([])), "data is empty"),
            (input(&json!(["Image", "text"]), &json!([["QUJD", ""]])), "columns holds no \"image\""),
            (input(&json!(["image", "question"]), &json!([["QUJD", ""]])), "columns holds no \"text\""),
            (input(&both, &json!([["QUJD", ""], ["QUJD"]])), "row 1: 1 values for 2 columns"),
            (input(&both, &json!([["QUJD", ""], "QUJD"])), "row 1: must be a list of values, not a string"),
            (input(&both, &json!([["QUJD", 7]])), "row 0: text must be a string, not a number"),
            (input(&both, &json!([["QUJD", ""], [null, ""]])), "row 1: image must be a string, not null"),
            (input(&both, &json!([["", ""]])), "row 0: image is empty"),
            (input(&both, &json!([["QUJDR", ""]])), "row 0: image is not base64"),
            (json!({"params": {}, "parameters": {}, "input_data": {}}), "params and parameters mean the same"),
            (json!({"params": {"foo": 1}, "input_data": {}}), "unknown parameter \"foo\""),
        ];
        for (body, part) in cases {
            let message = parse(&body).unwrap_err();
            assert!(message.contains(part), "{body}: {message}");
        }
    }

    #[test]
    fn a_body_that_is_not_json_says_so() {
        let parse = |body: &[u8]| ScoreRequest::parse(body, parse_params).unwrap_err().to_string();
        assert_eq!(parse(b""), "POST body is empty. Expecting a JSON dictionary.");
        for body in [b" ".as_slice(), b"{", b"{} x", b"\x1f\x8b\x08", b"{\"a\": \"\xff\"}", &[b'['; 100_000]] {
            assert!(parse(body).starts_with("POST body could not be decoded as JSON: "), "{}", parse(body));
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_fault() {
        let body =
            [b"\xef\xbb\xbf".as_slice(), br#"{"input_data": {"columns": ["image"], "data": ["QUJD"]}}"#].concat();
        assert!(ScoreRequest::parse(&body, parse_params).is_ok());
    }
}
