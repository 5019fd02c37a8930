//! JPEG-LS (ITU-T T.87), lossless and near-lossless, components one after another or line by line: the
//! crates are CharLS, which wants CMake, and dicom-toolkit-codec 0.5, which fails on 4 of 4 files that CharLS wrote.

use anyhow::{Context, Result, bail, ensure};

/// A decoded image.
pub(super) struct Decoded {
    pub width: usize,
    pub height: usize,
    pub components: usize,
    pub bits: u32,
    /// Values of a pixel side by side.
    pub values: Vec<u16>,
}

/// Decodes one image, of at most `pixels` values.
pub(super) fn decode(bytes: &[u8], most: usize) -> Result<Decoded> {
    let mut reader = Markers { bytes, at: 0 };
    ensure!(reader.word()? == 0xffd8, "does not begin with SOI");
    let mut frame: Option<Decoded> = None;
    let mut preset = Preset::default();
    let mut done = 0;
    loop {
        let marker = reader.word()?;
        if marker == 0xffd9 {
            break;
        }
        let segment = reader.segment()?;
        match marker {
            0xfff7 => frame = Some(header(segment, most)?),
            0xfff8 if segment.first() == Some(&1) => preset = Preset::read(segment)?,
            0xffda => {
                let image = frame.as_mut().context("has a scan before its header")?;
                let scan = Scan::read(segment)?;
                let data = &reader.bytes[reader.at..];
                reader.at += scan.decode(data, image, &preset, done)?;
                done += scan.components;
                if done >= image.components {
                    break;
                }
            }
            _ => ensure!(marker >= 0xff00, "has no marker where one must be"),
        }
    }
    let image = frame.context("has no header")?;
    ensure!(done == image.components, "has {done} of {} components", image.components);
    Ok(image)
}

fn header(segment: &[u8], most: usize) -> Result<Decoded> {
    ensure!(segment.len() >= 6, "its header is cut");
    let side = |i: usize| usize::from(u16::from_be_bytes([segment[i], segment[i + 1]]));
    let (bits, height, width, components) = (u32::from(segment[0]), side(1), side(3), usize::from(segment[5]));
    ensure!((2..=16).contains(&bits), "has {bits} bits; allowed are 2 to 16");
    ensure!(width > 0 && height > 0 && (1..=4).contains(&components), "is {width} × {height} × {components}");
    ensure!(width * height * components <= most, "claims {width} × {height} pixels");
    Ok(Decoded { width, height, components, bits, values: vec![0; width * height * components] })
}

struct Markers<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Markers<'a> {
    fn word(&mut self) -> Result<u16> {
        let pair = self.bytes.get(self.at..self.at + 2).context("is truncated")?;
        self.at += 2;
        Ok(u16::from_be_bytes([pair[0], pair[1]]))
    }

    fn segment(&mut self) -> Result<&'a [u8]> {
        let len = usize::from(self.word()?);
        ensure!(len >= 2, "has a segment of {len} bytes");
        let segment = self.bytes.get(self.at..self.at + len - 2).context("is truncated")?;
        self.at += len - 2;
        Ok(segment)
    }
}

/// Parameters of an LSE segment; 0 = the default.
#[derive(Default)]
struct Preset {
    maximum: i32,
    thresholds: [i32; 3],
    reset: i32,
}

impl Preset {
    fn read(segment: &[u8]) -> Result<Self> {
        ensure!(segment.len() >= 11, "its parameters are cut");
        let number = |i: usize| i32::from(u16::from_be_bytes([segment[i], segment[i + 1]]));
        Ok(Self { maximum: number(1), thresholds: [number(3), number(5), number(7)], reset: number(9) })
    }
}

struct Scan {
    components: usize,
    near: i32,
}

impl Scan {
    fn read(segment: &[u8]) -> Result<Self> {
        let components = usize::from(*segment.first().context("a scan's header is cut")?);
        ensure!(components > 0 && segment.len() >= 1 + 2 * components + 3, "a scan's header is cut");
        let tail = &segment[1 + 2 * components..];
        if tail[1] == 2 && components > 1 {
            bail!("components lie pixel by pixel, which is not read");
        }
        ensure!(components == 1 || tail[1] == 1, "a scan of {components} components is not interleaved");
        Ok(Self { components, near: tail[0].into() })
    }

    /// Decodes into the components from `first` on; gives the bytes used.
    fn decode(&self, data: &[u8], image: &mut Decoded, preset: &Preset, first: usize) -> Result<usize> {
        ensure!(first + self.components <= image.components, "has more components than it says");
        let mut coder = Coder::new(data, image.bits, self.near, preset)?;
        let width = image.width;
        // A zero before and a copy behind each line stand for what lies outside.
        let mut lines = vec![(vec![0i32; width + 2], vec![0i32; width + 2], 0usize); self.components];
        for y in 0..image.height {
            for (c, (line, above, run_index)) in lines.iter_mut().enumerate() {
                std::mem::swap(line, above);
                above[width + 1] = above[width];
                line[0] = above[1];
                coder.line(line, above, run_index)?;
                for (x, value) in line[1..=width].iter().enumerate() {
                    image.values[(y * width + x) * image.components + first + c] = *value as u16;
                }
            }
        }
        Ok(coder.bits.used())
    }
}

