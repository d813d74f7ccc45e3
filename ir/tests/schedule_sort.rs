//! The order of grouped rows against a stable sort, for many numbers of experts, picks and tokens, in every way in which pairs that a
//! caller gives are sorted.

use std::collections::BTreeMap;

use moec_ir::graph::{Attr, Builder, Dim, Node, Op, Part, Tensor, Type, Typed, verify};
use moec_ir::{DType, Dims, Facts, Machine, Sorting};

use crate::layer::{Random, run};

/// Rows of picks that a caller gives.
fn layer(experts: u64, top_k: u64, sorting: Sorting) -> Typed {
    let mut made = Builder::default();
    let picks = |dtype| Type::tensor(&[Dim::Tokens, Dim::Const(top_k)], dtype);
    let (ids, weights) = (made.param("%ids", picks(DType::I32)), made.param("%weights", picks(DType::F32)));
    let maps = made.apply(Op::List, &[]);
    let [experts, sorting] = [Attr::Num(experts), Attr::Sorting(sorting)].map(|attr| made.add(Node::Attr(attr)));
    let routing = made.apply(Op::Given, &[ids, weights, maps, experts, sorting]);
    let results = [("rows", Part::Rows), ("stats.load", Part::Load)];
    let results = results.map(|(name, part)| (name.to_string(), made.apply_attr(Op::Part, &[routing], Attr::Part(part))));
    verify(made.finish_with("sorted", results.to_vec(), Facts::default())).unwrap_or_else(|found| panic!("{found:?}"))
}

#[test]
fn rows_are_in_the_order_of_a_stable_sort() {
    let mut random = Random(29);
    let sizes =
        [(1, 1, 40), (7, 2, 700), (60, 4, 300), (192, 8, 130), (512, 10, 110), (1000, 3, 350), (1500, 2, 33), (2500, 1, 70)];
    for (experts, top_k, tokens) in sizes {
        for sorting in [Sorting::Spread, Sorting::Block] {
            for (machine, of) in [("sm_80", tokens), ("sm_90a", tokens / 7), ("sm_90a", 1), ("x86-64-v3", tokens)] {
                let machine = Machine::named(machine).expect("a machine");
                let pairs = of * top_k;
                // Some experts are wanted by many, some pairs are of none.
                let few = 1 + experts / 9;
                let mut draw = || match random.below(4) {
                    0 => random.below(few) as i64,
                    1 => random.below(experts + 2) as i64 - 1,
                    _ => random.below(experts) as i64,
                };
                let ids: Vec<i64> = (0..pairs).map(|_| draw()).collect();
                let about = format!("{experts} experts, {of} tokens of {top_k}, {sorting} on {}", machine.name);
                let shape = vec![of, top_k];
                let given = BTreeMap::from([
                    ("%ids".to_string(), Tensor::new(shape.clone(), ids.iter().map(|id| *id as f64).collect())),
                    ("%weights".to_string(), Tensor::new(shape, (0..pairs).map(|pair| pair as f64 / 1024.0).collect())),
                ]);
                let dims = Dims { tokens: of as u64, sequence_tokens: of as u64 };
                let out = run(&layer(experts as u64, top_k as u64, sorting), &machine, dims, &given);

                let is_expert = |pair: &usize| (0..experts as i64).contains(&ids[*pair]);
                let mut sorted: Vec<usize> = (0..pairs).filter(is_expert).collect();
                sorted.sort_by_key(|pair| ids[*pair]);
                let mut rows = vec![-1; pairs];
                sorted.iter().enumerate().for_each(|(row, pair)| rows[*pair] = row as i32);
                assert_eq!(out.ints("rows"), rows, "{about}");
                let weights: Vec<f64> = sorted.iter().map(|pair| *pair as f64 / 1024.0).collect();
                assert_eq!(out.floats("weight_of_row")[..sorted.len()], weights, "{about}");
                let loads: Vec<i32> = (0..experts as i64).map(|e| ids.iter().filter(|id| **id == e).count() as i32).collect();
                assert_eq!(out.ints("load_of_expert"), loads, "{about}");
                let offsets = (0..=experts).map(|e| loads[..e].iter().sum()).collect::<Vec<i32>>();
                assert_eq!(out.ints("offset_of_expert"), offsets, "{about}");
            }
        }
    }
}
