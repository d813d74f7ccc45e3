//! NVIDIA's assembler as an oracle: every kernel of every example spec, of every mode, and of the fixtures with a capacity,
//! for every GPU target, is taken without a warning, a spill or a stack frame, and what the manifest then says is in its schema. What the
//! assembler that `make setup` installs makes of the examples is a table that is checked in. Where there is no ptxas each test is
//! skipped by name.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use moec::import::Entry;
use moec::package::package;
use moec::pipeline::lower;
use moec_codegen::{Image, Object, Options, Ptxas, codegen};
use moec_ir::Machine;
use moec_ir::machine::MACHINES;
use moec_tests::built::held_to_schema;
use moec_tests::scaled::modes;
use moec_tests::trials::{Case, Family};
use moec_tests::{Example, Fixture, examples, fixtures, skipped};

use crate::stages::hold;

/// The version of ptxas whose tables are checked in.
const TABLED: &str = "13.0.88";

/// A trial for each layer and GPU target, and whether there is a ptxas.
pub(crate) fn family() -> (Family, bool) {
    let ptxas = Ptxas::find();
    if ptxas.is_none() {
        skipped("ptxas", "no ptxas was found");
    }
    let of = |((example, tabled), gpu): ((Example, bool), Machine)| {
        let name = format!("{}::{}", example.name, gpu.name);
        let spec = example.spec.clone();
        let Some(ptxas) = ptxas.clone() else { return Case::new(name, &spec, || Ok(())).of_kind(gpu.name).ignored() };
        let target = gpu.name;
        let case = Case::new(name, &spec, move || {
            let wrong = complaints((&example, tabled), &gpu, &ptxas);
            if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
        });
        case.of_kind(target)
    };
    let example = |Fixture { name, spec, text, file: _ }| Example { name, text, spec };
    let sorting = fixtures().into_iter().filter(|fixture| fixture.spec.capacity.is_some()).map(example);
    let tabled = ptxas.as_ref().is_some_and(|ptxas| ptxas.version().is_ok_and(|version| version == TABLED));
    let of_examples = examples().into_iter().map(|example| (example, tabled));
    let specs = of_examples.chain(modes().into_iter().chain(sorting).map(|example| (example, false)));
    let gpus = || MACHINES.into_iter().filter(Machine::is_gpu);
    let cases = specs.flat_map(|example| gpus().map(move |gpu| (example.clone(), gpu))).map(of).collect();
    (Family { name: "ptxas", one_in: 16, cases }, ptxas.is_some())
}

/// What is wrong with the kernels of an example on a GPU, a line each. If it is tabled, they are held to the table.
fn complaints((example, tabled): (&Example, bool), gpu: &Machine, ptxas: &Ptxas) -> Vec<String> {
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
    if tabled {
        hold(example, &format!("assembled.{}", gpu.name), &table(&objects, cubin));
    }
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

/// Of each kernel the registers of a thread, the shared memory of a block, static and dynamic, and its instructions in PTX.
fn table(objects: &[Object], cubin: &Object) -> String {
    let ptx = objects.iter().find_map(|object| if let Image::Ptx(ptx) = &object.image { Some(ptx.as_str()) } else { None });
    let instructions = |symbol: &str| {
        let (_, body) = ptx.unwrap().split_once(&format!(".entry {symbol}(")).unwrap();
        let body = body.split(".entry ").next().unwrap();
        body.lines().map(str::trim).filter(|line| line.ends_with(';') && !line.starts_with(['.', '/'])).count()
    };
    let mut rows = vec!["registers  static  dynamic  instructions  kernel".to_string()];
    for kernel in &cubin.kernels {
        let usage = kernel.usage.unwrap();
        let (count, dynamic) = (instructions(&kernel.symbol), kernel.dynamic_shared_bytes);
        rows.push(format!("{:9}  {:6}  {dynamic:7}  {count:12}  {}", usage.registers, usage.shared_bytes, kernel.name));
    }
    rows.join("\n")
}
