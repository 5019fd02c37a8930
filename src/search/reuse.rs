//! Embeddings of an index in place of encoding its images again.

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;

use super::gallery::Side;
use super::identity::RowIdentity;
use super::index::Index;
use super::items::{row_contents, short};
use crate::data::Row;

/// The rows of an index's manifest with their images' embeddings, (rows, embed_dim), as they were and still are.
///
/// # Errors
/// It is of no manifest, does not say what its rows were made from, or a row or an image has changed since.
pub fn embedded_rows(index: &Index) -> Result<(Vec<Row>, Tensor)> {
    let gallery = index.gallery(Side::Images).filter(|_| index.source.manifest.is_some());
    let origins = index.all_origins()?;
    let before: Option<Vec<&[RowIdentity]>> = origins.iter().map(|origins| origins.rows.as_deref()).collect();
    let (Some(gallery), Some(before)) = (gallery, before) else {
        bail!("is of no manifest's images, or does not say of which; `reportclip embed --data MANIFEST` makes one")
    };
    let before = before.concat();
    let rows = index.source.manifest_rows()?;
    let contents = row_contents(&rows.iter().collect::<Vec<_>>());
    let same = |((row, content), before): &((&Row, &[u8; 32]), &RowIdentity)| {
        before.sha256 == RowIdentity::of_row(row).sha256 && before.pixels == Some(short(content))
    };
    let kept = rows.iter().zip(&contents).zip(&before).filter(same).count();
    let all = rows.len().max(before.len());
    ensure!(
        kept == all && gallery.rows() == all,
        "{} of its rows have changed since it was made; make a new one with `reportclip embed`",
        all - kept
    );
    Ok((rows, gallery.tensor()?))
}
