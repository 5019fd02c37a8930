//! Configuration in two stages: what was written ([`Written`], with the line of each value) → what is meant
//! ([`Config`], typed, every default filled). Nothing changes a `Config` afterwards. Plain data: knows no tensor.
//!
//! To add a key: one row in `keys.rs`, and one field of the same name in the section that owns it.

mod check;
mod key;
mod keys;
mod kind;
mod loss;
mod resolve;
mod sections;
mod typed;
mod values;
mod written;

pub use key::{Key, MayDiffer};
pub use keys::{KEYS, keys_as_markdown};
pub use kind::Kind;
pub use loss::{LossConfig, Smoothing};
pub use sections::{EvalConfig, ModelConfig, ModelInit, Precision, ProjectionKind, RandomModelConfig, TrainConfig};
pub use typed::Config;
pub use written::Written;

use std::path::Path;

use crate::data::table::format_names;
use crate::error::Problems;

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
    if is_manifest(path) {
        let line = format!(
            "config {0}: looks like a manifest; name a config file (TOML) with data.train = \"{0}\" in it, or give it \
             by --set data.train={0}",
            path.display()
        );
        return Err(Problems(vec![crate::error::Problem(line)]).into());
    }
    let bytes = std::fs::read(path).map_err(|e| {
        let hint = if path.is_dir() { "is a folder; name the file in it".to_string() } else { e.to_string() };
        Problems(vec![crate::error::Problem(format!("config {}: {hint}", path.display()))])
    })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        Problems(vec![crate::error::Problem(format!("{}:{line}: not UTF-8; save the file as UTF-8", path.display()))])
    })?;
    Ok(Config::resolve(&Written::parse(path, &text, overrides))?)
}

/// By its ending: read as TOML, each of its rows would be a mistake of its own.
fn is_manifest(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let formats = format_names().to_lowercase();
    ending.is_some_and(|ending| formats.split(", ").any(|format| format == ending))
}
