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
    /// What copies from global to shared memory while the threads go on.
    pub copy_engines: &'static [CopyEngine],
    /// Whether it has instructions for `2^x` and `1 / x` that are nearly exact.
    pub approximations: bool,
    /// Whether warps store fragments of matrices to shared memory.
    pub matrix_stores: bool,
    /// Whether a block has barriers that count arrivals and the bytes of copies, and on which threads can wait for a phase.
    pub mbarriers: bool,
    /// Whether copies take boxes of tensors, of which a kernel is given maps.
    pub tensor_maps: bool,
    /// Whether the warps of a block can have different numbers of registers.
    pub role_registers: bool,
    /// The most blocks that are a cluster: they run at the same time, and can wait for each other. 1: there are no clusters.
    pub cluster_blocks: u32,
    /// Whether a box is brought to all blocks of a cluster at once.
    pub shared_boxes: bool,
    /// Whether a launch can begin before the one before it has ended.
    pub early_launches: bool,
    /// Streaming multiprocessors, or cores.
    pub processors: u32,
    /// The last cache before memory, bytes.
    pub cache_bytes: u64,
    /// What all processors together get from it, bytes per microsecond; `None` on a host, whose cores have caches of their own.
    pub cache_bytes_per_us: Option<u64>,
    /// What the shared memory of all processors gives or takes, bytes per microsecond; `None` on a host, which has none.
    pub shared_bytes_per_us: Option<u64>,
    /// Memory bandwidth, bytes per microsecond.
    pub bytes_per_us: u64,
    /// How long memory takes to answer under load, picoseconds; 0 on a host, whose cores read ahead.
    pub memory_ps: u64,
    /// What computes, on which elements and how fast. What is not here the machine has not.
    pub rates: &'static [Rate],
    /// Cost of one launch, picoseconds.
    pub launch_ps: u64,
    /// One step of a loop in which each waits for what the one before left in shared memory, picoseconds.
    pub step_ps: u64,
    /// How weights are to lie on it, which is not the machine's but the caller's choice.
    pub pack: Pack,
}

/// How the weights of products lie on a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pack {
    /// As the caller has them.
    #[default]
    None,
    /// In panels, which are made when weights are bound: see [`Kind::Packed`](crate::tiling::Kind::Packed).
    Panels,
    /// In panels, widened to f32: see [`Kind::Widened`](crate::tiling::Kind::Widened).
    F32,
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

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// Multiply-adds of numbers, alone or in vectors.
    Vector,
    /// Dot products of pairs of numbers, added to sums in f32.
    Dot,
    /// Products of small matrices, which a warp computes in one instruction, added to sums in f32.
    Matrix(MatrixShape),
    /// Products of matrices out of shared memory, which four warps compute together, added to sums in f32.
    Group,
}

/// How fast a unit computes on elements of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What computes.
    pub unit: Unit,
    /// Type of the factors' elements; of matrices in f32 they are rounded to tf32.
    pub elem: DType,
    /// Rate of all processors together, FLOP per microsecond.
    pub flops_per_us: u64,
}

const fn rate(unit: Unit, elem: DType, gflops: u64) -> Rate {
    Rate { unit, elem, flops_per_us: gflops * 1000 }
}

/// Of a GPU, in TFLOP/s: f32 in registers, and `mma.sync` of 16-bit floats, whose shallow shape takes as long as the deep one, as does
/// that of tf32.
const fn gpu_rates(tflops: u64, mma_tflops: u64) -> [Rate; 6] {
    let (deep, shallow) = (Unit::Matrix(MatrixShape::M16N8K16), Unit::Matrix(MatrixShape::M16N8K8));
    [
        rate(Unit::Vector, DType::F32, tflops * 1000),
        rate(deep, DType::BF16, mma_tflops * 1000),
        rate(deep, DType::F16, mma_tflops * 1000),
        rate(shallow, DType::BF16, mma_tflops / 2 * 1000),
        rate(shallow, DType::F16, mma_tflops / 2 * 1000),
        rate(shallow, DType::F32, mma_tflops / 2 * 1000),
    ]
}

