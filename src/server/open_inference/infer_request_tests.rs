//! Bodies of `/v2/models/{model}/infer`, good and hostile.

use actix_web::web::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::infer_request::InferRequest;
use super::input::MAX_ELEMENTS;
use super::output::{Output, RequestedOutput};
use crate::bundle::GenerationDefaults;
use crate::generation::{GenerationParams, ParamError, letters};
use crate::scoring::ImageSource;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n....";

/// Parameters are parsed as an engine with the tests' tokenizer would.
fn parse_params(params: &Value) -> Result<GenerationParams, ParamError> {
    GenerationParams::parse(params, GenerationDefaults { max_new_tokens: 20 }, &letters())
}

fn parse_bytes(body: Vec<u8>, head_length: Option<usize>) -> Result<InferRequest, String> {
    InferRequest::parse(Bytes::from(body), head_length, parse_params).map_err(|error| error.to_string())
}

fn parse(body: &Value) -> Result<InferRequest, String> {
    parse_bytes(body.to_string().into_bytes(), None)
}

fn parse_binary(body: &Value, binary: &[u8]) -> Result<InferRequest, String> {
    let head = body.to_string();
    parse_bytes([head.as_bytes(), binary].concat(), Some(head.len()))
}

fn tensor(name: &str, data: &Value) -> Value {
    json!({"name": name, "shape": [data.as_array().unwrap().len()], "datatype": "BYTES", "data": data})
}

fn binary_tensor(name: &str, count: u64, size: usize) -> Value {
    json!({"name": name, "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": size}})
}

fn elements(elements: &[&[u8]]) -> Vec<u8> {
    elements.iter().flat_map(|bytes| [&(bytes.len() as u32).to_le_bytes(), *bytes].concat()).collect()
}

fn texts(request: &InferRequest) -> Vec<&str> {
    request.rows.iter().map(|row| row.text.as_str()).collect()
}

fn abc() -> ImageSource {
    ImageSource::File(b"ABC".as_slice().into())
}

#[test]
fn json_tensors_are_rows_in_order() {
    let request = parse(&json!({
        "id": "17",
        "inputs": [tensor("text", &json!(["one", "two"])), tensor("image", &json!(["QUJD", "http://example.org/x.png"]))],
    }));
    let request = request.unwrap();
    assert_eq!(texts(&request), ["one", "two"]);
    assert_eq!(request.rows[0].image, abc());
    assert_eq!(request.rows[1].image, ImageSource::Url("http://example.org/x.png".into()));
    assert_eq!(request.id.as_deref(), Some("17"));
}

#[test]
fn a_column_is_read_flat_and_nested() {
    for data in [json!(["QUJD", "QUJD"]), json!([["QUJD"], ["QUJD"]])] {
        let image = json!({"name": "image", "shape": [2, 1], "datatype": "BYTES", "data": data});
        assert_eq!(parse(&json!({"inputs": [image]})).unwrap().rows[1].image, abc());
    }
}

#[test]
fn a_text_that_is_absent_asks_for_captions_and_a_single_one_is_for_all_images() {
    let images = tensor("image", &json!(["QUJD", "QUJD", "QUJD"]));
    assert_eq!(texts(&parse(&json!({"inputs": [images]})).unwrap()), ["", "", ""]);
    let inputs = json!([images, tensor("text", &json!(["same"]))]);
    assert_eq!(texts(&parse(&json!({"inputs": inputs})).unwrap()), ["same", "same", "same"]);
}

#[test]
fn binary_tensors_take_their_bytes_in_order_and_images_are_files_or_strings() {
    let images = elements(&[PNG, b"QUJD", b"data:image/png;base64,QUJD", b"  QU\nJD  "]);
    let questions = elements(&["été".as_bytes()]);
    let inputs = json!([binary_tensor("image", 4, images.len()), binary_tensor("text", 1, questions.len())]);
    let request = parse_binary(&json!({"inputs": inputs}), &[images, questions].concat()).unwrap();
    assert_eq!(request.rows[0].image, ImageSource::File(PNG.into()));
    assert!(request.rows[1..].iter().all(|row| row.image == abc() && row.text == "été"));
}

