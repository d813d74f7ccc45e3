//! `moec inspect` from outside, on each kind of file that moec writes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use serde_json::Value;

use crate::command::{example, folder, moec_in, product, settled, stderr, write};

#[test]
fn every_kind_of_file() {
    let folder = folder();
    let kinds = ["compile", &example("tiny.toml"), "--target", "sm_80", "--emit", "package,graph,kernel,ptx"];
    product(&moec_in(folder.path(), &[&kinds[..], &["--out-dir", "."]].concat()));
    let inspect = |file: &str| product(&moec_in(folder.path(), &["inspect", file]));
    insta::assert_snapshot!("package", settled(&inspect("tiny.moec")));
    insta::assert_snapshot!("graph", settled(&inspect("tiny.graph")));
    insta::assert_snapshot!("kernel", settled(&inspect("tiny.sm_80.kernel")));
    // How often each instruction stands in PTX is LLVM's affair.
    let ptx = inspect("tiny.sm_80.ptx");
    let entries: String =
        ptx.lines().take_while(|line| line.contains("PTX") || line.contains("params")).map(|l| format!("{l}\n")).collect();
    insta::assert_snapshot!("ptx", settled(&entries));
    assert!(ptx.lines().any(|line| line.ends_with(" ld.global")), "{ptx}");

    let manifest = product(&moec_in(folder.path(), &["inspect", "tiny.moec", "--manifest"]));
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["layer"], "tiny");
}

/// `moec schema manifest` is the schema that manifests are held to, and describes every field and every word, in no language's terms.
#[test]
fn the_manifest_has_a_schema() {
    let folder = folder();
    let schema: Value = serde_json::from_str(&product(&moec_in(folder.path(), &["schema", "manifest"]))).unwrap();
    assert_eq!(schema, moec_runtime::package::json_schema());
    let compile = ["compile", &example("tiny.toml"), "--target", "sm_80,x86-64-v3", "--emit", "manifest", "--output", "-"];
    let manifest: Value = serde_json::from_str(&product(&moec_in(folder.path(), &compile))).unwrap();
    assert!(jsonschema::is_valid(&schema, &manifest));
    let mut described = 0;
    each_described(&schema, &mut |place| {
        described += 1;
        let text = place["description"].as_str().unwrap_or_default();
        assert!(text.ends_with('.') || text.ends_with('`'), "{place:#}");
        assert!(["None", "Some(", "::", "Vec", "[`"].iter().all(|word| !text.contains(word)), "{text}");
    });
    assert!(described > 120, "{described}");
}

/// The fields and the words of a schema.
pub(crate) fn each_described(schema: &Value, each: &mut impl FnMut(&Value)) {
    match schema {
        Value::Object(fields) => {
            let properties = fields.get("properties").and_then(Value::as_object);
            // A variant of an enumeration with a value is described beside its one field.
            let is_variant = properties.is_some_and(|properties| properties.len() == 1) && fields.contains_key("description");
            if !is_variant {
                properties.into_iter().flatten().for_each(|(_, property)| each(property));
            }
            fields.get("oneOf").and_then(Value::as_array).into_iter().flatten().for_each(&mut *each);
            fields.values().for_each(|value| each_described(value, each));
        }
        Value::Array(items) => items.iter().for_each(|item| each_described(item, each)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn what_is_not_one() {
    let folder = folder();
    product(&moec_in(folder.path(), &["compile", &example("tiny.toml"), "--target", "sm_80"]));
    let package = fs::read(folder.path().join("tiny.moec")).unwrap();
    write(folder.path(), "short.moec", &package[..20]);
    let mut changed = package.clone();
    *changed.last_mut().unwrap() ^= 1;
    write(folder.path(), "changed.moec", changed);
    write(folder.path(), "spec.toml", fs::read(example("tiny.toml")).unwrap());
    write(folder.path(), "cut.graph", "layer @a(");
    write(folder.path(), "binary", [0xff, 0xfe, 0]);
    let mut said = String::new();
    for arguments in [
        &["short.moec"][..],
        &["changed.moec"],
        &["spec.toml"],
        &["spec.toml", "--manifest"],
        &["cut.graph"],
        &["binary"],
        &["absent"],
    ] {
        let output = moec_in(folder.path(), &[&["inspect"], arguments].concat());
        let expected = if arguments.len() == 2 { 2 } else { 1 };
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}");
        said += &stderr(&output);
    }
    insta::assert_snapshot!(said);
}
