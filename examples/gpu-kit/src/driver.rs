//! What the kit asks of the CUDA driver beside the runtime: streams, events, graphs, and kernels of its own. Each call is looked
//! up by its name, in the oldest form that does what is wanted, so that old drivers will do. All calls are made by one thread.
#![allow(unsafe_code, reason = "the driver API is C")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::{fs, ptr};

use moec_runtime::Stream as Order;
use serde::{Deserialize, Serialize};

type Handle = *mut c_void;

macro_rules! calls {
    ($($field:ident = $name:literal($($arg:ty),*);)*) => {
        struct Calls {
            $($field: unsafe extern "C" fn($($arg),*) -> u32,)*
        }

        impl Calls {
            fn of(library: &libloading::Library) -> Result<Calls, String> {
                Ok(Calls {
                    $($field: {
                        // SAFETY: the driver's header declares the call so.
                        let call = unsafe { library.get(concat!($name, "\0").as_bytes()) };
                        *call.map_err(|_| concat!("the driver has no ", $name).to_string())?
                    },)*
                })
            }
        }
    };
}

calls! {
    init = "cuInit"(c_uint);
    version = "cuDriverGetVersion"(*mut c_int);
    device = "cuDeviceGet"(*mut c_int, c_int);
    name = "cuDeviceGetName"(*mut c_char, c_int, c_int);
    attribute = "cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
    memory = "cuDeviceTotalMem_v2"(*mut usize, c_int);
    retain = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    set_current = "cuCtxSetCurrent"(Handle);
    error_name = "cuGetErrorName"(u32, *mut *const c_char);
    stream = "cuStreamCreate"(*mut Handle, c_uint);
    wait = "cuStreamSynchronize"(Handle);
    event = "cuEventCreate"(*mut Handle, c_uint);
    record = "cuEventRecord"(Handle, Handle);
    wait_event = "cuEventSynchronize"(Handle);
    elapsed = "cuEventElapsedTime"(*mut f32, Handle, Handle);
    capture = "cuStreamBeginCapture_v2"(Handle, c_int);
    captured = "cuStreamEndCapture"(Handle, *mut Handle);
    instantiate = "cuGraphInstantiateWithFlags"(*mut Handle, Handle, u64);
    replay = "cuGraphLaunch"(Handle, Handle);
    drop_replay = "cuGraphExecDestroy"(Handle);
    drop_graph = "cuGraphDestroy"(Handle);
    load = "cuModuleLoadData"(*mut Handle, *const c_void);
    unload = "cuModuleUnload"(Handle);
    function = "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    launch = "cuLaunchKernel"(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut Handle, *mut Handle
    );
    alloc = "cuMemAlloc_v2"(*mut u64, usize);
    free = "cuMemFree_v2"(u64);
    copy_in = "cuMemcpyHtoD_v2"(u64, *const c_void, usize);
    copy_out = "cuMemcpyDtoH_v2"(*mut c_void, u64, usize);
}

/// The driver, with the first GPU's primary context current: that of the runtime's layers.
pub(crate) struct Driver {
    calls: Calls,
    device: c_int,
    // The calls are code of it.
    _library: libloading::Library,
}

/// What is known of the GPU.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Gpu {
    pub(crate) name: String,
    /// 90 is 9.0.
    pub(crate) capability: u32,
    /// What the kernel's module says of its version; empty where it says nothing.
    pub(crate) driver: String,
    /// The CUDA version that the driver speaks: 12040 is 12.4.
    pub(crate) cuda: u32,
    pub(crate) processors: u32,
    pub(crate) l2_bytes: u64,
    pub(crate) memory_bytes: u64,
}

/// A stream of the driver. It lives as long as the process.
#[derive(Clone, Copy)]
pub(crate) struct Stream(Handle);

impl Stream {
    /// As the runtime takes it.
    pub(crate) fn order(self) -> Order {
        // SAFETY: a stream of the primary context, which is never destroyed; the callers wait for it before memory is freed.
        unsafe { Order::cuda(self.0) }
    }
}

/// A point in a stream's work. It lives as long as the process.
#[derive(Clone, Copy)]
pub(crate) struct Event(Handle);

/// A captured graph that can be replayed.
pub(crate) struct Graph<'d> {
    driver: &'d Driver,
    graph: Handle,
    replay: Handle,
}

