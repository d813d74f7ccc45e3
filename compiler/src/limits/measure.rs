//! Measuring: the kernels of `moec_ir::schedule::limits`, compiled for each target that this CPU runs, and a clock.
//! Of some tries the fastest counts: what else the machine does can only make one slower.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use moec_codegen::Options;
use moec_ir::DType;
use moec_ir::machine::MACHINES;
use moec_ir::schedule::limits::{self, ELEMENTS, FILL, READ, limits};
use moec_runtime::device::{Argument, Start};
use moec_runtime::{Device, Region, host};

use super::{Limits, Products, Rates};
use crate::package::of_kernels;
use crate::pipeline::{Error, fits_this_host};

/// How often each loop usually runs.
pub const TRIES: usize = 7;
/// Seconds that a loop of products takes at least: far above the clock's steps and what starting threads takes.
const LONG: f64 = 0.006;
/// Memory that is read: more than caches have, and enough of it that starting threads takes no part of the time.
const LEAST_BYTES: u64 = 256 << 20;
/// However large the caches are.
const MOST_BYTES: u64 = 2 << 30;
/// Caches where the system does not say.
const USUAL_CACHE: u64 = 32 << 20;
/// Blocks of loops of products for each thread, so that one that begins late has fewer of them.
const BLOCKS_A_THREAD: u64 = 16;
/// Of each byte: floats of 0.747, whose sums and products are usual numbers.
const BYTE: u8 = 0x3f;

/// Measures this machine, by all threads that a run has by default, and by one of them. Each loop runs `tries` times.
///
/// # Errors
/// [`Error::Codegen`] and [`Error::Package`], where the kernels cannot be compiled, loaded or run, or memory is short.
pub fn measure(tries: usize) -> Result<Limits, Error> {
    let threads = rayon::current_num_threads();
    let cache_bytes = cache_bytes(Path::new("/sys/devices/system/cpu/cpu0/cache"), threads as u64);
    let mut of_products = Vec::new();
    let mut reading = None;
    for machine in MACHINES.iter().filter(|machine| fits_this_host(machine)) {
        let limits = limits(machine);
        let objects = moec_codegen::codegen(&limits.program, machine, &Options::default())?;
        let device = host::open(&of_kernels(&limits.program, machine, &objects)?, None)?.device;
        for products in limits.products {
            let measured =
                Products { target: machine.name.into(), dtype: word(products.elem).into(), flops: Rates { one: 0, all: 0 } };
            of_products.push((measured, Loop::of_products(&device, products, threads as u64)?));
        }
        reading = Some(device);
    }
    // Memory is not faster for one target than for another: the last has the widest vectors.
    let mut reading = reading.map(|device| Loop::of_reading(&device, cache_bytes)).transpose()?;
    // One after the other, again and again: what disturbs the machine for a while does so to few tries of each.
    for _ in 0..tries {
        of_products.iter_mut().map(|(_, products)| products).chain(&mut reading).try_for_each(Loop::try_once)?;
    }
    let products = of_products.into_iter().map(|(products, of)| Products { flops: of.rates(), ..products }).collect();
    let read = reading.map_or(Rates { one: 0, all: 0 }, |reading| reading.rates());
    Ok(Limits { cpu: cpu(), threads, cache_bytes, read, products })
}

fn word(elem: DType) -> &'static str {
    if elem == DType::BF16 { "bf16" } else { "f32" }
}

/// A kernel on the host, its memory, and the fastest that it was.
struct Loop {
    device: Arc<dyn Device>,
    kernel: usize,
    memory: Region,
    sums: Region,
    one: Launch,
    all: Launch,
}

/// A launch that is tried.
#[derive(Clone, Copy)]
struct Launch {
    /// One block runs on the thread that is here.
    blocks: u64,
    /// The number that each block is given.
    n: u64,
    /// What it does: bytes or FLOPs.
    amount: f64,
    /// Seconds of the fastest try.
    fastest: f64,
}

impl Loop {
    /// `elements` of memory, written by blocks of so many.
    fn new(device: &Arc<dyn Device>, kernel: usize, elements: u64, block: u64) -> Result<Loop, Error> {
        let blocks = elements / block;
        let memory = Region::new(device, elements * 4)?;
        // As many as any launch has blocks.
        let mut sums = Region::new(device, 4 * blocks.max(BLOCKS_A_THREAD * rayon::current_num_threads() as u64))?;
        sums.fill(BYTE)?;
        let none = Launch { blocks: 1, n: 0, amount: 0.0, fastest: f64::INFINITY };
        let made = Loop { device: Arc::clone(device), kernel, memory, sums, one: none, all: none };
        // The number that memory is filled with is the first of the sums, before any is stored.
        made.launch(FILL, blocks, block)?;
        Ok(made)
    }

    /// Products, with as many turns as take long enough.
    fn of_products(device: &Arc<dyn Device>, products: limits::Products, threads: u64) -> Result<Loop, Error> {
        let mut made = Loop::new(device, products.kernel, ELEMENTS, ELEMENTS)?;
        let mut turns = 1024;
        while made.launch(products.kernel, 1, turns)? < LONG {
            turns *= 2;
        }
        let launch = |blocks: u64, n: u64| {
            let amount = (blocks * n * products.flops_a_turn) as f64;
            Launch { blocks, n, amount, fastest: f64::INFINITY }
        };
        made.one = launch(1, turns);
        made.all = launch(BLOCKS_A_THREAD * threads, turns.div_ceil(BLOCKS_A_THREAD));
        Ok(made)
    }