#[test]
fn json_and_binary_tensors_may_be_mixed() {
    let images = elements(&[PNG]);
    let inputs = json!([tensor("text", &json!(["what?"])), binary_tensor("image", 1, images.len())]);
    let request = parse_binary(&json!({"inputs": inputs}), &images).unwrap();
    assert_eq!((&request.rows[0].image, texts(&request)), (&ImageSource::File(PNG.into()), vec!["what?"]));
}

#[test]
fn a_body_without_json_is_an_image_to_caption() {
    let request = parse_bytes(PNG.to_vec(), Some(0)).unwrap();
    assert_eq!((&request.rows[0].image, texts(&request)), (&ImageSource::File(PNG.into()), vec![""]));
    assert!(request.outputs.iter().all(|requested| !requested.is_binary));
    assert_eq!(parse_bytes(Vec::new(), Some(0)).unwrap_err(), "image[0]: image is empty");
}

#[test]
fn all_outputs_come_unless_some_are_named_and_each_may_be_binary() {
    let with = |outputs: Value, parameters: Value| {
        let inputs = [tensor("image", &json!(["QUJD"]))];
        parse(&json!({"inputs": inputs, "outputs": outputs, "parameters": parameters})).unwrap().outputs
    };
    for outputs in [json!(null), json!([])] {
        let all = with(outputs.clone(), json!({}));
        assert_eq!(all, Output::ALL.map(|output| RequestedOutput { output, is_binary: false }));
        assert!(with(outputs, json!({"binary_data_output": true})).iter().all(|requested| requested.is_binary));
    }
    let named = json!([
        {"name": "score", "parameters": {"binary_data": false, "classification": 0}},
        {"name": "text", "parameters": {"binary_data": true}},
        {"name": "details"},
    ]);
    for is_default_binary in [false, true] {
        let requested = with(named.clone(), json!({"binary_data_output": is_default_binary}));
        let expected = [(Output::Score, false), (Output::Text, true), (Output::Details, is_default_binary)];
        assert_eq!(requested, expected.map(|(output, is_binary)| RequestedOutput { output, is_binary }));
    }
}

#[test]
fn tritons_own_parameters_do_not_reach_generation() {
    let parameters = json!({
        "timeout": 1_500_000, "priority": 2, "sequence_id": 0, "sequence_start": false, "sequence_end": null,
        "binary_data_output": false, "max_new_tokens": 3,
    });
    let request = parse(&json!({"inputs": [tensor("image", &json!(["QUJD"]))], "parameters": parameters})).unwrap();
    assert_eq!((request.params.max_new_tokens, request.timeout.unwrap().as_millis()), (3, 1500));
    assert!(request.params.warnings[0].starts_with("priority has no effect"), "{:?}", request.params.warnings);
    let request = parse(&json!({"inputs": [tensor("image", &json!(["QUJD"]))], "parameters": {"timeout": 0}})).unwrap();
    assert!(request.timeout.is_none() && request.params.warnings.is_empty());
}

