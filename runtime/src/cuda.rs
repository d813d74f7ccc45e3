//! NVIDIA GPUs as devices, through the driver API that is found at run time. No runtime API, no streams of its own and no
//! pool: a layer's launches go to the default stream or to one of the caller's, in order; an early one may begin before those in
//! front of it have ended.
#![allow(unsafe_code, reason = "the driver API is C")]

mod attributes;
mod tensor_map;

use std::ffi::{CString, c_void};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::{DriverError, result, sys};

use crate::device::{Argument, Device, Launches, Opened, Start, Stream};
use crate::error::Error;
use crate::package::{Image, ImageKind, Kernel, PARAMS_MAX, Package, ParamKind, Target, TargetKind};
use attributes::{Attribute, Launcher, Shape};
use tensor_map::{Encoded, Encoder};

/// The most blocks along the first axis of a grid, on any GPU.
const GRID_MAX: u64 = (1 << 31) - 1;
/// Dynamic shared memory above this must be asked for by attribute.
const SHARED_BYTES_DEFAULT: u32 = 48 << 10;

#[derive(Debug)]
struct Cuda {
    name: String,
    context: Context,
    module: sys::CUmodule,
    functions: Vec<Entry>,
    /// Where a kernel takes tensor maps.
    encoder: Option<Encoder>,
    /// Where a launch has attributes.
    launcher: Option<Launcher>,
    /// Something was launched after the last `sync`.
    is_pending: AtomicBool,
}

/// The primary context of a device, held while this lives.
#[derive(Debug)]
struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

#[derive(Debug)]
struct Entry {
    symbol: String,
    function: sys::CUfunction,
    threads: u32,
    /// Blocks of a cluster.
    cluster: u32,
    dynamic_shared_bytes: u32,
}

// SAFETY: contexts, modules and functions are handles that the driver lets any thread use once the context is current,
// and every method makes it current first.
unsafe impl Send for Cuda {}
// SAFETY: as above; nothing here changes after `open` but an atomic.
unsafe impl Sync for Cuda {}

/// The GPU number `ordinal`, with the kernels of the package's best target for it loaded: a cubin for it before PTX, and
/// the newest architecture that it runs.
///
/// # Errors
/// [`Error::NoDriver`] where there is no driver, no such device or the driver is too old, [`Error::NoImage`] where the
/// package has nothing for it, [`Error::LoadImage`] where the driver refuses the image or a kernel is not in it.
pub fn open(package: &Package, ordinal: u32) -> Result<Opened, Error> {
    let no_driver = |why: &str| Error::NoDriver { why: why.into() };
    let driver = Arc::new(driver().ok_or_else(|| no_driver("libcuda.so.1 was not found"))?);
    result::init().map_err(|error| no_driver(&format!("cuInit says {}", words(error))))?;
    let device = result::device::get(ordinal.cast_signed())
        .map_err(|error| no_driver(&format!("there is no device {ordinal} ({})", words(error))))?;
    let attribute = |which| {
        // SAFETY: `device` was given by the driver.
        unsafe { result::device::get_attribute(device, which) }.map_err(|error| failed("cuDeviceGetAttribute", error))
    };
    let major = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let capability = (major * 10 + minor).unsigned_abs();
    let name = result::device::get_name(device).unwrap_or_else(|_| "an NVIDIA GPU".into());
    let manifest = package.manifest();
    let (index, image) = choose(&manifest.targets, &manifest.images, capability).ok_or_else(|| Error::NoImage {
        device: format!("{name} (sm_{capability})"),
        targets: manifest.targets.iter().map(|target| target.name.clone()).collect(),
        wanted: format!("sm_{capability}"),
    })?;
    let target = &manifest.targets[index];
    if manifest.images[image].kind == ImageKind::Ptx {
        check_driver(target.least_driver.as_deref(), driver_version()?)?;
    }

    // SAFETY: `device` was given by the driver; `Context` releases what is retained here.
    let context = unsafe { result::primary_ctx::retain(device) }.map_err(|error| failed("cuDevicePrimaryCtxRetain", error))?;
    let context = Context { device, context };
    context.enter()?;
    // The driver reads PTX up to a NUL; a cubin carries its own length.
    let mut bytes = package.images()[image].clone();
    bytes.push(0);
    // SAFETY: `bytes` is a whole cubin or NUL-terminated PTX, and the driver copies it.
    let module = unsafe { result::module::load_data(bytes.as_ptr().cast::<c_void>()) }.map_err(|error| refused(error, &name))?;
    // From here on `Cuda` unloads the module, whatever fails.
    let (functions, is_pending) = (Vec::new(), AtomicBool::new(false));
    let mut cuda = Cuda { name, context, module, functions, encoder: None, launcher: None, is_pending };
    if target.kernels.iter().flat_map(|kernel| &kernel.params).any(|param| matches!(param.kind, ParamKind::TensorMap(_))) {
        cuda.encoder = Some(Encoder::of(Arc::clone(&driver))?);
    }
    if target.launches().any(|launch| launch.early) || target.kernels.iter().any(|kernel| kernel.cluster > 1) {
        cuda.launcher = Some(Launcher::of(driver)?);
    }
    for kernel in &target.kernels {
        let symbol = CString::new(kernel.symbol.as_str()).map_err(|_| Error::manifest("a symbol contains NUL"))?;
        // SAFETY: the module was loaded above and lives as long as `cuda`.
        let function = unsafe { result::module::get_function(cuda.module, symbol) }.map_err(|error| Error::LoadImage {
            why: format!("it has no kernel `{}` ({})", kernel.symbol, words(error)),
            help: None,
        })?;
        if kernel.dynamic_shared_bytes > SHARED_BYTES_DEFAULT {
            let which = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: `function` was given by the driver.
            unsafe { result::function::set_function_attribute(function, which, kernel.dynamic_shared_bytes.cast_signed()) }
                .map_err(|error| failed("cuFuncSetAttribute (shared memory)", error))?;
        }
        let Kernel { threads, cluster, dynamic_shared_bytes, .. } = *kernel;
        cuda.functions.push(Entry { symbol: kernel.symbol.clone(), function, threads, cluster, dynamic_shared_bytes });
    }
    tracing::debug!(target = target.name, device = cuda.name, "GPU image loaded");
    Ok(Opened { device: Arc::new(cuda), target: index })
}

