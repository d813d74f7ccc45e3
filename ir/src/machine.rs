//! The machines that moec compiles for, as plain data. The only place with hardware figures.

use crate::DType;

/// What a schedule and the cost model need to know of a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The name used on the command line and in packages: `sm_90a`, `x86-64-v4`.
    pub name: &'static str,
    /// Which family it belongs to.
    pub kind: MachineKind,
    /// Threads that run in lockstep: 32 on a GPU, 1 on the host.
    pub warp_lanes: u32,
    /// Most threads in a block: 1 on the host, where a block is a loop iteration.
    pub block_threads: u32,
    /// Bytes of the widest vector register or access.
    pub vector_bytes: u32,
    /// Shared memory (on the host: private scratch) of one block, in bytes.
    pub shared_bytes: u32,
    /// Shared memory of one block that asks for it when it is launched, in bytes.
    pub shared_optin_bytes: u32,
    /// Whether threads can copy from global to shared memory and go on.
    pub copies_async: bool,
    /// The products of small matrices that a warp computes in one instruction, accumulating in f32.
    pub matrix_units: &'static [MatrixUnit],
    /// Types of the factors whose products four warps compute together, out of shared memory and accumulating in f32.
    pub group_products: &'static [DType],
    /// Whether a block has barriers that count arrivals and the bytes of copies, and on which threads can wait for a phase.
    pub mbarriers: bool,
    /// Whether copies take boxes of tensors, of which a kernel is given maps.
    pub tensor_maps: bool,
    /// Whether the warps of a block can have different numbers of registers.
    pub role_registers: bool,
    /// Whether a bf16 pair dot product accumulating in f32 is one instruction.
    pub dot_bf16: bool,
    /// Streaming multiprocessors, or cores.
    pub processors: u32,
    /// The last cache before memory, bytes.
    pub cache_bytes: u64,
    /// Memory bandwidth, bytes per microsecond.
    pub bytes_per_us: u64,
    /// Rate of the arithmetic that the kernels use, FLOP per microsecond.
    pub flops_per_us: u64,
    /// Cost of one launch, picoseconds.
    pub launch_ps: u64,
    /// One step of a loop in which each waits for what the one before left in shared memory, picoseconds.
    pub step_ps: u64,
}

/// A product of two matrices, `rows` by `depth` and `depth` by `columns`, of one element type, added to sums in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MatrixShape {
    /// 16 rows, 8 columns, depth 8.
    M16N8K8,
    /// 16 rows, 8 columns, depth 16.
    M16N8K16,
}

impl MatrixShape {
    /// Every shape.
    pub const ALL: [MatrixShape; 2] = [MatrixShape::M16N8K8, MatrixShape::M16N8K16];

    /// Rows, columns and depth.
    pub const fn extents(self) -> (u32, u32, u32) {
        match self {
            MatrixShape::M16N8K8 => (16, 8, 8),
            MatrixShape::M16N8K16 => (16, 8, 16),
        }
    }
}

impl std::fmt::Display for MatrixShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rows, columns, depth) = self.extents();
        write!(f, "m{rows}n{columns}k{depth}")
    }
}

/// A matrix instruction of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixUnit {
    /// What it multiplies.
    pub shape: MatrixShape,
    /// Type of the factors' elements: `F16` or `BF16`.
    pub elem: DType,
    /// Rate of all processors together, FLOP per microsecond.
    pub flops_per_us: u64,
}

/// `mma.sync` of 16-bit floats at a rate in TFLOP/s; the shallow shape takes as long as the deep one.
const fn mma_sync(tflops: u64) -> [MatrixUnit; 4] {
    const fn unit(shape: MatrixShape, elem: DType, tflops: u64) -> MatrixUnit {
        MatrixUnit { shape, elem, flops_per_us: tflops * 1_000_000 }
    }
    [
        unit(MatrixShape::M16N8K16, DType::BF16, tflops),
        unit(MatrixShape::M16N8K16, DType::F16, tflops),
        unit(MatrixShape::M16N8K8, DType::BF16, tflops / 2),
        unit(MatrixShape::M16N8K8, DType::F16, tflops / 2),
    ]
}

/// The two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineKind {
    /// An NVIDIA GPU: compute capability times ten, and whether the arch-specific features (`a`) are on.
    Gpu {
        /// 80, 90, 120, ...
        sm: u32,
        /// PTX ISA version times ten that the target needs at least.
        ptx: u32,
    },
    /// The CPU that runs the program.
    Host(HostLevel),
}

/// x86-64 levels; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostLevel {
    /// AVX2, FMA, F16C.
    V3,
    /// AVX-512 F, BW, CD, DQ, VL.
    V4,
    /// V4 with AVX512-BF16.
    V4Bf16,
}

impl HostLevel {
    /// What a CPU of this level has beyond the x86-64 baseline, in LLVM's spelling.
    pub fn features(self) -> Vec<&'static str> {
        let mut features = vec!["avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe"];
        if self >= HostLevel::V4 {
            features.extend(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]);
        }
        if self >= HostLevel::V4Bf16 {
            features.push("avx512bf16");
        }
        features
    }
}

