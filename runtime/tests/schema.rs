//! The manifest's JSON Schema and the types that it is made of take the same, and nothing is listed that there is not.
#![cfg(feature = "schema")]
#![allow(clippy::unwrap_used)]

use jsonschema::{Validator, validator_for};
use moec_runtime::package::{
    Arg, Buffer, Cuts, DType, Dim, Entry, Extent, Image, ImageKind, Kernel, Launch, Manifest, Param, ParamKind, Piece, Recipe,
    Regime, Role, Round, Routing, Slice, Slots, Source, Stacked, Swizzle, Target, TargetKind, TensorMap, View, Working,
    json_schema,
};
use serde_json::{Value, json};

use crate::fixture;

fn validator(schema: &Value) -> Validator {
    validator_for(schema).unwrap()
}

/// A manifest with every field, each of them other than what it is where it is absent, and every word: no sound one.
fn everything() -> Manifest {
    let name = || "name".to_string();
    let one = || Extent::Const(1);
    let of = |op: fn(Box<Extent>, Box<Extent>) -> Extent| op(Box::new(Extent::Tokens), Box::new(Extent::SequenceTokens));
    let by = |round| Extent::Tokens.div(Extent::SequenceTokens, round);
    let buffer = |role, dtype| Buffer {
        name: name(),
        role,
        dtype,
        shape: vec![one()],
        align: 16,
        observe: Some(name()),
        below: Some(3),
        mask: Some(name()),
    };
    let slice = Some(Slice { axis: 0, index: 1, parts: 2, interleaved: true });
    let source =
        Source { name: name(), flattened: true, axes: vec![1, 0], slice, spare: 1, stacked: Some(Stacked { axis: 1, parts: 2 }) };
    let map = |swizzle| ParamKind::TensorMap(TensorMap { dtype: DType::F32, tile: [1, 2, 4], swizzle });
    let kinds = [ParamKind::Pointer, ParamKind::I32, ParamKind::I64].into_iter();
    let kinds = kinds.chain([Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128].map(map));
    let kernel = Kernel {
        name: name(),
        symbol: name(),
        params: kinds.map(|kind| Param { name: name(), kind }).collect(),
        threads: 32,
        cluster: 2,
        shared_bytes: 1,
        dynamic_shared_bytes: 1,
        registers: Some(1),
        spill_bytes: Some(0),
    };
    let working = Some(Working { buffer: 0, each: one(), follows: true });
    let launch = |args| Launch { kernel: 0, grid: one(), early: true, working: working.clone(), args };
    let view = View { buffer: 0, extents: [one(), one(), one()], strides: [one(), one()] };
    let formulas = [
        of(Extent::Add),
        of(Extent::Sub),
        of(Extent::Mul),
        of(Extent::Min),
        of(Extent::Max),
        by(Round::Floor),
        by(Round::Ceil),
        by(Round::HalfEven),
    ];
    let slots = Slots {
        load: name(),
        kept: name(),
        tokens: Some(name()),
        experts: Some(name()),
        rows: Some(name()),
        probability: Some(name()),
        z: Some(name()),
        importance: Some(name()),
        aux_loss: Some(name()),
        z_loss: Some(name()),
    };
    let routing = Routing {
        slots,
        by_sequence: true,
        experts: 8,
        rowless: 1,
        top_k: 2,
        joint_shared: 1,
        corrected: true,
        grouped: true,
        rows_at_capacity: Some(one()),
        capacity_factor: Some([5, 4]),
    };
    let target = |kind| Target {
        name: name(),
        kind,
        images: vec![0],
        cpu_features: vec![name()],
        least_driver: Some(name()),
        ptx_version: Some(name()),
        kernels: vec![kernel.clone()],
        prepare: vec![launch(vec![Arg::Buffer(0)])],
        regimes: vec![Regime {
            tokens_up_to: Some(1),
            tile_rows: Some(16),
            launches: formulas.clone().map(|f| launch(vec![Arg::ScalarI32(f)])).to_vec(),
        }],
        update: vec![launch(vec![Arg::ScalarI64(one()), Arg::TensorMap(view.clone())])],
        statistics: Some(routing.clone()),
    };
    let image = |kind| Image { kind, offset: 0, length: 1, sha256: name() };
    Manifest {
        compiler: name(),
        layer: name(),
        entry: Entry::Layer,
        spec_sha256: name(),
        dtype: DType::F32,
        tf32: true,
        max_tokens: 1,
        cuts: Cuts::Tokens,
        workspace_limit: Some(1),
        dims: vec![Dim { name: name(), value: 1 }],
        buffers: [
            (Role::Input, DType::F32),
            (Role::Output, DType::F16),
            (Role::Weight, DType::Bf16),
            (Role::Prepared, DType::I32),
            (Role::Workspace, DType::F32),
        ]
        .map(|(role, dtype)| buffer(role, dtype))
        .to_vec(),
        weights: vec![Recipe { buffer: name(), pieces: vec![Piece { into: slice, sources: vec![source] }] }],
        images: [ImageKind::Ptx, ImageKind::Cubin, ImageKind::SharedObject].map(image).to_vec(),
        targets: [TargetKind::Gpu, TargetKind::Host].map(target).to_vec(),
    }
}

