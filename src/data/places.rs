//! Places on images and what is said of them: boxes, polygons and masks, as a table names them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::image;
use super::image::Picture;
use super::prepare::sheet::{self, Asked};
use super::table::similar;
use crate::error::shown;

/// What is said of an image, with where that is: all places of one sentence are one.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// The image, as the manifest names it.
    pub image: String,
    /// What is said.
    pub sentence: String,
    /// Where.
    pub regions: Vec<Region>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// Where.
    pub shape: Shape,
    /// Width and height of the image that it was measured on; its own where that is not told.
    pub measured_on: Option<(f64, f64)>,
    /// The line of the table.
    pub line: u64,
}

/// A place in pixels of the image file.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// x and y of the upper left corner, width, height.
    Box([f64; 4]),
    /// Corners, (x, y).
    Polygon(Vec<(f64, f64)>),
    /// An image of the same size; inside is where a colour has 128 or more and which is not transparent.
    Mask(PathBuf),
}

/// Columns that change what a row says; which of them it needs, each row tells.
const OF_SHAPES: &[&str] = &["x", "y", "width", "height", "polygon", "mask", "image_width", "image_height"];
/// Of these, what boxes and polygons were measured on.
const OF_SIZES: &[&str] = &["image_width", "image_height"];
/// Columns of what is said; the first that a row fills counts.
const OF_SENTENCES: [&str; 3] = ["sentence", "report", "label"];

/// Columns that would be passed over for the case of their names, or a table without any sentence. Where there are
/// masks or polygons, no box is needed, and where there are masks alone, no size.
fn check_header(cells: &[&str]) -> Result<()> {
    let has = |name: &str| cells.contains(&name);
    let needed = match (has("mask"), has("polygon") || has("x")) {
        (true, false) => &[][..],
        (true, true) => OF_SIZES,
        (false, _) if has("polygon") => OF_SIZES,
        (false, _) => OF_SHAPES,
    };
    for name in needed.iter().filter(|name| !has(name)) {
        let other = cells.iter().find(|cell| cell.eq_ignore_ascii_case(name));
        ensure!(other.is_none(), "there is no column {name:?}; did you mean {:?}?", other.unwrap_or(&""));
    }
    if !OF_SENTENCES.iter().any(|name| has(name)) {
        let close = OF_SENTENCES.iter().find_map(|name| similar(name, cells));
        let hint = close.map_or(String::new(), |close| format!("; did you mean {close:?}?"));
        bail!("there is no column {}{hint}", OF_SENTENCES.join(", nor "));
    }
    Ok(())
}

/// Reads a table (CSV, its separator read off the header) with columns image, sentence (or report, or label), and x, y,
/// width, height, or polygon ("x1 y1 x2 y2 …"), or mask (a file beside the table). Where columns image_width and
/// image_height tell on what size boxes and polygons were measured, images may have another one.
///
/// # Errors
/// A column or a number that is missing, a column that stands twice or under a name of other case; a row with more
/// cells than the header; nothing in it.
pub fn read_places(path: &Path) -> Result<Vec<Described>> {
    let mut found = BTreeMap::new();
    let columns = [
        "image",
        "sentence?",
        "report?",
        "label?",
        "x?",
        "y?",
        "width?",
        "height?",
        "polygon?",
        "mask?",
        "image_width?",
        "image_height?",
    ];
    let needed = "image, sentence, and mask, polygon or x, y, width and height";
    sheet::each_line(path, &Asked { columns, needed, header: check_header }, |line, row| {
        take((path, line), &row, &mut found).with_context(|| format!("{}: line {line}", path.display()))
    })?;
    ensure!(!found.is_empty(), "{}: has no rows; needed is one for each place", path.display());
    Ok(found.into_values().collect())
}

