//! What readers of volumes give: where voxels lie, and planes of them one after another.

use anyhow::Result;

use super::geometry::Geometry;

/// Voxels as a file holds them.
pub(super) trait Planes {
    /// Plane `k` of the third axis, the first axis fastest, as values after rescaling, all finite. A stream gives
    /// planes in rising order only.
    ///
    /// # Errors
    /// It is truncated or broken, or a voxel is no finite number.
    fn read(&mut self, k: usize, plane: &mut Vec<f32>) -> Result<()>;

    /// Reads what is left of a stream, at whose end its checksum stands.
    ///
    /// # Errors
    /// It is truncated or broken.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// An opened volume.
pub(super) struct Volume {
    pub geometry: Geometry,
    pub planes: Box<dyn Planes>,
}
