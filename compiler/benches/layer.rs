//! How long layers of published size take on this CPU, all cores, with random weights: medians, and where the time goes,
//! launch by launch.
#![allow(clippy::print_stdout, reason = "a table for people")]

mod packages;
mod timed;

use std::collections::HashSet;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use moec::random;
use moec_runtime::{Dims, Layer};
use timed::{Timed, median};

const LAYERS: [&str; 2] = ["qwen3-30b-a3b", "olmoe-1b-7b"];
const TOKENS: [u64; 5] = [1, 16, 128, 512, 2048];
/// Runs of which the table shows the median.
const RUNS: usize = 11;

fn layer(criterion: &mut Criterion) {
    for name in LAYERS {
        let spec = packages::example(name);
        let package = packages::host_package(&spec);
        let (opened, timed) = Timed::open(&package);
        let layer = Layer::on(&package, opened).expect("a layer");
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

criterion_group!(benches, layer);
criterion_main!(benches);
