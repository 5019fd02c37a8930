//! From pixel values to what a viewer shows: modality values, window, 8 bits (PS3.3 C.11.1, C.11.2, C.7.6.3).

use anyhow::{Result, bail, ensure};

use super::super::picture::Picture;
use super::bits::number;
use super::elements::Object;
use super::lut::Lut;
use super::tags::{self, Tag};
use super::values::Frame;
use crate::error::shown;

/// The modality's values to 0 (black) … 1 (white).
type Shown = Box<dyn Fn(f64) -> f64>;

/// `index` says which frame it is, from 0.
pub(super) fn picture(object: &Object, frame: Frame, index: usize) -> Result<Picture> {
    let (width, height) = (frame.columns as u32, frame.rows as u32);
    if frame.photometric.starts_with("MONOCHROME") {
        return Ok(Picture { width, height, channels: 1, bytes: gray(object, &frame, index)? });
    }
    let frame = as_rgb(object, frame)?;
    let shift = frame.bits_stored.saturating_sub(8);
    let bytes = frame.values.iter().map(|v| (v >> shift).clamp(0, 255) as u8).collect();
    Ok(Picture { width, height, channels: 3, bytes })
}

/// Colours as red, green and blue; gray as it is.
pub(super) fn as_rgb(object: &Object, mut frame: Frame) -> Result<Frame> {
    match frame.photometric.as_str() {
        "MONOCHROME1" | "MONOCHROME2" => {}
        "RGB" => ensure!(frame.samples == 3, "says RGB and has one value a pixel"),
        "YBR_FULL" | "YBR_FULL_422" => {
            ensure!(frame.samples == 3, "says YBR_FULL and has one value a pixel");
            for pixel in frame.values.chunks_exact_mut(3) {
                let (y, cb, cr) = (f64::from(pixel[0]), f64::from(pixel[1]) - 128.0, f64::from(pixel[2]) - 128.0);
                let rgb = [y + 1.402 * cr, y - (0.114 * 1.772 * cb + 0.299 * 1.402 * cr) / 0.587, y + 1.772 * cb];
                pixel.iter_mut().zip(rgb).for_each(|(p, c)| *p = (c + 0.5).floor().clamp(0.0, 255.0) as i32);
            }
            frame.photometric = "RGB".into();
        }
        // The decoder of JPEG 2000 has turned these back.
        "YBR_ICT" | "YBR_RCT" => {
            ensure!(frame.samples == 3, "says {} and has one value a pixel", frame.photometric);
            frame.photometric = "RGB".into();
        }
        "PALETTE COLOR" => {
            ensure!(frame.samples == 1, "says PALETTE COLOR and has {} values a pixel, not 1", frame.samples);
            let mut tables = Vec::new();
            for (descriptor, data) in tags::PALETTES {
                tables.push(Lut::read(object, descriptor, data, frame.signed)?);
            }
            let mut colours = Vec::with_capacity(3 * frame.values.len());
            frame.values.iter().for_each(|&v| colours.extend([0, 1, 2].map(|c: usize| i32::from(tables[c].get(v)))));
            frame.values = colours;
            (frame.samples, frame.bits_stored, frame.photometric) = (3, tables[0].bits, "RGB".into());
        }
        other => bail!(
            "has photometric interpretation {}, which is not read; known are MONOCHROME1 and 2, RGB, YBR and \
             PALETTE COLOR",
            shown(other)
        ),
    }
    Ok(frame)
}

