//! Numbers as volumes' files hold them.

use anyhow::{Result, ensure};
use half::f16;

/// A type of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
}

/// How a file's numbers become values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Coding {
    pub number: Number,
    pub is_big_endian: bool,
    /// Value = slope × number + intercept.
    pub slope: f64,
    pub intercept: f64,
}

impl Number {
    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

impl Coding {
    /// Values of the numbers in `bytes`; worked out with 64 bits, as nibabel does.
    ///
    /// # Errors
    /// One is not finite: what would be made of it is no picture.
    pub fn values(&self, bytes: &[u8], values: &mut Vec<f32>) -> Result<()> {
        values.clear();
        let (slope, intercept) = (self.slope, self.intercept);
        let is_scaled = slope != 1.0 || intercept != 0.0;
        macro_rules! read {
            ($kind:ty $(, $wide:ident)?) => {{
                let chunks = bytes.as_chunks::<{ size_of::<$kind>() }>().0.iter();
                macro_rules! each {
                    ($from:ident) => {
                        if is_scaled {
                            let value = |b: &_| <$kind>::$from(*b)$(.$wide())? as f64 * slope + intercept;
                            values.extend(chunks.map(|b| value(b) as f32));
                        } else {
                            values.extend(chunks.map(|b| <$kind>::$from(*b)$(.$wide())? as f32));
                        }
                    };
                }
                if self.is_big_endian { each!(from_be_bytes) } else { each!(from_le_bytes) }
            }};
        }
        match self.number {
            Number::U8 => read!(u8),
            Number::I8 => read!(i8),
            Number::U16 => read!(u16),
            Number::I16 => read!(i16),
            Number::U32 => read!(u32),
            Number::I32 => read!(i32),
            Number::U64 => read!(u64),
            Number::I64 => read!(i64),
            Number::F16 => read!(f16, to_f32),
            Number::F32 => read!(f32),
            Number::F64 => read!(f64),
        }
        let is_whole = !matches!(self.number, Number::F16 | Number::F32 | Number::F64);
        // Whole numbers are finite, and so is what becomes of them unless it is made larger.
        let bad = if is_whole && !is_scaled { 0 } else { values.iter().filter(|v| !v.is_finite()).count() };
        ensure!(
            bad == 0,
            "holds {bad} voxels that are NaN or infinite in one plane; allowed are numbers: replace them first, as by \
             numpy.nan_to_num"
        );
        Ok(())
    }
}
