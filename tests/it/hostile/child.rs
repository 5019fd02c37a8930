//! Runs the program on one case and judges what a user would see of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_reportclip");

/// A process that runs longer is killed, and is a finding.
pub const LONGEST: Duration = Duration::from_secs(10);
/// Resident memory that no input may take.
pub const MOST_MIB: u64 = 1024;
/// Above this the process is killed at once, for the machine's sake.
const KILL_MIB: u64 = 3 * MOST_MIB;
const LONGEST_LINE: usize = 500;

/// What one process did.
pub struct Outcome {
    /// Exit code, or minus the signal.
    pub code: i32,
    pub seconds: f64,
    pub peak_mib: u64,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    timed_out: bool,
}

/// The program with `args` in `folder`: no network, nothing to read from, one thread so that memory is one image's.
pub fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", folder.join("hub")).env("RAYON_NUM_THREADS", "1");
    command.env("RUST_BACKTRACE", "1").env_remove("HF_TOKEN").env_remove("REPORTCLIP_LOG");
    command
}

/// Runs it to its end, or to the limits; `log` is a file name without suffix for its output.
pub fn run(mut command: Command, log: &Path) -> Outcome {
    let (out, err) = (log.with_extension("out"), log.with_extension("err"));
    command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let start = Instant::now();
    let mut child = command.spawn().unwrap();
    let (mut peak_kib, mut timed_out, mut pause) = (0, false, Duration::from_micros(500));
    let status = loop {
        // The high-water mark is gone once the process is, and what grows to a gigabyte takes longer than the pause.
        peak_kib = peak_kib.max(high_water_kib(child.id()));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        timed_out |= start.elapsed() > LONGEST;
        if timed_out || peak_kib / 1024 > KILL_MIB {
            drop(child.kill());
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_millis(10));
    };
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    Outcome {
        code: status.code().unwrap_or(-signal.unwrap_or(0)),
        seconds: start.elapsed().as_secs_f64(),
        peak_mib: peak_kib / 1024,
        stdout: fs::read(out).unwrap(),
        stderr: fs::read(err).unwrap(),
        timed_out,
    }
}

fn high_water_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// How lines of talk start.
const TALK: [&str; 5] = ["error: ", "warning: ", "info: ", "step ", "image features"];
/// What only a programmer understands.
const NOISE: [&str; 9] = [
    "panicked",
    "a bug in reportclip",
    "backtrace",
    "Os {",
    "Some(",
    "Custom {",
    "Err(",
    "TryFromIntError",
    "memory allocation of",
];

/// Everything that is wrong with an outcome, each as (class, detail).
pub fn judge(outcome: &Outcome, folder: &Path) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let stderr = String::from_utf8_lossy(&outcome.stderr);
    let first = || stderr.lines().find(|l| l.starts_with("error")).or(stderr.lines().last()).unwrap_or_default();
    match outcome.code {
        _ if outcome.timed_out => found.push(("hang", format!("killed after {:.0} s", outcome.seconds))),
        0..=2 => {}
        -9 => found.push(("memory", format!("killed at {} MiB", outcome.peak_mib))),
        code if code < 0 => found.push(("abort", format!("signal {}: {}", -code, first()))),
        code => found.push(("exit code", format!("{code}: {}", first()))),
    }
    if (1..=2).contains(&outcome.code) && stderr.trim().is_empty() && outcome.stdout.is_empty() {
        found.push(("silence", format!("exit code {} without a word", outcome.code)));
    }
    if outcome.peak_mib > MOST_MIB && outcome.code != -9 {
        found.push(("memory", format!("{} MiB", outcome.peak_mib)));
    }
    for line in stderr.lines().filter(|l| !l.is_empty()) {
        let known = TALK.iter().any(|start| line.starts_with(start));
        let length = line.chars().count();
        let problem = if let Some(noise) = NOISE.iter().find(|noise| line.contains(*noise)) {
            (*noise, "noise")
        } else if line.contains(is_control) {
            ("control characters", "stderr")
        } else if length >= LONGEST_LINE {
            ("long line", "stderr")
        } else if !known {
            ("a line of another sort", "stderr")
        } else {
            continue;
        };
        let start: String = line.chars().take(200).collect();
        found.push((problem.0, format!("{length} characters: {start:?}")));
        break;
    }
    let stdout = String::from_utf8_lossy(&outcome.stdout);
    if let Some(line) = stdout.lines().find(|l| l.contains(is_control)) {
        let start: String = line.chars().take(200).collect();
        found.push(("control characters on stdout", format!("{start:?}")));
    }
    if let Some(left) = leftovers(folder).first() {
        found.push(("left behind", left.display().to_string()));
    }
    found
}

/// What a terminal would obey instead of showing; a tab is none.
fn is_control(c: char) -> bool {
    c.is_control() && c != '\t'
}

/// Temporary files that a command should have removed or renamed.
pub fn leftovers(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let temporary = [".tmp", ".old", ".partial"].iter().any(|suffix| name.ends_with(suffix));
        if temporary && name.starts_with('.') {
            found.push(entry.path());
        } else if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(leftovers(&entry.path()));
        }
    }
    found
}
