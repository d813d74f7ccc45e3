//! On this CPU: every warning of the compiler, one and two layers in a program, what can be wrong, many threads, and no allocation.

use std::fs;
use std::path::Path;
use std::process::Command;

use moec::reference::difference;
use moec_runtime::{Checkpoint, DeviceKind, Dims, Layer, Tensor, weights};
use moec_tests::{Fixture, inputs, skipped, trials};
use object::elf::{DT_NEEDED, DT_SONAME};
use object::{Object, ObjectSection};

use super::{LAYERS, Linked, block, changed, compile, gpu, host, package, program, put, room, said, starts};

/// Largest error allowed in f32, relative to the largest output of the published block.
const BOUND: f64 = 2e-5;

/// Inputs and weights as the C programs read them, the dims, and what moec-runtime and the published block make of them.
pub(super) struct Given {
    file: Vec<u8>,
    dims: Dims,
    ours: Vec<u8>,
    published: Vec<f64>,
}

fn given(fixture: &Fixture) -> Given {
    let package = package(fixture, &[host()]);
    let (manifest, bytes) = (package.manifest(), fs::read(&fixture.file).unwrap());
    let checkpoint = Checkpoint::read(&bytes).unwrap();
    let (weights, _) = weights::assemble(manifest, &checkpoint, "w.").unwrap();
    let x = inputs(manifest, &checkpoint);
    let dims = Dims::of_activations(x[0].shape()).unwrap();
    let file: Vec<u8> = x.iter().chain(&weights).flat_map(Tensor::bytes).copied().collect();
    let layer = Layer::load(&package, DeviceKind::Host { threads: None }).unwrap();
    let run = layer.bind(weights).unwrap().run(&x, dims).unwrap();
    let published = checkpoint.tensor("out.hidden", manifest.dtype).unwrap().0.to_f64();
    Given { file, dims, ours: run.tensor("y").unwrap().bytes().to_vec(), published }
}

/// Puts the inputs of both layers where their programs look for them.
pub(super) fn put_inputs(room: &Path) -> [Given; 2] {
    LAYERS.map(|layer| {
        let given = given(&block(layer));
        fs::write(room.join(format!("{layer}.in")), &given.file).unwrap();
        given
    })
}

/// The header alone in both languages, and the launcher in C11, without a warning; the layout of all structs.
#[test]
fn the_header_and_the_launcher_compile_without_a_warning() {
    if room().is_none() {
        return;
    }
    compile("cc", "abi_c", &["-std=c11", "@/abi.c"]);
    let layout = said("abi_c", &[], &[]);
    insta::assert_snapshot!("layout", layout);
    if starts("c++") {
        compile("c++", "abi_cpp", &["-std=c++11", "-x", "c++", "@/abi.c"]);
        assert_eq!(said("abi_cpp", &[], &[]), layout);
    } else {
        skipped("launcher::abi in C++", "there is no `c++`");
    }
    for compiler in ["cc", "clang"] {
        if !starts(compiler) {
            skipped("launcher in clang", "there is no `clang`");
            continue;
        }
        for layer in LAYERS {
            let source = format!("{layer}.c");
            compile(compiler, &format!("{layer}_{compiler}.o"), &["-std=c11", "-Wconversion", "-c", &source]);
        }
    }
}

/// A static library, a shared one, and the source with its object; one layer a program, and two: each gives what the published block and
/// moec-runtime give.
#[test]
fn programs_run_one_layer_and_two() {
    let Some(room) = room() else { return };
    let given = put_inputs(room);
    let arguments = [given[0].dims.tokens, given[0].dims.sequence_tokens].map(|count| count.to_string());
    assert!(given.iter().all(|other| other.dims == given[0].dims), "blocks of as many tokens");
    for how in [Linked::Static, Linked::Shared, Linked::Source] {
        for layers in [&LAYERS[..1], &LAYERS] {
            let name = format!("run_{how:?}_{}", layers.len());
            program(&name, "run.c", layers, how);
            let folder = room.join(format!("{name}.files"));
            fs::create_dir_all(&folder).unwrap();
            for (layer, given) in layers.iter().zip(&given) {
                fs::write(folder.join(format!("{layer}.in")), &given.file).unwrap();
            }
            let text = said(&name, &[&folder.to_string_lossy(), &arguments[0], &arguments[1]], &[]);
            assert_eq!(text.matches(": the same with bound weights").count(), layers.len(), "{name}: {text}");
            for (layer, given) in layers.iter().zip(&given) {
                let out = fs::read(folder.join(format!("{layer}.out"))).unwrap();
                assert_eq!(out, given.ours, "{name}: {layer} is not what moec-runtime gives");
                let out: Vec<f64> = out.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect();
                let error = difference(&out, &given.published).of_largest;
                assert!(error <= BOUND, "{name}: {layer}: {error:.1e}");
            }
        }
    }
}