/// How a copy from global to shared memory is started, and how threads learn that its bytes have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copier {
    /// Each thread starts copies of its own, and waits for groups of them.
    Thread,
    /// One thread starts a copy that a phase of an mbarrier expects.
    Bulk,
}

/// The bytes that one copy moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Widths {
    /// One of these, in order.
    Of(&'static [u32]),
    /// A multiple of a number, up to a most.
    Multiples {
        /// Of what.
        of: u32,
        /// The most.
        most: u32,
    },
}

impl Widths {
    /// Whether a copy of so many bytes is one.
    pub fn has(self, bytes: u32) -> bool {
        match self {
            Widths::Of(widths) => widths.contains(&bytes),
            Widths::Multiples { of, most } => (of..=most).contains(&bytes) && bytes.is_multiple_of(of),
        }
    }
}

impl std::fmt::Display for Widths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Widths::Of([others @ .., last]) if !others.is_empty() => {
                let others: Vec<String> = others.iter().map(u32::to_string).collect();
                write!(f, "{} or {last} bytes", others.join(", "))
            }
            Widths::Of(widths) => write!(f, "{} bytes", widths.iter().sum::<u32>()),
            Widths::Multiples { of, most } => write!(f, "{of} to {most} bytes, a multiple of {of}"),
        }
    }
}

/// A way to copy while threads go on, and the bytes of one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyEngine {
    /// How.
    pub copier: Copier,
    /// How many bytes at a time.
    pub widths: Widths,
}

/// `cp.async`.
const CP_ASYNC: CopyEngine = CopyEngine { copier: Copier::Thread, widths: Widths::Of(&[4, 8, 16]) };
/// `cp.async.bulk`: 16 bytes at a time, fewer than the 2^20 that a phase of an mbarrier can expect.
const CP_ASYNC_BULK: CopyEngine = CopyEngine { copier: Copier::Bulk, widths: Widths::Multiples { of: 16, most: (1 << 20) - 16 } };

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
    Host {
        /// Of what.
        architecture: Architecture,
        /// What it has of the features that are told apart.
        features: &'static [CpuFeature],
    },
}

/// The architectures of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Architecture {
    /// x86-64.
    X86_64,
    /// 64-bit Arm, little-endian.
    Aarch64,
}

impl Architecture {
    /// That of this program; on others than these x86-64, which they then have nothing of.
    pub const fn own() -> Architecture {
        if cfg!(target_arch = "aarch64") { Architecture::Aarch64 } else { Architecture::X86_64 }
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Architecture::X86_64 => "x86-64",
            Architecture::Aarch64 => "aarch64",
        })
    }
}

/// What only some CPUs of an architecture have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CpuFeature {
    /// Integers in vectors of 32 bytes, and gathers.
    Avx2,
    /// Instructions on bits.
    Bmi1,
    /// More of them.
    Bmi2,
    /// Conversions between f16 and f32.
    F16c,
    /// Fused multiply-add.
    Fma,
    /// Counting leading zeros.
    Lzcnt,
    /// Loads and stores that swap bytes.
    Movbe,
    /// Vectors of 64 bytes, and masks.
    Avx512F,
    /// These on 8 and 16 bits.
    Avx512Bw,
    /// Conflicts between the lanes of a vector.
    Avx512Cd,
    /// More on 32 and 64 bits.
    Avx512Dq,
    /// Masks on shorter vectors.
    Avx512Vl,
    /// Dot products of pairs of bf16.
    Avx512Bf16,
    /// Dot products of four 8-bit integers, in vectors of 64 bytes.
    Avx512Vnni,
    /// Dot products of four 8-bit integers, in vectors of 32 bytes.
    AvxVnni,
    /// Tiles: registers of 16 rows of 64 bytes.
    AmxTile,
    /// Products of tiles of bf16.
    AmxBf16,
    /// Products of tiles of 8-bit integers.
    AmxInt8,
    /// Vectors of 16 bytes on 64-bit Arm, with fused multiply-add and conversions of f16, which every such CPU of Linux has.
    Neon,
    /// Dot products of pairs of bf16 on 64-bit Arm.
    Bf16,
}

