//! Input tensors: `image` and `text`, both BYTES of shape `[n]` or `[n, 1]`, in JSON or in binary.

use actix_web::web::Bytes;
use serde_json::{Map, Value};

use super::binary_data::{BinaryData, elements};
use super::error::bad;
use super::parameters::refuse_unknown;
use crate::json::{json_type, shorten};
use crate::scoring::{ImageSource, Row};
use crate::server::HttpError;

/// More elements than any queue takes as rows; it bounds the memory that a body of tiny elements costs.
pub(super) const MAX_ELEMENTS: usize = 1 << 16;

/// Bytes of a text and its copies, far beyond what all prompts of a request can hold.
const MAX_COPIED_BYTES: usize = 1 << 24;

/// The elements of the tensors of a request.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    image: Option<Vec<Bytes>>,
    text: Option<Vec<Bytes>>,
}

impl Inputs {
    /// An image alone.
    pub(super) fn of_image(file: Bytes) -> Self {
        Self { image: Some(vec![file]), text: None }
    }

    /// Reads the list of tensors; those in binary take their bytes in its order.
    pub(super) fn read(tensors: Option<Value>, binary: &mut BinaryData) -> Result<Self, HttpError> {
        let tensors = match tensors {
            Some(Value::Array(tensors)) => tensors,
            Some(other) => return Err(bad(format!("inputs must be a list of tensors, not {}", json_type(&other)))),
            None => return Err(bad("inputs is missing; send the tensor image, and text for questions")),
        };
        let mut inputs = Self::default();
        for (number, tensor) in tensors.into_iter().enumerate() {
            let Value::Object(tensor) = tensor else {
                return Err(bad(format!("inputs[{number}] must be an object, not {}", json_type(&tensor))));
            };
            let (name, slot) = match tensor.get("name") {
                Some(Value::String(name)) if name == "image" => ("image", &mut inputs.image),
                Some(Value::String(name)) if name == "text" => ("text", &mut inputs.text),
                Some(Value::String(name)) => {
                    let name = shorten(name);
                    return Err(bad(format!("inputs[{number}]: there is no input {name:?}; known are image, text")));
                }
                _ => return Err(bad(format!("inputs[{number}]: name must be a string"))),
            };
            if slot.is_some() {
                return Err(bad(format!("{name}: is given twice")));
            }
            *slot = Some(read_tensor(name, tensor, binary)?);
        }
        Ok(inputs)
    }

    /// A row for each image.
    pub(super) fn rows(self) -> Result<Vec<Row>, HttpError> {
        let images = self.image.ok_or_else(|| bad("inputs holds no image"))?;
        let texts = match self.text {
            None => vec![String::new()],
            Some(texts) => texts.into_iter().enumerate().map(text).collect::<Result<_, _>>()?,
        };
        let (image_count, questions) = (images.len(), texts.len());
        if questions != 1 && questions != image_count {
            let message = format!(
                "text: has {questions} elements, but image has {image_count}; send one for each, or one for all"
            );
            return Err(bad(message));
        }
        if questions < image_count && texts[0].len() > MAX_COPIED_BYTES / image_count {
            let bytes = texts[0].len();
            return Err(bad(format!("text: {bytes} bytes are too long to go with each of {image_count} images")));
        }
        let row =
            |(number, image)| Ok(Row { image: image_source(number, image)?, text: texts[number % questions].clone() });
        images.into_iter().enumerate().map(row).collect()
    }
}

