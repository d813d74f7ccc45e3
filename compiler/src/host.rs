//! Which of the host machines this CPU is. What a level means is `moec_ir`'s to say.

use moec_ir::Machine;
use moec_ir::machine::{HostLevel, MACHINES, MachineKind};

/// The machine of the highest level that this CPU has everything of; none where it is below the lowest, or another
/// architecture.
pub fn host_machine() -> Option<Machine> {
    let level = |machine: &Machine| match machine.kind {
        MachineKind::Host(level) => Some(level),
        MachineKind::Gpu { .. } => None,
    };
    MACHINES.into_iter().filter(|machine| level(machine).is_some_and(has_level)).max_by_key(level)
}

fn has_level(level: HostLevel) -> bool {
    level.features().into_iter().all(has_feature)
}

/// Whether this CPU has a feature, by LLVM's name for it. A name that is not listed here counts as absent.
#[cfg(target_arch = "x86_64")]
fn has_feature(name: &str) -> bool {
    macro_rules! any_of {
        ($($feature:tt)+) => {
            match name {
                $($feature => std::arch::is_x86_feature_detected!($feature),)+
                _ => false,
            }
        };
    }
    any_of!("avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe" "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl" "avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_feature(_name: &str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels include those below, so the answer must be monotone.
    #[test]
    fn a_level_implies_those_below() {
        assert!(!has_level(HostLevel::V4) || has_level(HostLevel::V3));
        assert!(!has_level(HostLevel::V4Bf16) || has_level(HostLevel::V4));
        assert_eq!(host_machine().is_some(), has_level(HostLevel::V3));
    }
}
