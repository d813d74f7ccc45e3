//! `--entry` from outside: what a package of a part of a layer is called and takes, how its parts fit together, and what is refused.

use std::fs;
use std::process::Output;

use moec_runtime::package::{DType, Entry, Role, read};
use moec_runtime::weights::to_safetensors;
use moec_runtime::{Checkpoint, Tensor};

use crate::command::{example, fixture, folder, moec_in, product, settled, stderr, stdout, write};

/// Four experts that a capacity of each may drop, and nothing beside them.
const SPEC: &str = "[moe]\nname = \"parts\"\nhidden = 32\nexperts = 4\n[router]\nmode = \"token_choice\"\ntop_k = 2\n\
                    score = \"softmax\"\nrenorm = \"sum\"\n[expert]\nintermediate = 16\nactivation = \"silu\"\ngated = true\n";

fn refused(output: &Output, code: &str) -> String {
    let said = stderr(output);
    assert!(!output.status.success() && said.contains(code), "{code}: {said}");
    said
}

#[test]
fn a_part_has_a_name_of_its_own() {
    let folder = folder();
    let spec = write(folder.path(), "parts.toml", SPEC).display().to_string();
    let of_part = |arguments: &[&str]| {
        let compile = ["compile", spec.as_str(), "--target", "sm_80,x86-64-v3"];
        product(&moec_in(folder.path(), &[&compile[..], arguments].concat()));
    };
    of_part(&[]);
    of_part(&["--entry", "router"]);
    of_part(&["--entry", "experts", "--local-experts", "2"]);
    for (name, entry) in [("parts", Entry::Layer), ("parts-router", Entry::Router), ("parts-experts", Entry::Experts)] {
        let package = read(&fs::read(folder.path().join(format!("{name}.moec"))).unwrap()).unwrap();
        let manifest = package.manifest();
        assert_eq!((manifest.layer.as_str(), manifest.entry), (name, entry));
        let prefix = format!("{}_", name.replace('-', "_"));
        let mut symbols = manifest.targets.iter().flat_map(|target| &target.kernels).map(|kernel| &kernel.symbol);
        assert!(symbols.all(|symbol| symbol.starts_with(&prefix)), "{name}");
        let named =
            |role: Role| manifest.buffers.iter().filter(move |buffer| buffer.role == role).map(|buffer| buffer.name.as_str());
        let [inputs, outputs] = [Role::Input, Role::Output].map(|role| named(role).collect::<Vec<_>>());
        match entry {
            Entry::Layer => assert_eq!((&inputs[..], &outputs[..]), (&["x"][..], &["y"][..])),
            Entry::Router => assert_eq!((&inputs[..], &outputs[..]), (&["x"][..], &["topk_ids", "topk_weights"][..])),
            Entry::Experts => {
                assert_eq!((&inputs[..], &outputs[..]), (&["x", "topk_ids", "topk_weights", "expert_map"][..], &["y"][..]));
            }
        }
        let weights: Vec<&str> = named(Role::Weight).collect();
        assert_eq!(weights.contains(&"router"), entry != Entry::Experts);
        assert_eq!(weights.contains(&"gate"), entry != Entry::Router);
    }
    let inspected = moec_in(folder.path(), &["inspect", "parts-router.moec"]);
    insta::assert_snapshot!("router", settled(&product(&inspected)));
    let inspected = moec_in(folder.path(), &["inspect", "parts-experts.moec"]);
    insta::assert_snapshot!("some_experts", settled(&product(&inspected)));
}

/// A router without anything to drop is one launch.
#[test]
fn a_dropless_router_is_one_launch() {
    let folder = folder();
    let spec = write(folder.path(), "parts.toml", SPEC).display().to_string();
    let router = ["compile", spec.as_str(), "--entry", "router", "--target", "sm_90a", "--emit", "kernel", "-o", "-"];
    let kernels = product(&moec_in(folder.path(), &router));
    assert_eq!(kernels.matches("\nkernel ").count() + kernels.matches("\n  kernel ").count(), 1, "{kernels}");
}

