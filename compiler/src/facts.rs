//! What a layer says of itself beside what it computes: its sizes by name, and what statistics of its routing are read by.

use moec_ir::{Facts, RoutingFacts};

use crate::import::{Entry, rows_at_capacity};
use crate::spec::{CapacitySize, Mode, Pad, Spec};

/// The facts of a layer's entry.
pub(crate) fn facts_of(spec: &Spec, entry: Entry) -> Facts {
    let all = facts(spec);
    match entry {
        Entry::Layer | Entry::Router => all,
        Entry::Experts { local } => {
            let width = |(name, size): (String, u64)| if name == "hidden" { (name, entry.width(spec)) } else { (name, size) };
            let local = local.map(|local| ("local_experts".to_string(), local));
            // The routing is the caller's.
            Facts { sizes: all.sizes.into_iter().map(width).chain(local).collect(), routing: RoutingFacts::default() }
        }
    }
}

/// The facts of a spec's layer.
pub(crate) fn facts(spec: &Spec) -> Facts {
    let routing = match spec.router.mode {
        Mode::TokenChoice | Mode::Hash | Mode::ExpertChoice => routing(spec),
        Mode::Soft(_) => RoutingFacts::default(),
    };
    Facts { sizes: sizes(spec), routing }
}

fn sizes(spec: &Spec) -> Vec<(String, u64)> {
    let (picks, slots) = match spec.router.mode {
        Mode::TokenChoice | Mode::Hash => (Some(spec.router.top_k), None),
        // There is no K.
        Mode::ExpertChoice => (None, None),
        Mode::Soft(soft) => (None, Some(soft.slots)),
    };
    let sizes = [
        ("hidden", Some(spec.hidden)),
        ("intermediate", Some(spec.expert.intermediate)),
        ("experts", Some(spec.experts)),
        ("top_k", picks),
        ("slots", slots),
        ("shared_intermediate", Some(spec.shared.map_or(0, |shared| shared.intermediate))),
        ("identity_experts", Some(spec.router.identity_experts).filter(|experts| *experts > 0)),
        ("vocabulary", spec.router.vocabulary),
    ];
    sizes.into_iter().filter_map(|(name, size)| Some((name.to_string(), size?))).collect()
}

fn routing(spec: &Spec) -> RoutingFacts {
    let padded = spec.capacity.filter(|capacity| capacity.pad == Pad::ToCapacity);
    RoutingFacts {
        joint_shared: spec.router.joint_shared,
        corrected: spec.router.correction.is_some(),
        grouped: spec.router.groups.is_some(),
        capacity_factor: capacity_factor(spec),
        rows_at_capacity: padded.and_then(|_| rows_at_capacity(spec)),
    }
}

/// An expert's capacity over the mean load, where that is a number of the spec. A capacity below the mean is exceeded in every expert of
/// an even router: it says nothing of balance.
fn capacity_factor(spec: &Spec) -> Option<[u64; 2]> {
    // Experts that choose all have the same load, so that a factor limits none.
    let capacity = spec.capacity.filter(|_| spec.router.mode != Mode::ExpertChoice)?;
    match capacity.size {
        CapacitySize::Factor { factor, count_k, .. } => {
            // The mean load is T K / E.
            let means = if count_k { 1 } else { spec.router.top_k };
            Some([factor.numerator, factor.denominator.saturating_mul(means)]).filter(|[over, under]| over >= under)
        }
        CapacitySize::Tokens(_) | CapacitySize::Fraction { .. } => None,
    }
}