impl CpuFeature {
    /// The word for it in packages, in Rust's library and, but for what [`CpuFeature::llvm`] says, in LLVM.
    pub const fn name(self) -> &'static str {
        match self {
            CpuFeature::Avx2 => "avx2",
            CpuFeature::Bmi1 => "bmi1",
            CpuFeature::Bmi2 => "bmi2",
            CpuFeature::F16c => "f16c",
            CpuFeature::Fma => "fma",
            CpuFeature::Lzcnt => "lzcnt",
            CpuFeature::Movbe => "movbe",
            CpuFeature::Avx512F => "avx512f",
            CpuFeature::Avx512Bw => "avx512bw",
            CpuFeature::Avx512Cd => "avx512cd",
            CpuFeature::Avx512Dq => "avx512dq",
            CpuFeature::Avx512Vl => "avx512vl",
            CpuFeature::Avx512Bf16 => "avx512bf16",
            CpuFeature::Avx512Vnni => "avx512vnni",
            CpuFeature::AvxVnni => "avxvnni",
            CpuFeature::AmxTile => "amx-tile",
            CpuFeature::AmxBf16 => "amx-bf16",
            CpuFeature::AmxInt8 => "amx-int8",
            CpuFeature::Neon => "neon",
            CpuFeature::Bf16 => "bf16",
        }
    }

    /// LLVM's word for it.
    pub fn llvm(self) -> &'static str {
        if self == CpuFeature::Bmi1 { "bmi" } else { self.name() }
    }

    /// Bytes of the vector registers that come with it; 0: none.
    pub const fn vector_bytes(self) -> u32 {
        match self {
            CpuFeature::Avx512F => 64,
            CpuFeature::Avx2 => 32,
            CpuFeature::Neon => 16,
            CpuFeature::Bmi1
            | CpuFeature::Bmi2
            | CpuFeature::F16c
            | CpuFeature::Fma
            | CpuFeature::Lzcnt
            | CpuFeature::Movbe
            | CpuFeature::Avx512Bw
            | CpuFeature::Avx512Cd
            | CpuFeature::Avx512Dq
            | CpuFeature::Avx512Vl
            | CpuFeature::Avx512Bf16
            | CpuFeature::Avx512Vnni
            | CpuFeature::AvxVnni
            | CpuFeature::AmxTile
            | CpuFeature::AmxBf16
            | CpuFeature::AmxInt8
            | CpuFeature::Bf16 => 0,
        }
    }
}

/// Bytes of the widest vector register of a CPU with these features.
pub const fn vector_bytes(features: &[CpuFeature]) -> u32 {
    let (mut widest, mut i) = (0, 0);
    while i < features.len() {
        let bytes = features[i].vector_bytes();
        widest = if bytes > widest { bytes } else { widest };
        i += 1;
    }
    widest
}

/// The level x86-64-v3: AVX2, FMA, F16C.
pub const X86_64_V3: &[CpuFeature] = &{
    use CpuFeature::*;
    [Avx2, Bmi1, Bmi2, F16c, Fma, Lzcnt, Movbe]
};

/// The level x86-64-v4: the one before, and AVX-512 F, BW, CD, DQ and VL.
pub const X86_64_V4: &[CpuFeature] = &{
    use CpuFeature::*;
    [Avx2, Bmi1, Bmi2, F16c, Fma, Lzcnt, Movbe, Avx512F, Avx512Bw, Avx512Cd, Avx512Dq, Avx512Vl]
};

/// The level x86-64-v4 with AVX512-BF16.
const X86_64_V4_BF16: &[CpuFeature] = &{
    use CpuFeature::*;
    [Avx2, Bmi1, Bmi2, F16c, Fma, Lzcnt, Movbe, Avx512F, Avx512Bw, Avx512Cd, Avx512Dq, Avx512Vl, Avx512Bf16]
};

