//! A layer's library through the C ABI: `runtime/include/moec_abi.h` as Rust has it, and calls that give texts for errors.
#![allow(unsafe_code, reason = "a library is foreign functions over raw memory")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};

use libloading::Library;
use moec_runtime::Tensor;
use moec_runtime::package::{DType, Dims, WORKSPACE_ALIGN};

/// `MOEC_ABI_VERSION`.
const VERSION: u32 = 1 << 16;
const CPU: i32 = 1;

#[repr(C)]
struct Info {
    struct_size: usize,
    abi_version: u32,
    num_params: u32,
    layer: *const c_char,
    compiler: *const c_char,
    spec_sha256: *const c_char,
    params: *const Param,
    num_inputs: u32,
    num_outputs: u32,
    num_weights: u32,
    num_targets: u32,
    targets: *const *const c_char,
    max_tokens: i64,
}

#[repr(C)]
struct Param {
    name: *const c_char,
    shape: *const c_char,
    dtype: CType,
    role: u32,
    ndim: u32,
    align: u32,
    reserved: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct CDevice {
    kind: i32,
    id: i32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct CType {
    code: u8,
    bits: u8,
    lanes: u16,
}

/// `moec_tensor`, with its shape.
#[repr(C)]
struct CTensor {
    data: *mut c_void,
    device: CDevice,
    ndim: i32,
    dtype: CType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct CDims {
    struct_size: usize,
    tokens: i64,
    sequence_tokens: i64,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct CLaunch {
    struct_size: usize,
    kernel: *const c_char,
    grid: [u32; 3],
    block: [u32; 3],
    cluster: [u32; 3],
    dynamic_shared_bytes: u32,
    flags: u32,
}

#[repr(C)]
struct Options {
    struct_size: usize,
    device: CDevice,
    get_proc: *const c_void,
    get_proc_user: *const c_void,
    parallel_for: *const c_void,
    parallel_for_user: *const c_void,
    threads: u32,
    flags: u32,
}

#[repr(C)]
struct BindArgs {
    struct_size: usize,
    weights: *const *const CTensor,
    num_weights: u32,
    flags: u32,
    prepared: *mut c_void,
    prepared_bytes: usize,
    stream: *mut c_void,
}

#[repr(C)]
struct RunArgs {
    struct_size: usize,
    params: *const *const CTensor,
    num_params: u32,
    flags: u32,
    binding: *const c_void,
    workspace: *mut c_void,
    workspace_bytes: usize,
    stream: *mut c_void,
    sequence_tokens: i64,
}

type Size = unsafe extern "C" fn(*const c_char, *const CDims, *mut usize, *mut usize) -> i32;
type Run = unsafe extern "C" fn(*const c_void, *const RunArgs) -> i32;

#[derive(Clone, Copy)]
#[repr(C)]
struct Api {
    struct_size: usize,
    abi_version: u32,
    reserved: u32,
    info: unsafe extern "C" fn() -> *const Info,
    manifest: unsafe extern "C" fn(*const c_char) -> *const c_char,
    status_string: unsafe extern "C" fn(i32) -> *const c_char,
    last_error: unsafe extern "C" fn(*mut c_char, usize) -> usize,
    workspace_size: Size,
    prepared_size: unsafe extern "C" fn(*const c_char, *mut usize, *mut usize) -> i32,
    plan: unsafe extern "C" fn(*const c_char, *const CDims, *mut CLaunch, u32, *mut u32) -> i32,
    observed: unsafe extern "C" fn(*const c_char, *const CDims, *const c_char, *mut usize, *mut usize) -> i32,
    create: unsafe extern "C" fn(*const Options, *mut *mut c_void) -> i32,
    destroy: unsafe extern "C" fn(*mut c_void),
    target: unsafe extern "C" fn(*const c_void) -> *const c_char,
    bind: unsafe extern "C" fn(*const c_void, *const BindArgs, *mut *mut c_void) -> i32,
    unbind: unsafe extern "C" fn(*mut c_void),
    check: Run,
    run: Run,
    update: Run,
}

/// A loaded library of one layer.
pub struct Linked {
    api: Api,
    _library: Library,
}

/// What a plan says of a launch: the kernel's symbol, blocks, threads, blocks of a cluster, dynamic shared memory, whether it is early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The kernel's symbol.
    pub kernel: String,
    /// Blocks.
    pub grid: u64,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks of a cluster.
    pub cluster: u32,
    /// Bytes.
    pub dynamic_shared_bytes: u32,
    /// Programmatic dependent launch.
    pub is_early: bool,
}

/// Memory that is aligned as workspace has to be.
pub struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// So many bytes, each of this value.
    #[must_use]
    pub fn new(len: usize, value: u8) -> Aligned {
        let align = WORKSPACE_ALIGN as usize;
        let bytes = vec![value; len + align];
        let start = bytes.as_ptr().align_offset(align);
        Aligned { bytes, start, len }
    }

    /// A copy.
    #[must_use]
    pub fn of(from: &[u8]) -> Aligned {
        let mut copy = Aligned::new(from.len(), 0);
        copy.bytes[copy.start..copy.start + from.len()].copy_from_slice(from);
        copy
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    fn pointer(&mut self) -> *mut c_void {
        self.bytes[self.start..].as_mut_ptr().cast()
    }
}

/// A tensor that a call is given: its memory stays where it is.
pub struct Given {
    memory: Aligned,
    dtype: DType,
    shape: Vec<i64>,
}

impl Given {
    /// A copy of a tensor, of this shape.
    #[must_use]
    pub fn of(tensor: &Tensor, shape: &[u64]) -> Given {
        Given { memory: Aligned::of(tensor.bytes()), dtype: tensor.dtype(), shape: shape.iter().map(|n| *n as i64).collect() }
    }

    /// Memory for a result.
    #[must_use]
    pub fn new(dtype: DType, shape: &[u64]) -> Given {
        let bytes = shape.iter().product::<u64>() * dtype.bytes();
        let shape = shape.iter().map(|n| *n as i64).collect();
        Given { memory: Aligned::new(bytes as usize, 0xa5), dtype, shape }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }

    fn c(&mut self) -> CTensor {
        let (code, bits) = match self.dtype {
            DType::F32 => (2, 32),
            DType::F16 => (2, 16),
            DType::Bf16 => (4, 16),
            DType::I32 => (0, 32),
        };
        CTensor {
            data: self.memory.pointer(),
            device: CDevice { kind: CPU, id: 0 },
            ndim: self.shape.len() as i32,
            dtype: CType { code, bits, lanes: 1 },
            shape: self.shape.as_mut_ptr(),
            strides: null_mut(),
            byte_offset: 0,
        }
    }
}

/// A handle on the CPU, with weights bound to it or not.
pub struct Handle<'l> {
    linked: &'l Linked,
    handle: *mut c_void,
    binding: *mut c_void,
}

impl Drop for Handle<'_> {
    fn drop(&mut self) {
        // SAFETY: both were made by this library, once, and no run is under way.
        unsafe {
            (self.linked.api.unbind)(self.binding);
            (self.linked.api.destroy)(self.handle);
        }
    }
}

fn c(text: &str) -> CString {
    CString::new(text).expect("no NUL")
}

fn text(from: *const c_char) -> String {
    // SAFETY: texts of a library live as long as it does, and end with a NUL.
    unsafe { CStr::from_ptr(from) }.to_string_lossy().into_owned()
}

fn dims(of: Dims) -> CDims {
    CDims { struct_size: size_of::<CDims>(), tokens: of.tokens as i64, sequence_tokens: of.sequence_tokens as i64 }
}

impl Linked {
    /// Loads the bytes of a shared library.
    ///
    /// # Panics
    /// Where it cannot be loaded.
    #[must_use]
    pub fn load(prefix: &str, bytes: &[u8]) -> Linked {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(format!("lib{prefix}.so"));
        std::fs::write(&path, bytes).expect("written");
        // SAFETY: such a library has no constructors, and its function has this type.
        unsafe {
            let library = Library::new(&path).expect("a shared library");
            let get = library.get::<unsafe extern "C" fn(u32) -> *const Api>(format!("{prefix}_get_api")).expect("the function");
            assert!(get(2 << 16).is_null() && get(VERSION + 1).is_null(), "other versions");
            let api = *get(VERSION).as_ref().expect("the table");
            assert_eq!((api.struct_size, api.abi_version), (size_of::<Api>(), VERSION));
            Linked { api, _library: library }
        }
    }

