//! What is the same for all layers in the module by which Rust calls a library: compiler/src/library/rust.rs writes the rest, and
//! adds `layer_cudarc.rs` where it is asked for.

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{null, null_mut};

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// `MOEC_E_*` of moec_abi.h, or an error of the CUDA driver from 0x10000 on.
    pub status: i32,
    /// What is wrong, and what to do.
    pub text: String,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

/// Host memory that is aligned as a layer wants it, for its workspace.
pub struct Memory {
    lines: Vec<Line>,
}

#[derive(Clone, Copy)]
#[repr(C, align(256))]
struct Line([u8; 256]);

impl Memory {
    /// At least so many bytes.
    pub fn new(bytes: usize) -> Memory {
        Memory { lines: vec![Line([0; 256]); bytes.div_ceil(256)] }
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.lines.len() * 256
    }
}

/// The layer on one device. Any number of threads may use it.
pub struct Layer {
    api: &'static Api,
    handle: *mut c_void,
    device: Device,
}

// SAFETY: a handle does not change after it is made: moec_abi.h, "handles".
unsafe impl Send for Layer {}
// SAFETY: as above.
unsafe impl Sync for Layer {}

impl Layer {
    /// On this CPU, by so many threads, the caller's own included; 0: as many as the process may use.
    ///
    /// # Errors
    /// The library has no code for this CPU, or the threads cannot be started.
    pub fn host(threads: u32) -> Result<Layer, Error> {
        Layer::create(HOST, threads)
    }

    /// On a GPU. Not while a stream is being captured.
    ///
    /// # Errors
    /// There is no driver, or the library has no code for this GPU.
    pub fn cuda(ordinal: i32) -> Result<Layer, Error> {
        Layer::create(Device { kind: 2, id: ordinal }, 0)
    }

    fn create(device: Device, threads: u32) -> Result<Layer, Error> {
        // SAFETY: the library is linked, and its table is constant.
        let Some(api) = (unsafe { get_api(1 << 16).as_ref() }) else {
            let text = format!("{LAYER}: the library has another ABI than this module: make both by the same moec");
            return Err(Error { status: 1, text });
        };
        let callbacks = [null_mut(); 4];
        let options = Options { size: size_of::<Options>(), device, callbacks, threads, flags: 0 };
        let mut handle = null_mut();
        // SAFETY: both are valid for the call.
        checked(api, unsafe { (api.create)(&options, &mut handle) })?;
        Ok(Layer { api, handle, device })
    }

    /// The target whose code the layer runs, such as `x86-64-v3`.
    pub fn target(&self) -> &str {
        // SAFETY: the handle is valid, and the text a constant of the library.
        unsafe { CStr::from_ptr((self.api.target)(self.handle)) }.to_str().unwrap_or_default()
    }

    /// The bytes of a workspace for T tokens in sequences of S (0: all are one sequence). A run of fewer tokens needs no more.
    ///
    /// # Errors
    /// T is more than [`MAX_TOKENS`], or no multiple of S.
    pub fn workspace_bytes(&self, tokens: usize, sequence_tokens: usize) -> Result<usize, Error> {
        let dims = Dims { size: size_of::<Dims>(), tokens: tokens as i64, sequence_tokens: sequence_tokens as i64 };
        let mut bytes = 0;
        // SAFETY: all are valid for the call.
        let status = unsafe { (self.api.workspace_size)((self.api.target)(self.handle), &dims, &mut bytes, null_mut()) };
        checked(self.api, status).map(|()| bytes)
    }

    /// The bytes of what is computed of the weights when they are bound: 0 for most layers.
    ///
    /// # Errors
    /// Only where the library is not the one of this module.
    pub fn prepared_bytes(&self) -> Result<usize, Error> {
        let mut bytes = 0;
        // SAFETY: all are valid for the call.
        let status = unsafe { (self.api.prepared_size)((self.api.target)(self.handle), &mut bytes, null_mut()) };
        checked(self.api, status).map(|()| bytes)
    }

