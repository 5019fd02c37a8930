//! Where voxels lie in the patient: an affine map to millimetres, x to the right, y to the front, z to the head (RAS+,
//! nibabel's convention).

use anyhow::{Result, ensure};

/// Most voxels along an axis; a header that claims more is broken or hostile.
pub(super) const MOST_SLICES: usize = 30_000;

/// Shape of a volume and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Geometry {
    /// Voxels along the three axes, the one that lies closest together in the file first.
    pub shape: [usize; 3],
    /// Rows x, y, z: a step along each axis, then where voxel (0, 0, 0) is; millimetres.
    pub affine: [[f64; 4]; 3],
    /// Whether the file says which way the axes run.
    pub is_known: bool,
    /// How slices lie in it that came as files of their own.
    pub order: Order,
}

/// How slices lie that came as files of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// Some are nearer or farther than usual, and read as if they were not.
    pub is_uneven: bool,
    /// By their names the files are in no order of theirs, from one end or the other.
    pub is_shuffled: bool,
}

/// One of the body's axes among a file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Along {
    /// The file's axis.
    pub axis: usize,
    /// Whether it runs to the left, to the back or to the feet.
    pub is_reversed: bool,
}

/// A shape as a file claims it.
///
/// # Errors
/// A side is nothing, or more than any volume has.
pub(super) fn sides(claimed: [i64; 3]) -> Result<[usize; 3]> {
    for voxels in claimed {
        let is_allowed = (1..=MOST_SLICES as i64).contains(&voxels);
        ensure!(is_allowed, "claims {voxels} voxels along one axis; allowed are 1 to {MOST_SLICES}");
    }
    Ok(claimed.map(|voxels| voxels as usize))
}

type Matrix = [[f64; 3]; 3];

impl Geometry {
    /// # Errors
    /// A step is 0, or a number is none.
    pub fn check(&self) -> Result<()> {
        let finite = self.affine.iter().flatten().all(|v| v.is_finite());
        ensure!(finite, "its affine holds a number that is not finite");
        let spacing = self.spacing();
        ensure!(spacing.iter().all(|s| *s > 0.0), "has voxels of {} × {} × {} mm", spacing[0], spacing[1], spacing[2]);
        Ok(())
    }

    /// Millimetres from voxel to voxel along the file's axes.
    pub fn spacing(&self) -> [f64; 3] {
        [0, 1, 2].map(|axis| self.affine.iter().map(|row| row[axis] * row[axis]).sum::<f64>().sqrt())
    }

    /// Which of the file's axes is nearest to x, y and z: as nibabel's `io_orientation`, by the rotation that is
    /// nearest to the affine.
    ///
    /// # Errors
    /// Two axes run the same way.
    pub fn canonical(&self) -> Result<[Along; 3]> {
        let spacing = self.spacing();
        let unit: Matrix = [0, 1, 2].map(|x| [0, 1, 2].map(|axis| self.affine[x][axis] / spacing[axis]));
        let mut rotation = nearest_rotation(unit);
        ensure!(rotation.iter().flatten().all(|v| v.is_finite()), "two of its axes run the same way");
        let mut found = [Along { axis: 0, is_reversed: false }; 3];
        for axis in 0..3 {
            let mut best = 0;
            for x in 1..3 {
                if rotation[x][axis].abs() > rotation[best][axis].abs() {
                    best = x;
                }
            }
            found[best] = Along { axis, is_reversed: rotation[best][axis] < 0.0 };
            // One axis each.
            rotation[best] = [0.0; 3];
        }
        let mut axes = found.map(|along| along.axis);
        axes.sort_unstable();
        ensure!(axes == [0, 1, 2], "two of its axes run the same way");
        Ok(found)
    }
}

/// The orthogonal factor of the polar decomposition, by Newton's iteration (Higham 1986); not finite where there is
/// none.
fn nearest_rotation(mut m: Matrix) -> Matrix {
    for _ in 0..32 {
        let t = inverse_transposed(m);
        m = [0, 1, 2].map(|r| [0, 1, 2].map(|c| 0.5 * (m[r][c] + t[r][c])));
    }
    m
}

fn inverse_transposed(m: Matrix) -> Matrix {
    let cofactor = |r: usize, c: usize| {
        let (r1, r2, c1, c2) = ((r + 1) % 3, (r + 2) % 3, (c + 1) % 3, (c + 2) % 3);
        m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]
    };
    let determinant: f64 = (0..3).map(|c| m[0][c] * cofactor(0, c)).sum();
    [0, 1, 2].map(|r| [0, 1, 2].map(|c| cofactor(r, c) / determinant))
}
