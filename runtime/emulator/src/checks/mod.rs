//! What is wrong with an access, an order or a wait.

pub(crate) mod bounds;
pub(crate) mod early;
pub(crate) mod race;
pub(crate) mod remote;
pub(crate) mod waiting;
