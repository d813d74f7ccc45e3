//! `route`: from the rows of tokens to their experts and weights, in one kernel. Where the pairs go is the business of `sort`.
//!
//! ```text
//!              E experts                        a block: M tokens
//!            +-----------+
//!   x [M,H]  |  logits   |   logits[m, e] = sum_h x[m, h] * router[e, h]        into shared memory (`logits`)
//!            |  [M, E]   |
//!            +-----------+
//!      m ->  |o|o|o|...|o|   32 lanes take a row: score, groups, picks           (`lanes`, `row`, `pick`)
//!                            lanes of a warp on a GPU, lanes of a vector on the host
//!   topk_experts [T, K], topk_weights [T, K]; sums over the block of what the body observes (`report`)
//! ```
//!
//! A body with `all_experts` selects nothing: its scores are all written, [T, E], and no numbers of experts. Where `mask_tokens` says
//! that a token is padding, its experts are -1, its weights 0, and it adds nothing to the sums: one load a token.
//!
//! FLOPs: 2 T E H and some tens for each logit; bytes: x and the router once a block, 8 T K out. The rows of a body are
//! never in memory but for the logits and the keys of the selection: everything between is computed again where it is
//! used, which is a few operations against H of the logit itself. Where tokens are served by their best score, it is one
//! number more a token, `best_of_token` [T].
//!
//! For a small batch one block can do all of it, [one part after another](Then::SortAlone), and go on to the sort. So can
//! [a cluster of blocks](Then::SortTogether), each of which multiplies a run of H:
//!
//! ```text
//!   block b of B    logits_of_block[b, m, e] = the products of its run of H, for all tokens
//!                   the cluster meets; a block takes some M tokens: logits are sums over the blocks, in their order; as above
//!                   the cluster meets; the first block sorts
//! ```
//!
//! What holds whatever the input: experts are in range and, unless a table names them, distinct, the lowest index wins a
//! tie (both zeros are one number), a NaN is never picked while another expert is left, and then weighs what minus infinity
//! does. Sums run in one order, by lane and then across lanes, for any T and, the logits apart, on any machine.

mod lanes;
mod logits;
mod matrices;
mod parts;
pub(super) mod pick;
mod report;
mod row;

use super::sort::{self, Sort};
use super::{Counted, ScheduleError, operand_name};
use crate::graph::{Attr, Body, Groups, Node, Op, Pointwise, Span};
use crate::kernel::build::Array;
use crate::kernel::{Builder, Kernel, Value};
use crate::{DType, Extent, Machine, tiling};
use lanes::Lanes;
use parts::{Inputs, Parts, Written};
use report::Report;

/// Most picks of a token: its lanes hold all their weights at once.
const MOST_PICKS: u64 = 256;

/// Lanes that work on one row.
const LANES: u32 = 32;

/// What is routed.
pub(super) struct Route<'a> {
    pub(super) name: String,
    pub(super) hidden: u64,
    /// Columns of the router.
    pub(super) experts: u32,
    /// K, the joint ones counted.
    pub(super) top_k: u32,
    pub(super) x: DType,
    pub(super) router: DType,
    /// What stands in the holes `$1..`.
    pub(super) operands: Vec<Operand>,
    pub(super) body: &'a Body,
    /// Tokens of which a block has no others: all, or those of a sequence.
    pub(super) span: Span,
}

impl Route<'_> {
    /// Whether the body lets a caller observe probabilities.
    pub(super) fn observes(&self) -> bool {
        self.body.has(Op::Observe)
    }

    /// Whether the body says what losses count in the place of the picks.
    pub(super) fn counts_others(&self) -> bool {
        self.body.has(Op::Counted)
    }

    /// Whether the body says by which score a token is served.
    pub(super) fn ranks(&self) -> bool {
        self.body.has(Op::BestScore)
    }
}

/// What is read beside the logits.
#[derive(Clone, Copy)]
pub(super) enum Operand {
    /// `[len]`: one for each expert, or for the leading ones, or a single one.
    Vector { dtype: DType, len: u32 },
    /// The table of `hash_picks`, `[rows, K]`, i32.
    Table { rows: u32 },
    /// Its ids or the mask of `mask_tokens`, `[T]`, i32.
    OfTokens,
}

