//! Of what the files of a run say, what pages show: folders may come from anybody, and the rest takes memory only.

use serde_json::Value;

/// Longest list that is drawn.
const MOST_LIST: usize = 1000;

/// Of a step in metrics.jsonl.
pub(super) const STEP: &[&str] =
    &["step", "loss", "loss_hard", "loss_excess", "chance", "batch_accuracy", "logit_scale", "grad_norm", "lr"];

/// Of a line of timing.jsonl.
pub(super) const TIMING: &[&str] = &["step", "samples_per_s", "waiting"];

/// Of a validation in metrics.jsonl, at any depth.
pub(super) const EVAL: &[&str] = &[
    "step",
    "best",
    "metric",
    "value",
    "val",
    "loss",
    "loss_chance",
    "objective",
    "chance",
    "mean_recall",
    "image_to_text",
    "text_to_image",
    "figures",
    "interval",
    "recall@1",
    "gallery",
    "calibration",
    "as_is",
    "scaled",
    "ece",
    "ece_floor",
    "brier",
    "nll",
    "temperature",
    "reliability",
    "reliability_scaled",
    "confidence",
    "accuracy",
    "risk_coverage",
    "coverage",
    "risk",
    "selective",
    "score",
    "name",
    "zero_shot",
    "auroc_macro",
    "balanced_accuracy",
];

/// Of pictures-*.json.
pub(super) const PICTURES: &[&str] =
    &["similarities", "gallery", "hardest", "line", "rank", "report", "image", "found", "right", "score"];

/// Of zero-shot.json.
pub(super) const ZERO_SHOT: &[&str] = &[
    "calibration",
    "reliability",
    "reliability_scaled",
    "confidence",
    "accuracy",
    "risk_coverage",
    "coverage",
    "risk",
    "selective",
    "score",
    "conformal",
    "alpha",
    "methods",
    "method",
    "findings",
    "subgroups",
    "name",
    "figures",
    "value",
    "interval",
    "chance",
    "column",
    "images",
];

/// A value with these fields only, at every depth, and the beginnings of lists.
pub(super) fn only(value: Value, fields: &[&str]) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(name, _)| fields.contains(&name.as_str()));
            Value::Object(kept.map(|(name, value)| (name, only(value, fields))).collect())
        }
        Value::Array(list) => {
            let mut kept: Vec<Value> = list.into_iter().take(MOST_LIST).map(|value| only(value, fields)).collect();
            // The long list's memory may have been taken over.
            kept.shrink_to_fit();
            Value::Array(kept)
        }
        plain => plain,
    }
}

/// What a value takes in memory, in units of about a hundred bytes.
pub(super) fn weight(value: &Value) -> usize {
    match value {
        Value::Object(map) => 8 + map.values().map(weight).sum::<usize>(),
        Value::Array(list) => 1 + list.iter().map(weight).sum::<usize>(),
        Value::String(text) => 1 + text.len() / 100,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_no_page_shows_is_dropped_at_every_depth() {
        let line = json!({
            "step": 1,
            "rows": [1, 2],
            "val": {"loss": 2.5, "note": "x", "image_to_text": {"figures": {"recall@1": 0.5, "recall@5": 1}}},
        });
        let kept = json!({"step": 1, "val": {"loss": 2.5, "image_to_text": {"figures": {"recall@1": 0.5}}}});
        assert_eq!(only(line, EVAL), kept);
        let long = only(json!({"similarities": vec![vec![0; 2000]; 2]}), PICTURES);
        let Value::Array(row) = &long["similarities"][1] else { panic!("{long}") };
        assert!(row.len() == MOST_LIST && row.capacity() == MOST_LIST);
        assert_eq!(weight(&long), 8 + 1 + 2 * (1 + MOST_LIST));
    }
}
