//! What the checks report: a closed list of kinds, and one [`Finding`] for each place where one was seen.

use std::fmt;

use crate::findings::json;
use crate::text::module::Position;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What is wrong. The name of each is stable: reports and tools may depend on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum FindingKind {
            $($(#[$doc])* $variant,)*
        }

        impl FindingKind {
            /// Every kind.
            pub const ALL: &'static [FindingKind] = &[$(FindingKind::$variant,)*];

            /// The stable name.
            pub fn name(self) -> &'static str {
                match self {
                    $(FindingKind::$variant => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// An access outside every allocation, or past the end of one.
    OutOfBounds = "out-of-bounds",
    /// An access near address zero.
    NullPointer = "null-pointer",
    /// An address that belongs to another state space.
    WrongSpace = "wrong-space",
    /// An address that is not a multiple of what the access needs.
    Misaligned = "misaligned",
    /// A store to memory that only may be read.
    ReadOnly = "read-only",
    /// A register is used before anything was put into it.
    UninitialisedRegister = "uninitialised-register",
    /// Shared or local memory is read before it is written.
    UninitialisedShared = "uninitialised-shared",
    /// Global memory is read before it is written.
    UninitialisedGlobal = "uninitialised-global",
    /// Memory that the host reads back was not written by any launch. Only the caller knows what is read back.
    NeverWritten = "never-written",
    /// Two warps of a block use the same shared bytes without an order between them, one of them writing.
    SharedRace = "shared-race",
    /// Two lanes of a warp use the same bytes without `bar.warp.sync` in between.
    LaneRace = "lane-race",
    /// Two warps or blocks use the same global bytes without an order between them.
    GlobalRace = "global-race",
    /// A launch that begins early uses global bytes before it waits for the launches before it, which use them too.
    EarlyAccess = "early-access",
    /// Bytes of an asynchronous copy, or a wgmma accumulator, are touched before it was waited for.
    AsyncPending = "async-pending",
    /// A generic write is read by the asynchronous proxy without `fence.proxy.async`.
    MissingProxyFence = "missing-proxy-fence",
    /// A register of a wgmma was written by an ordinary instruction without `wgmma.fence`.
    MissingWgmmaFence = "missing-wgmma-fence",
    /// Lanes of a warp, or warps of a block, reach different barriers where they must reach the same.
    DivergentBarrier = "divergent-barrier",
    /// A barrier with a wrong number of threads.
    BarrierCount = "barrier-count",
    /// An instruction that names lanes which are not there, or leaves out its own.
    BadMask = "bad-mask",
    /// A shuffle reads from a lane that takes no part.
    InactiveLane = "inactive-lane",
    /// Everyone waits for ever.
    Deadlock = "deadlock",
    /// A warp, or all of them together, took more steps than allowed.
    StepLimit = "step-limit",
    /// Wrong use of an mbarrier.
    MbarrierMisuse = "mbarrier-misuse",
    /// Wrong use of a matrix descriptor, tensor map or bulk copy.
    BadDescriptor = "bad-descriptor",
    /// A 32-bit calculation wrapped around and then became part of an address.
    AddressWrap = "address-wrap",
    /// A float atomic in a launch that promises the same bits every time.
    FloatAtomic = "float-atomic",
    /// More shared memory than the machine has.
    SharedLimit = "shared-limit",
    /// `trap`, or a failed assertion.
    Trap = "trap",
    /// A division of an integer by zero.
    DivideByZero = "divide-by-zero",
    /// An asynchronous operation is still under way when its thread exits.
    Abandoned = "abandoned",
    /// Memory of another block of the cluster is used, which may have ended by then.
    BlockEnded = "block-ended",
    /// Something that is accepted but whose meaning here is not defined, such as a bad barrier number.
    Undefined = "undefined",
}

impl fmt::Display for FindingKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Something wrong, at one instruction. Repeats at the same instruction are counted, not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// The kernel.
    pub kernel: String,
    /// The place in the PTX text.
    pub at: Position,
    /// The opcode there, as written.
    pub opcode: String,
    /// The block, as x, y, z.
    pub block: [u32; 3],
    /// The warp of the block.
    pub warp: u32,
    /// The lanes, one bit each.
    pub lanes: u32,
    /// What was seen, in words.
    pub message: String,
    /// How often it was seen at this instruction, at least.
    pub count: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.opcode.is_empty() {
            // Of a launch as a whole.
            return write!(out, "{}: {}: {}", self.kind, self.kernel, self.message);
        }
        let [x, y, z] = self.block;
        write!(
            out,
            "{}: {} at {} (`{}`), block ({x}, {y}, {z}) warp {} lanes {:#010x}: {}",
            self.kind, self.kernel, self.at, self.opcode, self.warp, self.lanes, self.message
        )?;
        if self.count > 1 {
            write!(out, " ({} times)", self.count)?;
        }
        Ok(())
    }
}

impl Finding {
    /// One JSON object.
    pub fn to_json(&self) -> String {
        let [x, y, z] = self.block;
        let mut object = json::Object::new();
        object.text("kind", self.kind.name());
        object.text("kernel", &self.kernel);
        object.number("line", self.at.line.into());
        object.number("column", self.at.column.into());
        object.text("opcode", &self.opcode);
        object.raw("block", &format!("[{x},{y},{z}]"));
        object.number("warp", self.warp.into());
        object.number("lanes", self.lanes.into());
        object.text("message", &self.message);
        object.number("count", self.count);
        object.close()
    }
}
