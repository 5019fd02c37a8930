//! What a product is told: where its matrices lie, and what it does.

/// A matrix that lies in a slice.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Matrix<'a, T = f32> {
    pub numbers: &'a [T],
    pub layout: Layout,
}

/// How a matrix lies in a slice.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Layout {
    pub rows: usize,
    pub columns: usize,
    /// Distance between the starts of neighbouring rows.
    pub row_stride: usize,
    /// Distance between neighbouring numbers of a row.
    pub column_stride: usize,
}

impl Layout {
    /// Row after row.
    pub fn plain(rows: usize, columns: usize) -> Self {
        Self { rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// `columns` neighbouring columns of a matrix that is `width` wide.
    pub fn part(rows: usize, columns: usize, width: usize) -> Self {
        Self { rows, columns, row_stride: width, column_stride: 1 }
    }

    pub fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row_stride: self.column_stride, column_stride: self.row_stride }
    }

    /// How many numbers of the slice it spans.
    pub(super) fn span(&self) -> usize {
        if self.rows == 0 || self.columns == 0 {
            return 0;
        }
        (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride + 1
    }

    pub fn of<T>(self, numbers: &[T]) -> Matrix<'_, T> {
        assert!(self.span() <= numbers.len(), "{self:?} does not lie in {} numbers", numbers.len());
        Matrix { numbers, layout: self }
    }
}

impl<T> Matrix<'_, T> {
    pub fn transposed(self) -> Self {
        Self { numbers: self.numbers, layout: self.layout.transposed() }
    }
}

/// What a product does with what was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Into {
    /// It is lost.
    Over,
    /// The product is added.
    Onto,
}

/// Who works on a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Threads {
    /// The calling thread: many small products run side by side.
    One,
    /// All of rayon's.
    All,
}
