//! How weights come out of a checkpoint: a part of the manifest, plain data as the rest of it.

use serde::{Deserialize, Serialize};

/// How one weight buffer comes out of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The weight buffer's name.
    pub buffer: String,
    /// The pieces that cover it; nearly always one that is the whole.
    pub pieces: Vec<Piece>,
}

/// A part of a weight buffer, and the places where a checkpoint may keep it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// The part of the buffer that it fills; absent: the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into: Option<Slice>,
    /// Candidates; the first whose tensors exist is taken.
    pub sources: Vec<Source>,
}

/// One way a checkpoint may store a piece. Axes are those of the canonical buffer: `gate` is `[experts, intermediate, hidden]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The stored tensor's name. `{e}` in it means one tensor an index of axis 0 (an expert), without that axis.
    pub name: String,
    /// The first two stored axes are folded into one (`[experts * intermediate, hidden]`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flattened: bool,
    /// The canonical axes in stored order; empty is canonical order. Layout `T` of three axes is `[0, 2, 1]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub axes: Vec<u32>,
    /// The part of the stored tensor that is meant, of a fused one (`gate` of `gate_up`); absent: the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<Slice>,
    /// Along axis 0 so many more may be stored behind what the buffer has: experts that no kernel reads.
    #[serde(default, skip_serializing_if = "super::manifest::is_none")]
    pub spare: u64,
    /// An axis that may be stored in parts, one behind the other, along a first axis of their own: the shared experts one by
    /// one (`[2, hidden, intermediate]` for `[hidden, 2 * intermediate]`). Absent: side by side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stacked: Option<Stacked>,
}

/// Equal parts of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Stacked {
    /// The canonical axis.
    pub axis: u32,
    /// How many parts.
    pub parts: u32,
}

impl Source {
    /// A tensor stored as the buffer is: whole, in canonical order.
    #[must_use]
    pub fn plain(name: impl Into<String>) -> Source {
        Source { name: name.into(), flattened: false, axes: Vec::new(), slice: None, spare: 0, stacked: None }
    }
}

impl Recipe {
    /// A buffer that is one stored tensor or one tensor an expert, wherever it is found first.
    #[must_use]
    pub fn whole(buffer: impl Into<String>, sources: Vec<Source>) -> Recipe {
        Recipe { buffer: buffer.into(), pieces: vec![Piece { into: None, sources }] }
    }
}

/// One of several equal parts along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// The canonical axis that is shared out.
    pub axis: u32,
    /// Which part, from 0.
    pub index: u32,
    /// How many parts.
    pub parts: u32,
    /// Parts alternate index by index (`interleave`), rather than follow each other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interleaved: bool,
}
