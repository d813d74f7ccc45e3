//! How long each example spec takes to compile, on one core: to kernels, to PTX for `sm_90a`, to an object for this CPU.
//! The bar is a second each.

mod packages;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use moec::import::Entry;
use moec::pipeline::{lower, this_host};
use moec_codegen::{Options, codegen};
use moec_ir::Machine;

fn compile(criterion: &mut Criterion) {
    let sm_90a = Machine::named("sm_90a").expect("a machine");
    let host = this_host().expect("an x86-64 CPU of level v3");
    let specs: Vec<_> = packages::examples().into_iter().map(|name| (packages::example(&name).0, name)).collect();
    for (name, machine) in [("sm_90a", &sm_90a), ("host", &host)] {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        for (spec, name) in &specs {
            let lower = || lower(spec, Entry::Layer, machine).expect("kernels");
            group.bench_function(BenchmarkId::new("kernels", name), |bencher| bencher.iter(lower));
            let image = || codegen(&lower().program, machine, &Options::default()).expect("an image");
            group.bench_function(BenchmarkId::new("image", name), |bencher| bencher.iter(image));
        }
        group.finish();
    }
}

criterion_group!(benches, compile);
criterion_main!(benches);
