//! Reports to token ids: sections, sentences, tokenizers.

pub mod bpe;
mod pipeline;
pub mod sections;
pub mod tokenize;
