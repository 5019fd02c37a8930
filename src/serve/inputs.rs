//! Images and texts that are sent, to what the towers take: within the bounds of training, on threads of their own, few
//! images at a time.

use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use tokio::sync::OwnedSemaphorePermit;

use super::fields::SentImage;
use super::model::Item;
use super::refusal::Refusal;
use super::state::Served;
use crate::data::{Picture, image};
use crate::error::one_line;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Kinds of data URLs that are read; what the bytes are is seen from themselves.
const KINDS: [&str; 5] = ["image/png", "image/jpeg", "image/jpg", "application/dicom", "application/octet-stream"];

/// A decoded image; as long as it is held, one fewer is decoded beside it.
pub(super) struct Decoded {
    pub picture: Picture,
    _place: OwnedSemaphorePermit,
}

/// Decodes `sent`.
///
/// # Errors
/// It is no image, or one that takes too much.
pub(super) async fn decode(state: &Served, sent: SentImage) -> Result<Decoded, Refusal> {
    let place = Arc::clone(&state.decoders).acquire_owned().await.map_err(|_| Refusal::failed())?;
    let work = move || {
        let bytes = bytes(sent)?;
        let picture = image::decode(&bytes, 0).map_err(|e| Refusal::bad(format!("the image {}", one_line(&e))))?;
        Ok(Decoded { picture, _place: place })
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::failed())?
}

/// Decodes `sent` to what the image tower takes.
///
/// # Errors
/// As [`decode`].
pub(super) async fn item(state: &Arc<Served>, sent: SentImage) -> Result<Item, Refusal> {
    let decoded = decode(state, sent).await?;
    let state = Arc::clone(state);
    let work = move || {
        let prepared = state.preprocess.prepare(&decoded.picture, None);
        prepared.map(Item::Image).map_err(|e| Refusal::bad(format!("the image {}", one_line(&e))))
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::failed())?
}

/// Refuses a text that is too long to be tokenized, before it takes a place and others are tokenized beside it.
///
/// # Errors
/// It is.
pub(super) fn check_length(state: &Served, text: &str) -> Result<(), Refusal> {
    state.tokenizer.check_length(text).map_err(|e| Refusal::bad(one_line(&e)))
}

/// Tokenizes `text`, as `embed` does it.
///
/// # Errors
/// It is too long to be tokenized.
pub(super) async fn ids(state: &Arc<Served>, text: String) -> Result<Vec<u32>, Refusal> {
    let state = Arc::clone(state);
    let ids = tokio::task::spawn_blocking(move || state.tokenizer.encode(&text)).await;
    ids.map_err(|_| Refusal::failed())?.map_err(|e| Refusal::bad(one_line(&e)))
}

fn bytes(sent: SentImage) -> Result<Vec<u8>, Refusal> {
    let text = match sent {
        SentImage::Bytes(bytes) => return Ok(bytes),
        SentImage::Text(text) => text,
    };
    let data = match text.strip_prefix("data:") {
        None => text.as_str(),
        Some(url) => {
            let kind = |kind: &&str| kind.strip_suffix(";base64").is_some_and(|kind| KINDS.contains(&kind));
            let parts = url.split_once(',').filter(|(kind_of, _)| kind(kind_of));
            parts.map(|(_, data)| data).ok_or_else(|| {
                Refusal::bad(format!("a data URL must be `data:TYPE;base64,…` with TYPE one of {}", KINDS.join(", ")))
            })?
        }
    };
    BASE64.decode(data).map_err(|_| Refusal::bad("an image must be base64, or a data URL of base64"))
}