/// 64-bit Arm as every such CPU is.
pub const AARCH64: &[CpuFeature] = &[CpuFeature::Neon];

/// 64-bit Arm with FEAT_BF16.
const AARCH64_BF16: &[CpuFeature] = &[CpuFeature::Neon, CpuFeature::Bf16];

#[allow(clippy::too_many_arguments, reason = "a row of the table")]
const fn gpu(
    name: &'static str,
    sm: u32,
    ptx: u32,
    shared_kib: u32,
    processors: u32,
    (cache_mib, cache_gb_per_s): (u64, u64),
    shared_gb_per_s: u64,
    gb_per_s: u64,
    rates: &'static [Rate],
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
        copy_engines: if sm >= 90 { &[CP_ASYNC, CP_ASYNC_BULK] } else { &[CP_ASYNC] },
        // Of the machines below those from 90 on have the features of their architecture that others lack (`a`).
        approximations: true,
        matrix_stores: sm >= 90,
        mbarriers: sm >= 90,
        tensor_maps: sm >= 90,
        role_registers: sm >= 90,
        // What is portable between them.
        cluster_blocks: if sm >= 90 { 8 } else { 1 },
        // ptxas advises against it on 120.
        shared_boxes: sm == 90 || sm == 100,
        early_launches: sm >= 90,
        processors,
        cache_bytes: cache_mib << 20,
        cache_bytes_per_us: Some(cache_gb_per_s * 1000),
        shared_bytes_per_us: Some(shared_gb_per_s * 1000),
        bytes_per_us: gb_per_s * 1000,
        rates,
        // What published kernels reckon with on an H200.
        memory_ps: 800_000,
        // A launch that begins while the one before it ends has little to wait for.
        launch_ps: if sm >= 90 { 1_000_000 } else { 3_000_000 },
        // A read of shared memory takes some 20 cycles of 0.6 ns.
        step_ps: 15_000,
        pack: Pack::None,
    }
}

const fn host(
    name: &'static str,
    architecture: Architecture,
    features: &'static [CpuFeature],
    rates: &'static [Rate],
) -> Machine {
    Machine {
        name,
        kind: MachineKind::Host { architecture, features },
        warp_lanes: 1,
        block_threads: 1,
        vector_bytes: vector_bytes(features),
        shared_bytes: 256 * 1024,
        shared_optin_bytes: 256 * 1024,
        copy_engines: &[],
        approximations: false,
        matrix_stores: false,
        mbarriers: false,
        tensor_maps: false,
        role_registers: false,
        cluster_blocks: 1,
        shared_boxes: false,
        early_launches: false,
        processors: 2,
        cache_bytes: 32 << 20,
        cache_bytes_per_us: None,
        shared_bytes_per_us: None,
        bytes_per_us: 60_000,
        rates,
        memory_ps: 0,
        launch_ps: 5_000_000,
        // A read of the first-level cache takes 5 cycles of 0.3 ns.
        step_ps: 1_500,
        pack: Pack::None,
    }
}

// Dense rates of bf16 products that accumulate in f32, from NVIDIA's data sheets. Those of sm_90a and sm_100a are of instructions
// for groups of warps, a warp's own have two thirds and a half of them (assumed).
const SM_80: &[Rate] = &gpu_rates(19, 312);
const SM_86: &[Rate] = &gpu_rates(35, 71);
const SM_89: &[Rate] = &gpu_rates(82, 165);
const SM_90: &[Rate] = &{
    let [a, b, c, d, e, f] = gpu_rates(67, 660);
    [a, b, c, d, e, f, rate(Unit::Group, DType::BF16, 989_000), rate(Unit::Group, DType::F16, 989_000)]
};
const SM_100: &[Rate] = &gpu_rates(80, 1_100);
const SM_120: &[Rate] = &gpu_rates(105, 209);

