//! A dual encoder as graphs: each tower with its projection, and both with their logits.

use std::cell::RefCell;

use anyhow::Result;
use candle_core::DType;

use super::config::ClipConfig;
use super::graph::{Drawing, Edge, Graph, Side};
use super::layers::drawn;
use super::params::Params;

impl ClipConfig {
    /// pixel_values (batch_size, 3, image_size, image_size) → `output` (batch_size, embed_dim), not normalised.
    ///
    /// # Errors
    /// A weight that `params` lacks.
    pub fn image_graph(&self, params: &Params, output: &str) -> Result<Graph> {
        let sheet = RefCell::default();
        let d = Drawing::new(params, &sheet);
        d.output(&self.draw_image(&d, "batch_size")?, output, &[Side::Any("batch_size"), Side::Fixed(self.embed_dim)]);
        Ok(sheet.into_inner().finish())
    }

    /// input_ids, and where the tower reads it attention_mask, (batch_size, sequence_length) → `output` (batch_size,
    /// embed_dim), not normalised.
    ///
    /// # Errors
    /// A weight that `params` lacks.
    pub fn text_graph(&self, params: &Params, output: &str) -> Result<Graph> {
        let sheet = RefCell::default();
        let d = Drawing::new(params, &sheet);
        d.output(&self.draw_text(&d, "batch_size")?, output, &[Side::Any("batch_size"), Side::Fixed(self.embed_dim)]);
        Ok(sheet.into_inner().finish())
    }

    /// Inputs of both → `logits_per_image` (images, texts), `logits_per_text` (texts, images), `text_embeds` and
    /// `image_embeds`, L2-normalised: transformers' names and order.
    ///
    /// # Errors
    /// A weight that `params` lacks.
    pub fn joint_graph(&self, params: &Params) -> Result<Graph> {
        let (images, texts) = ("image_batch_size", "text_batch_size");
        let sheet = RefCell::default();
        let d = Drawing::new(params, &sheet);
        let text = d.l2_normalize(&self.draw_text(&d, texts)?)?;
        let image = d.l2_normalize(&self.draw_image(&d, images)?)?;
        let cosines = d.op("MatMul", &[&image, &d.transpose(&text, &[1, 0])]);
        let scale = d.constant("logit_scale.exp", d.tensor("logit_scale")?.exp()?);
        let mut logits = d.mul(&cosines, &scale);
        if self.logit_bias_init.is_some() {
            logits = d.add(&logits, &d.weight("logit_bias")?);
        }
        let (some_images, some_texts, width) = (Side::Any(images), Side::Any(texts), Side::Fixed(self.embed_dim));
        d.output(&logits, "logits_per_image", &[some_images, some_texts]);
        d.output(&d.transpose(&logits, &[1, 0]), "logits_per_text", &[some_texts, some_images]);
        d.output(&text, "text_embeds", &[some_texts, width]);
        d.output(&image, "image_embeds", &[some_images, width]);
        Ok(sheet.into_inner().finish())
    }

    fn draw_image(&self, d: &Drawing, batch: &'static str) -> Result<Edge> {
        let size = Side::Fixed(self.vision.image_size());
        let pixels = d.input("pixel_values", DType::F32, &[Side::Any(batch), Side::Fixed(3), size, size]);
        let state = self.vision.draw(&d.enter("vision_model"), &pixels)?;
        drawn::projection(d, "visual_projection", self.visual_projection, state)
    }

    fn draw_text(&self, d: &Drawing, batch: &'static str) -> Result<Edge> {
        let shape = [Side::Any(batch), Side::Any("sequence_length")];
        let ids = d.input("input_ids", DType::I64, &shape);
        let mask = d.input("attention_mask", DType::I64, &shape);
        let state = self.text.draw(&d.enter("text_model"), &ids, &mask)?;
        drawn::projection(d, "text_projection", self.text_projection, state)
    }
}