#[test]
fn a_fault_is_named_with_its_place() {
    let image = || tensor("image", &json!(["QUJD"]));
    let with = |changes: Value| {
        let mut tensor = image();
        tensor.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        json!({"inputs": [tensor]})
    };
    let outputs = |outputs: Value| json!({"inputs": [image()], "outputs": outputs});
    let parameters = |parameters: Value| json!({"inputs": [image()], "parameters": parameters});
    let texts = |texts: Value| json!({"inputs": [tensor("image", &json!(["QUJD", "QUJD"])), tensor("text", &texts)]});
    let cases = [
        (json!([]), "POST body should be a JSON dictionary."),
        (json!({}), "inputs is missing"),
        (json!({"inputs": {}}), "inputs must be a list of tensors, not an object"),
        (json!({"inputs": []}), "inputs holds no image"),
        (json!({"inputs": [7]}), "inputs[0] must be an object, not a number"),
        (json!({"inputs": [{}]}), "inputs[0]: name must be a string"),
        (json!({"inputs": [image(), image()]}), "image: is given twice"),
        (json!({"inputs": [image(), tensor("question", &json!([""]))]}), "inputs[1]: there is no input \"question\""),
        (
            json!({"inputs": [image()], "params": {}}),
            "unknown key \"params\"; known are id, parameters, inputs, outputs",
        ),
        (json!({"inputs": [image()], "id": 7}), "id must be a string, not a number"),
        (with(json!({"datatype": "UINT8"})), "image: datatype must be BYTES, not \"UINT8\""),
        (with(json!({"datatype": null})), "image: datatype must be \"BYTES\""),
        (with(json!({"shape": null})), "image: shape must be a list"),
        (with(json!({"shape": []})), "image: shape must be [n] or [n, 1]"),
        (with(json!({"shape": [1, 2]})), "image: shape must be [n] or [n, 1]"),
        (with(json!({"shape": [-1]})), "image: shape must be [n] or [n, 1], with n a whole number"),
        (with(json!({"shape": [0]})), "image: shape says that it is empty"),
        (with(json!({"shape": [2]})), "image: data has 1 elements, but shape says 2"),
        (with(json!({"shape": [u64::MAX]})), "image: shape says more than 65536 elements"),
        (with(json!({"data": null})), "image: has neither data nor the parameter binary_data_size"),
        (with(json!({"data": "QUJD"})), "image: data must be a list, not a string"),
        (with(json!({"data": [7]})), "image[0]: must be a string, not a number"),
        (with(json!({"data": [["QUJD"]]})), "image[0]: must be a string, not a list"),
        (with(json!({"shape": [1, 1], "data": [["QUJD", ""]]})), "image[0]: must be a string, not a list"),
        (with(json!({"data": [""]})), "image[0]: image is empty"),
        (with(json!({"data": ["QUJDR"]})), "image[0]: image is not base64"),
        (with(json!({"data": ["ftp://example.org"]})), "image[0]: image is a URL of a scheme"),
        (with(json!({"parameters": []})), "image: parameters must be an object, not a list"),
        (with(json!({"parameters": {"binary_data_size": 1}})), "image: has both data and binary_data_size"),
        (with(json!({"parameters": {"binary_data_size": -1}})), "image: binary_data_size must be a number of bytes"),
        (with(json!({"parameters": {"max_new_tokens": 1}})), "image: parameters: unknown key \"max_new_tokens\""),
        (with(json!({"parameters": {"shared_memory_region": "x"}})), "image: shared memory is not supported"),
        (with(json!({"contents": {}})), "image: unknown key \"contents\""),
        (texts(json!(["a", "b", "c"])), "text: has 3 elements, but image has 2; send one for each, or one for all"),
        (texts(json!(["a", null])), "text[1]: must be a string, not null"),
        (outputs(json!({})), "outputs must be a list of tensors, not an object"),
        (outputs(json!(["text"])), "outputs[0]: must be an object, not a string"),
        (outputs(json!([{}])), "outputs[0]: name must be a string"),
        (outputs(json!([{"name": "logits"}])), "outputs[0]: there is no output \"logits\"; known are text, score,"),
        (outputs(json!([{"name": "text"}, {"name": "text"}])), "outputs[1]: text is given twice"),
        (outputs(json!([{"name": "text", "datatype": "BYTES"}])), "outputs[0]: unknown key \"datatype\""),
        (outputs(json!([{"name": "text", "parameters": 1}])), "outputs[0]: parameters must be an object"),
        (outputs(json!([{"name": "text", "parameters": {"binary_data": 1}}])), "outputs[0]: binary_data must be true"),
        (outputs(json!([{"name": "text", "parameters": {"classification": 3}}])), "outputs[0]: classification is not"),
        (outputs(json!([{"name": "text", "parameters": {"shared_memory_region": "x"}}])), "outputs[0]: shared memory"),
        (outputs(json!([{"name": "text", "parameters": {"x": 1}}])), "outputs[0]: parameters: unknown key \"x\""),
        (parameters(json!([])), "parameters must be an object, not a list"),
        (parameters(json!({"foo": 1})), "parameters: unknown parameter \"foo\"; known are max_new_tokens,"),
        (parameters(json!({"num_beams": 0})), "parameters: num_beams is 0, but must be an integer of at least 1"),
        (parameters(json!({"timeout": -1})), "parameters: timeout must be a whole number of at least 0"),
        (parameters(json!({"priority": "high"})), "parameters: priority must be a whole number of at least 0"),
        (parameters(json!({"binary_data_output": 1})), "parameters: binary_data_output must be true or false"),
        (parameters(json!({"sequence_id": 5})), "parameters: sequence_id is not supported"),
        (parameters(json!({"sequence_start": true})), "parameters: sequence_start is not supported"),
    ];
    for (body, part) in cases {
        let message = parse(&body).unwrap_err();
        assert!(message.contains(part), "{body}: {message}");
    }
}