fn gray(object: &Object, frame: &Frame, index: usize) -> Result<Vec<u8>> {
    ensure!(frame.samples == 1, "says {} and has {} values a pixel", frame.photometric, frame.samples);
    let padding = padding(object, frame);
    let is_padding = |v: i32| padding.is_some_and(|(low, high)| (low..=high).contains(&v));
    let modality = modality(object, frame, index)?;
    let shown: Shown = match voi(object, frame, index)? {
        Some(shown) => shown,
        None => {
            let seen: Vec<i32> = frame.values.iter().copied().filter(|v| !is_padding(*v)).collect();
            let (low, high) = percentiles(seen, |v| modality.value(v), [0.5, 99.5]);
            Box::new(move |x| if high > low { (x - low) / (high - low) } else { 0.0 })
        }
    };
    let inverted = frame.photometric == "MONOCHROME1";
    let byte = |v: i32| {
        if is_padding(v) {
            return 0;
        }
        let level = shown(modality.value(v)).clamp(0.0, 1.0);
        let level = if inverted { 1.0 - level } else { level };
        (level * 255.0).round_ties_even() as u8
    };
    Ok(by_value(frame, byte))
}

/// `byte` of each pixel, worked out once a value where there are fewer values than pixels.
fn by_value(frame: &Frame, byte: impl Fn(i32) -> u8) -> Vec<u8> {
    let (low, high) =
        (frame.values.iter().min().copied().unwrap_or(0), frame.values.iter().max().copied().unwrap_or(0));
    let range = i64::from(high) - i64::from(low) + 1;
    if range > frame.values.len() as i64 {
        return frame.values.iter().map(|&v| byte(v)).collect();
    }
    let table: Vec<u8> = (low..=high).map(&byte).collect();
    frame.values.iter().map(|&v| table[(v - low) as usize]).collect()
}

/// Values that stand for no measurement.
fn padding(object: &Object, frame: &Frame) -> Option<(i32, i32)> {
    // As pixels are, without bits that do not count.
    let wrap = |n: f64| number(n as i64 as u32, frame.bits_stored.min(16), frame.signed);
    let value = wrap(object.number(tags::PADDING)?);
    let limit = object.number(tags::PADDING_LIMIT).map_or(value, wrap);
    Some((value.min(limit), value.max(limit)))
}

/// What `find` finds in the nearest place where a frame's rescaling or window may stand: in an enhanced multi-frame
/// image's group of the frame or of all frames (PS3.3 C.7.6.16), else in the object itself.
pub(super) fn nearest<T>(
    object: &Object,
    group: Tag,
    index: usize,
    find: impl Fn(&Object) -> Result<Option<T>>,
) -> Result<Option<T>> {
    let (own, shared) = (object.item(tags::FRAME_GROUPS, index)?, object.item(tags::SHARED_GROUPS, 0)?);
    nearest_of([own.as_ref(), shared.as_ref()], object, group, find)
}

/// [`nearest`], with the groups of the frame and of all frames at hand.
pub(super) fn nearest_of<T>(
    groups: [Option<&Object>; 2],
    object: &Object,
    group: Tag,
    find: impl Fn(&Object) -> Result<Option<T>>,
) -> Result<Option<T>> {
    for groups in groups.into_iter().flatten() {
        let Some(place) = groups.item(group, 0)? else { continue };
        if let Some(found) = find(&place)? {
            return Ok(Some(found));
        }
    }
    find(object)
}

/// Stored values to the modality's, Hounsfield units for instance.
pub(super) enum Modality {
    Table(Lut),
    /// Slope and intercept.
    Line(f64, f64),
}

impl Modality {
    fn value(&self, stored: i32) -> f64 {
        match self {
            Self::Table(lut) => f64::from(lut.get(stored)),
            Self::Line(slope, intercept) => f64::from(stored) * slope + intercept,
        }
    }

    /// Of many at once, instead of what `values` holds.
    pub fn values(&self, stored: &[i32], values: &mut Vec<f32>) {
        values.clear();
        match self {
            Self::Table(_) => values.extend(stored.iter().map(|&v| self.value(v) as f32)),
            // The choice is not made for each again.
            Self::Line(slope, intercept) => {
                values.extend(stored.iter().map(|&v| (f64::from(v) * slope + intercept) as f32));
            }
        }
    }
}

