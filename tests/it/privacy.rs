//! Distinctive names, numbers and words are planted wherever a data set may hold something of a patient; then every
//! command runs, on success and on failure, as loud as it can, and nothing that was planted is in what it prints or
//! writes. What is meant to show patients' data is named here, and in docs/reliability.md.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::runs::Place;
use crate::snapshots::{commands, help};

/// In names of patients, studies, files and folders, in DICOM headers, texts of PNGs and Exif.
const NAME: &str = "zxqv";
/// In reports.
const WORD: &str = "qwxjz";

/// Files that are meant to show patients' data: galleries, pages of them, what was prepared, and pictures.
const MEANT: [&str; 4] = ["pictures-", "report.html", "lint.html", "why.png"];

struct Planted {
    place: Place,
    /// Commands that ran.
    ran: BTreeSet<String>,
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &crc.sum().to_be_bytes()].concat()
}

/// With a text, and something behind the end.
fn dressed(png: &[u8]) -> Vec<u8> {
    let (head, body) = png.split_at(33);
    [head, &chunk(b"tEXt", b"Patient\0Zxqv^Text"), body, b"Zxqv^Behind"].concat()
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.to_ascii_lowercase().windows(word.len()).any(|w| w == word.as_bytes())
}

impl Planted {
    /// A phantom set whose patients, studies, folders and files have planted names; the first report of each split
    /// has the word: what several reports share gets into the vocabulary of a tokenizer that is trained on them.
    fn new() -> Self {
        let place = Place::new();
        let text = fs::read_to_string(place.path("phantom/manifest.csv")).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(reader.headers().unwrap()).unwrap();
        let mut splits = BTreeSet::new();
        for row in reader.records() {
            let row = row.unwrap();
            let image = format!("images/Zxqv_{}/Zxqv_{}.png", &row[2], &row[3]);
            let (from, to) = (place.path("phantom").join(&row[0]), place.path("phantom").join(&image));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(&to, dressed(&fs::read(&from).unwrap())).unwrap();
            fs::remove_file(from).unwrap();
            let report =
                if splits.insert(row[4].to_string()) { format!("{} Qwxjz.", &row[1]) } else { row[1].to_string() };
            let (patient, study) = (format!("Zxqv-{}", &row[2]), format!("Zxqv-{}", &row[3]));
            writer.write_record([&image, &report, &patient, &study, &row[4], &row[5]]).unwrap();
        }
        let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        fs::write(place.path("phantom/manifest.csv"), &text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let write = |name: &str, lines: &[&str]| fs::write(place.path("phantom").join(name), lines.join("\n")).unwrap();
        let broken = "images/Zxqv_broken.png,Qwxjz.,Zxqv-1,Zxqv-2,train,normal";
        fs::write(place.path("phantom/images/Zxqv_broken.png"), &dressed(&[9; 40])[8..]).unwrap();
        let gone = "images/Zxqv_gone.png,Qwxjz.,Zxqv-1,Zxqv-2,train,normal";
        let validated = broken.replace("train", "val");
        write("broken.csv", &[&lines[..], &[broken]].concat());
        write("broken-val.csv", &[&lines[..], &[&validated]].concat());
        write("gone.csv", &[&lines[..], &[gone]].concat());
        write("cut.csv", &[&lines[..], &["images/Zxqv_gone.png,\"Qwxjz."]].concat());
        write("no-column.csv", &[&["file,text,who"], &lines[1..]].concat());
        write(
            "leak.csv",
            &[&lines[..], &[&lines[1].replace("train", "val"), &lines[1].replace("train", "test")]].concat(),
        );
        write("relabelled.csv", &[&lines[..1], &[&lines[1].replace("Qwxjz", "Qwxjz Qwxjz")], &lines[2..]].concat());
        fs::write(place.path("phantom/not-text.csv"), [text.as_bytes(), b"Zxqv\xff,Qwxjz\xff,Zxqv,,,\n"].concat())
            .unwrap();
        // A folder as a hospital's own archive has them.
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dicom/mono2_12.dcm");
        let study = place.path("raw/Zxqv_Miller/Zxqv-2020");
        fs::create_dir_all(&study).unwrap();
        let first = lines[1].split(',').next().unwrap();
        fs::copy(place.path("phantom").join(first), study.join("Zxqv_a.png")).unwrap();
        let dicom = fs::read(golden).unwrap();
        let at = dicom.windows(7).position(|w| w == b"PHANTOM").unwrap();
        let named = [&dicom[..at], b"ZXQV^AB", &dicom[at + 7..]].concat();
        fs::write(study.join("Zxqv_b.dcm"), &named).unwrap();
        fs::write(study.join("Zxqv_broken.dcm"), &named[..named.len() / 2]).unwrap();
        fs::write(study.join("Zxqv_c.jpg"), jpeg()).unwrap();
        fs::write(study.join("report.txt"), "FINDINGS: Qwxjz.").unwrap();
        fs::copy(study.join("Zxqv_b.dcm"), place.path("scan.dcm")).unwrap();
        fs::write(place.path("cut.dcm"), &named[..named.len() / 2]).unwrap();
        fs::write(place.path("lines.txt"), "Qwxjz.\nclear\n").unwrap();
        fs::write(place.path("classes.toml"), crate::runs::PROMPTS).unwrap();
        Self { place, ran: BTreeSet::new() }
    }

    /// Runs a command that ends well (`code` 0) or is refused; neither of its outputs holds what was planted.
    fn run(&mut self, args: &[&str], code: i32) {
        let output = self.say(args, code);
        for bytes in [&output.stdout, &output.stderr] {
            for word in [NAME, WORD] {
                assert!(!contains(bytes, word), "{args:?} prints {word}: {}", String::from_utf8_lossy(bytes));
            }
        }
    }

    fn say(&mut self, args: &[&str], code: i32) -> std::process::Output {
        let inner = args.get(1).filter(|_| ["data", "model", "config", "loss", "bench", "export"].contains(&args[0]));
        self.ran.insert(args[..1].iter().chain(inner).copied().collect::<Vec<_>>().join(" "));
        let output = self.place.run(&[args, &["-vv"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let ended = output.status.code();
        let meant = if code == 0 { ended == Some(0) } else { matches!(ended, Some(1 | 2)) };
        assert!(meant && !stderr.contains("panicked"), "{args:?} ended with {ended:?}: {stderr}");
        output
    }

    /// Every file that was written, but what `shown` says may show reports.
    fn search_files(&self) {
        let named = format!("{NAME}.nii");
        let inputs = ["phantom", "raw", "scan.dcm", "cut.dcm", "lines.txt", &named].map(|name| self.place.path(name));
        let mut folders = vec![self.place.path("")];
        let mut looked_at = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path: PathBuf = entry.unwrap().path();
                if inputs.contains(&path) {
                    continue;
                }
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                assert!(!contains(name.as_bytes(), NAME) && !contains(name.as_bytes(), WORD), "{}", path.display());
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let bytes = fs::read(&path).unwrap();
                let below = path.strip_prefix(self.place.path("")).unwrap().to_string_lossy().into_owned();
                let shows = MEANT.iter().any(|meant| name.starts_with(meant)) && !below.starts_with("sweep");
                // What was prepared holds reports, and nobody's name.
                let reports = shows || below.starts_with("prepared") || below.starts_with("split.csv");
                let names = below.starts_with("split.csv") || below.starts_with("named.safetensors");
                assert!(reports || !contains(&bytes, WORD), "{below} holds {WORD}");
                assert!(names || !contains(&bytes, NAME), "{below} holds {NAME}");
                looked_at += 1;
                #[cfg(unix)]
                if shows {
                    use std::os::unix::fs::PermissionsExt;
                    let mode = fs::metadata(&path).unwrap().permissions().mode();
                    let open = name == "report.html" && !contains(&bytes, "data:image/jpeg");
                    assert!(open || mode & 0o777 == 0o600, "{below} is open to others: {mode:o}");
                }
            }
        }
        assert!(looked_at > 100, "{looked_at} files");
    }
}

/// With Exif, a comment, and something behind the end.
fn jpeg() -> Vec<u8> {
    let picture = crate::common::gray(40, 30, |x, y| (x * 5 + y) as u8);
    let plain = reportclip::data::image::reduced(&picture, None).unwrap();
    let segment =
        |marker: u8, data: &[u8]| [&[0xff, marker], &(data.len() as u16 + 2).to_be_bytes()[..], data].concat();
    let exif = segment(0xe1, b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x0e\0\x02\0\0\0\x05\0\0\0\x1a\0\0\0\0Zxqv\0");
    [&plain[..2], &exif, &segment(0xfe, b"Zxqv^Comment"), &plain[2..], b"Zxqv^Behind"].concat()
}

#[test]
fn nothing_of_a_patient_is_printed_or_kept() {
    let mut p = Planted::new();
    let train = |out: &'static str, more: &[&'static str]| -> Vec<&'static str> {
        [&["train", "tiny.toml", "--out", out, "--set", "train.max_steps=16"], more].concat()
    };
    let prompts = Path::new(env!("CARGO_MANIFEST_DIR")).join("prompts/phantom.toml");
    let prompts: &'static str = prompts.to_string_lossy().into_owned().leak();

    // Training, on success and on failure.
    p.run(&train("run", &["--set", "eval.gallery=2"]), 0);
    let frozen = ["--set", "freeze.image=\"all\"", "--set", "augment.rotation=0", "--set", "augment.brightness=0"];
    p.run(&train("half", &[&frozen[..], &["--set", "train.stop_after=2"]].concat()), 0);
    p.run(&train("half", &[&frozen[..], &["--resume", "latest", "--json"]].concat()), 0);
    p.run(&train("dry", &["--dry-run"]), 0);
    p.run(&train("skip", &["--set", "data.train=phantom/broken.csv", "--set", "data.on_error=skip"]), 0);
    for (manifest, code) in [
        ("data.train=phantom/gone.csv", 2),
        ("data.train=phantom/cut.csv", 2),
        ("data.train=phantom/no-column.csv", 2),
        ("data.train=phantom/not-text.csv", 2),
        ("data.train=phantom/leak.csv", 2),
        ("data.train_split=nowhere", 2),
        ("data.train=phantom/broken-val.csv", 1),
    ] {
        p.run(&train("failed", &["--set", manifest, "--set", "train.batch_size=100"]), 2);
        p.run(&train(format!("failed-{}", manifest.len()).leak(), &["--set", manifest]), code);
    }
    p.run(&train("broken", &["--set", "data.train=phantom/broken.csv"]), 1);
    fs::copy(p.place.path("phantom/manifest.csv"), p.place.path("phantom/before.csv")).unwrap();
    fs::copy(p.place.path("phantom/relabelled.csv"), p.place.path("phantom/manifest.csv")).unwrap();
    p.run(
        &[
            "train",
            "tiny.toml",
            "--out",
            "run",
            "--resume",
            "latest",
            "--set",
            "eval.gallery=2",
            "--set",
            "train.max_steps=4",
        ],
        1,
    );
    fs::copy(p.place.path("phantom/before.csv"), p.place.path("phantom/manifest.csv")).unwrap();

    // What reads a model and a manifest.
    let on = |command: &'static str, manifest: &'static str, more: &[&'static str]| -> Vec<&'static str> {
        [&[command, "--model", "run/model", "--data", manifest], more].concat()
    };
    for json in [&[][..], &["--json"]] {
        p.run(&on("eval", "phantom/manifest.csv", &[&["--split", "test", "--bootstrap", "5"], json].concat()), 0);
        let zero = [&["--split", "test", "--bootstrap", "5", "--prompts", prompts], json].concat();
        p.run(&on("zero-shot", "phantom/manifest.csv", &zero), 0);
        let shots = ["--seeds", "2", "--shots", "2", "--save", "head", "--force"];
        p.run(&on("adapt", "phantom/manifest.csv", &[&zero[..], &shots].concat()), 0);
    }
    for column in ["image", "report", "patient_id", "study_id"] {
        p.run(&on("zero-shot", "phantom/manifest.csv", &["--prompts", prompts, "--subgroup", column]), 2);
        p.run(&on("eval", "phantom/manifest.csv", &["--conformal", "0.1", "--subgroup", column]), 2);
    }
    let head = ["--prompts", prompts, "--bootstrap", "0", "--head", "head/reportclip_head.safetensors"];
    p.run(&on("zero-shot", "phantom/manifest.csv", &head), 0);
    p.run(&on("embed", "phantom/manifest.csv", &["--out", "all.safetensors"]), 0);
    for (format, out) in [("safetensors", "shards-a/"), ("npy", "shards-b/"), ("parquet", "shards-c/")] {
        p.run(&on("embed", "phantom/manifest.csv", &["--shard-rows", "16", "--format", format, "--out", out]), 0);
    }
    p.run(&on("embed", "phantom/broken.csv", &["--out", "failed-shards/"]), 1);
    p.run(
        &["export", "onnx", "--model", "run/model", "--out", "graphs", "--int8", "--data", "phantom/manifest.csv"],
        0,
    );
    for manifest in
        ["phantom/broken.csv", "phantom/gone.csv", "phantom/cut.csv", "phantom/no-column.csv", "phantom/not-text.csv"]
    {
        p.run(&on("eval", manifest, &["--bootstrap", "0"]), 1);
        p.run(&on("zero-shot", manifest, &["--prompts", prompts]), 1);
        p.run(&on("adapt", manifest, &["--prompts", prompts]), 1);
        p.run(&on("embed", manifest, &["--out", "failed.safetensors"]), 1);
        p.run(&["data", "lint", manifest, "--json"], 1);
        p.run(&["bench", "loader", manifest], 1);
    }
    p.run(&on("eval", "phantom/manifest.csv", &["--split", "nowhere"]), 1);
    p.run(&on("zero-shot", "phantom/leak.csv", &["--prompts", prompts, "--split", "test", "--fit-split", "val"]), 1);
    p.run(&on("adapt", "phantom/leak.csv", &["--prompts", prompts, "--split", "test"]), 1);
    p.run(&["embed", "--model", "run/model", "--images", "scan.dcm", "--out", "scan.safetensors"], 0);
    p.run(&["embed", "--model", "run/model", "--images", "cut.dcm", "--out", "failed.safetensors"], 1);
    p.run(&["embed", "--model", "run/model", "--texts", "lines.txt", "--out", "lines.safetensors"], 0);
    p.run(&on("embed", "phantom/manifest.csv", &["--keep-names", "--out", "named.safetensors"]), 0);
    // Results of a search are reports and names: it is what they are for.
    let found = p.say(&["search", "--index", "all.safetensors", "--text", "clear", "-k", "100", "--json"], 0);
    assert!(contains(&found.stdout, NAME) && contains(&found.stdout, WORD) && !contains(&found.stderr, NAME));
    p.run(&["search", "--index", "scan.safetensors", "--text", "clear"], 0);
    p.run(&["search", "--index", "phantom/manifest.csv", "--text", "clear"], 1);
    let explain = ["explain", "--model", "run/model", "--image", "scan.dcm", "--text", "clear"];
    p.run(&[&explain[..], &["--data", "phantom/manifest.csv", "--out", "why.png"]].concat(), 0);
    p.run(&[&explain[..], &["--data", "phantom/not-text.csv"]].concat(), 1);
    p.run(&["explain", "--model", "run/model", "--image", "cut.dcm", "--text", "clear"], 1);
    // What it says while it serves is looked at in tests/it/serve.rs.
    p.run(&["serve", "--model", "run/model", "--index", "phantom/manifest.csv"], 1);
    p.run(&["serve", "--model", "run/model", "--prompts", "phantom/manifest.csv"], 1);

    // Data.
    p.run(&["data", "lint", "phantom/manifest.csv", "--model", "run/model", "--html", "lint.html"], 0);
    p.run(&["data", "split", "phantom/manifest.csv", "--out", "split.csv", "--stratify", "label"], 0);
    p.run(&["data", "split", "phantom/gone.csv", "--out", "failed.csv"], 1);
    p.run(&["data", "split", "phantom/manifest.csv", "--out", "failed.csv", "--stratify", "nothing"], 1);
    p.run(&["data", "prepare", "folder", "raw", "--out", "prepared"], 0);
    p.run(&["data", "prepare", "folder", "raw", "--out", "prepared-shards", "--webdataset", "2"], 0);
    p.run(&["data", "prepare", "folder", "raw", "--out", "prepared", "--size", "32", "--json"], 0);
    p.run(&["data", "prepare", "folder", "raw", "--out", "prepared", "--salt", "other"], 1);
    p.run(&["data", "prepare", "mimic-cxr", "raw", "--out", "failed", "--size", "32"], 1);
    fs::write(p.place.path("raw/Zxqv_Miller/Zxqv-2020/report.txt"), b"Qwxjz\xff").unwrap();
    p.run(&["data", "prepare", "folder", "raw", "--out", "failed"], 1);
    p.run(&["data", "synth", "--out", "synth", "--patients", "3", "--size", "32"], 0);
    p.run(&["bench", "loader", "phantom/manifest.csv", "--rounds", "1", "--image-size", "32"], 0);
    p.run(&["bench", "data", "--images", "synth/images", "--rounds", "1", "--image-size", "32"], 0);
    p.run(&["bench", "data", "--images", "phantom/images"], 1);
    let named = format!("{NAME}.nii");
    fs::write(p.place.path(&named), "image,report\n".repeat(40)).unwrap();
    p.run(&["bench", "volumes", &named], 1);

    // Sweeps and pages.
    let sweep = ["sweep", "tiny.toml", "--grid", "optim.lr=1e-3", "--set", "train.max_steps=2"];
    p.run(&[&sweep[..], &["--out", "sweep"]].concat(), 0);
    p.run(&[&sweep[..], &["--out", "sweep-broken", "--set", "data.train=phantom/broken-val.csv"]].concat(), 1);
    p.run(&[&sweep[..], &["--out", "sweep-gone", "--set", "data.train=phantom/gone.csv"]].concat(), 1);
    p.run(&["run-report", "run", "--out", "report.html"], 0);
    p.run(&["run-report", "sweep", "sweep-broken", "half", "--out", "compared.html"], 0);
    p.run(&["run-report", "phantom"], 1);

    // What reads no data.
    p.run(&["model", "inspect", "run/model", "--tensors"], 0);
    p.run(&["model", "inspect", "phantom"], 1);
    p.run(&["model", "merge", "--model", "run/model", "--base", "half/model", "--out", "merged"], 0);
    p.run(&["model", "download", "nobody/nothing"], 1);
    p.run(&["config", "list"], 0);
    p.run(&["config", "show", "tiny.toml"], 0);
    p.run(&["config", "validate", "tiny.toml"], 0);
    p.run(&["loss", "explain"], 0);
    p.run(&["loss", "explain", "--input", "phantom/manifest.csv"], 1);
    p.search_files();

    // Every command of the program is one of those, or says here why not: these see no data.
    let measured = ["bench collectives", "bench encode", "bench matmul", "bench parity", "bench train-step"];
    let without_data = [&measured[..], &["completions", "man"]].concat();
    for command in commands(&help(&[])) {
        let inner = commands(&help(&[&command]));
        let names = match inner.as_slice() {
            [] => vec![command],
            inner => inner.iter().map(|name| format!("{command} {name}")).collect(),
        };
        for name in names.iter().filter(|name| !without_data.contains(&name.as_str())) {
            assert!(p.ran.contains(name), "{name} is not tried");
        }
    }
}
