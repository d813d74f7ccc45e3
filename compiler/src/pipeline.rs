//! Spec in, package out: all stages, one after the other. What a stage does is in its own module. Without the feature `llvm` it ends at the
//! kernels ([`lower`]).

use moec_codegen::Object;
#[cfg(feature = "llvm")]
use moec_codegen::Options;
use moec_ir::Machine;
use moec_ir::graph::{Graph, Typed, Violation, verify};
use moec_ir::kernel::{self, Program};
use moec_ir::machine::{self, MACHINES, MachineKind};
use moec_ir::rewrite::{Batches, Rewritten, rewrite};
use moec_ir::schedule::{ScheduleError, schedule_regimes};
#[cfg(feature = "llvm")]
use moec_runtime::Package;
#[cfg(feature = "llvm")]
use rayon::prelude::*;
use thiserror::Error;

use crate::import::{Entry, EntryError, import};
#[cfg(feature = "llvm")]
use crate::package::package;
use crate::spec::{Pack, Spec};

/// Why a correct spec has no package. All but [`Error::Vocabulary`], [`Error::Entry`], [`Error::Codegen`] and [`Error::Schedule`] are
/// bugs in moec.
#[derive(Debug, Error)]
pub enum Error {
    /// A table of token ids of unknown size: `router.vocabulary` is left to a checkpoint, and there was none.
    #[error("router.mode = \"hash\" lacks router.vocabulary, the rows of weights.hash_table")]
    Vocabulary,
    /// The layer has no such entry.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A stage made a graph that is not well typed.
    #[error("the graph is not well typed: {}", .0.first().map_or("", |v| v.message.as_str()))]
    Graph(Vec<Violation>),
    /// The layer cannot be cut into kernels for the machine.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The schedule made a program that breaks the kernel IR's rules.
    #[error("the kernels for {machine} break a rule:\n{text}")]
    Kernel {
        /// Which machine.
        machine: &'static str,
        /// The kernels with the violations under their lines.
        text: String,
    },
    /// LLVM or a tool beside it failed.
    #[error(transparent)]
    Codegen(#[from] moec_codegen::Error),
    /// The manifest does not describe the images.
    #[error(transparent)]
    Package(#[from] moec_runtime::Error),
}

/// A layer for one machine, up to the kernels.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// What the layer means.
    pub graph: Typed,
    /// The cheapest equal graphs, by batch size.
    pub rewritten: Rewritten,
    /// Its kernels.
    pub program: Program,
}

/// Spec in, package of one of its entries out: images for every machine in one file.
///
/// # Errors
/// Those of [`build`], and [`Error::Package`] where the manifest does not describe the images.
#[cfg(feature = "llvm")]
pub fn compile(spec: &Spec, entry: Entry, spec_text: &str, machines: &[Machine], options: &Options) -> Result<Package, Error> {
    let built = build(spec, entry, machines, options)?;
    Ok(package(spec, entry, spec_text, &built)?)
}

/// A machine with the layer's kernels and their images.
pub type Built<'m> = (&'m Machine, Lowered, Vec<Object>);

/// Kernels and images for every machine, in the order given; the machines are independent, so they share the cores.
///
/// # Errors
/// Those of [`lower`] for any machine, and [`Error::Codegen`] where LLVM refuses a kernel, the machine lacks what it needs, or
/// a tool is missing or fails.
#[cfg(feature = "llvm")]
pub fn build<'m>(spec: &Spec, entry: Entry, machines: &'m [Machine], options: &Options) -> Result<Vec<Built<'m>>, Error> {
    build_with(spec, entry, machines, options, &|| ())
}

/// As [`build`]; `is_built` is called after each machine, from any thread.
///
/// # Errors
/// Those of [`build`].
#[cfg(feature = "llvm")]
pub fn build_with<'m>(
    spec: &Spec,
    entry: Entry,
    machines: &'m [Machine],
    options: &Options,
    is_built: &(dyn Fn() + Sync),
) -> Result<Vec<Built<'m>>, Error> {
    machines
        .par_iter()
        .map(|machine| {
            let lowered = lower(spec, entry, machine)?;
            let objects = moec_codegen::codegen(&lowered.program, machine, options)?;
            is_built();
            Ok((machine, lowered, objects))
        })
        .collect()
}

