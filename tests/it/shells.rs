//! What shells and `man` are told of the program, by the shell and the typesetter themselves where they are here.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::{Command, Output};

use crate::common::skipped;
use crate::snapshots::{commands, help};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reportclip")).args(args).output().unwrap()
}

fn is_here(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn every_shell_is_told_every_command() {
    let top = commands(&help(&[]));
    assert!(top.len() > 15, "{top:?}");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success() && output.stderr.is_empty());
        let script = String::from_utf8(output.stdout).unwrap();
        for command in &top {
            assert!(script.contains(command.as_str()), "{shell}: {command}");
        }
        assert!(script.contains("label-smoothing"), "{shell}: options of a command below another");
    }
    let output = run(&["completions", "tcsh"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("possible values: bash, elvish, fish"));
}

#[test]
fn bash_completes_commands_and_options() {
    if !is_here("bash") {
        return skipped("there is no bash");
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("reportclip.bash");
    fs::write(&script, run(&["completions", "bash"]).stdout).unwrap();
    let parsed = Command::new("bash").arg("-n").arg(&script).output().unwrap();
    assert!(parsed.status.success() && parsed.stderr.is_empty(), "{}", String::from_utf8_lossy(&parsed.stderr));
    // As bash calls it: the words so far, and which of them is being written.
    let offered = |words: &[&str]| {
        let (typed, before) = (words[words.len() - 1], words[words.len() - 2]);
        let ask = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; _reportclip reportclip {typed:?} {before:?}; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display(),
            words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" "),
            words.len() - 1
        );
        let output = Command::new("bash").args(["--noprofile", "--norc", "-c", &ask]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(offered(&["reportclip", "tr"]), ["train"]);
    let all = offered(&["reportclip", ""]);
    for command in commands(&help(&[])) {
        assert!(all.contains(&command), "{command} is not among {all:?}");
    }
    assert_eq!(offered(&["reportclip", "data", "sy"]), ["synth"]);
    assert_eq!(offered(&["reportclip", "train", "--resu"]), ["--resume"]);
}

#[test]
fn every_command_has_its_page() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("share/man/man1");
    let args = ["man", "--out", out.to_str().unwrap()];
    assert!(run(&args).status.success());
    let mut names = vec![vec!["reportclip".to_string()]];
    for command in commands(&help(&[])) {
        let inner = commands(&help(&[&command])).into_iter().map(|inner| vec![command.clone(), inner]);
        names.extend(inner.collect::<Vec<_>>());
        names.push(vec![command]);
    }
    assert!(names.len() > 30, "{names:?}");
    let page = |name: &[String]| match name {
        [top] if top == "reportclip" => out.join("reportclip.1"),
        _ => out.join(format!("reportclip-{}.1", name.join("-"))),
    };
    assert_eq!(fs::read_dir(&out).unwrap().count(), names.len(), "a page a command");
    for name in &names {
        assert!(fs::metadata(page(name)).unwrap().len() > 200, "{name:?}");
    }
    // Once more, over those of before.
    assert!(run(&args).status.success());
    // A file in the folder's place.
    let taken = page(&names[0]);
    let output = run(&["man", "--out", taken.to_str().unwrap()]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && told.starts_with("error: --out ") && told.lines().count() == 1,
        "{told}"
    );
    if !is_here("groff") {
        return skipped("there is no groff to set the pages with");
    }
    let set = |name: &[String]| {
        // Without overstriking and colours.
        let plain = ["-man", "-Tutf8", "-Kutf8", "-ww", "-P-cbou"];
        let output = Command::new("groff").args(plain).arg(page(name)).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && told.is_empty(), "{name:?}: {told}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for name in &names {
        assert!(set(name).contains("NAME"), "{name:?}");
    }
    assert!(set(&["train".into()]).contains("reportclip train configs/demo.toml"));
}

/// What docs/install.md says about shells and pages, as it stands there, in a home of its own.
#[cfg(unix)]
#[test]
fn the_page_about_installing_can_be_copied() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/install.md");
    let page = fs::read_to_string(page).unwrap();
    let section = page.split("## Shells").nth(1).unwrap().split("```\n").nth(1).unwrap();
    let home = tempfile::tempdir().unwrap();
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_reportclip"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    // Folders that a shell has made where it is used; `man` shows on a terminal.
    for folder in [".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"] {
        fs::create_dir_all(home.path().join(folder)).unwrap();
    }
    let script: Vec<&str> = section.lines().map(|line| line.split(" && man ").next().unwrap()).collect();
    assert_eq!(script.len(), 4, "{script:?}");
    let mut shell = Command::new("sh");
    let output = shell.args(["-ec", &script.join("\n")]).env("HOME", home.path()).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in [
        ".local/share/bash-completion/completions/reportclip",
        ".zfunc/_reportclip",
        ".config/fish/completions/reportclip.fish",
        ".local/share/man/man1/reportclip-train.1",
    ] {
        assert!(fs::metadata(home.path().join(file)).unwrap().len() > 200, "{file}");
    }
}
