//! The driver of `scripts/cuda/prove.sh` with stand-ins for the program: what fails, hangs or says nothing costs its
//! own part alone, and every result is written at once. Nothing here needs a GPU.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::skipped;

/// A program that answers as `reportclip` would: two comparisons, of which one is wrong; nothing but a wait for models;
/// a train that fails; a bench encode.
const STAND_IN: &str = r#"#!/usr/bin/env python3
import json, subprocess, sys, time
a = sys.argv[1:]
if a[:2] == ["bench", "parity"] and "--models" in a:
    found = {"what": "siglip", "precision": "f32", "difference": 1e-6, "allowed": 1e-4, "note": "x", "ok": True}
    print(json.dumps(found), flush=True)
    child = subprocess.Popen(["sleep", "600"])
    print(f"child {child.pid}", file=sys.stderr, flush=True)
    time.sleep(600)
elif a[:2] == ["bench", "parity"]:
    for what, precision, ok in (("linear", "f32", True), ("conv2d", "f32", False), ("attention", "bf16", True)):
        found = {"what": what, "precision": precision, "allowed": 3e-5, "note": "value", "ok": ok}
        if precision == "f32" or "--tensor-cores" in a:
            print(json.dumps(found | {"difference": 1e-6 if ok else None}))
    print("error: 1 of 2 comparisons failed", file=sys.stderr)
    sys.exit(1)
elif a[0] == "train":
    print("error: no such thing", file=sys.stderr)
    sys.exit(2)
elif a[:2] == ["bench", "train-step"]:
    faster = "--tensor-cores" in a
    part = {"part": "attention", "forward_s": 0.001 if faster else 0.002, "backward_s": 0.003}
    print(json.dumps({"samples_per_s": 9.0 if faster else 3.0, "profile": [part]}))
elif a[:2] == ["bench", "encode"]:
    spread = {"min": 1.0, "median": 2.0, "max": 3.0}
    print(json.dumps({"images_per_s": spread, "texts_per_s": spread}))
"#;

fn prove(arguments: &[&str], folder: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cuda/prove.sh");
    Command::new(script).args(arguments).current_dir(folder).output().unwrap()
}

/// The folder of a package whose program is the stand-in; `None` where there is no Python.
fn package() -> Option<tempfile::TempDir> {
    if !Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success()) {
        skipped("no python3 here");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    let program = folder.path().join("bin/reportclip");
    std::fs::write(&program, STAND_IN).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cuda");
    for script in ["prove.py", "torch_gpu.py"] {
        std::fs::copy(scripts.join(script), folder.path().join(script)).unwrap();
    }
    Some(folder)
}

#[test]
fn a_part_that_fails_or_hangs_costs_itself_alone() {
    let Some(folder) = package() else { return };
    let here = folder.path().to_str().unwrap();
    // No torch for /bin/false: the encoding has no peer.
    let options = ["run", here, "--device", "cpu", "--minutes", "0.15", "--python", "/bin/false"];
    let output = prove(&options, folder.path());
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let lines = std::fs::read_to_string(folder.path().join("prove.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let results: Vec<_> =
        lines.iter().map(|l| (l["part"].as_u64().unwrap(), l["what"].as_str().unwrap(), l["ok"].as_bool())).collect();
    assert_eq!(results[0].1, "start");
    assert_eq!(results[1..3], [(2, "linear, f32", Some(true)), (2, "conv2d, f32", Some(false))]);
    // The model that answered counts; that the rest ran out of time is told.
    assert_eq!(results[3..5], [(3, "siglip, f32", Some(true)), (3, "bench parity --models", Some(false))]);
    assert!(lines[4]["note"].as_str().unwrap().contains("after 1 comparisons: out of time"), "{told}");
    assert!(results.contains(&(4, "ten steps on cpu", Some(false))), "{results:?}");
    assert!(lines.iter().any(|l| l["part"] == 4 && l["note"] == "exit status 2: error: no such thing"), "{told}");
    assert!(results.iter().any(|r| r.0 == 7 && r.2 == Some(true)), "{results:?}");
    let (last, parts) = (lines.last().unwrap(), results.iter().map(|r| r.0).collect::<Vec<_>>());
    assert!(last["what"] == "end" && last["ok"] == false && last["counts"]["skipped"] == 0, "{last}");
    assert!(parts[..parts.len() - 1].is_sorted(), "{parts:?}");
    // People see each result as well.
    assert!(told.contains("[2] ok      linear, f32: 1.0e-06 of 3e-05 (value)"), "{told}");
    // What a command started ends with it.
    let child = lines[4]["note"].as_str().unwrap().rsplit("child ").next().unwrap().trim_end_matches(')').to_string();
    let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{child} still runs: {state}");

    let report = prove(&["report", "prove.jsonl"], folder.path());
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains("| every operation | 1 | 1 | 0 |"), "{report}");
    assert!(report.contains("Wrong: conv2d, f32: value"), "{report}");
    assert!(report.contains("| clip-vit-base-patch32, batch 2 | reportclip | 2.0 | 2.0 |"), "{report}");
}

#[test]
fn on_a_gpu_each_switch_is_tried_both_ways() {
    let Some(folder) = package() else { return };
    let here = folder.path().to_str().unwrap();
    let options = ["run", here, "--device", "cuda", "--minutes", "1", "--parts", "2,6,8", "--python", "/bin/false"];
    let output = prove(&options, folder.path());
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = told.lines().filter(|line| line.starts_with("[2]")).collect();
    let expected = ["linear, f32:", "conv2d, f32:", "attention, bf16, tensor cores:", "every operation:"];
    assert_eq!(lines.len(), expected.len(), "{told}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected), "{told}");
    }
    assert!(told.contains("[6] ok      clip-vit-base-patch32, batch 256: reportclip: 3.0 a second"), "{told}");
    assert!(told.contains("batch 256: reportclip, tensor cores: 9.0 a second"), "{told}");
    assert!(told.contains("batch 64: reportclip, tensor cores: attention 1.0 + 3.0 ms"), "{told}");
    let report = prove(&["report", "prove.jsonl"], folder.path());
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains("| reportclip, tensor cores: vit-base-patch16+bert-base, batch 64 | forward"), "{report}");
}

#[test]
fn what_cannot_be_started_or_read_is_told() {
    let Some(folder) = package() else { return };
    let here = folder.path().to_str().unwrap();
    std::fs::remove_file(folder.path().join("bin/reportclip")).unwrap();
    let output = prove(&["run", here, "--device", "cpu", "--parts", "2", "--minutes", "0.1"], folder.path());
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("No such file or directory") && told.contains("0 skipped"), "{told}");
    std::fs::write(folder.path().join("lines"), "{\"part\": 2\n").unwrap();
    let output = prove(&["report", "lines"], folder.path());
    assert!(String::from_utf8_lossy(&output.stderr).contains("lines:1: not a line of JSON"));
    assert_eq!(prove(&[], folder.path()).status.code(), Some(2));
}
