//! Several processes under `mpirun`: the same training as one process, whatever is trained and however many they are;
//! what becomes of the others when one is lost. Needs `--features mpi` and an `mpirun`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use serde_json::Value;

use crate::common::skipped;

const BINARY: &str = env!("CARGO_BIN_EXE_reportclip");

/// 10 steps of a tiny model on phantoms, without clipping: weights are updated while sums are on their way.
const CONFIG: &str = r#"
seed = 3
[model]
init = "random"
image_size = 32
context_length = 48
[model.random]
vocab_size = 600
embed_dim = 16
patch_size = 16
vision_width = 16
vision_layers = 2
vision_heads = 2
text_width = 16
text_layers = 2
text_heads = 2
[data]
train = "phantom/manifest.csv"
[augment]
rotation = 5
brightness = 0.1
[train]
batch_size = 8
max_steps = 10
eval_every = 4
checkpoint_every = 5
clip_grad_norm = 0
[optim]
lr = 1e-4
[eval]
bootstrap = 50
batch_size = 3
"#;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// `None`, and the test is skipped, where there is no mpirun.
    fn new() -> Option<Self> {
        if Command::new("mpirun").arg("--version").output().is_err() {
            skipped("there is no mpirun");
            return None;
        }
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let out = place.one(&["data", "synth", "--out", "phantom", "--patients", "40", "--size", "32"]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        fs::write(place.path("tiny.toml"), CONFIG).unwrap();
        fs::write(
            place.path("classes.toml"),
            "normal = [\"No active chest disease.\", \"Clear lungs.\"]\npneumothorax = \"Pneumothorax.\"\n\
             consolidation = \"Consolidation.\"\n",
        )
        .unwrap();
        fs::write(
            place.path("findings.toml"),
            "normal = { positive = \"Clear lungs.\", negative = [\"Abnormal.\", \"Opacity.\"] }\n",
        )
        .unwrap();
        Some(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn one(&self, args: &[&str]) -> Output {
        Command::new(BINARY).args(args).current_dir(self.dir.path()).env("HF_HUB_OFFLINE", "1").output().unwrap()
    }

    /// `programs`: each a number of ranks and its arguments.
    fn mpirun(&self, programs: &[(usize, &[&str])]) -> Command {
        let mut command = Command::new("mpirun");
        command.args(["--oversubscribe", "--bind-to", "none"]);
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        for (i, (ranks, args)) in programs.iter().enumerate() {
            command.args((i > 0).then_some(":")).args(["-n", &ranks.to_string(), BINARY]).args(*args);
        }
        command.current_dir(self.dir.path()).env("HF_HUB_OFFLINE", "1").env("RAYON_NUM_THREADS", "1");
        command
    }

    fn train(&self, ranks: usize, out: &str, more: &[&str]) -> Output {
        let args = [&["train", "tiny.toml", "--out", out], more].concat();
        if ranks == 1 { self.one(&args) } else { self.mpirun(&[(ranks, &args)]).output().unwrap() }
    }

    fn train_ok(&self, ranks: usize, out: &str, more: &[&str]) -> Output {
        let output = self.train(ranks, out, more);
        assert!(output.status.success(), "{ranks} ranks, {more:?}: {}", text(&output.stderr));
        output
    }

    fn steps(&self, run: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).filter(|v| v["kind"] == "step").collect()
    }

    /// Losses of each step within 1e-6 (relative), weights after the last within 1e-5.
    fn assert_same_training(&self, one: &str, several: &str) {
        let (a, b) = (self.steps(one), self.steps(several));
        assert_eq!(a.len(), 10, "{one}");
        assert_eq!(b.len(), 10, "{several}");
        for (a, b) in a.iter().zip(&b) {
            for key in ["loss", "loss_hard"] {
                let (x, y) = (a[key].as_f64().unwrap(), b[key].as_f64().unwrap());
                assert!(x > 0.0 && (x - y).abs() <= 1e-6 * x, "{several}: step {}: {key} {x} and {y}", a["step"]);
            }
            assert_eq!((&a["samples"], &a["chance"]), (&b["samples"], &b["chance"]), "{several}");
        }
        let weights = |run: &str| {
            let file = self.path(run).join("checkpoints/step-00000010/model.safetensors");
            candle_core::safetensors::load(file, &Device::Cpu).unwrap()
        };
        let (a, b) = (weights(one), weights(several));
        assert_eq!(a.len(), b.len());
        let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // The true gradient of a key's bias is 0: of what rounding leaves of it AdamW makes steps of full length.
        for (name, a) in a.iter().filter(|(name, _)| !name.ends_with("k_proj.bias")) {
            let pairs = numbers(a).into_iter().zip(numbers(&b[name]));
            let worst = pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-5, "{several}: {name} differs by {worst}");
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn sets(keys: &[&str]) -> Vec<String> {
    keys.iter().flat_map(|s| ["--set".to_string(), s.to_string()]).collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// The whole of the proof: every objective; chunks; batches that ranks cannot share evenly; what freezes, adapts,
/// averages and clips.
#[test]
fn ranks_train_as_one_process_does() {
    let Some(place) = Place::new() else { return };
    let chunks = ["train.batch_size=3", "train.accum_freq=4"];
    let similar = ["loss.false_negatives=remove", "loss.positives=report_similarity", "loss.positives_threshold=0.5"];
    let mined = ["data.hard_negatives.k=2", "data.hard_negatives.refresh=3"];
    let local = "loss.kind=[\"clip\", \"local\"]";
    let cases: [(&str, &[&str]); 18] = [
        ("mined", &[mined[0], mined[1], "train.batch_size=7"]),
        ("negation", &["data.negation=0.7", chunks[0], chunks[1]]),
        ("alike", &[similar[0], similar[1], similar[2], "train.batch_size=7"]),
        ("clip", &[]),
        ("clip-uneven", &["train.batch_size=7"]),
        ("clip-chunks", &chunks),
        ("clip-clipped", &["train.clip_grad_norm=0.5", "train.ema=0.9", "optim.layer_decay=0.8"]),
        ("clip-lora", &["lora.rank=2", "loss.label_smoothing=0.1"]),
        ("clip-thaw", &["freeze.image=all", "freeze.image_until=4"]),
        ("multi_positive", &["loss.kind=multi_positive", "loss.positives=label"]),
        ("class", &["loss.kind=class", "loss.prompts=classes.toml", "loss.class_weights=balanced"]),
        ("class-frozen", &["loss.kind=class", "loss.prompts=classes.toml", "freeze.text=all", "train.batch_size=7"]),
        ("multi_label", &["loss.kind=multi_label", "loss.prompts=findings.toml", chunks[0], chunks[1]]),
        ("sum", &["loss.kind=[\"clip\", \"class\"]", "loss.prompts=classes.toml", "loss.weights=[1, 0.5]"]),
        ("local", &[local, chunks[0], chunks[1]]),
        ("local-alike", &[local, "loss.false_negatives=soften", "train.batch_size=7"]),
        ("local-frozen", &[local, "freeze.text=all", "train.batch_size=7", "train.max_steps=10"]),
        ("kept", &["freeze.image=all", "augment.rotation=0", "augment.brightness=0", "train.max_steps=10"]),
    ];
    for (name, keys) in cases {
        let more = sets(keys);
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        place.train_ok(1, &format!("{name}-1"), &more);
        for ranks in [2, 3, 4] {
            let several = format!("{name}-{ranks}");
            place.train_ok(ranks, &several, &more);
            place.assert_same_training(&format!("{name}-1"), &several);
        }
    }
    // TensorBoard's file has the time in its name.
    let files = |run: &str| -> Vec<String> {
        names(&place.path(run)).iter().map(|n| n.replace(|c: char| c.is_ascii_digit(), "")).collect()
    };
    assert_eq!(files("clip-1"), files("clip-4"), "of one rank");
    let run: Value = serde_json::from_slice(&fs::read(place.path("clip-4/run.json")).unwrap()).unwrap();
    assert_eq!(run["ranks"], 4);
    // Validations are those of one process.
    let evals = |run: &str| {
        let text = fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap();
        let values = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).filter(|v| v["kind"] == "eval");
        let figures = |v: Value| {
            let own = v["val"]["objective"]["loss"].as_f64().unwrap();
            assert!(v["metric"]["value"].is_number(), "{v}");
            (v["step"].as_u64().unwrap(), v["val"]["loss"].as_f64().unwrap() + own)
        };
        values.map(figures).collect::<Vec<_>>()
    };
    let pairs = evals("clip-1").into_iter().zip(evals("clip-3"));
    for ((step, a), (same, b)) in pairs.chain(evals("class-1").into_iter().zip(evals("class-3"))) {
        assert!(step == same && (a - b).abs() < 1e-5 * a, "validation of step {step}: {a} and {b}");
    }
}

/// Bags of several sizes, of which some images are drawn at random: a sample is drawn by its number, whichever rank
/// has it.
#[test]
fn ranks_train_bags_as_one_process_does() {
    let Some(place) = Place::new() else { return };
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let (head, rows) = manifest.split_once('\n').unwrap();
    let rows: Vec<&str> = rows.lines().collect();
    let mut bags = format!("{head}\n");
    for split in [",train,", ",val,"] {
        let own: Vec<&str> = rows.iter().copied().filter(|row| row.contains(split)).collect();
        for (i, row) in own.iter().enumerate() {
            let more = (1..=i % 4).map(|k| own[(i + k) % own.len()].split(',').next().unwrap());
            let (image, rest) = row.split_once(',').unwrap();
            let names: Vec<&str> = std::iter::once(image).chain(more).collect();
            bags += &format!("{},{rest}\n", names.join(";"));
        }
    }
    fs::write(place.path("phantom/bags.csv"), bags).unwrap();
    let data = ["data.train=phantom/bags.csv", "data.bag.max=3", "data.bag.pick=random"];
    let attention = ["model.bag_pooling=attention", "train.batch_size=3", "train.accum_freq=4"];
    for (name, keys) in [("mean", &[][..]), ("attention", &attention[..])] {
        let more = sets(&[&data[..], keys].concat());
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        place.train_ok(1, &format!("{name}-1"), &more);
        for ranks in [2, 3] {
            let several = format!("{name}-{ranks}");
            place.train_ok(ranks, &several, &more);
            place.assert_same_training(&format!("{name}-1"), &several);
        }
    }
}

/// Slices of volumes, drawn at random, through attention; with a frozen image tower by features that are kept of them.
#[test]
fn ranks_train_volumes_as_one_process_does() {
    let Some(place) = Place::new() else { return };
    let out = place.one(&["data", "synth", "--volumes", "--out", "ct", "--patients", "40", "--size", "32"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let keys = ["data.train=ct/manifest.csv", "data.window=[-1000, 400]", "data.bag.max=4", "data.bag.pick=random"];
    let keys = [&keys[..], &["model.bag_pooling=attention", "train.batch_size=6"]].concat();
    let still = ["freeze.image=all", "augment.rotation=0", "augment.brightness=0"];
    for (name, more) in [("volumes", &[][..]), ("frozen", &still[..])] {
        let more = sets(&[&keys[..], more].concat());
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        place.train_ok(1, &format!("{name}-1"), &more);
        place.train_ok(2, &format!("{name}-2"), &more);
        place.assert_same_training(&format!("{name}-1"), &format!("{name}-2"));
    }
}

/// The sigmoid loss has a bias that is trained.
#[test]
fn ranks_train_a_siglip_as_one_process_does() {
    let Some(place) = Place::new() else { return };
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/encoders/siglip");
    let model = place.path("siglip");
    fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(from.join(file), model.join(file)).unwrap();
    }
    let reports = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap().to_lowercase();
    let words: BTreeSet<&str> = reports.split(|c: char| !c.is_alphabetic()).filter(|w| w.len() > 3).collect();
    let mut vocab = serde_json::Map::new();
    for (i, word) in ["<unk>", "</s>", "<pad>"].into_iter().chain(words).take(60).enumerate() {
        vocab.insert(word.into(), i.into());
    }
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let preprocessor = serde_json::json!({
        "image_processor_type": "SiglipImageProcessor", "do_resize": true, "size": {"height": 16, "width": 16},
        "resample": 3, "do_rescale": true, "rescale_factor": 1.0 / 255.0, "do_normalize": true,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    });
    fs::write(model.join("preprocessor_config.json"), preprocessor.to_string()).unwrap();
    let config = "seed = 1\nmodel.path = \"siglip\"\ndata.train = \"phantom/manifest.csv\"\nloss.kind = \"siglip\"\n\
                  loss.label_smoothing = 0.1\ntrain = { batch_size = 7, max_steps = 10, checkpoint_every = 5 }\n\
                  optim = { lr = 1e-4 }\n";
    fs::write(place.path("tiny.toml"), config).unwrap();
    place.train_ok(1, "one", &[]);
    for ranks in [2, 3, 4] {
        let several = format!("ranks-{ranks}");
        place.train_ok(ranks, &several, &[]);
        place.assert_same_training("one", &several);
    }
}

/// A rank none of whose rows can be read gives the sums nothing; what was skipped is told as by one process.
#[test]
fn rows_that_cannot_be_read_are_missing_from_the_joined_batch_alone() {
    let Some(place) = Place::new() else { return };
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let images: Vec<&str> =
        manifest.lines().filter(|l| l.contains(",train")).map(|l| l.split(',').next().unwrap()).collect();
    for image in images.iter().step_by(6) {
        fs::write(place.path("phantom").join(image), b"\x89PNG\r\n\x1a\nno image").unwrap();
    }
    let more = sets(&["data.on_error=skip", "data.max_skipped=1000", "train.batch_size=4"]);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    place.train_ok(1, "one", &more);
    for ranks in [2, 4] {
        let several = format!("ranks-{ranks}");
        place.train_ok(ranks, &several, &more);
        place.assert_same_training("one", &several);
        let lines = |run: &str| -> BTreeSet<String> {
            let text = fs::read_to_string(place.path(run).join("skipped.jsonl")).unwrap();
            text.lines().map(str::to_string).collect()
        };
        assert_eq!(lines("one").len(), lines(&several).len());
    }
    // Where rows may not be skipped, one line tells which, and nobody hangs.
    let started = Instant::now();
    let output = place.train(4, "stops", &sets(&["train.batch_size=4"]).iter().map(String::as_str).collect::<Vec<_>>());
    assert!(!output.status.success() && started.elapsed() < Duration::from_secs(30));
    let stderr = text(&output.stderr);
    assert!(stderr.lines().any(|l| l.starts_with("error: rank ") && l.contains("manifest.csv:")), "{stderr}");
}

#[test]
fn a_run_of_four_ranks_resumes_on_two_and_on_one() {
    let Some(place) = Place::new() else { return };
    let set = ["--set", "train.ema=0.9"];
    place.train_ok(1, "one", &set);
    let part = |ranks: usize, stop: &str, more: &[&str]| {
        let stop = format!("train.stop_after={stop}");
        let output = place.train_ok(ranks, "parts", &[&set[..], &["--set", &stop], more].concat());
        text(&output.stderr)
    };
    assert!(part(4, "3", &[]).contains("stopped at step 3 of 10"));
    assert!(part(2, "7", &["--resume", "latest"]).contains("stopped at step 7 of 10"));
    part(1, "99", &["--resume", "latest"]);
    place.assert_same_training("one", "parts");
    let (one, parts) = (fs::read(place.path("one/metrics.jsonl")), fs::read(place.path("parts/metrics.jsonl")));
    assert_eq!(text(&one.unwrap()).lines().count(), text(&parts.unwrap()).lines().count(), "no step twice");
}

#[test]
fn shards_are_shared_and_are_those_of_one_process() {
    let Some(place) = Place::new() else { return };
    place.train_ok(1, "run", &["--set", "train.max_steps=2"]);
    let args = |data, out| {
        ["embed", "--model", "run/model", "--data", data, "--batch-size", "4", "--shard-rows", "4", "--out", out]
    };
    let output = place.one(&args("phantom/manifest.csv", "one/"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = place.mpirun(&[(3, &args("phantom/manifest.csv", "three/"))]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 1, "one rank speaks: {}", text(&output.stdout));
    let mut shards = 0;
    for part in ["", "rows"] {
        for entry in fs::read_dir(place.path("one").join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let other = place.path("three").join(part).join(path.file_name().unwrap());
                assert!(fs::read(&path).unwrap() == fs::read(&other).unwrap(), "{}", path.display());
                shards += usize::from(path.extension().is_some_and(|ending| ending == "safetensors"));
            }
        }
    }
    assert!(shards > 6, "{shards} shards");
    // Shards that are there are kept, by all.
    let output = place.mpirun(&[(2, &args("phantom/manifest.csv", "three/"))]).output().unwrap();
    assert!(text(&output.stdout).contains(&format!("in {shards} shards, {shards} of them kept")), "{output:?}");
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let cut: Vec<&str> = manifest.lines().take(9).collect();
    fs::write(place.path("phantom/cut.csv"), cut.join("\n")).unwrap();
    let (a, b) = (args("phantom/manifest.csv", "other/"), args("phantom/cut.csv", "other/"));
    let output = place.mpirun(&[(1, &a), (1, &b)]).output().unwrap();
    assert!(text(&output.stderr).contains("has other rows, options or another model than"), "{output:?}");
    assert!(!place.path("other").exists());
    let file = args("phantom/manifest.csv", "all.safetensors");
    let output = place.mpirun(&[(2, &[&file[..5], &file[9..]].concat())]).output().unwrap();
    assert!(text(&output.stderr).contains("one writes a file; name a folder"), "{output:?}");
}

#[test]
fn ranks_that_disagree_are_refused_with_the_difference() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("other.toml"), CONFIG.replace("lr = 1e-4", "lr = 2e-3")).unwrap();
    place.one(&["data", "synth", "--out", "more", "--patients", "60", "--size", "32"]);
    fs::write(place.path("data.toml"), CONFIG.replace("phantom/", "more/")).unwrap();
    // Labels of validation rows alone differ: training does not see them, validation does.
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let relabelled = |line: &str| match line.rsplit_once(',') {
        Some((rest, "normal")) if line.contains(",val,") => format!("{rest},consolidation\n"),
        _ => format!("{line}\n"),
    };
    let other: String = manifest.lines().map(relabelled).collect();
    assert_ne!(other.trim_end(), manifest.trim_end(), "a validation row is normal");
    fs::write(place.path("phantom/other.csv"), other).unwrap();
    let labelled = format!("{CONFIG}[loss]\nprompts = \"classes.toml\"\n");
    fs::write(place.path("labelled.toml"), &labelled).unwrap();
    fs::write(place.path("relabelled.toml"), labelled.replace("manifest.csv", "other.csv")).unwrap();
    for (first, config, expected) in [
        ("tiny.toml", "other.toml", "ranks disagree: optim.lr is 0.0001 on rank 0 on host"),
        ("tiny.toml", "data.toml", "ranks disagree: the pairs' fingerprint is"),
        ("labelled.toml", "relabelled.toml", "ranks disagree: the labels' and prompts' fingerprint is"),
    ] {
        let (a, b) = (["train", first, "--out", "run"], ["train", config, "--out", "run"]);
        let output = place.mpirun(&[(1, &a), (2, &b)]).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        let lines: Vec<&str> = stderr.lines().filter(|l| l.starts_with("error: ") && l.contains("disagree")).collect();
        assert!(lines.iter().any(|l| l.contains(expected) && l.contains("on rank 1 on host")), "{stderr}");
        let distinct: BTreeSet<&&str> = lines.iter().collect();
        assert_eq!(distinct.len(), lines.len(), "told by one rank: {stderr}");
        assert!(!place.path("run/metrics.jsonl").exists());
        drop(fs::remove_dir_all(place.path("run")));
    }
    // Validations hold images against prompts whatever the objective is.
    let prompts = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("prompts/phantom.toml")).unwrap();
    fs::write(place.path("a.toml"), &prompts).unwrap();
    fs::write(place.path("b.toml"), prompts.replace("Lung fields are", "The lungs are")).unwrap();
    let args = |set| ["train", "tiny.toml", "--out", "run", "--set", set];
    let (a, b) = (args("loss.prompts=a.toml"), args("loss.prompts=b.toml"));
    let output = place.mpirun(&[(1, &a), (1, &b)]).output().unwrap();
    let stderr = text(&output.stderr);
    assert!(stderr.contains("ranks disagree: the labels' and prompts' fingerprint is"), "{stderr}");
}

#[test]
fn what_is_wrong_for_all_is_told_once() {
    let Some(place) = Place::new() else { return };
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let images = manifest.lines().filter(|l| l.contains(",train")).map(|l| l.split(',').next().unwrap());
    images.for_each(|image| fs::write(place.path("phantom").join(image), "no image").unwrap());
    let output = place.train(3, "run", &["--set", "train.eval_every=100"]);
    let stderr = text(&output.stderr);
    let errors: Vec<&str> = stderr.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(errors.len() == 1 && errors[0].starts_with("error: rank 0 on host "), "{stderr}");
    assert!(errors[0].contains("manifest.csv:"), "{stderr}");
    let output = place.train(2, "run2", &["--set", "train.batch_size=0", "--set", "optim.lr=-1"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().filter(|l| l.starts_with("error: ")).count(), 2, "{stderr}");
    // Too many ranks for a step; a command that is for one process.
    let output = place.train(4, "run3", &["--set", "train.batch_size=3"]);
    assert!(text(&output.stderr).contains("is 3, fewer than the 4 ranks"), "{}", text(&output.stderr));
    let output = place.mpirun(&[(2, &["eval", "--model", "m", "--data", "d"])]).output().unwrap();
    assert!(
        text(&output.stderr).contains("only `train`, `embed` and `bench` run on several"),
        "{}",
        text(&output.stderr)
    );
}

/// Starts a long run, waits for its first checkpoint and sends `signal` to the given rank.
fn lose(place: &Place, ranks: usize, rank: usize, signal: &str) -> (Child, Instant) {
    let keys =
        ["train.max_steps=1000000", "train.rank_timeout=3", "train.eval_every=1000000", "train.checkpoint_every=20"];
    let more = sets(&keys);
    let args: Vec<&str> =
        ["train", "tiny.toml", "--out", "run"].into_iter().chain(more.iter().map(String::as_str)).collect();
    let mut child = place.mpirun(&[(ranks, &args)]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !place.path("run/checkpoints/step-00000020").is_dir() && Instant::now() < deadline {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
    let environment = |pid: &str| fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let here = format!("PWD={}", place.dir.path().display());
    let is_it = |pid: &String| {
        let environment = environment(pid);
        let has = |what: &str| environment.split(|b| *b == 0).any(|v| v == what.as_bytes());
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        has(&wanted) && (cwd == place.dir.path() || has(&here))
    };
    let pid =
        names(Path::new("/proc")).into_iter().filter(|n| n.parse::<u32>().is_ok()).find(is_it).expect("that rank");
    let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
    assert!(sent.success());
    (child, Instant::now())
}

/// Waits for the end of the others, which must come within `limit`.
fn end_of(mut child: Child, since: Instant, limit: Duration) -> String {
    while child.try_wait().unwrap().is_none() {
        assert!(since.elapsed() < limit, "the others still run after {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    text(&output.stderr)
}

#[test]
fn a_stopped_rank_ends_the_others_and_the_run_goes_on_from_its_checkpoint() {
    for lost in [1, 0] {
        let Some(place) = Place::new() else { return };
        let (child, since) = lose(&place, 3, lost, "-STOP");
        let stderr = end_of(child, since, Duration::from_secs(20));
        let told: Vec<&str> = stderr.lines().filter(|l| l.contains("given no sign of life")).collect();
        assert!(told.len() == 1 && told[0].contains(&format!("rank {lost} on host ")), "{stderr}");
        let more = sets(&["train.max_steps=1000000", "train.eval_every=1000000", "train.checkpoint_every=20"]);
        let before = last_checkpoint(&place);
        let stop = format!("train.stop_after={}", before + 3);
        let more: Vec<&str> = more.iter().map(String::as_str).chain(["--set", &stop, "--resume", "latest"]).collect();
        place.train_ok(2, "run", &more);
        assert_eq!(last_checkpoint(&place), before + 3);
    }
}

#[test]
fn a_killed_rank_ends_the_others() {
    let Some(place) = Place::new() else { return };
    let (child, since) = lose(&place, 3, 2, "-KILL");
    let stderr = end_of(child, since, Duration::from_secs(20));
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    // Open MPI's mpirun tells of it before the other ranks can.
    let told = stderr.lines().any(|l| l.contains("rank 2 ") && l.contains(host.trim()));
    assert!(told, "{stderr}");
    let last = last_checkpoint(&place);
    let folder = place.path(&format!("run/checkpoints/step-{last:08}"));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        candle_core::safetensors::load(folder.join(file), &Device::Cpu).unwrap();
    }
}

/// Whichever rank is asked: all stop at one step, and save.
#[test]
fn a_rank_that_is_asked_to_stop_stops_all() {
    let Some(place) = Place::new() else { return };
    let (child, _) = lose(&place, 3, 1, "-TERM");
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    let step = last_checkpoint(&place);
    assert!(stderr.contains(&format!("stopped at step {step} of")), "{stderr}");
    assert_eq!(place.steps("run").len() as u64, step);
}

fn last_checkpoint(place: &Place) -> u64 {
    let steps = names(&place.path("run/checkpoints"));
    steps.iter().filter_map(|n| n.strip_prefix("step-")?.parse().ok()).max().unwrap()
}

#[test]
fn collectives_are_measured() {
    let Some(place) = Place::new() else { return };
    let args = ["bench", "collectives", "--mib", "0.01,1", "--rounds", "3", "--json"];
    let output = place.mpirun(&[(2, &args)]).output().unwrap();
    let figures: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr)));
    assert_eq!(figures["ranks"], 2);
    assert!(figures["figures"][1]["sum_s"]["median"].as_f64().unwrap() > 0.0, "{figures}");
    let args =
        ["bench", "train-step", "--batch-size", "3", "--image-size", "32", "--steps", "2", "--tokens", "4", "--json"];
    let output = place.mpirun(&[(2, &args)]).output().unwrap();
    let figures: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr)));
    assert!(figures["loss"].as_f64().unwrap() > 0.0, "{figures}");
}