/// The machine that this CPU is: the highest level of which it has everything; it has nothing of another architecture. `None`: below the
/// lowest, or neither x86-64 nor 64-bit Arm.
pub fn this_host() -> Option<Machine> {
    MACHINES.into_iter().rfind(fits_this_host)
}

/// Whether this CPU has everything that kernels for the machine use.
pub(crate) fn fits_this_host(machine: &Machine) -> bool {
    match machine.kind {
        MachineKind::Gpu { .. } => false,
        MachineKind::Host { features, .. } => features.iter().all(|feature| moec_runtime::host::has_feature(feature.name())),
    }
}

/// From a spec to the kernels for one machine.
///
/// What `ir::graph::print` and `ir::kernel::print` make of the stages is stable within a version of moec: snapshots of it
/// change only where the version does.
///
/// # Errors
/// [`Error::Vocabulary`] where the spec leaves the size of its table of token ids to a checkpoint, [`Error::Entry`], [`Error::Schedule`] where the
/// machine has no kernels for the layer, and those of [`lower_graph`].
pub fn lower(spec: &Spec, entry: Entry, machine: &Machine) -> Result<Lowered, Error> {
    if spec.lacks_vocabulary() {
        return Err(Error::Vocabulary);
    }
    lower_graph(import(spec, entry)?, &packed(machine, spec.host.pack), &batches(spec))
}

/// A machine on which weights are to lie so, if it is a host.
pub(crate) fn packed(machine: &Machine, pack: Pack) -> Machine {
    let pack = match pack {
        Pack::None => machine::Pack::None,
        Pack::Panels => machine::Pack::Panels,
        Pack::F32 => machine::Pack::F32,
    };
    if machine.is_gpu() { machine.clone() } else { Machine { pack, ..machine.clone() } }
}

/// The batches that a spec's layer is made for.
#[must_use]
pub fn batches(spec: &Spec) -> Batches {
    Batches { expected: spec.tokens.expected.clone(), most: spec.tokens.max, together: spec.numerics.batch_invariant }
}

/// From a graph to the kernels for one machine.
///
/// # Errors
/// [`Error::Graph`] where the graph is not well typed, [`Error::Schedule`] where the machine has no kernels for an op or not enough
/// shared memory, [`Error::Kernel`] where the kernels break a rule, which is a bug in moec.
pub fn lower_graph(graph: Graph, machine: &Machine, batches: &Batches) -> Result<Lowered, Error> {
    let graph = verify(graph).map_err(Error::Graph)?;
    let rewritten = rewrite(&graph, machine, batches);
    let (rules, regimes) = (rewritten.matched.len(), rewritten.regimes.len());
    tracing::debug!(machine = machine.name, rules, regimes, "rewritten");
    let program = checked(schedule_regimes(&rewritten.regimes, machine)?, machine)?;
    tracing::debug!(machine = machine.name, kernels = program.kernels.len(), "scheduled");
    Ok(Lowered { graph, rewritten, program })
}

/// The program, if it breaks no rule.
fn checked(program: Program, machine: &Machine) -> Result<Program, Error> {
    match kernel::verify(&program, machine) {
        Ok(()) => Ok(program),
        Err(violations) => {
            Err(Error::Kernel { machine: machine.name, text: kernel::print_with_violations(&program, &violations) })
        }
    }
}

#[cfg(test)]
mod tests {
    use moec_ir::machine::Architecture;

    use super::*;

    /// Else no CPU would be found to have them.
    #[test]
    fn the_runtime_knows_the_features_of_every_host() {
        let own = Architecture::own();
        for machine in MACHINES {
            if let MachineKind::Host { architecture, features } = machine.kind
                && architecture == own
            {
                let unknown = features.iter().find(|feature| !moec_runtime::host::FEATURES.contains(&feature.name()));
                assert_eq!(unknown, None, "{}", machine.name);
            }
        }
    }
}
