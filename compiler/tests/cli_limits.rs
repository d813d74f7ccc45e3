//! What a command line, the environment or a file may ask for has an end, which is named, with its reason, before anything is
//! started.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::{Duration, Instant};

use crate::command;
use crate::command::{example, moec, moec_in, product, start, stderr};
use moec_runtime::Package;
use moec_runtime::package::{self, Extent, Role};

/// Refused in the command line, at once, with the bound and the reason.
#[track_caller]
fn refused(arguments: &[&str], variables: &[(&str, &str)], said: &[&str]) {
    let began = Instant::now();
    let output = start(Path::new("."), arguments, variables, "");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    assert!(said.iter().all(|said| text.contains(said)), "{arguments:?}: {text}");
    // Milliseconds; a minute where the machine is busy with other things.
    assert!(began.elapsed() < Duration::from_secs(60), "{arguments:?}");
}

#[test]
fn every_count_of_the_command_line_is_bounded() {
    let tiny = example("tiny.toml");
    let many = ["1"; 65].join(",");
    let passes = ["verify"; 65].join(",");
    let cases: [(&[&str], &str); 23] = [
        (&["opt", &tiny, "--pipeline", &passes], "a pipeline of 65 passes, at most 64"),
        (&["run", &tiny, "--threads", "100000"], "from 1 to 1024: more threads"),
        (&["run", &tiny, "--threads", "0"], "from 1 to 1024"),
        (&["run", &tiny, "--threads", "18446744073709551616"], "from 1 to 1024"),
        (&["run", &tiny, "--threads=-1"], "from 1 to 1024"),
        (&["run", &tiny, "--tokens", "2147483648"], "from 0 to 2147483647: no layer takes more"),
        (&["run", &tiny, "--tokens", "1e3"], "not a whole number"),
        (&["run", &tiny, "--repeat", "0"], "from 1 to 100000: the median"),
        (&["run", &tiny, "--repeat", "100001"], "from 1 to 100000"),
        (&["run", &tiny, "--seed", "18446744073709551616"], "--seed"),
        (&["check", &tiny, "--emulate", "--tokens", "1,2147483648"], "`2147483648`: not a whole number from 0 to 2147483647"),
        (&["check", &tiny, "--emulate", "--tokens", &many], "65 entries, at most 64"),
        (&["check", &tiny, "--emulate", "--tokens", ""], "not a whole number"),
        (&["check", &tiny, "--emulate", "--schedules", "1001"], "from 1 to 1000: each runs every batch"),
        (&["check", &tiny, "--emulate", "--schedules", "0"], "from 1 to 1000"),
        (&["check", &tiny, "--emulate", "--blocks", &many], "65 entries, at most 64"),
        (&["check", &tiny, "--emulate", "--blocks", "18446744073709551616"], "neither a block's number nor `last`"),
        (&["opt", &tiny, "--pipeline", "verify", "--tokens", &many], "65 entries, at most 64"),
        (&["opt", &tiny, "--pipeline", "verify", "--tokens", "2147483648"], "from 0 to 2147483647"),
        (&["import", "--preset", "mixtral-8x7b", "--layer", "65536"], "from 0 to 65535: no model"),
        (&["route", &tiny, "--logits", "x", "--batch", "0"], "from 1 to 2147483647"),
        (&["route", &tiny, "--logits", "x", "--batch", "2147483648"], "from 1 to 2147483647"),
        (&["route", &tiny, "--logits", "x", "--top-k", "65"], "from 1 to 64: no layer picks more"),
    ];
    for (arguments, said) in cases {
        refused(arguments, &[], &[said]);
    }
}

#[test]
fn the_environment_is_bounded_too() {
    for (name, value) in [("RAYON_NUM_THREADS", "100000"), ("RAYON_NUM_THREADS", "all"), ("RAYON_RS_NUM_CPUS", "-1")] {
        refused(&["check", &example("tiny.toml")], &[(name, value)], &["error[MOE0606]", name, "from 0 to 1024"]);
    }
    refused(&["compile", &example("tiny.toml")], &[("MOEC_TARGET", "sm_999")], &["sm_999"]);
    for value in ["", "0", "3"] {
        product(&start(Path::new("."), &["check", &example("tiny.toml")], &[("RAYON_NUM_THREADS", value)], ""));
    }
}

