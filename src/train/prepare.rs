//! Everything that is opened and checked before the first step: data, tokenizer, model. All problems at once.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};

use super::best_metric::{self, validation_labels};
use super::frozen_texts::FrozenTexts;
use super::kept_features;
use super::leaks;
use super::order::sampler;
use super::phantoms;
use super::records::{SkippedRow, TEST};
use super::supervision::Supervision;
use super::teacher::{self, Teacher};
use super::thaw;
use crate::config::{Config, TrainConfig};
use crate::data::leaks::{Side, shared};
use crate::data::{BagPolicy, Columns, Dataset, Manifest, Prompts, ReportTokenizer, Row, RowProblem, image, sides};
use crate::data::{Flip, LongReports, OnError};
use crate::digest::ContentHash;
use crate::dist::Collective;
use crate::error::{Problem, ProblemList, Problems, one_line};
use crate::metrics::Metric;
use crate::model::freeze::FreezeDepth;
use crate::model::{ClipConfig, Params, lora};
use crate::ops;
use crate::session::{Frozen, ModelFolder, Products, open_model};
use crate::track::Note;

/// Ready to train.
pub struct Prepared {
    /// Weights, with what is frozen marked.
    pub params: Params,
    /// What is frozen at first.
    pub frozen: Frozen,
    /// The model folder to be written, all but its weights.
    pub folder: ModelFolder,
    /// Training pairs.
    pub train: Dataset,
    /// How many of them come from each of data.train.
    pub sources: Vec<usize>,
    /// Validation pairs; empty where there are none.
    pub val: Vec<Row>,
    /// Pairs of the split `test`, which choose nothing; mostly empty.
    pub test: Vec<Row>,
    /// The prompt file, where the config names one.
    pub prompts: Option<Prompts>,
    /// By which figure validations are compared.
    pub best_metric: Metric,
    /// Where tensors live.
    pub device: Device,
    /// Which device, and why that one.
    pub device_reason: String,
    /// In which type products are worked out, and why: not among the notes, since a plan tells it too.
    pub products: Products,
    /// Lines to tell once: automatic choices with their reasons, warnings.
    pub notes: Vec<Note>,
    /// SHA-256 over the pairs of both splits: names of images, reports, splits.
    pub pairs_fingerprint: String,
    /// What objectives ask for beside pairs.
    pub supervision: Supervision,
    /// Rows that were left out when the manifests were opened.
    pub skipped: Vec<SkippedRow>,
}

