//! `moec check --emulate` and `moec run --device emulator` from the outside: what they print and how they end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use moec_runtime::{Package, package};

fn moec(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moec")).args(arguments).env("MOEC_PTXAS", "").output().unwrap()
}

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/specs").join(name).display().to_string()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_spec_is_checked() {
    let output = moec(&["check", &example("tiny.toml"), "--emulate", "--tokens", "0,5", "--profile", "--target", "sm_80"]);
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{}", text(&output.stderr));
    assert!(stdout.starts_with("tiny, f32, sm_80 on the emulator; round-robin, random, adversarial\n"), "{stdout}");
    assert!(stdout.contains(" 5 tokens: 4 launches, ") && stdout.contains(" 0 tokens: 0 launches, "), "{stdout}");
    assert!(
        stdout.contains("0 findings, the same bits under 3 schedules, error ") && stdout.contains("tiny_combine "),
        "{stdout}"
    );
}

#[test]
fn json_is_one_object() {
    let arguments = ["check", &example("tiny.toml"), "--emulate", "--tokens", "2", "--schedules", "4", "--profile"];
    let output = moec(&[&arguments[..], &["--message-format", "json"]].concat());
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let batch = &object["batches"][0];
    assert_eq!((&batch["tokens"], &batch["same_bits"]), (&2.into(), &true.into()));
    assert!(batch["error"].as_f64().unwrap() <= batch["bound"].as_f64().unwrap());
    assert!(batch["kernels"][0]["counters"]["barriers"].as_u64().unwrap() > 0);
}

