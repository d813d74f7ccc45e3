//! How long layers of published size take on this CPU, all cores, with random weights: medians, and where the time goes,
//! launch by launch.
#![allow(clippy::print_stdout, reason = "a table for people")]

mod packages;

use std::collections::HashSet;
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use moec::random;
use moec_runtime::device::{Argument, Device, Opened};
use moec_runtime::{Dims, Error, Layer, host};

const LAYERS: [&str; 2] = ["qwen3-30b-a3b", "olmoe-1b-7b"];
const TOKENS: [u64; 5] = [1, 16, 128, 512, 2048];
/// Runs of which the table shows the median.
const RUNS: usize = 11;

fn layer(criterion: &mut Criterion) {
    for name in LAYERS {
        let spec = packages::example(name);
        let package = packages::host_package(&spec);
        let Opened { device, target } = host::open(&package, None).expect("a device");
        let timed = Arc::new(Timed { device, launches: Mutex::default() });
        let layer = Layer::on(&package, Opened { device: timed.clone(), target }).expect("a layer");
        let bound = layer.bind(random::weights(layer.manifest(), 0).expect("weights")).expect("weights that fit");

        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        let mut columns = Vec::new();
        for tokens in TOKENS {
            let x = random::tokens(layer.manifest().dtype, tokens, spec.0.hidden, 0).expect("tokens");
            let mut batch = bound.batch(&[x], Dims::tokens(tokens)).expect("memory");
            let mut run = || bound.launch(&mut batch).expect("a run");
            group.bench_function(BenchmarkId::from_parameter(tokens), |bencher| bencher.iter(|| black_box(run())));
            timed.take();
            let runs: Vec<Vec<Duration>> = (0..RUNS)
                .map(|_| {
                    run();
                    timed.take()
                })
                .collect();
            let of_launch = |launch: usize| median(runs.iter().map(|run| run[launch]).collect());
            let launches: Vec<Duration> = (0..runs[0].len()).map(of_launch).collect();
            let experts = bound.collect(&batch, Duration::ZERO).expect("outputs");
            let experts = experts.tensor("route.experts").expect("experts").to_i32().expect("numbers");
            columns.push((tokens, experts.into_iter().collect::<HashSet<_>>().len(), launches));
        }
        group.finish();

        let print = |name: &str, cells: Vec<String>| {
            println!("{name:>42}{}", cells.iter().map(|cell| format!("{cell:>10}")).collect::<String>());
        };
        println!("\n{name}: medians of {RUNS}, ms");
        print("tokens", columns.iter().map(|(tokens, ..)| tokens.to_string()).collect());
        print("experts hit", columns.iter().map(|(_, hit, _)| hit.to_string()).collect());
        let ms = |time: Duration| format!("{:.3}", time.as_secs_f64() * 1e3);
        for (index, launch) in layer.target().regimes[0].launches.iter().enumerate() {
            let symbol = &layer.target().kernels[launch.kernel as usize].symbol;
            print(symbol, columns.iter().map(|(.., launches)| ms(launches[index])).collect());
        }
        print("sum", columns.iter().map(|(.., launches)| ms(launches.iter().sum())).collect());
        println!();
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A device that notes how long each launch takes.
#[derive(Debug)]
struct Timed {
    device: Arc<dyn Device>,
    launches: Mutex<Vec<Duration>>,
}

impl Timed {
    /// What was noted since the last time.
    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut self.launches.lock().expect("no panic before"))
    }
}

impl Device for Timed {
    fn name(&self) -> String {
        self.device.name()
    }

    fn alloc(&self, bytes: u64) -> Result<u64, Error> {
        self.device.alloc(bytes)
    }

    fn free(&self, address: u64) {
        self.device.free(address);
    }

    fn fill(&self, address: u64, bytes: u64, value: u8) -> Result<(), Error> {
        self.device.fill(address, bytes, value)
    }

    fn copy_in(&self, address: u64, from: &[u8]) -> Result<(), Error> {
        self.device.copy_in(address, from)
    }

    fn copy_out(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        self.device.copy_out(address, into)
    }

    fn launch(&self, kernel: usize, blocks: u64, args: &[Argument]) -> Result<(), Error> {
        let start = Instant::now();
        let done = self.device.launch(kernel, blocks, args);
        self.launches.lock().expect("no panic before").push(start.elapsed());
        done
    }

    fn sync(&self) -> Result<(), Error> {
        self.device.sync()
    }
}

criterion_group!(benches, layer);
criterion_main!(benches);
