//! Embeddings of an index in place of encoding its images again.

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;

use super::build::{row_contents, short};
use super::identity::RowIdentity;
use super::index::Index;
use crate::data::Row;

/// The rows of an index's manifest with their images' embeddings, (rows, embed_dim), as they were and still are.
///
/// # Errors
/// It is of no manifest, does not say what its rows were made from, or a row or an image has changed since.
pub fn embedded_rows(index: &Index) -> Result<(Vec<Row>, &Tensor)> {
    let embeds = index.image_embeds.as_ref().filter(|_| index.source.manifest.is_some());
    let (Some(embeds), Some(before)) = (embeds, &index.source.rows) else {
        bail!("is of no manifest's images, or does not say of which; `reportclip embed --data MANIFEST` makes one")
    };
    let rows = index.source.manifest_rows()?;
    let contents = row_contents(&rows.iter().collect::<Vec<_>>());
    let same = |((row, content), before): &((&Row, &[u8; 32]), &RowIdentity)| {
        before.sha256 == RowIdentity::of_row(row).sha256 && before.pixels == Some(short(content))
    };
    let kept = rows.iter().zip(&contents).zip(before).filter(same).count();
    let all = rows.len().max(before.len());
    ensure!(
        kept == all && embeds.dim(0)? == all,
        "{} of its rows have changed since it was made; make a new one with `reportclip embed`",
        all - kept
    );
    Ok((rows, embeds))
}
