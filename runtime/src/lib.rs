//! The thin runtime of moec: reads a package, checks it, launches it. It chooses nothing, infers nothing and compiles
//! nothing: whatever a launch needs, the compiler has written into the manifest.
#![deny(missing_docs)]

pub mod checkpoint;
mod codes;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod error;
pub mod format;
pub mod health;
#[cfg(feature = "host")]
pub mod host;
pub mod layer;
pub mod package;
pub mod plan;
mod region;
pub mod statistics;
mod tensor;
pub mod weights;

pub use checkpoint::{Checkpoint, Note, TensorInfo};
pub use codes::{ErrorCode, ErrorGroup};
pub use device::{Device, DeviceKind, Stream};
pub use error::{Blame, Error};
pub use format::Format;
pub use health::{Health, entropy_share};
pub use layer::{Batch, Bound, Layer, Run};
pub use package::{Dims, Package};
pub use plan::{Memory, Plan};
pub use region::Region;
pub use statistics::Statistics;
pub use tensor::Tensor;
pub use weights::assemble;
