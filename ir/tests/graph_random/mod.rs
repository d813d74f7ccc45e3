//! Random well-typed graphs, and what must hold of each. A fuzz target calls the same [`check`].

use std::collections::{BTreeMap, BTreeSet};

use egg::Id;
use moec_ir::graph::{
    Assignment, Attr, Balance, Body, BodyBuilder, Builder, Capacity, Dim, Eps, Graph, GroupMask, GroupScore, Groups, Losses,
    Node, Norm, Op, Part, Pointwise, Priority, Renorm, Span, Type, infer, interp, parse, print, verify,
};
use moec_ir::rewrite::{Batches, rewrite};
use moec_ir::{DType, Dims, Extent, Facts, Machine};

use super::oracle::{Numbers, Random, inputs, same};

/// The text comes back as the same graph, and rewriting keeps what the graph computes.
pub(crate) fn check(graph: &Graph, seed: u64) {
    let text = print(graph);
    assert_eq!(parse(&text).unwrap_or_else(|why| panic!("{why}\n{text}")), *graph, "{text}");
    let typed = verify(graph.clone()).unwrap_or_else(|found| panic!("{found:?}\n{text}"));
    let machine = Machine::named("sm_80").expect("a machine");
    let rewritten = rewrite(&typed, &machine, &Batches::together(&[1, 256])).at(1).clone();
    let again = print(rewritten.graph());
    assert_eq!(parse(&again).unwrap_or_else(|why| panic!("{why}\n{again}")), *rewritten.graph(), "{again}");
    for tokens in [0, 5] {
        let dims = Dims { tokens, sequence_tokens: 2 };
        let params = inputs(&typed, dims, seed, Numbers::Smooth);
        // Rows of one routing with the places of another have no value.
        if interp(&typed, &params, dims).is_ok() {
            same(&typed, &rewritten, &params, dims, 1e-2).unwrap_or_else(|why| panic!("{why}\n{text}\n{again}"));
        }
    }
}

/// A graph of up to some thirty ops that the seed decides.
pub(crate) fn graph(seed: u64) -> Graph {
    let mut g = Growing::new(seed);
    let wanted = 1 + g.random.below(30);
    for _ in 0..4000 {
        if g.ops.len() >= wanted {
            break;
        }
        g.grow();
    }
    // Rather a tensor to whose making routing belongs.
    let tensors: Vec<Id> = g.ops.iter().copied().filter(|id| matches!(g.types[id], Type::Tensor { .. })).collect();
    let routed: Vec<Id> = tensors.iter().copied().filter(|id| g.routed.contains(id)).collect();
    let root = routed.last().or(tensors.last()).copied().unwrap_or(g.params[0]);
    let others = tensors.iter().rev().filter(|id| **id != root && !of_pairs(&g.types[id])).take(g.random.below(3));
    let others = others.enumerate().map(|(i, id)| (format!("other.{i}"), *id));
    let results = std::iter::once(("y".to_string(), root)).chain(others).collect();
    g.builder.finish_with("random", results, Facts::default())
}

/// Rows of pairs may come in another order.
fn of_pairs(ty: &Type) -> bool {
    matches!(ty, Type::Tensor { shape, .. } if shape.contains(&Dim::Pairs))
}

struct Growing {
    random: Random,
    builder: Builder,
    types: BTreeMap<Id, Type>,
    params: Vec<Id>,
    table: Id,
    ids: Id,
    /// Experts and weights that a caller gives, and a map of experts.
    given: [Id; 3],
    ops: Vec<Id>,
    /// What depends on picks.
    routed: BTreeSet<Id>,
}

