//! The body of `/invocations`, parsed and checked: `dataframe_split` or `dataframe_records` in JSON, or CSV.
//!
//! A handler never sees a raw body. Messages name the row (from 0), the column or the key that is at fault.

use actix_web::HttpRequest;
use actix_web::http::header;
use serde_json::{Map, Value};

use crate::generation::{GenerationParams, ParamError};
use crate::scoring::{Row, rows_of_csv, rows_of_records, rows_of_split};
use crate::server::HttpError;
use crate::server::body::parse_object;

const SPLIT: &str = "dataframe_split";
const RECORDS: &str = "dataframe_records";

/// The keys that MLflow reads input from; exactly one of them may be there. The other two hold tensors.
const INPUT_KEYS: [&str; 4] = [SPLIT, RECORDS, "instances", "inputs"];

/// A parsed request.
#[derive(Debug)]
pub(super) struct Invocation {
    /// The rows, in order; at least one.
    pub(super) rows: Vec<Row>,
    /// The parameters that all rows share.
    pub(super) params: GenerationParams,
}

/// The declared type of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyType {
    Json,
    Csv,
}

impl BodyType {
    /// Reads the content type; it may name UTF-8, and nothing else.
    pub(super) fn of(request: &HttpRequest) -> Result<Self, HttpError> {
        let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Self::parse(given.unwrap_or_default())
    }

    fn parse(content_type: &str) -> Result<Self, HttpError> {
        let unsupported = |message: &str| Err(HttpError::UnsupportedMediaType(message.into()));
        let mut parts = content_type.split(';').map(|part| part.trim().to_ascii_lowercase());
        let body_type = match parts.next().as_deref() {
            Some("application/json") => Self::Json,
            Some("text/csv") => Self::Csv,
            _ => return unsupported("Expects Content-Type to be application/json or text/csv"),
        };
        for parameter in parts.filter(|part| !part.is_empty()) {
            match parameter.split_once('=') {
                Some(("charset", charset)) if charset.trim_matches('"') == "utf-8" => {}
                Some(("charset", _)) => return unsupported("the charset of the Content-Type must be utf-8"),
                _ => return unsupported("the Content-Type may have no parameter but charset"),
            }
        }
        Ok(body_type)
    }
}

impl Invocation {
    /// Reads a body. Call it where blocking is allowed.
    pub(super) fn parse(
        body_type: BodyType,
        body: &[u8],
        parse_params: impl Fn(&Value) -> Result<GenerationParams, ParamError>,
    ) -> Result<Self, HttpError> {
        let parse_params = |params: &Value| parse_params(params).map_err(|error| bad(error.to_string()));
        match body_type {
            BodyType::Csv => Ok(Self { params: parse_params(&Value::Null)?, rows: rows_of_csv(body)? }),
            BodyType::Json => {
                let fields = parse_object(body)?;
                let params = parse_params(fields.get("params").unwrap_or(&Value::Null))?;
                Ok(Self { rows: rows(&fields)?, params })
            }
        }
    }
}

fn rows(fields: &Map<String, Value>) -> Result<Vec<Row>, HttpError> {
    let given: Vec<_> = INPUT_KEYS.into_iter().filter(|key| fields.contains_key(*key)).collect();
    match given.as_slice() {
        [SPLIT] => Ok(rows_of_split(SPLIT, &fields[SPLIT])?),
        [RECORDS] => Ok(rows_of_records(RECORDS, &fields[RECORDS])?),
        [other] => {
            Err(bad(format!("{other} holds tensors, which this model does not take; send {SPLIT} or {RECORDS}")))
        }
        [] => Err(bad(format!("neither {SPLIT} nor {RECORDS} is there; send one of them"))),
        many => Err(bad(format!("{} are there; send one of {SPLIT} and {RECORDS}", many.join(" and ")))),
    }
}

