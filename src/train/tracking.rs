//! What a server that tracks runs is told of this one beside its figures.

use toml::Value;

use super::records::RunRecord;
use crate::config::{Config, KEYS, Key};
use crate::hub::Source;
use crate::track::{About, RunFolder};

/// What MLflow's own client takes an experiment's name from.
const EXPERIMENT: &str = "MLFLOW_EXPERIMENT_NAME";

/// Keys of the config that lead to no file, for paths may name patients, and what run.json holds.
pub(super) fn about(config: &Config, record: &RunRecord, run: &RunFolder) -> About {
    let (pairs, parameters) = (record.pairs, record.parameters);
    let name = std::path::absolute(run.path()).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into()));
    let tags = [
        ("mlflow.source.name", "reportclip".to_string()),
        ("mlflow.source.type", "LOCAL".into()),
        ("reportclip.version", record.version.clone()),
        ("reportclip.revision", record.revision.clone().unwrap_or_default()),
        ("reportclip.device", record.device.clone()),
        ("reportclip.products", record.products.clone()),
        ("reportclip.data_fingerprint", record.data_fingerprint.clone()),
        ("reportclip.training_pairs", pairs.0.to_string()),
        ("reportclip.validation_pairs", pairs.1.to_string()),
        ("reportclip.parameters", parameters.0.to_string()),
        ("reportclip.trainable_parameters", parameters.1.to_string()),
        ("reportclip.total_steps", record.total_steps.to_string()),
        ("reportclip.ranks", record.ranks.to_string()),
    ];
    About {
        name: name.unwrap_or_else(|| "run".into()),
        experiment: std::env::var(EXPERIMENT).ok().filter(|name| !name.is_empty()).unwrap_or("reportclip".into()),
        params: KEYS
            .iter()
            .filter_map(|key| Some((key.name.to_string(), told(key, config.value(key.name)?)?)))
            .collect(),
        tags: tags.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| (key.into(), value)).collect(),
    }
}

/// A value as text; `None` where it leads to files of this machine, or to the server itself.
fn told(key: &Key, value: &Value) -> Option<String> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let is_of_hub = key.name.starts_with("model.") && matches!(Source::parse(&text), Ok(Source::Hub { .. }));
    (key.name != "track.mlflow" && (!key.leads_somewhere() || is_of_hub)).then_some(text)
}
