//! What is wrong with an access, an order or a wait.

pub(crate) mod race;
