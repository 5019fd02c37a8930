//! The table of input kinds, and the folder that their seeds are taken from.

use std::fs;
use std::path::{Path, PathBuf};

use super::forms::Form;
use super::{child, hub};
use crate::common::golden;

/// One kind of input: which files are changed, how, and which command reads the result.
pub struct Kind {
    pub name: &'static str,
    /// Patterns of whole files, below the place.
    pub seeds: &'static [&'static str],
    pub form: Form,
    /// Folders of the place that are copied, one over the other, to `m` beside the changed file, which then takes its
    /// own place in there; `OWN` is the seed's. Without any, the changed file stands alone.
    pub layers: &'static [&'static str],
    /// What the changed file is called in `m`; empty where it keeps the seed's name.
    pub called: &'static str,
    /// Changed files a process; where several, `images.csv` names them.
    pub batch: usize,
    /// Whether a case takes a good part of a second, so that there are fewer of them.
    pub slow: bool,
    /// Whether the changed file is what the hub answers.
    pub served: bool,
    /// Of which each case takes one. `{}` is the changed file (or all of them), `{content}` its first line.
    pub commands: &'static [&'static str],
}

pub const OWN: &str = "the seed's own folder";

const ALONE: Kind = Kind {
    name: "",
    seeds: &[],
    form: Form::Text,
    layers: &[],
    called: "",
    batch: 1,
    slow: false,
    served: false,
    commands: &[],
};

const EMBED: &str = "embed --model m --data ../place/phantom/four.csv --out e.safetensors";
/// For models whose vocabulary is smaller than the tokenizer's.
const LOAD: &str = "embed --model m --images ../place/phantom/images/P0001-S1.png --out e.safetensors";
const RESUME: &str = "train ../place/tiny.toml --out m --resume latest";

