//! Values checked against one another, as far as that can be done without opening data.

use std::path::Path;

use super::key::Key;
use super::keys::KEYS;
use super::sections::ModelInit;
use super::typed::Config;
use super::values::is_hub;
use super::written::Written;
use crate::error::ProblemList;
use crate::loss::{self, Direction, FalseNegatives, OBJECTIVES, ObjectiveKind, Positives, TargetKind};
use crate::model::freeze::FreezeDepth;
use crate::track::mlflow;

impl Config {
    pub(super) fn check(&self, written: &Written, problems: &mut ProblemList) {
        self.check_model(written, problems);
        self.check_loss(written, problems);
        if self.data.train.is_empty() && !written.is_mistaken("data.train") {
            problems.push(format!(
                "{}: data.train is missing; name a manifest with columns image and report",
                written.path.display()
            ));
        }
        let phantom = self.data.train.len() == 1 && self.data.train[0].ends_with("manifest.csv");
        if self.data.phantom.is_some() && !phantom {
            problems.push(format!(
                "{}: is set, so data.train must be a file manifest.csv in a folder of its own; it is {}",
                written.place_of("data.phantom"),
                self.data.train_name()
            ));
        }
        let train = self.data.train.iter().filter(|_| self.data.phantom.is_none()).map(|path| ("data.train", path));
        for (key, path) in train.chain(self.data.val.iter().map(|path| ("data.val", path))) {
            let text = path.to_string_lossy();
            // Patterns and data sets of the hub are looked up when they are opened.
            if !path.exists() && !is_hub(&text) && !text.contains(['*', '?', '{']) {
                problems.push(format!("{}: {text}: there is no such file", written.place_of(key)));
            }
        }
        if !self.data.weights.is_empty() && self.data.weights.len() != self.data.train.len() {
            problems.push(format!(
                "{}: has {} numbers, but data.train names {}; allowed is one for each",
                written.place_of("data.weights"),
                self.data.weights.len(),
                self.data.train.len()
            ));
        }
        for (key, path) in [("data.image_root", &self.data.image_root), ("model.tokenizer", &self.model.tokenizer)] {
            if let Some(path) = path.as_ref().filter(|p| !p.is_dir()) {
                problems.push(format!("{}: {}: there is no such folder", written.place_of(key), path.display()));
            }
        }
        if let Some(address) = &self.track.mlflow
            && let Err(why) = mlflow::check(address)
        {
            problems.push(format!("{}: {why}", written.place_of("track.mlflow")));
        }
        self.check_lengths(written, problems);
        self.check_shapes(written, problems);
    }

    fn check_loss(&self, written: &Written, problems: &mut ProblemList) {
        let place = |key: &str| written.place_of(key);
        let kinds: Vec<&ObjectiveKind> = self.loss.kinds.iter().map(|(kind, _)| *kind).collect();
        if kinds.is_empty() {
            problems.push(format!("{}: names no objective", place("loss.kind")));
        }
        if let Some(twice) = (1..kinds.len()).find(|&i| kinds[..i].contains(&kinds[i])) {
            problems.push(format!("{}: names {:?} twice", place("loss.kind"), kinds[twice].name));
        }
        if let [.., alone] = kinds.as_slice()
            && kinds.iter().all(|kind| kind.needs.places)
        {
            problems.push(format!(
                "{}: names {:?} alone, which trains no embedding of whole images and reports; name one that does \
                 beside it, such as {:?}",
                place("loss.kind"),
                alone.name,
                loss::OBJECTIVES[0].name
            ));
        }
        let weights = written.values.get("loss.weights").and_then(|(v, _)| v.as_array().map(Vec::len));
        if let Some(count) = weights.filter(|n| *n != kinds.len()) {
            problems.push(format!(
                "{}: has {count} numbers, but loss.kind names {}; allowed is one for each",
                place("loss.weights"),
                kinds.len()
            ));
        }
        match &self.loss.prompts {
            None if self.loss.needs_prompts() => problems.push(format!(
                "{}: loss.prompts is missing; {:?} needs a prompt file, see prompts/phantom.toml",
                place("loss.kind"),
                kinds.iter().find(|kind| kind.needs.targets.uses_prompts()).map_or("", |kind| kind.name)
            )),
            Some(path) if !path.is_file() => {
                problems.push(format!("{}: {}: there is no such file", place("loss.prompts"), path.display()));
            }
            _ => {}
        }
        self.check_negatives(&kinds, written, problems);
        self.check_pairs(&kinds, written, problems);
        self.check_teacher(written, problems);
        let by_prompts = |targets: TargetKind| kinds.iter().find(|kind| kind.needs.targets == targets);
        if let (Some(a), Some(b)) = (by_prompts(TargetKind::Classes), by_prompts(TargetKind::Findings)) {
            let place = place("loss.kind");
            problems.push(format!("{place}: names {} and {}, which want different prompts", a.name, b.name));
        }
    }

