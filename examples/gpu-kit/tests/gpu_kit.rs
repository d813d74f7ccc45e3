//! The kit without a GPU: made by its script from a few small layers, then run as a whole against a driver that runs nothing
//! (`tests/c/mock_driver.c`). Results are wrong there, and times are one constant: what is tested is that every step comes to its
//! end, that what is wrong is said with its place, and that nothing is missing from the table and the JSON.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const CHECK_GPU: &str = env!("CARGO_BIN_EXE_check_gpu");
/// Batches that are timed, and what is timed.
const TIMED: (usize, usize) = (8, 5);
/// Batches of which tokens are compared with the definition.
const SAMPLED: [u64; 4] = [1, 16, 256, 4096];
/// `mma` of bf16, f16 and tf32, and three widths of `wgmma`, each of bf16 and f16.
const PROBES: usize = 9;

/// A shared expert behind a gate, and scores that are renormalised.
const SHARED: &str = r#"
[moe]
name = "shared"
hidden = 64
experts = 12
[router]
mode = "token_choice"
top_k = 3
score = "softmax"
order = "score_topk"
renorm = "sum"
[expert]
intermediate = 96
activation = "silu"
gated = true
[shared]
intermediate = 48
gate = "sigmoid"
"#;

/// Groups of experts, a bias of the selection, biases and clamps of the experts.
const GROUPED: &str = r#"
[moe]
name = "grouped"
hidden = 72
experts = 16
[router]
mode = "token_choice"
top_k = 4
score = "sigmoid"
order = "score_topk"
correction_on = "score"
groups = 4
topk_groups = 2
group_score = "top2_sum"
group_mask = "-inf"
renorm = "sum"
renorm_eps = 1e-20
scale = 2.5
[expert]
intermediate = 40
activation = "silu"
gated = true
alpha = 1.702
clamp_limit = 1.0
clamp_where = "pre"
up_offset = 1.0
bias = true
[numerics]
dtype = "f16"
"#;

struct Made {
    kit: PathBuf,
    driver: PathBuf,
}

/// The kit and the driver; `None`, said aloud, where something is missing.
fn made() -> Option<&'static Made> {
    static MADE: LazyLock<Result<Made, &str>> = LazyLock::new(|| {
        // Built with the workspace, beside this program.
        let moec = Path::new(CHECK_GPU).with_file_name("moec");
        if !moec.is_file() {
            return Err("target/debug has no moec: build the workspace");
        }
        if !Command::new("cc").arg("--version").output().is_ok_and(|output| output.status.success()) {
            return Err("it needs `cc`, a C compiler");
        }
        let room = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gpu-kit");
        let (kit, driver) = (room.join("kit"), room.join("driver"));
        fs::create_dir_all(&driver).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-shared", "-fPIC", "-o"]);
        succeeds(cc.arg(driver.join("libcuda.so.1")).arg(Path::new(ROOT).join("tests/c/mock_driver.c")));
        for (name, text) in [("shared", SHARED), ("grouped", GROUPED)] {
            fs::write(room.join(format!("{name}.toml")), text).unwrap();
        }
        let layers = ["grouped", "shared"].map(|name| room.join(format!("{name}.toml")).to_string_lossy().into_owned());
        let mut script = Command::new("bash");
        script.arg("scripts/gpu_kit.sh").arg(&kit).current_dir(ROOT);
        script.env("MOEC", moec).env("CHECK_GPU", CHECK_GPU).env("MOEC_PTXAS", "").env("LAYERS", layers.join(" "));
        script.env("CASES", "huggingface/mixtral.toml other/softmoe_vmoe.toml").env("TYPED", "huggingface/mixtral.toml");
        succeeds(&mut script);
        Ok(Made { kit, driver })
    });
    match &*MADE {
        Ok(made) => Some(made),
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "skipped: gpu-kit: {why}");
            None
        }
    }
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// What the kit's script says on the mock.
fn run(made: &Made, out: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut run = Command::new(made.kit.join("run"));
    run.arg("--out").arg(out).args(flags);
    run.env("LD_LIBRARY_PATH", &made.driver).env("MOCK_ARCH", "90").env("MOCK_LOG", "/dev/null");
    // A Python that surely has no torch.
    run.env("PYTHONNOUSERSITE", "1").env_remove("PYTHONPATH").env("COMPUTE_SANITIZER", "no-such-sanitizer");
    run.envs(environment.iter().copied()).output().unwrap()
}

/// A program of `sh`.
fn script(path: &Path, text: &str) -> String {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_string_lossy().into_owned()
}

fn rows(out: &Path) -> Vec<Value> {
    let results: Value = serde_json::from_slice(&fs::read(out.join("results.json")).unwrap()).unwrap();
    assert_eq!(results["gpu"]["name"], "Mock GPU");
    assert_eq!(results["gpu"]["capability"], 90);
    assert!(results["date"].as_str().unwrap().starts_with("20"), "{}", results["date"]);
    results["rows"].as_array().unwrap().clone()
}

