//! Training that is killed at random moments and resumed until its end, against the same training left alone: what must
//! be the same is compared byte for byte. `scripts/kills.sh N SEED` kills N times (`REPORTCLIP_KILLS`, `_SEED`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::mutate::Random;
use super::{child, kinds};
use crate::common::skipped;

/// Kills where no variable says otherwise.
const KILLS: usize = 6;

/// What is trained: its name, options, ranks.
const RECIPES: [(&str, &[&str], usize); 6] = [
    ("plain", &[], 1),
    ("ema", &["train.ema=0.9"], 1),
    ("lora", &["lora.rank=2", "lora.dropout=0.1"], 1),
    ("cached", &["freeze.image=all", "data.feature_cache=features", "augment.rotation=0"], 1),
    ("bf16", &["train.precision=bf16", "train.emulate_bf16=true"], 1),
    ("two ranks", &[], 2),
];

/// Enough steps and checkpoints for kills at every phase.
const LONGER: [&str; 4] =
    ["train.max_steps=24", "train.checkpoint_every=3", "train.eval_every=6", "augment.rotation=5"];

struct Place<'a> {
    root: &'a Path,
    recipe: (&'static str, &'static [&'static str], usize),
}

impl Place<'_> {
    fn command(&self, out: &str, resume: bool) -> Command {
        let mut args = vec!["train", "tiny.toml", "--out", out];
        LONGER.iter().chain(self.recipe.1).for_each(|set| args.extend(["--set", set]));
        if resume {
            args.extend(["--resume", "latest"]);
        }
        let place = self.root.join("place");
        match self.recipe.2 {
            1 => child::command(&place, &args),
            ranks => {
                let alone = child::command(&place, &args);
                let mut command = Command::new("mpirun");
                command.args(["--oversubscribe", "--bind-to", "none", "-n", &ranks.to_string()]);
                command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
                command.arg(alone.get_program()).args(alone.get_args()).current_dir(&place).stdin(Stdio::null());
                command.env("HF_HUB_OFFLINE", "1").env("RAYON_NUM_THREADS", "1");
                command
            }
        }
    }

    fn folder(&self, out: &str) -> PathBuf {
        self.root.join("place").join(out)
    }

    /// Starts or goes on, and kills after `moment`; the phase that the kill met, `None` where the run was over before.
    fn kill(&self, out: &str, moment: Duration) -> Option<&'static str> {
        let mut command = self.command(out, self.folder(out).join("config.toml").exists());
        let log = self.root.join("killed.err");
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let start = Instant::now();
        let mut child = command.spawn().unwrap();
        while start.elapsed() < moment {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{}, {out}: {}", self.recipe.0, fs::read_to_string(&log).unwrap());
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let phase = phase(&self.folder(out));
        let killed = Instant::now();
        let status = loop {
            // Of a launcher, the ranks first: it starts them one after the other, and may wait for one that is gone.
            if self.recipe.2 == 1 || killed.elapsed() > Duration::from_secs(5) {
                child.kill().unwrap();
            }
            let ranks = if self.recipe.2 == 1 { Vec::new() } else { ranks_of(out) };
            if !ranks.is_empty() {
                drop(
                    Command::new("kill")
                        .arg("-9")
                        .args(ranks.iter().map(u32::to_string))
                        .stderr(Stdio::null())
                        .status(),
                );
            }
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        // One that had ended by then was not killed.
        (!status.success()).then_some(phase)
    }
}

/// What a run was doing, by what lies in its folder.
fn phase(run: &Path) -> &'static str {
    let within = |folder: &str| fs::read_dir(run.join(folder)).map_or(0, Iterator::count);
    if !run.join("config.toml").exists() {
        "starting"
    } else if !child::leftovers(run).is_empty() {
        "writing"
    } else if within("checkpoints") == 0 {
        "before a checkpoint"
    } else {
        "training"
    }
}