    /// Binds weights in host memory: what depends on them alone is done once, for all runs.
    ///
    /// # Errors
    /// A slice has another length than the layer's tensor or is not aligned to 16 bytes, or the layer is on a GPU.
    pub fn bind<'w>(&'w self, mut weights: Weights<'w>) -> Result<Bound<'w>, Error> {
        let mut prepared = Memory::new(self.prepared_bytes()?);
        let mut tensors = Tensors::new(weights.views_mut(), &PARAMS[BATCH..], HOST, 0)?;
        let place = (prepared.lines.as_mut_ptr().cast(), prepared.bytes());
        // SAFETY: the slices have the lengths of the tensors and stay for 'w, the memory as long as the binding.
        let binding = unsafe { self.bound(&mut tensors, place, null_mut()) }?;
        Ok(Bound { layer: self, binding, _prepared: prepared, _weights: PhantomData })
    }

    /// A run in host memory, with weights that are not bound.
    ///
    /// # Errors
    /// A slice has another length than the layer's tensor or is not aligned to 16 bytes, the batch has more than [`MAX_TOKENS`]
    /// tokens or no whole sequences, the workspace is too short, or the layer is on a GPU.
    pub fn run(&self, weights: &Weights<'_>, batch: Batch<'_>, workspace: &mut Memory) -> Result<(), Error> {
        // SAFETY: a run writes no weights.
        unsafe { self.with(self.api.run, weights.views(), batch, workspace) }
    }

    /// What training changes in the weights, such as a correction bias by the load of a batch, after a run on this workspace.
    /// Where the layer has no such update nothing is changed.
    ///
    /// # Errors
    /// Those of [`Layer::run`].
    pub fn update(&self, weights: &mut Weights<'_>, batch: Batch<'_>, workspace: &mut Memory) -> Result<(), Error> {
        // SAFETY: an update writes the weights that are given to be written.
        unsafe { self.with(self.api.update, weights.views_mut(), batch, workspace) }
    }

    /// # Safety
    /// The call writes no slice but those that were given to be written.
    unsafe fn with(&self, call: Run, weights: [View; WEIGHTS], mut batch: Batch<'_>, workspace: &mut Memory) -> Result<(), Error> {
        let tokens = batch.tokens()?;
        let mut views = [View::NONE; BATCH + WEIGHTS];
        views[..BATCH].copy_from_slice(&batch.views());
        views[BATCH..].copy_from_slice(&weights);
        let mut tensors = Tensors::new(views, &PARAMS, HOST, tokens)?;
        let place = (workspace.lines.as_mut_ptr().cast(), workspace.bytes());
        // SAFETY: the slices have the lengths of the tensors, and nothing else writes those that are written.
        unsafe { self.launch(call, &mut tensors, null(), batch.sequence_tokens, place, null_mut()) }
    }