/// Opens and checks everything that `config` names, on each rank of `world`.
///
/// # Errors
/// [`crate::error::Problems`] with all that is wrong.
pub fn prepare(config: &Config, world: &dyn Collective) -> Result<Prepared> {
    let mut problems = ProblemList::default();
    let mut notes = Vec::new();
    let (device, device_reason) = match problems.keep(crate::device::choose(&config.device, world.local())) {
        Some((device, reason)) => (device, reason),
        None => (Device::Cpu, String::new()),
    };
    notes.push(Note::choice(format!("device: {device_reason}")));
    ops::use_tensor_cores(config.train.tensor_cores);
    let products = Products::choose((&config.train).into(), &device);
    notes.extend(without_effect(&config.train, &device, products.dtype));
    let eps = config.loss.label_smoothing.from.max(config.loss.label_smoothing.to);
    if eps > 0.2 {
        notes.push(Note::warning(format!("label_smoothing is {eps}; above 0.2 most of the loss is its floor")));
    }
    notes.extend(BagPolicy::from(&config.data).unread_slices().map(Note::warning));
    problems.keep(kept_features::check_folder(config));
    phantoms::draw(config, &mut notes)?;
    problems.keep(teacher::check_name(config));
    let prompts = config.loss.prompts.as_ref();
    let prompts = prompts.and_then(|path| problems.keep(Prompts::open(path).context("loss.prompts")));
    let splits = problems.keep(open_splits(config, prompts.as_ref())).and_then(|splits| {
        check_splits(config, &splits, &mut problems, &mut notes);
        phantoms::check(config, splits.train.iter().chain(&splits.others), &mut notes);
        Some(splits).filter(|s| !s.train.is_empty())
    });
    let reports = splits.as_ref().map(|s| s.train.as_slice()).unwrap_or_default();
    let model = problems.keep(open_model(config, reports, &device));
    if let Some(model) = &model {
        check_freeze(config, &model.folder.config, &mut problems);
        if let Some(kind) = config.loss.uses_bias().filter(|_| model.folder.config.logit_bias_init.is_none()) {
            problems.push(format!(
                "loss.kind: names {:?}, but the model has no logit_bias; allowed with this model are the others",
                kind.name
            ));
        }
        notes.extend(model.notes.iter().map(Note::choice));
    }
    problems.finish()?;
    let (Some(splits), Some(mut model)) = (splits, model) else {
        anyhow::bail!("data.train: {} holds no training pairs", config.data.train_name())
    };
    model.folder.report = config.report.clone();
    // Of a model that was trained so before, places drift where they are not trained.
    model.folder.local = config.loss.uses_places().then_some(config.loss.local);
    let kept = std::mem::replace(&mut model.folder.bags, BagPolicy::of_training(&config.data, &splits.train));
    // What rows were is no setting, and older models do not say.
    let settings = |bags: &BagPolicy| BagPolicy { of_volumes: false, of_images: false, ..bags.clone() };
    if kept != BagPolicy::default() && settings(&kept) != settings(&model.folder.bags) {
        let (before, now) = (kept.to_json()?, model.folder.bags.to_json()?);
        let keys = "data.bag, data.volume, data.window";
        notes.push(Note::warning(format!("{keys}: the model read bags as {before}; from now on it reads {now}")));
    }
    let whole_sentences = config.report.long != LongReports::Truncate;
    model.folder.tokenizer = model.folder.tokenizer.with_whole_sentences(whole_sentences);
    notes.extend(truncation(&model.folder.tokenizer, &splits.train)?);
    let mut params = model.params;
    let rows = || splits.train.iter().chain(&splits.val).chain(&splits.held_out);
    let compares = config.loss.compares_reports();
    let texts = compares.then(|| FrozenTexts::of(config, (&model.folder, &params, &products), rows()));
    let texts = texts.transpose().context("loss.positives")?;
    if config.lora.rank > 0 {
        let (adapted, layers) = lora::add(&params, &config.lora, &config.freeze, config.seed)?;
        if layers == 0 {
            let line = "lora.targets: no layer of a tower that is not frozen whole has such a name; lora.rank = 0 does \
                        without adapters";
            return Err(Problems(vec![Problem(line.into())]).into());
        }
        notes.push(Note::choice(format!(
            "lora: adapters of rank {} beside {layers} layers; the towers' own weights stay",
            config.lora.rank
        )));
        params = adapted;
    }
    if config.train.patch_dropout > 0.0 && !model.folder.config.vision.drops_patches() {
        let line = format!("train.patch_dropout: a {} has no patches to drop", model.folder.config.vision.name());
        return Err(Problems(vec![Problem(line)]).into());
    }
    let frozen = thaw::apply(config, [None; 2], 0, &mut params);
    // By the weights, not by the keys: an objective may train a bias that no key freezes.
    if params.trainable().next().is_none() && config.freeze.until().iter().all(Option::is_none) {
        return Err(Problems(vec![Problem("freeze: everything is frozen, so there is nothing to train".into())]).into());
    }
    if config.loss.uses_bias().is_none() && params.get("logit_bias").is_some() {
        notes.push(Note::choice("logit_bias stays as it is: loss.kind does not see it"));
    }
    let known = (prompts.as_ref(), texts, Teacher::of(config, world.local(), rows()).context("loss.teacher")?);
    let supervision = Supervision::new(config, &splits.train, known, &model.folder.tokenizer, &mut notes)
        .map_err(|e| Problems(vec![Problem(one_line(&e))]))?;
    let best_metric = best_metric(config, &splits.val, prompts.as_ref(), &mut notes)?;
    Ok(Prepared {
        prompts,
        best_metric,
        params,
        frozen,
        supervision,
        train: Dataset {
            rows: splits.train,
            preprocess: model.folder.preprocess.clone(),
            tokenizer: model.folder.tokenizer.clone(),
            policy: config.report.clone(),
            bags: model.folder.bags.clone(),
            augment: config.augment,
            negation: config.data.negation,
            seed: config.seed,
            features: None,
            reports: None,
        },
        sources: splits.sources,
        folder: model.folder,
        pairs_fingerprint: splits.fingerprint,
        val: splits.val,
        test: splits.held_out.into_iter().filter(|row| row.split() == Some(TEST)).collect(),
        device,
        device_reason,
        products,
        notes,
        skipped: splits.skipped,
    })
}

/// Keys that are set and change nothing on `device`, or with products in this type.
fn without_effect(train: &TrainConfig, device: &Device, products: DType) -> Vec<Note> {
    let on_cpu = device.is_cpu().then_some("the device is the CPU");
    let in_f32 = (products != DType::BF16).then_some("products are in f32");
    let keys = [
        ("train.tensor_cores", train.tensor_cores, on_cpu.or(in_f32)),
        ("train.overlap_copies", train.overlap_copies, on_cpu),
    ];
    let note = |(key, is_set, why): (&str, bool, Option<&str>)| {
        why.filter(|_| is_set).map(|why| Note::choice(format!("{key} changes nothing here: {why}")))
    };
    keys.into_iter().filter_map(note).collect()
}

