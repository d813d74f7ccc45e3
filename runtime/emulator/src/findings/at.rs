//! Some lanes of a warp at an instruction: where something is done, and where something is found.

/// Lanes of a warp at an instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) w: usize,
    pub(crate) mask: u32,
    pub(crate) pc: u32,
}

impl At {
    /// Others of its lanes.
    pub(crate) fn of(self, mask: u32) -> At {
        At { mask, ..self }
    }

    /// One of its lanes.
    pub(crate) fn lane(self, lane: usize) -> At {
        self.of(1 << lane)
    }
}