/// One row, in the order of columns above.
fn take((path, line): (&Path, u64), row: &[&str; 12], found: &mut BTreeMap<(String, String), Described>) -> Result<()> {
    let cell = |at: usize| Some(row[at]).filter(|cell| !cell.is_empty());
    let (Some(image), Some(sentence)) = (cell(0), (1..4).find_map(cell)) else {
        bail!("names no image, or has no sentence, report or label");
    };
    let shape = match (cell(9), cell(8)) {
        (Some(mask), _) => Shape::Mask(path.with_file_name(mask)),
        (None, Some(polygon)) => corners(polygon)?,
        (None, None) => corner_and_sides([4, 5, 6, 7].map(cell))?,
    };
    let measured_on = match (cell(10), cell(11)) {
        (Some(width), Some(height)) => Some((number(width)?, number(height)?)),
        (None, None) => None,
        _ => bail!("has only one of image_width and image_height; needed are both or none"),
    };
    if let Some((width, height)) = measured_on {
        ensure!(
            width > 0.0 && height > 0.0,
            "measured on an image of {width} × {height} pixels; allowed are sides above 0"
        );
    }
    let key = (image.to_string(), sentence.to_string());
    let new = || Described { image: key.0.clone(), sentence: key.1.clone(), regions: Vec::new() };
    found.entry(key.clone()).or_insert_with(new).regions.push(Region { shape, measured_on, line });
    Ok(())
}

fn number(text: &str) -> Result<f64> {
    /// No image is so wide.
    const MOST: f64 = 1e9;
    let number: Option<f64> = text.parse().ok().filter(|number: &f64| number.abs() <= MOST);
    number.with_context(|| format!("{:?} is no number of pixels; allowed are numbers from -1e9 to 1e9", shown(text)))
}

fn corner_and_sides(cells: [Option<&str>; 4]) -> Result<Shape> {
    let mut numbers = [0.0; 4];
    for ((to, cell), name) in numbers.iter_mut().zip(cells).zip(["x", "y", "width", "height"]) {
        *to = number(cell.with_context(|| format!("has no {name}, polygon or mask"))?)?;
    }
    ensure!(
        numbers[2] > 0.0 && numbers[3] > 0.0,
        "a box of {} × {} pixels; allowed are sides above 0",
        numbers[2],
        numbers[3]
    );
    Ok(Shape::Box(numbers))
}

fn corners(text: &str) -> Result<Shape> {
    let split = text.split([' ', ',', ';']).filter(|part| !part.is_empty());
    let numbers = split.map(number).collect::<Result<Vec<f64>>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    ensure!(
        rest.is_empty() && pairs.len() >= 3,
        "a polygon of {} numbers; needed are 3 corners or more",
        numbers.len()
    );
    Ok(Shape::Polygon(pairs.iter().map(|&[x, y]| (x, y)).collect()))
}

impl Described {
    /// All places of a sentence on an image of `width` × `height` pixels: 255 inside, 0 outside.
    ///
    /// # Errors
    /// A mask that cannot be read or has another size; a box or polygon that lies outside of the image.
    pub fn mask(&self, (width, height): (u32, u32)) -> Result<Picture> {
        let mut bytes = vec![0u8; width as usize * height as usize];
        for region in &self.regions {
            let (across, down) = region.scale((width, height));
            if let Some([left, top, right, bottom]) = region.bounds((width, height)) {
                ensure!(
                    left < f64::from(width) && top < f64::from(height) && right > 0.0 && bottom > 0.0,
                    "line {}: it lies outside of its image of {width} × {height} pixels; allowed are pixels of the \
                     image file, or of the size that columns image_width and image_height name",
                    region.line
                );
            }
            match &region.shape {
                Shape::Mask(path) => {
                    let read = image::read_mask(path).map_err(where_names_start);
                    let mask = read.with_context(|| format!("line {}", region.line))?;
                    ensure!(
                        (mask.width, mask.height) == (width, height),
                        "line {}: {}: is {}×{}, its image {width}×{height}",
                        region.line,
                        path.display(),
                        mask.width,
                        mask.height
                    );
                    // Half of white and more: what JPEG leaves around an edge is not inside.
                    let pixels = bytes.iter_mut().zip(mask.bytes.chunks_exact(mask.channels));
                    let is_inside = |colours: &[u8]| colours.iter().any(|value| *value >= 128);
                    pixels.filter(|(_, colours)| is_inside(colours)).for_each(|(byte, _)| *byte = 255);
                }
                Shape::Box([x, y, w, h]) => {
                    fill(&mut bytes, width, (y * down, (y + h) * down), |_| vec![(x * across, (x + w) * across)]);
                }
                Shape::Polygon(corners) => {
                    let corners: Vec<(f64, f64)> = corners.iter().map(|(x, y)| (x * across, y * down)).collect();
                    let (low, high) = ends(corners.iter().map(|c| c.1));
                    fill(&mut bytes, width, (low, high), |y| crossings(&corners, y));
                }
            }
        }
        Ok(Picture { width, height, channels: 1, bytes })
    }
}

