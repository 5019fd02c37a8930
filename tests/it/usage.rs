//! What the program says where arguments or files are not what they should be, and what it never writes over.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::{Command, Stdio};

use crate::runs::{PROMPTS, Place, json, text};
use crate::snapshots::{commands, help};

const BINARY: &str = env!("CARGO_BIN_EXE_reportclip");

/// The one line of stderr that an error is.
fn told(place: &Place, command: &str, code: i32) -> String {
    let args: Vec<&str> = command.split(' ').map(|word| if word == "''" { "" } else { word }).collect();
    let output = place.run(&args);
    let stderr = text(&output.stderr);
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(code), 1), "{command}: {stderr}");
    stderr.strip_prefix("error: ").unwrap_or_else(|| panic!("{command}: {stderr}")).trim_end().to_string()
}

#[test]
fn wrong_arguments_are_one_line_and_exit_code_2() {
    let place = Place::new();
    fs::write(place.path("p.toml"), PROMPTS).unwrap();
    let count = "allowed are whole numbers from 1 to 1048576; --help says more";
    let cases = [
        ("bench train-step --accum-freq 0", count),
        ("bench train-step --steps 0", count),
        ("bench encode --steps 0", count),
        ("bench encode --batch-size 0", count),
        ("bench encode --batch-size -1", count),
        ("bench encode --tokens 0", count),
        ("bench encode --tokens 99", "texts of 99 tokens; allowed are 1 to 77"),
        ("bench encode --image-size 1", "--image-size 1: "),
        ("bench train-step --image-size 1", "--image-size 1: "),
        ("bench encode --model nope", "model \"nope\": built in are clip-vit-base-patch32, "),
        ("bench train-step --model nope", "model \"nope\": built in are clip-vit-base-patch32, "),
        ("bench matmul --threads 0", "threads: 0; allowed here are 1 to "),
        ("bench data --images phantom/images --image-size 0", "allowed are whole numbers from 1 to 4096"),
        ("bench data --images phantom/images --rounds 0", count),
        ("bench loader phantom/manifest.csv --workers 0", "allowed are whole numbers from 1 to 256"),
        ("bench collectives --rounds 0", count),
        ("model inspect x --batch-size 0", count),
        ("eval --model m --data phantom/manifest.csv --device cuda:x", "allowed are auto, cpu, cuda and cuda:N"),
        ("train tiny.toml --set device=gpu", "device \"gpu\": allowed are auto, cpu, cuda and cuda:N"),
        ("data prepare opeeni phantom --out x", "\"opeeni\" is no preset; allowed are openi, "),
        ("search --index x -k 0 --text a", count),
        ("search --index x --text ''", "--text is empty"),
        ("search --index x", "nothing to look for; name --text TEXT, --image FILE, both of them, or --queries FILE"),
        ("search --index x --text a --weights 0.7,0.3", "--weights: no query has a text and an image"),
        ("search --index x --text a --weights -1,1", "allowed are two numbers from 0 on, not both 0, such as 0.7,0.3"),
        ("search --index x --text a --weights 1e308,1", "too large; allowed are two numbers from 0 on, not both 0"),
        ("embed --model m --texts t --out x.safetensors --format npy", "--out x.safetensors: is called as a file"),
        ("embed --model m --texts t --out x.npy --shard-rows 5", "--out x.npy: is called as a file"),
        ("embed --model m --texts t --out x.npy", "--out x.npy: is called as a file, and a file is safetensors"),
        ("embed --model m --texts t --out X.Parquet", "ends in \"/\", with --format parquet"),
        ("embed --model m --dicomweb http://127.0.0.1:99999/x --study 1.2 --out x.safetensors", "has no port behind"),
        ("data lint phantom/manifest.csv --context-length 9", "not provided: --model <DIR|HUB_ID>"),
        ("data split phantom/manifest.csv --out x.csv --by nobody", "[possible values: patient, study, image]"),
        ("data synth --out x --noise -0.1", "allowed are shares from 0 to 1"),
        ("train --fooo tiny.toml", "unexpected argument '--fooo' found; to pass '--fooo' as a value, use '-- --fooo'"),
        (
            "loss explain --logits 1,2 --targets --json",
            "'--json' for '--targets <[…]>': a value is required, and this is",
        ),
        ("loss explain --logits --json --targets 0", "'--json' for '--logits <[[…],…]>': a value is required"),
        (
            "eval --model a --data b --wise-ft c --alphas --json",
            "'--json' for '--alphas <ALPHAS>': a value is required",
        ),
        ("bench collectives --mib --json", "'--json' for '--mib <MIB>': a value is required"),
        (
            "eval --model a --data b --wise-ft c --conformal 0.1",
            "'--wise-ft <DIR|HUB_ID>' cannot be used with '--conformal",
        ),
        ("trai tiny.toml", "unrecognized subcommand 'trai'"),
        ("train tiny.toml --resume phantom", "--resume phantom: is neither the folder of a run nor of a checkpoint"),
        ("train tiny.toml --resume x --out y", "--resume x names its run folder; leave --out away"),
        ("run-report nosuch --out x.html", "nosuch: there is no such folder; name those of runs or sweeps"),
        (
            "zero-shot --model m --data d --prompts p.toml --fit-split val",
            "--fit-split val: needs --split, which must be",
        ),
        ("zero-shot --model m --data d --prompts p.toml --split val --fit-split val", "--fit-split val: needs --split"),
        ("zero-shot --model m --data d --prompts nosuch.toml", "prompts nosuch.toml: No such file"),
        (
            "zero-shot --model m --data d --prompts p.toml --head p.toml",
            "head p.toml: there is no such .safetensors file",
        ),
        (
            "zero-shot --model m --data d --prompts p.toml --conformal 1e-300",
            "between 0 and 1, such as 0.1, from 0.0001",
        ),
        (
            "embed",
            "not provided: --model <DIR|HUB_ID>, --out <FILE.safetensors|FOLDER/>; see `reportclip embed --help`",
        ),
    ];
    for (command, expected) in cases {
        let line = told(&place, command, 2);
        assert!(line.contains(expected), "{command}: {line}");
    }
    // A command alone shows its help.
    let output = place.run(&["data"]);
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("Commands:\n"));
}

