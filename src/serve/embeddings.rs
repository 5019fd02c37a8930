//! `POST /v1/embeddings`: OpenAI's form, for texts and images.

use std::sync::Arc;

use axum::extract::{Request, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;

use super::fields::{Fields, SentImage, SentStudy};
use super::inputs;
use super::model::Item;
use super::refusal::{Answer, Refusal, json};
use super::state::Served;

/// Most inputs of one request.
const MOST_INPUTS: usize = 256;
const KNOWN: [&str; 5] = ["input", "model", "encoding_format", "dimensions", "user"];

/// One input.
enum Input {
    Text(String),
    Images(SentStudy),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Numbers {
    Floats(Vec<f32>),
    /// Little-endian f32.
    Base64(String),
}

#[derive(Serialize)]
struct Row {
    object: &'static str,
    index: usize,
    embedding: Numbers,
    /// Files of its study that could not be read.
    #[serde(skip_serializing_if = "inputs::is_whole")]
    left_out: usize,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Row>,
    model: &'a str,
    usage: Usage,
}

pub(super) async fn embeddings(State(state): State<Arc<Served>>, request: Request) -> Answer {
    let asked = state.bodies.read(request).await?;
    let (sent, base64) = read(asked.fields, &state)?;
    let (mut rows, mut tokens, mut room) = (Vec::with_capacity(sent.len()), 0, Some(asked.room));
    let mut left_out = Vec::with_capacity(sent.len());
    let count = sent.len();
    let mut sent = sent.into_iter();
    // As many at a time as go through a tower together, so that others find places between them.
    while sent.len() > 0 {
        let (part, taken) = part(sent.as_slice(), &state);
        let places = state.queue.places(taken).await?;
        let mut items = Vec::with_capacity(part);
        let first = count - sent.len() + 1;
        for (number, input) in (first..).zip(sent.by_ref().take(part)) {
            let of = |refusal: Refusal| refusal.of_input(number, count);
            let (item, left) = match input {
                Input::Images(study) => inputs::item(&state, study).await.map_err(of)?,
                Input::Text(text) => {
                    let ids = inputs::ids(&state, text).await.map_err(of)?;
                    tokens += ids.len();
                    (Item::Text(ids), 0)
                }
            };
            items.push(item);
            left_out.push(left);
        }
        if sent.len() == 0 {
            drop(room.take());
        }
        rows.extend(state.queue.encode(items, places, None).await?);
    }
    let numbers = |row: Vec<f32>| match base64 {
        true => Numbers::Base64(STANDARD.encode(row.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())),
        false => Numbers::Floats(row),
    };
    let row = |(index, (row, left_out))| Row { object: "embedding", index, embedding: numbers(row), left_out };
    let list = List {
        object: "list",
        data: rows.into_iter().zip(left_out).enumerate().map(row).collect(),
        model: &state.options.name,
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    };
    json(&list)
}

/// How many of `sent` come next, and the places that they take: of one study alone maybe more than go through a tower
/// together.
fn part(sent: &[Input], state: &Served) -> (usize, usize) {
    let (mut part, mut taken) = (0, 0);
    for input in sent {
        let places = match input {
            Input::Text(_) => 1,
            Input::Images(study) => inputs::places(state, study),
        };
        if part > 0 && taken + places > state.options.max_batch {
            break;
        }
        (part, taken) = (part + 1, taken + places);
    }
    (part, taken.min(state.options.queue))
}

fn read(mut fields: Fields, state: &Served) -> Result<(Vec<Input>, bool), Refusal> {
    if let Some(image) = fields.body() {
        return Ok((vec![Input::Images(SentStudy::One(image))], false));
    }
    let inputs = match fields.take("input") {
        Some(Value::Array(inputs)) => inputs,
        Some(input) => vec![input],
        None => return Err(Refusal::bad("\"input\" is missing: a text, an image, or a list of them")),
    };
    if inputs.is_empty() || inputs.len() > MOST_INPUTS {
        return Err(Refusal::bad(format!("\"input\" has {} entries; allowed are 1 to {MOST_INPUTS}", inputs.len())));
    }
    state.queue.check(inputs.len())?;
    let count = inputs.len();
    let read = |(number, value)| input(value).map_err(|refusal: Refusal| refusal.of_input(number, count));
    let inputs = (1..).zip(inputs).map(read).collect::<Result<Vec<_>, _>>()?;
    for (at, input) in inputs.iter().enumerate() {
        if let Input::Text(text) = input {
            inputs::check_length(state, text).map_err(|refusal| refusal.of_input(at + 1, inputs.len()))?;
        }
    }
    let base64 = fields.word("encoding_format", [("float", false), ("base64", true)])?.unwrap_or(false);
    let width = state.embed_dim;
    match fields.take("dimensions") {
        Some(Value::Number(n)) if n.as_u64() == Some(width as u64) => {}
        None => {}
        Some(_) => return Err(Refusal::bad(format!("\"dimensions\" must be {width}, the model's; it has no others"))),
    }
    // Who asks, and which model they think they ask, changes nothing.
    drop((fields.take("model"), fields.take("user")));
    fields.end(&KNOWN)?;
    Ok((inputs, base64))
}

/// A text, a data URL, `{"text": …}`, `{"image": …}` or `{"images": […]}`.
fn input(value: Value) -> Result<Input, Refusal> {
    let wrong = "an input must be a text, a data URL of an image, {\"text\": …}, {\"image\": …} or {\"images\": […]}";
    match value {
        Value::String(text) if is_url(&text) => Ok(Input::Images(SentStudy::One(SentImage::Text(text)))),
        Value::String(text) if text.trim().is_empty() => Err(Refusal::bad("the text is empty")),
        Value::String(text) => Ok(Input::Text(text)),
        Value::Object(object) => {
            let mut fields = Fields::json(object);
            let input = match (fields.text("text")?, fields.study()?) {
                (Some(text), None) => Input::Text(text),
                (None, Some(study)) => Input::Images(study),
                _ => return Err(Refusal::bad(wrong)),
            };
            fields.end(&["text", "image", "images"])?;
            Ok(input)
        }
        _ => Err(Refusal::bad(wrong)),
    }
}

/// Whether it is a data URL of something that is no text: a report may begin with `data:` too.
fn is_url(text: &str) -> bool {
    let head = text.strip_prefix("data:").and_then(|rest| rest.split_once(',')).map(|(head, _)| head);
    head.is_some_and(|head| head.ends_with(";base64") || head.starts_with("image/") || head.starts_with("application/"))
}