/// By which figure validations are compared, told with its reason.
fn best_metric(config: &Config, val: &[Row], prompts: Option<&Prompts>, notes: &mut Vec<Note>) -> Result<Metric> {
    if val.is_empty() {
        return Ok(config.train.best_metric.unwrap_or(config.loss.best_metric().0));
    }
    let labels = validation_labels(&config.loss, val, prompts);
    let labels = labels.as_ref().map_err(String::as_str);
    let (metric, reason) =
        best_metric::choose(&config.loss, config.train.best_metric, labels).map_err(|e| Problems(vec![Problem(e)]))?;
    notes.push(Note::choice(format!("best checkpoint by {}: {reason}", metric.word())));
    Ok(metric)
}

/// A warning where reports lose their ends, which is where the impression stands; looks at 2,000 rows at most.
fn truncation(tokenizer: &ReportTokenizer, rows: &[Row]) -> Result<Option<Note>> {
    const LOOKED_AT: usize = 2000;
    let every = rows.len().div_ceil(LOOKED_AT).max(1);
    let sample = || rows.iter().step_by(every).map(|r| r.report());
    let (long, looked) = (tokenizer.count_truncated(sample())?, sample().count());
    let share = 100.0 * long as f64 / looked.max(1) as f64;
    Ok((share >= 1.0).then(|| {
        Note::warning(format!(
            "{share:.0} % of the training reports ({long} of {looked} looked at) are longer than {} tokens and \
             lose their ends; model.context_length makes room for more, report.section and report.long choose what \
             stays",
            tokenizer.context_length()
        ))
    }))
}

struct Splits {
    train: Vec<Row>,
    /// How many of them come from each of data.train.
    sources: Vec<usize>,
    val: Vec<Row>,
    skipped: Vec<SkippedRow>,
    fingerprint: String,
    /// Messages about unusable rows, `file:line: reason`.
    problems: Vec<String>,
    /// The splits that the training manifest names.
    known_splits: Vec<String>,
    /// Its rows that name none, where others do.
    without_split: usize,
    /// All rows that are not to be trained on: validation and, for example, test.
    others: Vec<Row>,
    /// Those of them that are not validated on either: test.
    held_out: Vec<Row>,
}

fn open_splits(config: &Config, prompts: Option<&Prompts>) -> Result<Splits> {
    let extra = prompts.filter(|p| p.multi_label).map(Prompts::names).unwrap_or_default();
    let columns = Columns { policy: config.report.clone(), extra, ..Columns::from(&config.data) };
    image::set_max_image_mib(config.data.max_image_mib);
    let root = config.data.image_root.as_deref();
    let (train, mut sources) = Manifest::open_all(&config.data.train, &columns, root)?;
    let skip = |of: &'static str| move |p: &RowProblem| SkippedRow::of(of, p);
    let mut problems: Vec<String> = train.problems.iter().map(RowProblem::to_string).collect();
    let mut skipped: Vec<SkippedRow> = train.problems.iter().map(skip("train")).collect();
    let known_splits = train.splits().into_iter().map(str::to_string).collect();
    let neither = |row: &&Row| {
        row.split().is_some_and(|split| split != config.data.train_split && split != config.data.val_split)
    };
    let mut held_out: Vec<Row> = train.rows.iter().filter(neither).cloned().collect();
    let val = match config.data.val.as_slice() {
        [_, ..] => {
            let (val, _) = Manifest::open_all(&config.data.val, &columns, root)?;
            problems.extend(val.problems.iter().map(RowProblem::to_string));
            skipped.extend(val.problems.iter().map(skip("val")));
            held_out.extend(Row::counted_after(&train.rows, val.rows.iter().filter(neither)));
            let names = val.splits().join(", ");
            // A manifest of its own is validated on whole, unless it says which rows are meant.
            let rows = val.only_split(&config.data.val_split).rows;
            ensure!(
                !rows.is_empty() || names.is_empty(),
                "{}: no row has split {:?}; the splits are {names}; name one with data.val_split",
                config.data.val[0].display(),
                config.data.val_split
            );
            rows
        }
        [] if train.has_splits() => train.clone().only_split(&config.data.val_split).rows,
        [] => Vec::new(),
    };
    let without_split = if train.has_splits() { train.rows.iter().filter(|r| r.split().is_none()).count() } else { 0 };
    let others = train.rows.iter().filter(|r| r.split().is_some_and(|split| split != config.data.train_split));
    let others: Vec<Row> = others.chain(&val).cloned().collect();
    if train.has_splits() {
        let mut rows = train.rows.iter();
        let chosen = |r: &&Row| r.split() == Some(config.data.train_split.as_str());
        sources.iter_mut().for_each(|count| *count = rows.by_ref().take(*count).filter(chosen).count());
    }
    let train = train.only_split(&config.data.train_split).rows;
    let fingerprint = fingerprint(train.iter().chain(&val));
    Ok(Splits { sources, train, val, skipped, fingerprint, problems, known_splits, without_split, others, held_out })
}

