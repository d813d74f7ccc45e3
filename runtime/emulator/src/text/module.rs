//! What a parsed PTX file is: a [`Module`] of entries, each with parameters, shared memory and typed instructions.

use std::fmt;

use crate::text::ins::Ins;

/// A place in the PTX text, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in bytes, from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.line, self.column)
    }
}

/// Why a text is not a module that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Where the text stops being understood.
    pub at: Position,
    /// What is wrong with it.
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(at: Position, message: impl Into<String>) -> ParseError {
        ParseError { at, message: message.into() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.at, self.message)
    }
}

impl std::error::Error for ParseError {}

/// A parsed PTX file.
#[derive(Clone, Debug)]
pub struct Module {
    /// The `.version`, as written: `8.0`.
    pub version: String,
    /// The `.target`, as written: `sm_90a`.
    pub target: String,
    /// The kernels, in the order of the text.
    pub entries: Vec<Entry>,
    pub(crate) globals: Vec<Variable>,
    /// Distinguishes the module variables of one file from another's in a shared `Memory`.
    pub(crate) fingerprint: u64,
}

impl Module {
    /// The kernel with this name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

/// One kernel.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its parameters, in order.
    pub params: Vec<Param>,
    /// Bytes of the parameter block: what `Launch::args` must hold.
    pub param_bytes: usize,
    /// Bytes of shared memory with a fixed size.
    pub shared_bytes: u32,
    /// The alignment that the dynamic shared memory requires.
    pub shared_align: u32,
    /// `.maxntid`, where given.
    pub max_threads: Option<u32>,
    /// `.reqntid`, where given.
    pub required_block: Option<[u32; 3]>,
    /// Blocks of a cluster along x, where the kernel says it.
    pub cluster: Option<u32>,
    /// Bytes of local memory of one thread.
    pub local_bytes: u32,
    pub(crate) code: Vec<Ins>,
    pub(crate) registers: u32,
    /// Name, and whether it is 64 bits wide, of each register, for reports.
    pub(crate) register_names: Vec<String>,
    pub(crate) predicates: u32,
    pub(crate) predicate_names: Vec<String>,
    /// Registers that hold a constant or a special register from the start.
    pub(crate) preset: Vec<(u32, Preset)>,
    pub(crate) opcodes: Vec<String>,
    /// Whether any instruction is asynchronous against shared memory: decides how wide the race shadow is.
    pub(crate) asynchronous: bool,
    /// Whether there is any wgmma: its registers are watched.
    pub(crate) wgmma: bool,
}

impl Entry {
    /// How many instructions the kernel has.
    pub fn instructions(&self) -> usize {
        self.code.len()
    }
}

/// One kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Where it starts in the parameter block.
    pub offset: usize,
    /// Its size in bytes.
    pub bytes: usize,
    /// Its alignment in bytes.
    pub align: usize,
    /// Whether the text says that it is a pointer (`.ptr`).
    pub pointer: bool,
}

/// What a register holds before the first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Preset {
    Value(u64),
    Special(Special),
    /// The generic address of a module variable, plus an offset.
    Global(u32, i64),
    /// Offset in shared memory just after the fixed part.
    Dynamic(i64),
}

/// Special registers with one value for the life of a thread (PTX ISA 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    Nwarpid,
    SmId,
    Nsmid,
    GridId,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtarank,
    ClusterNctarank,
    IsExplicitCluster,
    DynamicSharedBytes,
    TotalSharedBytes,
}

/// A variable of the whole module, in global or constant space.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) align: u64,
    /// The bytes it starts with; the rest is zero (PTX ISA 5.4.4: unlisted elements are zero).
    pub(crate) initial: Vec<u8>,
    pub(crate) constant: bool,
}