    /// Binds weights on the layer's GPU. `prepared` is memory there and its bytes, of which [`Layer::prepared_bytes`] says how
    /// many there must be; it is aligned to 256 bytes and is written on `stream`, a `CUstream`.
    ///
    /// # Safety
    /// The addresses are of tensors as the fields say, row-major without gaps; they and `prepared` stay until the last run with
    /// the binding is done.
    ///
    /// # Errors
    /// An address is misaligned, or `prepared` too short.
    pub unsafe fn bind_device(
        &self,
        weights: &DeviceWeights,
        prepared: (u64, usize),
        stream: *mut c_void,
    ) -> Result<Bound<'_>, Error> {
        let mut tensors = Tensors::new(weights.views(), &PARAMS[BATCH..], self.device, 0)?;
        // SAFETY: as the caller promises.
        let binding = unsafe { self.bound(&mut tensors, (prepared.0 as *mut c_void, prepared.1), stream) }?;
        Ok(Bound { layer: self, binding, _prepared: Memory::new(0), _weights: PhantomData })
    }

    /// # Safety
    /// That of [`Layer::bind_device`].
    unsafe fn bound<const N: usize>(
        &self,
        tensors: &mut Tensors<N>,
        (prepared, prepared_bytes): (*mut c_void, usize),
        stream: *mut c_void,
    ) -> Result<*mut c_void, Error> {
        let params = tensors.addresses();
        let (size, weights, num_weights) = (size_of::<BindArgs>(), params.as_ptr(), N as u32);
        let args = BindArgs { size, weights, num_weights, flags: 0, prepared, prepared_bytes, stream };
        let mut binding = null_mut();
        // SAFETY: all are valid for the call.
        checked(self.api, unsafe { (self.api.bind)(self.handle, &args, &mut binding) }).map(|()| binding)
    }

    /// # Safety
    /// That of [`Bound::run_device`].
    unsafe fn launch<const N: usize>(
        &self,
        call: Run,
        tensors: &mut Tensors<N>,
        binding: *const c_void,
        sequence_tokens: usize,
        (workspace, workspace_bytes): (*mut c_void, usize),
        stream: *mut c_void,
    ) -> Result<(), Error> {
        let params = tensors.addresses();
        let (size, params, num_params, sequence_tokens) =
            (size_of::<RunArgs>(), params.as_ptr(), N as u32, sequence_tokens as i64);
        let args = RunArgs { size, params, num_params, flags: 0, binding, workspace, workspace_bytes, stream, sequence_tokens };
        // SAFETY: all are valid for the call.
        checked(self.api, unsafe { call(self.handle, &args) })
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        // SAFETY: the handle is valid, and what is bound to it borrows the layer.
        unsafe { (self.api.destroy)(self.handle) };
    }
}

/// A layer with its weights. Any number of threads may use it.
pub struct Bound<'w> {
    layer: &'w Layer,
    binding: *mut c_void,
    _prepared: Memory,
    _weights: PhantomData<Weights<'w>>,
}

// SAFETY: a binding does not change after it is made: moec_abi.h, "handles".
unsafe impl Send for Bound<'_> {}
// SAFETY: as above.
unsafe impl Sync for Bound<'_> {}

impl Bound<'_> {
    /// A run in host memory. It allocates nothing.
    ///
    /// # Errors
    /// A slice has another length than the layer's tensor or is not aligned to 16 bytes, the batch has more than [`MAX_TOKENS`]
    /// tokens or no whole sequences, the workspace is too short, or the layer is on a GPU.
    pub fn run(&self, batch: Batch<'_>, workspace: &mut Memory) -> Result<(), Error> {
        self.with(self.layer.api.run, batch, workspace)
    }

    /// What training changes in the weights that are bound, such as a correction bias by the load of a batch, after a run on this
    /// workspace. Where the layer has no such update nothing is changed. The slices are the caller's again when the binding is
    /// gone.
    ///
    /// # Errors
    /// Those of [`Bound::run`].
    pub fn update(&mut self, batch: Batch<'_>, workspace: &mut Memory) -> Result<(), Error> {
        self.with(self.layer.api.update, batch, workspace)
    }

    fn with(&self, call: Run, mut batch: Batch<'_>, workspace: &mut Memory) -> Result<(), Error> {
        let mut tensors = Tensors::new(batch.views(), &PARAMS[..BATCH], HOST, batch.tokens()?)?;
        let place = (workspace.lines.as_mut_ptr().cast(), workspace.bytes());
        // SAFETY: the slices have the lengths of the tensors, and nothing else writes those that are written; the weights an
        // update alone does, which has the binding to itself.
        unsafe { self.layer.launch(call, &mut tensors, self.binding, batch.sequence_tokens, place, null_mut()) }
    }

    /// A run on the layer's GPU: launches on `stream`, a `CUstream` of the current context, which may be captured. `workspace` is
    /// memory there and its bytes, aligned to 256 bytes.
    ///
    /// # Safety
    /// The addresses are of tensors as the fields say, row-major without gaps; they and the workspace stay until the run is done,
    /// and nothing else writes them meanwhile.
    ///
    /// # Errors
    /// An address is misaligned, the workspace is too short, or the driver cannot launch.
    pub unsafe fn run_device(&self, batch: &DeviceBatch, workspace: (u64, usize), stream: *mut c_void) -> Result<(), Error> {
        // SAFETY: as the caller promises.
        unsafe { self.with_device(self.layer.api.run, batch, workspace, stream) }
    }

    /// [`Bound::update`] on the layer's GPU, as [`Bound::run_device`] runs there.
    ///
    /// # Safety
    /// That of [`Bound::run_device`]; and no other run reads the weights meanwhile.
    ///
    /// # Errors
    /// Those of [`Bound::run_device`].
    pub unsafe fn update_device(&self, batch: &DeviceBatch, workspace: (u64, usize), stream: *mut c_void) -> Result<(), Error> {
        // SAFETY: as the caller promises.
        unsafe { self.with_device(self.layer.api.update, batch, workspace, stream) }
    }

    /// # Safety
    /// That of the call.
    unsafe fn with_device(
        &self,
        call: Run,
        batch: &DeviceBatch,
        workspace: (u64, usize),
        stream: *mut c_void,
    ) -> Result<(), Error> {
        let mut tensors = Tensors::new(batch.views(), &PARAMS[..BATCH], self.layer.device, batch.tokens)?;
        let place = (workspace.0 as *mut c_void, workspace.1);
        // SAFETY: as the caller promises.
        unsafe { self.layer.launch(call, &mut tensors, self.binding, batch.sequence_tokens, place, stream) }
    }
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        // SAFETY: the binding is valid, and so is its layer.
        unsafe { (self.layer.api.unbind)(self.binding) };
    }
}

