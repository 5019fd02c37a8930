//! Maps over an image: what they may show, and cosines of patches with a text.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};

use crate::data::Picture;
use crate::model::ClipModel;
use crate::ops::reference::l2_normalize;
use crate::session::Session;
use crate::words::words;

words!(
    /// What a map over an image shows.
    MapKind {
        /// The cosine of each patch with the text: what local alignment trains.
        Patches = "patches",
        /// How much each patch raises the cosine of the whole image: gradient × attention.
        Relevance = "relevance",
    }
);

impl MapKind {
    /// What a model's maps are where nobody chose, and why.
    pub fn of(session: &Session) -> (Self, &'static str) {
        if session.folder.local.is_some() {
            (Self::Patches, "the model was trained to find sentences among patches")
        } else if session.folder.config.vision.patch_rows().is_some() {
            (Self::Relevance, "the model was trained on whole images, and its tower has attention over patches")
        } else {
            (Self::Patches, "the model was trained on whole images, and its tower has no attention over patches")
        }
    }
}

/// Embeddings of an image's patches, to be compared with texts.
pub(super) struct PatchMaps {
    /// (patches, embed_dim), unit rows.
    patches: Tensor,
    /// Patches a side.
    pub grid: usize,
}

impl PatchMaps {
    /// Of one image, by the session's model, which is taken from it once for all images.
    pub(super) fn of((session, model): (&Session, &ClipModel), picture: &Picture) -> Result<Self> {
        let folder = &session.folder;
        let size = folder.config.vision.image_size();
        let pixels = Tensor::from_vec(folder.preprocess.apply(picture, None)?, (1, 3, size, size), &session.device)?;
        let features = model.image_features_with_patches(&pixels)?;
        let rows = features.tensor().dim(0)?;
        let patches = l2_normalize(&features.tensor().narrow(0, 1, rows - 1)?)?.to_device(&Device::Cpu)?;
        let grid = ((rows - 1) as f64).sqrt().round() as usize;
        ensure!(grid * grid == rows - 1, "the tower has {} patches, which are no square", rows - 1);
        Ok(Self { patches, grid })
    }

    /// With a text's embedding, (1, embed_dim).
    pub(super) fn cosines(&self, text: &Tensor) -> Result<Vec<f32>> {
        Ok(self.patches.matmul(&text.t()?.contiguous()?)?.flatten_all()?.to_vec1()?)
    }
}