    fn checked(&self, status: i32) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        let mut text = [0; 512];
        // SAFETY: the library writes at most as much, and a NUL.
        let text = unsafe {
            (self.api.last_error)(text.as_mut_ptr(), text.len());
            CStr::from_ptr(text.as_ptr())
        };
        Err(format!("{status}: {}", text.to_string_lossy()))
    }

    /// The layer's name, and those of its targets.
    #[must_use]
    pub fn names(&self) -> (String, Vec<String>) {
        // SAFETY: the library's constants.
        unsafe {
            let info = &*(self.api.info)();
            assert_eq!((info.struct_size, info.abi_version), (size_of::<Info>(), VERSION));
            let targets = (0..info.num_targets as usize).map(|index| text(*info.targets.add(index)));
            (text(info.layer), targets.collect())
        }
    }

    /// Names, shapes and roles of the tensors.
    #[must_use]
    pub fn params(&self) -> Vec<(String, String, u32)> {
        // SAFETY: the library's constants.
        unsafe {
            let info = &*(self.api.info)();
            let params = std::slice::from_raw_parts(info.params, info.num_params as usize);
            params.iter().map(|param| (text(param.name), text(param.shape), param.role)).collect()
        }
    }

    /// The manifest of a target.
    #[must_use]
    pub fn manifest(&self, target: &str) -> String {
        // SAFETY: a text and a constant.
        text(unsafe { (self.api.manifest)(c(target).as_ptr()) })
    }

