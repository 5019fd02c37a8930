//! What the towers give in a step, before it is one batch.

use std::ops::Range;
use std::rc::Rc;

use candle_core::Tensor;

use super::prompt_tokens::SentenceFeatures;
use crate::model::ClipModel;
use crate::ops::{Segments, Tape, Value};

/// A step's tape with the model on it.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub tape: &'a Rc<Tape>,
    pub model: &'a Rc<ClipModel>,
}

/// Of the images of a chunk.
pub(super) struct ImageFeatures {
    /// (pairs, embed_dim)
    pub whole: Value,
    /// Where they are asked for: (patches, embed_dim), and how many each pair has.
    pub patches: Option<(Value, Vec<u32>)>,
}

/// Of this rank's chunks, in order.
#[derive(Default)]
pub(super) struct Found {
    /// (pairs, embed_dim) each.
    pub images: Vec<Tensor>,
    /// (patches, embed_dim) each.
    pub patches: Vec<Tensor>,
    /// Patches of each pair.
    pub lengths: Vec<u32>,
    /// (pairs, embed_dim) each.
    pub texts: Vec<Tensor>,
}

impl Found {
    /// One more chunk.
    pub fn add(&mut self, image: Option<&ImageFeatures>, text: Option<&Value>) {
        self.texts.extend(text.map(|text| text.tensor().clone()));
        let Some(image) = image else { return };
        self.images.push(image.whole.tensor().clone());
        if let Some((patches, lengths)) = &image.patches {
            self.patches.push(patches.tensor().clone());
            self.lengths.extend(lengths);
        }
    }
}

/// Patches of all ranks, and sentences.
pub(super) struct Local {
    /// (patches, embed_dim)
    pub patches: Tensor,
    /// Which of them belong to each pair.
    pub segments: Segments,
    /// Of the step's sentences.
    pub sentences: SentenceFeatures,
    /// Which of them the report of each pair has.
    pub of_pairs: Vec<Vec<u32>>,
}

impl Local {
    /// Where the patches of these pairs stand.
    pub fn rows_of(&self, pairs: Range<usize>) -> Range<usize> {
        let start = |pair: usize| self.segments.firsts().get(pair).copied().unwrap_or(self.segments.rows());
        start(pairs.start)..start(pairs.end)
    }
}