/// The most that is accepted works.
#[test]
fn as_many_threads_as_there_may_be() {
    let tiny = example("tiny.toml");
    let report = product(&moec(&["run", &tiny, "--threads", "1024", "--tokens", "2", "--repeat", "1"]));
    assert!(report.contains("on host, 1024 threads"), "{report}");
}

/// A package that asks for more memory than there is, by any device's way.
#[test]
fn sizes_in_a_package() {
    let folder = command::folder();
    let arguments = ["compile", &example("tiny.toml"), "--target", "host,sm_90a", "-o", "tiny.moec"];
    product(&moec_in(folder.path(), &arguments));
    let tiny = package::read(&std::fs::read(folder.path().join("tiny.moec")).unwrap()).unwrap();
    let vast = |role: Role, shape: &[i64]| {
        let mut manifest = tiny.manifest().clone();
        let buffer = manifest.buffers.iter_mut().find(|buffer| buffer.role == role).unwrap();
        buffer.shape = shape.iter().map(|extent| Extent::Const(*extent)).collect();
        let bytes = Package::new(manifest, tiny.images().to_vec()).unwrap().to_bytes().unwrap();
        command::write(folder.path(), "vast.moec", bytes);
        for command in [&["run", "vast.moec", "--tokens", "4"][..], &["check", "vast.moec", "--emulate", "--tokens", "4"]] {
            let began = Instant::now();
            let output = moec_in(folder.path(), command);
            assert!(matches!(output.status.code(), Some(1 | 3)), "{role:?} {shape:?} {command:?}: {}", stderr(&output));
            assert!(began.elapsed() < Duration::from_secs(20), "{role:?} {shape:?} {command:?}");
        }
    };
    vast(Role::Output, &[1 << 30, 1 << 30]);
    vast(Role::Input, &[1 << 30, 1 << 30]);
    vast(Role::Weight, &[1 << 30, 1 << 30]);
    vast(Role::Output, &[i64::MAX, 4]);
}

/// A kernel that does not end is given up, and said to be.
#[test]
fn an_endless_kernel_of_a_package() {
    let folder = command::folder();
    product(&moec_in(folder.path(), &["compile", &example("tiny.toml"), "--target", "sm_90a", "-o", "tiny.moec"]));
    let tiny = package::read(&std::fs::read(folder.path().join("tiny.moec")).unwrap()).unwrap();
    let ptx = String::from_utf8(tiny.images()[0].clone()).unwrap();
    let endless = ptx.replacen("\tret;", "$ENDLESS:\n\tadd.s32 \t%r1, %r1, 1;\n\tbra.uni \t$ENDLESS;\n\tret;", 1);
    assert_ne!(endless, ptx);
    let bytes = Package::new(tiny.manifest().clone(), vec![endless.into_bytes()]).unwrap().to_bytes().unwrap();
    command::write(folder.path(), "endless.moec", bytes);
    let began = Instant::now();
    let output = moec_in(folder.path(), &["check", "endless.moec", "--emulate", "--tokens", "4"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(command::stdout(&output).contains("step-limit"), "{}", command::stdout(&output));
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

/// Sizes in a file that no machine has room for are refused before anything is made of them.
#[test]
fn counts_in_a_config() {
    let folder = command::folder();
    let vast = 1_000_000_000_000_000u64;
    let mixtral = |layers: u64, experts: u64, hidden: u64| {
        serde_json::json!({
            "model_type": "mixtral", "num_hidden_layers": layers, "num_local_experts": experts, "hidden_size": hidden,
            "num_experts_per_tok": 2, "intermediate_size": 64, "hidden_act": "silu",
        })
        .to_string()
    };
    for (layers, experts, hidden) in [(vast, 8, 64), (4, vast, 64), (4, 8, vast)] {
        let path = command::write(folder.path(), "config.json", mixtral(layers, experts, hidden)).display().to_string();
        for more in [&[][..], &["--layer", "3"]] {
            let began = Instant::now();
            let output = moec_in(folder.path(), &[&["import", &path, "-o", "spec.toml"], more].concat());
            assert!(matches!(output.status.code(), Some(0 | 1)), "{}", stderr(&output));
            if output.status.code() == Some(0) {
                let checked = moec_in(folder.path(), &["check", "spec.toml"]);
                assert_eq!(checked.status.code() == Some(0), layers == vast, "{}", stderr(&checked));
            }
            assert!(began.elapsed() < Duration::from_secs(5), "{layers} {experts} {hidden}");
        }
    }
}
