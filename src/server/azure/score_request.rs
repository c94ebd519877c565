//! The body of `/score`, parsed and checked: `{"input_data": {"columns", "index", "data"}, "params": {…}}`.
//!
//! A handler never sees a raw body. Messages name the row (from 0), the column or the key that is at fault, and never
//! hold the image.

use serde_json::{Map, Value};

use crate::generation::{GenerationParams, ParamError};
use crate::scoring::{Row, rows_of_split};
use crate::server::HttpError;
use crate::server::body::parse_object;

/// A parsed request.
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
        Ok(Self { rows: rows_of_split("input_data", input_data)?, params })
    }
}

fn params_value(body: &Map<String, Value>) -> Result<&Value, HttpError> {
    match (body.get("params"), body.get("parameters")) {
        (Some(Value::Null) | None, other) => Ok(other.unwrap_or(&Value::Null)),
        (Some(params), Some(Value::Null) | None) => Ok(params),
        (Some(_), Some(_)) => Err(bad("params and parameters mean the same; send one of them")),
    }
}

fn bad(message: impl Into<String>) -> HttpError {
    HttpError::BadRequest(message.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bundle::GenerationDefaults;
    use crate::generation::letters;
    use crate::scoring::ImageSource;

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
