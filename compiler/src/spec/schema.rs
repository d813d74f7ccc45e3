//! The key tables as a JSON Schema, for editors and for people.
//! Rules between keys are not in it: a schema cannot say them in words that help.

use serde_json::{Map, Value, json};

use super::keys::{Choice, Fallback, Key, Sign, TABLES, Table, Takes};
use super::section::BYTES_PATTERN;

/// The JSON Schema (2020-12) of a spec.
pub fn json_schema() -> Value {
    let properties: Map<String, Value> = TABLES.iter().map(|table| (table.name.to_string(), of_table(table))).collect();
    let required: Vec<&str> = TABLES.iter().filter(|table| table.required).map(|table| table.name).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "moec spec",
        "description": "One Mixture-of-Experts layer.",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn of_table(table: &Table) -> Value {
    let properties: Map<String, Value> = table.keys.iter().map(|key| (key.name.to_string(), of_key(key))).collect();
    let is_required = |key: &&Key| matches!(key.default, Fallback::Required);
    let required: Vec<&str> = table.keys.iter().filter(is_required).map(|key| key.name).collect();
    json!({
        "description": table.doc,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn of_key(key: &Key) -> Value {
    let mut schema = of_values(key.takes);
    let words = match key.takes {
        Takes::Word(choices) | Takes::WordOrInteger(choices, ..) => described(choices),
        Takes::Text
        | Takes::Boolean
        | Takes::Integer(..)
        | Takes::Integers(..)
        | Takes::Number(_)
        | Takes::Ratio
        | Takes::Bytes
        | Takes::Stored => String::new(),
    };
    schema["description"] = json!(format!("{}{words}", key.doc));
    match key.default {
        Fallback::Required | Fallback::Absent => {}
        Fallback::Boolean(value) => schema["default"] = json!(value),
        Fallback::Integer(value) => schema["default"] = json!(value),
        Fallback::Number(value) => schema["default"] = json!(value),
        Fallback::Word(value) => schema["default"] = json!(value),
        Fallback::Integers(values) => schema["default"] = json!(values),
    }
    schema
}

fn of_values(takes: Takes) -> Value {
    let integer = |min: u64, max: u64| json!({ "type": "integer", "minimum": min, "maximum": max });
    let word = |choices: &[Choice]| json!({ "enum": choices.iter().flat_map(|choice| [Some(choice.word), choice.old]).flatten().collect::<Vec<_>>() });
    match takes {
        Takes::Text => json!({ "type": "string" }),
        Takes::Boolean => json!({ "type": "boolean" }),
        Takes::Integer(min, max) => integer(min, max),
        Takes::Integers(min, max) => {
            json!({ "type": "array", "items": integer(min, max), "minItems": 1, "maxItems": 16 })
        }
        Takes::Number(Sign::Positive) | Takes::Ratio => json!({ "type": "number", "exclusiveMinimum": 0 }),
        Takes::Bytes => json!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "type": "string", "pattern": BYTES_PATTERN }] }),
        Takes::Number(Sign::NonNegative) => json!({ "type": "number", "minimum": 0 }),
        Takes::Number(Sign::Any) => json!({ "type": "number" }),
        Takes::Word(choices) => word(choices),
        Takes::WordOrInteger(choices, min, max) => json!({ "anyOf": [word(choices), integer(min, max)] }),
        Takes::Stored => {
            let names = json!({ "anyOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 16 },
            ] });
            json!({ "anyOf": [names, {
                "type": "object",
                "properties": {
                    "name": names,
                    "layout": { "enum": ["", "T", "interleave", "T interleave", "HEP"] },
                    "experts": { "type": "integer", "minimum": 1 },
                },
                "required": ["name"],
                "additionalProperties": false,
            }] })
        }
    }
}

/// `; silu: ..., gelu: ...`.
fn described(choices: &[Choice]) -> String {
    let described = choices.iter().map(|choice| format!("{}: {}", choice.word, choice.doc));
    format!(". {}", described.collect::<Vec<_>>().join("; "))
}
