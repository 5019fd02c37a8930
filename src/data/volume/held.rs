//! Volumes that came as bytes, from a request: NIfTI, within what may be unpacked of it.

use std::sync::Arc;

use anyhow::Result;

use super::cut::{Cut, ensure_there};
use super::nifti;
use super::planes::Volume;
use super::policy::VolumePolicy;
use super::window::Ranges;
use crate::data::image::Picture;

/// A NIfTI file in memory, and the slices that it is cut into.
#[derive(Clone, Debug)]
pub struct HeldVolume {
    bytes: Arc<[u8]>,
    /// Bytes that may be unpacked of it.
    most: u64,
    cut: Cut,
    ranges: Ranges,
}

/// Bytes behind the voxels that are unpacked too, so that the checksum is held against what was read.
const BEHIND: u64 = 64 << 10;

impl HeldVolume {
    /// Whether bytes begin as NIfTI does, or as something that gzip packed.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(&[0x1f, 0x8b]) || nifti::is_header(bytes)
    }

    /// The first point in time, cut as `policy` says. What it claims to unpack to is taken from `room`, in bytes.
    ///
    /// # Errors
    /// It is no NIfTI, or claims more than any volume has, or than there is room for.
    pub fn open(bytes: Arc<[u8]>, policy: &VolumePolicy, room: &mut u64) -> Result<Self> {
        let (volume, needed) = nifti::open_held(&bytes, *room)?;
        let most = needed.saturating_add(BEHIND);
        *room = room.saturating_sub(most);
        let cut = Cut::of(&volume.geometry, policy)?;
        Ok(Self { bytes, most, cut, ranges: Ranges::new(&policy.window) })
    }

    /// How many slices there are.
    pub fn count(&self) -> usize {
        self.cut.count()
    }

    /// Slices by their numbers, counted from 0.
    ///
    /// # Errors
    /// It is broken or truncated, holds NaN in what is read, has no such slice, or takes too much memory.
    pub fn slices(&self, which: &[usize]) -> Result<Vec<Picture>> {
        ensure_there(which, self.count())?;
        let ranges = self.ranges.of(|| self.volume())?;
        self.cut.pictures(&mut self.volume()?, &ranges, which)
    }

    fn volume(&self) -> Result<Volume> {
        nifti::open_held(&self.bytes, self.most).map(|(volume, _)| volume)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::data::volume::tests::{file, slices};

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn slices_of_bytes_are_those_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let values: Vec<i16> = (0..4 * 3 * 5).map(|i| (i * 37 % 200) as i16).collect();
        let plain = file([4, 3, 5], [1.0, 1.0, 2.0], &values);
        for (name, bytes) in [("a.nii", plain.clone()), ("a.nii.gz", packed(&plain))] {
            std::fs::write(dir.path().join(name), &bytes).unwrap();
            assert!(HeldVolume::is_one(&bytes), "{name}");
            let fixed = VolumePolicy {
                window: serde_json::from_value(serde_json::json!([0, 200])).unwrap(),
                spacing: Some([1.0; 3]),
                ..VolumePolicy::default()
            };
            for policy in [VolumePolicy::default(), fixed] {
                let held = HeldVolume::open(bytes.clone().into(), &policy, &mut (1 << 20)).unwrap();
                let which = [held.count() - 1, 0, 2];
                assert_eq!(held.slices(&which).unwrap(), slices(&dir.path().join(name), &policy, &which).unwrap());
                assert!(held.slices(&[held.count()]).is_err());
            }
        }
        assert!(!HeldVolume::is_one(b"\x89PNG\r\n") && !HeldVolume::is_one(&[0; 348]));
    }

    #[test]
    fn what_is_broken_is_told_and_what_unpacks_to_too_much_is_not_unpacked() {
        let whole = file([4, 3, 5], [1.0; 3], &[7; 60]);
        let open = |bytes: &[u8]| HeldVolume::open(bytes.into(), &VolumePolicy::default(), &mut (1 << 20));
        let packed_whole = packed(&whole);
        let cut = open(&packed_whole[..packed_whole.len() - 9]).and_then(|held| held.slices(&[4]));
        assert!(cut.unwrap_err().to_string().contains("truncated"));
        assert!(open(&packed(b"no volume")).is_err() && open(&whole[..400]).is_err());
        // 30,000³ voxels would be claimed by a file of a few bytes.
        let mut claims = whole.clone();
        [42, 44, 46].into_iter().for_each(|at| claims[at..at + 2].copy_from_slice(&30_000i16.to_le_bytes()));
        assert!(open(&claims).is_err() && open(&packed(&claims)).is_err());
        // Zeros behind the voxels are packed a thousandfold: unpacking ends at what is allowed.
        let bomb: Arc<[u8]> = packed(&[&whole[..], &vec![0; 1 << 20]].concat()).into();
        let opened = |most| nifti::opened(Cursor::new(Arc::clone(&bomb)), bomb.len() as u64, 0, most);
        let mut plane = Vec::new();
        let (mut volume, needed) = opened(whole.len() as u64).unwrap();
        volume.planes.read(4, &mut plane).unwrap();
        assert!(plane.len() == 12 && volume.planes.finish().is_ok() && needed == whole.len() as u64);
        let refused = opened(whole.len() as u64 - 1).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("unpacks to"), "{refused}");
        // What is sent together shares what may be unpacked.
        let mut room = 3 * whole.len() as u64 + 2 * BEHIND;
        let mut next = || HeldVolume::open(packed(&whole).into(), &VolumePolicy::default(), &mut room);
        assert!((0..3).all(|_| next().is_ok()));
        assert!(next().unwrap_err().to_string().contains("are left of what all that is sent may"));
    }
}
