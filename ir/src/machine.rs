//! The machines that moec compiles for, as plain data. The only place with hardware figures.

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
    /// Whether a bf16 pair dot product accumulating in f32 is one instruction.
    pub dot_bf16: bool,
    /// Streaming multiprocessors, or cores.
    pub processors: u32,
    /// Memory bandwidth, bytes per microsecond.
    pub bytes_per_us: u64,
    /// Rate of the arithmetic that the kernels use, FLOP per microsecond.
    pub flops_per_us: u64,
    /// Cost of one launch, picoseconds.
    pub launch_ps: u64,
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

const fn gpu(name: &'static str, sm: u32, ptx: u32, shared_kib: u32, processors: u32, gb_per_s: u64, tflops: u64) -> Machine {
    Machine {
        name,
        kind: MachineKind::Gpu { sm, ptx },
        warp_lanes: 32,
        block_threads: 1024,
        vector_bytes: 16,
        // What a block may have without opting in to more.
        shared_bytes: if shared_kib < 48 { shared_kib * 1024 } else { 48 * 1024 },
        dot_bf16: false,
        processors,
        bytes_per_us: gb_per_s * 1000,
        flops_per_us: tflops * 1_000_000,
        launch_ps: 3_000_000,
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
        dot_bf16,
        processors: 2,
        bytes_per_us: 60_000,
        flops_per_us: gflops * 1000,
        launch_ps: 5_000_000,
    }
}

/// Every machine, GPUs first. GPU figures: NVIDIA's data sheets (dense f32 rate, memory bandwidth).
/// Host figures: two cores of a server CPU of the level.
pub const MACHINES: [Machine; 9] = [
    gpu("sm_80", 80, 70, 164, 108, 1_935, 19),
    gpu("sm_86", 86, 71, 100, 84, 936, 35),
    gpu("sm_89", 89, 78, 100, 142, 960, 82),
    gpu("sm_90a", 90, 80, 228, 132, 4_300, 67),
    gpu("sm_100a", 100, 86, 228, 148, 8_000, 80),
    gpu("sm_120a", 120, 87, 100, 170, 1_792, 105),
    host("x86-64-v3", HostLevel::V3, 32, false, 150),
    host("x86-64-v4", HostLevel::V4, 64, false, 300),
    host("x86-64-v4-bf16", HostLevel::V4Bf16, 64, true, 500),
];

impl Machine {
    /// The machine of that name. `host` is not one: the caller decides what it stands for.
    pub fn named(name: &str) -> Option<Machine> {
        MACHINES.into_iter().find(|m| m.name == name)
    }

    /// Whether it is an NVIDIA GPU.
    pub fn is_gpu(&self) -> bool {
        match self.kind {
            MachineKind::Gpu { .. } => true,
            MachineKind::Host(_) => false,
        }
    }
}