/// Every machine, GPUs first. GPU figures: NVIDIA's data sheets (second-level cache, memory bandwidth, dense f32 rate). The rate of that
/// cache is 32 bytes a clock and processor on an H200, from published kernels; of the others it is assumed: as many of those with HBM,
/// half as many of those without. Shared memory has 128 bytes a clock and processor: a byte for each FLOP of the f32 rate on sm_80, which has
/// 64 multiply-adds a clock and processor, for two on the others, which have 128.
/// Host figures: two cores of a server CPU of the level; of Arm one with two vector units at 2.5 GHz, as Neoverse N1 and N2 have.
pub const MACHINES: [Machine; 11] = [
    gpu("sm_80", 80, 70, 164, 108, (40, 4_900), 19_000, 1_935, SM_80),
    gpu("sm_86", 86, 71, 100, 84, (6, 2_300), 17_500, 936, SM_86),
    gpu("sm_89", 89, 78, 100, 142, (96, 5_700), 41_000, 960, SM_89),
    gpu("sm_90a", 90, 80, 228, 132, (50, 7_500), 33_500, 4_300, SM_90),
    gpu("sm_100a", 100, 86, 228, 148, (126, 9_000), 40_000, 8_000, SM_100),
    gpu("sm_120a", 120, 87, 100, 170, (96, 6_500), 52_500, 1_792, SM_120),
    host("x86-64-v3", Architecture::X86_64, X86_64_V3, &[rate(Unit::Vector, DType::F32, 150)]),
    host("x86-64-v4", Architecture::X86_64, X86_64_V4, &[rate(Unit::Vector, DType::F32, 300)]),
    host(
        "x86-64-v4-bf16",
        Architecture::X86_64,
        X86_64_V4_BF16,
        &[rate(Unit::Vector, DType::F32, 300), rate(Unit::Dot, DType::BF16, 500)],
    ),
    host("aarch64", Architecture::Aarch64, AARCH64, &[rate(Unit::Vector, DType::F32, 80)]),
    host(
        "aarch64-bf16",
        Architecture::Aarch64,
        AARCH64_BF16,
        &[rate(Unit::Vector, DType::F32, 80), rate(Unit::Dot, DType::BF16, 160)],
    ),
];

impl Machine {
    /// The machine of that name. `host` is not one: the caller decides what it stands for.
    pub fn named(name: &str) -> Option<Machine> {
        MACHINES.into_iter().find(|m| m.name == name)
    }

    /// How fast a unit computes on elements of a type, FLOP per microsecond; `None`: the machine does not have it.
    pub fn rate(&self, unit: Unit, elem: DType) -> Option<u64> {
        self.rates.iter().find(|rate| rate.unit == unit && rate.elem == elem).map(|rate| rate.flops_per_us)
    }

    /// The fastest rate of products of elements of a type, by whichever unit; of a type that none takes, that of f32. Whether factors in f32
    /// may be rounded to tf32 is to be said.
    pub fn best_rate(&self, elem: DType, tf32: bool) -> u64 {
        let is_allowed = |rate: &&Rate| match rate.unit {
            Unit::Matrix(_) => tf32 || rate.elem != DType::F32,
            Unit::Vector | Unit::Dot | Unit::Group => true,
        };
        let of_type = self.rates.iter().filter(|rate| rate.elem == elem).filter(is_allowed).map(|rate| rate.flops_per_us);
        of_type.fold(self.vector_rate(), u64::max)
    }

    /// The rate of multiply-adds in f32, which every machine has and other work is measured by.
    pub fn vector_rate(&self) -> u64 {
        self.rate(Unit::Vector, DType::F32).unwrap_or(1)
    }

    /// Whether warps have products of matrices, and so loads of their fragments.
    pub fn has_matrices(&self) -> bool {
        self.rates.iter().any(|rate| match rate.unit {
            Unit::Matrix(_) => true,
            Unit::Vector | Unit::Dot | Unit::Group => false,
        })
    }

    /// Whether four warps compute products of matrices together, on elements of any type.
    pub fn has_groups(&self) -> bool {
        self.rates.iter().any(|rate| rate.unit == Unit::Group)
    }

