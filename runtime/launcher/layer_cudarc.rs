//! What the module has beside `layer.rs` where it is made for cudarc: the same over its streams and slices.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice, DriverError, SyncOnDrop,
};

impl Layer {
    /// On the GPU of a stream, whose context is the primary one, as [`CudaContext::new`] makes it. Not while a stream is being
    /// captured.
    ///
    /// # Errors
    /// There is no driver, or the library has no code for this GPU.
    pub fn on_stream(stream: &CudaStream) -> Result<Layer, Error> {
        Layer::cuda(stream.context().ordinal() as i32)
    }

    /// Binds weights on a stream's GPU: what depends on them alone is done once, on the stream, in memory that the binding has.
    /// Not while a stream is being captured.
    ///
    /// # Errors
    /// A slice has another length than the layer's tensor, is not aligned to 16 bytes or is of another context than the stream,
    /// the stream is of another GPU than the layer, or the driver cannot allocate or launch.
    pub fn bind_on<'w>(&'w self, weights: CudaWeights<'w>, stream: &Arc<CudaStream>) -> Result<CudaBound<'w>, Error> {
        self.enter(stream)?;
        let bytes = self.prepared_bytes()?;
        let zeros = || stream.alloc_zeros::<u8>(bytes).map_err(driver_failed);
        let mut prepared = if bytes == 0 { None } else { Some(zeros()?) };
        let binding = {
            let (views, _read) = weights.views(stream)?;
            let mut tensors = Tensors::new(views, &PARAMS[BATCH..], self.device, 0)?;
            let place = prepared.as_mut().map(|memory| memory.device_ptr_mut(stream));
            let address = place.as_ref().map_or(0, |(address, _written)| *address);
            // SAFETY: the slices have the lengths of the tensors and stay for 'w, the memory as long as the binding.
            unsafe { self.bound(&mut tensors, (address as *mut c_void, bytes), stream.cu_stream().cast()) }?
        };
        let bound = Bound { layer: self, binding, _prepared: Memory::new(0), _weights: PhantomData };
        Ok(CudaBound { bound, weights, prepared })
    }

    /// Makes the stream's context the current one of this thread.
    fn enter(&self, stream: &CudaStream) -> Result<(), Error> {
        let ordinal = stream.context().ordinal();
        if self.device.kind != 2 || self.device.id != ordinal as i32 {
            let on = if self.device.kind == 2 { format!("GPU {}", self.device.id) } else { "the CPU".to_string() };
            return Err(Error { status: 9, text: format!("{LAYER}: the stream is of GPU {ordinal}, the layer on {on}") });
        }
        stream.context().bind_to_thread().map_err(driver_failed)
    }
}

/// A layer with its weights on a GPU. Any number of threads may use it.
pub struct CudaBound<'w> {
    bound: Bound<'w>,
    weights: CudaWeights<'w>,
    prepared: Option<CudaSlice<u8>>,
}

impl CudaBound<'_> {
    /// A run: launches on the stream, behind what other streams do with these slices, as far as the context tracks that.
    /// `workspace` has [`Layer::workspace_bytes`]; of fewer the batch is run in parts. Nothing is allocated here.
    ///
    /// # Errors
    /// A slice has another length than the layer's tensor, is not aligned to 16 bytes or is of another context than the stream,
    /// the batch has more than [`MAX_TOKENS`] tokens or no whole sequences, the workspace is too short, the stream is of another
    /// GPU than the layer, or the driver cannot launch.
    pub fn run(&self, batch: CudaBatch<'_>, workspace: &mut CudaSlice<u8>, stream: &CudaStream) -> Result<(), Error> {
        self.bound.layer.enter(stream)?;
        let (_, _read) = self.weights.views(stream)?;
        launched(&self.bound, self.bound.layer.api.run, self.prepared.as_ref(), batch, workspace, stream)
    }

    /// What training changes in the weights that are bound, such as a correction bias by the load of a batch, after a run on this
    /// workspace. Where the layer has no such update nothing is changed.
    ///
    /// # Errors
    /// Those of [`CudaBound::run`].
    pub fn update(&mut self, batch: CudaBatch<'_>, workspace: &mut CudaSlice<u8>, stream: &CudaStream) -> Result<(), Error> {
        self.bound.layer.enter(stream)?;
        let (_, _written) = self.weights.views_mut(stream)?;
        launched(&self.bound, self.bound.layer.api.update, self.prepared.as_ref(), batch, workspace, stream)
    }
}

/// The launches of a call; the stream waits for the weights already.
fn launched(
    bound: &Bound<'_>,
    call: Run,
    prepared: Option<&CudaSlice<u8>>,
    mut batch: CudaBatch<'_>,
    workspace: &mut CudaSlice<u8>,
    stream: &CudaStream,
) -> Result<(), Error> {
    let (tokens, sequence_tokens) = (batch.tokens()?, batch.sequence_tokens);
    same_context("the workspace", workspace.context(), stream)?;
    let _prepared = prepared.map(|memory| memory.device_ptr(stream));
    let (views, _batch) = batch.views(stream)?;
    let mut tensors = Tensors::new(views, &PARAMS[..BATCH], bound.layer.device, tokens)?;
    let bytes = workspace.num_bytes();
    let (address, _workspace) = workspace.device_ptr_mut(stream);
    let place = (address as *mut c_void, bytes);
    // SAFETY: the slices have the lengths of the tensors; the stream waits for what used them, and what uses them next for the
    // stream.
    unsafe { bound.layer.launch(call, &mut tensors, bound.binding, sequence_tokens, place, stream.cu_stream().cast()) }
}

fn same_context(what: &str, context: &CudaContext, stream: &CudaStream) -> Result<(), Error> {
    if *context == **stream.context() {
        return Ok(());
    }
    let (of, on) = (context.ordinal(), stream.context().ordinal());
    Err(Error { status: 9, text: format!("{LAYER}: {what} is of a context on GPU {of}, the stream of another on GPU {on}") })
}

fn driver_failed(error: DriverError) -> Error {
    Error { status: 0x10000 | error.0 as i32, text: format!("{LAYER}: the CUDA driver: {error:?}") }
}

/// Slices of a GPU, which the stream waits for; what uses them when the second are gone waits for the stream.
type CudaViews<'s, const N: usize> = ([View; N], [SyncOnDrop<'s>; N]);

/// The lengths of slices that are of the stream's context.
fn cuda_lengths<const N: usize>(
    params: &[Param],
    slices: [(usize, &CudaContext); N],
    stream: &CudaStream,
) -> Result<[usize; N], Error> {
    for (param, (_, context)) in params.iter().zip(slices) {
        same_context(&format!("`{}`", param.name), context, stream)?;
    }
    Ok(slices.map(|(length, _)| length))
}

fn cuda_views<'s, const N: usize>(lengths: [usize; N], slices: [(u64, SyncOnDrop<'s>); N]) -> CudaViews<'s, N> {
    let views = std::array::from_fn(|index| View { data: slices[index].0 as *mut c_void, elements: Some(lengths[index]) });
    (views, slices.map(|(_, used)| used))
}