/// Statistics of a context.
#[derive(Clone, Copy)]
struct Statistics {
    a: i32,
    b: i32,
    c: i32,
    n: i32,
}

struct Coder<'a> {
    bits: Bits<'a>,
    maximum: i32,
    near: i32,
    range: i32,
    /// Bits of a prediction error.
    width: u32,
    limit: u32,
    thresholds: [i32; 3],
    reset: i32,
    contexts: Vec<Statistics>,
    /// Contexts of the sample that ends a run; b counts negative errors.
    ends: [Statistics; 2],
}

/// Exponents of run lengths (table A.1 of the standard).
const RUNS: [u32; 32] =
    [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl<'a> Coder<'a> {
    fn new(data: &'a [u8], bits: u32, near: i32, preset: &Preset) -> Result<Self> {
        let maximum = if preset.maximum > 0 { preset.maximum } else { (1 << bits) - 1 };
        ensure!(near <= 255.min(maximum / 2), "its tolerance is {near}");
        let range = (maximum + 2 * near) / (2 * near + 1) + 1;
        let ceil_log2 = |n: i32| 32 - ((n - 1).max(0) as u32).leading_zeros();
        let depth = ceil_log2(maximum + 1).max(2);
        let thresholds = thresholds(maximum, near, preset.thresholds);
        let fresh = Statistics { a: ((range + 32) / 64).max(2), b: 0, c: 0, n: 1 };
        Ok(Self {
            bits: Bits::new(data),
            maximum,
            near,
            range,
            width: ceil_log2(range),
            limit: 2 * (depth + depth.max(8)),
            thresholds,
            reset: if preset.reset > 0 { preset.reset } else { 64 },
            contexts: vec![fresh; 365],
            ends: [fresh; 2],
        })
    }

    fn line(&mut self, line: &mut [i32], above: &[i32], run_index: &mut usize) -> Result<()> {
        let width = line.len() - 2;
        let mut x = 1;
        while x <= width {
            let (left, up, corner, next) = (line[x - 1], above[x], above[x - 1], above[x + 1]);
            let context = 81 * self.step(next - up) + 9 * self.step(up - corner) + self.step(corner - left);
            if context != 0 {
                line[x] = self.regular(context, left, up, corner)?;
                x += 1;
                continue;
            }
            let end = self.run(width - x + 1, run_index)?;
            line[x..x + end].fill(left);
            x += end;
            if x <= width {
                line[x] = self.run_end(left, above[x], run_index)?;
                x += 1;
            }
        }
        Ok(())
    }

    /// The quantised gradient, -4 to 4.
    fn step(&self, d: i32) -> i32 {
        let [t1, t2, t3] = self.thresholds;
        let size = d.abs();
        let level = [size > self.near, size >= t1, size >= t2, size >= t3].map(i32::from).iter().sum::<i32>();
        level * d.signum()
    }

    fn regular(&mut self, context: i32, left: i32, up: i32, corner: i32) -> Result<i32> {
        let sign = context.signum();
        let mut s = self.contexts[context.unsigned_abs() as usize];
        let predicted = if corner >= left.max(up) {
            left.min(up)
        } else if corner <= left.min(up) {
            left.max(up)
        } else {
            left + up - corner
        };
        let predicted = (predicted + sign * s.c).clamp(0, self.maximum);
        let k = exponent(s.n, s.a)?;
        let mapped = self.bits.golomb(k, self.limit, self.width)?;
        let odd = mapped % 2 == 1;
        // The sign's bit stands for the other sign where errors lean to one side.
        let error = if k == 0 && self.near == 0 && 2 * s.b <= -s.n {
            if odd { (mapped - 1) / 2 } else { -(mapped / 2) - 1 }
        } else if odd {
            -(mapped + 1) / 2
        } else {
            mapped / 2
        };
        ensure!(error.abs() <= self.range, "has an error that is out of bounds");
        s.b += error * (2 * self.near + 1);
        s.a += error.abs();
        if s.n == self.reset {
            s.a >>= 1;
            s.b >>= 1;
            s.n >>= 1;
        }
        s.n += 1;
        if s.b <= -s.n {
            s.b = (s.b + s.n).max(1 - s.n);
            s.c = (s.c - 1).max(-128);
        } else if s.b > 0 {
            s.b = (s.b - s.n).min(0);
            s.c = (s.c + 1).min(127);
        }
        self.contexts[context.unsigned_abs() as usize] = s;
        Ok(self.reconstruct(predicted, sign * error))
    }

    /// Length of a run of at most `rest` samples.
    fn run(&mut self, rest: usize, index: &mut usize) -> Result<usize> {
        let mut length = 0;
        while self.bits.take(1)? == 1 {
            let whole = 1usize << RUNS[*index];
            length += whole;
            if length <= rest && *index < 31 {
                *index += 1;
            }
            if length >= rest {
                return Ok(rest);
            }
        }
        length += self.bits.take(RUNS[*index])? as usize;
        ensure!(length < rest, "has a run that is longer than its line");
        Ok(length)
    }

    fn run_end(&mut self, left: i32, up: i32, index: &mut usize) -> Result<i32> {
        let alike = (left - up).abs() <= self.near;
        let kind = usize::from(alike);
        let mut s = self.ends[kind];
        let k = exponent(s.n, if alike { s.a + (s.n >> 1) } else { s.a })?;
        let mapped = self.bits.golomb(k, self.limit - RUNS[*index] - 1, self.width)?;
        let code = mapped + kind as i32;
        let odd = code % 2 == 1;
        let size = (code + 1) / 2;
        let negative = (k != 0 || 2 * s.b >= s.n) == odd;
        let error = if negative { -size } else { size };
        ensure!(size <= self.range, "has an error that is out of bounds");
        s.b += i32::from(error < 0);
        s.a += (mapped + 1 - kind as i32) >> 1;
        if s.n == self.reset {
            s.a >>= 1;
            s.b >>= 1;
            s.n >>= 1;
        }
        s.n += 1;
        self.ends[kind] = s;
        *index = index.saturating_sub(1);
        let (predicted, sign) = if alike { (left, 1) } else { (up, if left > up { -1 } else { 1 }) };
        Ok(self.reconstruct(predicted, sign * error))
    }

    fn reconstruct(&self, predicted: i32, error: i32) -> i32 {
        let unit = 2 * self.near + 1;
        let value = predicted + error * unit;
        let value = if value < -self.near {
            value + self.range * unit
        } else if value > self.maximum + self.near {
            value - self.range * unit
        } else {
            value
        };
        value.clamp(0, self.maximum)
    }
}

/// The code's exponent: the least with n · 2^k ≥ a.
fn exponent(n: i32, a: i32) -> Result<u32> {
    (0..24).find(|k| i64::from(n) << k >= i64::from(a)).context("its statistics are out of bounds")
}

/// Default thresholds (C.2.4.1.1 of the standard), unless the file names its own.
fn thresholds(maximum: i32, near: i32, named: [i32; 3]) -> [i32; 3] {
    let bounded = |value: i32, least: i32| if value > maximum || value < least { least } else { value };
    let base = if maximum >= 128 {
        let factor = (maximum.min(4095) + 128) / 256;
        [factor + 2 + 3 * near, factor * 4 + 3 + 5 * near, factor * 17 + 4 + 7 * near]
    } else {
        let factor = 256 / (maximum + 1);
        [(3 / factor + 3 * near).max(2), (7 / factor + 5 * near).max(3), (21 / factor + 7 * near).max(4)]
    };
    let mut least = near + 1;
    let mut result = [0; 3];
    for i in 0..3 {
        result[i] = if named[i] > 0 { named[i] } else { bounded(base[i], least) };
        least = result[i];
    }
    result
}

/// Bits from the highest on; a byte after 0xff holds seven.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, held: 0, count: 0 }
    }

    fn fill(&mut self) {
        while self.count <= 48 {
            let Some(&byte) = self.data.get(self.at) else { return };
            let after_ff = self.at > 0 && self.data[self.at - 1] == 0xff;
            // A marker ends the scan.
            if byte == 0xff && self.data.get(self.at + 1).is_none_or(|&next| next >= 0x80) {
                return;
            }
            let bits = 8 - u32::from(after_ff);
            self.held = self.held << bits | u64::from(byte);
            self.count += bits;
            self.at += 1;
        }
    }

    fn take(&mut self, bits: u32) -> Result<i32> {
        if self.count < bits {
            self.fill();
            ensure!(self.count >= bits, "ends in the middle of its pixels");
        }
        self.count -= bits;
        Ok((self.held >> self.count & ((1 << bits) - 1)) as i32)
    }

    /// A value in a limited Golomb code.
    fn golomb(&mut self, k: u32, limit: u32, width: u32) -> Result<i32> {
        let most = limit.checked_sub(width + 1).context("its code is out of bounds")?;
        let mut zeros = 0;
        while self.take(1)? == 0 {
            zeros += 1;
            ensure!(zeros <= most, "has a code that is too long");
        }
        if zeros < most { Ok((zeros << k) as i32 | self.take(k)?) } else { Ok(self.take(width)? + 1) }
    }

    /// Bytes up to the marker that follows.
    fn used(&self) -> usize {
        let rest = &self.data[self.at.min(self.data.len())..];
        let marker = rest.windows(2).position(|w| w[0] == 0xff && w[1] >= 0x80);
        self.at + marker.unwrap_or(rest.len())
    }
}