#[test]
fn a_large_layer_is_sampled() {
    let output = moec(&["check", &example("mixtral-8x7b.toml"), "--emulate", "--tokens", "40", "--schedules", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("too large to run whole: blocks 0 and last"), "{}", text(&output.stderr));
    assert!(!text(&output.stdout).contains("error"), "{}", text(&output.stdout));
}

/// A package whose first kernel lacks a barrier that it needs.
fn broken(folder: &Path) -> String {
    let without_barrier = |kernel: &str| {
        let (before, after) = kernel.rsplit_once("bar.sync").unwrap();
        let rest = after.split_once(';').unwrap().1;
        format!("{before}{rest}")
    };
    edited(folder, |ptx| in_kernel(ptx, "tiny_route_and_sort_router", without_barrier))
}

/// A package whose PTX was edited after it was compiled.
fn edited(folder: &Path, edit: impl Fn(&str) -> String) -> String {
    let path = folder.join("layer.moec");
    let name = path.display().to_string();
    let compiled = moec(&["compile", &example("tiny.toml"), "--target", "sm_80", "-o", &name]);
    assert!(compiled.status.success(), "{}", text(&compiled.stderr));
    let whole = package::read(&std::fs::read(&path).unwrap()).unwrap();
    let ptx = text(&whole.images()[0]);
    let package = Package::new(whole.manifest().clone(), vec![edit(&ptx).into_bytes()]).unwrap();
    std::fs::write(&path, package.to_bytes().unwrap()).unwrap();
    name
}

/// One kernel's text, edited.
fn in_kernel(ptx: &str, kernel: &str, edit: impl Fn(&str) -> String) -> String {
    let start = ptx.find(&format!(".entry {kernel}(")).unwrap();
    let end = ptx[start..].find("\n}\n").unwrap() + start;
    format!("{}{}{}", &ptx[..start], edit(&ptx[start..end]), &ptx[end..])
}

/// Bugs that leave no race and no wrong address behind: stores that are gone, stores into an input, a loop without end.
#[test]
fn planted_bugs_are_found_within_seconds() {
    let without_stores = |kernel: &str| {
        let lines = kernel.lines().filter(|line| !line.contains("st.global"));
        lines.collect::<Vec<_>>().join("\n")
    };
    // The load of the last address, that of the rows' weights, becomes one of the tokens': the stores go there.
    let into_input = |kernel: &str| {
        let address = kernel.lines().rfind(|line| line.contains(".param .u64")).unwrap();
        let last = address.split_whitespace().last().unwrap().trim_end_matches(',');
        let (at, _) = kernel.rmatch_indices(last).next().unwrap();
        format!("{}tiny_route_and_sort_router_param_0{}", &kernel[..at], &kernel[at + last.len()..])
    };
    // The first backward branch forgets its condition.
    let endless = |kernel: &str| {
        let loops = kernel.lines().enumerate().find(|(at, line)| {
            let target = line.trim().strip_prefix("@%p").and_then(|rest| rest.split_once("bra \t")).map(|(_, label)| label);
            let label = target.map(|label| format!("{}:", label.trim_end_matches(';')));
            label.is_some_and(|label| kernel.lines().take(*at).any(|earlier| earlier.trim_start().starts_with(&label)))
        });
        let (at, line) = loops.unwrap();
        let bare = format!("bra.uni {}", line.split_once("bra").unwrap().1.trim());
        let lines = kernel.lines().enumerate().map(|(i, line)| if i == at { bare.as_str() } else { line });
        lines.collect::<Vec<_>>().join("\n")
    };
    type Edit<'a> = &'a dyn Fn(&str) -> String;
    let bugs: [(&str, &str, Edit<'_>); 3] = [
        ("never-written: ", "tiny_combine", &without_stores),
        ("read-only: tiny_route_and_sort_router ", "tiny_route_and_sort_router", &into_input),
        ("MOE0807", "tiny_route_and_sort_router", &endless),
    ];
    for (expected, kernel, bug) in bugs {
        let folder = tempfile::tempdir().unwrap();
        let package = edited(folder.path(), |ptx| in_kernel(ptx, kernel, bug));
        let started = std::time::Instant::now();
        for arguments in [
            &["check", &package, "--emulate", "--tokens", "17"][..],
            &["run", &package, "--device", "emulator", "--tokens", "17"],
        ] {
            let output = moec(arguments);
            let said = text(&output.stdout) + &text(&output.stderr);
            assert_eq!(output.status.code(), Some(4), "{kernel}: {said}");
            assert!(said.contains(expected), "{kernel}: {said}");
        }
        // Generous, since machines are shared; without a limit it took more than 200 s.
        assert!(started.elapsed().as_secs() < 100, "{kernel}: {:?}", started.elapsed());
    }
}

#[test]
fn findings_end_with_exit_code_4() {
    let folder = tempfile::tempdir().unwrap();
    let package = broken(folder.path());
    let checked = moec(&["check", &package, "--emulate", "--tokens", "17"]);
    let (stdout, stderr) = (text(&checked.stdout), text(&checked.stderr));
    assert_eq!(checked.status.code(), Some(4), "{stdout}\n{stderr}");
    assert!(stdout.contains("shared-race: tiny_route_and_sort_router at ") && stdout.contains(" warp "), "{stdout}");
    assert!(stderr.contains("error[MOE0807]: the emulator has "), "{stderr}");
    let ran = moec(&["run", &package, "--device", "emulator", "--tokens", "17"]);
    assert_eq!(ran.status.code(), Some(4), "{}", text(&ran.stderr));
    assert!(text(&ran.stdout).contains("shared-race: "), "{}", text(&ran.stdout));
}

#[test]
fn a_layer_runs_on_the_emulator() {
    let output =
        moec(&["run", &example("tiny.toml"), "--device", "emulator", "--target", "sm_80", "--tokens", "3", "--reference"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("sm_80 on the emulator"), "{}", text(&output.stdout));
}

#[test]
fn usage() {
    let code = |arguments: &[&str]| moec(arguments).status.code();
    let tiny = example("tiny.toml");
    assert_eq!(code(&["check", &tiny, "--profile"]), Some(2), "needs --emulate");
    assert_eq!(code(&["check", &tiny, "--emulate", "--blocks", "0,first"]), Some(2));
    assert_eq!(code(&["check", &tiny, "--emulate", "--target", "host"]), Some(2), "a CPU has no PTX");
    assert_eq!(code(&["run", &tiny, "--target", "sm_80"]), Some(2), "needs the emulator");
    assert_eq!(code(&["check", &tiny, "--emulate", "--tokens", "4097"]), Some(1), "tokens.max is 4096");
}
