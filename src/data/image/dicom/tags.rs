//! The elements that are read (PS3.6).

/// Group and element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(pub u16, pub u16);

pub(super) const SERIES: Tag = Tag(0x0020, 0x000e);
pub(super) const POSITION: Tag = Tag(0x0020, 0x0032);
pub(super) const DIRECTIONS: Tag = Tag(0x0020, 0x0037);
pub(super) const PLANE_POSITION: Tag = Tag(0x0020, 0x9113);
pub(super) const PLANE_ORIENTATION: Tag = Tag(0x0020, 0x9116);
pub(super) const SPACING: Tag = Tag(0x0028, 0x0030);
pub(super) const PIXEL_MEASURES: Tag = Tag(0x0028, 0x9110);
pub(super) const TRANSFER_SYNTAX: Tag = Tag(0x0002, 0x0010);
pub(super) const BURNED_IN_ANNOTATION: Tag = Tag(0x0028, 0x0301);
pub(super) const SAMPLES: Tag = Tag(0x0028, 0x0002);
pub(super) const PHOTOMETRIC: Tag = Tag(0x0028, 0x0004);
pub(super) const PLANAR: Tag = Tag(0x0028, 0x0006);
pub(super) const FRAMES: Tag = Tag(0x0028, 0x0008);
pub(super) const ROWS: Tag = Tag(0x0028, 0x0010);
pub(super) const COLUMNS: Tag = Tag(0x0028, 0x0011);
pub(super) const BITS_ALLOCATED: Tag = Tag(0x0028, 0x0100);
pub(super) const BITS_STORED: Tag = Tag(0x0028, 0x0101);
pub(super) const REPRESENTATION: Tag = Tag(0x0028, 0x0103);
pub(super) const PADDING: Tag = Tag(0x0028, 0x0120);
pub(super) const PADDING_LIMIT: Tag = Tag(0x0028, 0x0121);
pub(super) const WINDOW_CENTER: Tag = Tag(0x0028, 0x1050);
pub(super) const WINDOW_WIDTH: Tag = Tag(0x0028, 0x1051);
pub(super) const INTERCEPT: Tag = Tag(0x0028, 0x1052);
pub(super) const SLOPE: Tag = Tag(0x0028, 0x1053);
pub(super) const VOI_FUNCTION: Tag = Tag(0x0028, 0x1056);
pub(super) const PALETTES: [(Tag, Tag); 3] = [
    (Tag(0x0028, 0x1101), Tag(0x0028, 0x1201)),
    (Tag(0x0028, 0x1102), Tag(0x0028, 0x1202)),
    (Tag(0x0028, 0x1103), Tag(0x0028, 0x1203)),
];
pub(super) const MODALITY_LUTS: Tag = Tag(0x0028, 0x3000);
pub(super) const LUT_DESCRIPTOR: Tag = Tag(0x0028, 0x3002);
pub(super) const LUT_DATA: Tag = Tag(0x0028, 0x3006);
pub(super) const VOI_LUTS: Tag = Tag(0x0028, 0x3010);
pub(super) const SHARED_GROUPS: Tag = Tag(0x5200, 0x9229);
pub(super) const FRAME_GROUPS: Tag = Tag(0x5200, 0x9230);
pub(super) const PIXEL_TRANSFORM: Tag = Tag(0x0028, 0x9145);
pub(super) const FRAME_VOI: Tag = Tag(0x0028, 0x9132);
pub(super) const PIXELS: Tag = Tag(0x7fe0, 0x0010);

/// What kind of value a tag has where the file does not say.
pub(super) fn usual_kind(tag: Tag) -> &'static [u8; 2] {
    match tag {
        FRAMES | SERIES | POSITION | DIRECTIONS | SPACING | WINDOW_CENTER | WINDOW_WIDTH | INTERCEPT | SLOPE
        | PHOTOMETRIC | VOI_FUNCTION | BURNED_IN_ANNOTATION => b"DS",
        _ => b"US",
    }
}

/// Sequences of the elements that are read.
pub(super) fn is_sequence(tag: Tag) -> bool {
    let known = [
        MODALITY_LUTS,
        VOI_LUTS,
        SHARED_GROUPS,
        FRAME_GROUPS,
        PIXEL_TRANSFORM,
        FRAME_VOI,
        PLANE_POSITION,
        PLANE_ORIENTATION,
        PIXEL_MEASURES,
    ];
    known.contains(&tag)
}
