//! `POST /explain`: why the model finds an image and a text alike, with a picture.

use std::sync::Arc;

use axum::extract::{Request, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::inputs;
use super::model::Model;
use super::refusal::{Answer, Refusal, json};
use super::state::Served;
use crate::data::Picture;
use crate::eval::{Explanation, explain, relevance_map};
use crate::session::Session;

#[derive(Serialize)]
struct Explained {
    cosine: f64,
    logit: f64,
    grid: usize,
    patches: Vec<f32>,
    tokens: Vec<(String, f32)>,
    /// The image as the model sees it with relevance in red; absent where the tower has no patches to draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<String>,
}

pub(super) async fn explain_pair(State(state): State<Arc<Served>>, request: Request) -> Answer {
    if !state.explains {
        return Err(Refusal::bad("explanations are worked out on the CPU only; start the server with --device cpu"));
    }
    let mut asked = state.bodies.read(request).await?;
    let (image, text) = (asked.fields.picture()?, asked.fields.text("text")?);
    asked.fields.end(&["image", "text"])?;
    let (Some(image), Some(text)) = (image, text) else {
        return Err(Refusal::bad("\"image\" and \"text\" are both needed"));
    };
    inputs::check_length(&state, &text)?;
    let place = state.queue.places(1).await?;
    // What is wrong with the text is told before the model is asked.
    inputs::ids(&state, text.clone()).await?;
    // Whole images take much memory: few wait for the model, and none keeps a decoder meanwhile.
    let waits = Arc::clone(&state.pictures).acquire_owned().await.map_err(|_| Refusal::failed())?;
    let picture = inputs::decode(&state, image).await?.picture;
    drop(asked.room);
    let work = move |model: &Model| {
        let explained = explained(model.session, &picture, &text);
        drop(waits);
        explained
    };
    let explained = state.queue.run(place, work).await?;
    json(&explained.map_err(|e| Refusal::internal(&e))?)
}

fn explained(session: &Session, picture: &Picture, text: &str) -> anyhow::Result<Explained> {
    let found = explain(session, picture, text)?;
    let drawn = if found.patches.is_empty() {
        None
    } else {
        let seen = session.folder.preprocess.resize_and_crop(picture, None)?;
        Some(format!("data:image/png;base64,{}", STANDARD.encode(relevance_map(&seen, &found)?)))
    };
    let Explanation { cosine, logit, patches, grid, tokens } = found;
    Ok(Explained { cosine, logit, grid, patches, tokens, picture: drawn })
}
