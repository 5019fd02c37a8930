//! `POST /zero-shot`: which classes an image shows, with calibrated probabilities.

use std::sync::Arc;

use axum::extract::{Request, State};
use serde::Serialize;

use super::inputs;
use super::refusal::{Answer, Refusal, json};
use super::state::Served;

#[derive(Serialize)]
struct Answered<T> {
    #[serde(flatten)]
    answer: T,
    /// Files of the study that could not be read.
    #[serde(skip_serializing_if = "inputs::is_whole")]
    left_out: usize,
}

pub(super) async fn zero_shot(State(state): State<Arc<Served>>, request: Request) -> Answer {
    let Some(classifier) = &state.classifier else {
        return Err(Refusal::missing("classes", "--prompts FILE"));
    };
    let mut asked = state.bodies.read(request).await?;
    let study =
        asked.fields.study()?.ok_or_else(|| Refusal::bad("\"image\" is missing, in base64 or as a data URL"))?;
    asked.fields.end(&["image", "images"])?;
    let places = state.queue.places(inputs::places(&state, &study)).await?;
    let (item, left_out) = inputs::item(&state, study).await?;
    drop(asked.room);
    let rows = state.queue.encode(vec![item], places, None).await?;
    let row = rows.first().ok_or_else(Refusal::failed)?;
    let answer = classifier.answer(row).map_err(|e| Refusal::internal(&e))?;
    json(&Answered { answer, left_out })
}
