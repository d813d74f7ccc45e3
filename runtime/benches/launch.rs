//! What a launch costs on this CPU beside its kernel: a layer of sixteen kernels that do next to nothing, at one block a
//! kernel and at many. Medians a kernel; without a C compiler it says so.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a table for people")]

#[path = "../tests/fixture/mod.rs"]
mod fixture;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moec_runtime::device::Opened;
use moec_runtime::host::{self, Rayon};
use moec_runtime::{Dims, Layer, Package, Stream};

/// Times that the fixture's two kernels are launched in a run.
const REPEATED: usize = 8;
const SAMPLES: usize = 200;
const RUNS: u32 = 50;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let (source, object) = (folder.path().join("kernels.c"), folder.path().join("kernels.so"));
    std::fs::write(&source, fixture::C).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&object).arg(&source).status();
    if !compiled.is_ok_and(|status| status.success()) {
        println!("skipped: runtime/benches/launch.rs needs `cc`, a C compiler that makes shared objects");
        return;
    }
    let mut manifest = fixture::manifest();
    for regime in &mut manifest.targets[1].regimes {
        regime.launches = vec![regime.launches.clone(); REPEATED].concat();
    }
    let package = Package::new(manifest, vec![fixture::PTX.into(), std::fs::read(&object).unwrap()]).unwrap();
    println!("microseconds a kernel, {} kernels a run; median and 90th percentile of {SAMPLES} samples", 2 * REPEATED);
    let devices: [(&str, Opened); 4] = [
        ("1 thread", host::open(&package, Some(1)).unwrap()),
        ("2 threads", host::open(&package, Some(2)).unwrap()),
        ("as many as CPUs", host::open(&package, None).unwrap()),
        ("rayon", host::open_on(&package, Arc::new(Rayon)).unwrap()),
    ];
    for (name, opened) in devices {
        let layer = Layer::on(&package, opened).unwrap();
        let bound = layer.bind(vec![fixture::w()]).unwrap();
        for tokens in [1, 64] {
            let dims = Dims::tokens(tokens);
            let plan = layer.plan(dims).unwrap();
            let mut batch = bound.batch(&[fixture::x(tokens)], dims).unwrap();
            let [plan, plan_high] = a_kernel(|| plan.run(&bound, &mut batch.memory(), Stream::DEFAULT).unwrap());
            let [launch, launch_high] = a_kernel(|| _ = bound.launch(&mut batch).unwrap());
            println!(
                "{name:>16} {tokens:>4} blocks   Plan::run {plan:>7.3} {plan_high:>7.3}   Bound::launch {launch:>7.3} {launch_high:>7.3}"
            );
        }
    }
}

/// Median and 90th percentile of the microseconds that a kernel of such a run takes.
fn a_kernel(mut run: impl FnMut()) -> [f64; 2] {
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..SAMPLES {
        let start = Instant::now();
        (0..RUNS).for_each(|_| run());
        times.push(start.elapsed() / RUNS);
    }
    times.sort_unstable();
    [times[SAMPLES / 2], times[SAMPLES * 9 / 10]].map(|time| time.as_secs_f64() * 1e6 / (2 * REPEATED) as f64)
}
