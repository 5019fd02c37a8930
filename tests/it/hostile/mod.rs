//! Hostile inputs by the thousand: every kind of file that the program reads, changed at random from a seed, and the
//! program run on it as a user runs it. Whatever stands in a file, the answer is a result or an error: exit code 0, 1
//! or 2, within [`child::LONGEST`] and [`child::MOST_MIB`], lines under 500 characters without control characters, and
//! nothing half-written beside the outputs.
//!
//! - [`kinds`] has the table: to add a kind is to add a row.
//! - [`forms`] knows what lies behind checksums, [`mutate`] changes bytes, text and JSON.
//! - [`child`] runs one process and judges it.
//! - `faults` takes the world away instead: full disks, closed streams, no processes; `kills` ends training by SIGKILL.
//!
//! `cargo test` runs a few cases a kind; `scripts/hostile.sh CASES SEED` as many as wanted, with a table. Variables:
//! `REPORTCLIP_HOSTILE_CASES`, `_SEED`, `_KIND` (names, by comma), `_CASE` (one only), `_WORKERS`, `_KEEP` (a folder
//! for the files that found something; default below the system's temporary folder).
#![allow(clippy::unwrap_used)]

mod child;
mod faults;
mod forms;
mod hub;
mod kills;
mod kinds;
mod mutate;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use kinds::{KINDS, Kind, OWN};
use mutate::Random;

/// Cases a kind where no variable says otherwise.
const CASES: u64 = 40;

struct Settings {
    cases: u64,
    seed: u64,
    only: Option<u64>,
    kinds: Option<String>,
    workers: usize,
    keep: PathBuf,
}

impl Settings {
    fn from_environment() -> Self {
        let text = |name: &str| std::env::var(format!("REPORTCLIP_HOSTILE_{name}")).ok();
        let number =
            |name: &str| text(name).map(|v| v.parse().unwrap_or_else(|_| panic!("{name} is {v:?}, no number")));
        Self {
            cases: number("CASES").unwrap_or(CASES),
            seed: number("SEED").unwrap_or(16),
            only: number("CASE"),
            kinds: text("KIND"),
            workers: number("WORKERS").unwrap_or(2) as usize,
            keep: text("KEEP").map_or_else(|| std::env::temp_dir().join("reportclip-hostile"), PathBuf::from),
        }
    }

    fn wants(&self, kind: &Kind) -> bool {
        self.kinds.as_ref().is_none_or(|names| names.split(',').any(|name| name == kind.name))
    }
}

/// What a kind's cases did.
#[derive(Default)]
struct Tally {
    inputs: u64,
    codes: BTreeMap<i32, u64>,
    slowest: f64,
    peak_mib: u64,
    findings: u64,
    /// By class and the detail without its digits: how often, and the first one with the command and the kept folder.
    sorts: BTreeMap<(String, String), (u64, String)>,
}

struct Campaign<'a> {
    settings: &'a Settings,
    root: &'a Path,
    kind: &'a Kind,
    seeds: Vec<(PathBuf, Vec<u8>)>,
    tally: Mutex<Tally>,
}

#[test]
fn hostile_inputs_end_politely() {
    let settings = Settings::from_environment();
    let root = tempfile::tempdir().unwrap();
    kinds::make(&root.path().join("place"));
    let mut table = format!(
        "{:14} {:>7} {:>30} {:>9} {:>8} {:>9}\n",
        "kind", "inputs", "exit codes", "findings", "slowest", "peak MiB"
    );
    let mut lines = String::new();
    for kind in KINDS.iter().filter(|k| settings.wants(k)) {
        let files = kind.seed_files(&root.path().join("place"));
        let seeds = files.into_iter().map(|f| (f.clone(), fs::read(f).unwrap())).collect();
        let campaign = Campaign { settings: &settings, root: root.path(), kind, seeds, tally: Mutex::default() };
        campaign.run();
        let tally = campaign.tally.into_inner().unwrap();
        let codes: Vec<String> = tally.codes.iter().map(|(code, n)| format!("{code}:{n}")).collect();
        let row = format!(
            "{:14} {:>7} {:>30} {:>9} {:>6.1} s {:>9}",
            kind.name,
            tally.inputs,
            codes.join(" "),
            tally.findings,
            tally.slowest,
            tally.peak_mib
        );
        say(&row);
        writeln!(table, "{row}").unwrap();
        for ((class, _), (count, first)) in &tally.sorts {
            let line = format!("{} | {class} | {count} × | {first}", kind.name);
            say(&line);
            writeln!(lines, "{line}").unwrap();
        }
    }
    assert!(lines.is_empty(), "seed {}\n{table}\n{lines}", settings.seed);
}

