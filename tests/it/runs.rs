//! The program as users run it: training, resuming after kills, bad input, and what reads a trained model.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::common::gray;
use reportclip::data::image;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_reportclip");

/// A folder with a small phantom set and a config that trains a tiny model on it in a few seconds.
pub struct Place {
    dir: tempfile::TempDir,
}

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
vision_layers = 1
vision_heads = 2
text_width = 16
text_layers = 1
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
checkpoint_every = 2
[optim]
lr = 1e-3
[eval]
bootstrap = 50
"#;

impl Place {
    pub fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let out = place.run(&["data", "synth", "--out", "phantom", "--patients", "40", "--size", "32"]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        fs::write(place.path("tiny.toml"), CONFIG).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args).current_dir(self.dir.path()).env("RUST_BACKTRACE", "1").env("HF_HUB_OFFLINE", "1");
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn train(&self, out: &str, more: &[&str]) -> Output {
        self.run(&[&["train", "tiny.toml", "--out", out], more].concat())
    }

    pub fn train_ok(&self, out: &str, more: &[&str]) -> Output {
        let output = self.train(out, more);
        assert!(output.status.success(), "{}", text(&output.stderr));
        output
    }

    /// Trains without `--out`.
    pub fn train_ok_in(&self, args: &[&str]) {
        let output = self.run(&[&["train", "tiny.toml"], args].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// [`LONG_RUN`], once it has done three steps.
    #[cfg(unix)]
    fn long_run(&self, command: &mut Command) -> Child {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let metrics = self.path("run/metrics.jsonl");
        while !fs::read_to_string(&metrics).is_ok_and(|t| t.contains("\"step\":3,")) {
            assert!(child.try_wait().unwrap().is_none(), "it ended before step 3");
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    pub fn assert_same_run(&self, a: &str, b: &str) {
        for file in ["metrics.jsonl", "model/model.safetensors", "model/tokenizer.json", "model/README.md"] {
            let (x, y) = (fs::read(self.path(a).join(file)).unwrap(), fs::read(self.path(b).join(file)).unwrap());
            assert!(x == y, "{file} differs between {a} and {b}");
        }
    }

    /// The `error: …` lines of a command that must fail with `code`; checks that it fails politely.
    pub fn errors(&self, args: &[&str], code: i32) -> Vec<String> {
        let output = self.run(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        for bad in ["panicked", "stack backtrace", "a bug in reportclip", "   0: "] {
            assert!(!stderr.contains(bad), "{args:?}: {stderr}");
        }
        let errors: Vec<String> =
            stderr.lines().filter_map(|l| l.strip_prefix("error: ")).map(str::to_string).collect();
        assert!(!errors.is_empty(), "{args:?}: {stderr}");
        errors
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{e}: {}", text(bytes)))
}

#[test]
fn five_steps_resume_and_five_are_ten() {
    let place = Place::new();
    place.train_ok("ten", &[]);
    place.train_ok("five", &["--set", "train.stop_after=5"]);
    let half = fs::read_to_string(place.path("five/metrics.jsonl")).unwrap();
    assert!(half.lines().count() < 10 && half.contains("\"step\":5"));
    // Between two validations, so that what pauses can be held against others; forgotten when the run goes on.
    let last = json(half.lines().last().unwrap().as_bytes());
    assert_eq!((&last["kind"], &last["step"]), (&Value::from("eval"), &Value::from(5)), "validated where it stopped");
    place.train_ok("five", &["--resume", "latest"]);
    place.assert_same_run("ten", "five");
    let metrics = fs::read_to_string(place.path("ten/metrics.jsonl")).unwrap();
    let steps = metrics.lines().filter(|l| l.contains("\"kind\":\"step\"")).count();
    let evals = metrics.lines().filter(|l| l.contains("\"kind\":\"eval\"")).count();
    assert_eq!((steps, evals), (10, 4), "evaluated at 0, 4, 8 and 10");
    for key in ["loss", "loss_hard", "loss_excess", "chance", "batch_accuracy", "logit_scale", "grad_norm", "lr"] {
        assert!(metrics.lines().nth(1).unwrap().contains(&format!("\"{key}\":")), "{key}");
    }
    // The same seed gives the same run; another gives another.
    place.train_ok("again", &[]);
    place.assert_same_run("ten", "again");
    place.train_ok("other", &["--set", "seed=4"]);
    let (a, b) = (place.path("ten/metrics.jsonl"), place.path("other/metrics.jsonl"));
    assert_ne!(fs::read(a).unwrap(), fs::read(b).unwrap());
}

/// Shards with a study's views, a second source with a weight, sections, chunks and every rule of drawing at once.
#[test]
fn five_steps_resume_whatever_is_drawn() {
    let place = Place::new();
    let shards = |name: &str| {
        let folder = place.path(&format!("sources/{name}"));
        for i in 0..24 {
            let study = folder.join(format!("p{name}{}/s{}", i / 3, i / 2));
            fs::create_dir_all(&study).unwrap();
            let picture = gray(40, 40, |x, y| (x * (i + 2) + y * 7) as u8);
            fs::write(study.join(format!("{i}.png")), image::png(&picture).unwrap()).unwrap();
            let text =
                format!("FINDINGS: Number {} is seen. It is long. And longer.\nIMPRESSION: Case {}.", i % 7, i % 5);
            fs::write(study.join(format!("{i}.txt")), text).unwrap();
        }
        let output =
            place.run(&["data", "prepare", "folder", folder.to_str().unwrap(), "--out", name, "--webdataset", "9"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    shards("one");
    shards("two");
    let options = [
        "--set",
        "data.train=[\"one/all-*.tar\", \"two/all-{000000..000002}.tar\"]",
        "--set",
        "data.weights=[1.5, 0.5]",
        "--set",
        "data.views=one_view",
        "--set",
        "data.sampling=class_balanced",
        "--set",
        "data.no_duplicate_reports=true",
        "--set",
        "data.length_buckets=2",
        "--set",
        "data.shuffle_buffer=10",
        "--set",
        "report.section=random_sentence",
        "--set",
        "report.long=chunk",
        "--set",
        "train.batch_size=4",
        "--set",
        "data.val=phantom/manifest.csv",
        "--set",
        "data.val_split=val",
    ];
    place.train_ok("ten", &options);
    place.train_ok("five", &[&options[..], &["--set", "train.stop_after=5"]].concat());
    place.train_ok("five", &[&options[..], &["--resume", "latest"]].concat());
    place.assert_same_run("ten", "five");
    let kept = fs::read_to_string(place.path("ten/model/reportclip_report.json")).unwrap();
    assert!(kept.contains("random_sentence") && kept.contains("chunk"), "{kept}");
    // Inference reads what the model read: a report without the section, and without a fallback, is refused.
    fs::write(place.path("bare.csv"), "image,report\ntiny.toml,___ .\n").unwrap();
    let errors = place.errors(&["eval", "--model", "ten/model", "--data", "bare.csv"], 1);
    assert!(errors[0].contains("report.section"), "{errors:?}");
}

/// How far a run is when it is killed: unlike a time, each is met on any machine, however quick.
#[derive(Clone, Copy)]
#[cfg(unix)]
enum Reached {
    Start,
    Config,
    Step(u64),
    /// One that is being written, or was.
    Checkpoint(u64),
    Model,
}

#[cfg(unix)]
impl Reached {
    fn by(self, run: &Path) -> bool {
        let either = |temporary: &str, name: &str| run.join(temporary).exists() || run.join(name).exists();
        match self {
            Self::Start => true,
            Self::Config => either(".config.toml.tmp", "config.toml"),
            Self::Step(n) => {
                let line = format!("\"kind\":\"step\",\"step\":{n},");
                fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|text| text.contains(&line))
            }
            Self::Checkpoint(n) => {
                let folders = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
                let step = |name: String| name.split(['-', '.']).filter_map(|part| part.parse::<u64>().ok()).next();
                folders.filter_map(|f| step(f.file_name().into_string().ok()?)).any(|step| step >= n)
            }
            Self::Model => either(".model.tmp", "model"),
        }
    }
}

#[cfg(unix)]
#[test]
fn a_run_that_is_killed_at_any_moment_resumes_to_the_same_end() {
    const MOMENTS: [(Reached, u64); 13] = [
        (Reached::Start, 2),
        (Reached::Config, 0),
        (Reached::Step(1), 0),
        (Reached::Checkpoint(2), 0),
        (Reached::Step(5), 3),
        (Reached::Model, 0),
        (Reached::Checkpoint(10), 1),
        (Reached::Checkpoint(12), 4),
        (Reached::Step(17), 2),
        (Reached::Checkpoint(22), 0),
        (Reached::Step(25), 5),
        // Too late where the end is quick.
        (Reached::Step(60), 0),
        (Reached::Step(60), 2),
    ];
    let longer = ["--set", "train.max_steps=60", "--set", "train.eval_every=8"];
    let place = Place::new();
    place.train_ok("whole", &longer);
    let run = place.path("killed");
    let resume = || if run.join("config.toml").exists() { &["--resume", "latest"][..] } else { &[] };
    let mut hits = 0;
    for (reached, milliseconds) in MOMENTS {
        let args = [&["train", "tiny.toml", "--out", "killed"], &longer[..], resume()].concat();
        let mut child = place.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !reached.by(&run) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        hits += usize::from(!child.wait().unwrap().success());
    }
    assert!(hits > 6, "only {hits} kills hit a running process");
    place.train_ok("killed", &[&longer[..], resume()].concat());
    place.assert_same_run("whole", "killed");
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_ends_well() {
    let place = Place::new();
    let child = place.long_run(&mut place.command(&LONG_RUN));
    // Nobody else may work in its folder meanwhile.
    for (more, code) in [(&[][..], 2), (&["--resume", "latest"], 1)] {
        let errors = place.errors(&[&LONG_RUN[..], more].concat(), code);
        let held = errors[0].contains("another process is working in it") || errors[0].contains("holds a run already");
        assert!(errors.len() == 1 && held, "{errors:?}");
    }
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    // So that `train && eval` does not go on.
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("go on with --resume latest"), "{}", text(&output.stderr));
    assert!(fs::read_dir(place.path("run/checkpoints")).unwrap().count() > 0);
    assert!(place.path("run/model/model.safetensors").is_file());
}

#[cfg(unix)]
#[test]
fn nohup_keeps_a_run_from_hanging_up() {
    let place = Place::new();
    // Kept for the whole process, as `nohup` does it.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", BINARY]).args(LONG_RUN);
    let child = place.long_run(command.current_dir(place.path("")));
    let steps = || fs::read_to_string(place.path("run/metrics.jsonl")).unwrap().lines().count();
    signal(&child, "-HUP");
    let before = steps();
    while steps() < before + 20 {
        std::thread::sleep(Duration::from_millis(10));
    }
    signal(&child, "-TERM");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(3));
}

/// A run that lasts until it is stopped.
#[cfg(unix)]
const LONG_RUN: [&str; 8] =
    ["train", "tiny.toml", "--out", "run", "--set", "train.max_steps=100000", "--set", "eval.bootstrap=0"];

#[cfg(unix)]
fn signal(child: &Child, which: &str) {
    Command::new("kill").args([which, &child.id().to_string()]).status().unwrap();
}

#[test]
fn resuming_another_run_is_refused() {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.stop_after=4"]);
    let args = |set: &'static str| ["train", "tiny.toml", "--out", "run", "--resume", "latest", "--set", set];
    let errors = place.errors(&args("optim.lr=1e-4"), 2);
    assert_eq!(errors, ["cannot resume run: optim.lr was 0.001 and is 0.0001 now"]);
    let errors = place.errors(&args("train.max_steps=20"), 2);
    assert!(errors[0].contains("another length would change every learning rate"), "{errors:?}");
    let errors = place.errors(&["train", "tiny.toml", "--out", "run"], 2);
    assert!(errors[0].contains("holds a run already; continue it with --resume latest"), "{errors:?}");
    let errors = place.errors(&["train", "tiny.toml", "--out", "none", "--resume", "latest"], 1);
    assert!(errors[0].contains("holds no run to resume"), "{errors:?}");
    // The other pairs under the same name.
    let manifest = place.path("phantom/manifest.csv");
    let rows = fs::read_to_string(&manifest).unwrap().replacen("IMPRESSION", "Impression", 1);
    fs::write(&manifest, rows).unwrap();
    let errors = place.errors(&["train", "tiny.toml", "--out", "run", "--resume", "latest"], 1);
    assert!(errors[0].contains("the pairs are not those that the run was started on"), "{errors:?}");
}

#[test]
fn all_config_problems_are_told_at_once_with_lines_and_hints() {
    let place = Place::new();
    let broken = "sed = 1\n[loss]\nlable_smoothing = 0.1\nlabel_smoothing = 1.5\n[train]\nbatch_size = \"big\"\n\
                  eval_every = \"two weeks\"\n[data]\ntrain = \"nowhere.csv\"\n[model]\ninit = \"randm\"\n";
    fs::write(place.path("broken.toml"), broken).unwrap();
    let mut errors = place.errors(&["train", "broken.toml", "--set", "optim.schedule=cosin"], 2);
    errors.sort();
    let expected = [
        "--set optim.schedule: is the text \"cosin\"; allowed is \"cosine\", \"linear\", \"constant\"",
        "broken.toml:11: model.init: is the text \"randm\"; allowed is \"pretrained\", \"random\"",
        "broken.toml:1: sed: unknown key; did you mean `seed`?",
        "broken.toml:3: loss.lable_smoothing: unknown key; did you mean `loss.label_smoothing`?",
        "broken.toml:4: loss.label_smoothing: is 1.5; allowed is a number from 0 to 1, or { from, to, over } \
         with over a length of training",
        "broken.toml:6: train.batch_size: is the text \"big\"; allowed is a whole number from 1 to 1048576",
        "broken.toml:7: train.eval_every: is the text \"two weeks\"; allowed is a number of steps, or \"N samples\", \
         \"N epochs\", \"N%\"",
        "broken.toml:9: data.train: nowhere.csv: there is no such file",
        "broken.toml: model.path is missing; name a folder or a hub id such as \"openai/clip-vit-base-patch32\", or \
         two towers as model.image and model.text, or say init = \"random\"",
    ];
    let mut expected = expected.map(str::to_string);
    expected.sort();
    assert_eq!(errors, expected);
}

#[test]
fn bad_data_is_one_clear_line_each() {
    let place = Place::new();
    let good = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let train = |manifest: &str, more: &[&str], code: i32| -> Vec<String> {
        fs::write(place.path("phantom/broken.csv"), manifest).unwrap();
        let args = ["train", "tiny.toml", "--out", "run", "--set", "data.train=phantom/broken.csv"];
        let errors = place.errors(&[&args[..], more].concat(), code);
        assert!(!place.path("run").exists(), "nothing is made before everything was checked");
        errors
    };
    let lines: Vec<&str> = good.lines().collect();
    let with = |row: &str| format!("{}\n{row}\n{}\n", lines[0], lines[1..].join("\n"));

    let errors = train(&with("images/none.png,Text,P9,S9,train,normal"), &[], 2);
    assert!(
        errors[0]
            .starts_with("phantom/broken.csv:2: image: there is no such file below phantom; check data.image_root")
    );
    let errors = train(&with("images/P0001-S1.png,,P9,S9,train,normal"), &[], 2);
    assert_eq!(errors[0], "phantom/broken.csv:2: the report is empty");
    let errors = train(&good.replace("report", "reprot"), &[], 2);
    assert!(errors[0].contains("there is no column \"report\""), "{errors:?}");
    let errors = train(&good.replace(",train,", ",training,"), &[], 2);
    assert!(errors[0].contains("no row has split \"train\"; the splits are "), "{errors:?}");
    let errors = train(&good, &["--set", "train.batch_size=100000"], 2);
    assert!(errors[0].contains("make the batch smaller"), "{errors:?}");
    let errors = train(&good, &["--set", "train.batch_size=1"], 2);
    assert!(errors[0].contains("needs at least 2 pairs"), "{errors:?}");
    let errors = train(&good, &["--set", "augment.horizontal_flip=on"], 2);
    assert!(errors[0].contains("training reports name a side"), "{errors:?}");
    let errors = train(&good, &["--set", "freeze.image=9"], 2);
    assert_eq!(errors[0], "freeze.image: is 9, but that tower has 1 blocks; allowed is 0 to 1");

    // A patient on both sides; the number of patients is told, not who.
    let patient = lines[1].split(',').rev().nth(3).unwrap().to_string();
    let leaked = with(&lines[1].replace(",train,", ",val,").replace(",test,", ",train,"));
    let leaked = leaked.replace(&format!(",{patient},{patient}"), ",LEAK,LEAK");
    let errors = train(&leaked, &[], 2);
    assert!(errors[0].contains("1 patients stand in training and in another split"), "{errors:?}");
    assert!(!errors[0].contains("LEAK"), "{errors:?}");
}

#[test]
fn a_truncated_image_stops_or_is_skipped_and_counted() {
    let place = Place::new();
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let (line, row) = manifest.lines().enumerate().find(|(_, l)| l.contains(",train,")).unwrap();
    let image = place.path("phantom").join(row.split(',').next().unwrap());
    let bytes = fs::read(&image).unwrap();
    fs::write(&image, &bytes[..bytes.len() / 2]).unwrap();
    let args = ["train", "tiny.toml", "--out", "stop", "--set", "train.epochs=2", "--set", "train.max_steps=30"];
    let errors = place.errors(&args, 1);
    assert!(errors[0].contains(&format!("phantom/manifest.csv:{}: image ", line + 1)), "{errors:?}");
    assert!(errors[0].contains("cannot be decoded"), "{errors:?}");

    let args = ["--set", "train.max_steps=30", "--set", "data.on_error=skip"];
    place.train_ok("skip", &args);
    let skipped = fs::read_to_string(place.path("skip/skipped.jsonl")).unwrap();
    assert_eq!(skipped.lines().count(), 1, "counted once, however often it is met: {skipped}");
    let told = format!("{{\"manifest\":\"train\",\"line\":{},\"reason\":\"unreadable_image\"}}", line + 1);
    assert_eq!(skipped.trim(), told, "no file names");
    let args = ["train", "tiny.toml", "--out", "few", "--set", "train.max_steps=30", "--set", "data.on_error=skip"];
    let errors = place.errors(&[&args[..], &["--set", "data.max_skipped=0"]].concat(), 1);
    assert!(errors[0].contains("data.max_skipped is 0"), "{errors:?}");
    // Whatever meets it first says what to do.
    let args = ["train", "tiny.toml", "--out", "mined", "--set", "data.hard_negatives.k=2"];
    let errors = place.errors(&args, 1);
    let told = format!("mining hard negatives: phantom/manifest.csv:{}: image ", line + 1);
    assert!(errors[0].starts_with(&told), "{errors:?}");
    assert!(errors[0].ends_with("; mend it, or set data.on_error = \"skip\""), "{errors:?}");
}

#[test]
fn a_broken_validation_image_is_named_or_skipped() {
    let place = Place::new();
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let (line, row) = manifest.lines().enumerate().find(|(_, l)| l.contains(",val,")).unwrap();
    fs::write(place.path("phantom").join(row.split(',').next().unwrap()), "no image").unwrap();
    let errors = place.errors(&["train", "tiny.toml", "--out", "stop"], 1);
    assert!(errors[0].contains(&format!("phantom/manifest.csv:{}: image ", line + 1)), "{errors:?}");
    assert_eq!(errors[0].matches("manifest.csv").count(), 1, "{errors:?}");
    assert!(errors[0].ends_with("; mend it, or set data.on_error = \"skip\""), "{errors:?}");
    place.train_ok("skip", &["--set", "data.on_error=skip"]);
    let skipped = fs::read_to_string(place.path("skip/skipped.jsonl")).unwrap();
    let told = format!("{{\"manifest\":\"val\",\"line\":{},\"reason\":\"unreadable_image\"}}", line + 1);
    assert_eq!(skipped.trim(), told);
    // Interrupted and resumed, it is skipped again and told once.
    place.train_ok("half", &["--set", "data.on_error=skip", "--set", "train.stop_after=5"]);
    place.train_ok("half", &["--set", "data.on_error=skip", "--resume", "latest"]);
    place.assert_same_run("skip", "half");
    assert_eq!(fs::read_to_string(place.path("half/skipped.jsonl")).unwrap(), skipped);
}

#[test]
fn skipping_may_not_leave_less_than_a_step() {
    let place = Place::new();
    let good = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let mut few: Vec<&str> = good.lines().take(1).collect();
    few.extend(good.lines().filter(|l| l.contains(",train,")).take(5));
    fs::write(place.path("phantom/few.csv"), format!("{}\nnone.png,x,P,S,train,normal\n", few.join("\n"))).unwrap();
    let args = ["train", "tiny.toml", "--set", "data.train=phantom/few.csv", "--set", "data.on_error=skip"];
    let errors = place.errors(&args, 2);
    assert!(errors[0].contains("is 8, but phantom/few.csv has 5 training pairs"), "{errors:?}");
}

#[test]
fn going_back_to_an_earlier_checkpoint_forgets_the_later_ones() {
    let place = Place::new();
    place.train_ok("ten", &[]);
    place.train_ok("run", &["--set", "train.stop_after=6"]);
    let best_of_four = fs::read(place.path("run/checkpoints/step-00000004/model.safetensors")).unwrap();
    place.train_ok("ahead", &[]);
    assert_ne!(fs::read(place.path("ahead/model/model.safetensors")).unwrap(), best_of_four);
    place.train_ok_in(&["--resume", "run/checkpoints/step-00000004", "--set", "train.stop_after=5"]);
    let mut names: Vec<String> = fs::read_dir(place.path("run/checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["step-00000004", "step-00000005"]);
    place.train_ok("run", &["--resume", "latest"]);
    place.assert_same_run("ten", "run");
    // Nor is a folder with somebody's files.
    fs::create_dir_all(place.path("mine/model")).unwrap();
    let errors = place.errors(&["train", "tiny.toml", "--out", "mine"], 2);
    assert!(errors[0].contains("holds files already, and nothing is overwritten"), "{errors:?}");
    // Checkpoints without a run are not a free place.
    fs::create_dir_all(place.path("stale/checkpoints/step-00000005")).unwrap();
    let errors = place.errors(&["train", "tiny.toml", "--out", "stale"], 2);
    assert!(errors[0].contains("holds a run already"), "{errors:?}");
    // A shortened record is noticed.
    fs::write(place.path("run/metrics.jsonl"), "").unwrap();
    let errors = place.errors(&["train", "tiny.toml", "--out", "run", "--resume", "latest"], 1);
    assert!(errors[0].contains("has 0 bytes, the checkpoint noted"), "{errors:?}");
}

/// What is gone on with is told, and what is passed over.
#[cfg(unix)]
#[test]
fn a_checkpoint_without_its_state_is_not_passed_over_in_silence() {
    let place = Place::new();
    place.train_ok("ten", &[]);
    place.train_ok("run", &["--set", "train.stop_after=6"]);
    let state = place.path("run/checkpoints/step-00000006/state.json");
    fs::remove_file(&state).unwrap();
    assert!(Command::new("mkfifo").arg(&state).status().unwrap().success());
    let told = text(&place.train_ok("run", &["--resume", "latest"]).stderr);
    assert!(told.contains("step-00000006: has no state.json"), "{told}");
    assert!(told.contains("resumed at step 4 of 10"), "{told}");
    place.assert_same_run("ten", "run");
}

/// A run goes on with the teacher that it began with, wherever what it made is kept.
#[cfg(unix)]
#[test]
fn a_teacher_that_was_replaced_is_refused() {
    let place = Place::new();
    let short = ["--set", "train.max_steps=2"];
    place.train_ok("a", &short);
    place.train_ok("b", &[&short[..], &["--set", "seed=4"]].concat());
    fs::rename(place.path("a/model"), place.path("teach")).unwrap();
    let teacher = [
        "--set",
        "loss.kind=[\"clip\", \"distill\"]",
        "--set",
        "loss.teacher=./teach",
        "--set",
        "data.feature_cache=cache",
    ];
    let resume = [&teacher[..], &["--resume", "latest"]].concat();
    place.train_ok("run", &[&teacher[..], &["--set", "train.stop_after=4"]].concat());
    // A pipe in the place of what is kept is not waited for.
    let kept: Vec<_> = fs::read_dir(place.path("cache")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    fs::remove_file(&kept[0]).unwrap();
    assert!(Command::new("mkfifo").arg(&kept[0]).status().unwrap().success());
    place.train_ok("whole", &teacher);
    assert!(kept[0].is_file());
    fs::rename(place.path("teach"), place.path("aside")).unwrap();
    fs::rename(place.path("b/model"), place.path("teach")).unwrap();
    let errors = place.errors(&[&["train", "tiny.toml", "--out", "run"], &resume[..]].concat(), 1);
    let told = "cannot resume run: loss.teacher holds other files than when the run began";
    assert!(errors[0].starts_with(told), "{errors:?}");
    fs::remove_dir_all(place.path("teach")).unwrap();
    fs::rename(place.path("aside"), place.path("teach")).unwrap();
    // Runs of earlier versions do not say.
    let noted = place.path("run/data.json");
    let kept_data = fs::read(&noted).unwrap();
    let mut data = json(&kept_data);
    assert!(data.as_object_mut().unwrap().remove("teacher_content").is_some());
    fs::write(&noted, data.to_string()).unwrap();
    place.train_ok("run", &[&resume[..], &["--set", "train.stop_after=6"]].concat());
    // One that has moved is known by what it holds, where the run says.
    fs::rename(place.path("teach"), place.path("moved")).unwrap();
    let moved = [&resume[..], &["--set", "loss.teacher=./moved"]].concat();
    let errors = place.errors(&[&["train", "tiny.toml", "--out", "run"], &moved[..]].concat(), 2);
    assert!(errors.iter().any(|error| error.contains("/teach: there is no such folder")), "{errors:?}");
    fs::write(&noted, kept_data).unwrap();
    place.train_ok("run", &moved);
    place.assert_same_run("run", "whole");
    fs::rename(place.path("moved"), place.path("teach")).unwrap();
    // Nor is a pipe in the place of weights.
    fs::remove_file(place.path("teach/model.safetensors")).unwrap();
    assert!(Command::new("mkfifo").arg(place.path("teach/model.safetensors")).status().unwrap().success());
    let errors = place.errors(&[&["train", "tiny.toml", "--out", "pipe"], &teacher[..]].concat(), 2);
    assert!(errors[0].starts_with("loss.teacher: "), "{errors:?}");
}

#[test]
fn a_flat_schedule_may_be_made_longer() {
    let place = Place::new();
    let flat = ["--set", "optim.schedule=constant", "--set", "optim.warmup=3 steps"];
    place.train_ok("long", &flat);
    place.train_ok("grown", &[&flat[..], &["--set", "train.max_steps=8"]].concat());
    let grow = [&flat[..], &["--resume", "latest"]].concat();
    place.train_ok("grown", &grow);
    let steps = |run: &str| -> Vec<String> {
        let metrics = fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap();
        metrics.lines().filter(|l| l.contains("\"kind\":\"step\"")).map(str::to_string).collect()
    };
    assert_eq!(steps("long"), steps("grown"));
    let short = ["train", "tiny.toml", "--out", "grown", "--resume", "latest", "--set", "train.max_steps=3"];
    let errors = place.errors(&[&short[..], &flat[..]].concat(), 1);
    assert!(errors[0].contains("the checkpoint is at step 10, and the run would end at step 3"), "{errors:?}");
    // A warm-up in percent grows with the run: that is another schedule.
    let percent = ["--set", "optim.schedule=constant", "--set", "optim.warmup=50%"];
    place.train_ok("percent", &percent);
    let more = ["train", "tiny.toml", "--out", "percent", "--resume", "latest", "--set", "train.max_steps=20"];
    let errors = place.errors(&[&more[..], &percent[..]].concat(), 2);
    assert!(errors[0].contains("another length would change every learning rate"), "{errors:?}");
}

#[test]
fn phantoms_are_drawn_once_and_over_nothing() {
    let place = Place::new();
    let drawn = place.train_ok("drawn", &["--set", "data.train=new/manifest.csv", "--set", "data.phantom=30"]);
    assert!(!text(&drawn.stderr).contains("was there already"), "{}", text(&drawn.stderr));
    assert!(place.path("new/manifest.csv").is_file());
    fs::create_dir_all(place.path("mine/images")).unwrap();
    let args = ["train", "tiny.toml", "--set", "data.phantom=30", "--set"];
    let errors = place.errors(&[&args[..], &["data.train=mine/manifest.csv"]].concat(), 1);
    assert!(errors[0].contains("exists already; nothing is overwritten"), "{errors:?}");
    let errors = place.errors(&[&args[..], &["data.train=mine/other.csv"]].concat(), 2);
    assert!(errors[0].contains("must be a file manifest.csv"), "{errors:?}");
    // What is there is trained on although it is another set, and that is told.
    let older = text(&place.train_ok("older", &["--set", "data.phantom=60"]).stderr);
    let told = "data.phantom is 60, but phantom/manifest.csv was there already and has 40 patients: training on these";
    assert!(older.contains(told), "{older}");
}

#[test]
fn a_run_on_phantoms_that_it_drew_resumes() {
    let place = Place::new();
    let drawn = ["--set", "data.train=drawn/manifest.csv", "--set", "data.phantom=40"];
    place.train_ok("ten", &drawn);
    place.train_ok("five", &[&drawn[..], &["--set", "train.stop_after=5"]].concat());
    place.train_ok("five", &[&drawn[..], &["--resume", "latest"]].concat());
    place.assert_same_run("ten", "five");
}

#[test]
fn cut_reports_and_shared_images_are_told() {
    let place = Place::new();
    let out = place.train_ok("cut", &["--set", "model.context_length=12"]);
    assert!(text(&out.stderr).contains("of the training reports"), "{}", text(&out.stderr));
    let args = ["train", "tiny.toml", "--set", "data.val=phantom/manifest.csv", "--set", "data.val_split=train"];
    let errors = place.errors(&args, 2);
    assert!(errors[0].contains("patients stand in training and in another split"), "{errors:?}");
    let out = place.train_ok("none", &["--set", "data.val_split=valid"]);
    assert!(text(&out.stderr).contains("the splits are "), "{}", text(&out.stderr));
}

#[test]
fn an_image_on_both_sides_is_refused_and_a_look_alike_is_told() {
    let place = Place::new();
    let mut reader = csv::Reader::from_path(place.path("phantom/manifest.csv")).unwrap();
    let rows: Vec<HashMap<String, String>> = reader.deserialize().map(|r| r.unwrap()).collect();
    let of = |split: &str| place.path("phantom").join(&rows.iter().find(|r| r["split"] == split).unwrap()["image"]);
    let (train, val) = (of("train"), of("val"));
    let before = fs::read(&val).unwrap();
    // The same picture, encoded anew and a little darker.
    let mut darker = image::read(&train).unwrap();
    darker.bytes.iter_mut().for_each(|v| *v = v.saturating_sub(2));
    fs::write(&val, image::png(&darker).unwrap()).unwrap();
    let output = place.train_ok("near", &[]);
    assert!(text(&output.stderr).contains("look nearly the same as one in another split"), "{}", text(&output.stderr));
    fs::copy(&train, &val).unwrap();
    let errors = place.errors(&["train", "tiny.toml", "--out", "same"], 2);
    assert!(errors[0].contains("1 images stand in training and in another split"), "{errors:?}");
    fs::write(&val, before).unwrap();
    let output = place.train_ok("apart", &[]);
    assert!(!text(&output.stderr).contains("nearly the same"), "{}", text(&output.stderr));
}

#[test]
fn identifiers_stay_out_of_the_run_folder() {
    let place = Place::new();
    // A name that stands in one report: a rare word never becomes a token of its own.
    let manifest = place.path("phantom/manifest.csv");
    let rows = fs::read_to_string(&manifest).unwrap().replacen("FINDINGS:", "FINDINGS: Kowalczyk.", 1);
    fs::write(&manifest, rows).unwrap();
    place.train_ok("run", &[]);
    let mut files = 0;
    let mut folders = vec![place.path("run")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let bytes = fs::read(&path).unwrap();
            for needle in ["P0001", "P0002", "FINDINGS:", "findings:", "kowalczyk", "Kowalczyk"] {
                let found = bytes.windows(needle.len()).any(|w| w == needle.as_bytes());
                assert!(!found, "{} holds {needle}", path.display());
            }
        }
    }
    assert!(files > 10);
}

/// What is told last is of the split that chose nothing, and what `eval` says of the model that was handed over.
#[test]
fn training_ends_with_figures_of_the_split_that_chose_nothing() {
    let place = Place::new();
    let paused = json(&place.train_ok("run", &["--json", "--set", "train.stop_after=6"]).stdout);
    assert!(paused["best"].is_object() && paused["test"].is_null(), "it is not done");
    let shown = text(&place.train_ok("run", &["--resume", "latest"]).stdout);
    let outcome = json(&place.train_ok("run", &["--resume", "latest", "--json"]).stdout);
    let args = ["--data", "phantom/manifest.csv", "--split", "test", "--loss-batch-size", "8", "--json"];
    let report = json(&place.run(&[&["eval", "--model", "run/model"], &args[..]].concat()).stdout);
    let test = &outcome["test"];
    for direction in ["image_to_text", "text_to_image"] {
        assert_eq!(report[direction]["figures"], test["tuned"][direction]["figures"], "{direction}");
        assert_ne!(outcome["best"][direction]["figures"], test["tuned"][direction]["figures"], "{direction}");
    }
    let loss = |report: &Value| report["loss"].as_f64().unwrap();
    assert!((loss(&report) - loss(&test["tuned"])).abs() < 1e-5, "{test}");
    assert_ne!(loss(&test["untuned"]), loss(&test["tuned"]));
    let pairs = test["pairs"].as_u64().unwrap();
    assert!(shown.contains(&format!("judged on the {pairs} pairs of the split test, which chose nothing")), "{shown}");
    assert!(!shown.contains("lean high") && shown.contains("of the validation pairs"), "{shown}");

    // One that cannot be judged costs no run.
    let manifest = place.path("phantom/manifest.csv");
    let rows = fs::read_to_string(&manifest).unwrap();
    let row = rows.lines().find(|line| line.contains(",test,")).unwrap();
    let image = row.split(',').next().unwrap();
    fs::write(place.path("phantom").join(image), "no picture").unwrap();
    let output = place.train_ok("broken", &["--json"]);
    assert!(json(&output.stdout)["test"].is_null(), "{}", text(&output.stdout));
    let told = text(&output.stderr);
    let line = told.lines().find(|line| line.contains("the split test is not judged: ")).expect(&told);
    assert_eq!(line.matches("manifest.csv").count(), 1, "{line}");
    assert!(line.ends_with("; mend it, or set data.on_error = \"skip\""), "{line}");
    // Or is left out, before and after.
    let skip = ["--json", "--set", "data.on_error=skip"];
    let output = place.train_ok("left-out", &skip);
    let test = &json(&output.stdout)["test"];
    let tests = rows.lines().filter(|line| line.contains(",test,")).count();
    let broken = rows.lines().filter(|line| line.contains(",test,") && line.starts_with(&format!("{image},"))).count();
    assert_eq!(test["pairs"], (tests - broken) as u64, "{test}");
    assert!(test["untuned"].is_object() && test["tuned"].is_object(), "{test}");
    let skipped = fs::read_to_string(place.path("left-out/skipped.jsonl")).unwrap();
    assert_eq!(skipped.lines().count(), broken, "{skipped}");
    assert!(skipped.lines().all(|line| line.starts_with("{\"manifest\":\"test\",")), "{skipped}");
    // Of two lists, rows on the same line are two.
    let val = rows.lines().find(|line| line.contains(",val,")).unwrap();
    let held_out = rows.lines().map(|line| if line.contains(",train,") { val } else { line });
    fs::write(place.path("phantom/val.csv"), held_out.collect::<Vec<_>>().join("\n")).unwrap();
    place.train_ok("two-lists", &[&skip[..], &["--set", "data.val=phantom/val.csv"]].concat());
    let skipped = fs::read_to_string(place.path("two-lists/skipped.jsonl")).unwrap();
    let of = |list: &str| skipped.matches(&format!("{{\"manifest\":\"{list}\",")).count();
    assert_eq!((of("test"), of("test file 2")), (broken, broken), "{skipped}");
    // Nor does it cost a run that they are too many.
    let output = place.train_ok("none-left-out", &[&skip[..], &["--set", "data.max_skipped=0"]].concat());
    assert!(json(&output.stdout)["test"].is_null(), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("and data.max_skipped is 0"), "{}", text(&output.stderr));
    // Without such a split the validation pairs are told, with a warning.
    fs::write(&manifest, rows.replace(",test,", ",other,")).unwrap();
    let shown = text(&place.train_ok("without", &[]).stdout);
    assert!(shown.contains("lean high") && !shown.contains("split test,"), "{shown}");
}

#[test]
fn a_trained_model_evaluates_embeds_and_searches() {
    let place = Place::new();
    let out = place.train_ok("run", &["--json"]);
    let outcome = json(&out.stdout);
    assert_eq!(outcome["steps"], 10);
    let model = "run/model";
    let eval = place.run(&["eval", "--model", model, "--data", "phantom/manifest.csv", "--split", "val", "--json"]);
    let report = json(&eval.stdout);
    // The model in the run folder is the best one, and evaluates as it did during training.
    for direction in ["image_to_text", "text_to_image"] {
        assert_eq!(report[direction]["figures"], outcome["best"][direction]["figures"], "{direction}");
        assert!(report[direction]["chance"]["recall@1"].as_f64().unwrap() > 0.0);
    }
    let table = place.run(&["eval", "--model", model, "--data", "phantom/manifest.csv", "--split", "val"]);
    assert!(text(&table.stdout).contains("image→text recall@1"), "{}", text(&table.stdout));

    let embed = place.run(&["embed", "--model", model, "--data", "phantom/manifest.csv", "--out", "all.safetensors"]);
    assert!(embed.status.success(), "{}", text(&embed.stderr));
    let tensors = candle_core::safetensors::load(place.path("all.safetensors"), &candle_core::Device::Cpu).unwrap();
    let rows = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap().lines().count() - 1;
    assert_eq!(tensors["image_embeds"].dims(), [rows, 16]);
    assert_eq!(tensors["text_embeds"].dims(), [rows, 16]);
    assert_eq!(tensors["logits_per_image"].dims(), [rows, rows]);
    let norms: Vec<f32> = tensors["image_embeds"].sqr().unwrap().sum(1).unwrap().to_vec1().unwrap();
    assert!(norms.iter().all(|n| (n - 1.0).abs() < 1e-5));

    // An image of the index finds itself among the images.
    let files: Vec<String> = fs::read_dir(place.path("phantom/images"))
        .unwrap()
        .take(5)
        .map(|e| e.unwrap().path().display().to_string())
        .collect();
    let mut args = vec!["embed", "--model", model, "--out", "images.safetensors", "--images"];
    args.extend(files.iter().map(String::as_str));
    assert!(place.run(&args).status.success());
    let found = place.run(&["search", "--index", "images.safetensors", "--image", &files[2], "-k", "2", "--json"]);
    let found = json(&found.stdout);
    assert_eq!(found["hits"][0]["row"], 2);
    assert!((found["hits"][0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    assert_eq!(found["hits"].as_array().unwrap().len(), 2);
    let found = place.run(&["search", "--index", "all.safetensors", "--text", "left pleural effusion", "--json"]);
    assert_eq!(json(&found.stdout)["searched"], "image_embeds");
    // The exported model trains on.
    let args = ["--set", "model.init=pretrained", "--set", "model.path=run/model", "--set", "train.max_steps=2"];
    fs::write(place.path("tiny.toml"), "[data]\ntrain = \"phantom/manifest.csv\"\n[train]\nbatch_size = 8\n").unwrap();
    place.train_ok("tuned", &args);
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let place = Place::new();
    let out = place.run(&["train", "tiny.toml", "--dry-run"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let plan = text(&out.stdout);
    for word in [
        "weights",
        "training pairs",
        "steps: 10 of 8 pairs",
        "memory: about",
        "one step: loss",
        "no run folder was made",
    ] {
        assert!(plan.contains(word), "{word}: {plan}");
    }
    assert!(!place.path("runs").exists());
}

#[test]
fn gradient_caching_freezing_and_early_stopping_run() {
    let place = Place::new();
    let chunks = ["--set", "train.batch_size=4", "--set", "train.accum_freq=2"];
    place.train_ok("chunks", &chunks);
    place.train_ok("whole", &[]);
    let first = |run: &str| -> f64 {
        let metrics = fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap();
        json(metrics.lines().nth(1).unwrap().as_bytes())["loss"].as_f64().unwrap()
    };
    assert!((first("chunks") - first("whole")).abs() < 1e-5, "the same 8 pairs, in chunks or whole");
    place.train_ok("frozen", &["--set", "freeze.image=all", "--set", "freeze.text=1"]);
    let out = place.train_ok("early", &["--set", "train.early_stopping=1", "--set", "optim.lr=0.0"]);
    assert!(text(&out.stderr).contains("stopped early"), "{}", text(&out.stderr));
}

#[test]
fn loss_explain_shows_the_worked_example() {
    let place = Place { dir: tempfile::tempdir().unwrap() };
    let shown = text(&place.run(&["loss", "explain"]).stdout);
    for number in ["0.6590", "0.5363", "0.2663", "0.9333", "0.5137", "0.6796", "0.5966686", "0.4122", "1.0986"] {
        assert!(shown.contains(number), "{number}: {shown}");
    }
    let input = r#"{"logits": [[2.0,1.0,0.1],[0.5,1.5,0.8]], "targets": [0, 1], "label_smoothing": 0.1,
                    "class_weights": null, "ignore_index": -100}"#;
    fs::write(place.path("in.json"), input).unwrap();
    let out = json(&place.run(&["loss", "explain", "--input", "in.json", "--json"]).stdout);
    assert!((out["loss"].as_f64().unwrap() - 0.596_668_660_6).abs() < 1e-7);
    for key in ["probabilities", "smoothed_targets", "per_sample", "grad"] {
        assert_eq!(out[key].as_array().unwrap().len(), 2, "{key}");
    }
    let errors = place.errors(&["loss", "explain", "--logits", "[[1,2],[3]]", "--targets", "[0,0]"], 1);
    assert!(errors[0].contains("rows of one length"), "{errors:?}");
    let errors = place.errors(&["loss", "explain", "--logits", "[[1,2]]", "--targets", "[5]"], 1);
    assert!(errors[0].contains("target 5 of row 0 is outside 0..2"), "{errors:?}");
    let errors = place.errors(&["loss", "explain", "--label-smoothing", "1.5"], 1);
    assert!(errors[0].contains("allowed is 0.0 to 1.0"), "{errors:?}");
}

#[test]
fn unknown_models_say_what_to_do() {
    let place = Place::new();
    fs::write(place.path("m.toml"), "[data]\ntrain = \"phantom/manifest.csv\"\n[model]\npath = \"no/such\"\n").unwrap();
    let mut args = vec!["train", "m.toml", "--set", "train.batch_size=8"];
    let errors = place.errors(&args, 2);
    assert!(errors[0].contains("no/such@main") && errors[0].contains("HF_HUB_OFFLINE"), "{errors:?}");
    args.extend(["--set", "model.path=./nowhere"]);
    let errors = place.errors(&args, 2);
    assert!(errors[0].contains("nowhere"), "{errors:?}");
    let empty = Path::new("empty");
    fs::create_dir(place.path("empty")).unwrap();
    let errors = place.errors(&["eval", "--model", &empty.display().to_string(), "--data", "phantom/manifest.csv"], 1);
    assert!(errors[0].contains("config.json"), "{errors:?}");
}

#[test]
fn switches_for_gpus_change_nothing_on_a_cpu() {
    let place = Place::new();
    place.train_ok("plain", &[]);
    place.train_ok("switched", &["--set", "train.overlap_copies=true", "--set", "train.tensor_cores=true"]);
    place.assert_same_run("plain", "switched");
    // Copies belong to the machine: a run that began without them goes on with them.
    place.train_ok("later", &["--set", "train.stop_after=5"]);
    place.train_ok("later", &["--resume", "latest", "--set", "train.overlap_copies=true"]);
    place.assert_same_run("plain", "later");
}

#[test]
fn features_of_texts_under_a_frozen_tower_are_kept_and_change_nothing() {
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    // Opposites are other texts at each step, and stand beside what is kept.
    for (run, options, whats) in [
        ("clip", ["data.negation=0.5", "train.accum_freq=2"], &["reports"][..]),
        ("local", ["loss.kind=[\"clip\",\"local\"]", "train.accum_freq=2"], &["reports", "sentences"]),
        ("class", ["loss.kind=[\"class\",\"local\"]", "loss.prompts=classes.toml"], &["sentences"]),
        ("drawn", ["loss.kind=[\"clip\",\"local\"]", "report.section=random_sentence"], &["sentences"]),
    ] {
        let all = [&options[..], &["freeze.text=\"all\"", "train.max_steps=12"]].concat();
        let sets =
            |more: &[&'static str]| -> Vec<&str> { all.iter().chain(more).flat_map(|s| ["--set", *s]).collect() };
        let name = |which: &str| format!("{run}/{which}");
        let to_do = |told: &str, what: &str| {
            let (_, kept) =
                told.split_once(&format!("features of {what} are kept in ")).unwrap_or_else(|| panic!("{told}"));
            let mut words = kept.split(" MiB, ").nth(1).unwrap().split(' ');
            (words.next().unwrap().parse::<usize>().unwrap(), words.nth(1).unwrap().parse::<usize>().unwrap())
        };
        let with = text(&place.train_ok(&name("with"), &sets(&[])).stderr);
        let without = text(&place.train_ok(&name("without"), &sets(&["data.cache_features=false"])).stderr);
        let each_step = format!("features of {} are worked out at each step: data.cache_features is false", whats[0]);
        assert!(without.contains(&each_step), "{without}");
        let (a, b) = (losses_of(&place, &name("with")), losses_of(&place, &name("without")));
        assert!(a.len() == 12 && b.len() == 12);
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 1e-5 * b, "{run}: {a} with kept features, {b} without");
        }
        // Nothing is worked out again, and a run that was stopped goes on to the last bit.
        let first = text(&place.train_ok(&name("five"), &sets(&["train.stop_after=5"])).stderr);
        for what in whats {
            let (missing, all) = to_do(&with, what);
            assert!(missing == all && all > 10, "{with}");
            assert_eq!(to_do(&first, what), (0, all));
        }
        place.train_ok(&name("five"), &[&sets(&[])[..], &["--resume", "latest"]].concat());
        place.assert_same_run(&name("with"), &name("five"));
    }
    for (options, reason) in [
        (["freeze.text=all", "train.dropout=0.1"], "train.dropout is not 0"),
        (["freeze.text=all", "report.section=random_sentence"], "another part of a report is read at each step"),
        (["freeze.text=all", "freeze.text_until=4"], "freeze.text_until thaws the text tower"),
        (["freeze.text=1", "train.max_steps=4"], "a part of the text tower is trained"),
        (["freeze.text=all", "train.max_steps=1"], "hardly one is seen twice"),
    ] {
        let sets: Vec<&str> = options.iter().flat_map(|s| ["--set", *s]).collect();
        let told = text(&place.train_ok("other", &sets).stderr);
        assert!(
            told.contains(&format!("features of reports are worked out at each step: {reason}")),
            "{reason}: {told}"
        );
        fs::remove_dir_all(place.path("other")).unwrap();
    }
}

/// Mined from what is kept of frozen towers, negatives are those that are mined from files.
#[test]
fn hard_negatives_are_mined_from_kept_features() {
    let place = Place::new();
    let frozen = ["freeze.image=all", "freeze.text=all", "augment.rotation=0", "augment.brightness=0"];
    let mined = "data.hard_negatives={ k = 2, refresh = 4 }";
    let sets = |more: &[&'static str]| -> Vec<&str> {
        frozen.iter().chain(&["train.max_steps=12"]).chain(more).flat_map(|s| ["--set", *s]).collect()
    };
    let told = text(&place.train_ok("runs/with", &sets(&[mined])).stderr);
    assert!(told.contains("image features are kept in") && told.contains("features of reports are kept in"), "{told}");
    place.train_ok("runs/without", &sets(&[mined, "data.cache_features=false"]));
    let (a, b) = (losses_of(&place, "runs/with"), losses_of(&place, "runs/without"));
    assert!(a.len() == 12 && a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
    place.train_ok("runs/plain", &sets(&[]));
    assert_ne!(a, losses_of(&place, "runs/plain"), "negatives change the run");
    // It is mining, before the first step, that reads them.
    let mut files = fs::read_dir(place.path("runs/feature-cache")).unwrap().map(|file| file.unwrap().path());
    let images = files.find(|path| !path.file_name().unwrap().to_str().unwrap().starts_with("reports-")).unwrap();
    let mut bytes = fs::read(&images).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&images, bytes).unwrap();
    let told = text(&place.train("runs/damaged", &sets(&[mined])).stderr);
    assert!(told.contains("mining hard negatives") && told.contains("is damaged"), "{told}");
}

fn losses_of(place: &Place, run: &str) -> Vec<f64> {
    let lines = fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap();
    let of = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64();
    lines.lines().filter_map(of).collect()
}

#[test]
fn features_of_frozen_images_are_kept_and_change_nothing() {
    let place = Place::new();
    let still = ["augment.rotation=0", "augment.brightness=0", "freeze.image=\"all\"", "train.max_steps=12"];
    let sets = |more: &[&'static str]| -> Vec<&str> { still.iter().chain(more).flat_map(|s| ["--set", *s]).collect() };
    let with = text(&place.train_ok("runs/with", &sets(&[])).stderr);
    let (_, kept) = with.split_once("image features are kept in ").unwrap_or_else(|| panic!("{with}"));
    let rows = kept.split(" MiB, ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(kept.contains(&format!("{rows} of {rows} rows to work out")), "{with}");
    let without = text(&place.train_ok("runs/without", &sets(&["data.cache_features=false"])).stderr);
    assert!(without.contains("image features are worked out at each step: data.cache_features is false"), "{without}");
    let (a, b) = (losses_of(&place, "runs/with"), losses_of(&place, "runs/without"));
    assert!(a.len() == 12 && b.len() == 12);
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() < 1e-5, "{a} with kept features, {b} without");
    }
    // So are validations, which look at their pairs once.
    let of_evals = |run: &str| -> Vec<f64> {
        let lines = fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap();
        let of = |line: &str| serde_json::from_str::<Value>(line).unwrap()["val"]["loss"].as_f64();
        lines.lines().filter_map(of).collect()
    };
    let (a, b) = (of_evals("runs/with"), of_evals("runs/without"));
    assert!(a.len() > 1 && a.len() == b.len() && a[0] != a[a.len() - 1], "{a:?}");
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
    // The same weights and images: nothing is worked out again, and the run is the same to the last bit.
    let again = text(&place.train_ok("runs/again", &sets(&[])).stderr);
    assert!(again.contains(&format!("0 of {rows} rows to work out")), "{again}");
    place.assert_same_run("runs/with", "runs/again");
    // Another image file is seen by its content, other weights by their numbers.
    let manifest = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let image = manifest.lines().find(|l| l.contains("train")).unwrap().split(',').next().unwrap().to_string();
    let mut bytes = fs::read(place.path("phantom").join(&image)).unwrap();
    bytes.push(0);
    fs::write(place.path("phantom").join(&image), bytes).unwrap();
    let changed = text(&place.train_ok("runs/changed", &sets(&[])).stderr);
    assert!(changed.contains(&format!("{rows} of {rows} rows to work out")), "{changed}");
    let seeded = text(&place.train_ok("runs/seeded", &sets(&["seed=4"])).stderr);
    assert!(seeded.contains(&format!("{rows} of {rows} rows to work out")), "{seeded}");
    // Where images change at each step, it says why nothing is kept.
    let augmented = text(&place.train_ok("runs/augmented", &["--set", "freeze.image=\"all\""]).stderr);
    assert!(augmented.contains("worked out at each step: augmentation changes the images"), "{augmented}");
    let stop = text(&place.train_ok("runs/stop", &sets(&["seed=4", "train.stop_after=5"])).stderr);
    assert!(stop.contains("stopped at step 5"), "{stop}");
    let resume = [&sets(&["seed=4", "train.stop_after=99"])[..], &["--resume", "latest"]].concat();
    place.train_ok("runs/stop", &resume);
    place.assert_same_run("runs/stop", "runs/seeded");
}

/// Four processes that do not know of one another would write the same files.
#[test]
#[cfg(not(feature = "mpi"))]
fn a_launcher_is_refused_without_mpi() {
    let place = Place::new();
    for launcher in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"] {
        let output = place.command(&["train", "tiny.toml", "--out", "run"]).env(launcher, "4").output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.starts_with("error: a launcher started 4 processes, but this binary"), "{stderr}");
    }
    assert!(!place.path("run").exists());
    let output =
        place.command(&["train", "tiny.toml", "--out", "run"]).env("OMPI_COMM_WORLD_SIZE", "1").output().unwrap();
    assert!(output.status.success(), "one process is one: {}", text(&output.stderr));
}

#[test]
fn benchmarks_print_their_figures() {
    let place = Place::new();
    let small = ["--batch-size", "2", "--image-size", "32", "--steps", "2", "--threads", "2", "--json"];
    let out = place.run(&[&["bench", "train-step", "--tokens", "4"], &small[..]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let figures = json(&out.stdout);
    for key in ["first_step_s", "median_step_s", "min_step_s", "samples_per_s", "peak_rss_mib", "loss"] {
        assert!(figures[key].as_f64().is_some_and(|v| v > 0.0), "{key} in {figures}");
    }
    assert!(figures.get("profile").is_none(), "{figures}");
    let out = place.run(&["bench", "data", "--images", "phantom/images", "--rounds", "1", "--json"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(json(&out.stdout)["images_per_s"]["median"].as_f64().unwrap() > 0.0);
    fs::write(place.path("lengths.txt"), "12\nfive\n").unwrap();
    let bad: [(&[&str], &str); 5] = [
        (&["train-step", "--model", "resnet"], "model \"resnet\": built in are clip-vit-base-patch32"),
        (&["train-step", "--text-lengths", "lengths.txt"], "lengths.txt:2: \"five\" is not a number of tokens"),
        (&["train-step", "--threads", "0"], "threads: 0; allowed here are 1 to "),
        (&["train-step", "--threads", "100000"], "threads: 100000; allowed here are 1 to "),
        (&["data", "--images", "."], "holds no PNG or JPEG file"),
    ];
    for (arguments, message) in bad {
        let out = place.run(&[&["bench"], arguments].concat());
        assert!(!out.status.success() && text(&out.stderr).contains(message), "{}", text(&out.stderr));
    }
}

#[test]
fn a_profile_tells_where_a_steps_seconds_go() {
    let place = Place::new();
    let small = ["--batch-size", "2", "--image-size", "32", "--tokens", "4", "--steps", "3", "--threads", "2"];
    let profiled = |more: &[&str]| {
        let out = place.run(&[&["bench", "train-step", "--profile"], &small[..], more].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
        out.stdout
    };
    let figures = json(&profiled(&["--json"]));
    let parts = figures["profile"].as_array().unwrap();
    let of = |name: &str, way: &str| parts.iter().find(|p| p["part"] == name).unwrap()[way].as_f64().unwrap();
    for part in ["linear", "attention", "layer_norm", "activation", "embedding", "loss"] {
        assert!(of(part, "forward_s") > 0.0 && of(part, "backward_s") > 0.0, "{part} in {figures}");
    }
    assert!(of("optimizer", "backward_s") > 0.0 && of("convolution", "forward_s") == 0.0, "{figures}");
    let sum: f64 = parts.iter().map(|p| p["forward_s"].as_f64().unwrap() + p["backward_s"].as_f64().unwrap()).sum();
    let step = |key: &str| figures[key].as_f64().unwrap();
    // Means of the steps but the first; what is left out is the clock's own start.
    assert!((0.95 * step("min_step_s")..=1.01 * step("max_step_s")).contains(&sum), "{sum} in {figures}");
    let lines = text(&profiled(&[]));
    assert!(lines.contains("\nseconds a step:\n") && lines.contains("\noptimizer "), "{lines}");
    let frozen = json(&profiled(&["--json", "--freeze-image", "--cached-features"]));
    let linear = |figures: &serde_json::Value| figures["profile"][0]["backward_s"].as_f64().unwrap();
    assert!(linear(&frozen) > 0.0, "{frozen}");
}

pub const PROMPTS: &str = "normal = [\"No active chest disease.\", \"Clear lungs.\"]\npneumothorax = \
                       \"Pneumothorax.\"\n consolidation = \"Consolidation.\"\n";
const FINDINGS: &str = "normal = { positive = \"Clear lungs.\", negative = [\"Abnormal.\", \"Opacity.\"] }\n\
                        pneumothorax = { positive = \"Pneumothorax.\", negative = \"No pneumothorax.\" }\n";

/// Every objective trains, in chunks as at once, and resumes exactly while its smoothing changes.
#[test]
fn every_objective_trains_in_chunks_and_resumes() {
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    fs::write(place.path("findings.toml"), FINDINGS).unwrap();
    let anneal = "loss.label_smoothing={from = 0.2, to = 0.0, over = \"80%\"}";
    let by_reports = ["loss.positives=report_similarity", "loss.positives_threshold=0.5"];
    let mined = ["data.hard_negatives={ k = 2, from = \"image\", refresh = 3 }", "data.hard_negatives.k=1"];
    let local = "[\"clip\", \"local\"]";
    let cases: [(&str, &[&str]); 14] = [
        ("clip", &[mined[0], "train.ema=0.5"]),
        ("clip", &[mined[1], "data.hard_negatives.margin=-0.1"]),
        ("clip", &["data.negation=0.8"]),
        ("multi_positive", &["loss.positives=label", "data.negation=1"]),
        ("clip", &["loss.false_negatives=soften", by_reports[0], by_reports[1]]),
        ("class", &["loss.prompts=classes.toml", "loss.class_weights=balanced"]),
        (local, &["loss.weights=[1, 0.5]", "loss.false_negatives=remove"]),
        (local, &["loss.local.form=map", "lora.rank=2"]),
        (local, &["freeze.text=all", "freeze.projections=false"]),
        ("multi_label", &["loss.prompts=findings.toml"]),
        ("multi_positive", &["loss.positives=label"]),
        ("multi_positive", &["loss.positives=label_similarity"]),
        ("class", &["loss.prompts=classes.toml", "freeze.text=all", "loss.class_weights=[1, 2, 3]"]),
        ("[\"clip\", \"class\"]", &["loss.prompts=classes.toml", "loss.weights=[1, 0.5]"]),
    ];
    for (i, (kind, more)) in cases.iter().enumerate() {
        let set = |extra: &[&str]| -> Vec<String> {
            let kind = format!("loss.kind={kind}");
            let all = [&[kind.as_str(), anneal, "augment.rotation=0", "augment.brightness=0"], *more, extra].concat();
            all.iter().flat_map(|s| ["--set".to_string(), s.to_string()]).collect()
        };
        let run = |out: &str, extra: &[&str], resume: &[&str]| {
            let args = set(extra);
            let args: Vec<&str> = args.iter().map(String::as_str).chain(resume.iter().copied()).collect();
            place.train_ok(out, &args);
        };
        let names = [format!("ten{i}"), format!("five{i}"), format!("chunks{i}")];
        run(&names[0], &[], &[]);
        run(&names[1], &["train.stop_after=5"], &[]);
        run(&names[1], &[], &["--resume", "latest"]);
        place.assert_same_run(&names[0], &names[1]);
        run(&names[2], &["train.batch_size=4", "train.accum_freq=2"], &[]);
        let steps = |name: &str| -> Vec<Value> {
            let text = fs::read_to_string(place.path(name).join("metrics.jsonl")).unwrap();
            text.lines().map(|l| json(l.as_bytes())).filter(|v| v["kind"] == "step").collect()
        };
        let (whole, chunks) = (steps(&names[0]), steps(&names[2]));
        for key in ["loss", "loss_hard", "grad_norm"] {
            let (a, b) = (whole[0][key].as_f64().unwrap(), chunks[0][key].as_f64().unwrap());
            assert!(a > 0.0 && (a - b).abs() < 1e-4 * a, "{kind} {more:?}: {key} is {a} at once and {b} in chunks");
        }
        let gap = |v: &Value| v["loss"].as_f64().unwrap() - v["loss_hard"].as_f64().unwrap();
        assert!(whole[..7].iter().any(|v| gap(v).abs() > 1e-4), "{kind}: smoothing shows");
        assert!(gap(&whole[9]).abs() < 1e-5, "{kind}: the smoothing ends at 0");
    }
    let teacher = [
        "--set",
        "loss.kind=[\"clip\", \"distill\"]",
        "--set",
        "loss.teacher=ten0/model",
        "--set",
        "data.feature_cache=kept",
    ];
    place.train_ok("pupil", &[&teacher[..], &["--set", "train.stop_after=5"]].concat());
    let kept: Vec<_> = fs::read_dir(place.path("kept")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "the teacher's vectors: {kept:?}");
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&kept[0]).unwrap().permissions()) & 0o777, 0o600);
    let written = fs::metadata(&kept[0]).unwrap().modified().unwrap();
    place.train_ok("pupil", &[&teacher[..], &["--resume", "latest"]].concat());
    assert_eq!(fs::metadata(&kept[0]).unwrap().modified().unwrap(), written, "they are read, not made anew");
    place.train_ok("pupil-at-once", &teacher);
    place.assert_same_run("pupil", "pupil-at-once");
    // One that is damaged is made anew.
    let whole = fs::read(&kept[0]).unwrap();
    let mut damaged = whole.clone();
    // Its end is the digest of the numbers before it.
    let last = damaged.len() - 32 - 5;
    damaged[last] ^= 0x55;
    fs::write(&kept[0], damaged).unwrap();
    place.train_ok("pupil-anew", &teacher);
    place.assert_same_run("pupil-anew", "pupil-at-once");
    assert!(fs::read(&kept[0]).unwrap() == whole, "the teacher's vectors are mended");
    let kept_in_a_file = ["train", "tiny.toml", "--out", "no", "--set", "freeze.image=all", "--set"];
    let errors = place.errors(&[&kept_in_a_file[..], &["data.feature_cache=tiny.toml/kept"]].concat(), 2);
    assert!(errors[0].contains("tiny.toml is no folder; name another place"), "{errors:?}");
    assert!(!place.path("no").exists(), "it is told before a run folder is made");
    let errors = place.errors(&["train", "tiny.toml", "--set", "loss.kind=distill"], 2);
    assert!(errors[0].contains("loss.teacher is missing"), "{errors:?}");
    let tried = place.run(&["train", "tiny.toml", "--dry-run", "--set", "data.negation=1"]);
    assert!(tried.status.success(), "{}", text(&tried.stderr));
    // What cannot work is told before anything begins.
    let errors = place.errors(&["train", "tiny.toml", "--set", "loss.kind=local"], 2);
    assert!(errors[0].contains("names \"local\" alone"), "{errors:?}");
    let keys = ["loss.kind=[\"multi_positive\", \"local\"]", "loss.positives=report", "loss.false_negatives=soften"];
    let keys = keys.iter().flat_map(|key| ["--set", *key]);
    let errors = place.errors(&["train", "tiny.toml"].into_iter().chain(keys).collect::<Vec<_>>(), 2);
    assert!(errors[0].contains("rows with one report have the same sentences already"), "{errors:?}");
    let errors = place.errors(&["train", "tiny.toml", "--set", "loss.debias=0.1"], 2);
    assert!(errors[0].contains("set loss.label_smoothing = 0"), "{errors:?}");
    for key in ["data.negation=0.5", "loss.false_negatives=remove"] {
        let prompts = "loss.prompts=classes.toml";
        let errors =
            place.errors(&["train", "tiny.toml", "--set", key, "--set", "loss.kind=class", "--set", prompts], 2);
        assert!(
            errors[0].contains("no objective of loss.kind makes use of it; those that do are \"clip\""),
            "{errors:?}"
        );
    }
    for (keys, told) in [
        (["loss.kind=[\"clip\", \"siglip\"]", "loss.false_negatives=positive"], "but \"clip\" of loss.kind has only"),
        (["loss.kind=[\"clip\", \"local\"]", "loss.false_negatives=positive"], "but \"clip\" of loss.kind has only"),
        (["data.negation=0.5", "loss.direction=t2i"], "opposites are held against images alone"),
        (["data.hard_negatives.from=image", "loss.kind=clip"], "but data.hard_negatives.k is 0"),
        (["data.hard_negatives.k=8", "loss.kind=clip"], "is 8, but a row meets only 7 others in a step"),
        (["loss.local.form=map", "loss.kind=clip"], "makes use of it; those that do are \"local\""),
        (["loss.local.temperature=0.2", "loss.kind=clip"], "makes use of it; those that do are \"local\""),
        (["loss.teacher=/nowhere", "loss.kind=[\"clip\", \"distill\"]"], "/nowhere: there is no such folder"),
        // What only opening tells.
        (["loss.teacher=nowhere", "loss.kind=[\"clip\", \"distill\"]"], "loss.teacher: "),
        (["loss.teacher=phantom", "loss.kind=[\"clip\", \"distill\"]"], "loss.teacher: "),
        (["loss.positives=label", "loss.positives_threshold=0.5"], "only \"report_similarity\" has it"),
    ] {
        let errors = place.errors(&["train", "tiny.toml", "--set", keys[0], "--set", keys[1]], 2);
        assert!(errors.iter().any(|error| error.contains(told)), "{errors:?}");
    }
    let errors = place.errors(&["train", "tiny.toml", "--set", "loss.kind=class"], 2);
    assert!(errors[0].contains("loss.prompts is missing"), "{errors:?}");
    let errors =
        place.errors(&["train", "tiny.toml", "--set", "loss.kind=class", "--set", "loss.prompts=findings.toml"], 2);
    assert!(errors[0].contains("loss.prompts: has positive and negative sentences"), "{errors:?}");
    let errors = place.errors(&["train", "tiny.toml", "--set", "loss.label_smoothing={from = 2, to = 0, over = 5}"], 2);
    assert!(errors[0].contains("allowed is a number from 0 to 1, or { from, to, over }"), "{errors:?}");
}

/// The best step, early stopping and the figures of a validation follow the objective, not retrieval.
#[test]
fn validations_follow_the_objective() {
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    fs::write(place.path("findings.toml"), FINDINGS).unwrap();
    let cases: [(&str, &[&str], &str, bool); 6] = [
        ("class", &["loss.prompts=classes.toml"], "balanced_accuracy", true),
        ("multi_label", &["loss.prompts=findings.toml"], "auroc", true),
        ("multi_positive", &[], "loss", false),
        ("clip", &[], "mean_recall", true),
        ("clip", &["train.best_metric=auroc", "loss.prompts=classes.toml"], "auroc", true),
        ("class", &["train.best_metric=loss", "loss.prompts=classes.toml"], "loss", false),
    ];
    for (i, (kind, more, metric, higher_is_better)) in cases.iter().enumerate() {
        let kind_key = format!("loss.kind={kind}");
        let keys = [&[kind_key.as_str(), "train.eval_every=2", "train.max_steps=6"], *more].concat();
        let sets: Vec<&str> = keys.iter().flat_map(|key| ["--set", *key]).collect();
        let run = format!("objective{i}");
        let told = text(&place.train_ok(&run, &sets).stderr);
        assert!(told.contains(&format!("best checkpoint by {metric}: ")), "{told}");
        let lines = fs::read_to_string(place.path(&run).join("metrics.jsonl")).unwrap();
        let evals: Vec<Value> = lines.lines().map(|l| json(l.as_bytes())).filter(|v| v["kind"] == "eval").collect();
        assert_eq!(evals.len(), 4);
        let mut best: Option<f64> = None;
        for eval in &evals {
            assert_eq!(eval["metric"]["name"], *metric);
            assert_eq!(eval["metric"]["higher_is_better"], *higher_is_better);
            let value = eval["metric"]["value"].as_f64().unwrap();
            let better = best.is_none_or(|best| if *higher_is_better { value > best } else { value < best });
            let is_best = eval["step"] != 0 && better;
            assert_eq!(eval["best"], is_best, "{kind} {more:?}: {eval}");
            best = if is_best { Some(value) } else { best };
            let (own, clip) =
                (eval["val"]["objective"]["loss"].as_f64().unwrap(), eval["val"]["loss"].as_f64().unwrap());
            if *kind == "clip" {
                assert!((own - clip).abs() < 1e-5 * clip, "one objective, one loss: {own} {clip}");
            } else {
                assert!((own - clip).abs() > 1e-3, "{kind}: {own} {clip}");
            }
            if *kind == "class" {
                // Each image once, without class weights: the mean −ln of the classes' probabilities.
                let nll = eval["val"]["zero_shot"]["figures"]["nll"]["value"].as_f64().unwrap();
                assert!((own - nll).abs() < 1e-5 * nll, "{own} {nll}");
            }
        }
    }
    let errors = |sets: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|key| ["--set", *key]).collect();
        place.errors(&[&["train", "tiny.toml"], &sets[..]].concat(), 2)[0].clone()
    };
    let error = errors(&["train.best_metric=auroc"]);
    assert!(error.contains("train.best_metric: \"auroc\" cannot be worked out: loss.prompts"), "{error}");
    let error = errors(&["loss.kind=multi_positive", "loss.positives=report"]);
    assert!(error.contains("loss.positives: \"report\" changes nothing: "), "{error}");
    assert!(error.contains("what would with this data: ") && error.contains("\"label\""), "{error}");
}

#[test]
fn zero_shot_judges_by_prompts() {
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    place.train_ok("alone", &["--set", "train.max_steps=4", "--set", "loss.label_smoothing=0"]);
    let model = "alone/model";
    let zero_shot = |more: &[&str]| {
        let args = ["zero-shot", "--model", model, "--data", "phantom/manifest.csv", "--prompts", "classes.toml"];
        let output = place.run(&[&args[..], &["--bootstrap", "50", "--json"], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        json(&output.stdout)
    };
    let report = zero_shot(&["--split", "test", "--subgroup", "label", "--compare", "alone/model"]);
    assert!(report["calibration"]["fitted_on"].as_str().unwrap().starts_with("split val"));
    assert!(report["unlabelled"].as_u64().unwrap() > 0 && report["images"].as_u64().unwrap() > 3);
    let difference = report["difference"].as_array().unwrap();
    assert!(
        difference.iter().all(|f| f["value"] == 0.0 || f["value"].is_null()),
        "a model against itself: {difference:?}"
    );
    let of_normal =
        &report["subgroups"].as_array().unwrap().iter().find(|g| g["value"] == "normal").unwrap()["figures"];
    let accuracy = |figures: &Value| figures.as_array().unwrap()[0]["value"].as_f64().unwrap();
    let (row, all) = (&report["confusion"][0], accuracy(&report["figures"]));
    let normal: u64 = row.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).sum();
    assert!((accuracy(of_normal) - row[0].as_u64().unwrap() as f64 / normal as f64).abs() < 1e-12);
    assert!((0.0..=1.0).contains(&all));
    let whole = zero_shot(&[]);
    assert_eq!(whole["calibration"]["fitted_on"], "each half of the patients on the other half");
    let errors = place.errors(
        &[
            "zero-shot",
            "--model",
            model,
            "--data",
            "phantom/manifest.csv",
            "--prompts",
            "classes.toml",
            "--subgroup",
            "x",
        ],
        1,
    );
    assert!(errors[0].contains("no row has a value in column \"x\""), "{errors:?}");
}

/// What a browser would need to be told of: every chart has marks, nothing is fetched, nothing runs.
#[test]
fn a_runs_page_has_marks_in_every_chart() {
    let place = Place::new();
    place.train_ok("a", &["--set", "eval.gallery=4"]);
    place.train_ok("b", &["--set", "seed=9"]);
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    let zero_shot = ["zero-shot", "--model", "a/model", "--data", "phantom/manifest.csv", "--prompts", "classes.toml"];
    let output = place.run(&[&zero_shot[..], &["--subgroup", "split", "--bootstrap", "20", "--json"]].concat());
    fs::write(place.path("a/zero-shot.json"), &output.stdout).unwrap();
    let output = place.run(&["run-report", "a", "b", "--out", "page.html"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for (path, least) in [("page.html", 20), ("a/report.html", 15)] {
        let page = fs::read_to_string(place.path(path)).unwrap();
        for bad in ["<script", "http://", "https://", "NaN", "inf\"", "undefined"] {
            assert!(!page.contains(bad), "{path} has {bad}");
        }
        let charts: Vec<&str> = page.split("<svg").skip(1).map(|s| s.split("</svg>").next().unwrap()).collect();
        assert!(charts.len() >= least, "{path}: {} charts", charts.len());
        for chart in charts {
            let has_points = !chart.contains("<polyline") || !chart.contains("points=\"\"");
            assert!(chart.contains("class=\"mark") && has_points, "{path}: {chart}");
        }
        assert!(page.contains("<article><img alt=\"line "), "{path}: examples with their images");
    }
    let kept = json(&fs::read(place.path("b/pictures-best.json")).unwrap());
    assert_eq!(kept["gallery"], serde_json::json!([]), "none is kept where none is asked for");
    let errors = place.errors(&["run-report", "phantom"], 1);
    assert!(errors[0].contains("holds neither a run"), "{errors:?}");
    // One event file, also after going on.
    place.train_ok("c", &["--set", "train.stop_after=4"]);
    place.train_ok("c", &["--resume", "latest"]);
    let events = |run: &str| -> Vec<PathBuf> {
        let files = fs::read_dir(place.path(run)).unwrap().map(|e| e.unwrap().path());
        files.filter(|p| p.to_string_lossy().contains("events.out.tfevents.")).collect()
    };
    assert_eq!(events("c").len(), 1);
    // Records of TensorBoard: length, checksum, bytes, checksum; all of the file is records.
    let bytes = fs::read(&events("c")[0]).unwrap();
    let (mut at, mut records) = (0, 0);
    while at < bytes.len() {
        at += 16 + u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        records += 1;
    }
    assert!(at == bytes.len() && records > 100, "{records} records");
}

/// A tower that thaws, averaged weights and rates that fall with depth: resumed exactly, and each does what it says.
#[test]
fn thawing_averages_and_layer_decay() {
    let place = Place::new();
    let options = [
        "freeze.image=all",
        "freeze.image_until=6",
        "train.ema=0.9",
        "optim.layer_decay=0.5",
        "model.random.vision_layers=2",
        "train.clip_grad_norm=0",
    ];
    let set: Vec<&str> = options.iter().flat_map(|o| ["--set", o]).collect();
    place.train_ok("ten", &set);
    place.train_ok("five", &[&set[..], &["--set", "train.stop_after=4"]].concat());
    let weights = |run: &str, step: u64, file: &str| {
        let path = place.path(run).join(format!("checkpoints/step-{step:08}/{file}.safetensors"));
        candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap()
    };
    let numbers = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (two, four) = (weights("five", 2, "model"), weights("five", 4, "model"));
    place.train_ok("five", &[&set[..], &["--resume", "latest"]].concat());
    place.assert_same_run("ten", "five");
    let (eight, ten) = (weights("ten", 8, "model"), weights("ten", 10, "model"));
    let averaged = weights("ten", 10, "ema");
    let moved = |a: &HashMap<String, candle_core::Tensor>, b: &HashMap<String, candle_core::Tensor>, part: &str| {
        let names = a.keys().filter(|n| n.starts_with(part));
        let change = |n: &String| {
            let (x, y) = (numbers(&a[n]), numbers(&b[n]));
            x.iter().zip(&y).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max)
        };
        names.map(change).fold(0f32, f32::max)
    };
    assert_eq!(moved(&two, &four, "vision_model."), 0.0, "frozen until step 6");
    assert!(moved(&two, &four, "text_model.") > 0.0);
    assert!(moved(&eight, &ten, "vision_model.") > 0.0, "thawed");
    let between = moved(&averaged, &ten, "text_model.");
    assert!(between > 0.0 && between < moved(&two, &ten, "text_model."), "an average follows");
    // What is handed over are the averages of the best step, not its weights.
    let model =
        candle_core::safetensors::load(place.path("ten/model/model.safetensors"), &candle_core::Device::Cpu).unwrap();
    let best = place.path("ten/checkpoints");
    let steps = fs::read_dir(best).unwrap().map(|e| e.unwrap().path().join("ema.safetensors"));
    let same = |path: PathBuf| {
        let kept = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
        kept.iter().all(|(name, t)| model.get(name).is_none_or(|m| numbers(m) == numbers(t)))
    };
    assert_eq!(steps.map(same).filter(|s| *s).count(), 1);
    // The first update moves each weight by its rate: halved with each block from the top.
    let first = |more: &[&str]| {
        let one = ["--set", "train.stop_after=1", "--set", "optim.warmup=0", "--set", "optim.weight_decay=0"];
        let name = format!("one{}", more.len());
        let shape = ["--set", "model.random.vision_layers=2", "--set", "train.clip_grad_norm=0"];
        place.train_ok(&name, &[&one[..], &shape, more].concat());
        weights(&name, 1, "model")
    };
    let (flat, falling) = (first(&[]), first(&["--set", "optim.layer_decay=0.5"]));
    let still = first(&["--set", "optim.layer_decay=1", "--set", "optim.lr=0"]);
    for (part, share) in [
        ("vision_model.post_layernorm", 1.0),
        ("vision_model.encoder.layers.1.self_attn.q_proj.weight", 0.5),
        ("vision_model.encoder.layers.0.self_attn.q_proj.weight", 0.25),
        ("vision_model.embeddings.patch_embedding", 0.125),
        ("visual_projection", 1.0),
    ] {
        let ratio = moved(&still, &falling, part) / moved(&still, &flat, part);
        assert!((ratio - share).abs() < 0.02, "{part}: {ratio}, expected {share}");
    }
    let errors = place.errors(&["train", "tiny.toml", "--set", "freeze.text_until=3"], 2);
    assert!(errors[0].contains("freeze.text_until: is set, but freeze.text is \"none\""), "{errors:?}");
}

/// Adapters train alone, resume exactly, and are in the model that is handed over; masks are the same in chunks.
#[test]
fn adapters_and_dropout() {
    let place = Place::new();
    let options = [
        "lora.rank=2",
        "lora.dropout=0.1",
        "lora.targets=[\"q_proj\", \"v_proj\", \"fc2\"]",
        "train.dropout=0.1",
        "train.patch_dropout=0.25",
        "model.random.vision_layers=2",
        "train.batch_size=4",
        "train.accum_freq=2",
    ];
    let set: Vec<&str> = options.iter().flat_map(|o| ["--set", o]).collect();
    place.train_ok("ten", &set);
    place.train_ok("five", &[&set[..], &["--set", "train.stop_after=5"]].concat());
    place.train_ok("five", &[&set[..], &["--resume", "latest"]].concat());
    place.assert_same_run("ten", "five");
    // What is kept of activations changes no mask.
    place.train_ok("less", &[&set[..], &["--set", "train.checkpoint_activations=true"]].concat());
    place.assert_same_run("ten", "less");
    place.train_ok("plain", &[&set[..], &["--set", "train.dropout=0"]].concat());
    assert_ne!(
        fs::read(place.path("ten/metrics.jsonl")).unwrap(),
        fs::read(place.path("plain/metrics.jsonl")).unwrap()
    );
    let load = |path: &str| candle_core::safetensors::load(place.path(path), &candle_core::Device::Cpu).unwrap();
    let numbers = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    // A step's order of work is the same for all: compare the last checkpoint with what is handed over, of one step.
    let steps = fs::read_dir(place.path("ten/checkpoints")).unwrap().map(|e| e.unwrap().file_name());
    let steps: Vec<String> = steps.map(|n| n.to_string_lossy().into_owned()).collect();
    let (model, adapter) = (load("ten/model/model.safetensors"), load("ten/adapter/adapter_model.safetensors"));
    assert_eq!(adapter.len(), 2 * (2 * 3 + 3), "A and B beside three layers of each block");
    assert!(model.keys().all(|n| !n.contains("lora")));
    let layer = "vision_model.encoder.layers.1.mlp.fc2";
    let name = |m: &str| format!("base_model.model.{layer}.{m}.weight");
    let (a, b) = (&adapter[&name("lora_A")], &adapter[&name("lora_B")]);
    let merged = steps.iter().filter(|step| {
        let saved = load(&format!("ten/checkpoints/{step}/model.safetensors"));
        let base = &saved[&format!("{layer}.weight")];
        let same = numbers(&saved[&format!("{layer}.lora_B.weight")]) == numbers(b);
        let sum = (base + (b.matmul(a).unwrap() * 8.0).unwrap()).unwrap();
        same && numbers(&sum) == numbers(&model[&format!("{layer}.weight")])
    });
    assert_eq!(merged.count(), 1, "alpha / rank is 8");
    // Towers stay, adapters and heads move.
    let (first, last) = (
        load("ten/checkpoints/step-00000008/model.safetensors"),
        load("ten/checkpoints/step-00000010/model.safetensors"),
    );
    for (name, weight) in &first {
        let moved = numbers(weight) != numbers(&last[name]);
        let expected = name.contains("lora") || name.contains("projection") || name == "logit_scale";
        assert_eq!(moved, expected, "{name}");
    }
    let config: Value = json(&fs::read(place.path("ten/adapter/adapter_config.json")).unwrap());
    assert_eq!((config["r"].as_u64(), config["lora_alpha"].as_f64()), (Some(2), Some(16.0)));
    let errors = place.errors(
        &["train", "tiny.toml", "--set", "lora.rank=2", "--set", "freeze.image=all", "--set", "freeze.text=all"],
        2,
    );
    assert!(errors[0].starts_with("lora.targets: no layer"), "{errors:?}");
}

#[test]
fn models_are_merged_and_swept() {
    let place = Place::new();
    place.train_ok("a", &["--set", "train.max_steps=2", "--set", "optim.lr=0"]);
    place.train_ok("b", &[]);
    let merge = |alpha: &str, out: &str| {
        let args = ["model", "merge", "--model", "b/model", "--base", "a/model", "--alpha", alpha, "--out", out];
        let output = place.run(&args);
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    merge("0", "zero");
    merge("1", "one");
    merge("0.25", "quarter");
    let load = |m: &str| {
        let path = place.path(m).join("model.safetensors");
        candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap()
    };
    let numbers = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (a, b, zero, one, quarter) = (load("a/model"), load("b/model"), load("zero"), load("one"), load("quarter"));
    for name in a.keys() {
        let (a, b) = (numbers(&a[name]), numbers(&b[name]));
        assert!(numbers(&zero[name]) == a && numbers(&one[name]) == b, "{name}");
        for ((m, a), b) in numbers(&quarter[name]).iter().zip(&a).zip(&b) {
            assert!((m - (0.75 * a + 0.25 * b)).abs() <= 1e-6 * a.abs().max(b.abs()), "{name}");
        }
    }
    let eval = |more: &[&str]| {
        let args = ["eval", "--data", "phantom/manifest.csv", "--split", "test", "--json"];
        json(&place.run(&[&args[..], more].concat()).stdout)
    };
    let swept = eval(&["--model", "b/model", "--wise-ft", "a/model", "--alphas", "0,0.25,1"]);
    for (i, model) in ["a/model", "quarter", "b/model"].iter().enumerate() {
        let mut alone = eval(&["--model", model]);
        // Of mixtures only retrieval is told.
        alone.as_object_mut().unwrap().retain(|name, _| swept[i]["report"].get(name).is_some());
        assert_eq!(swept[i]["report"], alone, "{model}");
    }
    let compared = eval(&["--model", "b/model", "--compare", "a/model"]);
    let difference = compared["difference"].as_array().unwrap();
    let (ours, theirs) = (eval(&["--model", "b/model"]), eval(&["--model", "a/model"]));
    let recall = |r: &Value| r["image_to_text"]["figures"]["recall@5"].as_f64().unwrap();
    let found = difference.iter().find(|f| f["name"] == "image→text recall@5").unwrap();
    assert!((found["value"].as_f64().unwrap() - (recall(&ours) - recall(&theirs))).abs() < 1e-12);
    assert!(difference.len() == 12 && found["interval"][0].as_f64() <= found["interval"][1].as_f64());
    let same = eval(&["--model", "b/model", "--compare", "b/model"]);
    assert!(same["difference"].as_array().unwrap().iter().all(|f| f["interval"] == serde_json::json!([0.0, 0.0])));
    let errors = place.errors(&["model", "merge", "--model", "b/model", "--base", "a/model", "--out", "one"], 1);
    assert!(errors[0].contains("exists already"), "{errors:?}");
}

#[test]
fn a_pair_is_explained() {
    let place = Place::new();
    place.train_ok("run", &["--set", "model.random.vision_layers=2", "--set", "model.random.text_layers=2"]);
    let image = fs::read_dir(place.path("phantom/images")).unwrap().next().unwrap().unwrap().path();
    let image = image.to_str().unwrap();
    let args = ["explain", "--model", "run/model", "--image", image, "--text", "Large left pleural effusion."];
    let output = place.run(&[&args[..], &["--data", "phantom/manifest.csv", "--out", "why.png", "--json"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let found = json(&output.stdout);
    let patches: Vec<f64> = found["patches"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(patches.len(), 4, "images of 32 pixels in patches of 16");
    assert!(patches.contains(&1.0) && patches.contains(&0.0), "{patches:?}");
    let tokens = found["tokens"].as_array().unwrap();
    assert!(tokens.iter().any(|t| t[1] == 1.0) && tokens.len() > 3, "{tokens:?}");
    let said: String = tokens.iter().map(|t| t[0].as_str().unwrap().replace(' ', "")).collect();
    assert_eq!(said.to_lowercase(), "largeleftpleuraleffusion.");
    assert!(found["place"].as_u64().unwrap() >= 1 && found["gallery"].as_u64().unwrap() > 10);
    assert!(fs::read(place.path("why.png")).unwrap().starts_with(b"\x89PNG"));
    // The cosine is the one that `embed` gives.
    let embed = ["embed", "--model", "run/model", "--images", image, "--out", "i.safetensors"];
    assert!(place.run(&embed).status.success());
    fs::write(place.path("t.txt"), "Large left pleural effusion.\n").unwrap();
    assert!(
        place.run(&["embed", "--model", "run/model", "--texts", "t.txt", "--out", "t.safetensors"]).status.success()
    );
    let load = |name: &str| candle_core::safetensors::load(place.path(name), &candle_core::Device::Cpu).unwrap();
    let (i, t) = (load("i.safetensors")["image_embeds"].clone(), load("t.safetensors")["text_embeds"].clone());
    let cosine = f64::from((i * t).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap());
    assert!((cosine - found["cosine"].as_f64().unwrap()).abs() < 1e-5);
}

/// Steps of a run's metrics.jsonl, as written.
fn step_lines(place: &Place, run: &str) -> Vec<String> {
    let metrics = fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap();
    metrics.lines().filter(|l| l.contains("\"kind\":\"step\"")).map(str::to_string).collect()
}

/// What a frozen text tower made of the prompts is nothing to one that has thawed.
#[test]
fn prompts_are_encoded_anew_once_the_text_tower_thaws() {
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    for (i, kind) in ["class", "[\"clip\", \"class\"]"].iter().enumerate() {
        let kind = format!("loss.kind={kind}");
        let options = [kind.as_str(), "loss.prompts=classes.toml", "freeze.text=all", "freeze.text_until=3"];
        let set: Vec<&str> = options.iter().flat_map(|o| ["--set", o]).collect();
        let names = [format!("ten{i}"), format!("five{i}")];
        place.train_ok(&names[0], &set);
        // A run that goes on after the thaw has nothing from before it.
        place.train_ok(&names[1], &[&set[..], &["--set", "train.stop_after=5"]].concat());
        place.train_ok(&names[1], &[&set[..], &["--resume", "latest"]].concat());
        place.assert_same_run(&names[0], &names[1]);
    }
}

/// Dropout reaches frozen layers as well: with features kept or not, and resumed or not, a run is the same.
#[test]
fn what_is_kept_of_frozen_layers_never_turns_dropout_off() {
    let place = Place::new();
    fs::write(place.path("classes.toml"), PROMPTS).unwrap();
    let plain = ["augment.rotation=0", "augment.brightness=0", "freeze.image=all"];
    let cases = [
        ("patches", "train.patch_dropout=0.25", "train.patch_dropout"),
        ("numbers", "train.dropout=0.2", "train.dropout"),
    ];
    for (name, drops, reason) in cases {
        let set: Vec<&str> = plain.iter().chain([&drops]).flat_map(|o| ["--set", *o]).collect();
        let told = text(&place.train_ok(&format!("{name}/with"), &set).stderr);
        assert!(told.contains(&format!("image features are worked out at each step: {reason}")), "{told}");
        place.train_ok(&format!("{name}/without"), &[&set[..], &["--set", "data.cache_features=false"]].concat());
        let (with, without) =
            (step_lines(&place, &format!("{name}/with")), step_lines(&place, &format!("{name}/without")));
        assert_eq!((with.len(), &with), (10, &without));
        place.train_ok(&format!("{name}/still"), &plain.iter().flat_map(|o| ["--set", *o]).collect::<Vec<_>>());
        assert_ne!(with, step_lines(&place, &format!("{name}/still")), "{drops} changes the run");
    }
    let frozen = ["loss.kind=class", "loss.prompts=classes.toml", "freeze.text=all", "train.dropout=0.2"];
    let set: Vec<&str> = frozen.iter().flat_map(|o| ["--set", *o]).collect();
    place.train_ok("ten", &set);
    place.train_ok("five", &[&set[..], &["--set", "train.stop_after=5"]].concat());
    place.train_ok("five", &[&set[..], &["--resume", "latest"]].concat());
    place.assert_same_run("ten", "five");
}
