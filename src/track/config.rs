//! Where else than into the run folder a run's figures go.

use serde::Deserialize;

/// The section `track` of a config.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // Fields are documented by the table of keys.
pub struct TrackConfig {
    /// Address of an MLflow server.
    pub mlflow: Option<String>,
}
