//! Reports and prompts as text, and to token ids: sections, sentences, what of a report is read, classes in words,
//! tokenizers.

pub mod bpe;
mod pipeline;
mod prompts;
mod report_policy;
pub mod sections;
pub mod tokenize;

pub use prompts::{Labels, PromptClass, Prompts};
pub use report_policy::ReportPolicy;
