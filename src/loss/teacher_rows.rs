//! What another model makes of rows: the targets of what learns from it.

use super::vectors::Vectors;

/// What a teacher makes of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct TeacherRows {
    /// Of each row's image, of length 1.
    pub images: Vectors,
    /// Of its report.
    pub texts: Vectors,
    /// What the teacher multiplies similarities by.
    pub scale: f64,
}

impl TeacherRows {
    /// The teacher's logits of the rows of a batch, (images · reports).
    pub fn logits(&self, rows: &[u32]) -> Vec<f64> {
        let products = self.images.products(rows, (&self.texts, rows));
        products.into_iter().map(|product| self.scale * f64::from(product)).collect()
    }
}
