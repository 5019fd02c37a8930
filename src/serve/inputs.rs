//! Images and texts that are sent, to what the towers take: within the bounds of training, on threads of their own, few
//! images at a time.

use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::fields::{SentImage, SentStudy};
use super::model::Item;
use super::refusal::Refusal;
use super::state::Served;
use crate::data::{HeldImages, Member};
use crate::error::one_line;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Kinds of data URLs that are read; what the bytes are is seen from themselves.
const KINDS: [&str; 7] = [
    "image/png",
    "image/jpeg",
    "image/jpg",
    "application/dicom",
    "application/gzip",
    "application/x-gzip",
    "application/octet-stream",
];

/// What `work` makes of files that were sent, on a thread of its own, few at a time.
///
/// # Errors
/// Its own: what is wrong with the images.
pub(super) async fn decode<T: Send + 'static>(
    state: &Served,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let place = Arc::clone(&state.decoders).acquire_owned().await.map_err(|_| Refusal::failed())?;
    let work = move || {
        let _place = place;
        work().map_err(|e| Refusal::bad(format!("the image {}", one_line(&e))))
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::failed())?
}

/// The files of `sent`, opened.
///
/// # Errors
/// One is no base64 or no image, or images are sent to a model that reads volumes.
pub(super) async fn opened(state: &Arc<Served>, sent: SentStudy) -> Result<HeldImages, Refusal> {
    let files = match sent {
        SentStudy::One(image) => vec![image],
        SentStudy::All(images) => images,
    };
    let files = files.into_iter().map(bytes).collect::<Result<Vec<_>, _>>()?;
    let policy = state.bags.clone();
    let held = decode(state, move || HeldImages::of(files, &policy)).await?;
    // Slices that come as images have no place, no spacing and no values for the model's window.
    if state.reads_volumes() && !held.has_volume() {
        return Err(Refusal::bad("this model reads volumes, and images were sent; send NIfTI (.nii, .nii.gz)"));
    }
    Ok(held)
}

/// Decodes `sent` to what the image tower takes.
///
/// # Errors
/// As [`opened`].
pub(super) async fn item(state: &Arc<Served>, sent: SentStudy) -> Result<Item, Refusal> {
    let held = opened(state, sent).await?;
    read(state, held).await.map(Item::Images)
}

/// Those of `held` that the model reads.
///
/// # Errors
/// One cannot be read.
pub(super) async fn read(state: &Arc<Served>, held: HeldImages) -> Result<Vec<Member>, Refusal> {
    let of_work = Arc::clone(state);
    decode(state, move || held.read(&of_work.preprocess)).await
}

/// Places that what is sent takes in the queue: one for each image that the model reads, as far as that is known.
pub(super) fn places(state: &Served, sent: &SentStudy) -> usize {
    let most = state.bags.max.min(state.options.queue);
    match sent {
        SentStudy::One(_) if state.reads_volumes() => most,
        SentStudy::One(_) => 1,
        SentStudy::All(images) => images.len().min(most),
    }
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
