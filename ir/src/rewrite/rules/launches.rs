//! Which products share a launch. Each is a value of its own before and after: `item (launch a b) i` is `a`, or `b`. What the launch
//! costs, and whether products that share one do better each in its own tiling, the cost model says.

use egg::Id;

use crate::graph::{Attr, Op};
use crate::rewrite::matching::{Match, computed};

use super::Rule;

pub(super) fn rules() -> Vec<Rule> {
    vec![
        // A shared expert inside the grouped launch: its blocks come beside those of the experts, and there is a launch less.
        computed("launch-what-is-combined", "(combine ?y ?r ?vs ?f)", |m| {
            if m.is("?y", Op::GroupedGemm) {
                let beside = dense(m, "?vs")?;
                together(m, &[&[m.class("?y")][..], &beside].concat());
            }
            None
        }),
        // What products of one launch read can come from one launch too, and with it what they read beside.
        computed("launch-what-is-read", "(launch (grouped_gemm ?x ?r ?ws ?vs ?f) (gemm ?x2 ?ws2 ?vs2 ?g))", |m| {
            if m.is("?x", Op::GroupedGemm) && m.is("?x2", Op::Gemm) {
                let beside = dense(m, "?vs2")?;
                together(m, &[&[m.class("?x"), m.class("?x2")][..], &beside].concat());
            }
            None
        }),
    ]
}

/// The dense products of a list.
fn dense(m: &Match, list: &str) -> Option<Vec<Id>> {
    let mut items = m.list(list)?;
    items.retain(|item| m.has(*item, Op::Gemm));
    items.dedup();
    Some(items)
}

/// Says that these products, if they are several, are the items of a launch.
fn together(m: &mut Match, products: &[Id]) {
    if products.len() < 2 {
        return;
    }
    let Some(launch) = m.apply(Op::Launch, products) else { return };
    for (i, product) in (0..).zip(products) {
        let place = m.constant(Attr::Num(i));
        if let Some(item) = m.apply(Op::Item, &[launch, place]) {
            m.unite(item, *product);
        }
    }
}