fn checked(api: &Api, status: i32) -> Result<(), Error> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the text is as long as the first call says, with the NUL.
    let text = unsafe {
        let mut bytes = vec![0_u8; (api.last_error)(null_mut(), 0) + 1];
        (api.last_error)(bytes.as_mut_ptr().cast(), bytes.len());
        bytes.pop();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Err(Error { status, text })
}

/// A tensor of the layer; of its extents, [`T`] is the number of tokens.
struct Param {
    name: &'static str,
    dtype: DType,
    shape: &'static [usize],
}

const T: usize = usize::MAX;

/// A slice, or an address alone.
#[derive(Clone, Copy)]
struct View {
    data: *mut c_void,
    elements: Option<usize>,
}

impl View {
    const NONE: View = View { data: null_mut(), elements: None };

    fn read<E>(slice: &[E]) -> View {
        View { data: slice.as_ptr().cast_mut().cast(), elements: Some(slice.len()) }
    }

    fn written<E>(slice: &mut [E]) -> View {
        View { data: slice.as_mut_ptr().cast(), elements: Some(slice.len()) }
    }

    fn at(address: u64) -> View {
        View { data: address as *mut c_void, elements: None }
    }
}

/// T, as a slice of this tensor says.
fn tokens_of(param: &Param, elements: usize) -> Result<usize, Error> {
    let row: usize = param.shape.iter().filter(|extent| **extent != T).product();
    if elements % row == 0 { Ok(elements / row) } else { Err(wrong_length(param, elements, "T")) }
}

fn wrong_length(param: &Param, elements: usize, tokens: &str) -> Error {
    let extents = param.shape.iter().map(|extent| if *extent == T { tokens.to_string() } else { extent.to_string() });
    let shape = extents.collect::<Vec<String>>().join(", ");
    Error { status: 3, text: format!("{LAYER}: `{}` has {elements} elements, which is not [{shape}]", param.name) }
}

/// Tensors as the C ABI takes them.
struct Tensors<const N: usize> {
    shapes: [[i64; RANK]; N],
    tensors: [Tensor; N],
}

