//! The model as requests use it: rows of its towers.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};

use crate::data::Prepared;
use crate::model::ClipModel;
use crate::session::Session;

/// What goes through a tower.
pub(super) enum Item {
    Image(Prepared),
    /// Token ids with their marks.
    Text(Vec<u32>),
}

/// The model, on the thread that works with it.
pub(super) struct Model<'a> {
    pub session: &'a Session,
    towers: ClipModel,
}

impl<'a> Model<'a> {
    /// # Errors
    /// None in practice: a session has all the weights of its shape.
    pub fn new(session: &'a Session) -> Result<Self> {
        Ok(Self { session, towers: session.model()? })
    }

    /// A row for each item, all of one kind; none for one whose numbers are not finite, which the others do not suffer.
    pub fn rows(&self, items: &[&Item]) -> Result<Vec<Option<Vec<f32>>>> {
        let device = &self.session.device;
        let texts: Vec<&[u32]> = items.iter().filter_map(|item| item.text()).collect();
        let rows = if texts.is_empty() {
            let size = self.session.folder.config.vision.image_size();
            let mut values = vec![0.0; items.len() * 3 * size * size];
            for (values, image) in values.chunks_exact_mut(3 * size * size).zip(items.iter().filter_map(|i| i.image()))
            {
                ensure!(image.len() == values.len(), "an image of {} numbers", image.len());
                image.write(values);
            }
            self.towers.image_embeds(&Tensor::from_vec(values, (items.len(), 3, size, size), device)?)?
        } else {
            let (ids, tokens) = self.session.folder.tokenizer.pad(&texts);
            self.towers.text_embeds(&Tensor::from_vec(ids, (texts.len(), tokens), device)?)?
        };
        let rows: Vec<Vec<f32>> = rows.to_device(&Device::Cpu)?.to_vec2()?;
        let finite = |row: Vec<f32>| row.iter().all(|v| v.is_finite()).then_some(row);
        Ok(rows.into_iter().map(finite).collect())
    }
}

impl Item {
    fn image(&self) -> Option<&Prepared> {
        match self {
            Self::Image(image) => Some(image),
            Self::Text(_) => None,
        }
    }

    fn text(&self) -> Option<&[u32]> {
        match self {
            Self::Text(ids) => Some(ids),
            Self::Image(_) => None,
        }
    }
}