#[test]
fn lengths_of_binary_tensors_are_compared_with_the_body() {
    let image = |count, size| json!({"inputs": [binary_tensor("image", count, size)]});
    let one = elements(&[PNG]);
    let cases = [
        (image(1, 0), one.as_slice(), "image: its bytes hold 0 elements, but its shape says 1"),
        (image(1, one.len() + 1), &one, "image: binary_data_size is 17, but 16 bytes are left behind the JSON object"),
        (image(1, one.len() - 1), &one, "image: element 0 is said to have 12 bytes, but 11 are left"),
        (image(2, one.len()), &one, "image: its bytes hold 1 elements, but its shape says 2"),
        (image(1, one.len()), &[one.as_slice(), b"x"].concat(), "1 bytes at the end of the body belong to no tensor"),
        (image(1, usize::MAX), &one, "image: binary_data_size is 18446744073709551615, but 16 bytes are left"),
        (image(1, 5), b"\x01\0\0\0\x80", ""),
    ];
    for (body, binary, part) in cases {
        match parse_binary(&body, binary) {
            Ok(request) => assert_eq!((request.rows.len(), part), (1, "")),
            Err(message) => assert!(!part.is_empty() && message.contains(part), "{body}: {message}"),
        }
    }
    let inputs = json!({"inputs": [tensor("image", &json!(["QUJD"])), binary_tensor("text", 1, 5)]});
    assert_eq!(parse_binary(&inputs, b"\x01\0\0\0\x80").unwrap_err(), "text[0]: is not UTF-8");
    let length = parse_bytes(b"{}".to_vec(), Some(3)).unwrap_err();
    assert!(length.contains("is 3, but the body has 2 bytes"), "{length}");
}

#[test]
fn a_body_of_tiny_elements_costs_no_rows() {
    let count = MAX_ELEMENTS + 1;
    let tiny = elements(&vec![b"\0".as_slice(); count]);
    let message =
        parse_binary(&json!({"inputs": [binary_tensor("image", count as u64, tiny.len())]}), &tiny).unwrap_err();
    assert!(message.contains("more than 65536 elements"), "{message}");
}

#[test]
fn a_long_text_is_not_repeated_without_bound() {
    let images = tensor("image", &json!(vec!["QUJD"; 40]));
    let inputs = |bytes: usize| json!({"inputs": [images, tensor("text", &json!(["a".repeat(bytes)]))]});
    assert_eq!(parse(&inputs(1000)).unwrap().rows.len(), 40);
    let message = parse(&inputs(1 << 20)).unwrap_err();
    assert!(message.contains("text: 1048576 bytes are too long to go with each of 40 images"), "{message}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(body: Vec<u8>, head_length in proptest::option::of(0_usize..300)) {
        let _ = parse_bytes(body, head_length);
    }

    #[test]
    fn no_binary_part_and_no_lengths_make_the_parser_panic(
        binary: Vec<u8>, count: u64, size: u64, small in 0_u64..20, texts: u64, cut in 0_usize..400,
    ) {
        for (count, size) in [(count, size), (small, binary.len() as u64), (small, small)] {
            let image = json!({"name": "image", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": size}});
            let text = json!({"name": "text", "shape": [texts], "datatype": "BYTES", "parameters": {"binary_data_size": texts}});
            let _ = parse_binary(&json!({"inputs": [image]}), &binary);
            let body = json!({"inputs": [image, text]}).to_string();
            let _ = parse_bytes([body.as_bytes(), &binary].concat(), Some(cut));
        }
    }

    #[test]
    fn any_element_that_is_written_is_read(images in proptest::collection::vec(any::<Vec<u8>>(), 1..6)) {
        let files: Vec<Vec<u8>> = images.into_iter().map(|bytes| [b"\0", bytes.as_slice()].concat()).collect();
        let binary = elements(&files.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let body = json!({"inputs": [binary_tensor("image", files.len() as u64, binary.len())]});
        let rows = parse_binary(&body, &binary).unwrap().rows;
        let read: Vec<_> = rows.into_iter().map(|row| row.image).collect();
        let sent: Vec<_> = files.into_iter().map(|file| ImageSource::File(file.into())).collect();
        prop_assert_eq!(read, sent);
    }
}
