//! Configuration in two stages: what was written ([`Written`], with the line of each value) → what is meant
//! ([`Config`], typed, every default filled). Nothing changes a `Config` afterwards. Plain data: knows no tensor.
//!
//! To add a key: one row in `keys.rs` (`model_keys.rs`, `loss_keys.rs` and `optim_keys.rs` for theirs), and one field
//! of the same name in the section that owns it.

mod check;
mod key;
mod keys;
mod kind;
mod loss;
mod loss_keys;
mod model_keys;
mod optim_keys;
mod resolve;
mod sections;
mod typed;
mod values;
mod written;

pub use key::{Key, MayDiffer};
pub use keys::{KEYS, keys_as_markdown};
pub use kind::Kind;
pub use loss::{LossConfig, Smoothing};
pub use resolve::run_name;
pub use sections::{EvalConfig, ModelConfig, ModelInit, Precision, ProjectionKind, RandomModelConfig, TrainConfig};
pub use typed::Config;
pub use written::Written;

use std::path::Path;

use crate::data::file_kind;
use crate::data::table::format_names;
use crate::error::{Problem, Problems};
use crate::fs::{bytes_of, open_plain};
use crate::track::RunFolder;

/// Reads a config file, applies `--set key=value` pairs in order, resolves and checks.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("pairs.csv"), "image,report\n")?;
/// let file = folder.path().join("my.toml");
/// std::fs::write(&file, "model.init = \"random\"\ndata.train = \"pairs.csv\"\n")?;
///
/// let config = reportclip::config::load(&file, &["train.batch_size=16".into()])?;
/// assert_eq!((config.train.batch_size, config.seed), (16, 0));
///
/// let problem = reportclip::config::load(&file, &["train.batchsize=16".into()]).unwrap_err();
/// assert!(problem.to_string().contains("did you mean `train.batch_size`?"));
/// # Ok::<(), anyhow::Error>(())
/// ```
///
/// # Errors
/// The file cannot be read, or [`Problems`] with everything that is wrong in it.
pub fn load(path: &Path, overrides: &[String]) -> anyhow::Result<Config> {
    load_as(path, overrides, false)
}

/// [`load`] for a run that goes on, which may be older than the checks of keys that do no harm where they have no
/// effect. Those are left out: with another value it could not go on at all.
///
/// # Errors
/// As there.
pub fn load_to_resume(path: &Path, overrides: &[String]) -> anyhow::Result<Config> {
    load_as(path, overrides, true)
}

fn load_as(path: &Path, overrides: &[String], goes_on: bool) -> anyhow::Result<Config> {
    let text = read(path).map_err(|line| Problems(vec![Problem(line)]))?;
    Ok(Config::resolve(&Written { goes_on, ..Written::parse(path, &text, overrides) })?)
}

/// Longest config: one with every key has a hundredth of it.
const MOST_BYTES: u64 = 1 << 20;

/// The text of a config file, or a line that says what there is instead.
fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    if is_manifest(path) {
        let what = if path.exists() {
            "looks like a manifest"
        } else {
            "there is no such file, and by its name it would be a manifest"
        };
        return Err(format!(
            "config {shown}: {what}; name a config file (TOML) with data.train = \"{shown}\" in it, or give it by \
             --set data.train={shown}"
        ));
    }
    let bytes = open_plain(path).and_then(|file| bytes_of(file, MOST_BYTES)).map_err(|e| match e.kind() {
        _ if path.is_dir() => format!("config {shown}: {}", folder(path)),
        std::io::ErrorKind::NotFound => format!("config {shown}: there is no such file; name a config file (TOML)"),
        _ => format!("config {shown}: {e}"),
    })?;
    if let Some(kind) = file_kind(&bytes) {
        return Err(format!("config {shown}: is {kind}; wanted is a config file (TOML), such as configs/demo.toml"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        format!("{shown}:{line}: not UTF-8; save the file as UTF-8")
    })
}

/// What to do with a folder: that of a run holds the run's config.
fn folder(path: &Path) -> String {
    let config = path.join("config.toml");
    if RunFolder::of_config(&config).is_none() {
        return "is a folder; name the file in it".into();
    }
    let config = config.display();
    format!(
        "is the folder of a run; name its config {config}, with which `train {config} --resume` goes on with that run"
    )
}

/// By its ending: read as TOML, each of its rows would be a mistake of its own.
fn is_manifest(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let formats = format_names().to_lowercase();
    ending.is_some_and(|ending| formats.split(", ").any(|format| format == ending))
}
