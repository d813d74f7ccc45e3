//! `moec link`: what it writes, and what it refuses. That libraries work is held by the tests of the whole project.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::path::Path;

use crate::command::{example, folder, moec_in, names_in, product, stderr};

/// A package of the example for these targets.
fn package(folder: &Path, targets: &str, name: &str) {
    product(&moec_in(folder, &["compile", &example("tiny.toml"), "--target", targets, "-o", name]));
}

#[test]
fn a_suffix_says_what_to_write() {
    let folder = folder();
    package(folder.path(), "x86-64-v3", "host.moec");
    package(folder.path(), "sm_80,sm_90a", "gpu.moec");
    for (name, magic) in [("a.so", "\x7fELF"), ("a.a", "!<arch>"), ("a.o", "\x7fELF"), ("a.c", "/* tiny: "), ("a.h", "/* tiny: ")]
    {
        let output = moec_in(folder.path(), &["link", "host.moec", "gpu.moec", "-o", name]);
        product(&output);
        assert!(stderr(&output).starts_with(&format!("wrote {name} (")), "{}", stderr(&output));
        let bytes = fs::read(folder.path().join(name)).unwrap();
        assert!(bytes.starts_with(magic.as_bytes()), "{name}");
        fs::create_dir(folder.path().join(kind(name))).unwrap();
        let path = format!("{}/{name}", kind(name));
        product(&moec_in(folder.path(), &["link", "host.moec", "gpu.moec", "-o", &path, "--emit", kind(name)]));
        assert!(fs::read(folder.path().join(&path)).unwrap() == bytes, "{name} twice");
    }
    product(&moec_in(folder.path(), &["link", "gpu.moec", "--emit", "header,c,cdylib", "--out-dir", "out"]));
    assert_eq!(names_in(&folder.path().join("out")), ["libtiny.so", "moec_abi.h", "tiny.c", "tiny.h"]);
    product(&moec_in(folder.path(), &["link", "gpu.moec", "--emit", "cdylib,jax", "--out-dir", "jax"]));
    assert_eq!(names_in(&folder.path().join("jax")), ["libtiny.so", "tiny_jax.py"]);
    // The same library without a package in between.
    product(&moec_in(
        folder.path(),
        &["compile", &example("tiny.toml"), "--target", "sm_80,sm_90a", "--emit", "cdylib", "--out-dir", "direct"],
    ));
    let of = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(of("direct/libtiny.so") == of("out/libtiny.so"));
}

fn kind(name: &str) -> &'static str {
    match name {
        "a.so" => "cdylib",
        "a.a" => "staticlib",
        "a.o" => "obj",
        "a.c" => "c",
        _ => "header",
    }
}

#[test]
fn what_cannot_be_linked_is_refused() {
    let folder = folder();
    package(folder.path(), "sm_80", "one.moec");
    package(folder.path(), "sm_80,sm_90a", "two.moec");
    let renamed = fs::read_to_string(example("tiny.toml")).unwrap().replace("\"tiny\"", "\"other\"");
    let [dash, point] = ["ti-ny", "ti.ny"].map(|name| renamed.replace("other", name));
    let changed = fs::read_to_string(example("tiny.toml")).unwrap() + "\n# other bytes\n";
    for (name, text) in [("other", renamed), ("changed", changed), ("dash", dash), ("point", point)] {
        fs::write(folder.path().join(format!("{name}.toml")), text).unwrap();
        let (spec, package) = (format!("{name}.toml"), format!("{name}.moec"));
        product(&moec_in(folder.path(), &["compile", &spec, "--target", "sm_89", "-o", &package]));
    }
    // One spec, for two numbers of experts: the symbols are the same, the tensors are not.
    for (local, target) in [("2", "sm_80"), ("4", "sm_89")] {
        let entry = ["--entry", "experts", "--local-experts", local, "--target", target, "-o"];
        product(&moec_in(
            folder.path(),
            &[&["compile", &example("tiny.toml")], &entry[..], &[&format!("{local}.moec")]].concat(),
        ));
    }
    fs::write(folder.path().join("text.moec"), "no package").unwrap();
    let refused = |arguments: &[&str], code: i32| {
        let output = moec_in(folder.path(), &[&["link"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        stderr(&output)
    };
    insta::assert_snapshot!(
        [
            refused(&["one.moec", "two.moec"], 1),
            refused(&["dash.moec", "point.moec"], 1),
            refused(&["one.moec", "other.moec"], 2),
            refused(&["one.moec", "changed.moec"], 1),
            refused(&["2.moec", "4.moec"], 1),
            refused(&["text.moec"], 1),
            refused(&["absent.moec"], 1),
            refused(&["one.moec", "-o", "library"], 2),
            refused(&["one.moec", "-o", "tiny.fatbin"], 3),
            refused(&["one.moec", "--emit", "c,obj", "-o", "a.c"], 2),
        ]
        .join("\n")
    );
    assert!(!folder.path().join("libtiny.so").exists());
    // Two layers in one library, and what is made of each.
    product(&moec_in(folder.path(), &["link", "one.moec", "other.moec", "-o", "libboth.so"]));
    let both = fs::read(folder.path().join("libboth.so")).unwrap();
    let has = |name: &str| both.windows(name.len()).any(|window| window == name.as_bytes());
    assert!(["tiny_get_api", "__tvm_ffi_tiny", "other_get_api", "__tvm_ffi_other", "libboth.so"].into_iter().all(has));
    assert!(["__xla_ffi_tiny", "__xla_ffi_other"].into_iter().all(has));
    product(&moec_in(folder.path(), &["link", "one.moec", "other.moec", "--emit", "c,obj", "--out-dir", "both"]));
    assert_eq!(names_in(&folder.path().join("both")), ["moec_abi.h", "other.c", "other.o", "tiny.c", "tiny.o"]);
}