/// The same libraries with another libc: in a static program, in one that is linked at run time, and by a shared library.
#[test]
fn programs_run_on_musl() {
    let Some(room) = room() else { return };
    if !starts("musl-gcc") {
        skipped("launcher on musl", "there is no `musl-gcc`");
        return;
    }
    let [given, _] = put_inputs(room);
    let folder = room.join("musl.files");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("mixtral.in"), &given.file).unwrap();
    let [tokens, sequence] = [given.dims.tokens, given.dims.sequence_tokens].map(|count| count.to_string());
    let (archive, shared) = ("libmixtral.a", "libmixtral.so");
    for (name, library) in [
        ("musl_static", &["-static", archive][..]),
        ("musl_archive", &[archive]),
        ("musl_shared", &[shared, "-Wl,-rpath,$ORIGIN"]),
    ] {
        compile("musl-gcc", name, &[&["-std=c11", "@/run.c", "-DFIRST=mixtral"], library].concat());
        let text = said(name, &[&folder.to_string_lossy(), &tokens, &sequence], &[]);
        assert!(text.contains(": the same with bound weights"), "{name}: {text}");
        assert_eq!(fs::read(folder.join("mixtral.out")).unwrap(), given.ours, "{name}");
    }
}

/// The names that a shared object exports, that it needs, and its own.
fn dynamic(path: &Path) -> (Vec<String>, Vec<String>, Option<String>) {
    let bytes = fs::read(path).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut exported: Vec<String> = file.exports().unwrap().iter().map(|export| text(export.name())).collect();
    exported.sort();
    let section = |name: &str| file.section_by_name(name).unwrap().data().unwrap();
    let strings = section(".dynstr");
    let named = |wanted: i64| {
        let entries = section(".dynamic").chunks(16).filter_map(move |entry| {
            let [tag, value] = [0, 8].map(|at| i64::from_le_bytes(entry[at..at + 8].try_into().unwrap()));
            (tag == wanted).then_some(value as usize)
        });
        entries.map(|at| text(strings[at..].split(|byte| *byte == 0).next().unwrap())).collect::<Vec<_>>()
    };
    (exported, named(DT_NEEDED), named(DT_SONAME).pop())
}

/// moec's own shared library, and one that a compiler makes of the source.
#[test]
fn a_library_exports_three_names_and_needs_libc() {
    let Some(room) = room() else { return };
    for layer in LAYERS {
        let made = format!("lib{layer}_by_cc.so");
        compile("cc", &made, &["-std=c11", "-shared", "-fPIC", &format!("{layer}.c"), &format!("{layer}.o")]);
        let symbols = [format!("__tvm_ffi_{layer}"), format!("__xla_ffi_{layer}"), format!("{layer}_get_api")];
        let (exported, mut needed, _) = dynamic(&room.join(made));
        // Of thread-local variables the compiler may ask the loader, which every process has.
        needed.retain(|library| !library.starts_with("ld-linux"));
        assert_eq!((&exported[..], &needed[..]), (&symbols[..], &["libc.so.6".to_string()][..]), "{layer} by cc");
        let own = format!("lib{layer}.so");
        let (exported, needed, name) = dynamic(&room.join(&own));
        let libraries = ["libc.so.6", "libpthread.so.0", "libdl.so.2"].map(String::from);
        assert_eq!((&exported[..], &needed[..]), (&symbols[..], &libraries[..]), "{own}");
        assert_eq!(name, Some(own));
    }
}

