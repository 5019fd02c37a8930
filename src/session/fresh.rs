//! A CLIP with random weights, with a tokenizer that is given or trained on the reports.

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use serde_json::json;

use super::folder::ModelFolder;
use super::opened::Session;
use crate::config::Config;
use crate::data::{BagPolicy, Preprocess, ReportPolicy, ReportTokenizer, Row, TokenizerKind, bpe};
use crate::model::checkpoint::{self, FreshClip, FreshTower};
use crate::model::{BagPooling, ClipConfig};

/// As `model.random` says; `reports` are the training pairs.
pub(super) fn fresh(config: &Config, reports: &[Row], device: &Device) -> Result<Session> {
    let (m, r) = (&config.model, &config.model.random);
    let image_size = m.image_size.unwrap_or(224);
    let context_length = m.context_length.unwrap_or(77);
    let kind = TokenizerKind::clip(context_length);
    let tokenizer = match &m.tokenizer {
        Some(folder) => ReportTokenizer::from_folder(folder, kind)?,
        None => {
            let files = bpe::train(reports.iter().map(|r| r.report()), r.vocab_size)?;
            ReportTokenizer::from_files(files, kind)?
        }
    };
    let end = tokenizer.end_id().context("model.tokenizer: has no <|endoftext|> token")?;
    let numbers = FreshClip {
        vision: FreshTower { width: r.vision_width, layers: r.vision_layers, heads: r.vision_heads },
        image_size,
        patch_size: r.patch_size,
        text: FreshTower { width: r.text_width, layers: r.text_layers, heads: r.text_heads },
        vocab_size: tokenizer.vocab_size(),
        context_length,
        end_id: end,
        embed_dim: r.embed_dim,
        logit_bias: config.loss.uses_bias().is_some(),
    };
    // Without these transformers warns of ids of OpenAI's vocabulary.
    let ids = json!({"bos_token_id": tokenizer.start_id(), "pad_token_id": tokenizer.pad_id()});
    let (clip, layout) = checkpoint::fresh_clip(&numbers, &ids)?;
    let bag_pooling = BagPooling::Mean.asked(&m.bag_pooling_request());
    let (clip, layout) = (ClipConfig { bag_pooling, ..clip }, checkpoint::with_bag_pooling(layout, bag_pooling));
    let params = checkpoint::random(&clip, config.seed, device)?;
    let note = format!(
        "tokenizer: {} tokens, {}",
        tokenizer.vocab_size(),
        match &m.tokenizer {
            Some(_) => "read from model.tokenizer",
            None => "trained on the training reports, because model.tokenizer is not set",
        }
    );
    let bias =
        config.loss.uses_bias().map(|kind| format!("logit_bias: −10 and a scale of 10, for loss.kind {:?}", kind.name));
    let folder = ModelFolder {
        layout,
        config: clip,
        preprocess: Preprocess::clip(image_size),
        tokenizer,
        report: ReportPolicy::default(),
        bags: BagPolicy::default(),
        local: None,
        origin: "Trained from scratch with reportclip.".into(),
        summary: String::new(),
    };
    Ok(Session {
        params,
        folder,
        device: device.clone(),
        products: DType::F32,
        notes: [Some(note), bias].into_iter().flatten().collect(),
    })
}
