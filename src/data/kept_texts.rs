//! What a frozen text tower makes of texts, where that is kept.

use anyhow::{Result, ensure};

use super::FeatureCache;

/// Of distinct texts, by their numbers.
#[derive(Debug)]
pub struct KeptTexts(pub FeatureCache);

impl KeptTexts {
    /// Those of some texts, (texts, width).
    ///
    /// # Errors
    /// The file cannot be read, or has lost some.
    pub fn read(&self, texts: impl Iterator<Item = u32>) -> Result<Vec<f32>> {
        let Self(cache) = self;
        let mut numbers = Vec::new();
        for text in texts {
            let is_there = cache.read(text as usize, &mut numbers)?;
            ensure!(
                is_there,
                "{}: the features of text {text} are not there; --resume latest makes them",
                cache.place()
            );
        }
        Ok(numbers)
    }
}

/// Of the reports of rows: each distinct one once.
#[derive(Debug)]
pub struct KeptReports {
    /// Those of the distinct ones.
    pub texts: KeptTexts,
    /// Which of them each row has.
    pub of_rows: Vec<u32>,
}

impl KeptReports {
    /// Those of some rows, (rows, width).
    ///
    /// # Errors
    /// As [`KeptTexts::read`].
    pub fn read(&self, rows: &[usize]) -> Result<Vec<f32>> {
        self.texts.read(rows.iter().map(|&row| self.of_rows[row]))
    }
}
