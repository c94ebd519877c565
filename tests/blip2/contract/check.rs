//! The rules of a case, held against an answer. The first one that is broken is told.

use std::time::Duration;

use regex::Regex;
use serde_json::Value;

use super::case::{AtPointer, BodyRule, Expect, HeaderRules, Places};
use super::wire::Answer;

type Checked = Result<(), String>;

/// Status, headers and body.
pub(super) fn answer(expect: &Expect, answer: &Answer, places: &Places) -> Checked {
    let shown = || String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]).into_owned();
    let with_answer = |fault: String| format!("{fault}; the answer is {} {}", answer.status, shown());
    if answer.status != expect.status {
        return Err(with_answer(format!("the status is not {}", expect.status)));
    }
    if let Some(wanted) = &expect.content_type {
        let given = answer.header("content-type").unwrap_or_default().to_ascii_lowercase();
        if given.split(';').next().map(str::trim) != Some(wanted) {
            return Err(with_answer(format!("the content type is {given:?}, not {wanted}")));
        }
    }
    headers(&expect.headers, answer, places).map_err(with_answer)?;
    body(&expect.body, &answer.body).map_err(with_answer)
}

/// Time, and visits to the image server.
pub(super) fn exchange(expect: &Expect, took: Duration, image_server_hits: usize) -> Checked {
    if expect.max_seconds.is_some_and(|limit| took.as_secs_f64() > limit) {
        return Err(format!("it took {took:?}"));
    }
    if expect.image_server_hits.is_some_and(|limit| image_server_hits > limit) {
        return Err(format!("the image server saw {image_server_hits} connections"));
    }
    Ok(())
}

fn headers(rules: &HeaderRules, answer: &Answer, places: &Places) -> Checked {
    let is = |holds: bool, fault: String| if holds { Ok(()) } else { Err(fault) };
    for name in &rules.present {
        is(answer.header(name).is_some(), format!("there is no {name}"))?;
    }
    for name in &rules.absent {
        is(answer.header(name).is_none(), format!("{name} is there"))?;
    }
    for (name, wanted) in &rules.equals {
        let (given, wanted) = (answer.header(name), places.fill(wanted));
        is(given.as_ref() == Some(&wanted), format!("{name} is {given:?}, not {wanted:?}"))?;
    }
    for (name, pattern) in &rules.matches {
        let given = answer.header(name).unwrap_or_default();
        is(Regex::new(pattern).unwrap().is_match(&given), format!("{name} is {given:?}, which is not {pattern}"))?;
    }
    for (one, other) in &rules.same {
        let (first, second) = (answer.header(one), answer.header(other));
        is(first.is_some() && first == second, format!("{one} is {first:?}, {other} is {second:?}"))?;
    }
    Ok(())
}

fn body(rule: &BodyRule, bytes: &[u8]) -> Checked {
    let json = || serde_json::from_slice::<Value>(bytes).map_err(|error| format!("the body is no JSON: {error}"));
    match rule {
        BodyRule::Any => Ok(()),
        BodyRule::Empty if bytes.is_empty() => Ok(()),
        BodyRule::Empty => Err("the body is not empty".into()),
        BodyRule::Text { equals } if bytes == equals.as_bytes() => Ok(()),
        BodyRule::Text { equals } => Err(format!("the body is not {equals:?}")),
        BodyRule::Predictions { rows, max_words } => predictions(&json()?, *rows, *max_words),
        BodyRule::Error { message, message_prefix, message_contains } => {
            let body = json()?;
            let given = the_only_text(&body, "message").ok_or("the body is not an object with message alone")?;
            let in_lower_case = given.to_lowercase();
            let missing = message_contains.iter().find(|part| !in_lower_case.contains(&part.to_lowercase()));
            match (message, message_prefix, missing) {
                _ if given.is_empty() => Err("the message is empty".into()),
                (Some(wanted), ..) if wanted != given => Err(format!("the message is not {wanted:?}")),
                (_, Some(prefix), _) if !given.starts_with(prefix) => Err(format!("it does not begin with {prefix:?}")),
                (.., Some(part)) => Err(format!("the message does not name {part:?}")),
                _ => Ok(()),
            }
        }
        BodyRule::Json { at } => {
            let body = json()?;
            at.iter().try_for_each(|place| at_pointer(&body, place))
        }
        BodyRule::MlflowPredictions { rows, max_words } => match json()? {
            Value::Object(fields) if fields.len() == 1 && fields.contains_key("predictions") => {
                predictions(&fields["predictions"], *rows, *max_words)
            }
            _ => Err("the body is not an object with predictions alone".into()),
        },
        BodyRule::MlflowError { error_code } => {
            let body = json()?;
            let text = |key: &str| body.get(key).and_then(Value::as_str);
            if text("message").is_none() || body.get("stack_trace").is_some() {
                return Err("the body has no message, or a stack trace".into());
            }
            match (text("error_code"), error_code) {
                (Some(given), Some(wanted)) if given != wanted => Err(format!("error_code is not {wanted}")),
                (None, _) => Err("the body has no error_code".into()),
                _ => Ok(()),
            }
        }
    }
}

fn the_only_text<'a>(body: &'a Value, key: &str) -> Option<&'a str> {
    body.as_object().filter(|fields| fields.len() == 1)?.get(key)?.as_str()
}

fn predictions(body: &Value, rows: usize, max_words: Option<usize>) -> Checked {
    let list = body.as_array().ok_or("the predictions are not a list")?;
    if list.len() != rows {
        return Err(format!("there are {} predictions, not {rows}", list.len()));
    }
    for prediction in list {
        let text = the_only_text(prediction, "text").ok_or("a prediction is not an object with text alone")?;
        if text.trim() != text {
            return Err("a text has white space at its ends".into());
        }
        if max_words.is_some_and(|limit| text.split_whitespace().count() > limit) {
            return Err(format!("a text has more than {max_words:?} words"));
        }
    }
    Ok(())
}

fn at_pointer(body: &Value, place: &AtPointer) -> Checked {
    let AtPointer { pointer, equals, r#type } = place;
    let value = body.pointer(pointer).ok_or_else(|| format!("there is nothing at {pointer}"))?;
    if equals.as_ref().is_some_and(|wanted| wanted != value) {
        return Err(format!("{pointer} is {value}"));
    }
    let is_of_type = match r#type.as_deref() {
        None => true,
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some(other) => panic!("a case asks for the type {other}"),
    };
    if is_of_type { Ok(()) } else { Err(format!("{pointer} is {value}, not a {type:?}", type = r#type)) }
}
