//! `/swagger.json`: what Azure's tools read of the scoring contract, in the versions that its server knows.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use crate::server::error::ErrorBody;
use crate::server::examples::EXAMPLE_IMAGE;
use crate::server::{HttpError, ServiceName, State};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Two,
    Three,
    ThreeOne,
}

/// The description for Azure's tools, in the version of Swagger or OpenAPI that they ask for.
#[utoipa::path(
    get,
    path = "/swagger.json",
    tag = "Azure",
    params(("version" = Option<String>, Query, description = "`2` (the default), `3` or `3.1`.", example = "3.1")),
    responses(
        (status = 200, description = "The document.", body = Object),
        (status = 401, description = "The API key is missing or wrong.", body = ErrorBody),
        (status = 404, description = "There is no such version.", body = ErrorBody),
        (status = 431, description = "An id is longer than 100 characters.", body = ErrorBody),
    )
)]
pub(super) async fn swagger(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, HttpError> {
    let mut query = url::form_urlencoded::parse(request.query_string().as_bytes());
    let asked = query.find(|(key, _)| key == "version").map(|(_, version)| version.into_owned());
    let version = match asked.as_deref() {
        None | Some("2" | "2.0") => Version::Two,
        Some("3" | "3.0") => Version::Three,
        Some("3.1") => Version::ThreeOne,
        Some(other) => {
            let shown: String = other.chars().take(40).collect();
            let message = format!("Swagger version [{shown}] is not valid. Supported versions: [2, 3, 3.1].");
            return Err(HttpError::Missing(message));
        }
    };
    Ok(HttpResponse::Ok().json(document(version, &state.settings().service)))
}

fn document(version: Version, service: &ServiceName) -> Value {
    let ServiceName { name, version: service_version, path_prefix } = service;
    let info = json!({
        "title": name,
        "version": service_version,
        "description": "Answers questions about images: BLIP-2 on ONNX Runtime.",
    });
    let paths = json!({
        format!("{path_prefix}/"): {"get": operation(version, "ServiceHealthCheck", "Simple health check endpoint to ensure the service is up at any given point.", None)},
        format!("{path_prefix}/score"): {"post": operation(version, "RunMLService", "Answers every row: an image and a text.", Some("ServiceInput"))},
        format!("{path_prefix}/swagger.json"): {"get": operation(version, "GetSwaggerSpec", "This document.", None)},
    });
    match version {
        Version::Two => json!({
            "swagger": "2.0",
            "info": info,
            "schemes": ["https"],
            "consumes": ["application/json"],
            "produces": ["application/json"],
            "securityDefinitions": {"Bearer": {"type": "apiKey", "name": "Authorization", "in": "header"}},
            "paths": paths,
            "definitions": schemas(),
        }),
        Version::Three | Version::ThreeOne => json!({
            "openapi": if version == Version::Three { "3.0.3" } else { "3.1.0" },
            "info": info,
            "paths": paths,
            "components": {
                "securitySchemes": {"Bearer": {"type": "http", "scheme": "bearer"}},
                "schemas": schemas(),
            },
        }),
    }
}

fn operation(version: Version, id: &str, description: &str, input: Option<&str>) -> Value {
    let root = if version == Version::Two { "#/definitions" } else { "#/components/schemas" };
    let schema = |name: &str| json!({"$ref": format!("{root}/{name}")});
    let content = |schema: Value| match version {
        Version::Two => json!({"schema": schema}),
        Version::Three | Version::ThreeOne => json!({"content": {"application/json": {"schema": schema}}}),
    };
    let answer = |description: &str, schema: Value| {
        let mut answer = content(schema);
        answer["description"] = description.into();
        answer
    };
    let ok = match input {
        Some(_) => answer("An answer for every row, in their order.", schema("ServiceOutput")),
        None => json!({"description": "It is well."}),
    };
    let mut operation = json!({
        "operationId": id,
        "description": description,
        "responses": {"200": ok, "default": answer("What went wrong.", schema("ErrorResponse"))},
    });
    if let Some(input) = input {
        operation["security"] = json!([{"Bearer": []}]);
        match version {
            Version::Two => {
                operation["parameters"] = json!([{
                    "name": "serviceInputPayload",
                    "in": "body",
                    "description": "The rows.",
                    "required": true,
                    "schema": schema(input),
                }]);
            }
            Version::Three | Version::ThreeOne => {
                operation["requestBody"] = content(schema(input));
                operation["requestBody"]["required"] = true.into();
            }
        }
    }
    operation
}

fn schemas() -> Value {
    json!({
        "ServiceInput": {
            "type": "object",
            "required": ["input_data"],
            "properties": {
                "input_data": {
                    "type": "object",
                    "required": ["columns", "data"],
                    "properties": {
                        "columns": {"type": "array", "items": {"type": "string"}},
                        "index": {"type": "array", "items": {"type": "integer"}},
                        "data": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
                    },
                },
                "params": {"type": "object", "additionalProperties": true},
            },
            "example": {
                "input_data": {
                    "columns": ["image", "text"],
                    "index": [0],
                    "data": [[EXAMPLE_IMAGE, "Question: what is in the picture? Answer:"]],
                },
                "params": {"max_new_tokens": 20},
            },
        },
        "ServiceOutput": {
            "type": "array",
            "items": {"type": "object", "properties": {"text": {"type": "string"}}},
            "example": [{"text": "a stream in the desert"}],
        },
        "ErrorResponse": {
            "type": "object",
            "properties": {"message": {"type": "string"}},
        },
    })
}