impl Driver {
    /// The driver and the first GPU.
    ///
    /// # Errors
    /// What is missing, in words.
    pub(crate) fn open() -> Result<Driver, String> {
        // SAFETY: the driver's library is made to be loaded; its constructors are the driver's own.
        let library = unsafe { libloading::Library::new("libcuda.so.1") }.map_err(|_| "libcuda.so.1 was not found")?;
        let mut driver = Driver { calls: Calls::of(&library)?, device: 0, _library: library };
        let (mut device, mut context) = (0, ptr::null_mut());
        // SAFETY: each call writes one value behind the pointer that it is given. The context is retained while the process
        // lives.
        unsafe {
            driver.ask("cuInit", (driver.calls.init)(0))?;
            driver.ask("cuDeviceGet", (driver.calls.device)(&raw mut device, 0))?;
            driver.ask("cuDevicePrimaryCtxRetain", (driver.calls.retain)(&raw mut context, device))?;
            driver.ask("cuCtxSetCurrent", (driver.calls.set_current)(context))?;
        }
        driver.device = device;
        Ok(driver)
    }

    fn ask(&self, call: &str, code: u32) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        let mut name = ptr::null();
        // SAFETY: the driver writes a pointer to a constant of its own, or leaves it null.
        let known = unsafe { (self.calls.error_name)(code, &raw mut name) } == 0 && !name.is_null();
        // SAFETY: a name of the driver ends in NUL.
        let name = if known { unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned() } else { code.to_string() };
        Err(format!("{call} says {name}"))
    }

    /// What the GPU is.
    ///
    /// # Errors
    /// The call that failed.
    pub(crate) fn gpu(&self) -> Result<Gpu, String> {
        const PROCESSORS: c_int = 16;
        const L2_BYTES: c_int = 38;
        const MAJOR: c_int = 75;
        const MINOR: c_int = 76;
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: the driver writes one integer.
            self.ask("cuDeviceGetAttribute", unsafe { (self.calls.attribute)(&raw mut value, which, self.device) })?;
            Ok::<u32, String>(c_int::unsigned_abs(value))
        };
        let (mut name, mut version, mut memory) = ([0 as c_char; 256], 0, 0);
        // SAFETY: the driver writes at most as many bytes as it is told, an integer, and a size.
        unsafe {
            self.ask("cuDeviceGetName", (self.calls.name)(name.as_mut_ptr(), 255, self.device))?;
            self.ask("cuDriverGetVersion", (self.calls.version)(&raw mut version))?;
            self.ask("cuDeviceTotalMem", (self.calls.memory)(&raw mut memory, self.device))?;
        }
        // SAFETY: the last byte is NUL.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        Ok(Gpu {
            name,
            capability: attribute(MAJOR)? * 10 + attribute(MINOR)?,
            driver: fs::read_to_string("/proc/driver/nvidia/version")
                .unwrap_or_default()
                .lines()
                .next()
                .unwrap_or_default()
                .into(),
            cuda: version.unsigned_abs(),
            processors: attribute(PROCESSORS)?,
            l2_bytes: attribute(L2_BYTES)?.into(),
            memory_bytes: memory as u64,
        })
    }

    /// A stream that goes in turn with the default one, so that copies there come before and after what is on it.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn stream(&self) -> Result<Stream, String> {
        let mut stream = ptr::null_mut();
        // SAFETY: the driver writes one handle.
        self.ask("cuStreamCreate", unsafe { (self.calls.stream)(&raw mut stream, 0) })?;
        Ok(Stream(stream))
    }

    /// Waits for all that is on the stream.
    ///
    /// # Errors
    /// What the driver says of it.
    pub(crate) fn wait(&self, stream: Stream) -> Result<(), String> {
        // SAFETY: a stream of this driver.
        self.ask("cuStreamSynchronize", unsafe { (self.calls.wait)(stream.0) })
    }

    /// An event that has a time.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn event(&self) -> Result<Event, String> {
        let mut event = ptr::null_mut();
        // SAFETY: the driver writes one handle.
        self.ask("cuEventCreate", unsafe { (self.calls.event)(&raw mut event, 0) })?;
        Ok(Event(event))
    }

    /// Puts the event behind what is on the stream.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn record(&self, event: Event, stream: Stream) -> Result<(), String> {
        // SAFETY: handles of this driver.
        self.ask("cuEventRecord", unsafe { (self.calls.record)(event.0, stream.0) })
    }

    /// Microseconds between two events that were recorded, the second of which is waited for.
    ///
    /// # Errors
    /// What the driver says, also of what ran between them.
    pub(crate) fn elapsed(&self, first: Event, second: Event) -> Result<f64, String> {
        let mut milliseconds = 0.0;
        // SAFETY: handles of this driver; it writes one number.
        unsafe {
            self.ask("cuEventSynchronize", (self.calls.wait_event)(second.0))?;
            self.ask("cuEventElapsedTime", (self.calls.elapsed)(&raw mut milliseconds, first.0, second.0))?;
        }
        Ok(f64::from(milliseconds) * 1e3)
    }

    /// A graph of what `enqueue` puts on the stream. The memory that it names must live as long as the graph.
    ///
    /// # Errors
    /// What `enqueue` or the driver says; the capture is ended in any case.
    pub(crate) fn capture(&self, stream: Stream, enqueue: impl FnOnce() -> Result<(), String>) -> Result<Graph<'_>, String> {
        /// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`.
        const OF_THIS_THREAD: c_int = 1;
        // SAFETY: a stream of this driver.
        self.ask("cuStreamBeginCapture", unsafe { (self.calls.capture)(stream.0, OF_THIS_THREAD) })?;
        let enqueued = enqueue();
        let mut graph = Graph { driver: self, graph: ptr::null_mut(), replay: ptr::null_mut() };
        // SAFETY: the driver writes one handle.
        let ended = self.ask("cuStreamEndCapture", unsafe { (self.calls.captured)(stream.0, &raw mut graph.graph) });
        enqueued.and(ended)?;
        // SAFETY: the driver writes one handle; the graph was given by the driver.
        let code = unsafe { (self.calls.instantiate)(&raw mut graph.replay, graph.graph, 0) };
        self.ask("cuGraphInstantiate", code).map(|()| graph)
    }

    /// What a kernel makes of `input`: `kernel(input, output)` of PTX, as many blocks of `threads`. The output is 0xff before.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn compute(
        &self,
        ptx: &str,
        kernel: &str,
        blocks: u32,
        threads: u32,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), String> {
        let (text, kernel) = (CString::new(ptx), CString::new(kernel));
        let (Ok(text), Ok(kernel)) = (text, kernel) else { return Err("the PTX has a NUL".to_string()) };
        let (mut module, mut function) = (ptr::null_mut(), ptr::null_mut());
        let (mut from, mut to) = (0u64, 0u64);
        let calls = &self.calls;
        output.fill(0xff);
        // SAFETY: the driver copies the text, which ends in NUL, and writes handles and addresses where it is told to. The kernel
        // is this program's own: it reads as many bytes as `input` has and writes as many as `output` has. What was got is given
        // back.
        unsafe {
            self.ask("cuModuleLoadData", (calls.load)(&raw mut module, text.as_ptr().cast()))?;
            let done = (|| {
                self.ask("cuModuleGetFunction", (calls.function)(&raw mut function, module, kernel.as_ptr()))?;
                self.ask("cuMemAlloc", (calls.alloc)(&raw mut from, input.len()))?;
                self.ask("cuMemAlloc", (calls.alloc)(&raw mut to, output.len()))?;
                self.ask("cuMemcpyHtoD", (calls.copy_in)(from, input.as_ptr().cast(), input.len()))?;
                self.ask("cuMemcpyHtoD", (calls.copy_in)(to, output.as_ptr().cast(), output.len()))?;
                let mut given = [(&raw mut from).cast(), (&raw mut to).cast()];
                let code = (calls.launch)(
                    function,
                    blocks,
                    1,
                    1,
                    threads,
                    1,
                    1,
                    0,
                    ptr::null_mut(),
                    given.as_mut_ptr(),
                    ptr::null_mut(),
                );
                self.ask("cuLaunchKernel", code)?;
                self.ask("cuMemcpyDtoH", (calls.copy_out)(output.as_mut_ptr().cast(), to, output.len()))
            })();
            for address in [from, to].into_iter().filter(|address| *address != 0) {
                // An error here comes after another one, or after the result.
                let _ = (calls.free)(address);
            }
            let _ = (calls.unload)(module);
            done
        }
    }
}

impl Graph<'_> {
    /// Puts the graph on the stream.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn launch(&self, stream: Stream) -> Result<(), String> {
        // SAFETY: handles of the driver.
        self.driver.ask("cuGraphLaunch", unsafe { (self.driver.calls.replay)(self.replay, stream.0) })
    }
}

impl Drop for Graph<'_> {
    fn drop(&mut self) {
        // SAFETY: handles of the driver, each destroyed once. An error here cannot be told.
        unsafe {
            if !self.replay.is_null() {
                let _ = (self.driver.calls.drop_replay)(self.replay);
            }
            if !self.graph.is_null() {
                let _ = (self.driver.calls.drop_graph)(self.graph);
            }
        }
    }
}
