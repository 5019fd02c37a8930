//! Notes the source's revision, which run.json of every run holds. Needs no git: reads its files where they are.
#![allow(clippy::print_stdout)] // How a build script talks to Cargo.

use std::fs::read_to_string;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let Ok(head) = read_to_string(".git/HEAD") else { return };
    println!("cargo::rerun-if-changed=.git/HEAD");
    let revision = match head.trim().strip_prefix("ref: ") {
        Some(branch) => {
            let path = format!(".git/{branch}");
            let Ok(revision) = read_to_string(&path) else { return };
            println!("cargo::rerun-if-changed={path}");
            revision
        }
        None => head,
    };
    println!("cargo::rustc-env=REPORTCLIP_REVISION={}", revision.trim());
}