    /// Bytes of workspace.
    ///
    /// # Errors
    /// The library's text.
    pub fn workspace_bytes(&self, target: Option<&str>, of: Dims) -> Result<usize, String> {
        let (target, of, mut bytes, mut align) = (target.map(c), dims(of), 0, 0);
        let target = target.as_ref().map_or(null(), |target| target.as_ptr());
        // SAFETY: all of these live through the call.
        self.checked(unsafe { (self.api.workspace_size)(target, &raw const of, &raw mut bytes, &raw mut align) })?;
        assert_eq!(align as u64, WORKSPACE_ALIGN);
        Ok(bytes)
    }

    /// Bytes of prepared memory.
    ///
    /// # Errors
    /// The library's text.
    pub fn prepared_bytes(&self, target: &str) -> Result<usize, String> {
        let (target, mut bytes, mut align) = (c(target), 0, 0);
        // SAFETY: all of these live through the call.
        self.checked(unsafe { (self.api.prepared_size)(target.as_ptr(), &raw mut bytes, &raw mut align) })?;
        Ok(bytes)
    }

    /// The launches of a run.
    ///
    /// # Errors
    /// The library's text.
    pub fn plan(&self, target: &str, of: Dims) -> Result<Vec<Launch>, String> {
        let (target, of, mut count) = (c(target), dims(of), 0);
        let none = CLaunch {
            struct_size: size_of::<CLaunch>(),
            kernel: null(),
            grid: [0; 3],
            block: [0; 3],
            cluster: [0; 3],
            dynamic_shared_bytes: 0,
            flags: 0,
        };
        let mut launches = [none; 64];
        // SAFETY: there are as many places as the call is told.
        self.checked(unsafe { (self.api.plan)(target.as_ptr(), &raw const of, launches.as_mut_ptr(), 64, &raw mut count) })?;
        let launch = |launch: &CLaunch| Launch {
            kernel: text(launch.kernel),
            grid: launch.grid.iter().map(|n| u64::from(*n)).product(),
            threads: launch.block.iter().product(),
            cluster: launch.cluster.iter().product(),
            dynamic_shared_bytes: launch.dynamic_shared_bytes,
            is_early: launch.flags & 1 != 0,
        };
        Ok(launches[..count as usize].iter().map(launch).collect())
    }