/// The driver's library, if it can be loaded. cudarc panics where it cannot.
// Not cudarc's `is_culib_present`: it is gone when another crate of the program asks for cudarc's `dynamic-linking`.
fn driver() -> Option<libloading::Library> {
    ["libcuda.so.1", "libcuda.so", "nvcuda.dll"].into_iter().find_map(|library| {
        // SAFETY: the driver's library is made to be loaded; its constructors are the driver's own.
        unsafe { libloading::Library::new(library) }.ok()
    })
}

/// The CUDA version that the driver speaks: 12040 is 12.4.
fn driver_version() -> Result<u32, Error> {
    let mut version = 0;
    // SAFETY: the driver writes one integer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(|error| failed("cuDriverGetVersion", error))?;
    Ok(version.unsigned_abs())
}

fn check_driver(least: Option<&str>, version: u32) -> Result<(), Error> {
    let parts = least.and_then(|least| least.split_once('.'));
    let needed = parts.and_then(|(major, minor)| Some(major.parse::<u32>().ok()? * 1000 + minor.parse::<u32>().ok()? * 10));
    match needed {
        Some(needed) if version < needed => Err(Error::NoDriver {
            why: format!(
                "the driver speaks CUDA {}.{}, the package's PTX needs {}",
                version / 1000,
                version % 1000 / 10,
                least.unwrap_or_default()
            ),
        }),
        Some(_) | None => Ok(()),
    }
}

/// The target and its image for a GPU of this compute capability (90 is 9.0).
fn choose(targets: &[Target], images: &[Image], capability: u32) -> Option<(usize, usize)> {
    let gpus = targets.iter().enumerate().filter(|(_, target)| target.kind == TargetKind::Gpu);
    let candidates = gpus.flat_map(|(index, target)| target.images.iter().map(move |image| (index, target, *image as usize)));
    let fits = candidates.filter_map(|(index, target, image)| {
        let kind = images[image].kind;
        let (number, suffix) = split_arch(&target.name)?;
        let same_major = number / 10 == capability / 10 && number <= capability;
        let runs = match (suffix, kind) {
            // Architecture-specific code runs on that architecture alone.
            ("a", ImageKind::Cubin | ImageKind::Ptx) => number == capability,
            ("f", ImageKind::Cubin | ImageKind::Ptx) | ("", ImageKind::Cubin) => same_major,
            ("", ImageKind::Ptx) => number <= capability,
            (_, ImageKind::SharedObject | ImageKind::Cubin | ImageKind::Ptx) => false,
        };
        runs.then_some((number, suffix == "a", suffix == "f", kind == ImageKind::Cubin, index, image))
    });
    fits.max().map(|(.., index, image)| (index, image))
}

/// `sm_90a` is 90 and `a`.
fn split_arch(name: &str) -> Option<(u32, &str)> {
    let rest = name.strip_prefix("sm_")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((rest[..digits].parse().ok()?, &rest[digits..]))
}

/// The driver's name and words for an error.
fn words(error: DriverError) -> String {
    let text = |text: Result<&std::ffi::CStr, DriverError>| text.map_or("?".into(), |text| text.to_string_lossy().into_owned());
    format!("{}: {}", text(error.error_name()), text(error.error_string()))
}

