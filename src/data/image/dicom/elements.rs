//! What data elements hold.

use anyhow::{Context, Result, ensure};
use dicom_core::Tag;
use dicom_core::value::Value;
use dicom_object::InMemDicomObject;

/// The elements that are read.
pub(super) mod tags {
    use dicom_core::Tag;

    pub const BURNED_IN_ANNOTATION: Tag = Tag(0x0028, 0x0301);
    pub const SAMPLES: Tag = Tag(0x0028, 0x0002);
    pub const PHOTOMETRIC: Tag = Tag(0x0028, 0x0004);
    pub const PLANAR: Tag = Tag(0x0028, 0x0006);
    pub const FRAMES: Tag = Tag(0x0028, 0x0008);
    pub const ROWS: Tag = Tag(0x0028, 0x0010);
    pub const COLUMNS: Tag = Tag(0x0028, 0x0011);
    pub const BITS_ALLOCATED: Tag = Tag(0x0028, 0x0100);
    pub const BITS_STORED: Tag = Tag(0x0028, 0x0101);
    pub const REPRESENTATION: Tag = Tag(0x0028, 0x0103);
    pub const PADDING: Tag = Tag(0x0028, 0x0120);
    pub const PADDING_LIMIT: Tag = Tag(0x0028, 0x0121);
    pub const WINDOW_CENTER: Tag = Tag(0x0028, 0x1050);
    pub const WINDOW_WIDTH: Tag = Tag(0x0028, 0x1051);
    pub const INTERCEPT: Tag = Tag(0x0028, 0x1052);
    pub const SLOPE: Tag = Tag(0x0028, 0x1053);
    pub const VOI_FUNCTION: Tag = Tag(0x0028, 0x1056);
    pub const PALETTES: [(Tag, Tag); 3] = [
        (Tag(0x0028, 0x1101), Tag(0x0028, 0x1201)),
        (Tag(0x0028, 0x1102), Tag(0x0028, 0x1202)),
        (Tag(0x0028, 0x1103), Tag(0x0028, 0x1203)),
    ];
    pub const MODALITY_LUTS: Tag = Tag(0x0028, 0x3000);
    pub const LUT_DESCRIPTOR: Tag = Tag(0x0028, 0x3002);
    pub const LUT_DATA: Tag = Tag(0x0028, 0x3006);
    pub const VOI_LUTS: Tag = Tag(0x0028, 0x3010);
    pub const SHARED_GROUPS: Tag = Tag(0x5200, 0x9229);
    pub const FRAME_GROUPS: Tag = Tag(0x5200, 0x9230);
    pub const PIXEL_TRANSFORM: Tag = Tag(0x0028, 0x9145);
    pub const FRAME_VOI: Tag = Tag(0x0028, 0x9132);
    pub const PIXELS: Tag = Tag(0x7fe0, 0x0010);
}

pub(super) fn value(object: &InMemDicomObject, tag: Tag) -> Option<&Value<InMemDicomObject>> {
    object.element_opt(tag).ok().flatten().map(|e| e.value())
}

pub(super) fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let text = value(object, tag)?.to_str().ok()?;
    let text = text.trim_matches([' ', '\0']);
    (!text.is_empty()).then(|| text.to_string())
}

/// The first of the element's numbers.
pub(super) fn number(object: &InMemDicomObject, tag: Tag) -> Option<f64> {
    numbers(object, tag).first().copied()
}

pub(super) fn numbers(object: &InMemDicomObject, tag: Tag) -> Vec<f64> {
    let all = value(object, tag).and_then(|v| v.to_multi_float64().ok()).unwrap_or_default();
    all.into_iter().take_while(|n| n.is_finite()).collect()
}

pub(super) fn count(object: &InMemDicomObject, tag: Tag, name: &str) -> Result<usize> {
    let n = number(object, tag).with_context(|| format!("{name} is missing"))?;
    ensure!((0.0..=4_294_967_295.0).contains(&n), "{name} is out of bounds");
    Ok(n as usize)
}

/// An item of a sequence, counted from 0.
pub(super) fn item(object: &InMemDicomObject, tag: Tag, index: usize) -> Option<&InMemDicomObject> {
    value(object, tag)?.items()?.get(index)
}
