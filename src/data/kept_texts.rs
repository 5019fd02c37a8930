//! What a frozen text tower makes of texts, where that is kept.

use anyhow::{Result, ensure};
use rayon::prelude::*;

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

    /// [`Self::read`] on all cores, for who waits for it: reports are read ahead, on threads of their own.
    ///
    /// # Errors
    /// As there.
    pub fn read_at_once(&self, texts: &[u32]) -> Result<Vec<f32>> {
        /// Texts that one thread reads in a row.
        const PART: usize = 64;
        let parts = texts.par_chunks(PART).map(|part| self.read(part.iter().copied()));
        Ok(parts.collect::<Result<Vec<_>>>()?.concat())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{FeaturePrecision, Numbers};

    #[test]
    fn all_cores_read_what_one_reads_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let numbers = Numbers { width: 2, precision: FeaturePrecision::F32 };
        let cache = FeatureCache::open(&dir.path().join("c"), &"0".repeat(64), 301, numbers).unwrap();
        let rows: Vec<[f32; 2]> = (0..300).map(|row| [row as f32, -1.0]).collect();
        cache.write(rows.iter().enumerate().map(|(row, numbers)| (row, &numbers[..]))).unwrap();
        let kept = KeptTexts(cache);
        let texts: Vec<u32> = (0..300).map(|text| text * 7 % 300).collect();
        let expected: Vec<f32> = texts.iter().flat_map(|&text| rows[text as usize]).collect();
        assert_eq!(kept.read_at_once(&texts).unwrap(), expected);
        assert_eq!(kept.read(texts.iter().copied()).unwrap(), expected);
        assert!(kept.read_at_once(&[]).unwrap().is_empty());
        let told = kept.read_at_once(&[texts, vec![300]].concat()).unwrap_err().to_string();
        assert!(told.ends_with("the features of text 300 are not there; --resume latest makes them"), "{told}");
    }
}