/// The ops that random choice would seldom get to.
const RARE: [Op; 49] = [
    Op::BestScore,
    Op::Counted,
    Op::Route,
    Op::Given,
    Op::Picked,
    Op::Part,
    Op::Part,
    Op::BiasUpdate,
    Op::Launch,
    Op::Item,
    Op::Combine,
    Op::Combine,
    Op::Within,
    Op::Pointwise(Pointwise::MaskTokens),
    Op::Counted,
    Op::Losses,
    Op::BestScore,
    Op::Observe,
    Op::Flatten,
    Op::Slots,
    Op::TokenSoftmax,
    Op::SoftDispatch,
    // Few graphs have what it takes.
    Op::SoftCombine,
    Op::SoftCombine,
    Op::SoftCombine,
    Op::SoftCombine,
    Op::AllExperts,
    Op::Jitter,
    Op::Leading,
    Op::Joint,
    Op::PickWeights,
    Op::WithoutRows,
    Op::IdentityInput,
    Op::HashPicks,
    Op::DroppedInput,
    Op::ExpertScale,
    Op::RmsNorm,
    Op::Gemm,
    Op::GroupedGemm,
    Op::Route,
    Op::TopK,
    Op::Renorm,
    Op::Assign,
    Op::RenormKept,
    Op::Dispatch,
    Op::ExpertRows,
    Op::PairWeights,
    Op::Combine,
    Op::Pointwise(Pointwise::Mul),
];

impl Growing {
    fn new(seed: u64) -> Growing {
        let mut random = Random(seed);
        let (mut builder, mut types) = (Builder::default(), BTreeMap::new());
        let shapes: [(&str, &[u64]); 14] = [
            ("%x", &[0, 4]),
            ("%h", &[0, 8]),
            ("@w", &[8, 4]),
            ("@w4", &[4, 4]),
            ("@w8", &[4, 8]),
            ("@one", &[1, 4]),
            ("@gate", &[8, 6, 4]),
            ("@up", &[8, 6, 4]),
            ("@down", &[8, 4, 6]),
            ("@v", &[8]),
            ("@b", &[8, 6]),
            ("@b4", &[8, 4]),
            ("@seed", &[2]),
            ("@scalar", &[1]),
        ];
        let mut params = Vec::new();
        for (name, shape) in shapes {
            let dims: Vec<Dim> = shape.iter().map(|n| if *n == 0 { Dim::Tokens } else { Dim::Const(*n) }).collect();
            let float = random.one(&[DType::F32, DType::F32, DType::BF16, DType::F16]);
            let ty = Type::tensor(&dims, if name == "@seed" { DType::I32 } else { float });
            let id = builder.param(name, ty.clone());
            types.insert(id, ty);
            params.push(id);
        }
        let mut integers = |name: &str, shape: &[Dim]| {
            let ty = Type::tensor(shape, DType::I32);
            let id = builder.param(name, ty.clone());
            types.insert(id, ty);
            id
        };
        let table = integers("@table", &[Dim::Const(5), Dim::Const(2)]);
        let ids = integers("%ids", &[Dim::Tokens]);
        let topk_ids = integers("%topk_ids", &[Dim::Tokens, Dim::Const(2)]);
        let map = integers("%map", &[Dim::Const(7)]);
        let of_picks = Type::tensor(&[Dim::Tokens, Dim::Const(2)], DType::F32);
        let topk_weights = builder.param("%topk_weights", of_picks.clone());
        types.insert(topk_weights, of_picks);
        let given = [topk_ids, topk_weights, map];
        Growing { random, builder, types, params, table, ids, given, ops: Vec::new(), routed: BTreeSet::new() }
    }