/// To add a kind: a row.
pub const KINDS: [Kind; 30] = [
    Kind {
        name: "config",
        seeds: &["configs/*.toml", "tiny.toml", "rich.toml"],
        commands: &["config validate {}", "config show {}"],
        ..ALONE
    },
    Kind {
        name: "config-run",
        seeds: &["tiny.toml", "rich.toml"],
        commands: &["train {} --dry-run"],
        slow: true,
        ..ALONE
    },
    Kind { name: "set", seeds: &["sets.txt"], commands: &["config show ../place/tiny.toml --set {content}"], ..ALONE },
    Kind {
        name: "csv",
        seeds: &["tables/*.csv", "phantom/manifest.csv"],
        commands: &[
            "data lint {} --image-root ../place/phantom",
            "data split {} --image-root ../place/phantom --out split.csv",
        ],
        ..ALONE
    },
    Kind { name: "tsv", seeds: &["tables/*.tsv"], commands: &["data lint {} --image-root ../place/phantom"], ..ALONE },
    Kind {
        name: "jsonl",
        seeds: &["tables/*.jsonl"],
        form: Form::JsonLines,
        commands: &["data lint {} --image-root ../place/phantom"],
        ..ALONE
    },
    Kind {
        name: "parquet",
        seeds: &["golden/datasets/*.parquet"],
        form: Form::Bytes(1500),
        commands: &["data lint {}"],
        ..ALONE
    },
    Kind { name: "tar", seeds: &["golden/datasets/*.tar"], form: Form::Tar, commands: &["data lint {}"], ..ALONE },
    Kind {
        name: "png",
        seeds: &["golden/preprocess/*.png", "golden/jpeg/noise_420.png"],
        form: Form::Png,
        batch: 20,
        commands: &["data lint images.csv"],
        ..ALONE
    },
    Kind {
        name: "jpeg",
        seeds: &["golden/jpeg/*.jpg", "golden/preprocess/*.jpg"],
        form: Form::Jpeg,
        batch: 20,
        commands: &["data lint images.csv"],
        ..ALONE
    },
    Kind {
        name: "dicom",
        seeds: &["golden/dicom/*.dcm"],
        form: Form::Dicom,
        batch: 20,
        commands: &["data lint images.csv"],
        ..ALONE
    },
    Kind {
        name: "one-image",
        seeds: &["golden/dicom/*.dcm", "golden/jpeg/gray*.jpg", "golden/preprocess/*.jpg"],
        form: Form::Dicom,
        commands: &[
            "embed --model ../place/run/model --images {} --out e.safetensors",
            "explain --model ../place/run/model --image {} --text effusion --out why.png",
            "search --index ../place/index.safetensors --image {}",
        ],
        ..ALONE
    },
    Kind {
        name: "prepare",
        seeds: &["studies/*"],
        form: Form::Png,
        layers: &["studies"],
        commands: &[
            "data prepare folder m --out out --size 24",
            "data prepare folder m --out out --size 24 --webdataset 2",
        ],
        ..ALONE
    },
    Kind {
        name: "weights",
        seeds: &["run/model/model.safetensors"],
        form: Form::Tensors,
        layers: &[OWN],
        commands: &[EMBED, EMBED, "model inspect m"],
        ..ALONE
    },
    Kind {
        name: "layouts",
        seeds: &["golden/encoders/*/*.safetensors", "golden/clip_formats/*/*.safetensors"],
        form: Form::Tensors,
        layers: &["bare", OWN],
        commands: &["model inspect m", LOAD],
        ..ALONE
    },
    Kind {
        name: "pickle",
        seeds: &["golden/clip_formats/torch_*/*.bin", "golden/encoders/*/*.bin"],
        form: Form::Zip,
        layers: &["bare", OWN],
        commands: &["model inspect m", LOAD],
        ..ALONE
    },
    Kind {
        name: "model-config",
        seeds: &[
            "golden/encoders/*/config.json",
            "golden/encoders/*/open_clip_config.json",
            "golden/clip_formats/sharded/*.index.json",
        ],
        form: Form::Json,
        layers: &["bare", OWN],
        commands: &["model inspect m", LOAD],
        ..ALONE
    },
    Kind {
        name: "model-files",
        seeds: &["run/model/*.json"],
        form: Form::Json,
        layers: &["run/model"],
        commands: &[EMBED, "model inspect m"],
        ..ALONE
    },
    Kind {
        name: "processor",
        seeds: &["golden/image_processors/preprocessor_*.json", "run/model/preprocessor_config.json"],
        form: Form::Json,
        layers: &["run/model"],
        called: "preprocessor_config.json",
        commands: &[EMBED],
        ..ALONE
    },
    Kind {
        name: "tokenizer",
        seeds: &["golden/tokenizer_families/*/tokenizer.json", "golden/tokenizer/full/tokenizer.json"],
        form: Form::Json,
        layers: &["plain", OWN],
        commands: &[EMBED, "model inspect m", "data lint ../place/phantom/four.csv --model m"],
        ..ALONE
    },
    Kind {
        name: "vocabulary",
        seeds: &[
            "golden/tokenizer_families/*/vocab.*",
            "golden/tokenizer_families/*/merges.txt",
            "golden/tokenizer_families/*/tokenizer_config.json",
            "golden/tokenizer/bpe_only/*",
        ],
        layers: &["plain", OWN],
        commands: &[EMBED],
        ..ALONE
    },
    Kind {
        name: "state",
        seeds: &["half/checkpoints/*/state.json"],
        form: Form::Json,
        layers: &["half"],
        commands: &[RESUME],
        slow: true,
        ..ALONE
    },
    Kind {
        name: "checkpoint",
        seeds: &["half/checkpoints/*/*.safetensors", "half/run.json", "half/metrics.jsonl", "half/*.toml"],
        form: Form::Tensors,
        layers: &["half"],
        commands: &[RESUME],
        slow: true,
        ..ALONE
    },
    Kind {
        name: "features",
        seeds: &["features/*"],
        form: Form::Bytes(64),
        layers: &["features"],
        commands: &[
            "train ../place/tiny.toml --set train.max_steps=16 --set freeze.image=all --set data.feature_cache=m \
             --out run",
        ],
        slow: true,
        ..ALONE
    },
    Kind {
        name: "run-folder",
        seeds: &["run/*.json*", "run/config.toml", "run/zero-shot.json"],
        form: Form::JsonLines,
        layers: &["run"],
        commands: &["run-report m --out page.html"],
        ..ALONE
    },
    Kind {
        name: "sweep-folder",
        seeds: &["sweep/*.json", "sweep/*/*.json", "sweep/*/metrics.jsonl"],
        form: Form::JsonLines,
        layers: &["sweep"],
        commands: &[
            "run-report m --out page.html",
            "sweep ../place/tiny.toml --grid loss.label_smoothing=0,0.1 --out m",
        ],
        slow: true,
        ..ALONE
    },
    Kind {
        name: "prompts",
        seeds: &["prompts/*.toml", "tables/several.toml", "tables/prompts.json"],
        commands: &[
            "zero-shot --model ../place/run/model --data ../place/phantom/manifest.csv --bootstrap 5 --prompts {}",
        ],
        slow: true,
        ..ALONE
    },
    Kind {
        name: "index",
        seeds: &["index.safetensors"],
        form: Form::Tensors,
        commands: &[
            "search --index {} --text effusion --model ../place/run/model",
            "search --index {} --image ../place/phantom/images/P0001-S1.png",
        ],
        ..ALONE
    },
    Kind {
        name: "hub",
        seeds: &["hub/*.http"],
        served: true,
        commands: &["model download org/name", "data lint hf://datasets/org/name"],
        ..ALONE
    },
    Kind {
        name: "loss",
        seeds: &["tables/loss*.json"],
        form: Form::Json,
        commands: &["loss explain --input {}", "loss explain --input {} --json"],
        ..ALONE
    },
];