#[allow(clippy::too_many_arguments, reason = "a row of the table")]
const fn gpu(
    name: &'static str,
    sm: u32,
    ptx: u32,
    shared_kib: u32,
    processors: u32,
    cache_mib: u64,
    gb_per_s: u64,
    tflops: u64,
    matrix_units: &'static [MatrixUnit],
) -> Machine {
    Machine {
        name,
        kind: MachineKind::Gpu { sm, ptx },
        warp_lanes: 32,
        block_threads: 1024,
        vector_bytes: 16,
        // What a block may have without opting in to more.
        shared_bytes: if shared_kib < 48 { shared_kib * 1024 } else { 48 * 1024 },
        // The driver keeps one KiB of a processor's shared memory for each block.
        shared_optin_bytes: (shared_kib - 1) * 1024,
        copies_async: sm >= 80,
        matrix_units,
        // Of this architecture alone (`a`).
        group_products: if sm == 90 { &[DType::BF16, DType::F16] } else { &[] },
        // Of the machines below those from 90 on have the features of their architecture that others lack (`a`).
        mbarriers: sm >= 90,
        tensor_maps: sm >= 90,
        role_registers: sm >= 90,
        dot_bf16: false,
        processors,
        cache_bytes: cache_mib << 20,
        bytes_per_us: gb_per_s * 1000,
        flops_per_us: tflops * 1_000_000,
        launch_ps: 3_000_000,
        // A read of shared memory takes some 20 cycles of 0.6 ns.
        step_ps: 15_000,
    }
}

const fn host(name: &'static str, level: HostLevel, vector_bytes: u32, dot_bf16: bool, gflops: u64) -> Machine {
    Machine {
        name,
        kind: MachineKind::Host(level),
        warp_lanes: 1,
        block_threads: 1,
        vector_bytes,
        shared_bytes: 256 * 1024,
        shared_optin_bytes: 256 * 1024,
        copies_async: false,
        matrix_units: &[],
        group_products: &[],
        mbarriers: false,
        tensor_maps: false,
        role_registers: false,
        dot_bf16,
        processors: 2,
        cache_bytes: 32 << 20,
        bytes_per_us: 60_000,
        flops_per_us: gflops * 1000,
        launch_ps: 5_000_000,
        // A read of the first-level cache takes 5 cycles of 0.3 ns.
        step_ps: 1_500,
    }
}

// Dense rates of bf16 products that accumulate in f32, from NVIDIA's data sheets; for sm_90a and sm_100a two thirds and a half of
// these, which are those of instructions for groups of warps (assumed).
const SM_80: &[MatrixUnit] = &mma_sync(312);
const SM_86: &[MatrixUnit] = &mma_sync(71);
const SM_89: &[MatrixUnit] = &mma_sync(165);
const SM_90: &[MatrixUnit] = &mma_sync(660);
const SM_100: &[MatrixUnit] = &mma_sync(1_100);
const SM_120: &[MatrixUnit] = &mma_sync(209);

/// Every machine, GPUs first. GPU figures: NVIDIA's data sheets (second-level cache, memory bandwidth, dense f32 rate).
/// Host figures: two cores of a server CPU of the level.
pub const MACHINES: [Machine; 9] = [
    gpu("sm_80", 80, 70, 164, 108, 40, 1_935, 19, SM_80),
    gpu("sm_86", 86, 71, 100, 84, 6, 936, 35, SM_86),
    gpu("sm_89", 89, 78, 100, 142, 96, 960, 82, SM_89),
    gpu("sm_90a", 90, 80, 228, 132, 50, 4_300, 67, SM_90),
    gpu("sm_100a", 100, 86, 228, 148, 126, 8_000, 80, SM_100),
    gpu("sm_120a", 120, 87, 100, 170, 96, 1_792, 105, SM_120),
    host("x86-64-v3", HostLevel::V3, 32, false, 150),
    host("x86-64-v4", HostLevel::V4, 64, false, 300),
    host("x86-64-v4-bf16", HostLevel::V4Bf16, 64, true, 500),
];

impl Machine {
    /// The machine of that name. `host` is not one: the caller decides what it stands for.
    pub fn named(name: &str) -> Option<Machine> {
        MACHINES.into_iter().find(|m| m.name == name)
    }

    /// The machine's instruction for such products, if it has one.
    pub fn matrix_unit(&self, shape: MatrixShape, elem: DType) -> Option<&'static MatrixUnit> {
        self.matrix_units.iter().find(|unit| unit.shape == shape && unit.elem == elem)
    }

    /// Whether a block has threads that work together and share memory. Where it has not, one thread does all of it, by vectors.
    pub fn has_threads(&self) -> bool {
        self.block_threads > 1
    }

    /// Whether its kernels are PTX. What a kernel does depends on capabilities, not on this.
    pub fn is_gpu(&self) -> bool {
        match self.kind {
            MachineKind::Gpu { .. } => true,
            MachineKind::Host(_) => false,
        }
    }
}