    fn check_teacher(&self, written: &Written, problems: &mut ProblemList) {
        let learns = |kind: &&&ObjectiveKind| kind.needs.targets == TargetKind::Teacher;
        let name = OBJECTIVES.iter().find(learns).map_or("", |kind| kind.name);
        match (&self.loss.teacher, self.loss.asks_for(TargetKind::Teacher)) {
            (None, true) => {
                problems
                    .push(format!("{}: loss.teacher is missing; {name:?} needs one", written.place_of("loss.kind")));
            }
            (Some(_), false) => problems
                .push(format!("{}: is set, but loss.kind does not name {name:?}", written.place_of("loss.teacher"))),
            _ => {}
        }
        let folder = self.loss.teacher.as_deref().map(Path::new);
        // Other names may be the hub's, and are looked at when they are opened.
        let says_folder = |path: &&Path| path.is_absolute() || path.starts_with(".") || path.starts_with("..");
        if let Some(path) = folder.filter(says_folder).filter(|path| !path.is_dir()) {
            problems.push(format!("{}: {}: there is no such folder", written.place_of("loss.teacher"), path.display()));
        }
    }

    /// Whether a key has another value than its default: a run's own config names every key, also where nobody chose.
    fn departs(&self, key: &str) -> bool {
        let default = KEYS.iter().find(|k| k.name == key).and_then(Key::default);
        self.value(key) != default.as_ref()
    }

    /// What only some objectives can make use of.
    fn check_negatives(&self, kinds: &[&ObjectiveKind], written: &Written, problems: &mut ProblemList) {
        let of = |takes: &dyn Fn(&ObjectiveKind) -> bool| {
            OBJECTIVES.into_iter().filter(|kind| takes(kind)).map(|kind| format!("{:?}", kind.name)).collect::<Vec<_>>()
        };
        let mut check = |key: &str, is_set: bool, takes: &dyn Fn(&ObjectiveKind) -> bool| {
            if is_set && !kinds.iter().any(|kind| takes(kind)) {
                problems.push(format!(
                    "{}: is set, but no objective of loss.kind makes use of it; those that do are {}",
                    written.place_of(key),
                    of(takes).join(", ")
                ));
            }
        };
        let wanted = self.loss.false_negatives;
        check("data.negation", self.data.negation > 0.0, &|kind| kind.takes.opposites);
        check("loss.false_negatives", wanted != FalseNegatives::Keep, &|kind| {
            kind.takes.false_negatives.contains(&wanted)
        });
        check("loss.debias", self.loss.debias > 0.0, &|kind| kind.takes.debias);
        for key in ["loss.local.form", "loss.local.temperature", "loss.local.attention_temperature"] {
            check(key, !written.goes_on && self.departs(key), &|kind| kind.needs.places);
        }
        let ordered = [
            ("data.no_duplicate_reports", self.data.no_duplicate_reports),
            ("data.length_buckets", self.data.length_buckets > 0),
            ("data.shuffle_buffer", self.data.shuffle_buffer > 0),
        ];
        for (key, _) in ordered.into_iter().filter(|(_, is_set)| *is_set && self.data.hard_negatives.k > 0) {
            problems.push(format!(
                "{}: is set, and so is data.hard_negatives.k, which says itself which rows meet; keep one",
                written.place_of(key)
            ));
        }
        let smoothing = self.loss.label_smoothing;
        if self.loss.debias > 0.0 && smoothing.from.max(smoothing.to) > 0.0 {
            problems.push(format!(
                "{}: is set, and loss.label_smoothing is {}; what is taken off for false negatives has no smoothed \
                 form: set loss.label_smoothing = 0",
                written.place_of("loss.debias"),
                smoothing.from.max(smoothing.to)
            ));
        }
    }

