//! Images and texts that are sent, to what the towers take: within the bounds of training, on threads of their own, few
//! images at a time.

use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use tokio::sync::oneshot;

use super::fields::{SentImage, SentStudy};
use super::model::Item;
use super::refusal::Refusal;
use super::state::Served;
use crate::data::volume::HeldVolume;
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

/// What `work` makes of files that were sent, on a thread of its own, few at a time. It is told whether the request is
/// still waiting, for nothing else ends it where the time of that is over.
///
/// # Errors
/// Its own: what is wrong with the images.
pub(super) async fn decode<T: Send + 'static>(
    state: &Served,
    work: impl FnOnce(&dyn Fn() -> bool) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let place = Arc::clone(&state.decoders).acquire_owned().await.map_err(|_| Refusal::failed())?;
    let (reply, answer) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let made = work(&|| !reply.is_closed());
        drop(reply.send(made.map_err(|e| Refusal::bad(format!("the image {}", one_line(&e))))));
    });
    answer.await.map_err(|_| Refusal::failed())?
}

/// The files of `sent`, opened.
///
/// # Errors
/// One is no base64 or no image, or others than volumes are sent to a model that reads volumes.
pub(super) async fn opened(state: &Arc<Served>, sent: SentStudy) -> Result<HeldImages, Refusal> {
    let files = match sent {
        SentStudy::One(image) => vec![image],
        SentStudy::All(images) => images,
    };
    let policy = state.bags.clone();
    let work = move |_: &dyn Fn() -> bool| {
        let count = files.len();
        let files = files.into_iter().enumerate().map(|(at, file)| bytes(file, (at + 1, count)));
        let files = match files.collect::<Result<Vec<_>, Refusal>>() {
            // Of a model of volumes, too, which would say that this is none.
            Ok(files) if matches!(&files[..], [only] if only.is_empty()) => Err(Refusal::bad("the image is empty")),
            files => files,
        };
        files.map(|files| HeldImages::of(files, &policy)).map_or_else(|refusal| Ok(Err(refusal)), |held| held.map(Ok))
    };
    let held = decode(state, work).await??;
    // Slices that come as images have no place, no spacing and no values for the model's window.
    if state.reads_volumes() && !held.are_of_volumes() {
        return Err(Refusal::bad("this model reads volumes, and images were sent; send NIfTI (.nii, .nii.gz)"));
    }
    Ok(held)
}

/// Decodes `sent` to what the image tower takes; and of how many files something was left out.
///
/// # Errors
/// As [`opened`].
pub(super) async fn item(state: &Arc<Served>, sent: SentStudy) -> Result<(Item, usize), Refusal> {
    let held = opened(state, sent).await?;
    let (read, left_out) = read(state, held).await?;
    Ok((Item::Images(read), left_out))
}

/// Those of `held` that the model reads; and of how many files something was left out.
///
/// # Errors
/// One cannot be read.
pub(super) async fn read(state: &Arc<Served>, held: HeldImages) -> Result<(Vec<Member>, usize), Refusal> {
    let of_work = Arc::clone(state);
    decode(state, move |is_wanted| held.read(&of_work.preprocess, is_wanted)).await
}

/// Whether nothing was left out, which answers do not say.
pub(super) fn is_whole(left_out: &usize) -> bool {
    *left_out == 0
}

/// Places that what is sent takes in the queue: one for each image that the model reads, of a volume the most that it
/// may be, for how many slices it has is known only later.
pub(super) fn places(state: &Served, sent: &SentStudy) -> usize {
    let most = state.bags.max.min(state.options.queue);
    let images = match sent {
        SentStudy::One(image) => std::slice::from_ref(image),
        SentStudy::All(images) => images,
    };
    if images.iter().any(is_volume) { most } else { images.len().min(most) }
}

/// Whether a file begins as a volume does; what is no base64 is told when it is decoded.
fn is_volume(sent: &SentImage) -> bool {
    /// Characters of base64 that hold a header.
    const HEAD: usize = 464;
    match sent {
        SentImage::Bytes(bytes) => HeldVolume::is_one(bytes),
        SentImage::Text(text) => {
            let data = data_of(text).unwrap_or_default().as_bytes();
            BASE64.decode(&data[..data.len().min(HEAD)]).is_ok_and(|head| HeldVolume::is_one(&head))
        }
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

/// The bytes of image `number` of `count`.
fn bytes(sent: SentImage, (number, count): (usize, usize)) -> Result<Vec<u8>, Refusal> {
    let which = if count > 1 { format!("image {number} of {count}: ") } else { String::new() };
    let text = match sent {
        SentImage::Bytes(bytes) => return Ok(bytes),
        SentImage::Text(text) => text,
    };
    let data = data_of(&text).ok_or_else(|| {
        Refusal::bad(format!("{which}a data URL must be `data:TYPE;base64,…` with TYPE one of {}", KINDS.join(", ")))
    })?;
    BASE64.decode(data).map_err(|_| Refusal::bad(format!("{which}an image must be base64, or a data URL of base64")))
}

/// The base64 of an image, alone or in a data URL of a kind that is read.
fn data_of(text: &str) -> Option<&str> {
    let Some(url) = text.strip_prefix("data:") else { return Some(text) };
    let is_read = |kind: &str| kind.strip_suffix(";base64").is_some_and(|kind| KINDS.contains(&kind));
    url.split_once(',').filter(|(kind, _)| is_read(kind)).map(|(_, data)| data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_seen_by_how_they_begin() {
        let mut nifti = vec![0; 400];
        nifti[344..348].copy_from_slice(b"n+1\0");
        for (bytes, expected) in [(nifti.clone(), true), (vec![0x1f, 0x8b, 8], true), (nifti[..347].to_vec(), false)] {
            let text = BASE64.encode(&bytes);
            for sent in [text.clone(), format!("data:application/gzip;base64,{text}")] {
                assert_eq!(is_volume(&SentImage::Text(sent)), expected);
            }
            assert_eq!(is_volume(&SentImage::Bytes(bytes)), expected);
        }
        assert!(!is_volume(&SentImage::Text("no base64 …".into())));
        assert!(!is_volume(&SentImage::Text("data:text/plain,H4sI".into())));
    }
}