/// Processes of the program that were started with `out`.
fn ranks_of(out: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|&b| b == 0);
        let is_ours = arguments.next() == Some(env!("CARGO_BIN_EXE_reportclip").as_bytes());
        if is_ours && arguments.any(|a| a == out.as_bytes()) {
            found.extend(entry.file_name().to_string_lossy().parse::<u32>());
        }
    }
    found
}

/// What must be the same: the model, the last checkpoint, the figures. `timing.jsonl` may differ, and with it its
/// length in the checkpoint's state.
fn compared(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let steps = fs::read_dir(run.join("checkpoints")).unwrap().map(|e| e.unwrap().path());
    let last = steps.max().unwrap();
    for folder in [run.join("model"), last] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(run).unwrap().to_path_buf();
            let bytes = fs::read(&path).unwrap();
            if path.ends_with("state.json") {
                let mut state: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                state.as_object_mut().unwrap().remove("timing_bytes").expect("a length of timing.jsonl");
                files.insert(name, state.to_string().into_bytes());
            } else if path.extension().is_some_and(|e| e == "safetensors") || name.starts_with("model") {
                files.insert(name, bytes);
            }
        }
    }
    files.insert("metrics.jsonl".into(), fs::read(run.join("metrics.jsonl")).unwrap());
    files
}

#[test]
fn killed_runs_come_to_the_same_end() {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>().unwrap());
    let kills = number("REPORTCLIP_KILLS").unwrap_or(KILLS as u64) as usize;
    let seed = number("REPORTCLIP_KILLS_SEED").unwrap_or(16);
    let root = tempfile::tempdir().unwrap();
    kinds::make_data(&root.path().join("place"));
    let has_mpi = cfg!(feature = "mpi") && Command::new("mpirun").arg("--version").output().is_ok();
    if !has_mpi && number("REPORTCLIP_KILLS").is_some() {
        skipped("two ranks: this build or this machine has no MPI");
    }
    let recipes: Vec<_> = RECIPES.into_iter().filter(|r| r.2 == 1 || has_mpi).collect();
    let mut table = String::new();
    for (i, recipe) in recipes.iter().enumerate() {
        let wanted = kills / recipes.len() + usize::from(i < kills % recipes.len());
        if wanted > 0 {
            table += &killed(&Place { root: root.path(), recipe: *recipe }, wanted, seed);
        }
    }
    super::say(&table);
}

/// Kills runs of one recipe `wanted` times in all; a line of the table.
fn killed(place: &Place, wanted: usize, seed: u64) -> String {
    let name = place.recipe.0;
    let start = Instant::now();
    assert_eq!(place.kill(&format!("{name}-whole"), Duration::from_secs(120)), None, "{name}: it hangs");
    let whole = start.elapsed();
    let expected = compared(&place.folder(&format!("{name}-whole")));
    let (mut phases, mut done, mut runs) = (BTreeMap::<&str, usize>::new(), 0, 0);
    while done < wanted {
        let out = format!("{name}-{runs}");
        let mut random = Random::new(seed, name, runs);
        // A run that is killed again and again, but gets to its end.
        for _ in 0..4 {
            let moment = whole.mul_f64(random.below(1000) as f64 / 1000.0);
            let Some(phase) = place.kill(&out, moment) else { break };
            *phases.entry(phase).or_default() += 1;
            done += 1;
            if done == wanted {
                break;
            }
        }
        assert_eq!(place.kill(&out, Duration::from_secs(120)), None, "{name}, run {runs}: it hangs");
        let got = compared(&place.folder(&out));
        assert!(expected.keys().eq(got.keys()), "{name}, run {runs} of seed {seed}: {:?}", got.keys());
        for (file, bytes) in &expected {
            assert!(*bytes == got[file], "{name}, run {runs} of seed {seed}: {} differs", file.display());
        }
        assert_eq!(child::leftovers(&place.folder(&out)), Vec::<PathBuf>::new(), "{name}, run {runs}");
        runs += 1;
    }
    let phases: Vec<String> = phases.iter().map(|(phase, n)| format!("{n} {phase}")).collect();
    format!("{name:10} {done:>4} kills, {runs:>3} runs, all identical: {}\n", phases.join(", "))
}
