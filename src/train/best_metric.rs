//! By which figure validations are compared.

use crate::config::LossConfig;
use crate::data::{Labels, Prompts, Row};
use crate::metrics::Metric;

/// The labels of validation rows for the classes of a prompt file, or why there are no figures of them.
pub(super) fn validation_labels(
    config: &LossConfig,
    rows: &[Row],
    prompts: Option<&Prompts>,
) -> Result<Labels, String> {
    let Some(prompts) = prompts else { return Err("loss.prompts names no prompt file".into()) };
    let (labels, _) = prompts
        .labels(rows, config.label_policy())
        .map_err(|e| format!("of the validation pairs: {}", crate::error::one_line(&e)))?;
    let differ = match &labels {
        Labels::Classes(classes) => {
            let mut known = classes.iter().flatten();
            let first = known.next();
            known.any(|class| Some(class) != first)
        }
        Labels::Findings(findings) => (0..prompts.classes.len()).any(|k| {
            let has = |wanted: bool| findings.iter().any(|of_row| of_row[k] == Some(wanted));
            has(true) && has(false)
        }),
    };
    if differ { Ok(labels) } else { Err("all labelled validation pairs have the same labels".into()) }
}

/// The figure, and why that one. `wanted` is what the config says, `labels` what [`validation_labels`] gives.
///
/// # Errors
/// What is wanted cannot be worked out on the validation pairs.
pub(super) fn choose(
    config: &LossConfig,
    wanted: Option<Metric>,
    labels: Result<&Labels, &str>,
) -> Result<(Metric, String), String> {
    let missing = |metric| match (metric, labels) {
        (Metric::Auroc | Metric::BalancedAccuracy, Err(why)) => Some(why),
        (Metric::Loss, Err(why)) if config.needs_prompts() => Some(why),
        (Metric::BalancedAccuracy, Ok(Labels::Findings(_))) => {
            Some("an image may have several of these findings; take \"auroc\"")
        }
        _ => None,
    };
    if let Some(metric) = wanted {
        return match missing(metric) {
            Some(why) => Err(format!("train.best_metric: {:?} cannot be worked out: {why}", metric.word())),
            None => Ok((metric, "train.best_metric names it".into())),
        };
    }
    let (metric, reason) = config.best_metric();
    Ok(match missing(metric) {
        Some(why) => (Metric::MeanRecall, format!("{} would fit the objective, but {why}", metric.word())),
        None => (metric, reason.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Written};

    fn loss(kind: &str) -> LossConfig {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("m.csv", "image,report\n"), ("p.toml", "")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let text =
            format!("model.init = \"random\"\ndata.train = \"m.csv\"\nloss.prompts = \"p.toml\"\nloss.kind = {kind}\n");
        let written = Written::parse(&dir.path().join("c.toml"), &text, &[]);
        Config::resolve(&written).map_err(|e| e.to_string()).unwrap().loss
    }

    #[test]
    fn the_default_fits_the_objective_and_what_cannot_be_is_told() {
        let classes = Labels::Classes(vec![Some(0), Some(1)]);
        let findings = Labels::Findings(vec![vec![Some(true)], vec![Some(false)]]);
        let auto = |kind: &str, labels: Result<&Labels, &str>| choose(&loss(kind), None, labels).unwrap();
        for (kind, metric) in [
            ("\"clip\"", Metric::MeanRecall),
            ("\"siglip\"", Metric::MeanRecall),
            ("\"multi_positive\"", Metric::Loss),
            ("\"class\"", Metric::BalancedAccuracy),
            ("[\"clip\", \"siglip\"]", Metric::MeanRecall),
            ("[\"clip\", \"class\"]", Metric::Loss),
        ] {
            assert_eq!(auto(kind, Ok(&classes)).0, metric, "{kind}");
        }
        assert_eq!(auto("\"multi_label\"", Ok(&findings)).0, Metric::Auroc);
        let (metric, reason) = auto("\"class\"", Err("none has a label"));
        assert_eq!(metric, Metric::MeanRecall);
        assert_eq!(reason, "balanced_accuracy would fit the objective, but none has a label");
        let asked = |kind: &str, metric, labels| choose(&loss(kind), Some(metric), labels);
        assert!(asked("\"clip\"", Metric::Auroc, Ok(&classes)).is_ok(), "prompts are enough");
        assert!(asked("\"clip\"", Metric::Loss, Err("no labels")).is_ok());
        assert!(asked("\"class\"", Metric::Loss, Err("no labels")).is_err());
        let error = asked("\"multi_label\"", Metric::BalancedAccuracy, Ok(&findings)).unwrap_err();
        assert!(error.starts_with("train.best_metric: \"balanced_accuracy\" cannot be worked out: "), "{error}");
    }
}
