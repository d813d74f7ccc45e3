//! Layers that several tests of one program need, compiled once.

use std::sync::{Arc, LazyLock};

use moec::package::package;
use moec::pipeline::{Built, Error, Lowered, build};
use moec::spec::Spec;
use moec_codegen::{Object, Options};
use moec_ir::Machine;
use moec_runtime::Package;

use crate::trials::Memo;

type Layer = Result<(Lowered, Vec<Object>), Arc<Error>>;

static LAYERS: LazyLock<Memo<Layer>> = LazyLock::new(Memo::new);

/// As [`moec::pipeline::build`] without options, but a layer that was built for a machine is not built again.
///
/// # Errors
/// As that function.
pub fn built<'m>(spec: &Spec, machines: &'m [Machine]) -> Result<Vec<Built<'m>>, Arc<Error>> {
    let layer = |machine: &'m Machine| {
        let make = || {
            let built = build(spec, std::slice::from_ref(machine), &Options::default()).map_err(Arc::new)?;
            Ok(built.into_iter().map(|(_, lowered, objects)| (lowered, objects)).next().expect("one machine"))
        };
        let (lowered, objects) = LAYERS.get(format!("{} {spec:?}", machine.name), make)?;
        Ok((machine, lowered, objects))
    };
    machines.iter().map(layer).collect()
}

/// As [`moec::pipeline::compile`], with [`built`].
///
/// # Errors
/// As that function.
pub fn compiled(spec: &Spec, text: &str, machines: &[Machine]) -> Result<Package, Arc<Error>> {
    let built = built(spec, machines)?;
    package(spec, text, &built).map_err(|error| Arc::new(error.into()))
}
