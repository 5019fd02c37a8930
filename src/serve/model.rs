//! The model as requests use it: rows of its towers.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};

use crate::data::{Bags, Member};
use crate::model::ClipModel;
use crate::ops::reference::l2_normalize;
use crate::session::Session;

/// What goes through a tower.
pub(super) enum Item {
    /// The images of one report.
    Images(Vec<Member>),
    /// Token ids with their marks.
    Text(Vec<u32>),
}

/// The model, on the thread that works with it.
pub(super) struct Model<'a> {
    pub session: &'a Session,
    towers: ClipModel,
    /// Images that go through the tower together.
    at_once: usize,
}

impl<'a> Model<'a> {
    /// # Errors
    /// None in practice: a session has all the weights of its shape.
    pub fn new(session: &'a Session, at_once: usize) -> Result<Self> {
        Ok(Self { session, towers: session.model()?, at_once })
    }

    /// A row for each item, all of one kind; none for one whose numbers are not finite, which the others do not suffer.
    pub fn rows(&self, items: &[&Item]) -> Result<Vec<Option<Vec<f32>>>> {
        let device = &self.session.device;
        let texts: Vec<&[u32]> = items.iter().filter_map(|item| item.text()).collect();
        let rows = if texts.is_empty() {
            self.image_rows(&items.iter().map(|item| item.images()).collect::<Vec<_>>())?
        } else {
            let (ids, tokens) = self.session.folder.tokenizer.pad(&texts);
            self.towers.text_embeds(&Tensor::from_vec(ids, (texts.len(), tokens), device)?)?
        };
        let rows: Vec<Vec<f32>> = rows.to_device(&Device::Cpu)?.to_vec2()?;
        let finite = |row: Vec<f32>| row.iter().all(|v| v.is_finite()).then_some(row);
        Ok(rows.into_iter().map(finite).collect())
    }
}

impl Model<'_> {
    /// (reports, embed_dim), L2-normalised, of the images of each.
    fn image_rows(&self, reports: &[&[Member]]) -> Result<Tensor> {
        let size = self.session.folder.config.vision.image_size();
        let images: Vec<&Member> = reports.iter().copied().flatten().collect();
        let features = |images: &[&Member]| -> Result<Tensor> {
            let mut values = vec![0.0; images.len() * 3 * size * size];
            for (values, image) in values.chunks_exact_mut(3 * size * size).zip(images) {
                let image = &image.prepared;
                ensure!(image.len() == values.len(), "an image of {} numbers", image.len());
                image.write(values);
            }
            let pixel_values = Tensor::from_vec(values, (images.len(), 3, size, size), &self.session.device)?;
            Ok(self.towers.image_features(&pixel_values)?.tensor().clone())
        };
        let features = images.chunks(self.at_once).map(features).collect::<Result<Vec<_>>>()?;
        let features = Tensor::cat(&features, 0)?;
        let places = |report: &&[Member]| report.iter().map(|image| image.place).collect::<Vec<f32>>();
        Ok(match Bags::of(&reports.iter().map(places).collect::<Vec<_>>()) {
            None => l2_normalize(&features)?,
            Some(bags) => self.towers.bag_embeds(&features, &bags.segments, &bags.places)?,
        })
    }
}

impl Item {
    fn images(&self) -> &[Member] {
        match self {
            Self::Images(images) => images,
            Self::Text(_) => &[],
        }
    }

    fn text(&self) -> Option<&[u32]> {
        match self {
            Self::Text(ids) => Some(ids),
            Self::Images(_) => None,
        }
    }

    /// Places that it takes in the queue.
    pub fn places(&self) -> usize {
        self.images().len().max(1)
    }
}