/// A published block by way of two files: what its router writes is what its experts read.
#[test]
fn a_router_hands_over_to_its_experts() {
    let folder = folder();
    let (spec, block) = (fixture("mixtral", "toml"), fixture("mixtral", "safetensors"));
    let of_block = ["--weights", block.as_str(), "--tensor-prefix", "w.", "--repeat", "1", "--reference"];
    let router = ["run", spec.as_str(), "--entry", "router", "--input", block.as_str(), "--output", "picks.safetensors"];
    let report = product(&moec_in(folder.path(), &[&router[..], &of_block].concat()));
    assert!(report.contains("expert sets identical"), "{report}");
    let (picks, tensors) = (fs::read(folder.path().join("picks.safetensors")).unwrap(), fs::read(&block).unwrap());
    let (picks, tensors) = (Checkpoint::read(&picks).unwrap(), Checkpoint::read(&tensors).unwrap());
    assert_eq!(picks.names(), ["topk_ids", "topk_weights"]);
    let (ids, weights) = (picks.tensor("topk_ids", DType::I32).unwrap().0, picks.tensor("topk_weights", DType::F32).unwrap().0);
    let x = tensors.tensor("in.hidden", DType::F32).unwrap().0;
    let given = to_safetensors(&[("in.hidden", &x), ("topk_ids", &ids), ("topk_weights", &weights)]).unwrap();
    let given = write(folder.path(), "given.safetensors", given).display().to_string();
    let experts = ["run", spec.as_str(), "--entry", "experts", "--input", given.as_str(), "--output", "y.safetensors"];
    product(&moec_in(folder.path(), &[&experts[..], &of_block].concat()));
    let y = fs::read(folder.path().join("y.safetensors")).unwrap();
    let y = Checkpoint::read(&y).unwrap().tensor("out.hidden", DType::F32).unwrap().0;
    let expected = tensors.tensor("out.hidden", DType::F32).unwrap().0;
    let error = moec::reference::difference(&y.to_f64(), &expected.to_f64()).of_largest;
    assert!(error <= moec::reference::bound(DType::F32), "{error:.1e}");
}

#[test]
fn parts_run_and_are_checked() {
    let folder = folder();
    let spec = write(folder.path(), "parts.toml", SPEC).display().to_string();
    for entry in [&["--entry", "router"][..], &["--entry", "experts"], &["--entry", "experts", "--local-experts", "3"]] {
        let run = |more: &[&str]| {
            moec_in(folder.path(), &[&["run", spec.as_str(), "--tokens", "9", "--repeat", "1"][..], entry, more].concat())
        };
        let report = product(&run(&["--reference", "--stats"]));
        assert!(report.contains("reference   max error"), "{report}");
        let report = product(&run(&["--stats=json"]));
        let statistics: serde_json::Value = serde_json::from_str(&report).unwrap();
        // Without a capacity a router alone counts nothing.
        assert_eq!(statistics.is_null(), entry[1] == "router", "{report}");
        product(&run(&["--reference", "--device", "emulator", "--target", "sm_80"]));
        product(&moec_in(folder.path(), &[&["check", spec.as_str()][..], entry].concat()));
        let emulate = ["check", spec.as_str(), "--emulate", "--target", "sm_80", "--tokens", "5"];
        let report = product(&moec_in(folder.path(), &[&emulate[..], entry].concat()));
        assert!(report.contains(" 0 findings, the same bits") && report.contains("error"), "{report}");
        // Some blocks of a layer of real size.
        let large = ["check", "--preset", "mixtral-8x7b", "--emulate", "--tokens", "17", "--schedules", "1"];
        let report = product(&moec_in(folder.path(), &[&large[..], entry].concat()));
        assert!(report.contains(" 0 findings"), "{report}");
    }
}

#[test]
fn modes_without_picks_have_no_parts() {
    let folder = folder();
    write(folder.path(), "soft.toml", fs::read(example("soft-moe-s16-128e.toml")).unwrap());
    let chosen = SPEC.replace("token_choice", "expert_choice").replace("top_k = 2\n", "").replace("renorm = \"sum\"\n", "");
    write(folder.path(), "chosen.toml", format!("{chosen}[capacity]\nfactor = 1.0\nround = \"ceil\"\n"));
    for spec in ["soft.toml", "chosen.toml"] {
        product(&moec_in(folder.path(), &["check", spec]));
        for entry in ["router", "experts"] {
            for command in [&["check"][..], &["compile", "-o", "x.moec"], &["run", "--tokens", "1"], &["check", "--emulate"]] {
                let output = moec_in(folder.path(), &[command, &[spec, "--entry", entry]].concat());
                let said = refused(&output, "MOE0705");
                assert!(said.contains("router.mode") && said.contains("--entry layer"), "{said}");
            }
        }
    }
    insta::assert_snapshot!("soft", settled(&stderr(&moec_in(folder.path(), &["check", "soft.toml", "--entry", "router"]))));
}