const TINY: &str = r#"seed = 3
[model]
init = "random"
image_size = 32
context_length = 24
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
train = "../place/phantom/manifest.csv"
[train]
batch_size = 4
max_steps = 4
eval_every = 2
checkpoint_every = 2
[optim]
lr = 1e-3
[eval]
bootstrap = 5
gallery = 2
"#;

/// Most sections, for changes of as many keys as fit one run.
const RICH: &str = r#"seed = 3
[model]
path = "../place/run/model"
[data]
train = ["../place/phantom/manifest.csv", "../place/golden/datasets/shard-000000.tar"]
weights = [1.0, 2.0]
val = "../place/phantom/manifest.csv"
val_split = "val"
views = "one_view"
no_duplicate_reports = true
length_buckets = 2
shuffle_buffer = 10
[report]
section = "random_sentence"
long = "chunk"
[augment]
rotation = 5
brightness = 0.1
[train]
batch_size = 4
max_steps = "2 epochs"
eval_every = "50%"
[optim]
lr = 1e-3
schedule = "cosine"
warmup = "10%"
[loss]
label_smoothing = { from = 0.2, to = 0.0, over = "1 epochs" }
[eval]
bootstrap = 5
"#;

/// A config that trains a tiny model in a moment, and its data.
pub fn make_data(place: &Path) {
    fs::create_dir_all(place).unwrap();
    fs::write(place.join("tiny.toml"), TINY).unwrap();
    made(place, "data synth --out phantom --patients 12 --size 32");
}

/// Runs a command that must do well; what it prints.
fn made(place: &Path, command: &str) -> Vec<u8> {
    let args: Vec<&str> = command.split(' ').collect();
    let outcome = child::run(child::command(place, &args), &place.join("log"));
    assert_eq!(outcome.code, 0, "{command}: {}", String::from_utf8_lossy(&outcome.stderr));
    outcome.stdout
}