/// A kernel and its number of blocks.
pub(super) struct Routed {
    /// Parameters: `x`, `router`, the operands, then written: `topk_experts`, unless all experts are picked, `topk_weights`,
    /// where the body ranks tokens `best_of_token`, where it counts others `counted_experts` and, where it observes them, `probability_of_block` `[grid, E]` and `z_of_block` `[grid]`; `tokens` and, where
    /// a block keeps to a sequence, `span_tokens`. Where it sorts too: `blocks`, and those of `sort::of_block`; where the blocks of a
    /// cluster do, `logits_of_block` `[blocks of a cluster, T, E]` (written).
    pub(super) kernel: Kernel,
    /// Where it sorts too one block does the work of so many, or each block of a cluster its part of it.
    pub(super) grid: Extent,
}

/// What comes after the picks.
#[derive(Clone, Copy)]
pub(super) enum Then<'s> {
    /// Nothing.
    End,
    /// The sort: one block goes through the parts of all, and then sorts.
    SortAlone(&'s Sort),
    /// The sort: the blocks of one cluster share all parts, and the first one sorts.
    SortTogether(&'s Sort),
}

/// The kernel for `spec` on `machine`.
pub(super) fn route(spec: &Route, then: Then, machine: &Machine) -> Result<Routed, ScheduleError> {
    let gating = Gating::read(spec)?;
    let cluster = match then {
        Then::End | Then::SortAlone(_) => 1,
        Then::SortTogether(_) => machine.cluster_blocks,
    };
    let block = Block::fitting(&gating, cluster, machine)?;
    let builder = Builder::new(&spec.name, block.threads).in_clusters(cluster);
    let k = &builder;
    let x = k.input("x", spec.x);
    let router = k.input("router", spec.router);
    let operands = spec.operands.iter().enumerate().map(|(i, operand)| match operand {
        Operand::Vector { dtype, .. } => k.input(&operand_name(i), *dtype),
        Operand::Table { .. } | Operand::OfTokens => k.input(&operand_name(i), DType::I32),
    });
    let operands: Vec<_> = operands.collect();
    let topk_experts = gating.picker.map(|_| k.output("topk_experts", DType::I32));
    let topk_weights = k.output("topk_weights", DType::F32);
    let best_of_token = gating.best.map(|_| k.output("best_of_token", DType::F32));
    let counted_experts = gating.counted.map(|_| k.output("counted_experts", DType::I32));
    let observed = gating.observe.map(|_| ["probability_of_block", "z_of_block"].map(|name| k.output(name, DType::F32)));
    let tokens = k.scalar("tokens", DType::I32);
    let span_tokens = (spec.span == Span::Sequence).then(|| k.scalar("span_tokens", DType::I32));

    let logits = k.shared("logits", DType::F32, block.logits());
    let scratch = Scratch {
        group_keys: gating.groups().map(|g| k.shared("group_keys", DType::I32, block.workers * padded(g.groups as u32))),
        picked: gating.picker.map(|_| Picked {
            keys: k.shared("keys", DType::I32, block.workers * block.pitch),
            experts: k.shared("experts", DType::I32, block.workers * padded(spec.top_k)),
            weights: k.shared("weights", DType::F32, block.workers * padded(spec.top_k)),
        }),
    };
    let report = observed.map(|_| Report::new(k, &block));
    let lanes = Lanes::new(k, machine);
    let written = Written { topk_experts, topk_weights, best_of_token, counted_experts, observed };
    let parts = Parts {
        k,
        machine,
        gating: &gating,
        block: &block,
        lanes: &lanes,
        of: Inputs { x, router, operands: &operands, tokens, span_tokens },
        logits,
        scratch,
        report,
        written,
    };
    let sort_all = |sort: &Sort| {
        let mask = gating.mask.map(|mask| operands[mask]);
        sort::of_block(k, sort, machine, sort::Picks { topk_experts, topk_weights, mask, tokens });
    };
    match then {
        Then::End => parts.route(k.block()),
        Then::SortAlone(sort) => {
            let blocks = k.scalar("blocks", DType::I32);
            k.for_range("part", k.i32(0), blocks, |number| {
                parts.route(number);
                // No thread begins the next part before all have left this one.
                k.barrier();
            });
            sort_all(sort);
        }
        Then::SortTogether(sort) => {
            let blocks = k.scalar("blocks", DType::I32);
            parts.route_together(blocks, k.output("logits_of_block", DType::F32));
            k.cluster_barrier();
            k.when(k.block().eq(0), || sort_all(sort));
        }
    }
    let blocks_of_span = spec.span.tokens().div_ceil(u64::from(block.tokens));
    Ok(Routed { kernel: builder.finish(), grid: spec.span.count() * blocks_of_span })
}

/// A body that a row's lanes can follow: pointwise ops, softmax and one group limit up to the picks, then ops on the weights;
/// or pointwise ops and softmax around `all_experts`.
struct Gating<'a> {
    spec: &'a Route<'a>,
    nodes: &'a [Node],
    /// Place of each node's operands.
    operands: Vec<Vec<usize>>,
    /// Columns of each node's rows, where it makes rows of numbers.
    columns: Vec<u32>,
    /// Whether a node makes picks of some experts.
    is_picks: Vec<bool>,
    /// The node that picks, and how; `None`: `all_experts`.
    picker: Option<(usize, Picker)>,
    /// How many it picks.
    picked: u32,
    group_limit: Option<(usize, Groups)>,
    /// The logits and scores that are observed.
    observe: Option<[usize; 2]>,
    /// The operand that says which tokens are padding.
    mask: Option<usize>,
    /// The scores of which the best is written, and of how many picks.
    best: Option<(usize, u32)>,
    /// The keys of the picks that losses count instead.
    counted: Option<usize>,
    others: Others,
}

