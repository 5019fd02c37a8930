//! Matrices of f32 as NumPy's `.npy`.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

use super::gallery::Vectors;
use super::stamp::Stamp;
use crate::fs::{Access, open_plain};
use crate::npy::{Header, MAGIC};

/// Longest header that is read; those of matrices have some 120 bytes.
const MOST_HEADER: usize = 64 << 10;

/// Writes a matrix, (rows, width).
///
/// # Errors
/// It cannot be written; an old file is untouched then.
pub(super) fn write(path: &Path, matrix: &Tensor, access: Access) -> Result<()> {
    let (rows, width) = matrix.dims2()?;
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    // The numbers begin at a multiple of 64 bytes, after a line's end.
    let filled = (MAGIC.len() + 4 + header.len() + 1).next_multiple_of(64) - MAGIC.len() - 4;
    header.push_str(&" ".repeat(filled - header.len() - 1));
    header.push('\n');
    let numbers: Vec<f32> = matrix.flatten_all()?.to_vec1()?;
    access.replace_with(path, |path| {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(MAGIC)?;
        file.write_all(&[1, 0])?;
        file.write_all(&(header.len() as u16).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for part in numbers.chunks(1 << 16) {
            file.write_all(&part.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())?;
        }
        Ok(file.flush()?)
    })
}

/// The rows of a matrix: how many, how wide, and where they lie.
///
/// # Errors
/// It is no `.npy` of a matrix of little-endian f32, row after row, is cut off, or goes on behind it.
pub(super) fn rows(path: &Path) -> Result<(usize, usize, Vectors)> {
    let mut file = open_plain(path)?;
    let (length, stamp) = (file.metadata()?.len(), Stamp::of(&file)?);
    let header = Header::read(&mut |into| file.read_exact(into), MOST_HEADER)?;
    ensure!(
        header.kind.as_deref() == Some("<f4") && header.is_fortran == Some(false),
        "holds no f32 row after row; save it as `numpy.ascontiguousarray(x, \"float32\")`"
    );
    let Some(&[rows, width]) = header.shape.as_deref() else { anyhow::bail!("holds no matrix") };
    let offset = header.length;
    let bytes = rows.checked_mul(width).and_then(|n| n.checked_mul(4)).map(|n| n as u64);
    let behind = bytes.and_then(|bytes| length.checked_sub(offset)?.checked_sub(bytes)).filter(|_| width > 0);
    let behind = behind.with_context(|| format!("is cut off: it holds fewer than {rows} × {width} numbers"))?;
    ensure!(behind == 0, "has {behind} bytes behind its {rows} × {width} numbers; allowed are none: save it anew");
    Ok((rows, width, Vectors::Raw { path: path.to_path_buf(), offset, stamp }))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::search::gallery::Gallery;

    #[test]
    fn a_matrix_comes_back_and_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let numbers: Vec<f32> = (0..30).map(|i| i as f32 / 7.0).collect();
        let matrix = Tensor::from_vec(numbers.clone(), (10, 3), &Device::Cpu).unwrap();
        write(&path, &matrix, Access::Usual).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len() - 4 * 30) % 64, 0);
        let gallery = Gallery::of([rows(&path).unwrap()]).unwrap().unwrap();
        assert_eq!(gallery.tensor().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), numbers);
        for (from, to) in
            [("<f4", "<f2"), ("False", "True "), ("(10, 3)", "(30,)  "), ("(10, 3)", "(99, 3)"), ("NUMPY", "NUMPO")]
        {
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            let other = [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat();
            std::fs::write(&path, other).unwrap();
            assert!(rows(&path).is_err(), "{to}");
        }
        std::fs::write(&path, &bytes[..5]).unwrap();
        assert!(rows(&path).is_err());
        std::fs::write(&path, [&bytes[..], b"xyz"].concat()).unwrap();
        let told = rows(&path).map(|_| ()).unwrap_err().to_string();
        assert!(told.starts_with("has 3 bytes behind its 10 × 3 numbers"), "{told}");
    }
}
