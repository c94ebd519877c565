//! The format of the case files. A key that is not known here would be a rule that nobody checks, so it is an error.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Deserialize;
use serde_json::Value;

use super::wire::{Body, Request};

/// A file of cases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseFile {
    pub(super) format: String,
    #[serde(rename = "about")]
    _about: Value,
    pub(super) cases: Vec<Case>,
}

/// A request, and what its answer must be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) group: String,
    #[serde(rename = "about")]
    _about: String,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    body_base64: Option<String>,
    #[serde(default)]
    chunks: Option<Vec<usize>>,
    #[serde(default)]
    expect_continue: bool,
    #[serde(default)]
    http_version: Option<String>,
    pub(super) repeat: Option<usize>,
    #[serde(default)]
    pub(super) needs: Vec<String>,
    pub(super) expect: Expect,
    #[serde(rename = "deviation")]
    _deviation: Option<String>,
    #[serde(rename = "real_status")]
    _real_status: Option<u16>,
}

/// The rules for an answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    pub(super) status: u16,
    pub(super) content_type: Option<String>,
    pub(super) body: BodyRule,
    #[serde(default)]
    pub(super) headers: HeaderRules,
    pub(super) max_seconds: Option<f64>,
    pub(super) image_server_hits: Option<usize>,
    pub(super) connection_closed: Option<bool>,
}

/// What headers there must be, by lower-case name.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HeaderRules {
    pub(super) present: Vec<String>,
    pub(super) absent: Vec<String>,
    pub(super) equals: BTreeMap<String, String>,
    pub(super) matches: BTreeMap<String, String>,
    pub(super) same: Vec<(String, String)>,
}

/// What the body must be.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum BodyRule {
    Any,
    Empty,
    Text {
        equals: String,
    },
    Predictions {
        rows: usize,
        max_words: Option<usize>,
    },
    Error {
        message: Option<String>,
        message_prefix: Option<String>,
        #[serde(default)]
        message_contains: Vec<String>,
    },
    Json {
        at: Vec<AtPointer>,
    },
    MlflowPredictions {
        rows: usize,
        max_words: Option<usize>,
    },
    MlflowError {
        error_code: Option<String>,
    },
}

/// A value within a JSON body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AtPointer {
    pub(super) pointer: String,
    pub(super) equals: Option<Value>,
    pub(super) r#type: Option<String>,
}

/// What stands for the placeholders of a run.
pub(super) struct Places {
    pub(super) image_port: u16,
    pub(super) cors_origin: &'static str,
}

impl Places {
    /// The text with its placeholders replaced.
    pub(super) fn fill(&self, text: &str) -> String {
        let text = text
            .replace("${IMAGE_SERVER}", &format!("127.0.0.1:{}", self.image_port))
            .replace("${IMAGE_PORT}", &self.image_port.to_string())
            .replace("${CORS_ORIGIN}", self.cors_origin);
        let mut filled = String::new();
        let mut rest = text.as_str();
        while let Some((before, repeat)) = rest.split_once("${REPEAT:") {
            let (number, after) = repeat.split_once(':').expect("${REPEAT:N:TEXT}");
            let (unit, after) = after.split_once('}').expect("${REPEAT:N:TEXT}");
            filled.push_str(before);
            filled.push_str(&unit.repeat(number.parse().expect("${REPEAT:N:TEXT}")));
            rest = after;
        }
        filled.push_str(rest);
        assert!(!filled.contains("${"), "an unknown placeholder");
        filled
    }
}

impl Case {
    /// Whether a start that meets these conditions can show the case.
    pub(super) fn is_met_by(&self, conditions: &[&str]) -> bool {
        self.needs.iter().all(|need| conditions.contains(&need.as_str()))
    }

    /// The request, as it goes over the wire.
    pub(super) fn request(&self, places: &Places) -> Request {
        let body = match (&self.body, &self.body_base64) {
            (Some(text), None) => Some(places.fill(text).into_bytes()),
            (None, Some(bytes)) => Some(base64::engine::general_purpose::STANDARD.decode(bytes).unwrap()),
            (None, None) => None,
            (Some(_), Some(_)) => panic!("{}: body and body_base64", self.name),
        };
        let body = match (body, &self.chunks) {
            (Some(bytes), Some(sizes)) => Body::Chunked { bytes, sizes: sizes.clone() },
            (Some(bytes), None) => Body::Whole(bytes),
            (None, _) => Body::None,
        };
        Request {
            method: self.method.clone(),
            path: places.fill(&self.path),
            version: self.http_version.clone().unwrap_or_else(|| "1.1".into()),
            headers: self.headers.iter().map(|(name, value)| (name.clone(), places.fill(value))).collect(),
            body,
            waits_for_continue: self.expect_continue,
        }
    }
}
