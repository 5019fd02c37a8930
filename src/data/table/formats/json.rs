//! A row as a JSON object.

use serde_json::Value;

use crate::data::table::columns::{Columns, missing_column};
use crate::data::table::fields::{Field, Fields, IMAGE_SEPARATOR, extra_field, filled, names};

/// A JSON object.
pub(super) type Object = serde_json::Map<String, Value>;

/// # Errors
/// `text` is something else; in words, without the text.
pub(super) fn object(text: &str) -> Result<Object, String> {
    serde_json::from_str(text).map_err(|e| format!("not a JSON object (column {})", e.column()))
}

/// A row from its object, which must have the columns for image and report.
pub(super) fn row_fields(object: &Object, columns: &Columns) -> Result<Fields, String> {
    let fields = object_fields(object, columns)?;
    for (required, field) in [(&columns.image, Field::Image), (&columns.report, Field::Report)] {
        if fields[field as usize].is_none() && !object.contains_key(required) {
            let known: Vec<&str> = object.keys().map(String::as_str).collect();
            return Err(missing_column(required, &known, columns));
        }
    }
    Ok(fields)
}

/// The images that a list names.
fn images_of(list: &[Value]) -> Result<Option<String>, String> {
    let names: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
    let names = names.ok_or("the list of images has something that is no text")?;
    let names: Vec<String> = names.into_iter().filter_map(filled).collect();
    Ok(filled(&names.join(IMAGE_SEPARATOR.encode_utf8(&mut [0; 4]))))
}

/// What of the columns an object holds.
pub(super) fn object_fields(object: &Object, columns: &Columns) -> Result<Fields, String> {
    let text = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(filled(s)),
        Some(Value::Number(n)) => Ok(Some(n.to_string())),
        Some(Value::Bool(b)) => Ok(Some(b.to_string())),
        Some(_) => Err(format!("{name:?} is neither text nor a number")),
    };
    let mut fields = Fields::default();
    for (field, name) in fields.iter_mut().zip(names(columns)) {
        *field = match object.get(name) {
            Some(Value::Array(images)) if *name == columns.image => images_of(images)?,
            _ => text(name)?,
        };
    }
    let extra: Vec<Option<String>> = columns.extra.iter().map(|name| text(name)).collect::<Result<_, _>>()?;
    let mut extra = extra.into_iter();
    fields[Field::Extra as usize] = extra_field(columns, |_| extra.next().flatten());
    Ok(fields)
}
