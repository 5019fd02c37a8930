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
    if "resnet-50+bert-base" in a:
        time.sleep(600)
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
    stand_in(&folder.path().join("bin"), "reportclip", STAND_IN);
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
    let options = ["run", here, "--device", "cuda", "--minutes", "0.2", "--parts", "2,6,8", "--python", "/bin/false"];
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
    // What takes too long is not measured, and not wrong.
    assert!(told.contains("[8] skipped seconds of resnet-50+bert-base, batch 64: reportclip: out of time"), "{told}");
    assert!(!told.contains("[6] failed") && !told.contains("[8] failed"), "{told}");
    assert!(
        report.contains("Not measured: seconds of resnet-50+bert-base, batch 64: reportclip: out of time"),
        "{report}"
    );
}

/// A program of this name in `folder`.
fn stand_in(folder: &Path, name: &str, text: &str) {
    let program = folder.join(name);
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_sanitizer_fails_by_its_own_word_alone() {
    let Some(folder) = package() else { return };
    let here = folder.path().to_str().unwrap();
    // It runs the program, whose comparisons fail, and gives its exit status where it found nothing itself.
    let text = |summary: &str, status: &str| {
        format!(
            "#!/bin/sh\nwhile [ \"$1\" != --print-limit ]; do shift; done; shift 2\n\
             echo '========= COMPUTE-SANITIZER'\n\
             echo \"$@\" >> {here}/asked\n\"$@\"\nstatus=$?\necho '========= {summary}'\nexit {status}\n"
        )
    };
    let path = format!("{here}:{}", std::env::var("PATH").unwrap());
    for (summary, status, verdict) in [
        ("ERROR SUMMARY: 0 errors", "$status", "ok"),
        ("RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", "$status", "ok"),
        ("ERROR SUMMARY: 2 errors", "86", "failed"),
        ("Error: the GPU is not supported", "1", "skipped"),
    ] {
        stand_in(folder.path(), "compute-sanitizer", &text(summary, status));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cuda/prove.sh");
        let options = ["run", here, "--device", "cuda", "--minutes", "1", "--parts", "5", "--python", "/bin/false"];
        let output = Command::new(script).args(options).current_dir(here).env("PATH", &path).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains(&format!("[5] {verdict:7} memcheck: after 3 comparisons")), "{summary}: {told}");
        assert_eq!(output.status.code(), Some(i32::from(verdict == "failed")), "{told}");
    }
    // Every kernel runs under it.
    let asked = std::fs::read_to_string(folder.path().join("asked")).unwrap();
    assert!(asked.lines().count() == 8 && asked.lines().all(|l| l.contains("--tensor-cores")), "{asked}");
}

#[test]
fn peers_run_on_the_gpu_that_was_named() {
    let Some(folder) = package() else { return };
    let here = folder.path().to_str().unwrap();
    // An interpreter that has torch, whose compiler fails, as it does where there is none for C.
    let text = "#!/bin/sh\ncase \"$*\" in '-c '*) exit ;; *--compile*) echo no gcc >&2; exit 1 ;; esac\n\
                case \"$*\" in *'--device cuda:1'*) echo '{\"samples_per_s\": 2.0}' ;; esac\n";
    stand_in(folder.path(), "python", text);
    let python = folder.path().join("python");
    let options = ["run", here, "--device", "cuda:1", "--minutes", "0.1", "--parts", "6"];
    let output = prove(&[&options[..], &["--python", python.to_str().unwrap()]].concat(), folder.path());
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("batch 256: PyTorch: 2.0 a second: reportclip has 4.50 of it"), "{told}");
    assert!(
        told.contains("[6] skipped clip-vit-base-patch32, batch 256: PyTorch, compiled: exit status 1: no gcc"),
        "{told}"
    );
    assert_eq!(output.status.code(), Some(0), "{told}");
}

/// Of a package as `build` makes it, with no program that reads zstd, nor xz, on the path.
#[test]
fn packages_unpack_by_python_alone() {
    let Some(folder) = package() else { return };
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    std::fs::create_dir_all(at("stage/prove")).unwrap();
    let text = "import sys\nprint(sys.argv[2][-6:], len(open(sys.argv[2] + '/numbers').read()))";
    std::fs::write(at("stage/prove/prove.py"), text).unwrap();
    // More than any buffer on the way.
    let numbers: String = (0..400_000u32).map(|i| format!("{}\n", i.wrapping_mul(2_654_435_761))).collect();
    std::fs::write(at("stage/prove/numbers"), &numbers).unwrap();
    std::fs::create_dir(at("path")).unwrap();
    let python = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap().stdout;
    let python = String::from_utf8(python).unwrap();
    let link = |program: &str, name: &str| {
        std::os::unix::fs::symlink(program, at(&format!("path/{name}"))).unwrap();
    };
    link(python.trim(), "python3");
    ["bash", "dirname", "mktemp", "rm", "realpath"].iter().for_each(|name| link(&format!("/usr/bin/{name}"), name));
    for ending in ["tar.zst", "tar.xz"] {
        let package = at(&format!("package.{ending}"));
        let packed = Command::new("tar").args(["-C", &at("stage"), "-caf", &package, "prove"]).status();
        if !packed.is_ok_and(|status| status.success()) {
            skipped(&format!("nothing here packs .{ending}"));
            continue;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cuda/prove.sh");
        let run = |package: &str| {
            Command::new(&script).args(["run", package]).current_dir(at("")).env("PATH", at("path")).output().unwrap()
        };
        let output = run(&package);
        let (told, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if err.contains("nothing here reads zstd") {
            skipped("Python here reads no zstd, and there is no libzstd");
            continue;
        }
        assert_eq!(told.trim(), format!("/prove {}", numbers.len()), "{err}");
        // One that was cut off on its way is told, not run.
        let bytes = std::fs::read(&package).unwrap();
        std::fs::write(at(&format!("cut.{ending}")), &bytes[..bytes.len() / 2]).unwrap();
        let output = run(&at(&format!("cut.{ending}")));
        assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{output:?}");
    }
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
