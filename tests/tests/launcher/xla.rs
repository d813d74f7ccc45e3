//! The handler of XLA's FFI, called by C as XLA calls it, and the text of the module by which JAX has it. JAX itself runs
//! `examples/jax/`.

use std::fs;

use moec::import::Entry;
use moec::library::{Kind, Library};
use moec_tests::built::compiled;
use moec_tests::{examples, root, skipped};

use super::host::put_inputs;
use super::{LAYERS, Linked, compile, gpu, host, program, room, said};

/// What a handler says of everything that XLA may ask of it on a CPU: of a library that has code for GPUs too, and of one that has not.
#[test]
fn a_handler_on_this_cpu() {
    let Some(room) = room() else { return };
    put_inputs(room);
    for layer in LAYERS {
        let name = format!("xla_{layer}");
        program(&name, "xla_ffi.c", &[layer], Linked::Static);
        insta::assert_snapshot!(name.clone(), said(&name, &["cpu", "."], &[]));
    }
}

/// Code is loaded when XLA initialises a call, so that a run may be recorded; the launches of a run are those of the C ABI.
#[test]
fn a_handler_on_a_gpu() {
    let (Some(_), Some((driver, _))) = (room(), gpu::mock()) else { return };
    let environment = [("LD_LIBRARY_PATH", driver.to_str().unwrap())];
    for (layer, tokens) in [("everything", "17"), ("mixtral", "19")] {
        let (name, other) = (format!("xla_gpu_{layer}"), format!("xla_gpu_{layer}_by_c"));
        program(&name, "xla_ffi.c", &[layer], Linked::Static);
        program(&other, "gpu.c", &[layer], Linked::Static);
        let log = said(&name, &["gpu", tokens], &environment);
        let life = said(&other, &["life", "-", tokens], &environment);
        let [ours, c] = [("-- executed, captured", &log), ("-- run on the default stream", &life)]
            .map(|(begin, log)| gpu::launches(gpu::part(log, begin)));
        assert!(!c.is_empty() && ours == c, "{layer}: {log}");
        if layer == "everything" {
            insta::assert_snapshot!("xla_on_a_gpu", log);
        }
        // A library for both runs on the CPU where there is no stream.
        let is_for_both = layer == "mixtral";
        assert_eq!(log.ends_with("no stream: 0 -\n"), is_for_both, "{layer}: {log}");
    }
}

/// The header in jaxlib's wheel, where the packages of `examples/jax` are.
#[test]
fn types_are_those_of_xla() {
    if room().is_none() {
        return;
    }
    let folder = root().join(".tools/engines/jax/jaxlib/include");
    if !folder.join("xla/ffi/api/c_api.h").is_file() {
        skipped("launcher::xla_types", "there is no jaxlib: scripts/fetch_engine.sh jax");
        return;
    }
    let include = format!("-I{}", root().join("runtime/launcher").display());
    let header = folder.to_string_lossy().into_owned();
    compile("cc", "xla_types.o", &["-std=c11", "-Wno-unused-function", &include, "-isystem", &header, "-c", "@/xla_types.c"]);
}

/// The part of a module that is the layer's own. That modules of all modes are Python, `linked.rs` says.
#[test]
fn the_module_of_an_example() {
    let tiny = examples().into_iter().find(|example| example.name == "tiny").unwrap();
    let package = compiled(&tiny.spec, Entry::Layer, &tiny.text, &[host()]).unwrap();
    let library = Library::new(std::slice::from_ref(&package)).unwrap();
    let files = library.files(Kind::Jax, None).unwrap();
    assert_eq!(files, Library::new(&[package]).unwrap().files(Kind::Jax, None).unwrap());
    assert_eq!(files[0].name, "tiny_jax.py");
    let text = String::from_utf8(files[0].bytes.clone()).unwrap();
    let fixed = fs::read_to_string(root().join("runtime/launcher/layer_jax.py")).unwrap();
    let (_, fixed) = fixed.split_once('\n').unwrap();
    assert!(text.contains(fixed));
    insta::assert_snapshot!("tiny_jax", text.replace(fixed, "\n...\n"));
}
