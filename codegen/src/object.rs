//! What comes out: machine code for a program, and what it will occupy. How it is packaged is not said here.

/// One image with every kernel of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Name of the machine it is for.
    pub target: String,
    /// The image.
    pub image: Image,
    /// The kernels in it, in the program's order.
    pub kernels: Vec<KernelInfo>,
    /// What the assembler warned about.
    pub warnings: Vec<String>,
}

/// Code in one of the forms that a device loads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// PTX text: the driver compiles it when it is loaded.
    Ptx(String),
    /// An NVIDIA binary for one architecture.
    Cubin(Vec<u8>),
    /// A shared object for the host, each kernel a C function
    /// `void symbol(const uint64_t *args, uint64_t block_begin, uint64_t block_end)`.
    SharedObject(Vec<u8>),
}

impl Image {
    /// The image as it is stored in a file.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Image::Ptx(text) => text.as_bytes(),
            Image::Cubin(bytes) | Image::SharedObject(bytes) => bytes,
        }
    }
}

/// What is known of one kernel of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Its name in the program.
    pub name: String,
    /// Its symbol in the image.
    pub symbol: String,
    /// Bytes of the arrays that its block shares and has without asking for them.
    pub shared_bytes: u64,
    /// Bytes of the arrays that its block shares and for which a launch has to ask.
    pub dynamic_shared_bytes: u64,
    /// What it occupies, where an assembler said so.
    pub usage: Option<Usage>,
}

/// What a kernel occupies on a GPU, according to `ptxas -v`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of stack of a thread.
    pub stack_bytes: u32,
    /// Bytes of registers stored to the stack because there are too few registers.
    pub spill_stores: u32,
    /// Bytes loaded back.
    pub spill_loads: u32,
    /// Bytes of static shared memory of a block.
    pub shared_bytes: u32,
}