    /// Adds a random op if its random operands fit.
    fn grow(&mut self) {
        let op = if self.random.below(3) > 0 { self.random.one(&RARE) } else { self.random.one(&Op::ALL[1..]) };
        let mut operands = Vec::new();
        // With a mask or without.
        let mask = self.random.below(2);
        let places = match op {
            Op::TokenSoftmax => 1 + mask,
            Op::Within => 2 + mask,
            Op::Launch => 2,
            op => op.arity().unwrap_or(0),
        };
        for place in 0..places {
            let id = match (op, place) {
                (Op::Pointwise(Pointwise::Cast), 1) => self.attr(|r| Attr::DType(r.one(&[DType::BF16, DType::F16]))),
                // Powers of two: the same sums whichever way they are scaled.
                (Op::Pointwise(Pointwise::Scale), 1) => self.attr(|r| Attr::Real(r.one(&[1.0, 0.5, -2.0, 4.0]).into())),
                (Op::SparseMixer, 1) => self.attr(|r| Attr::Real(r.one(&[0.0, 0.25, 0.4]).into())),
                (Op::Leading, 1) => self.attr(|r| Attr::Num(r.one(&[2, 4, 6]))),
                (Op::PickWeights, 1) => self.attr(|r| Attr::Num(r.below(3) as u64)),
                // The eight columns of %h, of which a leading part competes.
                (Op::Leading, 0) | (Op::Joint, 1) if self.random.below(4) > 0 => self.params[1],
                (Op::Joint, 2) => {
                    let left = match self.types[&operands[0]] {
                        Type::Picks { experts, .. } => 8u64.saturating_sub(experts),
                        _ => 0,
                    };
                    self.attr(|_| Attr::Num(left))
                }
                (Op::BestScore, 2) => self.attr(|r| Attr::Num(1 + r.below(2) as u64)),
                (Op::BestScore, 1) if self.random.below(4) > 0 => self.params[1],
                (Op::WithoutRows, 1) => self.attr(|r| Attr::Num(1 + r.below(2) as u64)),
                (Op::TopK | Op::SparseMixer, 2) => self.attr(|r| Attr::Num(1 + r.below(4) as u64)),
                (Op::Jitter, 1) => self.params[12],
                (Op::Jitter, 2) => self.attr(|r| Attr::Real(r.one(&[0.0, 0.25]).into())),
                (Op::RmsNorm, 1) => self.attr(|r| Attr::Real(r.one(&[0.125, 1.0]).into())),
                (Op::Pointwise(Pointwise::Offset | Pointwise::AtMost | Pointwise::AtLeast), 1) => {
                    self.attr(|r| Attr::Real(r.one(&[0.0, 0.5, -1.25]).into()))
                }
                (Op::GroupLimit, 1) => self.attr(|r| Attr::Groups(groups(r))),
                (Op::Renorm | Op::RenormKept, 1) => self.attr(|r| Attr::Renorm(renorm(r))),
                (Op::Assign, 1) | (Op::Route, 4) => self.attr(|r| Attr::Assignment(assignment(r))),
                (Op::Losses, 1) => self.attr(|r| Attr::Losses(losses(r))),
                (Op::Observe, 3) => self.attr(|r| Attr::Span(r.one(&[Span::All, Span::Sequence]))),
                // Which row a pair has among those of its expert is left open.
                (Op::Part, 1) => self.attr(|r| {
                    Attr::Part(r.one(&[
                        Part::Experts,
                        Part::Load,
                        Part::Kept,
                        Part::Tokens,
                        Part::Counted,
                        Part::Probability,
                        Part::Z,
                    ]))
                }),
                (Op::BiasUpdate, 0) => self.params[9],
                (Op::BiasUpdate, 2) => self.attr(|_| Attr::Real(0.5.into())),
                (op, place) if op.operand_list() == Some(place) => self.operands(),
                (op, place) if op.body() == Some(place) => self.attr(|r| Attr::Body(body(r))),
                (Op::Gemm | Op::Route, 1) => self.weights(2),
                (Op::GroupedGemm, 2) => self.weights(3),
                (Op::GroupedGemm | Op::DroppedInput | Op::IdentityInput, 0) if self.random.below(2) == 0 => self.params[0],
                (Op::ExpertScale, 1) if self.random.below(2) == 0 => self.params[9],
                (Op::TopK, 1) if self.random.below(2) == 0 => operands[0],
                (Op::HashPicks, 1) => self.table,
                // It fits always, and would be the routing of nearly every graph.
                (Op::Given, 0) if self.random.below(4) > 0 => self.ids,
                (Op::Given, place @ 0..2) => self.given[place],
                (Op::Given, 2) => {
                    let map = [self.given[2]];
                    self.list(&map[..mask])
                }
                (Op::Given, 3) => self.attr(|r| Attr::Num(r.one(&[8, 8, 3]))),
                (Op::Picked, 0) => self.value(|ty| matches!(ty, Type::Picks { .. } | Type::Routing { .. })),
                (Op::Picked, 1) => self.attr(|r| Attr::Real(r.one(&[1.0, 0.5]).into())),
                (Op::HashPicks, 2) | (Op::Within, 0) => self.ids,
                (Op::Pointwise(Pointwise::MaskTokens) | Op::TokenSoftmax, 1) | (Op::Within, 2) => self.mask(),
                (Op::Within, 1) => self.attr(|r| Attr::Num(1 + r.below(3) as u64)),
                (Op::Slots, 0) => self.attr(|r| Attr::Num(r.one(&[8, 8, 4]))),
                (Op::Slots, 1) => self.attr(|r| Attr::Num(r.one(&[1, 1, 2]))),
                (Op::Flatten, 0) => self.params[6],
                (Op::Launch, _) => self.value(|ty| matches!(ty, Type::Tensor { .. })),
                (Op::Item, 0) => self.value(|ty| matches!(ty, Type::List(_))),
                (Op::Item, 1) => self.attr(|r| Attr::Num(r.below(2) as u64)),
                (Op::SoftDispatch, 0) => self.params[0],
                (Op::SoftCombine, 0) => self.value(is_rows),
                (Op::SoftDispatch | Op::SoftCombine, 1) => self.value(|ty| *ty == logits()),
                (Op::SoftDispatch | Op::SoftCombine, 2) => self.value(|ty| matches!(ty, Type::Slots { .. })),
                (Op::TokenSoftmax, 0) => self.value(|ty| *ty == logits()),
                (Op::GroupedGemm | Op::ExpertRows, 1) if self.random.below(4) == 0 => {
                    self.value(|ty| matches!(ty, Type::Slots { .. }))
                }
                (Op::GroupedGemm, 0) => self.value(is_rows),
                (Op::Dispatch | Op::ExpertRows | Op::DroppedInput | Op::IdentityInput | Op::GroupedGemm | Op::Combine, 1)
                | (Op::PairWeights | Op::PickWeights | Op::RenormKept | Op::Losses | Op::Part, 0)
                | (Op::BiasUpdate, 1) => self.value(|ty| matches!(ty, Type::Routing { .. })),
                (Op::ExpertScale, 1) => self.value(|ty| matches!(ty, Type::Tensor { shape, .. } if shape.len() == 1)),
                (Op::Observe, 1) => operands[0],
                (Op::Observe, 0) if self.random.below(2) == 0 => self.params[1],
                (Op::Renorm | Op::ExpertScale | Op::Joint | Op::WithoutRows | Op::BestScore | Op::Counted | Op::Assign, 0)
                | (Op::Observe, 2)
                | (Op::Counted, 1) => self.value(|ty| matches!(ty, Type::Picks { .. })),
                (_, _) => self.value(|ty| matches!(ty, Type::Tensor { .. } | Type::Picks { .. })),
            };
            operands.push(id);
        }
        let node = Node::apply(op, &operands);
        if let Ok(ty) = infer(&node, |id| &self.types[&id], |_| None) {
            let id = self.builder.add(node);
            if matches!(ty, Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. })
                || operands.iter().any(|o| self.routed.contains(o))
            {
                self.routed.insert(id);
            }
            self.types.insert(id, ty);
            self.ops.push(id);
        }
    }

    /// A value that is wanted, if there is one: a parameter or, more often, a recent result.
    fn value(&mut self, wanted: impl Fn(&Type) -> bool) -> Id {
        let ops: Vec<Id> = self.ops.iter().rev().copied().filter(|id| wanted(&self.types[id])).take(6).collect();
        let from = if self.random.below(3) == 0 || ops.is_empty() { &self.params } else { &ops };
        self.random.one(from)
    }

    /// A number for each token: the ids, or what was made of them.
    fn mask(&mut self) -> Id {
        let made = self.ops.iter().rev().copied().find(|id| self.types[id] == self.types[&self.ids]);
        made.filter(|_| self.random.below(4) > 0).unwrap_or(self.ids)
    }

    fn attr(&mut self, make: impl Fn(&mut Random) -> Attr) -> Id {
        let attr = make(&mut self.random);
        let id = self.builder.add(Node::Attr(attr.clone()));
        self.types.insert(id, Type::Attr(attr));
        id
    }

    /// One or two parameters of so many dimensions.
    fn weights(&mut self, rank: usize) -> Id {
        let fits = |id: &Id| matches!(&self.types[id], Type::Tensor { shape, .. } if shape.len() == rank);
        let params: Vec<Id> = self.params.iter().copied().filter(fits).collect();
        let items: Vec<Id> = (0..1 + self.random.below(2)).map(|_| self.random.one(&params)).collect();
        self.list(&items)
    }

    /// At most one value.
    fn operands(&mut self) -> Id {
        let items: Vec<Id> = (0..self.random.below(2)).map(|_| self.value(|ty| matches!(ty, Type::Tensor { .. }))).collect();
        self.list(&items)
    }

    fn list(&mut self, items: &[Id]) -> Id {
        let id = self.builder.apply(Op::List, items);
        self.types.insert(id, Type::List(items.iter().map(|item| self.types[item].clone()).collect()));
        id
    }
}