fn check_splits(config: &Config, splits: &Splits, problems: &mut ProblemList, notes: &mut Vec<Note>) {
    const SHOWN: usize = 5;
    let bad = splits.problems.len();
    match config.data.on_error {
        OnError::Stop if bad > 0 => {
            splits.problems.iter().take(SHOWN).for_each(|p| problems.push(p.clone()));
            if bad > SHOWN {
                problems.push(format!("{}: and {} more rows", config.data.train_name(), bad - SHOWN));
            }
            problems.push(format!(
                "rows that cannot be used: {bad}; mend them, or set data.on_error = \"skip\" to train without them"
            ));
        }
        OnError::Skip if bad > config.data.max_skipped => problems.push(format!(
            "{bad} rows cannot be used, data.max_skipped is {}; the first is {}",
            config.data.max_skipped, splits.problems[0]
        )),
        OnError::Skip if bad > 0 => {
            notes.push(Note::warning(format!("{bad} rows cannot be used; see skipped.jsonl")));
        }
        _ => {}
    }
    let file = config.data.train_name();
    // With "stop" the bad rows are the news; how many are left does not matter yet.
    let told = bad > 0 && config.data.on_error == OnError::Stop;
    if splits.train.is_empty() && !told {
        problems.push(format!(
            "{file}: no row has split {:?}; the splits are {}; name one with data.train_split",
            config.data.train_split,
            splits.known_splits.join(", ")
        ));
    } else if !told {
        let drawn = sampler(config, &splits.train, &splits.sources).rows_per_epoch();
        if drawn < config.samples_per_step() {
            let pairs = match splits.train.len() {
                all if all == drawn => format!("has {all} training pairs"),
                all => format!("has {all} training pairs, of which an epoch draws {drawn}"),
            };
            problems.push(format!(
                "train.batch_size × train.accum_freq is {}, but {file} {pairs}; make the batch smaller",
                config.samples_per_step()
            ));
        }
    }
    if splits.val.is_empty() {
        let known = match splits.known_splits.as_slice() {
            [] => "add a split column with val rows, or data.val".to_string(),
            names => format!("the splits are {}; name one with data.val_split, or data.val", names.join(", ")),
        };
        notes.push(Note::warning(format!("no validation pairs, so no figures will be honest; {known}")));
    }
    if splits.without_split > 0 {
        let rows = splits.without_split;
        notes.push(Note::warning(format!("rows of {file} without a split, which are not used: {rows}")));
    }
    leaks::check(&file, &splits.train, &splits.others, config.data.near_duplicates, problems, notes);
    // Whatever validation chooses, such as the best step, is judged on the rest.
    let val = Side { rows: &splits.val, name: "validation" };
    if let Some(line) = shared(val, Side { rows: &splits.held_out, name: "another split" }) {
        problems.push(format!("{file}: {line}"));
    }
    check_flip(config, &splits.train, problems);
}

/// A flipped image contradicts a report that names a side.
fn check_flip(config: &Config, train: &[Row], problems: &mut ProblemList) {
    if config.augment.horizontal_flip == Flip::On {
        let named = train.iter().filter(|r| sides::names_a_side(r.report())).count();
        if named > 0 {
            problems.push(format!(
                "augment.horizontal_flip: {named} of {} training reports name a side, and a flipped image would \
                 contradict them; turn it \"off\", or \"force\" it",
                train.len()
            ));
        }
    }
}

fn check_freeze(config: &Config, model: &ClipConfig, problems: &mut ProblemList) {
    let towers = [
        ("freeze.image", config.freeze.image, model.vision.blocks()),
        ("freeze.text", config.freeze.text, model.text.blocks()),
    ];
    for (key, depth, layers) in towers {
        if let FreezeDepth::Blocks(n) = depth
            && n > layers
        {
            problems.push(format!("{key}: is {n}, but that tower has {layers} blocks; allowed is 0 to {layers}"));
        }
    }
}

/// Over image file names, reports and splits; says whether ranks see the same pairs.
fn fingerprint<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let mut print = ContentHash::default();
    for row in rows {
        row.file_names().chain([row.report(), row.split().unwrap_or("")]).for_each(|field| print.field(field));
    }
    print.hex()
}