    /// The bytes that a copy of this kind moves; `None`: the machine has no such copies.
    pub fn copies(&self, copier: Copier) -> Option<Widths> {
        self.copy_engines.iter().find(|engine| engine.copier == copier).map(|engine| engine.widths)
    }

    /// Whether a block has threads that work together and share memory. Where it has not, one thread does all of it, by vectors.
    pub fn has_threads(&self) -> bool {
        self.block_threads > 1
    }

    /// Whether its kernels are PTX. What a kernel does depends on capabilities, not on this.
    pub fn is_gpu(&self) -> bool {
        match self.kind {
            MachineKind::Gpu { .. } => true,
            MachineKind::Host { .. } => false,
        }
    }

    /// What kind of CPU its kernels are for; `None`: a GPU.
    pub fn architecture(&self) -> Option<Architecture> {
        match self.kind {
            MachineKind::Gpu { .. } => None,
            MachineKind::Host { architecture, .. } => Some(architecture),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_of_copies() {
        let [thread, bulk] = [CP_ASYNC, CP_ASYNC_BULK].map(|engine| engine.widths);
        assert_eq!([0, 2, 4, 8, 12, 16, 32].map(|bytes| thread.has(bytes)), [false, false, true, true, false, true, false]);
        let large = (1 << 20) - 16;
        assert_eq!(
            [0, 8, 16, 24, 48, large, large + 16].map(|bytes| bulk.has(bytes)),
            [false, false, true, false, true, true, false]
        );
        assert_eq!(thread.to_string(), "4, 8 or 16 bytes");
        assert_eq!(bulk.to_string(), "16 to 1048560 bytes, a multiple of 16");
    }

    /// The last host that fits a CPU is the best for it: those of one architecture have what those before them have, and no feature of
    /// another.
    #[test]
    fn hosts_have_what_those_before_them_have() {
        let of = |wanted: Architecture| -> Vec<&'static [CpuFeature]> {
            let features = |machine: &Machine| match machine.kind {
                MachineKind::Host { architecture, features } => (architecture == wanted).then_some(features),
                MachineKind::Gpu { .. } => None,
            };
            MACHINES.iter().filter_map(features).collect()
        };
        let [x86, arm] = [Architecture::X86_64, Architecture::Aarch64].map(of);
        for pair in x86.windows(2).chain(arm.windows(2)) {
            assert!(pair[0].iter().all(|feature| pair[1].contains(feature)) && pair[0].len() < pair[1].len());
        }
        assert!(x86.iter().all(|of| of.iter().all(|feature| arm.iter().all(|others| !others.contains(feature)))));
        let widths = [x86, arm].map(|hosts| hosts.iter().map(|features| vector_bytes(features)).collect::<Vec<_>>());
        assert_eq!(widths, [vec![32, 64, 64], vec![16, 16]]);
    }

    #[test]
    fn rates_by_unit_and_type() {
        let machine = Machine::named("x86-64-v4-bf16").unwrap();
        assert_eq!((machine.vector_rate(), machine.rate(Unit::Dot, DType::BF16)), (300_000, Some(500_000)));
        assert_eq!((machine.rate(Unit::Dot, DType::F16), machine.has_matrices()), (None, false));
        let gpu = Machine::named("sm_80").unwrap();
        let shallow = Unit::Matrix(MatrixShape::M16N8K8);
        assert_eq!([DType::F32, DType::BF16].map(|elem| gpu.best_rate(elem, false)), [19_000_000, 312_000_000]);
        assert_eq!(gpu.best_rate(DType::F32, true), 156_000_000);
        assert_eq!([DType::F16, DType::BF16].map(|elem| machine.best_rate(elem, false)), [300_000, 500_000]);
        assert_eq!((gpu.vector_rate(), gpu.rate(shallow, DType::F16)), (19_000_000, Some(156_000_000)));
        assert!(MACHINES.iter().all(|machine| machine.rate(Unit::Vector, DType::F32).is_some()));
    }
}
