//! `POST /explain`: why the model finds an image, or the images of a study, and a text alike, with pictures.

use std::sync::Arc;

use axum::extract::{Request, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::inputs;
use super::model::Model;
use super::refusal::{Answer, Refusal, json};
use super::state::Served;
use crate::data::{HeldImages, Picture};
use crate::eval::{BagExplanation, BagImage, Explanation, ReadBag, explain, explain_bag, relevance_map, strip};
use crate::session::Session;

/// Images of a strip.
const TOP: usize = 8;

#[derive(Serialize)]
struct Explained {
    cosine: f64,
    logit: f64,
    /// What patches shows: "patches", cosines, or "relevance", gradient × attention.
    map: &'static str,
    grid: usize,
    patches: Vec<f32>,
    tokens: Vec<(String, f32)>,
    /// The image as the model sees it with relevance in red; absent where the tower has no patches to draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<String>,
    /// Of several images.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    study: Option<ExplainedStudy>,
}

/// What the images of a study have to do with it. The first of them is the one that is explained beside.
#[derive(Serialize)]
struct ExplainedStudy {
    bag_cosine: f64,
    images: Vec<BagImage>,
    explained_image: usize,
    /// Those that count most, side by side.
    strip: String,
    /// Files that could not be read.
    #[serde(skip_serializing_if = "inputs::is_whole")]
    left_out: usize,
}

pub(super) async fn explain_pair(State(state): State<Arc<Served>>, request: Request) -> Answer {
    if !state.explains {
        return Err(Refusal::bad("explanations are worked out on the CPU only; start the server with --device cpu"));
    }
    let mut asked = state.bodies.read(request).await?;
    let (study, text) = (asked.fields.study()?, asked.fields.text("text")?);
    asked.fields.end(&["image", "images", "text"])?;
    let (Some(study), Some(text)) = (study, text) else {
        return Err(Refusal::bad("\"image\" (or \"images\") and \"text\" are both needed"));
    };
    inputs::check_length(&state, &text)?;
    let mut place = state.queue.places(inputs::places(&state, &study)).await?;
    // One is kept for the whole of it: who got as far as the images' shares is not turned away before the picture.
    let rest = place.split(place.num_permits().saturating_sub(1));
    let kept = Arc::new(place);
    // What is wrong with the text is told before the model is asked.
    inputs::ids(&state, text.clone()).await?;
    // Whole images take much memory: few wait for the model, and none keeps a decoder meanwhile.
    let waits = Arc::clone(&state.pictures).acquire_owned().await.map_err(|_| Refusal::failed())?;
    let held = inputs::opened(&state, study).await?;
    let bag = if held.count() > 1 {
        let (read, left_out) = inputs::read(&state, held.clone()).await?;
        let read = ReadBag { count: held.count(), read };
        let of_text = text.clone();
        let work = move |model: &Model| explain_bag(model.session, read, &of_text);
        let bag = state.queue.run((rest, Arc::clone(&kept)), work).await?;
        Some((bag.map_err(|e| Refusal::internal(&e))?, left_out))
    } else {
        drop(rest);
        None
    };
    let pictures = pictures(&state, held, bag.as_ref().map(|(bag, _)| bag)).await?;
    drop(asked.room);
    let work = move |model: &Model| {
        let explained = explained(model.session, bag, &pictures, &text);
        drop(waits);
        explained
    };
    let explained = state.queue.run(kept, work).await?;
    json(&explained.map_err(|e| Refusal::internal(&e))?)
}

/// The images that are drawn, with their numbers, the one that is explained first.
async fn pictures(
    state: &Served,
    held: HeldImages,
    bag: Option<&BagExplanation>,
) -> Result<Vec<(usize, Picture)>, Refusal> {
    let (numbers, first) = match bag {
        Some(bag) => (bag.top(TOP), bag.first().map_or(0, |image| image.number)),
        None => (vec![0], 0),
    };
    let mut pictures = inputs::decode(state, move |is_wanted| held.pictures(&numbers, is_wanted)).await?;
    pictures.sort_by_key(|(number, _)| *number != first);
    Ok(pictures)
}

fn explained(
    session: &Session,
    bag: Option<(BagExplanation, usize)>,
    pictures: &[(usize, Picture)],
    text: &str,
) -> anyhow::Result<Explained> {
    let (number, picture) = pictures.first().ok_or_else(|| anyhow::anyhow!("there is no image to explain"))?;
    let found = explain(session, picture, text)?;
    let url = |png: &[u8]| format!("data:image/png;base64,{}", STANDARD.encode(png));
    let drawn = if found.patches.is_empty() {
        None
    } else {
        let seen = session.folder.preprocess.resize_and_crop(picture, None)?;
        Some(url(&relevance_map(&seen, &found)?))
    };
    let study = |(bag, left_out): (BagExplanation, usize)| -> anyhow::Result<ExplainedStudy> {
        let strip = url(&strip(session, &bag, pictures)?);
        Ok(ExplainedStudy { bag_cosine: bag.cosine, images: bag.images, explained_image: *number, strip, left_out })
    };
    let study = bag.map(study).transpose()?;
    let Explanation { cosine, logit, map, patches, grid, tokens, .. } = found;
    Ok(Explained { cosine, logit, map: map.word(), grid, patches, tokens, picture: drawn, study })
}