    /// What of negatives would do nothing beside other keys.
    fn check_pairs(&self, kinds: &[&ObjectiveKind], written: &Written, problems: &mut ProblemList) {
        let place = |key: &str| written.place_of(key);
        let wanted = self.loss.false_negatives;
        let takes_others = |kind: &&&ObjectiveKind| {
            let takes = kind.takes.false_negatives;
            !takes.is_empty() && !takes.contains(&wanted)
        };
        // Where none takes it, that is told of already.
        let taken = kinds.iter().any(|kind| kind.takes.false_negatives.contains(&wanted));
        if let Some(kind) = kinds.iter().find(takes_others).filter(|_| taken) {
            let allowed: Vec<String> =
                kind.takes.false_negatives.iter().map(|one| format!("{:?}", one.word())).collect();
            problems.push(format!(
                "{}: is {:?}, but {:?} of loss.kind has only {}; take one that all have",
                place("loss.false_negatives"),
                wanted.word(),
                kind.name,
                allowed.join(", ")
            ));
        }
        let takers = || kinds.iter().filter(|kind| kind.takes.false_negatives.contains(&wanted));
        let by_report = wanted != FalseNegatives::Keep && self.loss.positives == Positives::Report;
        if let Some(kind) = takers().next().filter(|_| by_report && takers().all(|kind| kind.needs.places)) {
            problems.push(format!(
                "{}: is \"report\", but of loss.kind only {:?} makes use of loss.false_negatives, and rows with one \
                 report have the same sentences already; allowed is any other",
                place("loss.positives"),
                kind.name
            ));
        }
        // A sigmoid over pairs has no direction.
        let takers = || kinds.iter().filter(|kind| kind.takes.opposites);
        let unseen = takers().next().is_some() && takers().all(|kind| !kind.needs.bias);
        if self.data.negation > 0.0 && self.loss.direction == Direction::TextToImage && unseen {
            problems.push(format!(
                "{}: is set, but loss.direction is \"t2i\": opposites are held against images alone; allowed is \
                 \"both\" or \"i2t\"",
                place("data.negation")
            ));
        }
        if self.data.hard_negatives.k == 0 {
            let keys = ["data.hard_negatives.from", "data.hard_negatives.refresh", "data.hard_negatives.margin"];
            for key in keys.into_iter().filter(|key| self.departs(key)) {
                problems.push(format!("{}: is set, but data.hard_negatives.k is 0; set k, such as 2", place(key)));
            }
        } else if !kinds.iter().any(|kind| kind.needs.reports || kind.needs.places) {
            problems.push(format!(
                "{}: is set, but no objective of loss.kind holds images against the reports of a batch",
                place("data.hard_negatives.k")
            ));
        }
        let (k, others) = (self.data.hard_negatives.k, self.samples_per_step().saturating_sub(1));
        // A step of one row is told of already.
        if !written.goes_on && k > others && others > 0 {
            problems.push(format!(
                "{}: is {k}, but a row meets only {others} others in a step of train.batch_size × \
                 train.accum_freq rows; allowed is up to {others}",
                place("data.hard_negatives.k")
            ));
        }
        if self.loss.positives != Positives::ReportSimilarity && self.departs("loss.positives_threshold") {
            problems.push(format!(
                "{}: is set, but loss.positives is {:?}; only \"report_similarity\" has it",
                place("loss.positives_threshold"),
                self.loss.positives.word()
            ));
        }
    }