#[test]
fn what_does_not_go_together_is_refused() {
    let folder = folder();
    let spec = write(folder.path(), "parts.toml", SPEC).display().to_string();
    let moec = |arguments: &[&str]| moec_in(folder.path(), arguments);
    refused(&moec(&["compile", &spec, "--local-experts", "2"]), "--entry <ENTRY>");
    refused(&moec(&["compile", &spec, "--entry", "expert"]), "[possible values: layer, experts, router]");
    refused(&moec(&["compile", &spec, "--entry", "experts", "--local-experts", "0"]), "from 1 to 4096");
    refused(&moec(&["compile", &spec, "--entry", "router", "--local-experts", "2"]), "MOE0604");
    let said = refused(&moec(&["compile", &spec, "--entry", "experts", "--local-experts", "5"]), "MOE0705");
    assert!(said.contains("none of 1 to the 4 experts"), "{said}");
    product(&moec(&["compile", &spec, "--entry", "experts", "--local-experts", "2", "--target", "host,sm_80"]));
    refused(&moec(&["run", "parts-experts.moec", "--entry", "layer"]), "MOE0604");
    refused(&moec(&["check", "parts-experts.moec", "--emulate", "--entry", "experts"]), "MOE0604");
    product(&moec(&["run", "parts-experts.moec", "--tokens", "3"]));
    // Of a file the first experts are read: a map that has others here would mean other weights.
    let zeros =
        |shape: &[u64]| Tensor::from_f32(DType::F32, shape.to_vec(), &vec![0.0; shape.iter().product::<u64>() as usize]).unwrap();
    let integers = |shape: &[u64], numbers: &[i32]| {
        Tensor::new(DType::I32, shape.to_vec(), numbers.iter().flat_map(|n| n.to_le_bytes()).collect()).unwrap()
    };
    let weights = [("gate", zeros(&[4, 16, 32])), ("up", zeros(&[4, 16, 32])), ("down", zeros(&[4, 32, 16]))];
    let weights: Vec<(&str, &Tensor)> = weights.iter().map(|(name, tensor)| (*name, tensor)).collect();
    write(folder.path(), "weights.safetensors", to_safetensors(&weights).unwrap());
    for (map, fits) in [([0, 1, -1, -1], true), ([0, 1, 7, -3], true), ([-1, -1, 0, 1], false), ([1, 0, -1, -1], false)] {
        let (x, ids, factors) = (zeros(&[1, 32]), integers(&[1, 2], &[0, 3]), zeros(&[1, 2]));
        let map = integers(&[4], &map);
        let given = [("in.hidden", &x), ("topk_ids", &ids), ("topk_weights", &factors), ("expert_map", &map)];
        write(folder.path(), "given.safetensors", to_safetensors(&given).unwrap());
        let run = moec(&["run", "parts-experts.moec", "--weights", "weights.safetensors", "--input", "given.safetensors"]);
        assert_eq!(run.status.success(), fits, "{}{}", stdout(&run), stderr(&run));
        if !fits {
            refused(&run, "MOE0604");
        }
    }
}

/// What a part leaves to its caller is a warning, at the keys that ask for it.
#[test]
fn what_is_left_to_the_caller_is_said() {
    let folder = folder();
    write(folder.path(), "shared.toml", fs::read(example("qwen1.5-moe-a2.7b.toml")).unwrap());
    let moec =
        |more: &[&str]| moec_in(folder.path(), &[&["compile", "shared.toml", "--emit", "graph", "-o", "-"][..], more].concat());
    insta::assert_snapshot!("left_out", settled(&stderr(&moec(&["--entry", "experts"]))));
    for quiet in [&["--entry", "router"][..], &["--entry", "layer"], &["--entry", "experts", "--allow", "MOE1115"]] {
        assert_eq!(stderr(&moec(quiet)), "", "{quiet:?}");
    }
    refused(&moec(&["--entry", "experts", "--deny-warnings"]), "MOE1115");
}
