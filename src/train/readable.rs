//! Embeddings of images of which some may not be readable, and how one that is not is told.

use anyhow::{Error, Result, anyhow, ensure};
use candle_core::Tensor;

use crate::data::{ImageSource, OnError, Row};
use crate::session::{Encoder, UnreadableImage};

/// What to do about a row that cannot be read, where it stops a run.
pub(super) const MEND: &str = "mend it, or set data.on_error = \"skip\"";

/// The numbers of those of `rows` whose images can be read, and their embeddings, (readable, embed_dim).
///
/// # Errors
/// An image that cannot be read, where `on_error` says so; there is no other.
pub(super) fn readable_images(encoder: &Encoder, rows: &[&Row], on_error: OnError) -> Result<(Vec<u32>, Tensor)> {
    /// So many of a rank's batches are encoded anew where one image of them cannot be read.
    const BATCHES: usize = 16;
    let numbers: Vec<u32> = (0..rows.len() as u32).collect();
    let (mut readable, mut parts) = (Vec::new(), Vec::new());
    for block in numbers.chunks(BATCHES * encoder.batch_size * encoder.world.size()) {
        let mut left = block.to_vec();
        while !left.is_empty() {
            let sources: Vec<ImageSource> = left.iter().map(|&i| rows[i as usize].image()).collect();
            let error = match encoder.images(&sources) {
                Ok(embeddings) => {
                    parts.push(embeddings);
                    readable.append(&mut left);
                    continue;
                }
                Err(error) => error,
            };
            let bad = error.downcast_ref::<UnreadableImage>().map(|e| e.image.clone());
            let before = left.len();
            left.retain(|&i| Some(rows[i as usize].image()) != bad);
            if on_error == OnError::Stop || left.len() == before {
                return Err(with_row(error, block.iter().map(|&i| rows[i as usize]), on_error));
            }
        }
    }
    ensure!(!parts.is_empty(), "none of {} images can be read", rows.len());
    Ok((readable, Tensor::cat(&parts, 0)?))
}

/// The line of an image that cannot be read, with its place among `rows` and, where it stops a run, what to do about
/// it; any other error as it is.
pub(super) fn with_row<'a>(error: Error, mut rows: impl Iterator<Item = &'a Row>, on_error: OnError) -> Error {
    let Some(bad) = error.downcast_ref::<UnreadableImage>() else { return error };
    let Some(row) = rows.find(|row| row.image() == bad.image) else { return error };
    let place = row.place();
    // The reason may begin with it.
    let reason = bad.reason.strip_prefix(&format!("{place}: ")).unwrap_or(&bad.reason);
    let hint = if on_error == OnError::Stop { format!("; {MEND}") } else { String::new() };
    anyhow!("{place}: image {reason}{hint}")
}