fn of<'r>(rows: &'r [Value], step: &str) -> Vec<&'r Value> {
    rows.iter().filter(|row| row["step"] == step).collect()
}

/// All rows of a step have this status, and say this.
#[track_caller]
fn all_say(rows: &[Value], step: &str, count: usize, status: &str, detail: &str) {
    let of_step = of(rows, step);
    assert_eq!(of_step.len(), count, "{step}: {of_step:#?}");
    for row in of_step {
        assert!(row["status"] == status && row["detail"].as_str().unwrap().contains(detail), "{row:#}");
    }
}

#[test]
fn a_driver_that_runs_nothing_is_found_out() {
    let Some(made) = made() else { return };
    let out = tempfile::tempdir().unwrap();
    let output = run(made, out.path(), &[], &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let rows = rows(out.path());
    // Two layers, one of them in three types; two of real size.
    all_say(&rows, "case", 4, "failed", "the output was not written");
    all_say(&rows, "matrix", PROBES, "failed", "sums differ from the model Hopper; first sum 0 of thread 0 in block 0");
    all_say(&rows, "sanitize", 12, "skipped", "no-such-sanitizer");
    all_say(&rows, "sample", 2 * SAMPLED.len(), "failed", "the output was not written");
    all_say(&rows, "repeat", 4 + 2, "failed", "the output was not written");
    all_say(&rows, "graph", 4 + 2, "failed", "the output was not written");
    // Times are the mock's, of every layer at every batch by everything.
    let timed = of(&rows, "time");
    assert_eq!(timed.len(), 2 * TIMED.0 * TIMED.1);
    for row in timed {
        if row["by"] == "moec" {
            assert_eq!((row["us"].as_f64(), row["graph_us"].as_f64()), (Some(125.0), Some(125.0)), "{row:#}");
        } else {
            assert!(row["status"] == "skipped" && row["detail"].as_str().unwrap().contains("torch"), "{row:#}");
        }
    }
    let table = fs::read_to_string(out.path().join("results.txt")).unwrap();
    assert!(said.contains(&table), "{said}");
    for layer in ["shared", "grouped"] {
        for tokens in [1, 4, 16, 64, 256, 1024, 4096, 16384] {
            let begins = format!("{layer:<20} {tokens:>6}      125.0      125.0");
            assert_eq!(table.lines().filter(|line| line.starts_with(&begins)).count(), 1, "{table}");
        }
    }
}

/// Outputs that are zero: equal in each run and each replay, and not what they should be. A sanitizer that finds something.
#[test]
fn wrong_results_are_said_with_their_place() {
    let Some(made) = made() else { return };
    let out = tempfile::tempdir().unwrap();
    // `--tool T --error-exitcode N PROGRAM ..`
    let sanitizer = script(
        &out.path().join("sanitizer"),
        "code=$4; shift 4\necho '========= COMPUTE-SANITIZER'\n\"$@\"\n\
         echo '========= Invalid __global__ read of size 4'\nexit $code",
    );
    // Peers that answer each job at once.
    let answer = r#"{"status": "ok", "detail": "a script", "us": [30.0, 10.0, 20.0], "graph_us": [8.0]}"#;
    let python = script(&out.path().join("python"), &format!("while read -r job; do echo hello; echo '{answer}'; done"));
    let environment = [("MOCK_FILL", "0"), ("COMPUTE_SANITIZER", &*sanitizer), ("PYTHON", &*python)];
    let output = run(made, out.path(), &[], &environment);
    assert_eq!(output.status.code(), Some(1));
    let rows = rows(out.path());
    for (name, detail) in [
        ("mixtral", "published: token "),
        ("softmoe_vmoe", "published: token "),
        ("mixtral.bf16", "experts: token 0, column "),
        ("mixtral.f16", "experts: token 0, column "),
    ] {
        let row = of(&rows, "case").into_iter().find(|row| row["name"] == name).unwrap();
        assert!(row["status"] == "failed" && row["detail"].as_str().unwrap().starts_with(detail), "{row:#}");
    }
    all_say(&rows, "repeat", 6, "ok", "the same bits in 1000 runs");
    all_say(&rows, "graph", 6, "ok", "3 replays");
    // Three or four picks of expert 0.
    all_say(&rows, "sample", 2 * SAMPLED.len(), "failed", "token 0: experts [0, 0, 0");
    let peers: Vec<&Value> = of(&rows, "time").into_iter().filter(|row| row["by"] != "moec").collect();
    assert_eq!(peers.len(), 2 * TIMED.0 * (TIMED.1 - 1));
    for row in peers {
        // The median of what three rounds brought.
        assert_eq!((row["us"].as_f64(), row["graph_us"].as_f64(), &row["detail"]), (Some(20.0), Some(8.0), &"a script".into()));
    }
    let table = fs::read_to_string(out.path().join("results.txt")).unwrap();
    let begins = format!("{:<20} {:>6}      125.0      125.0        8.0        8.0        8.0        8.0", "shared", 64);
    assert!(table.lines().any(|line| line.starts_with(&begins)), "{table}");
    let sanitized = of(&rows, "sanitize");
    let found: Vec<_> = sanitized.iter().filter(|row| row["name"] == "all of these").collect();
    assert_eq!(found.len(), 3, "{sanitized:#?}");
    for row in found {
        assert!(row["status"] == "failed" && row["detail"].as_str().unwrap().contains("Invalid __global__ read"), "{row:#}");
    }
}

/// A kernel that hangs takes what it is part of, and not the rest.
#[test]
fn a_hanging_kernel_is_ended() {
    let Some(made) = made() else { return };
    let out = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let output = run(made, out.path(), &["--seconds", "60"], &[("MOCK_FILL", "0"), ("MOCK_HANG", "softmoe")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let rows = rows(out.path());
    let row = |step: &str, name: &str| rows.iter().find(|row| row["step"] == step && row["name"] == name).unwrap().clone();
    let hung = row("case", "softmoe_vmoe");
    assert!(hung["status"] == "failed" && hung["detail"].as_str().unwrap().contains("the process was ended"), "{hung:#}");
    for step in ["repeat", "graph"] {
        let follows = row(step, "softmoe_vmoe");
        assert!(
            follows["status"] == "skipped" && follows["detail"].as_str().unwrap().contains("it ended the process before"),
            "{follows:#}"
        );
        assert_eq!(row(step, "mixtral")["status"], "ok");
    }
    assert_eq!(row("graph", "shared")["status"], "ok");
}

#[test]
fn what_there_is_no_time_for_is_named() {
    let Some(made) = made() else { return };
    let out = tempfile::tempdir().unwrap();
    let output = run(made, out.path(), &["--seconds", "0.001"], &[]);
    assert_eq!(output.status.code(), Some(0), "nothing that was checked is wrong");
    let rows = rows(out.path());
    for (step, count) in
        [("case", 4), ("matrix", PROBES), ("sample", 8), ("repeat", 6), ("graph", 6), ("time", 2 * TIMED.0 * TIMED.1)]
    {
        all_say(&rows, step, count, "skipped", "no time left");
    }
    let table = fs::read_to_string(out.path().join("results.txt")).unwrap();
    assert!(table.contains("skipped  time      shared, T = 16384, moec: no time left"), "{table}");
}

#[test]
fn a_machine_without_a_gpu_is_told_so() {
    let Some(made) = made() else { return };
    let out = tempfile::tempdir().unwrap();
    let output = run(made, out.path(), &[], &[("MOCK_FAIL", "cuInit 100")]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("error: no NVIDIA GPU: cuInit says CUDA_ERROR_NO_DEVICE"), "{told}");
    let usage = run(made, out.path(), &["--seconds", "never"], &[]);
    assert_eq!(usage.status.code(), Some(2));
}

/// The definition at some tokens, and the numbers that are counted, against kernels that are known to be right: the host's.
#[test]
fn the_definition_agrees_with_the_host() {
    let Some(made) = made() else { return };
    for layer in ["shared", "grouped"] {
        for tokens in ["1", "2", "129"] {
            let said = succeeds(Command::new(CHECK_GPU).arg("sample").arg(&made.kit).args([layer, tokens]));
            assert!(said.starts_with("ok "), "{layer}, {tokens}: {said}");
        }
    }
}

/// The texts that the driver would be given.
#[test]
fn the_assembler_takes_the_probes() {
    let Some(ptxas) = moec_codegen::Ptxas::find() else {
        let _ = writeln!(std::io::stderr(), "skipped: gpu-kit: probes: there is no ptxas");
        return;
    };
    let room = tempfile::tempdir().unwrap();
    let names = succeeds(Command::new(CHECK_GPU).args(["probe", "list"]));
    assert_eq!(names.lines().count(), PROBES, "{names}");
    for name in names.lines() {
        let text = succeeds(Command::new(CHECK_GPU).args(["probe", name]));
        let (path, target) = (room.path().join("probe.ptx"), if name.starts_with("mma") { "sm_80" } else { "sm_90a" });
        fs::write(&path, text).unwrap();
        let output =
            Command::new(ptxas.path()).arg(format!("-arch={target}")).arg("-v").arg(&path).current_dir(room.path()).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("warning"), "{name}: {said}");
        assert!(said.contains(" 0 bytes spill stores"), "{name}: {said}");
    }
}

/// Where torch is, peers are held against a plain loop; elsewhere the script says what it lacks.
#[test]
fn peers_start_without_torch() {
    let Some(made) = made() else { return };
    let peers = made.kit.join("peers.py");
    let Ok(output) = Command::new("python3").arg(&peers).arg("check").output() else {
        let _ = writeln!(std::io::stderr(), "skipped: gpu-kit: peers: there is no python3");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("grouped_mm, T = 129: off by ") || said.contains("skipped: torch is not installed"), "{said}");
    let wrong = Command::new("python3").arg(&peers).output().unwrap();
    assert_eq!(wrong.status.code(), Some(1), "usage");
}
