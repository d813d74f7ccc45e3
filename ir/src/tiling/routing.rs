//! How tokens are routed on a machine: how a block's warps share the logits, and what of routing is done one after another.

use super::{MATRIX, Sorting};
use crate::machine::Unit;
use crate::{DType, Machine};

/// Elements along H of a step of a warp that multiplies by matrices: 16 bytes a lane, of four lanes.
pub const LOGIT_DEPTH: u32 = 32;

/// Left factors of a warp in a pass over its experts, at most.
const LOGIT_FACTORS: u32 = 4;

/// Registers of a thread for what it has asked memory for.
const LOGIT_REGISTERS: u32 = 128;

/// Experts of a left factor; tokens of a right one.
const SIXTEEN: u32 = 16;
const EIGHT: u32 = 8;

/// How the warps of a block share the logits of [some tokens](ROUTE_TOKENS), where rows and router are of one type that the machine
/// multiplies by small matrices: beside each other along the experts, and along H where there are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogitTiles {
    /// Warps that have other experts.
    pub warps_beside: u32,
    /// Warps that have another run of H.
    pub warps_along: u32,
    /// Left factors of a warp, of 16 experts each. More experts take more passes.
    pub factors: u32,
    /// Steps of a warp whose loads are under way together.
    pub steps: u32,
    /// Whether the turns are whole: no lane is beyond the end of a block's run of H.
    pub is_whole: bool,
}

impl LogitTiles {
    /// Elements along H from one step to the next.
    pub fn step(&self) -> u32 {
        LOGIT_DEPTH * self.warps_along
    }

    /// Elements along H of the steps that are loaded together.
    pub fn turn(&self) -> u32 {
        self.steps * self.step()
    }

    /// Passes over so many experts.
    fn passes(&self, experts: u64) -> u64 {
        experts.div_ceil(u64::from(self.warps_beside * self.factors * SIXTEEN))
    }
}

/// The tiles of the logits of `[hidden, experts]` where so many blocks share H; none where they are computed number by number.
pub fn logit_tiles(
    [rows, router]: [DType; 2],
    [hidden, experts]: [u64; 2],
    blocks: u32,
    machine: &Machine,
) -> Option<LogitTiles> {
    let is_whole_load = hidden > 0 && (hidden % u64::from(EIGHT) * rows.bytes()).is_multiple_of(16);
    if machine.rate(Unit::Matrix(MATRIX), rows).is_none() || rows != router || !is_whole_load {
        return None;
    }
    let warps = route_warps(machine);
    let lines = u32::try_from(experts.div_ceil(SIXTEEN.into())).unwrap_or(u32::MAX).max(1);
    let warps_beside = lines.min(warps).next_power_of_two().min(warps);
    let (warps_along, factors) = (warps / warps_beside, lines.div_ceil(warps_beside).min(LOGIT_FACTORS));
    let most = LOGIT_REGISTERS / (4 * (2 * factors + ROUTE_TOKENS / EIGHT));
    let of_block = run_of_block(hidden, blocks, LOGIT_DEPTH * warps_along);
    let steps = of_block.div_ceil((LOGIT_DEPTH * warps_along).into()).max(1);
    let steps = steps.div_ceil(steps.div_ceil(most.max(1).into())) as u32;
    let turn = u64::from(steps * LOGIT_DEPTH * warps_along);
    let is_whole = of_block.is_multiple_of(turn) && of_block.saturating_mul(blocks.into()) == hidden;
    Some(LogitTiles { warps_beside, warps_along, factors, steps, is_whole })
}

/// Elements along H of a block, of so many that share it: whole steps.
pub fn run_of_block(hidden: u64, blocks: u32, step: u32) -> u64 {
    hidden.div_ceil(step.into()).div_ceil(blocks.max(1).into()).saturating_mul(step.into())
}

/// Warps of a block that routes.
fn route_warps(machine: &Machine) -> u32 {
    (machine.block_threads.min(256) / machine.warp_lanes).max(1)
}

/// What is routed: tokens with rows of H elements, to so many experts.
#[derive(Clone, Copy, Debug)]
pub struct Routing {
    /// Element types of the rows and of the router.
    pub elems: [DType; 2],
    /// T.
    pub tokens: u64,
    /// H.
    pub hidden: u64,
    /// E, those without rows too.
    pub experts: u64,
}

impl Routing {
    fn tiles(&self, sorting: Sorting, machine: &Machine) -> Option<LogitTiles> {
        logit_tiles(self.elems, [self.hidden, self.experts], sorting.sharing(machine), machine)
    }

