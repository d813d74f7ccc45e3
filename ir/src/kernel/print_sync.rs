//! The text of roles and of what they wait at.

use super::{Mbarrier, Scope, WarpRole};

/// The declaration of a barrier of this name.
pub(super) fn mbarrier(name: &str, barrier: &Mbarrier) -> String {
    format!("mbarrier {name} arrivals {} stages {}", barrier.arrivals, barrier.stages)
}

/// Behind `barrier`.
pub(super) fn scope(scope: Scope) -> String {
    match scope {
        Scope::Warp => "warp".to_string(),
        Scope::Threads { id, count } => format!("threads {count} id {id}"),
        Scope::Block => "block".to_string(),
        Scope::Cluster => "cluster".to_string(),
    }
}

/// In front of the role's statements.
pub(super) fn role(role: &WarpRole) -> String {
    let registers = role.registers.map(|registers| format!(" registers {registers}")).unwrap_or_default();
    format!("warps {}..{}{registers}", role.warps.start, role.warps.end)
}