/// Long runs are watched, and tests' output is swallowed.
fn say(line: &str) {
    if ["REPORTCLIP_HOSTILE_CASES", "REPORTCLIP_KILLS"].iter().any(|v| std::env::var_os(v).is_some()) {
        std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes()).unwrap();
    }
}

impl Campaign<'_> {
    fn run(&self) {
        let batch = self.kind.batch as u64;
        let cases = self.kind.cases(self.settings.cases);
        let (first, end) = self.settings.only.map_or((0, cases), |case| (case, case + 1));
        let next = AtomicU64::new(first);
        std::thread::scope(|scope| {
            for worker in 0..self.settings.workers {
                let next = &next;
                scope.spawn(move || {
                    let folder = self.root.join(format!("w{worker}"));
                    loop {
                        let case = next.fetch_add(batch, Ordering::Relaxed);
                        if case >= end {
                            break;
                        }
                        self.batch(&folder, &(case..(case + batch).min(end)).collect::<Vec<_>>());
                    }
                });
            }
        });
    }

    /// Runs some cases in one process; where it finds something, each alone.
    fn batch(&self, folder: &Path, cases: &[u64]) {
        let (outcome, command, found) = self.process(folder, cases);
        {
            let mut tally = self.tally.lock().unwrap();
            tally.inputs += cases.len() as u64;
            *tally.codes.entry(outcome.code).or_default() += 1;
            tally.slowest = tally.slowest.max(outcome.seconds);
            tally.peak_mib = tally.peak_mib.max(outcome.peak_mib);
        }
        if found.is_empty() {
            return;
        }
        if let [case] = cases {
            return self.note(folder, *case, &command, found);
        }
        let mut alone = false;
        for &case in cases {
            let (_, command, found) = self.process(folder, &[case]);
            alone |= !found.is_empty();
            if !found.is_empty() {
                self.note(folder, case, &command, found);
            }
        }
        if !alone {
            let (_, command, found) = self.process(folder, cases);
            self.note(folder, cases[0], &command, found);
        }
    }

    fn process(&self, folder: &Path, cases: &[u64]) -> (child::Outcome, String, Vec<(&'static str, String)>) {
        drop(fs::remove_dir_all(folder));
        fs::create_dir_all(folder).unwrap();
        let mut names = Vec::new();
        let mut random = Random::new(self.settings.seed, self.kind.name, cases[0]);
        let template = random.pick(self.kind.commands);
        for &case in cases {
            names.push(self.write(folder, case));
        }
        if self.kind.batch > 1 {
            let rows: String = names.iter().map(|n| format!("{n},A finding of {n}\n")).collect();
            fs::write(folder.join("images.csv"), format!("image,report\n{rows}")).unwrap();
        }
        let content = fs::read(folder.join(&names[0])).unwrap();
        let content = String::from_utf8_lossy(content.split(|&b| b == b'\n').next().unwrap_or_default());
        let content: String = content.chars().filter(|&c| c != '\0').take(4000).collect();
        let mut args: Vec<&str> = Vec::new();
        for word in template.split(' ') {
            match word {
                "{}" => args.extend(names.iter().map(String::as_str)),
                "{content}" => args.push(&content),
                word => args.push(word),
            }
        }
        let mut child = child::command(folder, &args);
        let hub = self.kind.served.then(|| hub::Hub::start(fs::read(folder.join(&names[0])).unwrap()));
        if let Some(hub) = &hub {
            child.env("HF_ENDPOINT", &hub.endpoint).env("HF_HUB_OFFLINE", "0");
        }
        let outcome = child::run(child, &folder.join("log"));
        drop(hub);
        let found = child::judge(&outcome, folder);
        (outcome, args.join(" "), found)
    }

    /// Writes a case's changed file, with what lies around it; its name from `folder` on.
    fn write(&self, folder: &Path, case: u64) -> String {
        let mut random = Random::new(self.settings.seed, self.kind.name, case);
        let _: u64 = random.next();
        let (path, seed) = &self.seeds[random.below(self.seeds.len())];
        // Of the same sort: a vocabulary is spliced with a vocabulary.
        let alike: Vec<_> = self.seeds.iter().filter(|(p, _)| p.extension() == path.extension()).collect();
        let other = &random.pick(&alike).1;
        let changed = forms::mutate(&mut random, self.kind.form, seed, other);
        let place = self.root.join("place");
        let own = path.parent().unwrap();
        let name = match self.kind.layers {
            [] => format!("case{case}.{}", path.extension().unwrap().to_str().unwrap()),
            layers => {
                let mut within = PathBuf::from(path.file_name().unwrap());
                for layer in layers {
                    let layer = if *layer == OWN { own.to_path_buf() } else { place.join(layer) };
                    kinds::copy_folder(&layer, &folder.join("m"));
                    if let Ok(deeper) = path.strip_prefix(&layer) {
                        within = deeper.to_path_buf();
                    }
                }
                let called = if self.kind.called.is_empty() { within } else { PathBuf::from(self.kind.called) };
                format!("m/{}", called.display())
            }
        };
        fs::write(folder.join(&name), changed).unwrap();
        if !random.one_in(4) {
            forms::mend_checksums(&folder.join(&name));
        }
        name
    }

    fn note(&self, folder: &Path, case: u64, command: &str, found: Vec<(&'static str, String)>) {
        let kept = self.settings.keep.join(format!("{}-{}-{case}", self.kind.name, self.settings.seed));
        let mut tally = self.tally.lock().unwrap();
        tally.findings += 1;
        for (class, detail) in found {
            // Long lines and what they repeat are alike, whatever stands in them.
            let length = if class.contains("line") || class.contains("control") { 0 } else { 60 };
            let plain: String = detail.chars().filter(|c| !c.is_ascii_digit()).take(length).collect();
            let again = format!("REPORTCLIP_HOSTILE_KIND={} _SEED={} _CASE={case}", self.kind.name, self.settings.seed);
            let command: String = command.chars().take(200).collect();
            let entry = tally.sorts.entry((class.to_string(), plain)).or_insert_with(|| {
                drop(fs::remove_dir_all(&kept));
                kinds::copy_folder(folder, &kept);
                (0, format!("{detail} | {command} | {} | {again}", kept.display()))
            });
            entry.0 += 1;
        }
    }
}

/// The campaign finds what it looks for.
#[test]
fn an_impolite_end_is_a_finding() {
    let folder = tempfile::tempdir().unwrap();
    let classes = |script: &str| -> Vec<&str> {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]).current_dir(folder.path());
        let outcome = child::run(command, &folder.path().join("log"));
        child::judge(&outcome, folder.path()).into_iter().map(|(class, _)| class).collect()
    };
    assert!(classes("echo error: it is broken >&2; exit 1").is_empty());
    assert_eq!(classes("echo \"error: thread panicked\" >&2; exit 101"), ["exit code", "panicked"]);
    assert_eq!(classes("kill -SEGV $$"), ["abort"]);
    assert_eq!(classes("exit 1"), ["silence"]);
    assert_eq!(classes("printf 'error: %0600d\\n' 1 >&2"), ["long line"]);
    assert_eq!(classes("printf 'error: \\033[2J\\n' >&2"), ["control characters"]);
    assert_eq!(classes("printf '\\033[2J\\n'"), ["control characters on stdout"]);
    assert_eq!(classes("echo candle says hello >&2"), ["a line of another sort"]);
    assert_eq!(classes("echo 'error: Os { code: 2 }' >&2; exit 2"), ["Os {"]);
    assert_eq!(classes("mkdir -p a; : > a/.model.tmp"), ["left behind"]);
}