/// Makes what seeds and commands need in `place`, with the program itself where it can.
pub fn make(place: &Path) {
    make_data(place);
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, target) in
        [("golden", golden("")), ("configs", repository.join("configs")), ("prompts", repository.join("prompts"))]
    {
        std::os::unix::fs::symlink(target, place.join(name)).unwrap();
    }
    let ok = |command: &str| made(place, command);
    ok("train tiny.toml --out run");
    ok("train tiny.toml --out half --set train.stop_after=2");
    // By the name that the cases use: features are kept by where images lie.
    ok("train ../place/tiny.toml --out frozen --set train.max_steps=16 --set freeze.image=all \
         --set data.feature_cache=features");
    ok("sweep tiny.toml --grid loss.label_smoothing=0,0.1 --out sweep");
    fs::write(place.join("rich.toml"), RICH).unwrap();
    hub::write_seeds(place);
    let several = "Effusion = { positive = [\"Effusion.\"], negative = [\"No effusion.\"] }\n";
    let lines = |separator: &str| {
        let row = |i: usize| {
            format!("images/P{i:04}-S1.png{separator}\"A \"\"finding\"\" of {i}\"{separator}p{i}{separator}train\n")
        };
        format!("image{separator}report{separator}patient_id{separator}split\n{}", (1..6).map(row).collect::<String>())
    };
    let json = |i: usize| {
        format!("{{\"image\":\"images/P{i:04}-S1.png\",\"report\":\"Finding {i}\",\"age\":{i},\"label\":null}}\n")
    };
    let loss = r#"{"logits":[[2.0,1.0,0.1],[0.5,1.5,0.8]],"targets":[0,1],"label_smoothing":0.1,
        "class_weights":[1,2,3],"ignore_index":-100}"#;
    let soft =
        r#"{"logits":[[2.0,1.0],[0.5,1.5]],"targets":[[0.5,0.5],[0,1]],"label_smoothing":0.2,"class_weights":null}"#;
    fs::create_dir_all(place.join("tables")).unwrap();
    let tables = [
        ("a.csv", lines(",")),
        ("b.csv", lines(";")),
        ("a.tsv", lines("\t")),
        ("a.jsonl", (1..6).map(json).collect()),
        ("several.toml", several.to_string()),
        ("prompts.json", r#"{"normal":["No finding."],"effusion":["Effusion.","Fluid."]}"#.to_string()),
        ("loss.json", loss.to_string()),
        ("loss_soft.json", soft.to_string()),
    ];
    for (name, text) in tables {
        fs::write(place.join("tables").join(name), text).unwrap();
    }
    let four = lines(",").lines().take(5).map(|l| format!("{l}\n")).collect::<String>();
    fs::write(place.join("phantom/four.csv"), four).unwrap();
    fs::write(place.join("sets.txt"), "optim.lr=1e-3").unwrap();
    fs::write(place.join("run/zero-shot.json"), ok(
        "zero-shot --model run/model --data phantom/manifest.csv --prompts prompts/phantom.toml --bootstrap 5 --json",
    ))
    .unwrap();
    ok("embed --model run/model --data phantom/manifest.csv --out index.safetensors");
    for (name, without) in
        [("bare", &["model.safetensors", "config.json"]), ("plain", &["tokenizer.json", "tokenizer_config.json"])]
    {
        copy_folder(&place.join("run/model"), &place.join(name));
        without.iter().for_each(|file| fs::remove_file(place.join(name).join(file)).unwrap());
    }
    fs::create_dir_all(place.join("studies")).unwrap();
    for (i, image) in
        ["preprocess/rgb.png", "preprocess/gray16.png", "jpeg/gray.jpg", "dicom/mono2_8.dcm"].iter().enumerate()
    {
        let extension = Path::new(image).extension().unwrap().to_str().unwrap();
        fs::copy(golden(image), place.join(format!("studies/{i}.{extension}"))).unwrap();
        fs::write(place.join(format!("studies/{i}.txt")), "FINDINGS: One is seen.\nIMPRESSION: Two.").unwrap();
    }
}

/// A folder with everything below it, copied over what lies there.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::write(&target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

impl Kind {
    /// How many cases it has where most kinds have `cases`: more where several share a process.
    pub fn cases(&self, cases: u64) -> u64 {
        match self.batch {
            1 if self.slow => (cases / 10).max(cases.min(10)),
            1 => cases,
            _ => cases * 10,
        }
    }

    /// The files that its patterns name, sorted.
    pub fn seed_files(&self, place: &Path) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = Vec::new();
        for pattern in self.seeds {
            let before = found.len();
            let files = glob::glob(place.join(pattern).to_str().unwrap()).unwrap().map(|f| f.unwrap());
            // What the reference gave is no input.
            found.extend(
                files.filter(|f| f.is_file() && !f.ends_with("expected.safetensors") && !f.ends_with("golden.json")),
            );
            assert!(found.len() > before, "{}: {pattern} names no file", self.name);
        }
        found.sort();
        found.dedup();
        found
    }
}