/// Where the names of masks start, of one that is not there.
fn where_names_start(error: anyhow::Error) -> anyhow::Error {
    let is_missing = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::NotFound;
    match error.downcast_ref().is_some_and(is_missing) {
        true => anyhow!("{error:#}; relative names of masks start at the folder of their table"),
        false => error,
    }
}

impl Region {
    /// What its numbers are multiplied by, across and down, on an image of this size.
    fn scale(&self, (width, height): (u32, u32)) -> (f64, f64) {
        self.measured_on.map_or((1.0, 1.0), |(w, h)| (f64::from(width) / w, f64::from(height) / h))
    }

    /// Left, top, right and bottom on an image of this size; a mask has none.
    fn bounds(&self, size: (u32, u32)) -> Option<[f64; 4]> {
        let (across, down) = self.scale(size);
        let ((left, right), (top, bottom)) = match &self.shape {
            Shape::Mask(_) => return None,
            Shape::Box([x, y, w, h]) => ((*x, x + w), (*y, y + h)),
            Shape::Polygon(corners) => (ends(corners.iter().map(|c| c.0)), ends(corners.iter().map(|c| c.1))),
        };
        Some([left * across, top * down, right * across, bottom * down])
    }

    /// Whether it reaches beyond an image of this size, by more than what rounding does.
    pub fn reaches_beyond(&self, (width, height): (u32, u32)) -> bool {
        let beyond = |[left, top, right, bottom]: [f64; 4]| {
            left < -1.0 || top < -1.0 || right > f64::from(width) + 1.0 || bottom > f64::from(height) + 1.0
        };
        self.bounds((width, height)).is_some_and(beyond)
    }
}

/// The least and the largest.
fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

/// Whitens the pixels whose middles lie between two heights and, at theirs, in the spans that `spans` gives.
fn fill(bytes: &mut [u8], width: u32, (low, high): (f64, f64), spans: impl Fn(f64) -> Vec<(f64, f64)>) {
    for (row, pixels) in bytes.chunks_exact_mut(width as usize).enumerate() {
        let y = row as f64 + 0.5;
        if y < low || y >= high {
            continue;
        }
        for (from, to) in spans(y) {
            let first = (from - 0.5).ceil().max(0.0) as usize;
            let end = ((to - 0.5).ceil().max(0.0) as usize).min(pixels.len());
            if first < end {
                pixels[first..end].fill(255);
            }
        }
    }
}

