//! Sentences and what says the opposite: of what they deny or affirm, of the side, of the size. English and Chinese.
//!
//! Only sentences that the rules are sure about have opposites: one denial at most, nothing that hedges, compares or
//! contrasts. Everything else has none, which costs examples and no truth.

mod chinese;
mod english;
mod opposite;
mod report;
mod words;

pub use opposite::{Opposite, OppositeKind};
pub use report::{SentenceOpposite, opposites, opposites_of_part, with_opposite};