    /// How many launches a run has.
    ///
    /// # Errors
    /// The library's text.
    pub fn launches(&self, target: &str, of: Dims) -> Result<u32, String> {
        let (target, of, mut count) = (c(target), dims(of), 0);
        // SAFETY: there is no place for launches, and the call is told so.
        self.checked(unsafe { (self.api.plan)(target.as_ptr(), &raw const of, null_mut(), 0, &raw mut count) })?;
        Ok(count)
    }

    /// Where in the workspace a run leaves what it observes: offset and bytes.
    ///
    /// # Errors
    /// The library's text.
    pub fn observed(&self, target: &str, of: Dims, name: &str) -> Result<(usize, usize), String> {
        let (target, name, of, mut offset, mut bytes) = (c(target), c(name), dims(of), 0, 0);
        let observed = self.api.observed;
        // SAFETY: all of these live through the call.
        let status = unsafe { observed(target.as_ptr(), &raw const of, name.as_ptr(), &raw mut offset, &raw mut bytes) };
        self.checked(status)?;
        Ok((offset, bytes))
    }

    /// A handle on the CPU, with so many threads.
    ///
    /// # Errors
    /// The library's text.
    pub fn create(&self, threads: u32) -> Result<Handle<'_>, String> {
        let options = Options {
            struct_size: size_of::<Options>(),
            device: CDevice { kind: CPU, id: 0 },
            get_proc: null(),
            get_proc_user: null(),
            parallel_for: null(),
            parallel_for_user: null(),
            threads,
            flags: 0,
        };
        let mut handle = null_mut();
        // SAFETY: the options live through the call.
        self.checked(unsafe { (self.api.create)(&raw const options, &raw mut handle) })?;
        Ok(Handle { linked: self, handle, binding: null_mut() })
    }
}

impl Handle<'_> {
    /// The target that was chosen.
    #[must_use]
    pub fn target(&self) -> String {
        // SAFETY: a constant of the library.
        text(unsafe { (self.linked.api.target)(self.handle) })
    }

    /// Binds weights. They and the prepared memory stay until this handle is gone.
    ///
    /// # Errors
    /// The library's text.
    pub fn bind(&mut self, weights: &mut [Given], prepared: &mut Aligned) -> Result<(), String> {
        let tensors: Vec<CTensor> = weights.iter_mut().map(Given::c).collect();
        let pointers: Vec<*const CTensor> = tensors.iter().map(|tensor| &raw const *tensor).collect();
        let args = BindArgs {
            struct_size: size_of::<BindArgs>(),
            weights: pointers.as_ptr(),
            num_weights: pointers.len() as u32,
            flags: 0,
            prepared: if prepared.len > 0 { prepared.pointer() } else { null_mut() },
            prepared_bytes: prepared.len,
            stream: null_mut(),
        };
        // SAFETY: the tensors live through the call, what they are of until the handle is gone.
        self.linked.checked(unsafe { (self.linked.api.bind)(self.handle, &raw const args, &raw mut self.binding) })
    }

    /// Checks and runs, or updates.
    ///
    /// # Errors
    /// The library's text.
    pub fn run(
        &self,
        params: &mut [&mut Given],
        workspace: &mut Aligned,
        sequence_tokens: u64,
        update: bool,
    ) -> Result<(), String> {
        let tensors: Vec<CTensor> = params.iter_mut().map(|given| given.c()).collect();
        let pointers: Vec<*const CTensor> = tensors.iter().map(|tensor| &raw const *tensor).collect();
        let args = RunArgs {
            struct_size: size_of::<RunArgs>(),
            params: pointers.as_ptr(),
            num_params: pointers.len() as u32,
            flags: 0,
            binding: self.binding,
            workspace: if workspace.len > 0 { workspace.pointer() } else { null_mut() },
            workspace_bytes: workspace.len,
            stream: null_mut(),
            sequence_tokens: sequence_tokens as i64,
        };
        let api = &self.linked.api;
        let run = if update { api.update } else { api.run };
        // SAFETY: all memory lives through the calls, and is as long as the tensors say.
        unsafe {
            self.linked.checked((api.check)(self.handle, &raw const args))?;
            self.linked.checked(run(self.handle, &raw const args))
        }
    }
}
