//! What the C launcher costs a run beside its kernels: layers of published size whose kernels do nothing, on a CPU by one thread and two,
//! and with a driver that does nothing. Medians; without a C compiler it says so. Nothing is read or written, so that no weights are
//! needed.
#![allow(clippy::print_stdout, reason = "a table for people")]

mod packages;

use std::path::Path;
use std::process::Command;
use std::slice::from_ref;

use moec::import::Entry;
use moec::library::{ABI_HEADER, Kind, Library};
use moec::pipeline::compile;
use moec_codegen::Options;
use moec_ir::Machine;
use moec_runtime::Package;

const LAYERS: [&str; 4] = ["tiny", "mixtral-8x7b", "deepseek-v3", "soft-moe-s16-128e"];
const MACHINES: [&str; 2] = ["x86-64-v3", "sm_90a"];
const TOKENS: [&str; 3] = ["1", "64", "4096"];

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    println!("microseconds a run, median and 90th percentile; launches of a run");
    println!("{:>20} {:>10} {:>6} {:>9} {:>9} {:>9}", "layer", "on", "T", "launches", "median", "90 %");
    for layer in LAYERS {
        let (spec, text) = packages::example(layer);
        let machines = MACHINES.map(|name| Machine::named(name).expect("a machine"));
        let package = compile(&spec, Entry::Layer, &text, &machines, &Options::default()).expect("a package");
        if !program(&package, folder.path()) {
            println!("skipped: compiler/benches/launcher.rs needs `cc`, a C compiler");
            return;
        }
        for (on, device, threads) in [("1 thread", "cpu", "1"), ("2 threads", "cpu", "2"), ("a GPU", "gpu", "0")] {
            for tokens in TOKENS {
                let output =
                    Command::new(folder.path().join("launcher")).args([device, threads, tokens]).output().expect("a program");
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success(), "{layer} on {on}: {text}");
                let cells: Vec<&str> = text.split_whitespace().collect();
                println!("{layer:>20} {on:>10} {tokens:>6} {:>9} {:>9} {:>9}", cells[0], cells[1], cells[2]);
            }
        }
    }
}

/// The layer's launcher with functions for kernels that do nothing, compiled with `launcher.c`; whether there is a compiler.
fn program(package: &Package, folder: &Path) -> bool {
    let library = Library::new(from_ref(package)).expect("a library");
    let source = library.files(Kind::C, None).expect("a launcher").remove(0).bytes;
    let source = String::from_utf8(source).expect("text");
    let stub = |line: &str| {
        let symbol =
            |kind: &str, end: char| Some(line.strip_prefix("extern MOEC_HIDDEN ")?.strip_prefix(kind)?.split_once(end)?.0);
        let kernel = symbol("void ", '(')
            .map(|name| format!("void {name}(const uint64_t *a, uint64_t b, uint64_t e) {{ (void)a, (void)b, (void)e; }}\n"));
        kernel.or_else(|| symbol("const char ", '[').map(|name| format!("const char {name}[] = \"\";\n")))
    };
    let stubs: String = source.lines().filter_map(stub).collect();
    let files =
        [("moec_abi.h", ABI_HEADER.to_string()), ("layer.c", source), ("kernels.c", format!("#include <stdint.h>\n{stubs}"))];
    for (name, text) in files {
        std::fs::write(folder.join(name), text).expect("a file");
    }
    let timer = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/launcher.c");
    let status = Command::new("cc")
        .args([
            "-std=c11",
            "-O2",
            "-I.",
            &format!("-DLAYER={}", library.prefixes().next().expect("a layer")),
            "layer.c",
            "kernels.c",
        ])
        .arg(timer)
        .args(["-lpthread", "-o", "launcher"])
        .current_dir(folder)
        .status();
    status.is_ok_and(|status| status.success())
}
