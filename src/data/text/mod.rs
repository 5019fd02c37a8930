//! Reports and prompts as text, and to token ids: sections, sentences, what of a report is read, classes in words,
//! tokenizers.

mod blanks;
pub mod bpe;
mod negation;
mod pipeline;
mod prompts;
mod report_policy;
pub mod sections;
mod sentences;
pub mod tokenize;
mod tokenizer_file;

pub use negation::{Opposite, OppositeKind, SentenceOpposite, opposites, opposites_of_part, with_opposite};
pub use prompts::{LabelPolicy, Labels, PromptClass, Prompts, UNSURE};
pub use report_policy::{ReportPolicy, Unreadable};
