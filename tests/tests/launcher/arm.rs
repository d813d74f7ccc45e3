//! Kernels for 64-bit Arm, under emulation where this machine has `qemu-aarch64` and a C compiler for Arm: published blocks through each
//! form of a library, and layers of every dtype and packing on CPUs with and without bf16 dot products.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use moec::diagnostics::Source;
use moec::import::{Entry, import};
use moec::library::{Kind, Library, Refused};
use moec::pipeline::lower;
use moec::random;
use moec::reference::{bound_of, difference, reference};
use moec::spec::{Pack, Word};
use moec_ir::kernel::interp;
use moec_ir::machine::Unit;
use moec_ir::{DType, Machine};
use moec_runtime::package::{Dims, Role};
use moec_runtime::{Checkpoint, Package, Tensor, weights};
use moec_tests::built::compiled;
use moec_tests::{Example, inputs, machine, skipped};

use super::{block, compile, package, put_kinds, room, starts};

const CC: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";

/// CPUs that the emulator knows, and the target that each runs of a package for both.
const CPUS: [(&str, &str); 2] = [("cortex-a72", "aarch64"), ("max", "aarch64-bf16")];

/// Where programs are made; `None`, said aloud, where there is nothing that makes or runs them.
fn tools() -> Option<&'static Path> {
    let room = room()?;
    for tool in [CC, EMULATOR] {
        if !starts(tool) {
            skipped("kernels for 64-bit Arm", &format!("there is no `{tool}`"));
            return None;
        }
    }
    Some(room)
}

/// A package for both, so that the launcher has to choose.
fn both() -> [Machine; 2] {
    CPUS.map(|(_, target)| machine(target))
}

/// Writes files of a layer to a folder of the room.
fn put_in(room: &Path, folder: &str, package: &Package, kinds: &[Kind]) {
    let folder = room.join(folder);
    fs::create_dir_all(&folder).unwrap();
    put_kinds(&folder, package, kinds);
}

/// What a program says that runs on a CPU on the files of a folder, if it succeeds, and if not.
fn run(program: &str, cpu: &str, folder: &Path, dims: Dims) -> Result<String, String> {
    let counts = [dims.tokens, dims.sequence_tokens].map(|count| count.to_string());
    let mut emulator = Command::new(EMULATOR);
    emulator.args(["-cpu", cpu, "-L"]).arg(system()).arg(room().unwrap().join(program)).arg(folder).args(counts);
    let output = emulator.output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_string()).concat();
    if output.status.success() { Ok(said) } else { Err(said) }
}

/// Where the libraries of Arm are that a program is linked with.
fn system() -> PathBuf {
    let output = Command::new(CC).arg("-print-file-name=libc.so.6").output().unwrap();
    let libc = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    libc.parent().and_then(Path::parent).unwrap().to_path_buf()
}

