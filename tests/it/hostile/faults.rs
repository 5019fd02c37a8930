//! What the program leans on is taken away: streams, disk, processes, names that are text. Each fault is a row; a shell
//! makes it, the program must end politely, or not notice.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{child, kinds};
use crate::common::skipped;

/// A fault: its name, a script (`$B` is the program, `$T` its training of a few steps), exit codes that are right, and
/// what must stand on stderr or, where that is away, in the folder (`file:PATH`).
const FAULTS: [(&str, &str, &[i32], &str); 24] = [
    ("stderr full", "$T 2>/dev/full", &[0], "file:run/model/model.safetensors"),
    ("stdout full", "$T >/dev/full", &[0, 1], "file:run/model/model.safetensors"),
    ("both full", "$T >/dev/full 2>&1", &[0, 1], "file:run/model/model.safetensors"),
    ("stderr closed", "$T 2>&-", &[0], "file:run/model/model.safetensors"),
    ("stdout closed", "$T >&-", &[0, 1], "file:run/model/model.safetensors"),
    ("all closed", "$T <&- >&- 2>&-", &[0, 1], "file:run/model/model.safetensors"),
    (
        "a reader that leaves",
        "{ $T; echo $? >code; } 2>&1 | head -1; exit $(cat code)",
        &[0],
        "file:run/model/model.safetensors",
    ),
    ("a result nobody reads", "{ $B config list; echo $? >code; } | head -1; exit $(cat code)", &[0], ""),
    ("a result that is lost", "$B config list >/dev/full", &[1], "error: "),
    ("files of 16 KiB at most", "ulimit -f 16; $T", &[1], "File too large"),
    ("files of 200 KiB at most", "ulimit -f 200; $T", &[1], "File too large"),
    ("small files for synth", "ulimit -f 1; $B data synth --out s --patients 4 --size 64", &[1], "File too large"),
    ("small files for embed", "ulimit -f 4; $B embed --model $M --data $D --out e.safetensors", &[1], "File too large"),
    ("small files for a page", "ulimit -f 8; $B run-report $M/.. --out page.html", &[1], "File too large"),
    (
        "small files for shards",
        "ulimit -f 4; $B data prepare folder $S --out p --size 200 --webdataset 9",
        &[1],
        "File too large",
    ),
    ("a folder that cannot be made", "$B train $C --out /proc/nowhere/run", &[1], "error: "),
    (
        "an output that cannot be written",
        "$B embed --model $M --data $D --out /proc/nowhere.safetensors",
        &[1],
        "error: ",
    ),
    ("4096 threads", "RAYON_NUM_THREADS=4096 $T", &[0], "file:run/model/model.safetensors"),
    (
        "a sweep without end",
        "$B sweep $C --grid optim.lr=1e-5..1e-3 --random 18446744073709551615 --out s",
        &[2],
        "error: ",
    ),
    (
        "an image that is no text",
        "$B explain --model $M --image $'a\\xff\\xfe.png' --text x --out o.png",
        &[1, 2],
        "error: ",
    ),
    ("a config that is no text", "$B config validate $'a\\xff.toml'", &[1, 2], "error: "),
    (
        "a run folder that is no text",
        "$B train $C --out $'run\\xff' && test -e $'run\\xff/model/model.safetensors'",
        &[0],
        "",
    ),
    (
        "studies that are no text",
        "cp -r $S s && mv s/0.png $'s/\\xff.png' && mv s/0.txt $'s/\\xff.txt' && \
         $B data prepare folder s --out p && $B data lint p/manifest.csv",
        &[0],
        "",
    ),
    ("a setting that is no text", "$B config show $C --set $'seed=\\xff'", &[2], "error: "),
];