/// Slope and intercept that stand in `place`.
fn line_of(place: &Object) -> Result<Option<(f64, f64)>> {
    Ok(place.number(tags::SLOPE).zip(place.number(tags::INTERCEPT)))
}

pub(super) fn modality(object: &Object, frame: &Frame, index: usize) -> Result<Modality> {
    if let Some(table) = object.item(tags::MODALITY_LUTS, 0)? {
        return Ok(Modality::Table(Lut::read(&table, tags::LUT_DESCRIPTOR, tags::LUT_DATA, frame.signed)?));
    }
    let line = nearest(object, tags::PIXEL_TRANSFORM, index, line_of)?;
    let (slope, intercept) = line.unwrap_or((1.0, 0.0));
    let largest = slope.abs() * f64::from(u32::MAX) + intercept.abs();
    ensure!(
        largest <= f64::from(f32::MAX),
        "has RescaleSlope {slope:e} and RescaleIntercept {intercept:e}, by which values grow infinite; allowed are \
         numbers by which they stay below {:e}",
        f32::MAX
    );
    Ok(Modality::Line(slope, intercept))
}

/// The modality's values to 0 … 1, as the file wants it; `None` where it says nothing.
fn voi(object: &Object, frame: &Frame, index: usize) -> Result<Option<Shown>> {
    let named = nearest(object, tags::FRAME_VOI, index, |place| {
        let (center, width) = (place.number(tags::WINDOW_CENTER), place.number(tags::WINDOW_WIDTH));
        center.zip(width).map(|(c, w)| window(c, w, place.text(tags::VOI_FUNCTION).as_deref())).transpose()
    })?;
    if named.is_some() {
        return Ok(named);
    }
    if let Some(table) = object.item(tags::VOI_LUTS, 0)? {
        let lut = Lut::read(&table, tags::LUT_DESCRIPTOR, tags::LUT_DATA, frame.signed)?;
        let most = f64::from((1u32 << lut.bits) - 1);
        return Ok(Some(Box::new(move |x| f64::from(lut.get(x as i32)) / most)));
    }
    Ok(None)
}

fn window(center: f64, width: f64, function: Option<&str>) -> Result<Shown> {
    Ok(match function {
        Some("SIGMOID") => {
            ensure!(width > 0.0, "its window is {width} wide");
            Box::new(move |x| 1.0 / (1.0 + (-4.0 * (x - center) / width).exp()))
        }
        Some("LINEAR_EXACT") => {
            ensure!(width > 0.0, "its window is {width} wide");
            Box::new(move |x| (x - center) / width + 0.5)
        }
        None | Some("LINEAR") => {
            ensure!(width >= 1.0, "its window is {width} wide");
            // A width of 1 is a step.
            let (center, width) = (center - 0.5, width - 1.0);
            let (low, high) = (center - width / 2.0, center + width / 2.0);
            Box::new(move |x| {
                if x <= low {
                    0.0
                } else if x > high {
                    1.0
                } else {
                    (x - center) / width + 0.5
                }
            })
        }
        Some(_) => bail!("its window has a function that is not known; allowed are LINEAR, LINEAR_EXACT and SIGMOID"),
    })
}

/// As `numpy.percentile` of the modality's values with linear interpolation; 0, 0 of nothing. The stored values are put
/// in order instead, which are half as long.
fn percentiles(mut stored: Vec<i32>, modality: impl Fn(i32) -> f64, percents: [f64; 2]) -> (f64, f64) {
    if stored.is_empty() {
        return (0.0, 0.0);
    }
    let last = stored.len() - 1;
    let mut ranked = |rank: usize| {
        let (_, value, _) = stored.select_nth_unstable_by(rank, |a, b| modality(*a).total_cmp(&modality(*b)));
        modality(*value)
    };
    let [low, high] = percents.map(|percent| {
        let place = percent / 100.0 * last as f64;
        let below = place.floor() as usize;
        let (value, next) = (ranked(below), ranked((below + 1).min(last)));
        value + place.fract() * (next - value)
    });
    (low, high)
}
