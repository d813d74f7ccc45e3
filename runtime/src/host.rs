//! The CPU as a device: the package's shared object, its blocks spread over threads. No kernels and no scheduling beyond
//! that: a block is whatever the compiler made it, and blocks do not see each other.
#![allow(unsafe_code, reason = "kernels are foreign functions over raw memory")]

use std::collections::BTreeMap;
use std::io::Write;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libloading::Library;

use crate::device::{Argument, Device, Given, Kept, Launches, MAX_THREADS, Opened, Start, Stream, Working};
use crate::error::Error;
use crate::package::{ImageKind, PARAMS_MAX, Package, Target, TargetKind};
use memory::Block;
use threads::Threads;
use together::{Blocks, Parts, TOGETHER};

mod memory;
mod parallel;
mod threads;
mod together;

pub use parallel::{Parallel, Rayon};

/// Every kernel's signature: its arguments as 64-bit words, and the blocks `begin..end` to run.
type Function = unsafe extern "C" fn(args: *const u64, begin: u64, end: u64);

#[derive(Debug)]
struct Host {
    /// In the order of the target's kernels. Valid as long as `library`.
    functions: Vec<Function>,
    parallel: Arc<dyn Parallel>,
    live: Mutex<BTreeMap<u64, Arc<Block>>>,
    /// Last, so that it outlives the rest.
    _library: Library,
}

/// The CPU, with the kernels of the package's best target for it loaded: of those whose features it has, the one that
/// uses the most. The shared object is code and runs with this process's rights.
///
/// # Errors
/// [`Error::Threads`] where `threads` is outside 1 to [`MAX_THREADS`], [`Error::NoImage`] where the package has no host
/// target, [`Error::CpuFeatures`] where none fits, [`Error::LoadImage`] where the system refuses it or a kernel is not in it.
pub fn open(package: &Package, threads: Option<usize>) -> Result<Opened, Error> {
    match threads {
        Some(threads) if !(1..=MAX_THREADS).contains(&threads) => Err(Error::Threads { threads, max: MAX_THREADS }),
        Some(threads) => open_on(package, Arc::new(Threads::new(threads)?)),
        None => open_on(package, Threads::shared()?),
    }
}

/// As [`open`], the work of every run shared out by `parallel`: [`Rayon`], or the caller's own threads.
///
/// # Errors
/// Those of [`open`] but for [`Error::Threads`].
pub fn open_on(package: &Package, parallel: Arc<dyn Parallel>) -> Result<Opened, Error> {
    let index = choose(&package.manifest().targets, has_feature)?;
    let target = &package.manifest().targets[index];
    let image = target.images.iter().find_map(|image| {
        let image = *image as usize;
        (package.manifest().images[image].kind == ImageKind::SharedObject).then(|| &package.images()[image])
    });
    let image = image.ok_or_else(|| refused("the target has no shared object"))?;
    let library = load(image)?;
    let mut functions = Vec::with_capacity(target.kernels.len());
    for kernel in &target.kernels {
        // SAFETY: the compiler gives every host kernel the signature of `Function`; the image has its hash.
        let function = unsafe { library.get::<Function>(&kernel.symbol) };
        functions.push(*function.map_err(|_| refused(format!("it has no kernel `{}`", kernel.symbol)))?);
    }
    tracing::debug!(target = target.name, kernels = functions.len(), "host image loaded");
    let device = Arc::new(Host { functions, parallel, live: Mutex::default(), _library: library });
    Ok(Opened { device, target: index })
}

/// The index of the target to run on a CPU that has these features.
fn choose(targets: &[Target], has: impl Fn(&str) -> bool) -> Result<usize, Error> {
    let hosts = || targets.iter().enumerate().filter(|(_, target)| target.kind == TargetKind::Host);
    let missing =
        |target: &Target| -> Vec<String> { target.cpu_features.iter().filter(|feature| !has(feature)).cloned().collect() };
    // `max_by_key` takes the last of equals; reversed, that is the first in the package.
    let fit = hosts().rev().filter(|(_, target)| missing(target).is_empty());
    if let Some((index, _)) = fit.max_by_key(|(_, target)| target.cpu_features.len()) {
        return Ok(index);
    }
    // What no CPU of this architecture has is for another one.
    let is_for_others = |target: &Target| target.cpu_features.iter().any(|feature| !FEATURES.contains(&feature.as_str()));
    let nearest = hosts().map(|(_, target)| target).min_by_key(|target| (is_for_others(target), missing(target).len()));
    Err(match nearest {
        Some(target) => Error::CpuFeatures { target: target.name.clone(), missing: missing(target) },
        None => Error::NoImage {
            device: "the host CPU".into(),
            targets: targets.iter().map(|target| target.name.clone()).collect(),
            wanted: "host".into(),
        },
    })
}