/// Whether the grouped weights have room for such rows: not for those of eight columns.
fn is_rows(ty: &Type) -> bool {
    matches!(ty, Type::Tensor { shape, .. } if matches!(shape[..], [Dim::Tokens | Dim::Pairs, Dim::Const(4 | 6)]))
}

/// A number for each token and each of eight experts or slots.
fn logits() -> Type {
    Type::tensor(&[Dim::Tokens, Dim::Const(8)], DType::F32)
}

fn groups(random: &mut Random) -> Groups {
    Groups {
        groups: random.one(&[2, 4, 8]),
        keep: random.one(&[1, 2, 4]),
        score: random.one(&[GroupScore::Top2Sum, GroupScore::Max]),
        mask: random.one(&[GroupMask::NegInf, GroupMask::Zero]),
    }
}

fn renorm(random: &mut Random) -> Renorm {
    let norm = random.one(&[Norm::Sum, Norm::Sum, Norm::P(1.0.into()), Norm::P(2.0.into()), Norm::P(3.5.into())]);
    Renorm { norm, mode: random.one(&[Eps::Add, Eps::Clamp]), eps: random.one(&[0.0, 1e-20, 0.5]).into() }
}

fn losses(random: &mut Random) -> Losses {
    let balance = random.one(&[Balance::Load, Balance::First, Balance::Sequences, Balance::SequencesFirst, Balance::Importance]);
    let (balance, z) = (Some((balance, 0.01.into())), Some(0.001.into()));
    random.one(&[Losses { balance, z }, Losses { balance, z: None }, Losses { balance: None, z }])
}