impl<const N: usize> Tensors<N> {
    fn new(views: [View; N], params: &'static [Param], device: Device, tokens: usize) -> Result<Tensors<N>, Error> {
        let empty =
            Tensor { data: null_mut(), device, ndim: 0, dtype: F32, shape: null_mut(), strides: null_mut(), byte_offset: 0 };
        let mut made = Tensors { shapes: [[0; RANK]; N], tensors: [empty; N] };
        for (index, (view, param)) in views.iter().zip(params).enumerate() {
            let extents = param.shape.iter().map(|extent| if *extent == T { tokens } else { *extent });
            let elements: usize = extents.clone().product();
            if let Some(wrong) = view.elements.filter(|has| *has != elements) {
                return Err(wrong_length(param, wrong, &tokens.to_string()));
            }
            extents.zip(&mut made.shapes[index]).for_each(|(extent, place)| *place = extent as i64);
            made.tensors[index] = Tensor { data: view.data, ndim: param.shape.len() as i32, dtype: param.dtype, ..empty };
        }
        Ok(made)
    }

    /// For as long as these do not move.
    fn addresses(&mut self) -> [*const Tensor; N] {
        for (tensor, shape) in self.tensors.iter_mut().zip(&mut self.shapes) {
            tensor.shape = shape.as_mut_ptr();
        }
        self.tensors.each_ref().map(std::ptr::from_ref)
    }
}

// What moec_abi.h has.

#[derive(Clone, Copy)]
#[repr(C)]
struct Device {
    kind: i32,
    id: i32,
}

const HOST: Device = Device { kind: 1, id: 0 };

#[derive(Clone, Copy)]
#[repr(C)]
struct DType {
    code: u8,
    bits: u8,
    lanes: u16,
}

const I32: DType = DType { code: 0, bits: 32, lanes: 1 };
const F32: DType = DType { code: 2, bits: 32, lanes: 1 };
const F16: DType = DType { code: 2, bits: 16, lanes: 1 };
const BF16: DType = DType { code: 4, bits: 16, lanes: 1 };

#[derive(Clone, Copy)]
#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device: Device,
    ndim: i32,
    dtype: DType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Dims {
    size: usize,
    tokens: i64,
    sequence_tokens: i64,
}

#[repr(C)]
struct Options {
    size: usize,
    device: Device,
    /// `get_proc` and `parallel_for`, each with its first argument.
    callbacks: [*mut c_void; 4],
    threads: u32,
    flags: u32,
}

#[repr(C)]
struct BindArgs {
    size: usize,
    weights: *const *const Tensor,
    num_weights: u32,
    flags: u32,
    prepared: *mut c_void,
    prepared_bytes: usize,
    stream: *mut c_void,
}

#[repr(C)]
struct RunArgs {
    size: usize,
    params: *const *const Tensor,
    num_params: u32,
    flags: u32,
    binding: *const c_void,
    workspace: *mut c_void,
    workspace_bytes: usize,
    stream: *mut c_void,
    sequence_tokens: i64,
}

#[repr(C)]
struct Api {
    size: usize,
    versions: [u32; 2],
    info_manifest_status_string: [*const c_void; 3],
    last_error: unsafe extern "C" fn(*mut c_char, usize) -> usize,
    workspace_size: unsafe extern "C" fn(*const c_char, *const Dims, *mut usize, *mut usize) -> i32,
    prepared_size: unsafe extern "C" fn(*const c_char, *mut usize, *mut usize) -> i32,
    plan_observed: [*const c_void; 2],
    create: unsafe extern "C" fn(*const Options, *mut *mut c_void) -> i32,
    destroy: unsafe extern "C" fn(*mut c_void),
    target: unsafe extern "C" fn(*const c_void) -> *const c_char,
    bind: unsafe extern "C" fn(*const c_void, *const BindArgs, *mut *mut c_void) -> i32,
    unbind: unsafe extern "C" fn(*mut c_void),
    check: *const c_void,
    run: Run,
    update: Run,
}

type Run = unsafe extern "C" fn(*const c_void, *const RunArgs) -> i32;
