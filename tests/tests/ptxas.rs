//! NVIDIA's assembler as an oracle: every kernel of every example spec, of every mode, and of the fixtures with a capacity,
//! for every GPU target, is taken without a warning, a spill or a stack frame, and what the manifest then says is in its schema. What the
//! assembler that `make setup` installs makes of the examples is a table that is checked in. Where there is no ptxas each test is
//! skipped by name.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use libtest_mimic::Failed;
use moec::import::Entry;
use moec::package::package;
use moec::pipeline::lower;
use moec_codegen::{Image, KernelInfo, Object, Options, Ptxas, codegen};
use moec_ir::machine::MACHINES;
use moec_ir::tiling::{self, Kind, Product};
use moec_ir::{DType, Machine, Tiling, graph, schedule};
use moec_tests::built::held_to_schema;
use moec_tests::scaled::{modes, of_odd_widths, of_tf32};
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
    let specs = of_examples
        .chain(modes().into_iter().chain(of_odd_widths()).chain([of_tf32()]).chain(sorting).map(|example| (example, false)));
    let gpus = || MACHINES.into_iter().filter(Machine::is_gpu);
    let of_tiles = gpus().map(|gpu| {
        let name = format!("tiles::{}", gpu.name);
        let Some(ptxas) = ptxas.clone() else { return Case::of_kernels(name, || Ok(())).of_kind(gpu.name).ignored() };
        let target = gpu.name;
        Case::of_kernels(name, move || {
            // Lines of whole copies, of copies of 4 bytes, and of loads of an element.
            let of_bf16 = [[1096, 712], [1098, 714], [1097, 713]].map(|widths| (DType::BF16, widths));
            let of = of_bf16.into_iter().chain([(DType::F32, [1097, 712])]);
            of.into_iter().try_for_each(|of| tiles(of, &gpu, &ptxas))
        })
        .of_kind(target)
    });
    let cases = specs.flat_map(|example| gpus().map(move |gpu| (example.clone(), gpu))).map(of).chain(of_tiles).collect();
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
    wrong.extend(misfits(&at, gpu, cubin));
    wrong
}

/// The kernels that have no room on the machine, or not all that they use in registers.
fn misfits(at: &str, gpu: &Machine, cubin: &Object) -> Vec<String> {
    let of = |kernel: &KernelInfo| {
        let Some(usage) = kernel.usage else { return Some(format!("{at}: ptxas did not mention {}", kernel.name)) };
        let dynamic = kernel.dynamic_shared_bytes <= u64::from(gpu.shared_optin_bytes);
        let fits = usage.registers > 0 && usage.shared_bytes <= gpu.shared_bytes && dynamic;
        let spills = usage.spill_stores + usage.spill_loads + usage.stack_bytes;
        (!fits || spills > 0).then(|| format!("{at}: {}: {usage:?}", kernel.name))
    };
    cubin.kernels.iter().filter_map(of).collect()
}

/// What is wrong with products by matrices, and by twin blocks, in tiles of every size, whichever the examples have: rows that are gathered for two weights,
/// and rows for one, with edges along rows, columns and K.
fn tiles((dtype, [hidden, ffn]): (DType, [u64; 2]), gpu: &Machine, ptxas: &Ptxas) -> Result<(), Failed> {
    let experts = 8;
    let (of_gate, of_down, [gate, up]) = match dtype {
        DType::F32 => ("g = tf32 $0\n    u = tf32 $1\n    ", "g = tf32 $0\n    ", ["g", "u"]),
        _ => ("", "", ["$0", "$1"]),
    };
    let of = |n, k, weights| Product { rows: dtype, n, k, weights: vec![dtype; weights], tf32: dtype == DType::F32 };
    let tilings = |product: &Product| -> Vec<Tiling> {
        tiling::candidates(product, gpu).into_iter().filter(|tiling| matches!(tiling.kind, Kind::Mma | Kind::Twin)).collect()
    };
    let (first, second) = (tilings(&of(ffn, hidden, 2)), tilings(&of(hidden, ffn, 1)));
    let mut wrong = if first.len() < 4 || second.len() < first.len() { vec!["few tiles".to_string()] } else { Vec::new() };
    for (i, down) in second.iter().enumerate() {
        let gate_up = first[i % first.len()];
        let text = format!(
            "layer @tiles(%x: tensor<T x {hidden} x {dtype}>, @router: tensor<{experts} x {hidden} x {dtype}>, \
             @gate: tensor<{experts} x {ffn} x {hidden} x {dtype}>, @up: tensor<{experts} x {ffn} x {hidden} x {dtype}>, \
             @down: tensor<{experts} x {hidden} x {ffn} x {dtype}>) -> tensor<T x {hidden} x {dtype}> {{\n  \
             %0 = route %x, [@router], dropless, sort(block) {{\n    a = softmax $0\n    yield top_k a, $0, 2\n  }} : \
             routing<T x 2 of {experts}>\n  \
             %1 = grouped_gemm %x, %0, [@gate, @up], {gate_up} {{\n    {of_gate}a = silu {gate}\n    b = mul a, {up}\n    \
             yield cast b, {dtype}\n  }} : tensor<P x {ffn} x {dtype}>\n  \
             %2 = pair_weights %0 : tensor<P x 1 x f32>\n  \
             %3 = grouped_gemm %1, %0, [@down], [%2], {down} {{\n    {of_down}a = mul {gate}, $1\n    yield cast a, {dtype}\n  }} : \
             tensor<P x {hidden} x {dtype}>\n  \
             %4 = combine %3, %0 {{\n    yield cast $0, {dtype}\n  }} : tensor<T x {hidden} x {dtype}>\n  return %4\n}}\n"
        );
        let layer = graph::verify(graph::parse(&text)?).map_err(|wrong| format!("{wrong:?}"))?;
        let program = schedule::schedule(&layer, gpu)?;
        let objects = codegen(&program, gpu, &Options { ptxas: Some(ptxas.clone()) })?;
        let cubin = objects.iter().find(|object| matches!(object.image, Image::Cubin(_))).ok_or("no cubin")?;
        let at = format!("{gate_up}, {down} on {}", gpu.name);
        wrong.extend(cubin.warnings.iter().map(|warning| format!("{at}: {warning}")));
        wrong.extend(misfits(&at, gpu, cubin));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
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
