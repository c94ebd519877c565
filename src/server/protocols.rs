//! The protocols that the service speaks, in the order of `/openapi.json`. A new one is a folder and a line here.

use actix_web::HttpResponse;

use super::protocol::{Protocol, is_below};
use super::{HttpError, azure, health, metrics, mlflow, native, open_inference, openai, openapi};

/// All of them.
pub(super) const PROTOCOLS: [&Protocol; 8] = [
    &health::PROTOCOL,
    &azure::PROTOCOL,
    &mlflow::PROTOCOL,
    &native::PROTOCOL,
    &open_inference::PROTOCOL,
    &openai::PROTOCOL,
    &metrics::PROTOCOL,
    &openapi::PROTOCOL,
];

/// The protocol that a path belongs to: the one with the longest root.
fn owner(path: &str) -> Option<&'static Protocol> {
    let roots =
        PROTOCOLS.into_iter().flat_map(|protocol| protocol.roots.iter().map(move |root| (root.len(), protocol, *root)));
    let below = roots.filter(|(_, _, root)| is_below(path, root));
    below.max_by_key(|(length, ..)| *length).map(|(_, protocol, _)| protocol)
}

/// Whether a path needs no key.
pub(super) fn is_public(path: &str) -> bool {
    PROTOCOLS.into_iter().flat_map(|protocol| protocol.public).any(|public| is_below(path, public))
}

/// An answer without any handler, in the shape that the path's protocol has.
pub(super) fn refuse(path: &str, error: HttpError) -> HttpResponse {
    owner(path).map_or(health::PROTOCOL.refuse, |protocol| protocol.refuse)(error)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_path_belongs_to_the_protocol_with_the_longest_root() {
        for (path, name) in [
            ("/", "Probes"),
            ("/readyz", "Probes"),
            ("/score", "Azure"),
            ("/invocations", "MLflow"),
            ("/v1/ask", "Native"),
            ("/v1/nothing", "Native"),
            ("/v1/models", "OpenAI"),
            ("/v1/models/a/b", "OpenAI"),
            ("/v1/modelsx", "Native"),
            ("/v2", "Open Inference Protocol"),
            ("/v2/models/m/infer", "Open Inference Protocol"),
            ("/docs/index.html", "Documents"),
        ] {
            assert_eq!(owner(path).map(|protocol| protocol.name), Some(name), "{path}");
        }
        assert!(owner("/nothing").is_none() && owner("/scores").is_none());
    }

    #[test]
    fn probes_and_pages_need_no_key_and_nothing_else() {
        for path in [
            "/",
            "/livez",
            "/readyz",
            "/ping",
            "/health",
            "/version",
            "/v2/health/live",
            "/openapi.json",
            "/docs",
            "/docs/x.css",
        ] {
            assert!(is_public(path), "{path}");
        }
        for path in [
            "/score",
            "/metrics",
            "/v1/models",
            "/v2",
            "/v2/health",
            "/invocations",
            "/swagger.json",
            "/nothing",
            "/docsx",
        ] {
            assert!(!is_public(path), "{path}");
        }
    }

    #[test]
    fn every_described_path_is_one_of_its_protocol() {
        for protocol in PROTOCOLS {
            for path in (protocol.openapi)().paths.paths.keys() {
                assert_eq!(owner(path).map(|owner| owner.name), Some(protocol.name), "{path}");
            }
        }
    }

    #[test]
    fn no_two_protocols_give_one_name_to_different_schemas() {
        let mut seen = BTreeMap::new();
        for protocol in PROTOCOLS {
            for (name, schema) in (protocol.openapi)().components.unwrap_or_default().schemas {
                let schema = serde_json::to_value(schema).unwrap();
                let other = seen.insert(name.clone(), schema.clone());
                assert!(other.is_none_or(|other| other == schema), "{name}");
            }
        }
    }

    #[test]
    fn operations_have_ids_of_their_own() {
        let mut seen = BTreeMap::new();
        for protocol in PROTOCOLS {
            for (path, item) in (protocol.openapi)().paths.paths {
                let operations = [item.get, item.post, item.put, item.patch, item.delete, item.options, item.head];
                for operation in operations.into_iter().flatten() {
                    let id = operation.operation_id.unwrap_or_default();
                    assert!(!id.is_empty(), "{path}");
                    let other = seen.insert(id.clone(), path.clone());
                    assert!(other.is_none(), "{id}: {other:?} and {path}");
                }
            }
        }
    }
}
