//! The tests of this crate, a module a file: one program, which is linked once and spreads its tests over all cores.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bias_update;
mod decisions;
mod graph_interp;
mod graph_random;
mod graph_text;
mod graph_verify;
mod kernel_cluster;
mod kernel_group;
mod kernel_interp;
mod kernel_launches;
mod kernel_text;
mod kernel_verify;
mod layer;
mod oracle;
mod peers;
mod prices;
mod random;
mod rewrite_cases;
mod rewrite_layers;
mod rewrite_rules;
mod schedule_layers;
mod schedule_limits;
mod schedule_routing;
mod schedule_sort;
