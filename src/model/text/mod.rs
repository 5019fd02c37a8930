//! Text towers: token ids in, one state a text out.

mod clip_text;

pub(super) use clip_text::ClipText;