/// Where a line across at height `y` is inside of a polygon, by the even-odd rule.
fn crossings(corners: &[(f64, f64)], y: f64) -> Vec<(f64, f64)> {
    let mut at = Vec::new();
    for (a, b) in corners.iter().zip(corners.iter().cycle().skip(1)) {
        if (a.1 <= y) != (b.1 <= y) {
            at.push(a.0 + (y - a.1) / (b.1 - a.1) * (b.0 - a.0));
        }
    }
    at.sort_by(f64::total_cmp);
    at.as_chunks::<2>().0.iter().map(|&[from, to]| (from, to)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_drawn_where_they_are() {
        let described = |shapes: &[Shape], measured_on| Described {
            image: String::new(),
            sentence: String::new(),
            regions: shapes.iter().map(|shape| Region { shape: shape.clone(), measured_on, line: 7 }).collect(),
        };
        let picture = |shapes: &[Shape]| described(shapes, None).mask((6, 5)).unwrap().bytes;
        let white = |bytes: &[u8]| -> Vec<(usize, usize)> {
            (0..bytes.len()).filter(|&i| bytes[i] == 255).map(|i| (i % 6, i / 6)).collect()
        };
        let of_box = picture(&[Shape::Box([1.0, 2.0, 3.0, 2.0])]);
        assert_eq!(white(&of_box), [(1, 2), (2, 2), (3, 2), (1, 3), (2, 3), (3, 3)]);
        let corners = vec![(1.0, 2.0), (4.0, 2.0), (4.0, 4.0), (1.0, 4.0)];
        assert_eq!(picture(&[Shape::Polygon(corners)]), of_box);
        // What reaches beyond the image is cut off, and two places are one.
        let two = picture(&[Shape::Box([5.0, -2.0, 9.0, 3.0]), Shape::Box([0.0, 4.0, 1.0, 9.0])]);
        assert_eq!(white(&two), [(5, 0), (0, 4)]);
        // Measured on an image twice as wide.
        let wide = described(&[Shape::Box([2.0, 2.0, 6.0, 2.0])], Some((12.0, 5.0)));
        assert_eq!(wide.mask((6, 5)).unwrap().bytes, of_box);
        let beyond = |shape| described(&[shape], None).regions[0].reaches_beyond((6, 5));
        assert!(beyond(Shape::Box([5.0, 0.0, 9.0, 3.0])) && !beyond(Shape::Box([0.0, 0.0, 6.5, 5.5])));
        for outside in [Shape::Box([6.0, 0.0, 2.0, 2.0]), Shape::Polygon(vec![(0.0, -3.0), (2.0, -3.0), (1.0, -1.0)])] {
            let error = described(&[outside], None).mask((6, 5)).unwrap_err().to_string();
            assert!(error.starts_with("line 7: it lies outside of its image of 6 × 5 pixels"), "{error}");
        }
        let triangle = picture(&[Shape::Polygon(vec![(0.0, 0.0), (6.0, 0.0), (0.0, 6.0)])]);
        assert!(white(&triangle).contains(&(0, 0)) && !white(&triangle).contains(&(5, 4)));
    }

    #[test]
    fn masks_are_inside_where_a_colour_is_bright_and_not_transparent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mask.png");
        let mask = |colour: png::ColorType, bytes: &[u8]| {
            let mut encoder = png::Encoder::new(std::fs::File::create(&path).unwrap(), 3, 1);
            encoder.set_color(colour);
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(bytes).unwrap();
            writer.finish().unwrap();
            let regions = vec![Region { shape: Shape::Mask(path.clone()), measured_on: None, line: 2 }];
            let described = Described { image: String::new(), sentence: String::new(), regions };
            described.mask((3, 1)).unwrap().bytes
        };
        assert_eq!(mask(png::ColorType::Grayscale, &[255, 128, 7]), [255, 255, 0]);
        assert_eq!(mask(png::ColorType::Rgb, &[0, 0, 255, 0, 200, 0, 9, 9, 9]), [255, 255, 0]);
        let clear = [0, 255, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0];
        assert_eq!(mask(png::ColorType::Rgba, &clear), [255, 0, 0]);
        let regions = vec![Region { shape: Shape::Mask(dir.path().join("gone.png")), measured_on: None, line: 2 }];
        let gone = Described { image: String::new(), sentence: String::new(), regions };
        let told = format!("{:#}", gone.mask((3, 1)).unwrap_err());
        assert!(told.starts_with("line 2: ") && told.contains("gone.png: No such file"), "{told}");
        assert!(told.ends_with("; relative names of masks start at the folder of their table"), "{told}");
    }

    #[test]
    fn tables_are_read_and_what_is_wrong_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boxes.csv");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_places(&path)
        };
        let two = "image,label,x,y,width,height,polygon\na.png,Effusion,1,2,3,4,\na.png,Effusion,,,,,0 0 5 0 5 5\n";
        let found = read(two).unwrap();
        assert_eq!((found.len(), found[0].regions.len()), (1, 2), "one sentence, two places");
        let error = |text: &str| format!("{:#}", read(text).unwrap_err());
        assert!(error("image,x\na,1\n").ends_with("there is no column sentence, nor report, nor label"));
        assert!(error("label,x\na,1\n").contains("there is no column \"image\""));
        assert!(error("image,label,x\n,b,1\n").contains("line 2: names no image, or has no sentence, report or label"));
        // A comma of the sentence cuts it; what is empty beyond the header says nothing.
        let cut = error("image,x,y,width,height,sentence\na,1,2,3,4,Large, left effusion, with\n");
        assert!(cut.ends_with("line 2: 8 columns where the header has 6; is a quote missing?"), "{cut}");
        assert_eq!(read("image,x,y,width,height,label\na,1,2,3,4,b,, \n").unwrap().len(), 1);
        for separator in [";", "\t", "|"] {
            assert_eq!(read(&two.replace(',', separator)).unwrap(), found, "{separator}");
        }
        for (header, told) in [
            ("Image,label,mask", "there is no column \"image\", only Image, label, mask; did you mean \"Image\"?"),
            ("image,SENTENCE,mask", "there is no column sentence, nor report, nor label; did you mean \"SENTENCE\"?"),
            ("image,label,x,Image_Width", "there is no column \"image_width\"; did you mean \"Image_Width\"?"),
            ("image,label,polygon,Image_Width", "there is no column \"image_width\"; did you mean \"Image_Width\"?"),
            ("image,label,x,y,Width,height", "there is no column \"width\"; did you mean \"Width\"?"),
        ] {
            assert!(error(&format!("{header}\n")).ends_with(told), "{}", error(header));
        }
        assert_eq!(read("image,label,mask,Width,Image_Width\na,b,m.png,1,2\n").unwrap().len(), 1);
        assert_eq!(read("image,label,polygon,X\na,b,0 0 5 0 5 5,1\n").unwrap().len(), 1);
        let told = error("zxqv,1,2,3,4\n");
        assert!(
            told.ends_with("with image, sentence, and mask, polygon or x, y, width and height missing?)"),
            "{told}"
        );
        assert!(!told.contains("zxqv"), "{told}");
        assert!(error("image,label,x,y,width,height\na,b,1,2,3,\n").contains("line 2: has no height"));
        assert!(error("image,label,x,y,width,height\na,b,1,2,3,0\n").contains("a box of 3 × 0 pixels"));
        assert!(error("image,label,polygon\na,b,1 2 3\n").contains("needed are 3 corners"));
        assert!(error("image,label,mask\n").contains("has no rows"));
        for (text, why) in [
            (&b"image,label,x,y,width,height\na,b,1,2,3,4\na,\xc9panchement,1,2,3,4\n"[..], "line 3 is not UTF-8; "),
            (b"\xff\xfei\0m\0a\0g\0e\0", "is UTF-16; save it as UTF-8"),
        ] {
            std::fs::write(&path, text).unwrap();
            let told = format!("{:#}", read_places(&path).unwrap_err());
            assert!(told.starts_with(&format!("{}: {why}", path.display())), "{told}");
        }
        let broken = "image,label,x,y,width,height\n\"a\n\",b,1,2,3,4\n\na,b,1,2,x,4\n";
        assert!(error(broken).contains("line 5: \"x\" is no number of pixels"), "{}", error(broken));
        for (text, line) in [
            (broken.replace('\n', "\r\n"), 5),
            ("image,label,x\r\na,b,c\r\n".into(), 2),
            ("image,label,x\na,b,c".into(), 2),
        ] {
            assert!(error(&text).contains(&format!("line {line}: ")), "{}", error(&text));
        }
        assert!(error("image,label,x,x\n").contains("columns 3 and 4 are both called \"x\"; rename or remove one"));
        let sized = |size: &str| format!("image,label,x,y,width,height,image_width,image_height\na,b,1,2,3,4,{size}\n");
        assert!(error(&sized("0,5")).contains("line 2: measured on an image of 0 × 5 pixels"));
        for long in ["1e308", "-1e308", "inf", "NaN"] {
            let told = error(&sized(&format!("{long},5")));
            assert!(
                told.contains(&format!("line 2: {long:?} is no number of pixels; allowed are numbers from")),
                "{told}"
            );
        }
        assert!(error(&sized("5,")).contains("has only one of image_width and image_height"));
        let sizes = read(&(sized("8,8") + "a,b,1,2,3,4,,\n")).unwrap();
        let measured: Vec<_> = sizes[0].regions.iter().map(|region| region.measured_on).collect();
        assert_eq!(measured, [Some((8.0, 8.0)), None], "each of its own");
    }
}