/// The nodes that make the picks which losses count, and no weight.
#[derive(Default)]
struct Others {
    picker: Option<usize>,
    nodes: Vec<usize>,
}

impl Others {
    fn of(nodes: &[Node], operands: &[Vec<usize>]) -> Others {
        let op = |node: usize| match nodes[node] {
            Node::Apply(op, _) => Some(op),
            Node::Attr(_) | Node::Param(_) | Node::Hole(_) => None,
        };
        let Some(counted) = (0..nodes.len()).find(|node| op(*node) == Some(Op::Counted)) else { return Others::default() };
        let mut others = Others::default();
        let mut node = operands[counted][1];
        // Whatever was done to their weights changes no expert.
        loop {
            others.nodes.push(node);
            match (op(node), operands[node].first()) {
                (Some(Op::TopK), _) => others.picker = Some(node),
                (Some(Op::Pointwise(_)), Some(operand)) => {
                    node = *operand;
                    continue;
                }
                (_, _) => {}
            }
            return others;
        }
    }
}

/// How experts are picked.
#[derive(Clone, Copy)]
enum Picker {
    /// `top_k`, by the keys of this node.
    TopK { keys: usize },
    /// `sparse_mixer`.
    Mixer { jitter: f64 },
    /// `hash_picks`, with the operands that are its table, of so many rows, and its ids.
    Table { table: usize, rows: u32, ids: usize },
}