fn failed(call: &'static str, error: DriverError) -> Error {
    Error::Device { call, why: words(error), sticky: is_sticky(error.0 as u32) }
}

/// Whether the driver's documentation says that the process must be restarted after this error.
fn is_sticky(code: u32) -> bool {
    // 46 device unavailable, 214 ECC, 220 NVLink, 226 contained; 700.. illegal address, time-out; 709 context destroyed;
    // 710.. assert, stack, instruction, alignment, space, pc, launch failed; 721 tensor memory leak; 999 unknown.
    matches!(code, 46 | 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 999)
}

fn refused(error: DriverError, device: &str) -> Error {
    let help = match error.0 as u32 {
        222 => "the PTX is newer than the driver: update the driver, or store a cubin (compile where ptxas is found)",
        209 => "it holds no code for this GPU: compile with its `--target`",
        221 | 223 => "the driver cannot compile PTX here: store a cubin (compile where ptxas is found)",
        _ => "compile the spec again",
    };
    Error::LoadImage { why: format!("{device} refuses it ({})", words(error)), help: Some(help) }
}

impl Context {
    fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context is retained while `self` lives.
        unsafe { result::ctx::set_current(self.context) }.map_err(|error| failed("cuCtxSetCurrent", error))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once in `open`. An error here cannot be returned.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            if *self.is_pending.get_mut() {
                // A kernel that still runs is code of the module. An error here cannot be told.
                let _ = result::ctx::synchronize();
            }
            // SAFETY: loaded in `open`, and no launch outlives the layer: it was waited for here or before. An error here,
            // after a lost device, cannot be told.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

impl Cuda {
    /// Enqueues a kernel. Nothing is allocated here, and nothing waited for.
    fn start(
        &self,
        Start { kernel, blocks, early, working: _ }: Start,
        args: impl ExactSizeIterator<Item = Argument>,
        stream: Stream,
    ) -> Result<(), Error> {
        let (Some(entry), true) = (self.functions.get(kernel), args.len() <= PARAMS_MAX) else {
            return Err(Error::Device { call: "launching", why: format!("there is no kernel {kernel}"), sticky: false });
        };
        let Entry { symbol, function, threads, cluster, dynamic_shared_bytes } = entry;
        let grid = u32::try_from(blocks).ok().filter(|_| blocks <= GRID_MAX).ok_or_else(|| Error::LaunchRange {
            kernel: symbol.clone(),
            what: "the grid".into(),
            value: i64::try_from(blocks).unwrap_or(i64::MAX),
        })?;
        // The driver reads 4, 8 or (of a tensor map) 128 bytes of each, by the kernel's own parameter list; the low 4 come first.
        let mut maps = [const { MaybeUninit::<Encoded>::uninit() }; PARAMS_MAX];
        let (mut words, mut params) = ([0_u64; PARAMS_MAX], [std::ptr::null_mut::<c_void>(); PARAMS_MAX]);
        let count = args.len();
        self.context.enter()?;
        for (((word, map), param), arg) in words.iter_mut().zip(&mut maps).zip(&mut params).zip(args) {
            *param = match (arg, &self.encoder) {
                (Argument::Map { address, map: of, .. }, Some(encoder)) => {
                    std::ptr::from_mut(encoder.encode(&of, address, map)?).cast()
                }
                (Argument::Memory { .. } | Argument::Map { .. } | Argument::I32(_) | Argument::I64(_), _) => {
                    *word = arg.word();
                    std::ptr::from_mut(word).cast()
                }
            };
        }
        // SAFETY: the function belongs to a loaded module, `params` points to as many words and maps as the manifest declares,
        // and the driver copies them before it returns. The stream is the default one or valid by the contract of
        // `Stream::cuda`. What the kernel does inside its buffers is the compiler's promise.
        unsafe {
            let (params, stream) = (&mut params[..count], stream.as_ptr());
            match &self.launcher {
                Some(launcher) if early || *cluster > 1 => {
                    let shape = Shape { grid, threads: *threads, dynamic_shared_bytes: *dynamic_shared_bytes, stream };
                    let mut attributes = [Attribute::cluster(*cluster), Attribute::early()];
                    let given = usize::from(*cluster == 1)..1 + usize::from(early);
                    launcher.launch(*function, shape, &mut attributes[given], params)?;
                }
                Some(_) | None => {
                    let (grid, block, stream) = ((grid, 1, 1), (*threads, 1, 1), stream.cast());
                    result::launch_kernel(*function, grid, block, *dynamic_shared_bytes, stream, params)
                        .map_err(|error| failed("cuLaunchKernel", error))?;
                }
            }
        }
        // After the launch: a `sync` that came between the two has waited for it, and another one does no harm.
        self.is_pending.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Device for Cuda {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn alloc(&self, bytes: u64) -> Result<u64, Error> {
        self.context.enter()?;
        // SAFETY: the context is current. The driver's alignment is 256 bytes or more.
        unsafe { result::malloc_sync(bytes as usize) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { bytes },
            _ => failed("cuMemAlloc", error),
        })
    }

    fn free(&self, address: u64) {
        if self.context.enter().is_ok() {
            // SAFETY: the driver checks the address. An error here, after a lost device, cannot be returned.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn fill(&self, address: u64, bytes: u64, value: u8) -> Result<(), Error> {
        self.context.enter()?;
        // SAFETY: the driver checks the range.
        unsafe { result::memset_d8_sync(address, value, bytes as usize) }.map_err(|error| failed("cuMemsetD8", error))
    }

    fn copy_in(&self, address: u64, from: &[u8]) -> Result<(), Error> {
        self.context.enter()?;
        // SAFETY: the driver checks the range; the copy is done when the call returns.
        unsafe { result::memcpy_htod_sync(address, from) }.map_err(|error| failed("cuMemcpyHtoD", error))
    }

    fn copy_out(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        self.context.enter()?;
        // SAFETY: as in `copy_in`.
        unsafe { result::memcpy_dtoh_sync(into, address) }.map_err(|error| failed("cuMemcpyDtoH", error))
    }

    fn launch(&self, start: Start, args: &[Argument]) -> Result<(), Error> {
        self.start(start, args.iter().copied(), Stream::DEFAULT)
    }

    fn enqueue(&self, launches: &dyn Launches, stream: Stream) -> Result<(), Error> {
        (0..launches.count()).try_for_each(|launch| {
            let args = (0..launches.args(launch)).map(|arg| launches.arg(launch, arg).argument());
            self.start(launches.start(launch), args, stream)
        })
    }

    fn sync(&self) -> Result<(), Error> {
        self.context.enter()?;
        self.is_pending.store(false, Ordering::Relaxed);
        result::ctx::synchronize().map_err(|error| failed("cuCtxSynchronize", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_read() {
        assert_eq!(split_arch("sm_90a"), Some((90, "a")));
        assert_eq!(split_arch("sm_120"), Some((120, "")));
        assert_eq!(split_arch("x86-64-v4"), None);
        assert_eq!(split_arch("sm_"), None);
        assert_eq!(split_arch("sm_99999999999"), None);
    }

    #[test]
    fn the_nearest_image_that_runs_is_chosen() {
        let target = |name: &str, images: &[u32]| Target {
            name: name.into(),
            kind: if name.starts_with("sm_") { TargetKind::Gpu } else { TargetKind::Host },
            images: images.to_vec(),
            cpu_features: Vec::new(),
            least_driver: None,
            ptx_version: None,
            kernels: Vec::new(),
            regimes: Vec::new(),
            prepare: Vec::new(),
            update: Vec::new(),
            statistics: None,
        };
        let images = [ImageKind::Ptx, ImageKind::Cubin, ImageKind::SharedObject, ImageKind::Ptx, ImageKind::Cubin];
        let images = images.map(Image::new);
        // Images 0 and 1 are for sm_80, 3 and 4 for sm_90a.
        let targets = [target("sm_80", &[0, 1]), target("x86-64-v4", &[2]), target("sm_90a", &[3, 4])];
        for (capability, expected) in [
            (75, None),
            (80, Some((0, 1))),
            (86, Some((0, 1))),
            // Another major: the cubin does not run, the PTX does.
            (100, Some((0, 0))),
            (90, Some((2, 4))),
        ] {
            assert_eq!(choose(&targets, &images, capability), expected, "sm_{capability}");
        }
        // sm_90a runs on nothing newer.
        assert_eq!(choose(&targets[2..], &images, 100), None);
        assert_eq!(choose(&targets[2..], &images, 120), None);
    }

    #[test]
    fn an_old_driver_is_told_what_is_needed() {
        assert_eq!(check_driver(None, 11000), Ok(()));
        assert_eq!(check_driver(Some("12.4"), 12040), Ok(()));
        let error = check_driver(Some("12.4"), 12020).unwrap_err();
        assert!(error.to_string().contains("speaks CUDA 12.2, the package's PTX needs 12.4"), "{error}");
    }

    #[test]
    fn the_documented_errors_are_sticky() {
        assert!([700, 702, 710, 714, 715, 716, 717, 718, 719, 999].into_iter().all(is_sticky));
        assert!(![1, 2, 100, 209, 222, 701, 720, 900].into_iter().any(is_sticky));
    }
}
