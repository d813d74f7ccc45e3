//! The manifest's types as a JSON Schema, for readers in other languages. It is made of the types themselves, so it accepts what
//! they read. What holds between values, such as indices that are in range, stands in `check` alone.

use schemars::Schema;
use schemars::transform::transform_subschemas;
use serde_json::Value;

use super::{FORMAT_VERSION, Manifest};

/// The JSON Schema (2020-12) of a manifest.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = schemars::schema_for!(Manifest);
    schema.insert("title".into(), format!("Manifest of a moec package, format version {FORMAT_VERSION}").into());
    for_all_readers(&mut schema);
    schema.to_value()
}

/// Bounds that a reader of Rust sees in the name of the integer's type, and comments without its links.
fn for_all_readers(schema: &mut Schema) {
    let most = match schema.get("format").and_then(Value::as_str) {
        Some("uint32") => Some(Value::from(u32::MAX)),
        Some("uint64") => Some(Value::from(u64::MAX)),
        Some("int64") => Some(Value::from(i64::MAX)),
        Some(_) | None => None,
    };
    if let Some(most) = most {
        let least = schema.remove("minimum").unwrap_or(Value::from(i64::MIN));
        schema.remove("format");
        schema.insert("minimum".into(), least);
        schema.insert("maximum".into(), most);
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        // `[`Target::update`]` to `Target.update`; a line of a comment is no line of a text.
        *text = text.replace("[`", "`").replace("`]", "`").replace("::", ".").replace('\n', " ");
    }
    transform_subschemas(&mut for_all_readers, schema);
}
