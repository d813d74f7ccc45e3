//! What instructions do.

pub(crate) mod access;
pub(crate) mod agents;
pub(crate) mod arithmetic;
pub(crate) mod atomics;
pub(crate) mod barrier;
pub(crate) mod block;
pub(crate) mod bulk;
pub(crate) mod copy;
pub(crate) mod exchange;
pub(crate) mod matrix;
pub(crate) mod mbarrier;
pub(crate) mod order;
pub(crate) mod remote;
pub(crate) mod schedule;
pub(crate) mod step;
pub(crate) mod wgmma;