/// The features that the standard library detects on an architecture, as one table.
macro_rules! features {
    ($detect:ident; $($known:tt)+) => {
        /// Features that [`has_feature`] knows. What a stable compiler cannot detect is not among them: AMX.
        pub const FEATURES: &[&str] = &[$($known,)+];

        /// Whether this CPU has a feature, in LLVM's spelling; one that is not among [`FEATURES`] it has not.
        #[must_use]
        pub fn has_feature(feature: &str) -> bool {
            // LLVM and the standard library disagree on two names; everything else is spelt alike.
            let feature = match feature {
                "bmi" => "bmi1",
                "cx16" => "cmpxchg16b",
                same => same,
            };
            match feature {
                $($known => std::arch::$detect!($known),)+
                // Unknown here is absent: refusing to run is better than an illegal instruction.
                _ => false,
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
features! {is_x86_feature_detected;
"sse" "sse2" "sse3" "ssse3" "sse4.1" "sse4.2" "avx" "avx2" "fma" "f16c" "bmi1" "bmi2" "lzcnt" "popcnt" "movbe"
"cmpxchg16b" "fxsr" "xsave" "adx" "aes" "pclmulqdq" "rdrand" "rdseed" "sha" "gfni" "vaes" "vpclmulqdq" "avxvnni"
"avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl" "avx512ifma" "avx512vbmi" "avx512vbmi2" "avx512vnni"
"avx512bitalg" "avx512vpopcntdq" "avx512bf16" "avx512fp16" "avx512vp2intersect"}

#[cfg(target_arch = "aarch64")]
features! {is_aarch64_feature_detected;
"neon" "fp16" "bf16" "i8mm" "dotprod" "lse" "sve" "sve2" "fhm" "crc" "aes" "sha2"}

/// Features that [`has_feature`] knows: of this architecture none.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub const FEATURES: &[&str] = &[];

/// Whether this CPU has a feature; one that is not among [`FEATURES`] it has not.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[must_use]
pub fn has_feature(_feature: &str) -> bool {
    false
}

/// Maps a shared object into the process, by way of a file that only this user can read and that is gone afterwards.
fn load(image: &[u8]) -> Result<Library, Error> {
    let write = || {
        let mut file = tempfile::Builder::new().prefix("moec-").suffix(".so").tempfile()?;
        file.write_all(image)?;
        Ok(file.into_temp_path())
    };
    let path = write().map_err(|error: std::io::Error| refused(format!("writing it to a temporary file: {error}")))?;
    // Now, not lazily: a symbol that the system lacks is an error here rather than an abort in a kernel.
    #[cfg(unix)]
    // SAFETY: loading runs what constructors the object has. Objects that moec writes have none, and the caller trusts
    // the package as he would a program.
    let library = unsafe {
        use libloading::os::unix;
        unix::Library::open(Some(path.as_os_str()), unix::RTLD_NOW | unix::RTLD_LOCAL).map(Library::from)
    };
    #[cfg(not(unix))]
    // SAFETY: as above.
    let library = unsafe { Library::new(path.as_os_str()) };
    library.map_err(|error| not_loaded(&error))
}

/// With the loader's own words: what libloading prints is the name of the call.
fn not_loaded(error: &libloading::Error) -> Error {
    let reason = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    // What a folder that is mounted without execution says of every object in it.
    let is_forbidden = reason.contains("failed to map segment") || reason.contains("Operation not permitted");
    let help = is_forbidden.then_some("the directory for temporary files (TMPDIR) must allow execution");
    Error::LoadImage { why: format!("{error}: {reason}"), help }
}

fn refused(why: impl Into<String>) -> Error {
    Error::LoadImage { why: why.into(), help: None }
}

fn stray(call: &'static str) -> Error {
    Error::Device { call, why: "the range is not memory of this device".into(), sticky: false }
}

impl Host {
    // A panic cannot leave the map half-changed, so a poisoned lock is as good as any.
    fn live(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Block>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The allocation that `bytes` from `address` lie in, kept alive by the caller.
    fn block(&self, address: u64, bytes: u64, call: &'static str) -> Result<Arc<Block>, Error> {
        let live = self.live();
        let (start, block) = live.range(..=address).next_back().ok_or_else(|| stray(call))?;
        let end = (address - start).checked_add(bytes);
        if end.is_some_and(|end| end <= block.bytes() as u64) { Ok(Arc::clone(block)) } else { Err(stray(call)) }
    }

    /// A pointer to `bytes` from `address`, and what keeps them alive.
    fn pointer(&self, address: u64, bytes: u64, call: &'static str) -> Result<(*mut u8, Arc<Block>), Error> {
        let block = self.block(address, bytes, call)?;
        let start = block.start();
        Ok((start.wrapping_add((address - start as u64) as usize), block))
    }
}

/// Words of arguments that launches which are run together have at most, with room for those of any kernel behind them.
const WORDS: usize = 4 * PARAMS_MAX;

/// Launches that are run together, one after another, and their arguments, which were looked at.
struct Ready<'h> {
    host: &'h Host,
    launches: [Call; TOGETHER],
    count: usize,
    words: [u64; WORDS],
    used: usize,
}

#[derive(Clone, Copy, Default)]
struct Call {
    /// Index of its function.
    kernel: usize,
    /// Where its words begin.
    words: usize,
    blocks: u64,
    working: Option<Counted>,
}

/// Which of a launch's blocks have work.
#[derive(Clone, Copy)]
struct Counted {
    /// Where the number is that says how many.
    address: u64,
    /// How many for each that is counted.
    each: u64,
    follows: bool,
}

impl Ready<'_> {
    fn on(host: &Host) -> Ready<'_> {
        Ready { host, launches: [Call::default(); TOGETHER], count: 0, words: [0; WORDS], used: 0 }
    }

    /// Another launch, whose arguments are none where they are not held. Runs those before it where there is no room.
    ///
    /// # Safety
    /// Every range that an argument names is memory until [`Ready::launch`] has returned.
    unsafe fn push(&mut self, start: Start, args: impl ExactSizeIterator<Item = Option<Argument>>) -> Result<(), Error> {
        let Start { kernel, blocks, early: _, working } = start;
        if kernel >= self.host.functions.len() || args.len() > PARAMS_MAX {
            return Err(stray("launching"));
        }
        if self.count == TOGETHER || self.used + PARAMS_MAX > WORDS {
            self.launch()?;
        }
        let mut call = Call { kernel, words: self.used, blocks, working: None };
        for (i, arg) in args.enumerate() {
            let arg = arg.ok_or_else(|| stray("launching"))?;
            self.words[self.used] = arg.word();
            self.used += 1;
            if let (Some(Working { argument, each, follows }), Argument::Memory { address, bytes: 4.., .. }) = (working, arg)
                && argument == i
            {
                call.working = Some(Counted { address, each, follows });
            }
        }
        if working.is_some() != call.working.is_some() {
            return Err(stray("launching"));
        }
        self.launches[self.count] = call;
        self.count += 1;
        Ok(())
    }

    /// Runs them, and returns when all have ended.
    fn launch(&mut self) -> Result<(), Error> {
        let count = self.count;
        let most = self.launches[..count].iter().map(|call| call.blocks).max().unwrap_or(0);
        together::run(self.host.parallel.as_ref(), self, count, most)?;
        (self.count, self.used) = (0, 0);
        Ok(())
    }
}

impl Blocks for Ready<'_> {
    fn count(&self, launch: usize) -> u64 {
        let Call { blocks, working, .. } = self.launches[launch];
        let Some(Counted { address, each, follows: _ }) = working else { return blocks };
        // SAFETY: `push` has seen that there are four bytes, and no launch is under way that could write them. Buffers of the caller
        // may have any alignment.
        let counted = unsafe { ptr::with_exposed_provenance::<i32>(address as usize).read_unaligned() };
        u64::try_from(counted).unwrap_or(0).saturating_mul(each).min(blocks)
    }

    fn follows(&self, launch: usize) -> Option<Parts> {
        let before = self.launches[launch.checked_sub(1)?].working?;
        let own = self.launches[launch].working.filter(|own| own.follows && own.address == before.address)?;
        (before.each > 0 && own.each > 0).then_some(Parts { before: before.each, own: own.each })
    }

    fn run(&self, launch: usize, shares: &mut dyn Iterator<Item = (u64, u64)>) {
        let Call { kernel, words, .. } = self.launches[launch];
        let function = self.host.functions[kernel];
        for (begin, end) in shares {
            // SAFETY: the words are at least as many as the kernel has parameters and of the kinds that the manifest declares,
            // and what they point to is there. What the kernel does inside is the compiler's promise.
            unsafe { function(self.words[words..].as_ptr(), begin, end) }
        }
    }
}

impl Device for Host {
    fn name(&self) -> String {
        format!("host, {} threads", self.parallel.threads())
    }

    fn alloc(&self, bytes: u64) -> Result<u64, Error> {
        let block = usize::try_from(bytes).ok().and_then(Block::new).ok_or(Error::OutOfMemory { bytes })?;
        let address = block.start().expose_provenance() as u64;
        self.live().insert(address, Arc::new(block));
        Ok(address)
    }

    fn free(&self, address: u64) {
        self.live().remove(&address);
    }

    fn fill(&self, address: u64, bytes: u64, value: u8) -> Result<(), Error> {
        let (pointer, _block) = self.pointer(address, bytes, "filling memory")?;
        // SAFETY: `bytes` from `pointer` lie in `_block`, which lives to the end of this function.
        unsafe { pointer.write_bytes(value, bytes as usize) };
        Ok(())
    }

    fn copy_in(&self, address: u64, from: &[u8]) -> Result<(), Error> {
        let (pointer, _block) = self.pointer(address, from.len() as u64, "copying to the device")?;
        // SAFETY: as in `fill`; nothing else uses the range, since its region is borrowed alone.
        unsafe { memory::copy(self.parallel.as_ref(), pointer, from) }
    }

    fn copy_out(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        let (pointer, _block) = self.pointer(address, into.len() as u64, "copying from the device")?;
        // SAFETY: as in `fill`; every byte was zeroed at least.
        unsafe { pointer.copy_to(into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn launch(&self, start: Start, args: &[Argument]) -> Result<(), Error> {
        let mut held = Vec::with_capacity(args.len());
        for arg in args {
            match arg {
                Argument::Memory { bytes: 0, .. } | Argument::I32(_) | Argument::I64(_) => {}
                Argument::Memory { address, bytes, .. } | Argument::Map { address, bytes, .. } => {
                    held.push(self.block(*address, *bytes, "launching")?)
                }
            }
        }
        let mut ready = Ready::on(self);
        // SAFETY: every range lies in a block that `held` keeps.
        unsafe { ready.push(start, args.iter().map(|arg| Some(*arg)))? };
        ready.launch()
    }

    fn enqueue(&self, launches: &dyn Launches, stream: Stream) -> Result<(), Error> {
        stream.default_only()?;
        let mut ready = Ready::on(self);
        for launch in 0..launches.count() {
            let held = |arg| Some(launches.arg(launch, arg)).filter(|given| given.is_held_by(self)).map(Given::argument);
            // SAFETY: every range lies in a region of this device, which is borrowed until the blocks are done: a region keeps
            // the block that it was given, and of other memory its maker has promised that it is there.
            unsafe { ready.push(launches.start(launch), (0..launches.args(launch)).map(held))? };
        }
        ready.launch()
    }

    fn shares_memory(&self) -> bool {
        true
    }

    fn keep(&self, address: u64) -> Option<Kept> {
        Some(Arc::clone(self.live().get(&address)?) as Kept)
    }

    fn sync(&self) -> Result<(), Error> {
        // A launch returns when its blocks are done.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, kind: TargetKind, features: &[&str]) -> Target {
        Target {
            name: name.into(),
            kind,
            images: vec![0],
            cpu_features: features.iter().map(|feature| (*feature).into()).collect(),
            least_driver: None,
            ptx_version: None,
            kernels: Vec::new(),
            regimes: Vec::new(),
            prepare: Vec::new(),
            update: Vec::new(),
            statistics: None,
        }
    }

    #[test]
    fn the_target_with_the_most_features_that_fit_is_chosen() {
        let targets = [
            target("sm_80", TargetKind::Gpu, &[]),
            target("x86-64-v2", TargetKind::Host, &["sse4.2"]),
            target("x86-64-v4", TargetKind::Host, &["sse4.2", "avx512f", "avx512bw"]),
            target("x86-64-v3", TargetKind::Host, &["sse4.2", "avx2"]),
        ];
        assert_eq!(choose(&targets, |_| true), Ok(2));
        assert_eq!(choose(&targets, |feature| !feature.starts_with("avx512")), Ok(3));
        let none = choose(&targets, |_| false).unwrap_err();
        assert_eq!(none, Error::CpuFeatures { target: "x86-64-v2".into(), missing: vec!["sse4.2".into()] });
        assert!(none.to_string().contains("this CPU lacks `sse4.2`"), "{none}");
        let other = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
        // The nearest one is not of another architecture, though it lacks more.
        let mixed = [target("other", TargetKind::Host, &[other]), target("own", TargetKind::Host, &["aes", FEATURES[0]])];
        let none = choose(&mixed, |_| false).unwrap_err();
        assert!(none.to_string().contains("target `own`"), "{none}");
        let none = choose(&mixed[..1], |_| false).unwrap_err();
        assert!(none.to_string().contains("target `other`"), "{none}");
        let no_host = choose(&targets[..1], |_| true).unwrap_err();
        assert!(no_host.to_string().contains("it has `sm_80`; compile with `--target host`"), "{no_host}");
    }

    #[test]
    fn an_unknown_feature_is_absent() {
        assert!(!has_feature("quantum"));
        #[cfg(target_arch = "x86_64")]
        assert!(has_feature("sse2"));
    }
}
