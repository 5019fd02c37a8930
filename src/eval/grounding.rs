//! Whether a model finds the places of what is said of an image.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::explain::explain_by;
use super::figure::Figure;
use super::pairs::cases;
use super::patch_maps::{MapKind, PatchMaps};
use super::relevance_map::at_pixels;
use super::retrieval::RetrievalOptions;
use crate::data::{Described, ImageSource, Picture, Row};
use crate::metrics::bootstrap;
use crate::metrics::grounding::{Grounding, THRESHOLDS};
use crate::model::ClipModel;
use crate::seed::{Purpose, stream};
use crate::session::{Session, tell_cut};
use crate::words::counted;

/// How well a model's maps find places.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroundingReport {
    /// What the maps show.
    pub map: MapKind,
    /// Why that.
    pub reason: String,
    /// Contrast, pointing game, overlap; of each place alike, with intervals by patient. Chance is what a map's values
    /// give when they are dealt out uniformly over the pixels, which no smooth map is.
    pub figures: Vec<Figure>,
    /// The same figures of each sentence's map over another patient's image (where none is named, another study's, or
    /// one with another report), held against this image's place: what a map reaches that does not look at the image.
    /// `None` where all are of one.
    pub of_others: Option<Vec<Figure>>,
    /// Sentences with a place that were judged, each with its image.
    pub places: usize,
    /// Their images.
    pub images: usize,
    /// Sentences that were left out, as their images are not among the rows.
    pub elsewhere: usize,
    /// Sentences that were left out, as their places are too small for the model's image size, or cover all of it.
    pub unseen: usize,
    /// Of those that were left out, how many and why, in words.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// Of those that were judged, by what lies within, how many reach beyond the image.
    pub cut: usize,
}

/// An image with places.
struct Judged<'a> {
    image: ImageSource,
    patient: usize,
    row: &'a Row,
    described: Vec<&'a Described>,
}

/// Makes sure that every place on images among `rows` lies on its image, before any model is asked. Images that cannot
/// be read are passed over: whoever encodes them tells.
///
/// # Errors
/// The first place that does not, and how many more there are.
pub(super) fn check_places(rows: &[Row], places: &[Described]) -> Result<()> {
    let wrong = |image: &Judged| {
        let size = image.image.read().map(|picture| (picture.width, picture.height));
        let of = |described: &&Described| {
            let mask = described.mask(*size.as_ref().ok()?);
            mask.err().map(|error| error.context(format!("a place of {}", image.image)))
        };
        image.described.iter().filter_map(of).collect::<Vec<_>>()
    };
    let wrong: Vec<_> = by_image(rows, places).par_iter().flat_map_iter(wrong).collect();
    let more = wrong.len().saturating_sub(1);
    match wrong.into_iter().next() {
        None => Ok(()),
        Some(first) if more == 0 => Err(first),
        Some(first) => Err(anyhow!("{first:#}; and {more} more sentences have places that cannot be used")),
    }
}