/// Texts from outside are read whole, up to what such a text may have.
#[cfg(unix)]
#[test]
fn what_never_ends_is_not_read_for_ever() {
    let place = Place::new();
    // Nor waited for: nobody writes into the pipe.
    assert!(std::process::Command::new("mkfifo").arg(place.path("pipe")).status().unwrap().success());
    for file in ["/dev/zero", "pipe"] {
        for (command, code) in [("train", 2), ("config validate", 2), ("config show", 2), ("loss explain --input", 1)] {
            let line = told(&place, &format!("{command} {file}"), code);
            assert!(line.contains(&format!("{file}: is no regular file")), "{command}: {line}");
        }
    }
    fs::write(place.path("m.csv"), "image,report\npipe,Clear.\n").unwrap();
    fs::write(place.path("q.csv"), "image\npipe\n").unwrap();
    place.train_ok("run", &["--set", "train.max_steps=2"]);
    let embed = |more: &str| told(&place, &format!("embed --model run/model --out all.safetensors {more}"), 1);
    embed_ok(&place);
    let search = |more: &str| told(&place, &format!("search --index index.safetensors {more}"), 1);
    for file in ["pipe", "/dev/zero"] {
        for (what, line) in [
            ("--data", embed(&format!("--data {file}"))),
            ("--images", embed(&format!("--images {file}"))),
            ("--texts", embed(&format!("--texts {file}"))),
            ("--queries", search(&format!("--queries {file}"))),
            ("--image", search(&format!("--image {file}"))),
            ("--index", told(&place, &format!("search --index {file} --text x"), 1)),
            ("--prompts", told(&place, &format!("zero-shot --model m --data d --prompts {file}"), 2)),
            ("sweep", told(&place, &format!("sweep tiny.toml --grid optim.lr=1e-3 --out s --prompts {file}"), 2)),
        ] {
            assert!(line.contains("is no regular file"), "{what} {file}: {line}");
        }
    }
    let line = search("--queries q.csv");
    assert!(line.contains("q.csv: query 1 (line 2), image: is no regular file"), "{line}");
    let line = embed("--data m.csv");
    assert!(line.contains("m.csv:2: image: is not a file"), "{line}");
    assert!(!place.path("s").exists());
}

