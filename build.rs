//! Notes the source's revision, which run.json of every run holds (needs no git: reads its files where they are), and
//! for the `cuda` feature compiles the kernels.
#![allow(clippy::print_stdout)] // How a build script talks to Cargo.

use std::ffi::OsString;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some()
        && let Err(e) = cuda()
    {
        println!("cargo::error={e}");
    }
    if let Some(revision) = revision() {
        println!("cargo::rustc-env=REPORTCLIP_REVISION={revision}");
    }
}

/// The commit that is checked out. A worktree's `.git` is a file that names its folder, and `commondir` there the one
/// with the branches; of these old ones are packed in one file.
fn revision() -> Option<String> {
    let own = match read_to_string(".git") {
        Ok(text) => PathBuf::from(text.trim().strip_prefix("gitdir: ")?),
        Err(_) => PathBuf::from(".git"),
    };
    let common = read_to_string(own.join("commondir")).map_or_else(|_| own.clone(), |path| own.join(path.trim()));
    let head = read_to_string(own.join("HEAD")).ok()?;
    // The log grows with each commit, wherever the branch is kept.
    for watched in [own.join("HEAD"), own.join("logs/HEAD")].iter().filter(|path| path.exists()) {
        println!("cargo::rerun-if-changed={}", watched.display());
    }
    let Some(branch) = head.trim().strip_prefix("ref: ") else { return Some(head.trim().to_string()) };
    if let Ok(revision) = read_to_string(common.join(branch)) {
        println!("cargo::rerun-if-changed={}", common.join(branch).display());
        return Some(revision.trim().to_string());
    }
    let packed = read_to_string(common.join("packed-refs")).ok()?;
    let of_branch = |line: &str| line.split_once(' ').filter(|(_, name)| *name == branch).map(|(id, _)| id.to_string());
    packed.lines().find_map(of_branch)
}

/// Machine code for the GPUs of these compute capabilities, and PTX, which the driver translates once for others.
const ARCHITECTURES: [&str; 3] =
    ["arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_80,code=compute_80"];

fn cuda() -> Result<(), String> {
    const KERNELS: &str = "src/ops/cuda/kernels.cu";
    println!("cargo::rerun-if-changed={KERNELS}");
    ["NVCC", "CUDA_HOME", "PATH"].iter().for_each(|name| println!("cargo::rerun-if-env-changed={name}"));
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = |name: &str| variable(name).map(PathBuf::from).ok_or_else(|| format!("cargo sets no {name}"));
    let nvcc = variable("NVCC")
        .or_else(|| {
            let home = variable("CUDA_HOME").map_or_else(|| PathBuf::from("/usr/local/cuda"), PathBuf::from);
            Some(home.join("bin/nvcc")).filter(|path| path.exists()).map(OsString::from)
        })
        .unwrap_or_else(|| "nvcc".into());
    let run = |command: &mut Command| {
        let output = command.output().map_err(|e| format!("{}: {e}; set NVCC or CUDA_HOME", nvcc.display()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr).replace('\n', "; ")) }
    };
    let version = run(Command::new(&nvcc).arg("--version"))?;
    let major = version.split("release ").nth(1).and_then(|rest| rest.split('.').next());
    println!("cargo::rustc-env=REPORTCLIP_CUDA={}", major.ok_or("nvcc --version names no release")?);
    let out = folder("OUT_DIR")?;
    let mut compiler = Command::new(&nvcc);
    compiler.args(["-fatbin", "-O3"]).args(ARCHITECTURES.iter().flat_map(|target| ["-gencode", target]));
    run(compiler.arg("-o").arg(out.join("kernels.fatbin")).arg(KERNELS))?;
    empty_libraries(&out)
}

/// What cudarc would have linked is opened when a GPU is asked for (src/ops/cuda/libraries.rs): the linker finds
/// nothing under those names where no CUDA is installed.
fn empty_libraries(out: &Path) -> Result<(), String> {
    let folder = out.join("empty");
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    for name in ["cuda", "cublas", "cublasLt", "curand", "nvrtc", "cudart", "cudnn", "nccl"] {
        std::fs::write(folder.join(format!("lib{name}.a")), "!<arch>\n").map_err(|e| e.to_string())?;
    }
    println!("cargo::rustc-link-search=native={}", folder.display());
    Ok(())
}