/// Figures of `session`'s maps on the places of images among `rows`; `kind`: what is asked for.
///
/// # Errors
/// No place on these images; an image that cannot be read; a tower that has no such map.
pub(super) fn grounding(
    session: &Session,
    rows: &[Row],
    places: &[Described],
    kind: Option<MapKind>,
    options: &RetrievalOptions,
) -> Result<GroundingReport> {
    let (map, reason) = kind.map_or_else(|| MapKind::of(session), |kind| (kind, "as asked"));
    let judged = by_image(rows, places);
    let known: usize = judged.iter().map(|image| image.described.len()).sum();
    ensure!(
        known > 0,
        "none of {} places is on an image of these rows; its column image must name images as the manifest does",
        places.len()
    );
    let elsewhere = told_elsewhere(&judged, places);
    let encoder = session.encoder(64)?;
    let (mut found, mut of_others, mut patients, mut images, mut cut) = (Vec::new(), Vec::new(), Vec::new(), 0, 0);
    let others = others(&cases(judged.iter().map(|image| image.row)));
    // Each distinct sentence is encoded once.
    let sentences: BTreeSet<&str> =
        judged.iter().flat_map(|image| image.described.iter().map(|place| place.sentence.as_str())).collect();
    let sentences: Vec<&str> = sentences.into_iter().collect();
    tell_cut(encoder.tokenizer, "sentences with a place", &sentences)?;
    let texts = if map == MapKind::Patches { Some(encoder.texts(&sentences)?) } else { None };
    // Each image is seen once, and kept until it has stood in for the last.
    let mut last_use: Vec<usize> = (0..judged.len()).collect();
    others.iter().enumerate().for_each(|(at, other)| {
        other.iter().for_each(|&other| last_use[other] = last_use[other].max(at));
    });
    let mut kept: HashMap<usize, Seen> = HashMap::new();
    // Of the first that cannot be seen, why.
    let mut unseen: Option<String> = None;
    for (number, (image, other)) in judged.iter().zip(&others).enumerate() {
        for at in std::iter::once(number).chain(*other) {
            if let Entry::Vacant(place) = kept.entry(at) {
                place.insert(Seen::of((session, &encoder.model), &judged[at].image, map)?);
            }
        }
        let (seen, other) = (&kept[&number], other.map(|other| &kept[&other]));
        let before = found.len();
        for described in &image.described {
            let mask = described.mask(seen.size).with_context(|| format!("a place of {}", image.image))?;
            let inside = session.folder.preprocess.place(&mask)?;
            let sentence = &described.sentence;
            let of_texts = sentences.partition_point(|other| other < &sentence.as_str());
            let text = texts.as_ref().map(|texts| texts.narrow(0, of_texts, 1)).transpose()?;
            let map = |seen: &Seen| seen.map(session, sentence, text.as_ref());
            let Some(grounding) = Grounding::of(&map(seen)?, &inside) else {
                let why = if inside.first() == Some(&true) { "covers all of its image" } else { "covers no pixel" };
                unseen.get_or_insert_with(|| format!("the place that begins on line {} {why}", line_of(described)));
                continue;
            };
            found.push(grounding);
            cut += usize::from(described.regions.iter().any(|region| region.reaches_beyond(seen.size)));
            patients.push(image.patient);
            if let Some(other) = other {
                of_others.extend(Grounding::of(&map(other)?, &inside));
            }
        }
        images += usize::from(found.len() > before);
        kept.retain(|&at, _| last_use[at] > number);
    }
    let side = session.folder.config.vision.image_size();
    ensure!(
        !found.is_empty(),
        "no place can be seen at {side} pixels a side: {}",
        unseen.as_deref().unwrap_or("there is none")
    );
    let too_small = known - found.len();
    let unseen = unseen.map(|first| {
        let sentences = counted(too_small, "sentence", "sentences");
        format!("{sentences} with no place that can be seen at {side} pixels a side; of the first, {first}")
    });
    let left_out: Vec<String> = elsewhere.into_iter().chain(unseen).collect();
    left_out.iter().for_each(|line| tracing::warn!("places left out: {line}"));
    // Either all have one or, of a single patient, none.
    let of_others = (of_others.len() == found.len()).then(|| figures(&of_others, &patients, options));
    Ok(GroundingReport {
        map,
        reason: reason.into(),
        figures: figures(&found, &patients, options),
        of_others,
        places: found.len(),
        images,
        elsewhere: places.len() - known,
        unseen: too_small,
        left_out,
        cut,
    })
}

/// How many sentences stand for images that no row names, in words; `None` where there are none.
fn told_elsewhere(judged: &[Judged], places: &[Described]) -> Option<String> {
    let known: BTreeSet<&str> = judged.iter().flat_map(|image| &image.described).map(|p| p.image.as_str()).collect();
    let others = || places.iter().filter(|place| !known.contains(place.image.as_str()));
    let first = others().map(line_of).min()?;
    Some(format!(
        "{} on images that are not among these rows: of another split, or named otherwise than the manifest names \
         them; the first begins on line {first}",
        counted(others().count(), "sentence", "sentences")
    ))
}

/// The first line of the table that names a place of it.
fn line_of(described: &Described) -> u64 {
    described.regions.first().map_or(0, |region| region.line)
}

/// For each image the next of another case (patient), around the end; `None` where all are of one.
fn others(patients: &[usize]) -> Vec<Option<usize>> {
    let mut others = vec![None; patients.len()];
    for at in (0..2 * patients.len()).rev() {
        let (this, next) = (at % patients.len(), (at + 1) % patients.len());
        others[this] = if patients[next] == patients[this] { others[next] } else { Some(next) };
    }
    others
}

