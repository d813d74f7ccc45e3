//! Launches with attributes. As in `tensor_map`, the call is looked up by its name, and what it reads is laid out here: CUDA driver
//! API, `CUlaunchConfig` and `CUlaunchAttribute`.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::CUfunction;

use crate::error::Error;

/// `CUlaunchAttribute`: which, and 64 bytes of its value, which may have pointers.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Attribute {
    id: u32,
    pad: u32,
    value: [u32; 16],
}

impl Attribute {
    fn new<const N: usize>(id: u32, words: [u32; N]) -> Attribute {
        let mut value = [0; 16];
        value[..N].copy_from_slice(&words);
        Attribute { id, pad: 0, value }
    }

    /// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`: it may begin before the launch before it has ended.
    pub(super) fn early() -> Attribute {
        Attribute::new(6, [1])
    }

    /// `CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION`: blocks of a cluster, along the first axis.
    pub(super) fn cluster(blocks: u32) -> Attribute {
        Attribute::new(4, [blocks, 1, 1])
    }
}

/// `CUlaunchConfig`.
#[repr(C)]
struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    stream: *mut c_void,
    attributes: *mut Attribute,
    count: u32,
}

const CALL: &str = "cuLaunchKernelEx";

/// The config, the function, the parameters, and what is given in another way.
type Launch = unsafe extern "C" fn(*const Config, CUfunction, *mut *mut c_void, *mut *mut c_void) -> u32;

/// The driver's call.
#[derive(Debug)]
pub(super) struct Launcher {
    launch: Launch,
    // The call is code of it.
    _driver: Arc<libloading::Library>,
}

/// What a launch has beside its attributes and parameters.
pub(super) struct Shape {
    /// Blocks, along the first axis.
    pub(super) grid: u32,
    /// Threads of a block, along the first axis.
    pub(super) threads: u32,
    pub(super) dynamic_shared_bytes: u32,
    pub(super) stream: *mut c_void,
}

impl Launcher {
    pub(super) fn of(driver: Arc<libloading::Library>) -> Result<Launcher, Error> {
        // SAFETY: this is the call's type in all versions of the driver that have it.
        let launch = unsafe { driver.get::<Launch>(CALL) }.map(|launch| *launch);
        let launch = launch.map_err(|_| Error::NoDriver { why: format!("it has no {CALL}: it is older than CUDA 11.8") })?;
        Ok(Launcher { launch, _driver: driver })
    }

    /// Enqueues the function. Nothing is allocated here, and nothing waited for.
    ///
    /// # Safety
    /// The function is one of a loaded module, `params` points to what it takes, and the stream is valid.
    pub(super) unsafe fn launch(
        &self,
        function: CUfunction,
        Shape { grid, threads, dynamic_shared_bytes, stream }: Shape,
        attributes: &mut [Attribute],
        params: &mut [*mut c_void],
    ) -> Result<(), Error> {
        let config = Config {
            grid: [grid, 1, 1],
            block: [threads, 1, 1],
            shared_bytes: dynamic_shared_bytes,
            stream,
            attributes: attributes.as_mut_ptr(),
            count: attributes.len() as u32,
        };
        // SAFETY: the config lives through the call, which copies it; the rest is the caller's promise.
        match unsafe { (self.launch)(&raw const config, function, params.as_mut_ptr(), std::ptr::null_mut()) } {
            0 => Ok(()),
            code => Err(Error::Device { call: CALL, why: format!("error {code}"), sticky: super::is_sticky(code) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As cudarc has them from the driver's header.
    #[test]
    fn the_layout_is_the_drivers() {
        use cudarc::driver::sys;
        use std::mem::offset_of;
        assert_eq!((size_of::<Attribute>(), align_of::<Attribute>()), (72, 8));
        assert_eq!(size_of::<Attribute>(), size_of::<sys::CUlaunchAttribute>());
        assert_eq!(align_of::<Attribute>(), align_of::<sys::CUlaunchAttribute>());
        let offsets = [offset_of!(Attribute, id), offset_of!(Attribute, pad), offset_of!(Attribute, value)];
        use sys::CUlaunchAttribute as Theirs;
        assert_eq!(offsets, [offset_of!(Theirs, id), offset_of!(Theirs, pad), offset_of!(Theirs, value)]);
        assert_eq!((size_of::<Config>(), size_of::<Config>()), (56, size_of::<sys::CUlaunchConfig>()));
        assert_eq!(offset_of!(Config, stream), offset_of!(sys::CUlaunchConfig, hStream));
        assert_eq!(offset_of!(Config, attributes), offset_of!(sys::CUlaunchConfig, attrs));
        assert_eq!(offset_of!(Config, count), offset_of!(sys::CUlaunchConfig, numAttrs));
        let ids = [Attribute::early().id, Attribute::cluster(2).id];
        use sys::CUlaunchAttributeID as Id;
        let theirs = [Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION];
        assert_eq!(ids, theirs.map(|id| id as u32));
    }
}