impl<'a> Gating<'a> {
    fn read(spec: &'a Route<'a>) -> Result<Gating<'a>, ScheduleError> {
        let nodes = spec.body.nodes();
        let operands: Vec<Vec<usize>> = nodes.iter().map(|n| n.operands().iter().map(|id| usize::from(*id)).collect()).collect();
        let refuse = |op: Op| ScheduleError::Body { op, inside: Op::Route };
        let takes_all = spec.body.has(Op::AllExperts);
        let (mut picker, mut group_limit, mut picked, mut observe, mut mask) = (None, None, spec.top_k, None, None);
        let others = Others::of(nodes, &operands);
        let (mut best, mut counted) = (None, None);
        let (mut columns, mut is_picks) = (vec![spec.experts; nodes.len()], vec![false; nodes.len()]);
        for (i, node) in nodes.iter().enumerate() {
            let Node::Apply(op, _) = node else { continue };
            columns[i] = columns[operands[i][0]];
            is_picks[i] = is_picks[operands[i][0]];
            let number = || match operands[i].last().map(|last| &nodes[*last]) {
                Some(Node::Attr(Attr::Num(n))) => u32::try_from(*n).ok(),
                Some(Node::Attr(_) | Node::Param(_) | Node::Hole(_) | Node::Apply(..)) | None => None,
            };
            match op {
                Op::AllExperts | Op::Softmax => {}
                Op::TopK if others.picker == Some(i) => {
                    (is_picks[i], counted) = (true, Some(operands[i][1]));
                }
                Op::TopK | Op::SparseMixer | Op::HashPicks if !takes_all && picker.is_none() => {
                    is_picks[i] = true;
                    picker = Some((i, Picker::of(spec, *op, &operands[i]).ok_or_else(|| refuse(*op))?));
                }
                Op::GroupLimit if !takes_all && group_limit.is_none() => match &nodes[operands[i][1]] {
                    Node::Attr(Attr::Groups(groups)) => group_limit = Some((i, *groups)),
                    Node::Attr(_) | Node::Param(_) | Node::Hole(_) | Node::Apply(..) => return Err(refuse(*op)),
                },
                Op::Observe if !takes_all && observe.is_none() => {
                    (observe, is_picks[i]) = (Some([operands[i][0], operands[i][1]]), true);
                }
                // Of picks: rows of logits have no number for each token.
                Op::Pointwise(Pointwise::MaskTokens) if is_picks[i] || takes_all => match &nodes[operands[i][1]] {
                    Node::Hole(hole) => mask = hole.checked_sub(1).map(|operand| operand as usize),
                    Node::Attr(_) | Node::Param(_) | Node::Apply(..) => return Err(refuse(*op)),
                },
                Op::Counted if !takes_all && counted.is_some() => {}
                Op::BestScore if !takes_all => best = Some((operands[i][1], number().ok_or_else(|| refuse(*op))?)),
                Op::Leading if !takes_all => columns[i] = number().ok_or_else(|| refuse(*op))?,
                Op::Joint if !takes_all => picked -= number().ok_or_else(|| refuse(*op))?,
                Op::Renorm | Op::WithoutRows if !takes_all => {}
                Op::ExpertScale if matches!(nodes[operands[i][1]], Node::Hole(_)) => {}
                Op::Pointwise(op) if *op != Pointwise::MaskTokens => {}
                op => return Err(refuse(*op)),
            }
        }
        // What is observed is read whole, not group by group.
        let is_limited = |node: &usize| group_limit.is_some_and(|(limit, _)| depends(&operands, *node, limit));
        if observe.iter().flatten().any(is_limited) {
            return Err(refuse(Op::GroupLimit));
        }
        let top_k = u64::from(spec.top_k);
        match picker {
            Some(_) if top_k > MOST_PICKS => Err(ScheduleError::Extent { what: Counted::Picks, value: top_k, most: MOST_PICKS }),
            None if !takes_all => Err(ScheduleError::Operand { op: Op::Route, what: "a body that picks no experts".to_string() }),
            picker => Ok(Gating {
                spec,
                nodes,
                operands,
                columns,
                is_picks,
                picker,
                picked,
                group_limit,
                observe,
                mask,
                best,
                counted,
                others,
            }),
        }
    }

    /// Whether `scores` is the softmax of `logits`.
    fn is_softmax_of(&self, scores: usize, logits: usize) -> bool {
        matches!(self.nodes[scores], Node::Apply(Op::Softmax, _)) && self.operands[scores][0] == logits
    }

    /// Whether the node is a softmax that nothing needs but the report, which has its own way.
    fn is_reported_only(&self, node: usize) -> bool {
        let is_picked_by = |user: usize| self.operands[user].contains(&node);
        self.observe.is_some_and(|[logits, scores]| scores == node && self.is_softmax_of(scores, logits))
            && !(0..self.nodes.len()).filter(|user| !matches!(self.nodes[*user], Node::Apply(Op::Observe, _))).any(is_picked_by)
    }

    /// The node whose rows are the scores of all experts, where these are all taken: the last one, but for the mask.
    fn scored(&self) -> usize {
        let last = self.nodes.len() - 1;
        if matches!(self.nodes[last], Node::Apply(Op::Pointwise(Pointwise::MaskTokens), _)) {
            self.operands[last][0]
        } else {
            last
        }
    }

    fn groups(&self) -> Option<Groups> {
        self.group_limit.map(|(_, groups)| groups)
    }

    /// Columns of a group.
    fn group_size(&self) -> Option<u32> {
        self.group_limit.map(|(node, groups)| self.columns[node] / groups.groups as u32)
    }
}

impl Picker {
    /// The op of the operands at these places.
    fn of(spec: &Route, op: Op, places: &[usize]) -> Option<Picker> {
        let operands: Vec<&Node> = places.iter().map(|place| &spec.body.nodes()[*place]).collect();
        match (op, &operands[..]) {
            (Op::TopK, [_, _, _]) => Some(Picker::TopK { keys: places[1] }),
            (Op::SparseMixer, [_, Node::Attr(Attr::Real(jitter)), _]) => Some(Picker::Mixer { jitter: jitter.get() }),
            (Op::HashPicks, [_, Node::Hole(table), Node::Hole(ids)]) => {
                let [table, ids] = [table, ids].map(|hole| *hole as usize - 1);
                let Operand::Table { rows } = spec.operands.get(table)? else { return None };
                Some(Picker::Table { table, rows: *rows, ids })
            }
            (_, _) => None,
        }
    }
}