/// As JSON, with a word that no writer writes.
fn instance() -> Value {
    let mut json = serde_json::to_value(everything()).unwrap();
    let params = json.pointer_mut("/targets/0/kernels/0/params").unwrap().as_array_mut().unwrap();
    params.push(json!({ "name": "name", "kind": { "tensor_map": { "dtype": "f32", "tile": [1, 2, 4], "swizzle": "none" } } }));
    json
}

/// Manifests that together have every field and every word.
fn instances() -> Vec<Value> {
    let cuts = ["tokens", "sequences", "nowhere"].map(|word| changed(&instance(), "/cuts", |cuts| *cuts = json!(word)));
    let entries = ["layer", "experts", "router"].map(|word| changed(&instance(), "/entry", |entry| *entry = json!(word)));
    cuts.into_iter().chain(entries).collect()
}

#[test]
fn a_manifest_with_every_field_is_taken_and_read_back() {
    let manifest = everything();
    let json = serde_json::to_value(&manifest).unwrap();
    assert_eq!(serde_json::from_value::<Manifest>(json.clone()).unwrap(), manifest);
    let validator = validator(&json_schema());
    let of_fixture = serde_json::to_value(fixture::manifest()).unwrap();
    for json in instances().into_iter().chain([json, of_fixture]) {
        let wrong: Vec<String> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

/// The places in JSON, from the outermost inwards.
fn places(json: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_string());
    match json {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| places(value, &format!("{at}/{i}"), found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The JSON with what stands at a place changed.
fn changed(json: &Value, at: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut json = json.clone();
    change(json.pointer_mut(at).unwrap());
    json
}

/// What is left out of the schema makes it refuse a manifest of those that have everything: it lists no more than the types have.
#[test]
fn nothing_is_listed_that_is_not_in_the_types() {
    let (schema, instances) = (json_schema(), instances());
    let mut all = Vec::new();
    places(&schema, "", &mut all);
    let mut tried = 0;
    let mut check = |at: &str, without: Value| {
        tried += 1;
        let validator = validator(&without);
        assert!(instances.iter().any(|instance| !validator.is_valid(instance)), "{at} is not in the types");
    };
    for at in all {
        match schema.pointer(&at).unwrap() {
            Value::Object(fields) if at.ends_with("/properties") => {
                for key in fields.keys() {
                    let mut without = changed(&schema, &at, |fields| drop(fields.as_object_mut().unwrap().remove(key)));
                    let object = without.pointer_mut(at.strip_suffix("/properties").unwrap()).unwrap();
                    if let Some(required) = object.get_mut("required") {
                        required.as_array_mut().unwrap().retain(|name| name != key);
                    }
                    check(&format!("{at}/{key}"), without);
                }
            }
            // That an optional field may be null is not written.
            Value::Array(ways) if at.ends_with("/oneOf") || at.ends_with("/enum") => {
                for i in 0..ways.len() {
                    check(&format!("{at}/{i}"), changed(&schema, &at, |ways| drop(ways.as_array_mut().unwrap().remove(i))));
                }
            }
            _ => {}
        }
    }
    assert!(tried > 100, "{tried}");
}

/// A field that is missing, misspelt, too much or of another type is one to both or to neither.
#[test]
fn the_schema_takes_what_the_types_take() {
    let (validator, instance) = (validator(&json_schema()), instance());
    let mut all = Vec::new();
    places(&instance, "", &mut all);
    let (mut taken, mut refused) = (0, 0);
    let mut check = |at: &str, json: Value| {
        let by_types = serde_json::from_value::<Manifest>(json.clone());
        assert_eq!(
            validator.is_valid(&json),
            by_types.is_ok(),
            "{at}: {} {by_types:?}",
            json.pointer(at).unwrap_or(&Value::Null)
        );
        *(if by_types.is_ok() { &mut taken } else { &mut refused }) += 1;
    };
    let others = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1u64 << 31),
        json!(1u64 << 32),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e30),
        json!("other"),
        json!([]),
        json!({}),
    ];
    for at in all {
        for other in &others {
            check(&at, changed(&instance, &at, |value| *value = other.clone()));
        }
        match instance.pointer(&at).unwrap() {
            Value::Object(fields) => {
                for key in fields.keys() {
                    check(&at, changed(&instance, &at, |fields| drop(fields.as_object_mut().unwrap().remove(key))));
                    let misspelt = changed(&instance, &at, |fields| {
                        let fields = fields.as_object_mut().unwrap();
                        let value = fields.remove(key).unwrap();
                        fields.insert(format!("{key}s"), value);
                    });
                    check(&at, misspelt);
                }
                check(&at, changed(&instance, &at, |fields| fields["surprise"] = json!(1)));
            }
            Value::Array(items) => {
                let again = items.last().cloned().unwrap();
                check(&at, changed(&instance, &at, |items| items.as_array_mut().unwrap().push(again)));
                check(&at, changed(&instance, &at, |items| drop(items.as_array_mut().unwrap().pop())));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    assert!(taken > 100 && refused > 1000, "{taken} {refused}");
}