/// Runs a script in a fresh folder and judges it as any other case.
fn run(place: &Path, folder: &Path, script: &str) -> (child::Outcome, Vec<(&'static str, String)>) {
    drop(fs::remove_dir_all(folder));
    fs::create_dir_all(folder).unwrap();
    let path = |name: &str| place.join(name).to_str().unwrap().to_string();
    let program = env!("CARGO_BIN_EXE_reportclip");
    // What a child of this test gets; the shell is between.
    let alone = child::command(folder, &[]);
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(folder).env("B", program).env("M", path("run/model"));
    command.env("T", format!("{program} train {} --out run", path("tiny.toml"))).env("C", path("tiny.toml"));
    command.env("D", path("phantom/manifest.csv")).env("S", path("studies")).stdin(std::process::Stdio::null());
    for (name, value) in alone.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let outcome = child::run(command, &folder.join("log"));
    let found = child::judge(&outcome, folder);
    (outcome, found)
}

#[test]
fn faults_end_politely() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("place");
    kinds::make(&place);
    let mut wrong = String::new();
    for (name, script, codes, expected) in FAULTS {
        let folder = root.path().join("case");
        let (outcome, mut found) = run(&place, &folder, script);
        let stderr = String::from_utf8_lossy(&outcome.stderr);
        // The row has its own codes, and where the streams go is the script's business.
        found.retain(|(class, _)| !["exit code", "silence"].contains(class));
        let kept = match expected.strip_prefix("file:") {
            Some(file) => folder.join(file).is_file(),
            None => stderr.contains(expected),
        };
        if !codes.contains(&outcome.code) || !kept || !found.is_empty() {
            let start: String = stderr.chars().take(600).collect();
            wrong += &format!(
                "{name}: {script}\n  exit code {}, {expected:?}: {kept}, {found:?}\n  {start}\n",
                outcome.code
            );
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// The limit of processes does not bind root, and another user must be able to read what this one made.
#[test]
fn without_processes_it_ends_politely() {
    if !Command::new("setpriv").args(["--reuid", "65534", "--clear-groups", "true"]).status().is_ok_and(|s| s.success())
    {
        return skipped("setpriv is not here, or may not change the user");
    }
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("place");
    kinds::make(&place);
    let script = "chmod -R a+rwX .. . && cp $B b && setpriv --reuid 65534 --clear-groups bash -c \
                  'ulimit -u LIMIT; ./b train $C --out run'";
    for limit in [1, 2, 4] {
        let folder = root.path().join("case");
        let (outcome, found) = run(&place, &folder, &script.replace("LIMIT", &limit.to_string()));
        let stderr = String::from_utf8_lossy(&outcome.stderr);
        assert!(
            found.is_empty() && [0, 1].contains(&outcome.code),
            "{limit} processes: {} {found:?} {stderr}",
            outcome.code
        );
        // What the system calls it says nothing to whoever has not written the program.
        assert!(!stderr.contains("os error") && !stderr.contains("would block"), "{limit} processes: {stderr}");
    }
}

/// Signals that `nohup` keeps away stay away.
#[test]
fn nohup_protects() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("place");
    kinds::make(&place);
    let script = "nohup $T --set train.max_steps=60 --set train.eval_every=20 >log.txt 2>&1 & p=$!; \
                  until grep -qs '\"kind\":\"step\"' run/metrics.jsonl; do kill -0 $p || break; sleep 0.02; done; \
                  kill -HUP $p; wait $p";
    let folder = root.path().join("case");
    let (outcome, _) = run(&place, &folder, script);
    let metrics = fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    assert!(outcome.code == 0 && metrics.contains("\"step\":60,"), "exit code {}: {metrics}", outcome.code);
}

/// A run folder belongs to the process that works in it.
#[test]
fn two_processes_never_share_a_run_folder() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("place");
    kinds::make_data(&place);
    let script = "L=\"$T --set train.max_steps=60 --set train.eval_every=20\"; $L 2>first.txt & p=$!; \
                  until grep -qs '\"kind\":\"step\"' run/metrics.jsonl; do kill -0 $p || break; sleep 0.01; done; \
                  kill -STOP $p; $L 2>second.txt; echo $? >>codes; $L --resume latest 2>third.txt; echo $? >>codes; \
                  kill -CONT $p; wait $p; echo $? >>codes; $L --resume latest; ${L/--out run/--out alone}";
    let folder = root.path().join("case");
    let (outcome, found) = run(&place, &folder, script);
    let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert!(outcome.code == 0 && found.is_empty(), "{found:?}");
    assert_eq!(text("codes"), "2\n1\n0\n", "{}{}{}", text("second.txt"), text("third.txt"), text("first.txt"));
    assert!(text("second.txt").contains("holds a run already"), "{}", text("second.txt"));
    assert!(text("third.txt").contains("another process is working in it"), "{}", text("third.txt"));
    assert_eq!(text("run/metrics.jsonl"), text("alone/metrics.jsonl"));
}
