//! From what was written to what is meant.

use std::path::{Path, PathBuf};

use super::typed::Config;
use super::values::Values;
use super::written::Written;
use crate::error::{ProblemList, Problems};
use crate::track::RunFolder;

impl Config {
    /// Fills defaults and checks values against one another.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn resolve(written: &Written) -> Result<Self, Problems> {
        let mut problems = ProblemList::default();
        written.mistakes.iter().for_each(|mistake| problems.push(mistake.line.clone()));
        let values = Values { written };
        // A value that failed its check stands here as its default, so that the rest can be checked too.
        let mut config: Self = values.typed().try_into().expect("every row of the table of keys has its field");
        config.loss.weigh();
        config.resolved = values.resolved();
        config.output_is_default = config.output == PathBuf::new();
        if config.output_is_default {
            config.output = Path::new("runs").join(run_name(&written.path));
        }
        config.check(written, &mut problems);
        problems.finish()?;
        Ok(config)
    }
}

/// What a run of this config file is called where nobody says: like the file, or like the run whose config it is.
pub fn run_name(file: &Path) -> String {
    let run = RunFolder::of_config(file);
    let name = run.as_deref().and_then(Path::file_name).or(file.file_stem());
    name.map_or("run".into(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KEYS;
    use crate::config::kind::Kind;

    /// A value of each kind that differs from all defaults.
    fn example(kind: Kind) -> String {
        match kind {
            Kind::Bool => "true".into(),
            Kind::Int(low, _) => format!("{}", low + 3),
            Kind::Float(low, high) => format!("{:?}", (low + high.min(low + 0.5)) / 2.0),
            Kind::Text | Kind::Path | Kind::Sources => "\"somewhere\"".into(),
            Kind::OneOf(words) | Kind::ListOf(words) => format!("{:?}", words[words.len() - 1]),
            Kind::Floats(low, _) => format!("[{:?}]", low + 1.0),
            Kind::Span => "\"7 samples\"".into(),
            Kind::Freeze => "\"all\"".into(),
            Kind::Smoothing => "{ from = 0.2, to = 0.1, over = \"1 epochs\" }".into(),
            Kind::ClassWeights => "[1.0, 2]".into(),
            Kind::Spacing => "[1.5, 1.5, 3]".into(),
            Kind::Window => "[\"lung\", [0, 80], \"bone\"]".into(),
        }
    }

    #[test]
    fn every_key_has_its_field() {
        let text: String = KEYS.iter().map(|key| format!("{} = {}\n", key.name, example(key.kind))).collect();
        let written = Written::parse(Path::new("all.toml"), &text, &[]);
        assert!(written.mistakes.is_empty(), "{:?}", written.mistakes);
        let values = Values { written: &written };
        let config: Config = values.typed().try_into().unwrap();
        assert_eq!(config.train.stop_after, Some(4));
        assert_eq!(config.data.train, [PathBuf::from("somewhere")]);
        assert_eq!(config.model.random.vocab_size, 519);
        // A field without its row would be missing here.
        let none = Values { written: &Written::default() };
        assert!(none.typed().try_into::<Config>().is_ok());
    }
}