fn read_tensor(name: &str, mut tensor: Map<String, Value>, binary: &mut BinaryData) -> Result<Vec<Bytes>, HttpError> {
    let at_name = |reason: String| bad(format!("{name}: {reason}"));
    refuse_unknown(&tensor, &["name", "shape", "datatype", "parameters", "data"]).map_err(at_name)?;
    match tensor.get("datatype") {
        Some(Value::String(datatype)) if datatype == "BYTES" => {}
        Some(Value::String(datatype)) => {
            return Err(at_name(format!("datatype must be BYTES, not {:?}", shorten(datatype))));
        }
        _ => return Err(at_name("datatype must be \"BYTES\"".into())),
    }
    let shape = Shape::read(tensor.get("shape")).map_err(at_name)?;
    let size = binary_data_size(tensor.get("parameters")).map_err(at_name)?;
    match (tensor.remove("data").filter(|data| !data.is_null()), size) {
        (None, Some(size)) => elements(binary.take(size).map_err(at_name)?, shape.count).map_err(at_name),
        (Some(Value::Array(data)), None) => json_elements(name, data, shape),
        (Some(other), None) => Err(at_name(format!("data must be a list, not {}", json_type(&other)))),
        (Some(_), Some(_)) => Err(at_name("has both data and binary_data_size; send one of them".into())),
        (None, None) => Err(at_name("has neither data nor the parameter binary_data_size".into())),
    }
}

/// `[n]`, or `[n, 1]`.
#[derive(Clone, Copy)]
struct Shape {
    count: usize,
    is_column: bool,
}

impl Shape {
    fn read(shape: Option<&Value>) -> Result<Self, String> {
        let Some(Value::Array(sizes)) = shape else { return Err("shape must be a list, [n] or [n, 1]".into()) };
        let (count, is_column) = match sizes.as_slice() {
            [count] => (count, false),
            [count, one] if one.as_u64() == Some(1) => (count, true),
            _ => return Err("shape must be [n] or [n, 1]".into()),
        };
        match count.as_u64().and_then(|count| usize::try_from(count).ok()) {
            Some(0) => Err("shape says that it is empty; send at least one element".into()),
            Some(count) if count <= MAX_ELEMENTS => Ok(Self { count, is_column }),
            Some(_) => Err(format!("shape says more than {MAX_ELEMENTS} elements, which no request may have")),
            None => Err("shape must be [n] or [n, 1], with n a whole number".into()),
        }
    }
}

/// The one parameter of an input that has an effect. MLServer's clients add `content_type`, which the elements show anyway.
fn binary_data_size(parameters: Option<&Value>) -> Result<Option<u64>, String> {
    let parameters = match parameters {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(parameters)) => parameters,
        Some(other) => return Err(format!("parameters must be an object, not {}", json_type(other))),
    };
    if parameters.contains_key("shared_memory_region") {
        return Err("shared memory is not supported; send the tensor in the body".into());
    }
    refuse_unknown(parameters, &["binary_data_size", "content_type"])
        .map_err(|reason| format!("parameters: {reason}"))?;
    match parameters.get("binary_data_size") {
        None | Some(Value::Null) => Ok(None),
        Some(size) => size.as_u64().map(Some).ok_or_else(|| "binary_data_size must be a number of bytes".into()),
    }
}

/// Elements in JSON: a flat list, or for a column also a list of lists.
fn json_elements(name: &str, data: Vec<Value>, shape: Shape) -> Result<Vec<Bytes>, HttpError> {
    if data.len() != shape.count {
        let (there, count) = (data.len(), shape.count);
        return Err(bad(format!("{name}: data has {there} elements, but shape says {count}")));
    }
    let element = |(number, value)| {
        let value = match value {
            Value::Array(row) if shape.is_column => {
                <[Value; 1]>::try_from(row).map_or_else(Value::Array, |[only]| only)
            }
            other => other,
        };
        match value {
            Value::String(text) => Ok(text.into()),
            other => Err(bad(format!("{name}[{number}]: must be a string, not {}", json_type(&other)))),
        }
    };
    data.into_iter().enumerate().map(element).collect()
}

/// An element of `image` is an image string if it is text, and an image's file otherwise: no image file is free of control
/// characters and valid UTF-8.
fn image_source(number: usize, element: Bytes) -> Result<ImageSource, HttpError> {
    let is_text = |text: &&str| !text.bytes().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace());
    match std::str::from_utf8(&element).ok().filter(is_text) {
        Some(text) => ImageSource::parse(text).map_err(|error| bad(format!("image[{number}]: {error}"))),
        None => Ok(ImageSource::File(element)),
    }
}

fn text((number, element): (usize, Bytes)) -> Result<String, HttpError> {
    String::from_utf8(element.into()).map_err(|_| bad(format!("text[{number}]: is not UTF-8")))
}
