//! The module by which Rust calls a library, in programs of `tests/rust/`: an update on this CPU, and cudarc against the driver
//! that runs nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use moec::diagnostics::Source;
use moec::import::Entry;
use moec::{random, spec};
use moec_runtime::{DeviceKind, Dims, Layer, Tensor};
use moec_tests::built::compiled;
use moec_tests::{root, skipped};

use super::{Linked, gpu, host, program, put, room, said};

/// A layer whose selection bias follows the load, as `tests/rust/update.rs` has it.
const TRAINING: &str = "[moe]\nname = \"training\"\nhidden = 24\nexperts = 10\n[router]\ntop_k = 3\nscore = \"sigmoid\"\ncorrection_on = \
                        \"score\"\n[capacity]\ntokens = 12\n[expert]\nintermediate = 16\n[numerics]\ndtype = \"f32\"\n[training]\n\
                        bias_update_rate = 0.125\n";

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The outputs and the bias are the runtime's bits, whether weights are bound or not.
#[test]
fn an_update_on_this_cpu() {
    let Some(room) = room() else { return };
    let spec = spec::parse(&Source { name: "training".into(), text: TRAINING.into() }).unwrap();
    let package = compiled(&spec, Entry::Layer, TRAINING, &[host()]).unwrap();
    put(room, &package);
    let dims = Dims::tokens(50);
    let (weights, x) = (random::weights(package.manifest(), 3).unwrap(), random::inputs(package.manifest(), dims, 7).unwrap());
    let given: Vec<u8> = x.iter().chain(&weights).flat_map(Tensor::bytes).copied().collect();
    fs::write(room.join("training.in"), given).unwrap();

    let layer = Layer::load(&package, DeviceKind::Host { threads: Some(1) }).unwrap();
    let bound = layer.bind(weights).unwrap();
    let before = bound.weight("correction_bias").unwrap();
    let mut batch = bound.batch(&x, dims).unwrap();
    let elapsed = bound.launch(&mut batch).unwrap();
    let y = bound.collect(&batch, elapsed).unwrap().tensor("y").unwrap().bytes().to_vec();
    bound.update(&mut batch).unwrap();
    let bias = bound.weight("correction_bias").unwrap();
    assert_ne!(before.bytes(), bias.bytes());

    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc
        .args(["--edition", "2024", "-o", "update", "-l", "static=training", "-L", "."])
        .arg(root().join("tests/rust/update.rs"));
    let Ok(output) = rustc.current_dir(room).env("ROOM", room).output() else {
        return skipped("launcher::rust::an_update_on_this_cpu", "there is no rustc");
    };
    succeeded(&output);
    said("update", &["training.in", "training.out", "50"], &[]);
    let one = [y.as_slice(), bias.bytes()].concat();
    assert!(fs::read(room.join("training.out")).unwrap() == [one.as_slice(), &one].concat(), "given, then bound");
}

/// A crate with the module and cudarc, as this workspace has it; `None`, said aloud, where cargo has none at hand.
fn crate_with_cudarc(room: &Path) -> Option<std::path::PathBuf> {
    let folder = room.join("cudarc");
    fs::create_dir_all(&folder).unwrap();
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let cudarc = workspace.lines().find(|line| line.starts_with("cudarc = ")).unwrap();
    let main = root().join("tests/rust/cudarc.rs");
    let manifest = format!(
        "[package]\nname = \"of-cudarc\"\nversion = \"0.1.0\"\nedition = \"2024\"\nbuild = \"build.rs\"\n[[bin]]\nname = \
         \"of-cudarc\"\npath = {main:?}\n[dependencies]\n{cudarc}\n[workspace]\n"
    );
    let build = "fn main() {\n    let room = std::env::var(\"ROOM\").unwrap();\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
                 println!(\"cargo::rerun-if-changed={room}/libeverything.a\");\n    println!(\"cargo::rustc-link-search=native={room}\");\n    \
                 println!(\"cargo::rustc-link-lib=static=everything\");\n}\n";
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    fs::write(folder.join("build.rs"), build).unwrap();
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--offline", "--target-dir", "target"]).current_dir(&folder).env("ROOM", room);
    let output = cargo.output().ok()?;
    let told = String::from_utf8_lossy(&output.stderr);
    if told.contains("--offline") {
        skipped("launcher::rust::cudarc", "cargo has no cudarc at hand, and no network here");
        return None;
    }
    succeeded(&output);
    Some(folder.join("target/debug/of-cudarc"))
}

/// The same launches as a C program's, in the order that cudarc asks for: behind the events of other streams, and recorded for
/// them.
#[test]
fn cudarc_launches_the_same() {
    let (Some(room), Some((driver, _))) = (room(), gpu::mock()) else { return };
    let Some(binary) = crate_with_cudarc(room) else { return };
    program("gpu_everything_for_rust", "gpu.c", &["everything"], Linked::Static);
    for tokens in gpu::BATCHES {
        let log = room.join(format!("cudarc.{tokens}.log"));
        let _ = fs::remove_file(&log);
        let output = Command::new(&binary).arg(tokens).env("LD_LIBRARY_PATH", driver).env("MOCK_LOG", &log).output().unwrap();
        succeeded(&output);
        let text = fs::read_to_string(&log).unwrap();
        let (_, file) = gpu::mock().unwrap();
        let life = said("gpu_everything_for_rust", &["life", file, tokens], &[]);
        for begin in ["-- bind ", "-- run at T", "-- update"] {
            let [ours, c] = [&text, &life].map(|log| gpu::launches(gpu::part(log, begin)));
            assert!(!c.is_empty() && ours == c, "{begin} at T = {tokens}: {text}");
        }
        if tokens == "17" {
            let (begin, end) = (text.find("-- bind").unwrap(), text.find("-- end").unwrap());
            insta::assert_snapshot!("cudarc", text[begin..end]);
        }
    }
}
