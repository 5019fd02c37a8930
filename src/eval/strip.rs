//! The images of a bag that count most, side by side in one picture.

use anyhow::{Context, Result, ensure};

use super::explain::{patch_relevance, to_one};
use super::explain_bag::BagExplanation;
use super::patch_maps::{MapKind, PatchMaps};
use super::relevance_map::drawn;
use crate::data::{Picture, image};
use crate::session::Session;

/// Most images of a strip.
pub const MOST_DRAWN: usize = 32;

/// Pixels a side of each, at least.
const SIDE: u32 = 224;
/// Pixels between two.
const GAP: usize = 4;
/// Pixels of a dot of a digit, and of the line of numbers below.
const DOT: usize = 4;
const CAPTION: usize = 7 * DOT;

/// Digits and a percent sign, three dots wide and five high: a row is an octal digit, the highest on top.
const GLYPHS: [(char, u16); 11] = [
    ('0', 0o75557),
    ('1', 0o26227),
    ('2', 0o71747),
    ('3', 0o71717),
    ('4', 0o55711),
    ('5', 0o74717),
    ('6', 0o74757),
    ('7', 0o71222),
    ('8', 0o75757),
    ('9', 0o75717),
    ('%', 0o51245),
];

/// `pictures`, of images of `bag` by their numbers, those with the largest parts of its cosine first: as the model sees
/// them in gray, with the map of [`MapKind::of`] in red, on one scale for all: how alike each patch is to the text, or
/// gradient × attention of the bag's cosine. Below each its number in the bag, from 1, and its share (attention's, else
/// the gradient's). Images go through the tower one at a time. PNG.
///
/// # Errors
/// No picture, more than [`MOST_DRAWN`], or one of no image that was read; whatever the model reports.
pub fn strip(session: &Session, bag: &BagExplanation, pictures: &[(usize, Picture)]) -> Result<Vec<u8>> {
    ensure!(pictures.len() <= MOST_DRAWN, "{} images to draw; allowed are {MOST_DRAWN}", pictures.len());
    let is_shown = |at: &usize| pictures.iter().any(|(number, _)| *number == bag.images[*at].number);
    let shown: Vec<usize> = bag.ranked().into_iter().filter(is_shown).collect();
    ensure!(shown.len() == pictures.len(), "a picture of no image that was read");
    let (mut seen, mut relevance, mut grid) = (Vec::new(), Vec::new(), 0);
    let model = match MapKind::of(session).0 {
        MapKind::Patches => Some(session.model()?),
        MapKind::Relevance => None,
    };
    for &at in &shown {
        let picture = pictures.iter().find(|(number, _)| *number == bag.images[at].number);
        let (_, picture) = picture.context("an image that was read is gone")?;
        let (patches, side) = match &model {
            Some(model) => {
                let maps = PatchMaps::of((session, model), picture)?;
                (maps.cosines(&bag.text)?, maps.grid)
            }
            None => patch_relevance(session, picture, &bag.gradients[at])?,
        };
        relevance.extend(patches);
        grid = side;
        seen.push(session.folder.preprocess.resize_and_crop(picture, None)?);
    }
    let side = seen.iter().map(|picture| picture.width).max().unwrap_or(0).max(SIDE);
    let heat = to_one(&relevance);
    let cells = seen.iter().enumerate().map(|(i, seen)| {
        let patches = heat.get(i * grid * grid..(i + 1) * grid * grid).unwrap_or_default();
        drawn(seen, (patches, grid), side)
    });
    let cells = cells.collect::<Result<Vec<_>>>()?;
    let captions = shown.iter().map(|&at| {
        let image = &bag.images[at];
        let share = image.share.map_or(image.gradient_share, f64::from);
        [format!("{}", image.number + 1), format!("{:.0}%", 100.0 * share)]
    });
    image::png(&side_by_side(&cells, &captions.collect::<Vec<_>>(), side as usize)?)
}

/// Squares of `side` pixels of three colours, with two words below each.
fn side_by_side(cells: &[Vec<u8>], captions: &[[String; 2]], side: usize) -> Result<Picture> {
    ensure!(!cells.is_empty(), "there are no images to draw");
    let (width, height) = (cells.len() * (side + GAP) - GAP, side + CAPTION);
    let mut bytes = vec![0; width * height * 3];
    for (i, (cell, [left, right])) in cells.iter().zip(captions).enumerate() {
        let start = i * (side + GAP);
        for (y, row) in cell.chunks_exact(3 * side).enumerate() {
            bytes[(y * width + start) * 3..][..3 * side].copy_from_slice(row);
        }
        let wide = |word: &str| word.len() * 4 * DOT - DOT;
        for (word, x) in [(left, start + DOT), (right, (start + side).saturating_sub(wide(right) + DOT))] {
            write_word(&mut bytes, width, word, (x, side + DOT));
        }
    }
    Ok(Picture { width: width as u32, height: height as u32, channels: 3, bytes })
}

/// Writes a word of [`GLYPHS`] in white, its upper left corner at (x, y).
fn write_word(bytes: &mut [u8], width: usize, word: &str, (x, y): (usize, usize)) {
    for (place, glyph) in word.chars().filter_map(|c| GLYPHS.iter().find(|(known, _)| *known == c)).enumerate() {
        let dots = (0..15).filter(|dot| glyph.1 >> (14 - dot) & 1 == 1);
        for (row, column) in dots.map(|dot| (dot / 3, dot % 3)) {
            for line in 0..DOT {
                let at = (y + row * DOT + line) * width + x + (4 * place + column) * DOT;
                bytes[3 * at..3 * (at + DOT)].fill(255);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_side_by_side_with_their_numbers_below() {
        let cells = [vec![10; 3 * 64 * 64], vec![20; 3 * 64 * 64]];
        let captions = [["17".to_string(), "4%".to_string()], ["2".to_string(), "10%".to_string()]];
        let strip = side_by_side(&cells, &captions, 64).unwrap();
        assert_eq!((strip.width, strip.height), (2 * 64 + 4, 64 + 28));
        let at = |x: usize, y: usize| strip.bytes[(y * 132 + x) * 3];
        assert_eq!((at(0, 0), at(63, 63), at(64, 0), at(67, 63), at(68, 0), at(131, 63)), (10, 10, 0, 0, 20, 20));
        // The dots of a word, row by row.
        let word = |x: usize, columns: usize| -> Vec<String> {
            let dot = |column: usize, row: usize| if at(x + 4 * column, 68 + 4 * row) == 255 { '#' } else { '.' };
            (0..5).map(|row| (0..columns).map(|column| dot(column, row)).collect()).collect()
        };
        assert_eq!(word(4, 7), [".#..###", "##....#", ".#...#.", ".#...#.", "###..#."]);
        assert_eq!(word(64 - 4 - 28, 7), ["#.#.#.#", "#.#...#", "###..#.", "..#.#..", "..#.#.#"]);
        assert_eq!(word(72, 3), ["###", "..#", "###", "#..", "###"]);
    }
}