    fn check_model(&self, written: &Written, problems: &mut ProblemList) {
        let m = &self.model;
        let named: Vec<&str> = [("model.path", &m.path), ("model.image", &m.image), ("model.text", &m.text)]
            .into_iter()
            .filter_map(|(key, name)| name.as_ref().map(|_| key))
            .collect();
        let place = |key: &str| written.place_of(key);
        match (m.init, named.as_slice()) {
            (ModelInit::Random, []) | (ModelInit::Pretrained, ["model.path"] | ["model.image", "model.text"]) => {}
            (ModelInit::Random, [first, ..]) => {
                problems.push(format!("{}: is set, but model.init is \"random\"; remove one of the two", place(first)))
            }
            (ModelInit::Pretrained, []) if !written.is_mistaken("model.path") => problems.push(format!(
                "{}: model.path is missing; name a folder or a hub id such as \"openai/clip-vit-base-patch32\", or two \
                 towers as model.image and model.text, or say init = \"random\"",
                written.path.display()
            )),
            (ModelInit::Pretrained, []) => {}
            (ModelInit::Pretrained, ["model.path", other, ..]) => {
                problems.push(format!("{}: is set together with model.path; keep one", place(other)));
            }
            (ModelInit::Pretrained, [one, ..]) => {
                let other = if *one == "model.image" { "model.text" } else { "model.image" };
                problems.push(format!("{}: is set without {other}; a pair needs both towers", place(one)));
            }
        }
        let pair = m.image.is_some() || m.text.is_some();
        for key in ["model.image_pooling", "model.text_pooling", "model.projection", "model.embed_dim"] {
            if !pair && self.departs(key) {
                problems.push(format!("{}: is set, but only pairs of model.image and model.text have it", place(key)));
            }
        }
        if let Some(pooling @ ("mean" | "max")) = m.bag_pooling.as_deref() {
            let has_position = m.bag_position.as_deref().is_some_and(|position| position != "none");
            for (key, is_set) in [("model.bag_hidden", m.bag_hidden.is_some()), ("model.bag_position", has_position)] {
                if is_set {
                    problems.push(format!(
                        "{}: is set, but model.bag_pooling is \"{pooling}\"; only \"attention\" has it",
                        place(key)
                    ));
                }
            }
        }
    }

    fn check_lengths(&self, written: &Written, problems: &mut ProblemList) {
        if self.lora.rank > 0 && self.lora.targets.is_empty() {
            problems.push(format!("{}: names no layer", written.place_of("lora.targets")));
        }
        let towers = [("image", self.freeze.image), ("text", self.freeze.text)];
        for ((tower, depth), _) in towers.iter().zip(self.freeze.until()).filter(|(_, until)| until.is_some()) {
            if *depth == FreezeDepth::None {
                let key = format!("freeze.{tower}_until");
                problems.push(format!("{}: is set, but freeze.{tower} is \"none\"", written.place_of(&key)));
            }
        }
        if self.samples_per_step() < 2 {
            problems.push(format!(
                "{}: is 1; a contrastive loss needs at least 2 pairs in a step, and gets better with more",
                written.place_of("train.batch_size")
            ));
        }
        if self.train.max_steps.is_some() && self.train.max_samples.is_some() {
            problems.push(format!(
                "{}: is set together with train.max_steps; keep one",
                written.place_of("train.max_samples")
            ));
        }
        for (key, span) in [
            ("train.eval_every", self.train.eval_every),
            ("train.checkpoint_every", self.train.checkpoint_every),
            ("data.hard_negatives.refresh", self.data.hard_negatives.refresh),
        ] {
            if span.steps(1, 1, 100) == 0 {
                problems.push(format!("{}: is {span}; allowed is more than 0", written.place_of(key)));
            }
        }
    }

    fn check_shapes(&self, written: &Written, problems: &mut ProblemList) {
        if let Some(size) = self.model.image_size
            && self.model.init == ModelInit::Random
            && self.model.random.patch_size > size
        {
            problems.push(format!(
                "{}: is {}, larger than model.image_size {size}",
                written.place_of("model.random.patch_size"),
                self.model.random.patch_size
            ));
        }
        let r = &self.model.random;
        for (tower, width, heads) in [("vision", r.vision_width, r.vision_heads), ("text", r.text_width, r.text_heads)]
        {
            if width % heads != 0 {
                let key = format!("model.random.{tower}_heads");
                problems.push(format!(
                    "{}: is {heads}, which does not divide model.random.{tower}_width {width}",
                    written.place_of(&key)
                ));
            }
        }
    }
}