/// An image as maps are made of it.
struct Seen {
    /// Of the image file, width and height.
    size: (u32, u32),
    of: SeenAs,
}

enum SeenAs {
    Patches(PatchMaps),
    /// Each sentence's relevance is another pass through the towers.
    Whole(Picture),
}

impl Seen {
    fn of(session: (&Session, &ClipModel), image: &ImageSource, map: MapKind) -> Result<Self> {
        let picture = image.read()?;
        let size = (picture.width, picture.height);
        let of = match map {
            MapKind::Patches => SeenAs::Patches(PatchMaps::of(session, &picture)?),
            MapKind::Relevance => SeenAs::Whole(picture),
        };
        Ok(Self { size, of })
    }

    /// Of a sentence, over the pixels that the model sees. `text`: its embedding, where maps are of patches.
    fn map(&self, session: &Session, sentence: &str, text: Option<&Tensor>) -> Result<Vec<f32>> {
        let (values, grid) = match &self.of {
            SeenAs::Patches(maps) => (maps.cosines(text.context("the sentence's embedding")?)?, maps.grid),
            SeenAs::Whole(picture) => {
                let explained = explain_by(session, picture, sentence, (MapKind::Relevance, ""))?;
                (explained.patches, explained.grid)
            }
        };
        ensure!(!values.is_empty(), "this image tower has no attention over patches; ask for the map of patches");
        Ok(at_pixels(&values, grid, session.folder.config.vision.image_size()).collect())
    }
}

/// Images of rows that have places, in their order, each of a row with several by itself. A patient's number is that of
/// its first row, or where no patient is named, the row's own.
fn by_image<'a>(rows: &'a [Row], places: &'a [Described]) -> Vec<Judged<'a>> {
    let mut of_image: BTreeMap<&str, Vec<&Described>> = BTreeMap::new();
    places.iter().for_each(|place| of_image.entry(&place.image).or_default().push(place));
    let mut patients: HashMap<&str, usize> = HashMap::new();
    let mut judged = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let source = row.image();
        for (name, image) in row.image_names().zip(source.images()) {
            // An image with several reports is judged once.
            let Some(described) = of_image.remove(name) else { continue };
            let patient = row.patient_id().map_or(number, |patient| *patients.entry(patient).or_insert(number));
            judged.push(Judged { image: image.clone(), patient, row, described });
        }
    }
    judged
}

fn figures(found: &[Grounding], patients: &[usize], options: &RetrievalOptions) -> Vec<Figure> {
    let mean =
        |items: &[Grounding], of: &dyn Fn(&Grounding) -> f64| items.iter().map(of).sum::<f64>() / items.len() as f64;
    let values = |items: &[Grounding]| -> Vec<f64> {
        let first = [mean(items, &|g| g.contrast), mean(items, &|g| g.pointing), mean(items, &|g| g.mean_overlap())];
        first.into_iter().chain((0..THRESHOLDS.len()).map(|t| mean(items, &|g| g.overlap[t]))).collect()
    };
    let chances = [0.0, mean(found, &|g| g.pointing_by_chance), mean(found, &|g| g.mean_overlap_by_chance())];
    let chances = chances.into_iter().chain((0..THRESHOLDS.len()).map(|t| mean(found, &|g| g.overlap_by_chance[t])));
    let names = ["cnr", "pointing", "miou"].map(str::to_string).into_iter();
    let names: Vec<String> = names.chain(THRESHOLDS.map(|t| format!("iou@{t}"))).collect();
    let rng = |i| stream(options.seed, Purpose::Bootstrap, i);
    let bounds = bootstrap::interval(found, patients, options.bootstrap, rng, values);
    Figure::list(names.iter().map(String::as_str).zip(chances.map(Some)), values(found), bounds)
}

#[cfg(test)]
mod tests {
    use super::others;

    #[test]
    fn the_next_of_another_patient_goes_around_the_end() {
        assert_eq!(others(&[0, 0, 1, 2, 0]), [2, 2, 3, 4, 2].map(Some));
        assert_eq!(others(&[1, 1]), [None, None]);
        assert!(others(&[]).is_empty());
    }
}
