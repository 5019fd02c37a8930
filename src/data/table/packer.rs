//! Rows are packed: a million of them with their reports take a few hundred megabytes.

use std::sync::Arc;

use super::fields::{FIELDS, Fields};
use super::row::{Origin, Row, Span};

/// Collects rows of one origin into blocks.
pub(super) struct RowPacker {
    origin: Arc<Origin>,
    text: String,
    /// Rows whose block is not whole yet.
    open: Vec<(u64, [Span; FIELDS])>,
    rows: Vec<Row>,
}

/// Text of a block: large enough that the block's own cost is nothing, small enough to copy.
const BLOCK: usize = 256 << 10;

impl RowPacker {
    pub fn new(origin: Arc<Origin>) -> Self {
        Self { origin, text: String::with_capacity(2 * BLOCK), open: Vec::new(), rows: Vec::new() }
    }

    pub fn push(&mut self, line: u64, fields: &Fields) {
        let spans = fields.each_ref().map(|field| {
            let text = field.as_deref().unwrap_or_default();
            let start = self.text.len() as u32;
            self.text.push_str(text);
            Span { start, len: text.len() as u32 }
        });
        self.open.push((line, spans));
        if self.text.len() >= BLOCK {
            self.close();
        }
    }

    fn close(&mut self) {
        let block: Arc<str> = self.text.as_str().into();
        self.text.clear();
        let origin = &self.origin;
        self.rows.extend(self.open.drain(..).map(|(line, spans)| Row {
            line,
            origin: Arc::clone(origin),
            block: Arc::clone(&block),
            spans,
        }));
    }

    pub fn finish(mut self) -> Vec<Row> {
        self.close();
        self.rows
    }
}