/// Whether `node` is made of `of`, which stands before it.
fn depends(operands: &[Vec<usize>], node: usize, of: usize) -> bool {
    let mut needed = vec![false; operands.len()];
    needed[node] = true;
    for user in (0..=node).rev().filter(|user| *user >= of) {
        if needed[user] {
            operands[user].iter().for_each(|operand| needed[*operand] = true);
        }
    }
    needed[of]
}

/// How the tokens are dealt to a block, and the size of what it shares.
struct Block {
    threads: u32,
    /// M.
    tokens: u32,
    /// Rows that are worked on at a time.
    workers: u32,
    /// Elements from one row of logits or keys to the next.
    pitch: u32,
}

impl Block {
    /// As many tokens as shared memory holds: the router is read once for them all.
    fn fitting(gating: &Gating, cluster: u32, machine: &Machine) -> Result<Block, ScheduleError> {
        let spec = gating.spec;
        let threads = machine.block_threads.min(256);
        let with = |tokens: u32| {
            let workers = (threads / machine.warp_lanes).min(tokens);
            Block { threads, tokens, workers, pitch: pitch(spec.experts, machine) }
        };
        let bytes = |block: &Block| {
            let groups = gating.groups().map_or(0, |g| padded(g.groups as u32));
            let [tokens, workers, row, groups, picks] =
                [block.tokens, block.workers, block.pitch, groups, padded(spec.top_k)].map(u64::from);
            let picked = gating.picker.map_or(0, |_| row + 2 * picks);
            let report = if gating.observe.is_some() { Report::shared_bytes(block) } else { 0 };
            // Arrays start at multiples of 16 bytes: all of these sizes are.
            report
                + 4 * (tokens * row + workers * (groups + picked))
                + logits::shared_bytes(spec, cluster, machine, block)
                + lanes::shared_bytes(spec, machine, block)
        };
        let choices = [1, 2, 4, 8, 16].map(|part| with(tiling::ROUTE_TOKENS / part));
        let least = choices.iter().map(&bytes).min().unwrap_or(0);
        let limit = tiling::route_bytes(u64::from(spec.experts), machine);
        choices.into_iter().find(|block| bytes(block) <= limit).ok_or(ScheduleError::Shared {
            op: Op::Route,
            bytes: least,
            limit,
            machine: machine.name,
        })
    }

    fn logits(&self) -> u32 {
        self.tokens * self.pitch
    }
}

/// From one row of `n` elements to the next. Lanes of a warp read no element beyond the last, and write neighbouring elements of several
/// rows at once: of rows four banks apart these are in different ones.
fn pitch(n: u32, machine: &Machine) -> u32 {
    if machine.has_threads() { n.next_multiple_of(LANES) + 4 } else { padded(n) }
}

/// Room for `n` elements and for a vector that starts at the last one.
fn padded(n: u32) -> u32 {
    n.next_multiple_of(LANES) + LANES
}

/// Where the lanes of a row keep what they are about.
#[derive(Clone, Copy)]
struct Scratch<'k> {
    /// By group of experts, in an order that integers have.
    group_keys: Option<Array<'k>>,
    /// Where something is picked.
    picked: Option<Picked<'k>>,
}

/// Where the lanes of a row keep what they pick.
#[derive(Clone, Copy)]
struct Picked<'k> {
    /// By expert, in an order that integers have.
    keys: Array<'k>,
    experts: Array<'k>,
    weights: Array<'k>,
}

/// The part of [`Scratch`] that one row's lanes have.
struct Share<'k> {
    scratch: Scratch<'k>,
    /// Where the keys start.
    key: Value<'k>,
    /// Where the keys of the groups start.
    group_key: Value<'k>,
    /// Where the picks start.
    pick: Value<'k>,
}

impl<'k> Share<'k> {
    /// Where the picks are; asked for only where there are some.
    fn picked(&self) -> Picked<'k> {
        self.scratch.picked.unwrap_or_else(|| unreachable!("picks of a body that has none"))
    }
}

impl<'k> Scratch<'k> {
    fn of(self, k: &'k Builder, gating: &Gating, block: &Block, worker: Value<'k>) -> Share<'k> {
        let groups = gating.groups().map_or(0, |g| padded(g.groups as u32));
        let at = |name, pitch: u32| k.bind(name, worker * pitch as i32);
        Share {
            scratch: self,
            key: at("key", block.pitch),
            group_key: at("group_key", groups),
            pick: at("pick", padded(gating.spec.top_k)),
        }
    }
}