/// Every mistake of a caller has its status and its text, the same in C and in Python.
#[test]
fn what_a_caller_does_wrong() {
    let Some(room) = room() else { return };
    put_inputs(room);
    program("errors", "errors.c", &LAYERS, Linked::Static);
    insta::assert_snapshot!("errors_in_c", said("errors", &["."], &[]));
    let lacking = changed(&package(&block(LAYERS[0]), &[host()]), "lacking", |manifest| {
        manifest.targets[0].name = "x86-64-tiles".to_string();
        // A feature that the launcher does not know: this CPU may have it, and that cannot be said.
        manifest.targets[0].cpu_features.extend(["amx-tile", "none-such"].map(String::from));
    });
    put(room, &lacking);
    program("create_lacking", "create.c", &["lacking"], Linked::Static);
    program("create_host", "create.c", &LAYERS[1..], Linked::Static);
    // A file that is no driver stands before one that this machine may have.
    let text = [said("create_lacking", &["1", "0"], &[]), said("create_host", &["9"], &[])].concat();
    insta::assert_snapshot!("create_on_cpus", text);

    if !starts("python3") {
        skipped("launcher from Python", "there is no `python3`");
        return;
    }
    let Some((driver, _)) = gpu::mock() else { return };
    let libraries = LAYERS.into_iter().chain(["lacking", "everything"]).map(|layer| room.join(format!("lib{layer}.so")));
    let script = moec_tests::root().join("tests/c/errors.py");
    let output = Command::new("python3").arg(script).args(libraries).env("LD_LIBRARY_PATH", driver).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    insta::assert_snapshot!("errors_in_python", String::from_utf8(output.stdout).unwrap());
}

/// Whether programs that the compiler instruments run here.
fn is_instrumented(flag: &str) -> bool {
    let Some(room) = room() else { return false };
    let (source, out) = (room.join("empty.c"), room.join(flag.replace(['=', ','], "_")));
    fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let compiled = Command::new("cc").arg(flag).arg(&source).arg("-o").arg(&out).output();
    compiled.is_ok_and(|output| output.status.success())
        && Command::new(&out).output().is_ok_and(|output| output.status.success())
}

/// 8 and 80 threads share a handle, handles come and go, and callers are nested: with checks of memory and of races in the launcher.
#[test]
fn threads_share_a_handle() {
    let Some(room) = room() else { return };
    put_inputs(room);
    let all = std::env::var_os(trials::ALL).is_some();
    for (flag, often) in [("-fsanitize=address,undefined", if all { "10000" } else { "500" }), ("-fsanitize=thread", "100")] {
        if !is_instrumented(flag) {
            skipped(&format!("launcher with {flag}"), "the compiler has no such sanitizer, or it does not run here");
            continue;
        }
        let name = format!("threads_{}", flag.split(['=', ',']).nth(1).unwrap());
        let sources = LAYERS.iter().flat_map(|layer| [format!("{layer}.c"), format!("{layer}.o")]);
        let fixed = ["-std=c11", "@/threads.c", "-DFIRST=mixtral", "-DSECOND=qwen2_moe", "-fno-sanitize-recover=all", flag];
        let arguments: Vec<String> = fixed.map(String::from).into_iter().chain(sources).collect();
        compile("cc", &name, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let text = said(&name, &[".", often], &[("TSAN_OPTIONS", "halt_on_error=1"), ("ASAN_OPTIONS", "detect_leaks=1")]);
        let expected = format!(
            "8 threads on one handle\n80 threads on one handle\na run of another layer inside of a parallel_for\n{often} handles\n"
        );
        assert_eq!(text, expected, "{flag}");
    }
}

/// On threads of its own and on a GPU; where memory is short nothing is kept.
#[test]
fn a_run_allocates_nothing() {
    if room().is_none() {
        return;
    }
    if !cfg!(target_env = "gnu") {
        skipped("launcher::allocations", "the program puts itself in front of glibc's allocator");
        return;
    }
    program("allocations", "allocations.c", &LAYERS[..1], Linked::Shared);
    insta::assert_snapshot!("allocations", said("allocations", &[], &[]));
}