fn assignment(random: &mut Random) -> Assignment {
    let two = Extent::Const(2);
    let per_expert = random.one(&[two.clone(), Extent::Tokens, Extent::Tokens.div_ceil(3).max(two), Extent::SequenceTokens]);
    let (span, priority) = (random.one(&[Span::All, Span::Sequence, Span::Tokens(3)]), Priority::TokenMajor);
    random.one(&[Assignment::Dropless, Assignment::Capacity(Capacity { per_expert, span, priority })])
}

/// A few ops in a row over `$0`, now and then with `$1`.
fn body(random: &mut Random) -> Body {
    let mut b = BodyBuilder::default();
    let mut last = b.add(Node::Hole(0));
    for _ in 0..random.below(4) {
        let op = match random.below(8) {
            0 => Pointwise::Silu.into(),
            1 => Pointwise::Relu.into(),
            2 => Op::Softmax,
            3 => Pointwise::Scale.into(),
            4 => Pointwise::Offset.into(),
            5 => Pointwise::Add.into(),
            6 => Pointwise::Mul.into(),
            _ => Op::TopK,
        };
        let mut operands = vec![last];
        match op {
            Op::Pointwise(Pointwise::Scale) => operands.push(b.add(Node::Attr(Attr::Real(0.5.into())))),
            Op::Pointwise(Pointwise::Offset) => operands.push(b.add(Node::Attr(Attr::Real(0.25.into())))),
            Op::Pointwise(Pointwise::Add | Pointwise::Mul) => operands.push(b.add(Node::Hole(random.below(2) as u32))),
            Op::TopK => operands.extend([last, b.add(Node::Attr(Attr::Num(2)))]),
            _ => {}
        }
        last = b.add(Node::apply(op, &operands));
    }
    b.finish(last)
}