    /// Reading of more memory than caches hold. Threads write it first, so that it lies where they are.
    fn of_reading(device: &Arc<dyn Device>, cache_bytes: u64) -> Result<Loop, Error> {
        const BLOCK: u64 = 1 << 18;
        let blocks = (4 * cache_bytes).clamp(LEAST_BYTES, MOST_BYTES) / (4 * BLOCK);
        let mut made = Loop::new(device, READ, blocks * BLOCK, BLOCK)?;
        let launch = |blocks: u64, n: u64| Launch { blocks, n, amount: (4 * blocks * n) as f64, fastest: f64::INFINITY };
        made.one = launch(1, blocks * BLOCK);
        made.all = launch(blocks, BLOCK);
        Ok(made)
    }

    /// Seconds of a launch of so many blocks, each with the number `n`.
    fn launch(&self, kernel: usize, blocks: u64, n: u64) -> Result<f64, Error> {
        let memory = |buffer, region: &Region| Argument::Memory { buffer, address: region.address(), bytes: region.bytes() };
        let args = [memory(1, &self.memory), memory(2, &self.sums), Argument::I64(i64::try_from(n).unwrap_or(i64::MAX))];
        let start = Instant::now();
        self.device.launch(Start { kernel, blocks, early: false, working: None }, &args)?;
        self.device.sync()?;
        // A clock that stands still would make no rate.
        Ok(start.elapsed().as_secs_f64().max(1e-9))
    }

    /// One thread, then all.
    fn try_once(&mut self) -> Result<(), Error> {
        let [one, all] = [self.one, self.all].map(|launch| self.launch(self.kernel, launch.blocks, launch.n));
        self.one.fastest = self.one.fastest.min(one?);
        self.all.fastest = self.all.fastest.min(all?);
        Ok(())
    }

    fn rates(&self) -> Rates {
        let [one, all] = [self.one, self.all].map(|launch| (launch.amount / launch.fastest) as u64);
        Rates { one, all }
    }
}

/// This CPU's model as the system names it, with the numbers that tell models of one name apart.
#[must_use]
pub fn cpu() -> String {
    let described = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| named(&text));
    let identifier = || std::env::var("PROCESSOR_IDENTIFIER").ok();
    described.or_else(identifier).unwrap_or_else(|| format!("unknown, {}", std::env::consts::ARCH))
}

/// Name, family and model of the first processor in the text of `/proc/cpuinfo`.
fn named(text: &str) -> Option<String> {
    let value = |key: &str| {
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        pairs.map(|(name, value)| (name.trim(), value.trim())).find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    let Some(name) = value("model name") else {
        // Arm's have numbers in the place of names.
        return Some(format!("Arm (implementer {}, part {})", value("CPU implementer")?, value("CPU part")?));
    };
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    match (value("cpu family"), value("model")) {
        (Some(family), Some(model)) => Some(format!("{name} (family {family}, model {model})")),
        (_, _) => Some(name),
    }
}

/// Bytes of the last caches of so many threads, by the folder in which Linux describes those of one processor.
fn cache_bytes(folder: &Path, threads: u64) -> u64 {
    let read = |cache: &Path, name: &str| fs::read_to_string(cache.join(name)).unwrap_or_default();
    let of_cache = |cache: &Path| {
        let level: u32 = read(cache, "level").trim().parse().ok()?;
        let size = read(cache, "size");
        let kib: u64 = size.trim().strip_suffix('K')?.parse().ok()?;
        let sharing = processors(read(cache, "shared_cpu_list").trim()).max(1);
        Some((level, (kib << 10) * threads.div_ceil(sharing)))
    };
    let caches = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| of_cache(&entry.ok()?.path()));
    caches.max().map_or(USUAL_CACHE, |(_, bytes)| bytes)
}

/// How many processors a list such as `0-7,64-71` has.
fn processors(list: &str) -> u64 {
    let range = |part: &str| -> Option<u64> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        (last.parse::<u64>().ok()? + 1).checked_sub(first.parse().ok()?)
    };
    list.split(',').filter_map(range).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_of_one_name_are_told_apart() {
        let text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD  EPYC\n\nprocessor\t: 1\nmodel\t\t: 18\n";
        assert_eq!(named(text).as_deref(), Some("AMD EPYC (family 25, model 17)"));
        assert_eq!(named("model name : Some CPU").as_deref(), Some("Some CPU"));
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\n";
        assert_eq!(named(arm).as_deref(), Some("Arm (implementer 0x41, part 0xd0c)"));
        assert_eq!(named("processor : 0"), None);
    }

    #[test]
    fn caches_of_the_last_level_are_counted_for_all_threads() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(cache_bytes(folder.path(), 4), 32 << 20, "where nothing is said");
        for (name, level, size, list) in
            [("index0", "1", "32K", "0"), ("index3", "3", "1024K", "0-1,8-9"), ("uevent", "", "", "")]
        {
            let cache = folder.path().join(name);
            fs::create_dir(&cache).unwrap();
            for (file, text) in [("level", level), ("size", size), ("shared_cpu_list", list)] {
                fs::write(cache.join(file), format!("{text}\n")).unwrap();
            }
        }
        // Four processors share one.
        assert_eq!([1, 4, 5, 16].map(|threads| cache_bytes(folder.path(), threads) >> 20), [1, 1, 2, 4]);
    }
}