    /// The work of the logits, in FLOPs that take as long at the machine's full rate: by matrices those of whole factors at their rate, or
    /// loads of a vector a lane, where one takes the time of an eighth of a product of matrices at the rate of vectors.
    pub fn flops(&self, sorting: Sorting, machine: &Machine) -> u64 {
        let of = |tokens: u64, experts: u64| 2u64.saturating_mul(tokens).saturating_mul(experts).saturating_mul(self.hidden);
        let (Some(tiles), Some(rate)) = (self.tiles(sorting, machine), machine.rate(Unit::Matrix(MATRIX), self.elems[0])) else {
            return of(self.tokens, self.experts);
        };
        let whole = |n: u64, of: u32| n.div_ceil(of.into()).saturating_mul(of.into());
        let work = u128::from(of(whole(self.tokens, ROUTE_TOKENS), whole(self.experts, SIXTEEN)));
        let (factors, eights) = (u128::from(tiles.factors), u128::from(ROUTE_TOKENS / EIGHT));
        let at_rate = work * u128::from(machine.vector_rate()) / u128::from(rate.max(1));
        let loads = work * (2 * factors + eights) / (8 * 2 * factors * eights);
        u64::try_from(at_rate.max(loads)).unwrap_or(u64::MAX)
    }

    /// Bytes that blocks read of the last cache: the router for [each so many tokens](ROUTE_TOKENS), rows once.
    pub fn cached_bytes(&self) -> u64 {
        let router = self.tokens.div_ceil(ROUTE_TOKENS.into()).saturating_mul(self.experts).saturating_mul(self.elems[1].bytes());
        router.saturating_add(self.tokens.saturating_mul(self.elems[0].bytes())).saturating_mul(self.hidden)
    }

    /// Picoseconds in which blocks wait for their runs of the router, one after another. The blocks of a cluster share H, but each has
    /// all tokens. A machine without threads reads them as any other bytes.
    pub fn waiting_ps(&self, sorting: Sorting, machine: &Machine) -> u64 {
        if !machine.has_threads() {
            return 0;
        }
        let blocks = sorting.sharing(machine);
        let turns = match self.tiles(sorting, machine) {
            Some(tiles) => run_of_block(self.hidden, blocks, tiles.step())
                .div_ceil(tiles.turn().into())
                .saturating_mul(tiles.passes(self.experts)),
            None => {
                let [depth, side] = ROUTE_SLICE.map(u64::from);
                self.hidden.div_ceil(depth).div_ceil(blocks.into()).saturating_mul(self.experts.div_ceil(side))
            }
        };
        let parts = match sorting {
            // Blocks of one processor wait together.
            Sorting::Spread | Sorting::Block => 1,
            Sorting::Routed | Sorting::Cluster => self.tokens.div_ceil(ROUTE_TOKENS.into()),
        };
        turns.saturating_mul(parts).saturating_mul(SLICE_STEPS).saturating_mul(machine.step_ps)
    }
}

/// Keys of a row that a lane of a warp has in registers, at most.
pub const LANE_KEYS: u32 = 16;

/// Steps of a pick of a token's lanes: the greatest of all lanes, the first place where it was, and the weight there. Before them each
/// lane looks at its keys, one of 32: two in a step where they are in registers, else one, and the winner's is taken out between two
/// times that the lanes wait for each other.
const PICK_STEPS: u64 = 4;

/// Picoseconds in which so many processors pick for all tokens: a warp a token of those that a block has, one pick after another. On a
/// machine without threads that is work as any other.
pub fn pick_ps([tokens, picks, experts]: [u64; 3], processors: u64, machine: &Machine) -> u64 {
    if !machine.has_threads() {
        return 0;
    }
    let warps = u64::from(route_warps(machine));
    let in_turn = tokens.div_ceil(ROUTE_TOKENS.into()).div_ceil(processors.max(1));
    let of_warp = tokens.min(ROUTE_TOKENS.into()).div_ceil(warps).saturating_mul(in_turn);
    let keys = experts.div_ceil(machine.warp_lanes.into());
    let of_pick = PICK_STEPS + if keys <= u64::from(LANE_KEYS) { keys.div_ceil(2) } else { keys + 2 };
    let of_token = picks.saturating_mul(of_pick);
    of_warp.saturating_mul(of_token).saturating_mul(machine.step_ps)
}

/// Steps in which a block waits for what it has asked for of the router: as long as a read of memory that the second cache has takes,
/// some 0.4 us (assumed).
const SLICE_STEPS: u64 = 25;

/// Elements along H, and experts, of a slice by which a block with threads multiplies its tokens with a router, number by number.
pub const ROUTE_SLICE: [u32; 2] = [32, 64];

/// Most tokens that a block routes at a time.
pub const ROUTE_TOKENS: u32 = 16;

