//! The rows of the table of keys that say what is trained and how fast.

use super::key::{Key, key};
use super::kind::Kind;
use crate::optim::ScheduleKind;

/// In the order in which they are shown.
pub(super) const OPTIM: &[Key] = &[
    key("optim.lr", Kind::Float(0.0, 10.0), "1e-5", "Learning rate"),
    key("optim.lr_image", Kind::Float(0.0, 10.0), "", "Learning rate of the image tower; default lr"),
    key("optim.lr_text", Kind::Float(0.0, 10.0), "", "Learning rate of the text tower; default lr"),
    key("optim.lr_heads", Kind::Float(0.0, 10.0), "", "Learning rate of projections and logit_scale; default lr"),
    key(
        "optim.layer_decay",
        Kind::Float(0.01, 1.0),
        "1.0",
        "Rate of each block of a tower as a share of the rate of the block above it; 1 = all alike",
    ),
    key("optim.beta1", Kind::Float(0.0, 0.999_999), "0.9", "AdamW's first decay"),
    key("optim.beta2", Kind::Float(0.0, 0.999_999), "0.98", "AdamW's second decay"),
    key("optim.eps", Kind::Float(1e-12, 1.0), "1e-6", "AdamW's epsilon"),
    key(
        "optim.weight_decay",
        Kind::Float(0.0, 10.0),
        "0.1",
        "Decay of matrices; biases, norms, positions, scale have none",
    ),
    key("optim.schedule", Kind::OneOf(ScheduleKind::WORDS), "\"cosine\"", "Shape of the learning rate"),
    key("optim.warmup", Kind::Span, "\"10%\"", "Length of the rise from 0"),
    key("optim.min_lr_ratio", Kind::Float(0.0, 1.0), "0.0", "Where cosine and linear end, as a share of lr"),
    key("freeze.image", Kind::Freeze, "\"none\"", "What of the image tower stays as it is, from the input up"),
    key("freeze.text", Kind::Freeze, "\"none\"", "What of the text tower stays as it is, from the input up"),
    key("freeze.image_until", Kind::Span, "", "How long the image tower stays frozen; default: to the end"),
    key("freeze.text_until", Kind::Span, "", "How long the text tower stays frozen; default: to the end"),
    key("freeze.projections", Kind::Bool, "false", "Both projections stay as they are"),
    key("freeze.logit_scale", Kind::Bool, "false", "logit_scale stays as it is"),
    key("lora.rank", Kind::Int(0, 4096), "0", "Width of low-rank adapters, trained in place of the towers; 0 = none"),
    key("lora.alpha", Kind::Float(0.0, 1e6), "16.0", "What adapters' products are multiplied by, times rank"),
    key("lora.dropout", Kind::Float(0.0, 0.99), "0.0", "Share of an adapter's input that is dropped"),
    key(
        "lora.targets",
        Kind::ListOf(&["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]),
        "[\"q_proj\", \"v_proj\"]",
        "Layers of transformer blocks that get an adapter, in towers that freeze does not freeze whole",
    ),
];
