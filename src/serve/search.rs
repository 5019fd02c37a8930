//! `POST /search`: the rows of the index that fit a text, an image or both best, with small pictures of them.

use std::sync::Arc;

use axum::extract::{Request, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::inputs;
use super::model::Item;
use super::refusal::{Answer, Refusal, json};
use super::state::Served;
use crate::data::{ImageSource, image};
use crate::search::{Hit, Side, joined, side};

/// Most hits of an answer.
const MOST_HITS: usize = 100;
/// Pixels of a thumbnail's longer side.
const THUMBNAIL: u32 = 224;
const KNOWN: [&str; 7] = ["text", "image", "images", "weight", "k", "among", "thumbnails"];

/// A hit without the name of its file, which may be a patient's.
#[derive(Serialize)]
struct Shown {
    rank: usize,
    score: f32,
    row: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    changed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    thumbnail: Option<String>,
}

#[derive(Serialize)]
struct Answered {
    searched: &'static str,
    gallery: usize,
    hits: Vec<Shown>,
    /// Files of the study that could not be read.
    #[serde(skip_serializing_if = "inputs::is_whole")]
    left_out: usize,
}

pub(super) async fn search(State(state): State<Arc<Served>>, request: Request) -> Answer {
    let Some(searched) = state.searched.clone() else {
        return Err(Refusal::missing("index", "--index FILE"));
    };
    let mut asked = state.bodies.read(request).await?;
    let fields = &mut asked.fields;
    let (image, text) = (fields.study()?, fields.text("text")?);
    let weight = fields.number("weight", (0.0, 1.0))?;
    let k = fields.count("k", MOST_HITS)?.unwrap_or(10);
    let among = fields.word("among", [("images", Side::Images), ("texts", Side::Texts)])?;
    let among = among.unwrap_or_else(|| side(&searched.index, text.is_some()));
    if searched.index.gallery(among).is_none() {
        return Err(Refusal::bad(format!("the index has no {}", among.word())));
    }
    let thumbnails = fields.flag("thumbnails")?;
    asked.fields.end(&KNOWN)?;
    let (has_text, has_image) = (text.is_some(), image.is_some());
    if !has_text && !has_image {
        return Err(Refusal::bad("\"text\", \"image\" or both are needed"));
    }
    if weight.is_some() && !(has_text && has_image) {
        return Err(Refusal::bad("\"weight\" is of a text and an image together; leave it out or send both"));
    }
    let weight = weight.unwrap_or(0.5) as f32;
    text.as_ref().map_or(Ok(()), |text| inputs::check_length(&state, text))?;
    let count = usize::from(has_text) + image.as_ref().map_or(0, |image| inputs::places(&state, image));
    let count = count.min(state.options.queue);
    let mut kept = state.queue.places(count).await?;
    // One is kept for the whole of it: whose query is encoded is not turned away before the search.
    let rest = kept.split(kept.num_permits().saturating_sub(1)).ok_or_else(Refusal::failed)?;
    let kept = Arc::new(kept);
    let (mut items, mut left_out) = (Vec::new(), 0);
    if let Some(text) = text {
        items.push(Item::Text(inputs::ids(&state, text).await?));
    }
    if let Some(image) = image {
        let item;
        (item, left_out) = inputs::item(&state, image).await?;
        items.push(item);
    }
    drop(asked.room);
    let mut rows = state.queue.encode(items, rest, Some(Arc::clone(&kept))).await?.into_iter();
    let (text, image) = (rows.by_ref().take(usize::from(has_text)).next(), rows.next());
    let vector = joined(text, image, (weight, 1.0 - weight)).ok_or_else(Refusal::failed)?;
    let index = Arc::clone(&searched);
    // Its loops share the threads of the model's.
    let found = state.queue.run(kept, move |_| index.best(among, &vector, k)).await?;
    let (gallery, best) = found.map_err(|e| Refusal::internal(&e))?;
    let files = Arc::clone(&state.files).acquire_owned().await.map_err(|_| Refusal::failed())?;
    let work = move || {
        let _files = files;
        let named = searched.named(among, best)?;
        anyhow::Ok(named.into_iter().map(|hit| shown(hit, thumbnails)).collect())
    };
    let hits = tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::failed())?;
    let hits = hits.map_err(|e| Refusal::internal(&e))?;
    json(&Answered { searched: among.word(), gallery, hits, left_out })
}

/// A hit as it is told, with a picture where one is wanted and there is one.
fn shown((hit, image): (Hit, Option<ImageSource>), thumbnails: bool) -> Shown {
    let thumbnail = image.filter(|_| thumbnails).and_then(|image| thumbnail(&image));
    let Hit { rank, score, row, line, text, changed, .. } = hit;
    Shown { rank, score, row, line, text, changed, thumbnail }
}

/// A JPEG of an image of the index as a data URL; none where it cannot be read.
fn thumbnail(image: &ImageSource) -> Option<String> {
    let jpeg = image.read().and_then(|picture| image::thumbnail(&picture, THUMBNAIL)).ok()?;
    Some(format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg)))
}
