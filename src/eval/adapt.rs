//! Few-shot adaptation: heads on embeddings of a few labelled images, judged on other patients.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::adapted::{AdaptReport, AdaptRequest, Draw, Setting, named};
use super::classify::LabelledRows;
use super::directions::class_directions;
use super::encoded::numbers;
use super::head::Head;
use super::pairs::DistinctImages;
use crate::data::leaks::{Side, refuse_shared};
use crate::data::split::{Unit, assign};
use crate::data::{Blank, Columns, ImageSource, LabelPolicy, Labels, Prompts, ReportPolicy, Row, Uncertain};
use crate::error::{Problem, Problems};
use crate::metrics::counted::Counted;
use crate::metrics::few_shot::{LinearHead, Method, Shots};
use crate::metrics::seeds::{Spread, spreads};
use crate::seed::{Purpose, stream};
use crate::session::{Embeddings, Encoder, RowSource, Session};

/// Of classes it says nothing.
const POLICY: LabelPolicy = LabelPolicy { uncertain: Uncertain::Ignore, blank: Blank::Negative };

/// How far from 1 the length of an embedding that was kept may be: far more than f32 rounds.
const LENGTH_TOLERANCE: f64 = 1e-2;

/// Takes what is done, how many of how many.
pub type Told<'a> = &'a (dyn Fn(&'static str, usize, usize) + Sync);

/// Images with a class, and whose they are.
struct Labelled {
    images: Vec<ImageSource>,
    targets: Vec<usize>,
    /// Numbers of patients without gaps.
    groups: Vec<usize>,
}

impl Labelled {
    fn of(LabelledRows { rows, labels }: &LabelledRows) -> Self {
        let images = DistinctImages::of(rows);
        let mut found = Self { images: Vec::new(), targets: Vec::new(), groups: Vec::new() };
        let mut numbers: HashMap<usize, usize> = HashMap::new();
        for (image, &row) in images.first_rows.iter().enumerate() {
            if let Labels::Classes(classes) = labels
                && let Some(target) = classes[row]
            {
                let next = numbers.len();
                found.images.push(images.sources[image].clone());
                found.targets.push(target);
                found.groups.push(*numbers.entry(images.groups[image]).or_insert(next));
            }
        }
        found
    }
}

/// Embeddings that were made before, by image.
pub struct KeptImages {
    rows: HashMap<ImageSource, u32>,
    embeds: Embeddings,
}

impl KeptImages {
    /// Of the images of `rows`, one row of `embeds` each.
    ///
    /// # Errors
    /// The first row that is not finite, or not of unit length.
    pub fn new(rows: &[Row], embeds: Embeddings) -> Result<Self> {
        for (number, row) in numbers(&embeds)?.iter().enumerate() {
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            let seen = if length.is_finite() { format!("has length {length:?}") } else { "is not finite".into() };
            ensure!(
                (length - 1.0).abs() <= LENGTH_TOLERANCE,
                "row {number} (from 0) of its image_embeds {seen}; allowed is length 1; make a new index with \
                 `reportclip embed`"
            );
        }
        Ok(Self { rows: (0u32..).zip(rows).map(|(number, row)| (row.image(), number)).collect(), embeds })
    }

    fn of(&self, images: &[ImageSource]) -> Result<Embeddings> {
        let number = |image| self.rows.get(image).copied().context("an image of the manifest is not in the index");
        let numbers = images.iter().map(number).collect::<Result<Vec<u32>>>()?;
        Ok(self.embeds.index_select(&Tensor::new(numbers, &Device::Cpu)?, 0)?)
    }
}

/// What a model is adapted to, and judged on.
pub struct Adaptation {
    prompts: Prompts,
    shots: Labelled,
    judged: Labelled,
    shots_from: String,
    judged_on: String,
    request: AdaptRequest,
}

impl Adaptation {
    /// Of the rows that `source` names. Shots come from another split than the one that is judged; without one that is
    /// judged, from one half of the patients, the other being judged.
    ///
    /// # Errors
    /// A manifest that cannot be read, a row that cannot be used, prompts of findings, fewer than two classes with
    /// images to draw, nothing to judge, somebody who stands on both sides.
    pub fn on(source: &RowSource, policy: &ReportPolicy, prompts: Prompts, request: AdaptRequest) -> Result<Self> {
        ensure!(
            !prompts.multi_label,
            "the prompt file has findings of which an image may have several; adapt takes classes of which it has one"
        );
        let source = RowSource { columns: Columns { extra: Vec::new(), ..source.columns.clone() }, ..source.clone() };
        let manifest = source.all(policy)?;
        let (shots, judged, shots_from, judged_on) = match &source.split {
            Some(split) => {
                let name = request.shots_split.as_deref().unwrap_or("train");
                if name == split {
                    let line = format!("--shots-split {name}: is the split that is judged; name another");
                    return Err(Problems(vec![Problem(line)]).into());
                }
                let rows = source.of_split(&manifest, name).with_context(|| format!("--shots-split {name}"))?;
                let judged = source.of_split(&manifest, split)?;
                let (from, on) = (format!("split {name}"), format!("split {split}"));
                let (first, second) = (Side { rows: &rows, name: &from }, Side { rows: &judged, name: &on });
                refuse_shared(&source.name(), first, second)?;
                (rows, judged, from, on)
            }
            None => {
                ensure!(request.shots_split.is_none(), "--shots-split: needs --split, which must be another");
                let unit = if manifest.rows.iter().any(|row| row.patient_id().is_some()) {
                    Unit::Patient
                } else {
                    Unit::Study
                };
                let halves = [("shots".to_string(), 0.5), ("judged".to_string(), 0.5)];
                let half = assign(&manifest.rows, unit, &halves, true, request.seed);
                let of = |side: usize| -> Vec<Row> {
                    manifest.rows.iter().zip(&half).filter(|(_, half)| **half == side).map(|(r, _)| r.clone()).collect()
                };
                let [from, on] = ["one half of the patients", "the other half"].map(str::to_string);
                let (first, second) = (of(0), of(1));
                ensure!(
                    !first.is_empty() && !second.is_empty(),
                    "{}: all rows are of one patient, or share their images, so there are no halves to draw from and \
                     to judge; name rows of more patients, or a --split that another gives the shots for",
                    source.name()
                );
                (first, second, from, on)
            }
        };
        let labelled = |rows: Vec<Row>, what: &str| {
            let rows = LabelledRows::new(rows, &prompts, POLICY).with_context(|| what.to_string())?;
            anyhow::Ok(Labelled::of(&rows))
        };
        let (shots, judged) = (labelled(shots, &shots_from)?, labelled(judged, &judged_on)?);
        let mut classes = shots.targets.clone();
        classes.sort_unstable();
        classes.dedup();
        ensure!(classes.len() > 1, "{shots_from}: has images of {} class only; 2 are needed", classes.len());
        Ok(Self { prompts, shots, judged, shots_from, judged_on, request })
    }

    /// Heads of every method, number of shots, way of drawing and seed, and what they come to; and the one to keep: by
    /// `keep`, of the most shots, drawn in the first way by the first seed. Images are encoded once, those that are
    /// `kept` not at all; `told` hears of images and heads.
    ///
    /// # Errors
    /// An image that cannot be read or is not among those that are kept.
    pub fn judge(
        &self,
        model: &Session,
        kept: Option<&KeptImages>,
        keep: Method,
        told: Told,
    ) -> Result<(AdaptReport, Head)> {
        let encoder = model.encoder(self.request.batch_size)?;
        let texts = numbers(&class_directions(&encoder, &self.prompts)?)?;
        let scale = f64::from(encoder.model.scale()?.to_scalar::<f32>()?);
        if let Some(kept) = kept {
            let (width, expected) = (kept.embeds.dim(1)?, encoder.model.embed_dim());
            ensure!(width == expected, "the index has embeddings of width {width}, the model of width {expected}");
        }
        let all = self.shots.images.len() + self.judged.images.len();
        let embedded = |of: &Labelled, before: usize| match kept {
            Some(kept) => numbers(&kept.of(&of.images)?),
            None => encoded(&encoder, &of.images, &|done| told("images", before + done, all)),
        };
        let (shots, judged) = (embedded(&self.shots, 0)?, embedded(&self.judged, self.shots.images.len())?);
        let features = Features { shots, judged, texts, scale };
        let report = self.report(&features, told);
        let most = self.request.shots.iter().copied().max().unwrap_or(1);
        let first = self.request.draws.first().copied().unwrap_or(Draw::Balanced);
        let drawn = self.drawn(first, most, 0);
        let mut images = vec![0; self.prompts.classes.len()];
        drawn.iter().for_each(|&i| images[self.shots.targets[i]] += 1);
        let head = Head::new(self.prompts.names(), keep, images, self.fit(keep, &drawn, &features));
        Ok((report, head))
    }

    fn report(&self, features: &Features, told: Told) -> AdaptReport {
        let classes = self.prompts.classes.len();
        let mut settings = Vec::new();
        let all = self.request.draws.len() * self.request.shots.len() * Method::ALL.len();
        for &draw in &self.request.draws {
            for &shots in &self.request.shots {
                let drawn: Vec<Vec<usize>> =
                    (0..self.request.seeds).map(|seed| self.drawn(draw, shots, seed as u64)).collect();
                let mean = |count: &dyn Fn(&[usize]) -> usize| {
                    drawn.iter().map(|d| count(d)).sum::<usize>() as f64 / drawn.len() as f64
                };
                let without = |drawn: &[usize]| {
                    (0..classes).filter(|&k| drawn.iter().all(|&i| self.shots.targets[i] != k)).count()
                };
                let (images, classes_without) = (mean(&|d| d.len()), mean(&without));
                for method in Method::ALL {
                    told("settings", settings.len(), all);
                    let judge = |drawn: &Vec<usize>| self.counted(&self.fit(method, drawn, features), features);
                    let runs: Vec<Counted> = drawn.par_iter().map(judge).collect();
                    let figures = named(self.spreads(&runs));
                    settings.push(Setting { method, draw, shots, images, classes_without, figures });
                }
            }
        }
        let zero_shot = self.counted(&LinearHead::zero_shot(&features.texts, features.scale), features);
        let mut counts = vec![0usize; classes];
        self.judged.targets.iter().for_each(|&target| counts[target] += 1);
        let frequent = counts.iter().max().copied().unwrap_or(0) as f64 / self.judged.targets.len() as f64;
        let k = classes as f64;
        AdaptReport {
            classes: self.prompts.names(),
            judged: self.judged.images.len(),
            judged_on: self.judged_on.clone(),
            shots_from: self.shots_from.clone(),
            pool: self.shots.images.len(),
            seeds: self.request.seeds,
            chance: [("accuracy", frequent), ("balanced_accuracy", 1.0 / k), ("auroc_macro", 0.5), ("nll", k.ln())]
                .map(|(name, value)| (name.to_string(), value))
                .into(),
            zero_shot: named(self.spreads(&[zero_shot])),
            settings,
        }
    }

    /// Numbers of the shots of a seed: `shots` a class, or as many as that of all classes together as the data lie.
    /// Those of fewer shots are among those of more.
    fn drawn(&self, draw: Draw, shots: usize, seed: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.shots.images.len()).collect();
        order.shuffle(&mut stream(self.request.seed, Purpose::Shots, seed));
        let classes = self.prompts.classes.len();
        match draw {
            Draw::Natural => order.truncate(shots.saturating_mul(classes)),
            Draw::Balanced => {
                let mut counts = vec![0usize; classes];
                order.retain(|&i| {
                    let count = &mut counts[self.shots.targets[i]];
                    *count += 1;
                    *count <= shots
                });
            }
        }
        order
    }

    fn fit(&self, method: Method, drawn: &[usize], features: &Features) -> LinearHead {
        let x: Vec<Vec<f64>> = drawn.iter().map(|&i| features.shots[i].clone()).collect();
        let y: Vec<usize> = drawn.iter().map(|&i| self.shots.targets[i]).collect();
        LinearHead::fit(method, &Shots { x: &x, y: &y, texts: &features.texts, scale: features.scale })
    }

    fn counted(&self, head: &LinearHead, features: &Features) -> Counted {
        let logits: Vec<Vec<f64>> = features.judged.iter().map(|x| head.logits(x)).collect();
        Counted::of(&logits, &self.judged.targets, &self.judged.groups)
    }

    fn spreads(&self, runs: &[Counted]) -> Vec<Spread> {
        let patients = self.judged.groups.iter().max().map_or(0, |last| last + 1);
        spreads(runs, patients, self.request.bootstrap, |i| stream(self.request.seed, Purpose::Bootstrap, i))
    }
}

/// Everything of unit length.
struct Features {
    shots: Vec<Vec<f64>>,
    judged: Vec<Vec<f64>>,
    texts: Vec<Vec<f64>>,
    scale: f64,
}

/// Batches that are encoded before `told` hears of them.
const BATCHES: usize = 4;

fn encoded(encoder: &Encoder, images: &[ImageSource], told: &dyn Fn(usize)) -> Result<Vec<Vec<f64>>> {
    let mut rows = Vec::new();
    // Whole batches: a row is worked out among the same others.
    for some in images.chunks(BATCHES * encoder.batch_size) {
        told(rows.len());
        rows.extend(numbers(&encoder.images(some)?)?);
    }
    Ok(rows)
}
