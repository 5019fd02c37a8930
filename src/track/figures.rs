//! Figures of a record as numbers with names.

use serde_json::Value;

/// Every number inside `value`, under the names of the objects that it stands in, `prefix` first; those of the record
/// itself are left out.
pub(super) fn figures(prefix: &str, value: &Value) -> Vec<(String, f64)> {
    match value {
        Value::Object(fields) => {
            let told = |key: &str| matches!(key, "kind" | "step" | "best");
            let inner = fields.iter().filter(|(key, _)| !told(key));
            inner.flat_map(|(key, value)| figures(&format!("{prefix}/{key}"), value)).collect()
        }
        Value::Number(number) => vec![(prefix.to_string(), number.as_f64().unwrap_or(f64::NAN))],
        _ => Vec::new(),
    }
}