/// Shared memory that a block may have to route tokens to so many experts: what it leaves is enough to sort their pairs too, wherever
/// that [fits](Sorting::fits).
pub fn route_bytes(experts: u64, machine: &Machine) -> u64 {
    let left = u64::from(machine.shared_optin_bytes).saturating_sub(Sorting::Routed.shared_bytes(experts, machine));
    let limit = u64::from(machine.shared_bytes);
    if Sorting::Routed.fits(experts, machine) { limit.min(left) } else { limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sm_90a() -> Machine {
        Machine::named("sm_90a").expect("a machine")
    }

    fn tiles(hidden: u64, experts: u64, blocks: u32) -> Option<LogitTiles> {
        logit_tiles([DType::BF16; 2], [hidden, experts], blocks, &sm_90a())
    }

    #[test]
    fn warps_share_experts_first() {
        let of = |warps_beside, warps_along, factors, steps, is_whole| {
            Some(LogitTiles { warps_beside, warps_along, factors, steps, is_whole })
        };
        // Eight factors, one a warp. 64 steps of 32; a factor's two loads and two of tokens have 16 registers, so that eight are together.
        assert_eq!(tiles(2048, 128, 1), of(8, 1, 1, 8, true));
        // An eighth of them: 8 steps are one turn.
        assert_eq!(tiles(2048, 128, 8), of(8, 1, 1, 8, true));
        // Two factors a warp: 28 steps of an eighth of 7168 in turns of at most five, which are six turns of 5, the last one short.
        assert_eq!(tiles(7168, 256, 8), of(8, 1, 2, 5, false));
        // One factor: the warps split H, 16 steps of 256.
        assert_eq!(tiles(4096, 8, 1), of(1, 8, 1, 8, true));
        // Three factors are two warps' beside each other twice over; beyond 512 experts there are more passes.
        assert_eq!(tiles(64, 48, 1).map(|tiles| (tiles.warps_beside, tiles.warps_along, tiles.factors)), Some((4, 2, 1)));
        assert_eq!(tiles(64, 1024, 1).map(|tiles| (tiles.factors, tiles.passes(1024))), Some((4, 2)));
        // 11 steps a block; the turns of six do not end with them.
        assert_eq!(tiles(2816, 128, 8), of(8, 1, 1, 6, false));
        // Loads of 16 bytes, of one type that has matrices.
        assert_eq!([0, 4, 12].map(|hidden| tiles(hidden, 8, 1)), [None; 3]);
        let mixed = |elems| logit_tiles(elems, [64, 8], 1, &sm_90a());
        assert_eq!([[DType::BF16, DType::F32], [DType::BF16, DType::F16], [DType::F32; 2]].map(mixed), [None; 3]);
        assert_eq!(logit_tiles([DType::BF16; 2], [64, 8], 1, &Machine::named("x86-64-v4-bf16").expect("a machine")), None);
    }

    #[test]
    fn picks_by_hand() {
        let machine = Machine { step_ps: 1, ..sm_90a() };
        // Five steps for one key a lane, six for three, 23 for 17, which are in shared memory.
        assert_eq!([32, 96, 544].map(|experts| pick_ps([1, 1, experts], 1, &machine)), [5, 6, 23]);
        // Eight warps: 16 tokens are two in turn, and so are those of two blocks of two processors.
        assert_eq!([8, 9, 16].map(|tokens| pick_ps([tokens, 2, 8], 1, &machine)), [10, 20, 20]);
        assert_eq!([1, 2].map(|processors| pick_ps([32, 2, 8], processors, &machine)), [40, 20]);
        assert_eq!(pick_ps([32, 2, 8], 1, &Machine::named("x86-64-v4-bf16").expect("a machine")), 0);
    }

    #[test]
    fn a_router_by_hand() {
        let machine = Machine { step_ps: 1, ..sm_90a() };
        let of = |tokens| Routing { elems: [DType::BF16; 2], tokens, hidden: 2048, experts: 128 };
        // Eight turns for all blocks together; in a cluster one for each 16 tokens.
        assert_eq!(of(40).waiting_ps(Sorting::Spread, &machine), 8 * SLICE_STEPS);
        assert_eq!(of(40).waiting_ps(Sorting::Routed, &machine), 3 * 8 * SLICE_STEPS);
        assert_eq!(of(40).waiting_ps(Sorting::Cluster, &machine), 3 * SLICE_STEPS);
        // In f32 64 slices of 32 by 64, twice along the experts.
        assert_eq!(Routing { elems: [DType::F32; 2], ..of(40) }.waiting_ps(Sorting::Spread, &machine), 64 * 2 * SLICE_STEPS);
        // The router once for each 16 tokens.
        assert_eq!(of(17).cached_bytes(), (2 * 128 + 17) * 2048 * 2);
        assert_eq!(Routing { tokens: u64::MAX, ..of(1) }.waiting_ps(Sorting::Spread, &machine), 8 * SLICE_STEPS);
        // Two loads of a factor and two of tokens for four products take longer than these at the rate of matrices.
        let work = 2 * 48 * 128 * 2048;
        assert_eq!(of(40).flops(Sorting::Spread, &machine), work * 4 / (8 * 4));
        assert_eq!(Routing { elems: [DType::F32; 2], ..of(40) }.flops(Sorting::Spread, &machine), 2 * 40 * 128 * 2048);
    }
}