fn embed_ok(place: &Place) {
    fs::write(place.path("lines.txt"), "left effusion\n").unwrap();
    let output = place.run(&["embed", "--model", "run/model", "--texts", "lines.txt", "--out", "index.safetensors"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Whoever adds a command with a device gets its check by the parser of all.
#[test]
fn every_command_knows_what_a_device_is_called() {
    let place = Place::new();
    let (mut asked, mut paths) = (0, vec![Vec::new()]);
    while let Some(path) = paths.pop() {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let text = help(&words);
        paths.extend(commands(&text).into_iter().map(|name| [path.clone(), vec![name]].concat()));
        if text.contains("--device <DEVICE>") {
            asked += 1;
            let line = told(&place, &format!("{} --device gpu", words.join(" ")), 2);
            assert!(line.contains("allowed are auto, cpu, cuda and cuda:N"), "{line}");
        }
    }
    assert!(asked >= 8, "{asked} commands take a device");
}

#[test]
fn negative_numbers_are_values() {
    let place = Place::new();
    for args in ["--logits -1,2 --targets 0 --json", "--logits [[-1,2]] --targets [0] --json"] {
        let output = place.run(&[&["loss", "explain"], &args.split(' ').collect::<Vec<_>>()[..]].concat());
        let found = json(&output.stdout);
        let loss = found["loss_hard"].as_f64().unwrap();
        assert!((loss - (1.0 + 3f64.exp()).ln()).abs() < 1e-9, "−ln softmax of −1 beside 2: {found}");
    }
    let line = told(&place, "loss explain --label-smoothing -1", 1);
    assert!(line.contains("label_smoothing is -1, allowed is 0.0 to 1.0"), "{line}");
    let line = told(&place, "model merge --model a --base b --alpha -0.5 --out c", 2);
    assert_eq!(line, "--alpha is -0.5; allowed is 0 to 1");
    let line = told(&place, "eval --model a --data b --wise-ft c --alphas -1,0", 2);
    assert_eq!(line, "--alphas: allowed are shares from 0 to 1");
    let line = told(&place, "loss explain --logits -1,x --targets 0", 2);
    assert!(line.starts_with("--logits and --targets: "), "{line}");
}

#[test]
fn a_dry_run_is_one_object() {
    let place = Place::new();
    let output = place.run(&["train", "tiny.toml", "--dry-run", "--json", "--set", "data.val_split=none"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let plan = json(&output.stdout);
    assert_eq!((&plan["steps"], &plan["pairs_a_step"]), (&10.into(), &8.into()), "{plan}");
    for key in ["parameters", "training_pairs", "weights_mib", "machine_mib", "peak_rss_mib"] {
        assert!(plan[key].as_u64().is_some(), "{key} in {plan}");
    }
    assert!(plan["loss_hard"].as_f64().unwrap() > 0.0 && plan["precision"] == "f32", "{plan}");
    assert!(plan["warnings"][0].as_str().unwrap().contains("no validation pairs"), "{plan}");
    assert_eq!(plan["problems"], serde_json::json!([]));
    let output = place.run(&["train", "tiny.toml", "--dry-run", "--json", "--set", "train.batch_size=100000"]);
    assert_eq!(output.status.code(), Some(2));
    let problems = json(&output.stdout)["problems"].clone();
    assert!(problems[0].as_str().unwrap().contains("make the batch smaller"), "{problems}");
    assert!(!place.path("runs").exists());
}

#[test]
fn what_is_no_config_is_told_for_what_it_is() {
    let place = Place::new();
    fs::copy(place.path("phantom/images/P0001-S1.png"), place.path("picture")).unwrap();
    let weights = [&2u64.to_le_bytes()[..], b"{}"].concat();
    fs::write(place.path("weights"), weights).unwrap();
    place.train_ok("run", &["--set", "train.max_steps=2"]);
    let cases = [
        ("picture", "config picture: is a PNG image; wanted is a config file (TOML), such as configs/demo.toml"),
        ("weights", "config weights: is a safetensors file; wanted is a config file (TOML)"),
        ("gone.csv", "config gone.csv: there is no such file, and by its name it would be a manifest; name a config"),
        ("gone.toml", "config gone.toml: there is no such file; name a config file (TOML)"),
        ("phantom", "config phantom: is a folder; name the file in it"),
        (
            "run",
            "config run: is the folder of a run; name its config run/config.toml, with which `train run/config.toml \
                 --resume` goes on",
        ),
    ];
    for (config, expected) in cases {
        let line = told(&place, &format!("train {config}"), 2);
        assert!(line.starts_with(expected), "{line}");
    }
    let line = told(&place, "model inspect run", 1);
    assert!(line.contains("a run's model is in its folder model: run/model"), "{line}");
    let line = told(&place, "embed --model run/model --images picture --out no/where.safetensors", 1);
    assert!(line.contains("no/where.safetensors: there is no folder no; make it first"), "{line}");
}

#[test]
fn a_runs_own_config_goes_on_with_that_run() {
    let place = Place::new();
    place.train_ok("ten", &[]);
    place.train_ok("five", &["--set", "train.stop_after=5"]);
    // The run that its name alone would lead to.
    place.train_ok("runs/config", &["--set", "train.max_steps=2"]);
    let args = ["train", "five/config.toml", "--resume", "--set", "train.stop_after=99"];
    let output = place.run(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    place.assert_same_run("ten", "five");
}

/// Checks that came after a run began, of what did nothing in it, do not keep it from going on.
#[test]
fn a_run_that_is_older_than_a_check_goes_on() {
    let place = Place::new();
    place.train_ok("ten", &[]);
    place.train_ok("five", &["--set", "train.stop_after=5"]);
    let config = place.path("five/config.toml");
    let written = fs::read_to_string(&config).unwrap();
    let older = written.replace("form = \"attention\"", "form = \"map\"");
    assert_ne!(written, older);
    fs::write(&config, older).unwrap();
    let line = told(&place, "train five/config.toml --out new", 2);
    assert!(line.contains("makes use of it; those that do are \"local\""), "{line}");
    let output = place.run(&["train", "five/config.toml", "--resume"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    place.assert_same_run("ten", "five");
}

#[test]
fn a_pause_is_of_one_part_of_a_run_and_what_is_kept_is_told() {
    let place = Place::new();
    place.train_ok("ten", &[]);
    let train = |args: &[&str]| {
        let output = place.run(&[&["train"], args].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    place.train_ok("five", &["--set", "train.stop_after=5"]);
    // A file that says so itself pauses wherever it is used: where nothing is left to do, that is told.
    let config = fs::read_to_string(place.path("tiny.toml")).unwrap();
    fs::write(place.path("pause.toml"), config.replace("[train]", "[train]\nstop_after = 5")).unwrap();
    let told = train(&["pause.toml", "--out", "five", "--resume"]);
    assert!(told.contains("step 5 of 10, where it stood: train.stop_after is no later; set a later one"), "{told}");
    // What a run keeps does not.
    let told = train(&["five/config.toml", "--resume", "--set", "train.checkpoint_every=3", "--set", "data.workers=1"]);
    let kept = "goes on, and from now on keeps in ";
    let line = told.lines().find(|line| line.contains(kept)).unwrap_or_else(|| panic!("{told}"));
    for change in ["five/config.toml: ", "data.workers = 1 (was ", "train.checkpoint_every = 3 (was 2)"] {
        assert!(line.contains(change), "{line}");
    }
    assert!(!line.contains("stop_after"), "{line}");
    let models = ["ten", "five"].map(|run| fs::read(place.path(run).join("model/model.safetensors")).unwrap());
    assert!(models[0] == models[1]);
    assert!(!train(&["five/config.toml", "--resume"]).contains(kept));
    // A new run with a run's config is called like that run, and says so.
    let told = train(&["five/config.toml"]);
    assert!(told.contains("five goes to runs/five; --resume goes on with that one"), "{told}");
    assert!(place.path("runs/five/model").is_dir());
}

#[test]
fn keys_that_change_nothing_on_this_device_are_told() {
    let place = Place::new();
    let keys = ["train.tensor_cores", "train.overlap_copies"];
    let sets = keys.map(|key| format!("{key}=true"));
    let output = place.train_ok("run", &["--set", "device=cpu", "--set", &sets[0], "--set", &sets[1]]);
    for key in keys {
        let line = format!("{key} changes nothing here: the device is the CPU");
        assert_eq!(text(&output.stderr).matches(&line).count(), 1, "{}", text(&output.stderr));
    }
    assert!(!text(&place.train_ok("plain", &[]).stderr).contains("changes nothing here"));
}

#[test]
fn data_that_was_moved_is_known_by_its_content() {
    let place = Place::new();
    place.train_ok("ten", &[]);
    place.train_ok("five", &["--set", "train.stop_after=5"]);
    fs::rename(place.path("phantom"), place.path("moved")).unwrap();
    let errors = place.errors(&["train", "tiny.toml", "--out", "five", "--resume"], 2);
    assert!(errors.len() == 1 && errors[0].contains("manifest.csv: there is no such file"), "{errors:?}");
    place.train_ok("five", &["--resume", "--set", "data.train=moved/manifest.csv"]);
    place.assert_same_run("ten", "five");
    // The run's config says where they are now.
    let output = place.run(&["train", "five/config.toml", "--resume"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    // A place that is needed no longer may be taken back, also where it is gone.
    let root = ["--resume", "--set", "data.train=moved/manifest.csv"];
    fs::rename(place.path("moved"), place.path("images-elsewhere")).unwrap();
    fs::create_dir(place.path("moved")).unwrap();
    fs::copy(place.path("images-elsewhere/manifest.csv"), place.path("moved/manifest.csv")).unwrap();
    place.train_ok("five", &[&root[..], &["--set", "data.image_root=images-elsewhere"]].concat());
    fs::remove_dir_all(place.path("moved")).unwrap();
    fs::rename(place.path("images-elsewhere"), place.path("moved")).unwrap();
    place.train_ok("five", &root);
    place.assert_same_run("ten", "five");
    // Others are not taken for them, wherever they are.
    fs::create_dir(place.path("others")).unwrap();
    let rows = fs::read_to_string(place.path("moved/manifest.csv")).unwrap().replacen("IMPRESSION", "Impression", 1);
    fs::write(place.path("moved/others.csv"), rows).unwrap();
    let args = ["train", "tiny.toml", "--out", "five", "--resume", "--set", "data.train=moved/others.csv"];
    let errors = place.errors(&args, 1);
    assert!(errors.len() == 1 && errors[0].contains("reports changed in at least 1 of "), "{errors:?}");
}

/// The same pairs, but drawn in another order, judged by others in the end, or known by other lines.
#[test]
fn data_that_would_be_used_otherwise_is_not_the_same() {
    let place = Place::new();
    let rows = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let (header, rows) = rows.split_once('\n').unwrap();
    let (first, second): (Vec<&str>, Vec<&str>) = rows.lines().partition(|row| row.contains("P0001"));
    let write = |name: &str, rows: &[&str]| {
        fs::write(place.path(&format!("phantom/{name}.csv")), format!("{header}\n{}\n", rows.join("\n"))).unwrap();
    };
    write("a", &second[..second.len() / 2]);
    write("b", &[&second[second.len() / 2..], &first[..]].concat());
    let weighted = ["--set", "data.weights=[1.0, 1.0]"];
    let ab = ["--set", "data.train=[\"phantom/a.csv\", \"phantom/b.csv\"]"];
    place.train_ok("two", &[&ab[..], &weighted, &["--set", "train.stop_after=5"]].concat());
    write("a", &second[..second.len() / 2 + 8]);
    write("b", &[&second[second.len() / 2 + 8..], &first[..]].concat());
    let refused = |run: &str, sets: &[&str]| {
        let errors = place.errors(&[&["train", "tiny.toml", "--out", run, "--resume"], sets].concat(), 1);
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].clone()
    };
    let line = refused("two", &[&ab[..], &weighted].concat());
    assert!(line.contains("how rows are divided over data.train changed"), "{line}");

    let all = [&first[..], &second].concat();
    write("all", &all);
    let all_of = ["--set", "data.train=phantom/all.csv", "--set", "data.on_error=skip", "--set", "train.stop_after=5"];
    place.train_ok("tested", &all_of);
    let changed: Vec<String> = all
        .iter()
        .map(|row| if row.contains(",test") { row.replace("IMPRESSION", "Impression") } else { row.to_string() })
        .collect();
    write("all", &changed.iter().map(String::as_str).collect::<Vec<_>>());
    let line = refused("tested", &all_of);
    assert!(line.contains("pairs of the split test changed in at least"), "{line}");

    // A row without an image was left out, and is not there any more: all others stand a line higher.
    let broken = format!("gone.png{}", &first[0][first[0].find(',').unwrap()..]);
    write("all", &[&[broken.as_str()][..], &all].concat());
    place.train_ok("skipping", &all_of);
    write("all", &all);
    let skipped = fs::read_to_string(place.path("skipping/skipped.jsonl")).unwrap();
    assert!(skipped.contains("\"reason\":\"missing_image\""), "{skipped}");
    let line = refused("skipping", &all_of);
    assert!(line.contains("left out (1, see skipped.jsonl)") && line.contains("other lines now"), "{line}");
}

#[test]
fn phantoms_are_not_drawn_for_data_of_ones_own() {
    let place = Place::new();
    let config = fs::read_to_string(place.path("tiny.toml")).unwrap();
    let config = config.replace("train = \"phantom/manifest.csv\"", "train = \"new/manifest.csv\"\nphantom = 30");
    fs::write(place.path("demo.toml"), config).unwrap();
    fs::copy(place.path("phantom/manifest.csv"), place.path("phantom/own.csv")).unwrap();
    let output = place.run(&["train", "demo.toml", "--dry-run", "--set", "data.train=phantom/own.csv"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for gone in ["gone/own.csv", "gone/manifest.csv"] {
        let errors = place.errors(&["train", "demo.toml", "--set", &format!("data.train={gone}")], 2);
        assert_eq!(errors, [format!("--set data.train: {gone}: there is no such file")]);
    }
    assert!(!place.path("new").exists() && !place.path("gone").exists());
}

#[test]
fn no_command_writes_over_what_it_reads() {
    let place = Place::new();
    fs::create_dir_all(place.path("model")).unwrap();
    fs::write(place.path("model/model.safetensors"), "weights").unwrap();
    fs::create_dir_all(place.path("run")).unwrap();
    fs::write(place.path("run/config.toml"), "seed = 1\n").unwrap();
    fs::write(place.path("lines.txt"), "one\n").unwrap();
    fs::write(place.path("scan.dcm"), "frames").unwrap();
    for part in ["part-1.csv", "part-2.csv"] {
        fs::write(place.path(part), "image,report,patient_id\nphantom/images/P0001-S1.png,a,1\n").unwrap();
    }
    let manifest = fs::read(place.path("phantom/manifest.csv")).unwrap();
    for command in [
        "data split phantom/manifest.csv --out phantom/../phantom/manifest.csv",
        "data lint phantom/manifest.csv --html phantom/manifest.csv",
        "embed --model model --data phantom/manifest.csv --out phantom/manifest.csv",
        "embed --model model --texts lines.txt --out lines.txt",
        "embed --model model --texts lines.txt --out model/model.safetensors",
        "embed --model model --images phantom/images/P0001-S1.png --out phantom/images/P0001-S1.png",
        "explain --model model --image phantom/images/P0001-S1.png --text a --out phantom/images/P0001-S1.png",
        "run-report run --out run/config.toml",
        // What a manifest names, and what a pattern does.
        "data lint phantom/manifest.csv --html phantom/images/P0001-S1.png",
        "data split phantom/manifest.csv --out phantom/images/P0001-S1.png",
        "data split part-{1..2}.csv --out part-2.csv",
        "data lint part-{1..2}.csv --html part-2.csv",
        "embed --model model --data phantom/manifest.csv --out phantom/images/P0001-S1.png",
        "embed --model model --data part-{1..2}.csv --out part-1.csv",
        "embed --model model --images scan.dcm#2 --out scan.dcm",
    ] {
        let line = told(&place, &format!("{command} --force"), 1);
        assert!(line.ends_with(": this command reads it, so it is not written over; name another file"), "{line}");
    }
    let line = told(&place, "data split phantom/manifest.csv --out new.csv --split-column image", 2);
    assert_eq!(line, "--split-column image: is the name of another column, which would be written over");
    assert_eq!(fs::read(place.path("phantom/manifest.csv")).unwrap(), manifest);
    assert_eq!(fs::read(place.path("model/model.safetensors")).unwrap(), b"weights");
}

#[test]
fn a_split_in_another_folder_finds_its_images() {
    let place = Place::new();
    let rows = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let first = rows.lines().nth(1).unwrap().split(',').next().unwrap().to_string();
    let line = format!("{{\"image\": \"{first}\", \"report\": \"a\", \"patient_id\": \"P\"}}\n");
    fs::write(place.path("phantom/rows.jsonl"), line).unwrap();
    fs::create_dir_all(place.path("else/where")).unwrap();
    for (from, to) in [("phantom/manifest.csv", "else/where/split.csv"), ("phantom/rows.jsonl", "else/split.jsonl")] {
        let output = place.run(&["data", "split", from, "--out", to, "--shares", "train=1"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("image paths lead from the new file's folder now, by "), "{from}");
        let lint = place.run(&["data", "lint", to, "--json"]);
        let report = json(&lint.stdout);
        assert!(report["rows"].as_u64().unwrap() > 0, "{report}");
        let missing = report["findings"].as_array().unwrap().iter().find(|f| f["code"] == "missing_image");
        assert!(missing.is_none(), "{report}");
    }
    // With a root of its own, names stay as they are.
    let args = ["data", "split", "phantom/manifest.csv", "--image-root", "phantom", "--out", "else/rooted.csv"];
    assert!(place.run(&args).status.success());
    assert!(fs::read_to_string(place.path("else/rooted.csv")).unwrap().contains(&format!("\n{first},")));
}

#[test]
fn blank_names_of_images_are_told() {
    let place = Place::new();
    fs::write(place.path("blank.csv"), "image,report\n \t,one\n\"\",two\nphantom/images/P0001-S1.png,three\n").unwrap();
    let lint = text(&place.run(&["data", "lint", "blank.csv"]).stdout);
    assert!(lint.contains("no_image: rows whose image column is blank") && lint.contains("blank.csv:2, blank.csv:3"));
    let errors = place.errors(&["train", "tiny.toml", "--set", "data.train=blank.csv"], 2);
    assert_eq!(errors[0], "blank.csv:2: column \"image\" is blank, and should name the image's file");
}

#[test]
fn warnings_have_one_form() {
    let place = Place::new();
    let rows = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
    let broken = rows.lines().find(|row| row.contains(",train,")).unwrap().split(',').next().unwrap();
    fs::write(place.path("phantom").join(broken), "no image").unwrap();
    let sets = ["--set", "data.val_split=none", "--set", "data.on_error=skip", "--set", "train.max_steps=20"];
    let stderr = text(&place.train_ok("run", &sets).stderr);
    for begin in ["warning: no validation pairs", "warning: skipped line ", "info: run folder run: "] {
        assert!(stderr.lines().any(|line| line.starts_with(begin)), "{begin}: {stderr}");
    }
    assert!(!stderr.contains("WARN") && !stderr.contains("INFO"), "{stderr}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_stdout_is_told_and_is_a_failure() {
    for args in [&["loss", "explain"][..], &["loss", "explain", "--json"], &["--help"], &["config", "list"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = Command::new(BINARY).args(args).stdout(full).output().unwrap();
        let stderr = text(&output.stderr);
        let expected = "error: stdout cannot be written to (no storage space); not all results were printed\n";
        assert_eq!((output.status.code(), stderr.as_str()), (Some(1), expected), "{args:?}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_no_half_drawn_phantoms() {
    let place = Place::new();
    let mut command = place.command(&["data", "synth", "--out", "many", "--patients", "200000", "--size", "128"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let drawing = place.path("many/.images.tmp");
    while !fs::read_dir(&drawing).is_ok_and(|mut files| files.next().is_some()) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it drew anything");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("nothing was drawn"), "{}", text(&output.stderr));
    assert!(!drawing.exists() && !place.path("many/images").exists());
    assert!(place.run(&["data", "synth", "--out", "many", "--patients", "7", "--size", "32"]).status.success());
}

/// A tokenizer of bytes cuts what it has seldom seen into parts of characters.
#[test]
fn explained_tokens_are_whole_characters_and_rows_have_one_count() {
    let place = Place::new();
    place.train_ok("run", &["--set", "train.max_steps=2"]);
    let images = ["P0001-S1", "P0002-S1", "P0003-S1"].map(|name| format!("phantom/images/{name}.png"));
    let said = "右下肺斑片影";
    let output = place.run(&["explain", "--model", "run/model", "--image", &images[0], "--text", said, "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let tokens = json(&output.stdout)["tokens"].clone();
    let shown: Vec<&str> = tokens.as_array().unwrap().iter().map(|t| t[0].as_str().unwrap().trim()).collect();
    assert_eq!(shown.concat(), said, "{tokens}");
    assert!(tokens.as_array().unwrap().iter().any(|t| t[1] == 1.0), "{tokens}");
    // Rows of images count from 0, as in JSON and in the tensors.
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let args = [&["embed", "--model", "run/model", "--out", "i.safetensors", "--images"][..], &images].concat();
    assert!(place.run(&args).status.success());
    let search = ["search", "--index", "i.safetensors", "--image", images[2], "-k", "1"];
    assert!(text(&place.run(&search).stdout).contains("  row 2"));
    assert_eq!(json(&place.run(&[&search[..], &["--json"]].concat()).stdout)["hits"][0]["row"], 2);
}

/// Asked by [`ci_sees_what_is_read_before_it_is_written`] in a process of its own.
#[test]
#[ignore = "of the environment"]
fn memory_is_poisoned() {
    assert!(reportclip::ops::is_poisoned());
}

#[test]
fn ci_sees_what_is_read_before_it_is_written() {
    let ci = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/run")).unwrap();
    assert!(ci.contains("export REPORTCLIP_POISON=1\n"), "integration tests run on the released library");
    let asked = |poisoned: bool| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "usage::memory_is_poisoned", "--ignored"]).env_remove("REPORTCLIP_POISON");
        command.envs(poisoned.then_some(("REPORTCLIP_POISON", "1"))).output().unwrap().status.success()
    };
    assert!(asked(true));
    assert_eq!(asked(false), cfg!(debug_assertions));
}
