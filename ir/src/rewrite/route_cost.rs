//! What routing costs: the logits, the picks, and the sort of the pairs, which may be in the same launch.

use super::cost::{Cost, Sizes, body_flops, ordering, product_flops, touched};
use super::price::{Amounts, Price, time};
use crate::graph::{Assignment, Attr, Dim, Op, Priority, Type, infer_body};
use crate::tiling::{self, Feeding, Routing};
use crate::{Machine, Sorting};

/// The price of a route, or of a product that gives picks, for one batch.
pub(super) fn route(op: Op, types: &[&Type], way: Option<&Attr>, machine: &Machine, sizes: &Sizes) -> Price {
    let body = infer_body(op, types).unwrap_or_default();
    let (result, picks) = body.last().map_or((0, 0), |t| (sizes.bytes(t), sizes.elements(t)));
    let (sorting, experts) = (sorting_of(way), experts_of(types));
    let routing = routing(types, experts, sizes);
    let of_body = body_flops(op, types, &body, sizes);
    let products = product_flops(op, types, sizes);
    let logits = routing.map_or(products, |routing| routing.flops(sorting, machine));
    let cached = routing.map_or(0, |routing| routing.cached_bytes());
    let caching = machine.cache_bytes_per_us.map_or(0, |rate| time(cached, rate));
    let routers = sorting.routers(sizes.tokens, machine);
    let bytes = touched(op, types, sizes).saturating_add(result);
    let waiting = routing.map_or(0, |routing| routing.waiting_ps(sorting, machine));
    let (launches, bytes, serial) = match (op == Op::Route, experts_choose(types)) {
        // A route is followed by the choice, which reads the scores six times.
        (true, true) => (2, bytes.saturating_add(picks.saturating_mul(24)), waiting),
        (true, false) => {
            // Each block of a cluster writes its part of every logit, and they are read again.
            let parts = match sorting {
                Sorting::Cluster => sizes.tokens.saturating_mul(experts).saturating_mul(8).saturating_mul(routers),
                Sorting::Spread | Sorting::Block | Sorting::Routed => 0,
            };
            let bytes = bytes.saturating_add(ranked(types, picks, sizes.tokens)).saturating_add(parts);
            let serial = waiting.saturating_add(sorting.serial_ps(picks, experts, machine));
            (1 + sorting.launches() + ordering(types), bytes, serial)
        }
        (false, _) => (1, bytes, waiting),
    };
    let of_token = if takes_no_greatest(types) { 0 } else { picks / sizes.tokens.max(1) };
    let serial = serial.saturating_add(tiling::pick_ps([sizes.tokens, of_token, experts], routers, machine));
    let (flops, work) = (of_body.saturating_add(products), of_body.saturating_add(logits));
    let amounts = Amounts { launches, bytes, flops, work };
    // Few blocks have their processors' part of the bandwidth and of the rate.
    let idle = (u64::from(machine.processors) / routers.max(1)).max(1);
    let busy = Price::roofline(machine, amounts).feeding(Feeding { caching, ..Feeding::default() });
    Price { serial, ..busy.slower(idle) }
}

/// Picoseconds of the picks of an op that has the logits: as many of a token as its last operand says.
pub(super) fn picking(types: &[&Type], sizes: &Sizes, machine: &Machine) -> Cost {
    let experts = types.first().map_or(0, |logits| sizes.elements(logits)) / sizes.tokens.max(1);
    let of_token = if let Some(Type::Attr(Attr::Num(picks))) = types.last() { *picks } else { 0 };
    tiling::pick_ps([sizes.tokens, of_token, experts], Sorting::Spread.routers(sizes.tokens, machine), machine)
}

/// What is multiplied with the router.
fn routing(types: &[&Type], experts: u64, sizes: &Sizes) -> Option<Routing> {
    let (Type::Tensor { dtype: rows, shape }, Type::List(ws)) = (types.first()?, types.get(1)?) else { return None };
    let (Type::Tensor { dtype: router, .. }, Dim::Const(hidden)) = (ws.first()?, *shape.last()?) else { return None };
    Some(Routing { elems: [*rows, *router], tokens: sizes.tokens, hidden, experts })
}

/// How pairs are sorted, where that is decided; else as those of large batches are.
pub(super) fn sorting_of(way: Option<&Attr>) -> Sorting {
    match way {
        Some(Attr::Sorting(sorting)) => *sorting,
        Some(_) | None => Sorting::Spread,
    }
}

/// The experts of the pairs that are sorted, those without rows too: of a route, of picks, or of given ids.
pub(super) fn experts_of(types: &[&Type]) -> u64 {
    match types {
        [Type::Picks { experts, rowless, .. }, ..] => experts.saturating_add(*rowless),
        [.., Type::Attr(Attr::Num(experts))] => *experts,
        [_, Type::List(routers), ..] => match routers.first() {
            Some(Type::Tensor { shape, .. }) => match shape.first() {
                Some(Dim::Const(n)) => *n,
                Some(Dim::Tokens | Dim::Pairs) | None => 0,
            },
            Some(Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_)) | None => 0,
        },
        _ => 0,
    }
}

/// Whether a route's picks are not the greatest of some scores: all experts, or those that a table names.
fn takes_no_greatest(types: &[&Type]) -> bool {
    types.iter().any(|ty| matches!(ty, Type::Attr(Attr::Body(body)) if body.has(Op::AllExperts) || body.has(Op::HashPicks)))
}

/// Whether a route's body gives every token all experts, which then take the heaviest.
pub(super) fn experts_choose(types: &[&Type]) -> bool {
    match types {
        [_, _, _, Type::Attr(Attr::Body(body)), Type::Attr(Attr::Assignment(Assignment::Capacity(c)))] => {
            body.has(Op::AllExperts) && c.priority == Priority::Score
        }
        _ => false,
    }
}

/// Bytes of the ranks that a capacity is compared with: one a pick.
pub(super) fn ranked(types: &[&Type], picks: u64, tokens: u64) -> u64 {
    match types.last() {
        // In four passes an item is read, written, and its key looked up twice: 16 bytes.
        Some(Type::Attr(Attr::Assignment(Assignment::Capacity(c)))) => picks.saturating_mul(4).saturating_add(match c.priority {
            Priority::ChoiceMajor | Priority::TokenMajor => 0,
            Priority::BatchPrioritized => tokens.saturating_mul(64),
            Priority::Score => picks.saturating_mul(64),
        }),
        Some(_) | None => 0,
    }
}
