//! Layers from Python, without PyTorch: `runtime/python/` by ctypes, and the text of the modules that moec emits. What needs PyTorch is
//! in `tests/python/`, which `make test-torch` runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use moec::diagnostics::Source;
use moec::library::{Kind, Library};
use moec_tests::skipped;

use super::{LAYERS, block, compile, gpu, host, package, put_kinds, room, said, starts};

fn has_python() -> bool {
    let has = starts("python3");
    if !has {
        skipped("launcher from Python", "there is no `python3`");
    }
    has
}

/// What a program of `tests/python/` says, which succeeds.
#[track_caller]
fn python(program: &str, arguments: &[&Path]) -> String {
    let root = moec_tests::root();
    let mut command = Command::new("python3");
    command.arg(root.join("tests/python").join(program)).arg(root.join("runtime/python/moec")).args(arguments);
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A struct's lines of `tests/c/abi.c`, by its first word.
fn structs(layout: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut name = String::new();
    for line in layout.lines() {
        if !line.starts_with(' ') {
            name = line.split(' ').next().unwrap().to_string();
        }
        *found.entry(name.clone()).or_default() += &format!("{line}\n");
    }
    found
}

#[test]
fn python_has_the_structs_of_the_header() {
    if room().is_none() || !has_python() {
        return;
    }
    compile("cc", "abi_of_python", &["-std=c11", "@/abi.c"]);
    let header = structs(&said("abi_of_python", &[], &[]));
    let ours = structs(&python("layout.py", &[]));
    assert!(ours.len() >= 10);
    for (name, lines) in &ours {
        assert_eq!(header.get(name), Some(lines), "{name}");
    }
}

/// A published block, as it is and with weights in panels.
#[test]
fn a_layer_runs_from_python_alone() {
    let Some(room) = room() else { return };
    if !has_python() {
        return;
    }
    let mut packed = block("mixtral");
    packed.text = packed.text.replace("name = \"mixtral\"", "name = \"packed\"") + "\n[host]\npack = \"panels\"\n";
    packed.spec = moec::spec::parse(&Source { name: "packed".into(), text: packed.text.clone() }).unwrap();
    put_kinds(room, &package(&packed, &[host()]), &[Kind::Shared]);
    let file = moec_tests::root().join("tests/fixtures/huggingface/mixtral.safetensors");
    let text = ["mixtral", "packed"].map(|layer| python("alone.py", &[&room.join(format!("lib{layer}.so")), &file]));
    insta::assert_snapshot!("from_python", text.concat());
}

/// They are Python, the same each time, and no name of one of their parts hides one of another.
#[test]
fn modules_for_pytorch_are_python() {
    let Some(room) = room() else { return };
    if !has_python() {
        return;
    }
    let check = "import ast, sys\n\
                 tree = ast.parse(open(sys.argv[1]).read())\n\
                 names = [n.name for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))]\n\
                 names += [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]\n\
                 assert len(set(names)) == len(names), sorted(names)\n\
                 assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]\n";
    for package in LAYERS.map(|layer| package(&block(layer), &[host()])).into_iter().chain([gpu::everything()]) {
        let module = |package| Library::new(std::slice::from_ref(package)).unwrap().files(Kind::Python, None).unwrap();
        let (file, again) = (module(&package), module(&package));
        assert_eq!(file, again);
        let path = room.join(&file[0].name);
        fs::write(&path, &file[0].bytes).unwrap();
        let output = Command::new("python3").args(["-c", check]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(file[0].bytes.clone()).unwrap();
        let sha = &package.manifest().spec_sha256;
        assert!(text.ends_with(&format!("{sha:?})\nMoELayer.layer = layer\n")), "{}", &text[text.len() - 400..]);
    }
}
