//! Layers that several tests of one program need, compiled once.

use std::sync::{Arc, LazyLock};

use jsonschema::Validator;
use moec::import::Entry;
use moec::package::package;
use moec::pipeline::{Built, Error, Lowered, build};
use moec::spec::Spec;
use moec_codegen::{Object, Options, codegen};
use moec_ir::schedule::schedule_regimes;
use moec_ir::tiling::Kind;
use moec_ir::{Machine, graph};
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

/// Gives a layer that was built for a GPU one regime, that of its largest batch, with all products in one way, such as
/// `group(64 by 128)`.
///
/// # Errors
/// Where the machine has no kernels for a product in this way.
pub fn force((machine, lowered, objects): &mut Built<'_>, way: &str) -> Result<(), Box<dyn std::error::Error>> {
    let best = lowered.rewritten.regimes.pop().ok_or("no regime")?;
    let printed = graph::print(best.graph.graph());
    let forced = graph::verify(graph::parse(&in_way(&printed, way))?).map_err(|wrong| format!("{wrong:?}"))?;
    lowered.rewritten.regimes = vec![graph::Regime { tokens_up_to: None, graph: forced }];
    lowered.program = schedule_regimes(&lowered.rewritten.regimes, machine)?;
    *objects = codegen(&lowered.program, machine, &Options::default())?;
    Ok(())
}

/// The text of a graph with another way in the place of those of its products.
fn in_way(text: &str, way: &str) -> String {
    let mut made = text.to_string();
    for word in Kind::ALL.map(Kind::word) {
        let parts: Vec<&str> = made.split(&format!("{word}(")).collect();
        let rest = parts[1..].iter().map(|part| match part.split_once(')') {
            Some((extents, after)) if extents.contains(" by ") => format!("{way}{after}"),
            Some(_) | None => format!("{word}({part}"),
        });
        made = std::iter::once(parts[0].to_string()).chain(rest).collect();
    }
    made
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
