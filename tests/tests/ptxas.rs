//! NVIDIA's assembler as an oracle: every kernel of every example spec, of every mode, and of the fixtures with a capacity,
//! for every GPU target, is taken without a warning, a spill or a stack frame, and what the manifest then says is in its schema. Where there is no ptxas each test is skipped
//! by name.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use moec::import::Entry;
use moec::package::package;
use moec::pipeline::lower;
use moec_codegen::{Image, Options, Ptxas, codegen};
use moec_ir::Machine;
use moec_ir::machine::MACHINES;
use moec_tests::built::held_to_schema;
use moec_tests::scaled::modes;
use moec_tests::trials::{Case, Family};
use moec_tests::{Example, Fixture, examples, fixtures, skipped};

/// A trial for each layer and GPU target, and whether there is a ptxas.
pub(crate) fn family() -> (Family, bool) {
    let ptxas = Ptxas::find();
    if ptxas.is_none() {
        skipped("ptxas", "no ptxas was found");
    }
    let of = |(example, gpu): (Example, Machine)| {
        let name = format!("{}::{}", example.name, gpu.name);
        let spec = example.spec.clone();
        let Some(ptxas) = ptxas.clone() else { return Case::new(name, &spec, || Ok(())).of_kind(gpu.name).ignored() };
        let target = gpu.name;
        let case = Case::new(name, &spec, move || {
            let wrong = complaints(&example, &gpu, &ptxas);
            if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
        });
        case.of_kind(target)
    };
    let example = |Fixture { name, spec, text, file: _ }| Example { name, text, spec };
    let sorting = fixtures().into_iter().filter(|fixture| fixture.spec.capacity.is_some()).map(example);
    let specs = examples().into_iter().chain(modes()).chain(sorting);
    let gpus = || MACHINES.into_iter().filter(Machine::is_gpu);
    let cases = specs.flat_map(|example| gpus().map(move |gpu| (example.clone(), gpu))).map(of).collect();
    (Family { name: "ptxas", one_in: 8, cases }, ptxas.is_some())
}

/// What is wrong with the kernels of an example on a GPU, a line each.
fn complaints(example: &Example, gpu: &Machine, ptxas: &Ptxas) -> Vec<String> {
    let at = format!("{} on {}", example.name, gpu.name);
    let lowered = lower(&example.spec, Entry::Layer, gpu).unwrap_or_else(|error| panic!("{at}: {error}"));
    let program = &lowered.program;
    let objects = codegen(program, gpu, &Options { ptxas: Some(ptxas.clone()) });
    let objects = match objects {
        Ok(objects) => objects,
        Err(error) => return vec![format!("{at}: {error}")],
    };
    let package = package(&example.spec, Entry::Layer, &example.text, &[(gpu, lowered.clone(), objects.clone())]);
    held_to_schema(package.unwrap_or_else(|error| panic!("{at}: {error}")).manifest());
    let cubin = objects.iter().find(|object| matches!(object.image, Image::Cubin(_))).unwrap();
    assert_eq!(cubin.kernels.len(), program.kernels.len(), "{at}");
    let mut wrong: Vec<String> = cubin.warnings.iter().map(|warning| format!("{at}: {warning}")).collect();
    for kernel in &cubin.kernels {
        let Some(usage) = kernel.usage else {
            wrong.push(format!("{at}: ptxas did not mention {}", kernel.name));
            continue;
        };
        let dynamic = kernel.dynamic_shared_bytes <= u64::from(gpu.shared_optin_bytes);
        let fits = usage.registers > 0 && usage.shared_bytes <= gpu.shared_bytes && dynamic;
        if !fits || usage.spill_stores + usage.spill_loads + usage.stack_bytes > 0 {
            wrong.push(format!("{at}: {}: {usage:?}", kernel.name));
        }
    }
    wrong
}
