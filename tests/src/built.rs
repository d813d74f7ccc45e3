//! Layers that several tests of one program need, compiled once.

use std::sync::{Arc, LazyLock};

use jsonschema::Validator;
use moec::import::Entry;
use moec::package::package;
use moec::pipeline::{Built, Error, Lowered, build};
use moec::spec::Spec;
use moec_codegen::{Object, Options};
use moec_ir::Machine;
use moec_runtime::Package;
use moec_runtime::package::{Manifest, json_schema};

use crate::trials::Memo;

type Layer = Result<(Lowered, Vec<Object>), Arc<Error>>;

static LAYERS: LazyLock<Memo<Layer>> = LazyLock::new(Memo::new);

/// As [`moec::pipeline::build`] without options, but a layer that was built for a machine is not built again.
///
/// # Errors
/// As that function.
pub fn built<'m>(spec: &Spec, entry: Entry, machines: &'m [Machine]) -> Result<Vec<Built<'m>>, Arc<Error>> {
    let layer = |machine: &'m Machine| {
        let make = || {
            let built = build(spec, entry, std::slice::from_ref(machine), &Options::default()).map_err(Arc::new)?;
            Ok(built.into_iter().map(|(_, lowered, objects)| (lowered, objects)).next().expect("one machine"))
        };
        let (lowered, objects) = LAYERS.get(format!("{} {entry:?} {spec:?}", machine.name), make)?;
        Ok((machine, lowered, objects))
    };
    machines.iter().map(layer).collect()
}

/// As [`moec::pipeline::compile`], with [`built`]. The manifest is [`held_to_schema`].
///
/// # Errors
/// As that function.
pub fn compiled(spec: &Spec, entry: Entry, text: &str, machines: &[Machine]) -> Result<Package, Arc<Error>> {
    let built = built(spec, entry, machines)?;
    let package = package(spec, entry, text, &built).map_err(|error| Arc::new(error.into()))?;
    held_to_schema(package.manifest());
    Ok(package)
}

static SCHEMA: LazyLock<Validator> = LazyLock::new(|| jsonschema::validator_for(&json_schema()).expect("a JSON Schema"));

/// That a manifest is what `moec schema manifest` says.
///
/// # Panics
/// Where it is not, with all that is wrong.
pub fn held_to_schema(manifest: &Manifest) {
    let json = serde_json::to_value(manifest).expect("a manifest is JSON");
    let wrong: Vec<String> = SCHEMA.iter_errors(&json).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{}: {}", manifest.layer, wrong.join("\n"));
}
