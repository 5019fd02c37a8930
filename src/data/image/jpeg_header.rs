//! What a JPEG's marker segments claim, read before its decoder sees them: bytes that decoding takes, and whether the
//! coded bytes can hold so many pixels at all.

use anyhow::{Context, Result, ensure};

/// Values that all scans together may pass over: a few seconds of work.
const MOST_WORK: u64 = 1 << 31;

/// How values are coded.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Process {
    Sequential,
    Progressive,
    Lossless,
}

/// The frame header and what follows it.
#[derive(Debug)]
pub(super) struct JpegHeader {
    process: Process,
    width: u64,
    height: u64,
    /// Sampling factors, across and down.
    components: Vec<(u64, u64)>,
    scans: u64,
    /// Bytes behind the first scan's header.
    coded: u64,
    /// Whether an end-of-image mark follows the picture's own data: the decoder may fill what is missing with gray and
    /// say nothing. Marks inside segments before the data, such as a thumbnail's, do not count.
    pub is_whole: bool,
}

impl JpegHeader {
    /// # Errors
    /// There is no frame header, or it is cut.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut found: Option<Self> = None;
        let mut at = 2;
        while let Some(marker) = next_marker(bytes, &mut at) {
            match marker {
                // Restarts, and marks without a length.
                0x01 | 0xd0..=0xd8 => continue,
                0xd9 => {
                    if let Some(header) = found.as_mut().filter(|h| h.scans > 0) {
                        header.is_whole = true;
                        break;
                    }
                    continue;
                }
                _ => {}
            }
            let Some(len) = bytes.get(at..at + 2) else { break };
            let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
            let segment = bytes.get(at + 2..at + len.max(2)).unwrap_or_default();
            at += len.max(2);
            match (marker, &mut found) {
                (0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf, None) => found = Some(frame(marker, segment)?),
                (0xda, Some(header)) => {
                    if header.scans == 0 {
                        header.coded = bytes.len().saturating_sub(at) as u64;
                    }
                    header.scans += 1;
                }
                _ => {}
            }
        }
        found.context("has no frame header")
    }

    /// (width, height)
    pub fn size(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    /// Values of the decoded picture.
    pub fn values(&self) -> u64 {
        self.width * self.height * self.components.len() as u64
    }

    /// Bytes that `jpeg-decoder` takes at most, its result included.
    pub fn need(&self) -> u64 {
        let samples = self.samples();
        match self.process {
            // A plane of each component, and rows of coefficients (two bytes each) that wait for their thread; then the
            // planes and the result.
            Process::Sequential => samples + (2 * samples).max(self.values()),
            // The same and all coefficients.
            Process::Progressive => 3 * samples + (2 * samples).max(self.values()),
            // Differences (four bytes, in vectors that grow), values, planes, result.
            Process::Lossless => self.values() * if self.components.len() == 1 { 10 } else { 16 },
        }
    }

    /// # Errors
    /// So few bytes cannot hold so many pixels, or so many scans would take too long.
    pub fn check_claims(&self) -> Result<()> {
        let (width, height) = (self.width, self.height);
        let least = self.least_bits().div_ceil(8);
        ensure!(
            least <= self.coded,
            "claims {width} × {height} pixels, which its {} coded bytes cannot hold",
            self.coded
        );
        ensure!(
            self.scans.saturating_mul(self.samples()) <= MOST_WORK,
            "has {} scans of {width} × {height} pixels; that is more work than any image is",
            self.scans
        );
        Ok(())
    }

    fn most_sampling(&self) -> (u64, u64) {
        let across = self.components.iter().map(|c| c.0).max().unwrap_or(1);
        let down = self.components.iter().map(|c| c.1).max().unwrap_or(1);
        (across, down)
    }

    /// Values of all planes, filled up to whole blocks as the decoder does.
    fn samples(&self) -> u64 {
        let (across, down) = self.most_sampling();
        let units = self.width.div_ceil(8 * across) * self.height.div_ceil(8 * down);
        self.components.iter().map(|(h, v)| units * h * v * 64).sum()
    }

    /// Fewest bits that these pixels can be coded in: of a block a code for its mean and, where both come together, one
    /// for the rest; of a lossless value one code.
    fn least_bits(&self) -> u64 {
        let (across, down) = self.most_sampling();
        let sides = self.components.iter().map(|(h, v)| {
            (((self.width * h).div_ceil(across)).div_ceil(8), ((self.height * v).div_ceil(down)).div_ceil(8))
        });
        let blocks: u64 = sides.map(|(across, down)| across * down).sum();
        match self.process {
            Process::Sequential => 2 * blocks,
            Process::Progressive => blocks,
            Process::Lossless => self.values(),
        }
    }
}

/// The marker at or behind `at`, which is moved past it. Bytes of coded data and fill bytes are none.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        *at += bytes.get(*at..)?.iter().position(|&b| b == 0xff)? + 1;
        while bytes.get(*at) == Some(&0xff) {
            *at += 1;
        }
        let marker = *bytes.get(*at)?;
        *at += 1;
        if marker != 0 {
            return Some(marker);
        }
    }
}

fn frame(marker: u8, segment: &[u8]) -> Result<JpegHeader> {
    let count = usize::from(*segment.get(5).context("its frame header is cut")?);
    let listed = segment.get(6..6 + 3 * count).context("its frame header is cut")?;
    let side = |i: usize| u64::from(u16::from_be_bytes([segment[i], segment[i + 1]]));
    let components = listed.chunks_exact(3).map(|c| (u64::from(c[1] >> 4).max(1), u64::from(c[1] & 15).max(1)));
    let process = match marker {
        0xc2 | 0xc6 | 0xca | 0xce => Process::Progressive,
        0xc3 | 0xc7 | 0xcb | 0xcf => Process::Lossless,
        _ => Process::Sequential,
    };
    let (height, width, components) = (side(1), side(3), components.collect());
    Ok(JpegHeader { process, width, height, components, scans: 0, coded: 0, is_whole: false })
}