fn bad(message: String) -> HttpError {
    HttpError::BadRequest(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::bundle::GenerationDefaults;
    use crate::generation::letters;

    fn invoke(body: &[u8]) -> Result<Invocation, HttpError> {
        let defaults = GenerationDefaults { max_new_tokens: 20 };
        Invocation::parse(BodyType::Json, body, |params| GenerationParams::parse(params, defaults, &letters()))
    }

    fn texts(body: &Value) -> Result<Vec<String>, String> {
        let invocation = invoke(body.to_string().as_bytes()).map_err(|error| error.to_string())?;
        Ok(invocation.rows.into_iter().map(|row| row.text).collect())
    }

    #[test]
    fn a_content_type_may_name_utf_8_and_nothing_else() {
        for given in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;",
            "application/json; charset=\"utf-8\"",
        ] {
            assert_eq!(BodyType::parse(given).unwrap(), BodyType::Json, "{given}");
        }
        assert_eq!(BodyType::parse("text/csv;charset=utf-8").unwrap(), BodyType::Csv);
        let wrong = [
            "",
            "text/plain",
            "application/xml",
            "application/vnd.x+json",
            "application/json; charset=latin1",
            "application/json; format=pandas-split",
            "text/csv; header=absent",
            "application/json; charset",
        ];
        for given in wrong {
            assert_eq!(BodyType::parse(given).unwrap_err().status(), 415, "{given}");
        }
    }

    #[test]
    fn both_forms_of_a_table_are_read() {
        let split = json!({"dataframe_split": {"columns": ["text", "image"], "data": [["a", "QUJD"], ["b", "QUJD"]]}});
        let records =
            json!({"dataframe_records": [{"text": "a", "image": "QUJD"}, {"image": "QUJD", "id": 7, "text": "b"}]});
        for mut body in [split, records] {
            assert_eq!(texts(&body).unwrap(), ["a", "b"]);
            body["params"] = json!({"max_new_tokens": 3});
            body["input_data"] = json!("means nothing here");
            body["parameters"] = json!([1]);
            assert_eq!(invoke(body.to_string().as_bytes()).unwrap().params.max_new_tokens, 3);
        }
        assert_eq!(texts(&json!({"dataframe_records": [{"image": "QUJD"}]})).unwrap(), [""]);
    }

    #[test]
    fn a_fault_is_named_with_its_place() {
        let split = json!({"columns": ["image"], "data": ["QUJD"]});
        for (body, part) in [
            (json!({}), "neither dataframe_split nor dataframe_records"),
            (json!({"input_data": split}), "neither dataframe_split nor dataframe_records"),
            (json!({"inputs": [1]}), "inputs holds tensors"),
            (json!({"instances": [1]}), "instances holds tensors"),
            (json!({"instances": [1], "dataframe_split": split}), "dataframe_split and instances are there"),
            (
                json!({"dataframe_split": split, "dataframe_records": []}),
                "dataframe_split and dataframe_records are there",
            ),
            (json!({"dataframe_split": []}), "dataframe_split must be an object"),
            (json!({"dataframe_split": {"columns": ["text"], "data": [["x"]]}}), "columns holds no \"image\""),
            (json!({"dataframe_records": {}}), "dataframe_records must be a list of objects, not an object"),
            (json!({"dataframe_records": []}), "dataframe_records is empty"),
            (json!({"dataframe_records": [{"image": "QUJD"}, 3]}), "row 1: must be an object, not a number"),
            (json!({"dataframe_records": [{"text": "x"}]}), "dataframe_records: columns holds no \"image\""),
            (json!({"dataframe_records": [{"image": "QUJD", "txt": "x"}]}), "columns holds no \"text\""),
            (
                json!({"dataframe_records": [{"image": "QUJD", "text": "x"}, {"image": "QUJD"}]}),
                "row 1: text is missing",
            ),
            (json!({"dataframe_records": [{"image": "QUJD", "text": "x"}, {"text": "x"}]}), "row 1: image is missing"),
            (json!({"dataframe_records": [{"image": null, "text": "x"}]}), "row 0: image must be a string, not null"),
            (json!({"dataframe_split": split, "params": {"foo": 1}}), "unknown parameter \"foo\""),
            (json!({"dataframe_split": split, "params": [1]}), "params"),
            (json!([]), "POST body should be a JSON dictionary."),
        ] {
            let message = texts(&body).unwrap_err();
            assert!(message.contains(part), "{body}: {message}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            Just(json!("QUJD")),
            ".{0,8}".prop_map(Value::from),
        ];
        let key = prop_oneof![
            proptest::sample::select(vec![
                "dataframe_split",
                "dataframe_records",
                "columns",
                "data",
                "index",
                "image",
                "text"
            ])
            .prop_map(str::to_owned),
            ".{0,4}",
        ];
        leaf.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::hash_map(key.clone(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_rows_or_a_fault(split in any_json(), records in any_json()) {
            for body in [json!({SPLIT: split}), json!({RECORDS: records}), split] {
                match invoke(body.to_string().as_bytes()) {
                    Ok(invocation) => prop_assert!(!invocation.rows.is_empty()),
                    Err(error) => prop_assert_eq!(error.status(), 400),
                }
            }
        }
    }
}