/// Writes inputs and weights to where a program finds those of a layer.
fn put_given(program: &str, layer: &str, given: &[u8]) -> PathBuf {
    let folder = room().unwrap().join(format!("{program}.files"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{layer}.in")), given).unwrap();
    folder
}

/// What a layer gives: the bytes of its output.
fn output_of(program: &str, (cpu, target): (&str, &str), layer: &str, dims: Dims, given: &[u8]) -> Vec<u8> {
    let folder = put_given(program, layer, given);
    let said = run(program, cpu, &folder, dims);
    assert_eq!(said, Ok(format!("{layer} on {target}: the same with bound weights")), "{program} on {cpu}");
    fs::read(folder.join(format!("{layer}.out"))).unwrap()
}

fn bytes_of<'t>(tensors: impl IntoIterator<Item = &'t Tensor>) -> Vec<u8> {
    tensors.into_iter().flat_map(Tensor::bytes).copied().collect()
}

/// A published block by the source with its object, by a static library and by a shared one, which moec has linked by itself.
#[test]
fn libraries_give_what_the_block_gives() {
    let Some(room) = tools() else { return };
    let fixture = block("mixtral");
    let package = package(&fixture, &both());
    put_in(room, "arm_mixtral", &package, &[Kind::C, Kind::Header, Kind::Object]);
    let bytes = fs::read(&fixture.file).unwrap();
    let checkpoint = Checkpoint::read(&bytes).unwrap();
    let manifest = package.manifest();
    let (weights, _) = weights::assemble(manifest, &checkpoint, "w.").unwrap();
    let x = inputs(manifest, &checkpoint);
    let dims = Dims::of_activations(x[0].shape()).unwrap();
    let given = bytes_of(x.iter().chain(&weights));
    let published = checkpoint.tensor("out.hidden", manifest.dtype).unwrap().0.to_f64();

    let mut ways = vec![("arm_source", vec!["arm_mixtral/mixtral.c", "arm_mixtral/mixtral.o"])];
    let linked = Library::new(std::slice::from_ref(&package)).unwrap().files(Kind::Static, None);
    match linked {
        Err(Refused::NoLauncher(_)) => skipped("libraries for 64-bit Arm", &format!("moec was built without `{CC}`")),
        linked => {
            linked.unwrap();
            put_in(room, "arm_mixtral", &package, &[Kind::Static, Kind::Shared]);
            ways.push(("arm_static", vec!["arm_mixtral/libmixtral.a"]));
            ways.push(("arm_shared", vec!["arm_mixtral/libmixtral.so", "-Wl,-rpath,$ORIGIN/arm_mixtral"]));
        }
    }
    for (program, parts) in ways {
        compile(CC, program, &[&["-std=c11", "@/run.c", "-DFIRST=mixtral"], &parts[..]].concat());
        for cpu in CPUS {
            let out = output_of(program, cpu, "mixtral", dims, &given);
            let out: Vec<f64> = out.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect();
            let error = difference(&out, &published).of_largest;
            assert!(error <= bound_of(manifest), "{program} on {cpu:?}: {error:.1e}");
        }
    }
}

/// Tokens of a batch that is not multiplied by outer products where weights lie as they are, and of one that is.
const FEW: u64 = 3;
const MANY: u64 = 40;

/// Between two neighbours in bf16, relative to the lower one, at most.
const ROUNDING: f64 = 1.0 / 128.0;

/// A layer whose sums have a part that is not whole, and whose last tile of columns is not whole either.
fn example(dtype: &str, pack: Pack) -> Example {
    let name = format!("arm_{dtype}_{}", pack.word());
    let text = format!(
        "[moe]\nname = \"{name}\"\nhidden = 270\nexperts = 5\n[router]\nmode = \"token_choice\"\ntop_k = 2\n[expert]\n\
         intermediate = 38\n[shared]\nintermediate = 18\n[tokens]\nmax = 512\n[numerics]\ndtype = \"{dtype}\"\n\
         [host]\npack = \"{}\"\n",
        pack.word()
    );
    let source = Source { name: name.clone(), text };
    let spec = moec::spec::parse(&source).unwrap_or_else(|wrong| panic!("{wrong:?}"));
    Example { name, text: source.text, spec }
}

/// The output as the kernel IR defines it.
fn defined(example: &Example, package: &Package, machine: &Machine, dims: Dims, tensors: &[Tensor]) -> Vec<u8> {
    let buffers =
        [Role::Input, Role::Weight].map(|role| package.manifest().buffers.iter().filter(move |buffer| buffer.role == role));
    let named = buffers.into_iter().flatten().zip(tensors).map(|(buffer, tensor)| (buffer.name.clone(), tensor.bytes().to_vec()));
    let given: BTreeMap<String, Vec<u8>> = named.collect();
    let program = lower(&example.spec, Entry::Layer, machine).unwrap().program;
    let dims = moec_ir::Dims { tokens: dims.tokens, sequence_tokens: dims.sequence_tokens };
    interp(&program, machine, dims, &given).unwrap()["y"].bytes().unwrap().to_vec()
}

#[test]
fn layers_in_f32() {
    every_packing("f32");
}

#[test]
fn layers_in_f16() {
    every_packing("f16");
}

#[test]
fn layers_in_bf16() {
    every_packing("bf16");
}

fn every_packing(dtype: &str) {
    let Some(room) = tools() else { return };
    for pack in Pack::ALL.iter().copied() {
        let example = example(dtype, pack);
        let package = compiled(&example.spec, Entry::Layer, &example.text, &both()).unwrap();
        let (manifest, name) = (package.manifest(), &example.name);
        put_in(room, name, &package, &[Kind::C, Kind::Header, Kind::Object]);
        let parts = ["c", "o"].map(|suffix| format!("{name}/{name}.{suffix}"));
        let first = format!("-DFIRST={name}");
        compile(CC, &format!("run_{name}"), &["-std=c11", "@/run.c", &first, &parts[0], &parts[1]]);
        let weights = random::weights(manifest, 5).unwrap();
        for tokens in [FEW, MANY] {
            let dims = Dims::tokens(tokens);
            let x = random::inputs(manifest, dims, 7).unwrap();
            let graph = import(&example.spec, Entry::Layer).unwrap();
            let wanted = reference(graph, manifest, &weights, &x, dims).unwrap().output;
            let tensors: Vec<Tensor> = x.iter().chain(&weights).cloned().collect();
            for cpu in CPUS {
                let out = output_of(&format!("run_{name}"), cpu, name, dims, &bytes_of(&tensors));
                let out = Tensor::new(manifest.dtype, vec![tokens, example.spec.hidden], out).unwrap();
                let error = difference(&out.to_f64(), &wanted).of_largest;
                assert!(error <= bound_of(manifest), "{name} on {cpu:?}, T = {tokens}: {error:.1e}");
                if tokens == FEW {
                    let machine = machine(cpu.1);
                    let bytes = defined(&example, &package, &machine, dims, &tensors);
                    // Dot products of Arm round otherwise than the definition.
                    let has_dots = dtype == "bf16" && machine.rate(Unit::Dot, DType::BF16).is_some();
                    assert!(has_dots || out.bytes() == bytes, "{name} on {cpu:?}: other bits than the kernels' definition");
                    let bits = Tensor::new(manifest.dtype, out.shape().to_vec(), bytes).unwrap();
                    let error = difference(&out.to_f64(), &bits.to_f64()).of_largest;
                    assert!(error <= ROUNDING, "{name} on {cpu:?}: {error:.1e} from the kernels' definition");
                }
            }
        }
    }
}

/// A library for Arm says what it needs, and none is for two kinds of CPU.
#[test]
fn one_library_is_for_one_kind_of_cpu() {
    let fixture = block("mixtral");
    let mixed = package(&fixture, &[machine("x86-64-v3"), machine("aarch64")]);
    let refused = Library::new(std::slice::from_ref(&mixed)).unwrap_err();
    assert_eq!(refused, Refused::Mixed("x86-64-v3".to_string(), "aarch64".to_string()));
    let Some(room) = tools() else { return };
    let package = package(&fixture, &[machine("aarch64-bf16")]);
    put_in(room, "arm_bf16", &package, &[Kind::C, Kind::Header, Kind::Object]);
    let parts = ["-DFIRST=mixtral", "arm_bf16/mixtral.c", "arm_bf16/mixtral.o"];
    compile(CC, "arm_refused", &[&["-std=c11", "@/run.c"], &parts[..]].concat());
    let (manifest, dims) = (package.manifest(), Dims::tokens(8));
    let [weights, x] = [random::weights(manifest, 5), random::inputs(manifest, dims, 7)].map(Result::unwrap);
    let folder = put_given("arm_refused", "mixtral", &bytes_of(x.iter().chain(&weights)));
    let said = run("arm_refused", CPUS[0].0, &folder, dims).expect_err("a CPU without dot products");
    assert!(said.contains("this CPU cannot run aarch64-bf16: it has no bf16"), "{said}");
}
