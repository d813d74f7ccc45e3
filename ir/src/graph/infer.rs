//! The one typing rule of each op. `verify`, `print` and the e-graph's analysis all ask here.

use egg::Id;

use super::{Assignment, Attr, Body, Dim, Node, Norm, Op, Param, Part, Pointwise, Priority, Renorm, Type};
use crate::DType;

/// The type of `node`, given the types of its operands and of the layer's parameters, or what is wrong with it.
///
/// # Errors
/// The first rule of the op that its operands break, a parameter that is unknown or no tensor of floats or i32, a hole outside a
/// body. In words, without a place.
pub fn infer<'t>(node: &Node, operand: impl Fn(Id) -> &'t Type, param: impl Fn(&Param) -> Option<Type>) -> Result<Type, String> {
    match node {
        Node::Param(p) => match param(p) {
            Some(ty @ Type::Tensor { dtype: DType::F32 | DType::F16 | DType::BF16 | DType::I32, .. }) => Ok(ty),
            Some(ty) => Err(format!("the parameter `{}` must be a tensor of floats or of i32, not {ty}", p.0)),
            None => Err(format!("`{}` is not a parameter of the layer", p.0)),
        },
        Node::Hole(i) => Err(format!("`${i}` stands outside a body")),
        Node::Attr(attr) => Ok(Type::Attr(attr.clone())),
        Node::Apply(op, operands) => {
            let types: Vec<&Type> = operands.iter().map(|id| operand(*id)).collect();
            apply(*op, &types)
        }
    }
}

/// The type of each node of the body of a fused op with operands of these types (which `infer` accepts).
///
/// # Errors
/// An op without a body, too few operands, or the first rule that a node of the body breaks.
pub fn infer_body(op: Op, types: &[&Type]) -> Result<Vec<Type>, String> {
    let (Some(list), Some(body)) = (op.operand_list(), op.body()) else {
        return Err(format!("`{}` has no body", op.name()));
    };
    let at = |i: usize| types.get(i).copied().ok_or_else(|| format!("`{}` lacks operands", op.name()));
    let mut holes = match op {
        Op::Combine => match at(0)? {
            Type::Tensor { shape, .. } => vec![Type::tensor(&[Dim::Tokens, shape[1]], DType::F32)],
            ty => return Err(format!("rows cannot be {ty}")),
        },
        Op::RmsNorm => match at(0)? {
            Type::Tensor { shape, .. } => vec![Type::tensor(shape, DType::F32)],
            ty => return Err(format!("rows cannot be {ty}")),
        },
        Op::SoftDispatch | Op::SoftCombine => match at(0)? {
            Type::Tensor { shape, .. } => {
                let rows = if op == Op::SoftDispatch { Dim::Pairs } else { Dim::Tokens };
                vec![Type::tensor(&[rows, shape[1]], DType::F32)]
            }
            ty => return Err(format!("rows cannot be {ty}")),
        },
        _ => match (at(0)?, at(list - 1)?) {
            (Type::Tensor { shape: x, .. }, Type::List(ws)) => ws
                .iter()
                .map(|w| match (w, op) {
                    (Type::Tensor { shape: w, .. }, Op::GroupedGemm) => Type::tensor(&[Dim::Pairs, w[1]], DType::F32),
                    (Type::Tensor { shape: w, .. }, _) => Type::tensor(&[x[0], w[0]], DType::F32),
                    (ty, _) => ty.clone(),
                })
                .collect(),
            (x, ws) => return Err(format!("products of {x} and {ws}")),
        },
    };
    match (at(list)?, at(body)?) {
        (Type::List(vs), Type::Attr(Attr::Body(body))) => {
            holes.extend(vs.iter().cloned());
            body_types(body, &holes)
        }
        (vs, body) => Err(format!("needs a list of operands and a body, not {vs} and {body}")),
    }
}

/// The type of each node of a body whose holes have the types `holes`.
fn body_types(body: &Body, holes: &[Type]) -> Result<Vec<Type>, String> {
    let mut types: Vec<Type> = Vec::with_capacity(body.nodes().len());
    for node in body.nodes() {
        let ty = match node {
            Node::Hole(i) => {
                holes.get(*i as usize).cloned().ok_or_else(|| format!("the body uses `${i}`, but there are {}", holes.len()))?
            }
            Node::Param(p) => return Err(format!("the body names the parameter `{}`: it must be an operand", p.0)),
            Node::Apply(op, _) if !op.is_by_row() => return Err(format!("`{}` cannot stand in a body", op.name())),
            Node::Attr(_) | Node::Apply(..) => infer(node, |id| &types[usize::from(id)], |_| None)?,
        };
        types.push(ty);
    }
    Ok(types)
}

fn apply(op: Op, types: &[&Type]) -> Result<Type, String> {
    match types {
        // A list of one, which only a launch takes.
        [types @ .., Type::Attr(way @ Attr::Beside(_))] if way.is_way_of(op) => Ok(Type::List(vec![apply_open(op, types)?])),
        [types @ .., Type::Attr(way)] if way.is_way_of(op) => apply_open(op, types),
        types => apply_open(op, types),
    }
}

/// The type of an op with the operands that it always has.
fn apply_open(op: Op, types: &[&Type]) -> Result<Type, String> {
    let name = op.name();
    if let Some(arity) = op.arity()
        && arity != types.len()
    {
        let plural = if arity == 1 { "" } else { "s" };
        return Err(format!("`{name}` takes {arity} operand{plural}, not {}", types.len()));
    }
    match op {
        Op::List => Ok(Type::List(types.iter().map(|t| (*t).clone()).collect())),
        Op::Gemm => {
            let [x, ws, vs, body] = types else { return wrong(op, types) };
            let ([m, k], _) = matrix(x, "x")?;
            let n = weights(ws, None, k)?;
            body_of(body, products(ws, &[m, n])?, vs)
        }
        Op::GroupedGemm => {
            let [rows, routing, ws, vs, body] = types else { return wrong(op, types) };
            let ([m, k], _) = matrix(rows, "rows")?;
            let experts = grouped(routing)?;
            let gathers = matches!(routing, Type::Routing { .. }) && m == Dim::Tokens;
            if gathers || m == Dim::Pairs {
                let n = weights(ws, Some(Dim::Const(experts)), k)?;
                body_of(body, products(ws, &[Dim::Pairs, n])?, vs)
            } else {
                Err(format!("rows must be [T, K] or [P, K], not {rows}"))
            }
        }
        Op::Route => {
            let [x, ws, vs, body, assignment] = types else { return wrong(op, types) };
            let picks = apply(Op::Gemm, &[x, ws, vs, body])?;
            apply(Op::Assign, &[&picks, assignment])
        }
        Op::TopK => {
            let [scores, keys, k] = types else { return wrong(op, types) };
            let ([_, e], _) = float_rows(scores)?;
            if scores != keys {
                return Err(format!("scores and keys differ: {scores} and {keys}"));
            }
            match (e, k) {
                (Dim::Const(experts), Type::Attr(Attr::Num(top_k))) if (1..=experts).contains(top_k) => {
                    Ok(Type::Picks { top_k: *top_k, experts, rowless: 0, repeats: false, ranked: false, masked: false })
                }
                (_, k) => Err(format!("cannot pick {k} of {e}")),
            }
        }
        Op::AllExperts => match types {
            [scores] => match float_rows(scores)? {
                ([_, Dim::Const(experts)], _) if experts > 0 => {
                    Ok(Type::Picks { top_k: experts, experts, rowless: 0, repeats: false, ranked: false, masked: false })
                }
                (_, _) => Err(format!("needs a score for each expert, not {scores}")),
            },
            _ => wrong(op, types),
        },
        Op::SparseMixer => match types {
            [logits, Type::Attr(Attr::Real(jitter)), k] if jitter.get() >= 0.0 => apply(Op::TopK, &[logits, logits, k]),
            _ => wrong(op, types),
        },
        Op::HashPicks => {
            let [scores, table, ids] = types else { return wrong(op, types) };
            let ([_, e], _) = float_rows(scores)?;
            let integers = |ty: &Type| match ty {
                Type::Tensor { shape, dtype: DType::I32 } => shape.clone(),
                Type::Tensor { .. } | Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } => vec![],
                Type::List(_) | Type::Attr(_) => vec![],
            };
            match (e, &integers(table)[..], &integers(ids)[..]) {
                (Dim::Const(experts), [Dim::Const(1..), Dim::Const(top_k @ 1..)], [Dim::Tokens]) if experts > 0 => {
                    Ok(Type::Picks { top_k: *top_k, experts, rowless: 0, repeats: true, ranked: false, masked: false })
                }
                (_, _, _) => Err(format!("needs a table [V, K] and ids [T], both of i32, not {table} and {ids}")),
            }
        }
        Op::Given => match types {
            [ids, weights, Type::List(maps), Type::Attr(Attr::Num(experts @ 1..))] => {
                let is_map =
                    |ty: &Type| matches!(ty, Type::Tensor { shape, dtype: DType::I32 } if matches!(shape[..], [Dim::Const(1..)]));
                let of_picks = |ty: &Type, wanted: DType| match ty {
                    Type::Tensor { shape, dtype } if *dtype == wanted => match shape[..] {
                        [Dim::Tokens, Dim::Const(top_k @ 1..)] => Some(top_k),
                        _ => None,
                    },
                    Type::Tensor { .. } | Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } => None,
                    Type::List(_) | Type::Attr(_) => None,
                };
                match (of_picks(ids, DType::I32), of_picks(weights, DType::F32)) {
                    (Some(top_k), Some(k)) if top_k == k && maps.len() < 2 && maps.iter().all(is_map) => {
                        Ok(Type::Routing { top_k, experts: *experts, rowless: 0 })
                    }
                    (_, _) => wrong(op, types),
                }
            }
            _ => wrong(op, types),
        },
        Op::Leading => match types {
            [x, Type::Attr(Attr::Num(n))] => match float_rows(x)? {
                ([_, Dim::Const(columns)], _) if (1..=columns).contains(n) => {
                    Ok(Type::tensor(&[Dim::Tokens, Dim::Const(*n)], DType::F32))
                }
                (_, _) => Err(format!("{x} does not have {n} columns")),
            },
            _ => wrong(op, types),
        },
        Op::Joint => match types {
            [Type::Picks { top_k, experts, rowless: 0, repeats, ranked, masked: false }, scores, Type::Attr(Attr::Num(n))] => {
                match (float_rows(scores)?, experts.checked_add(*n), top_k.checked_add(*n)) {
                    (([_, Dim::Const(columns)], _), Some(all), Some(top_k)) if columns == all && *n > 0 => {
                        let [experts, rowless] = [*experts, *n];
                        Ok(Type::Picks { top_k, experts, rowless, repeats: *repeats, ranked: *ranked, masked: false })
                    }
                    (_, _, _) => Err(format!("{scores} does not have {experts} columns and {n} more")),
                }
            }
            _ => wrong(op, types),
        },
        Op::GroupLimit => {
            let [keys, groups] = types else { return wrong(op, types) };
            let ([_, e], _) = float_rows(keys)?;
            match (e, groups) {
                (Dim::Const(e), Type::Attr(Attr::Groups(g)))
                    if e > 0 && g.groups > 0 && e % g.groups == 0 && (1..=g.groups).contains(&g.keep) =>
                {
                    Ok((*keys).clone())
                }
                (_, groups) => Err(format!("{groups} does not fit {e} experts")),
            }
        }
        Op::Renorm => match types {
            [picks @ Type::Picks { masked: false, .. }, Type::Attr(Attr::Renorm(rule))] => renormed(picks, rule),
            _ => wrong(op, types),
        },
        Op::RenormKept => match types {
            [picks @ Type::Routing { rowless: 0, .. }, Type::Attr(Attr::Renorm(rule))] => renormed(picks, rule),
            _ => wrong(op, types),
        },
        Op::ExpertScale => match types {
            [picks @ Type::Picks { experts, rowless, masked: false, .. }, Type::Tensor { shape, dtype }]
            | [picks @ Type::Routing { experts, rowless: rowless @ 0, .. }, Type::Tensor { shape, dtype }]
                if dtype.is_float()
                    && (shape[..] == [Dim::Const(experts.saturating_add(*rowless))] || shape[..] == [Dim::Const(1)]) =>
            {
                Ok((*picks).clone())
            }
            _ => wrong(op, types),
        },
        Op::WithoutRows => match types {
            [picks @ Type::Picks { top_k, experts, rowless: 0, repeats, ranked, masked: false }, Type::Attr(Attr::Num(n))] => {
                match experts.checked_sub(*n) {
                    Some(experts @ 1..) => {
                        let [top_k, rowless] = [*top_k, *n];
                        Ok(Type::Picks { top_k, experts, rowless, repeats: *repeats, ranked: *ranked, masked: false })
                    }
                    Some(0) | None => Err(format!("none is left with rows of {picks}")),
                }
            }
            _ => wrong(op, types),
        },
        Op::Observe => {
            let [logits, scores, picks @ Type::Picks { experts, rowless: 0, .. }, Type::Attr(Attr::Span(_))] = types else {
                return wrong(op, types);
            };
            match (float_rows(logits)?, *logits == *scores) {
                (([_, Dim::Const(e)], _), true) if e == *experts => Ok((*picks).clone()),
                (_, _) => Err(format!("{logits} and {scores} are not the logits and scores of {picks}")),
            }
        }
        Op::Within => match types {
            [ids, Type::Attr(Attr::Num(1..)), masks @ ..] if masks.len() < 2 => {
                masks.iter().try_for_each(|mask| token_mask(mask))?;
                match ids {
                    Type::Tensor { shape, dtype: DType::I32 } if shape[..] == [Dim::Tokens] => Ok((*ids).clone()),
                    ids => Err(format!("ids are i32 [T], not {ids}")),
                }
            }
            _ => wrong(op, types),
        },
        Op::Counted => match types {
            [
                picks @ Type::Picks { top_k, experts, rowless: 0, masked: false, .. },
                others @ Type::Picks { top_k: k, experts: e, rowless: 0, masked: false, .. },
            ] => match (k == top_k, e == experts) {
                (true, true) => Ok((*picks).clone()),
                (_, _) => Err(format!("{others} cannot be counted in the place of {picks}")),
            },
            _ => wrong(op, types),
        },
        Op::BestScore => match types {
            [
                picks @ Type::Picks { top_k, experts, rowless, repeats, ranked: false, masked: false },
                scores,
                Type::Attr(Attr::Num(n)),
            ] => match (float_rows(scores)?, experts.checked_add(*rowless)) {
                (([_, Dim::Const(columns)], _), Some(all)) if columns == all && (1..=*top_k).contains(n) => {
                    let [top_k, experts, rowless] = [*top_k, *experts, *rowless];
                    Ok(Type::Picks { top_k, experts, rowless, repeats: *repeats, ranked: true, masked: false })
                }
                (_, _) => Err(format!("{scores} are not the scores of {n} of {picks}")),
            },
            _ => wrong(op, types),
        },
        Op::Assign => match types {
            [picks @ Type::Picks { ranked: false, .. }, Type::Attr(Attr::Assignment(Assignment::Capacity(c)))]
                if c.priority == Priority::BatchPrioritized =>
            {
                Err(format!("batch_prioritized needs the `best_score` of {picks}"))
            }
            [Type::Picks { top_k, experts, rowless, .. }, Type::Attr(Attr::Assignment(_))] => {
                Ok(Type::Routing { top_k: *top_k, experts: *experts, rowless: *rowless })
            }
            _ => wrong(op, types),
        },
        Op::Losses => match types {
            [Type::Routing { experts, rowless, .. }, Type::Attr(Attr::Losses(losses))] => {
                let probability = Type::tensor(&[Dim::Const(experts.saturating_add(*rowless))], DType::F32);
                let one = || Type::tensor(&[Dim::Const(1)], DType::F32);
                let losses: Vec<Type> = [losses.balance.map(|_| one()), losses.z.map(|_| one())].into_iter().flatten().collect();
                if losses.is_empty() { wrong(op, types) } else { Ok(Type::List([vec![probability], losses].concat())) }
            }
            _ => wrong(op, types),
        },
        Op::Picked => match types {
            [Type::Picks { top_k, .. } | Type::Routing { top_k, .. }, Type::Attr(Attr::Real(_))] => {
                let of_picks = |dtype| Type::tensor(&[Dim::Tokens, Dim::Const(*top_k)], dtype);
                Ok(Type::List(vec![of_picks(DType::I32), of_picks(DType::F32)]))
            }
            _ => wrong(op, types),
        },
        Op::Part => match types {
            [Type::Routing { top_k, experts, rowless }, Type::Attr(Attr::Part(part))] => {
                let of_pick = || vec![Dim::Tokens, Dim::Const(*top_k)];
                let of_expert = || vec![Dim::Const(experts.saturating_add(*rowless))];
                let (shape, dtype) = match part {
                    Part::Experts | Part::Rows | Part::Counted => (of_pick(), DType::I32),
                    Part::Load | Part::Kept => (of_expert(), DType::I32),
                    Part::Tokens => (vec![Dim::Const(1)], DType::I32),
                    Part::Probability => (of_expert(), DType::F32),
                    Part::Z => (vec![Dim::Const(1)], DType::F32),
                };
                Ok(Type::Tensor { shape, dtype })
            }
            _ => wrong(op, types),
        },
        Op::BiasUpdate => match types {
            [
                bias @ Type::Tensor { shape, dtype: DType::F32 },
                Type::Routing { experts, rowless, .. },
                Type::Attr(Attr::Real(_)),
            ] => match shape[..] {
                [Dim::Const(n)] if n <= experts.saturating_add(*rowless) => Ok((*bias).clone()),
                _ => Err(format!("{bias} is no bias of {experts} experts")),
            },
            _ => wrong(op, types),
        },
        Op::Dispatch => {
            let [x, routing] = types else { return wrong(op, types) };
            routed(routing)?;
            match matrix(x, "x")? {
                ([Dim::Tokens, n], dtype) => Ok(Type::tensor(&[Dim::Pairs, n], dtype)),
                (_, _) => Err(format!("dispatch takes [T, N], not {x}")),
            }
        }
        Op::ExpertRows => {
            let [b, routing] = types else { return wrong(op, types) };
            let experts = grouped(routing)?;
            match matrix(b, "b")? {
                ([Dim::Const(e), n], dtype) if e == experts => Ok(Type::tensor(&[Dim::Pairs, n], dtype)),
                (_, _) => Err(format!("needs one row for each of {experts} experts, not {b}")),
            }
        }
        Op::PairWeights => {
            let [routing] = types else { return wrong(op, types) };
            routed(routing)?;
            Ok(Type::tensor(&[Dim::Pairs, Dim::Const(1)], DType::F32))
        }
        Op::PickWeights => match types {
            [Type::Routing { top_k, .. }, Type::Attr(Attr::Num(first))] if first < top_k => {
                Ok(Type::tensor(&[Dim::Tokens, Dim::Const(top_k - first)], DType::F32))
            }
            _ => wrong(op, types),
        },
        Op::DroppedInput | Op::IdentityInput => {
            let [x, routing] = types else { return wrong(op, types) };
            routed(routing)?;
            match matrix(x, "x")? {
                ([Dim::Tokens, n], _) => Ok(Type::tensor(&[Dim::Tokens, n], DType::F32)),
                (_, _) => Err(format!("{name} takes [T, N], not {x}")),
            }
        }
        Op::Combine => {
            let [rows, routing, vs, body] = types else { return wrong(op, types) };
            routed(routing)?;
            match matrix(rows, "rows")? {
                ([Dim::Pairs, n], _) => body_of(body, vec![Type::tensor(&[Dim::Tokens, n], DType::F32)], vs),
                (_, _) => Err(format!("combine takes [P, N], not {rows}")),
            }
        }
        Op::Flatten => match types {
            [Type::Tensor { shape, dtype }] => match shape[..] {
                [Dim::Const(a), Dim::Const(b), n] => match a.checked_mul(b) {
                    Some(rows) => Ok(Type::tensor(&[Dim::Const(rows), n], *dtype)),
                    None => Err(format!("{a} x {b} rows are too many")),
                },
                _ => Err(format!("flatten takes [A, B, N], not {}", types[0])),
            },
            _ => wrong(op, types),
        },
        Op::Launch => {
            let tensor = |ty: &&Type| match ty {
                ty @ Type::Tensor { .. } => Some((*ty).clone()),
                Type::List(part) => match &part[..] {
                    [ty @ Type::Tensor { .. }] => Some(ty.clone()),
                    _ => None,
                },
                Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::Attr(_) => None,
            };
            match types.iter().map(tensor).collect::<Option<Vec<Type>>>() {
                Some(list) if list.len() > 1 => Ok(Type::List(list)),
                Some(_) | None => wrong(op, types),
            }
        }
        Op::Item => match types {
            [Type::List(list), Type::Attr(Attr::Num(i))] => match usize::try_from(*i).ok().and_then(|i| list.get(i)) {
                Some(ty) => Ok(ty.clone()),
                None => Err(format!("there is no item {i} of {}", list.len())),
            },
            _ => wrong(op, types),
        },
        Op::Slots => {
            let [Type::Attr(Attr::Num(experts)), Type::Attr(Attr::Num(slots))] = types else { return wrong(op, types) };
            match (experts.checked_mul(*slots), *experts > 0 && *slots > 0) {
                (Some(_), true) => Ok(Type::Slots { experts: *experts, slots: *slots }),
                (_, _) => Err(format!("{experts} x {slots} are no slots")),
            }
        }
        Op::TokenSoftmax => match types {
            [x] => float_rows(x).map(|_| (*x).clone()),
            [x, mask] => {
                token_mask(mask)?;
                float_rows(x).map(|_| (*x).clone())
            }
            _ => wrong(op, types),
        },
        Op::SoftDispatch => {
            let [x, weights, slots, vs, body] = types else { return wrong(op, types) };
            mixes(weights, slots)?;
            match matrix(x, "x")? {
                ([Dim::Tokens, n], _) => body_of(body, vec![Type::tensor(&[Dim::Pairs, n], DType::F32)], vs),
                (_, _) => Err(format!("soft_dispatch takes [T, N], not {x}")),
            }
        }
        Op::SoftCombine => {
            let [rows, weights, slots, vs, body] = types else { return wrong(op, types) };
            mixes(weights, slots)?;
            match matrix(rows, "rows")? {
                ([Dim::Pairs, n], _) => body_of(body, vec![Type::tensor(&[Dim::Tokens, n], DType::F32)], vs),
                (_, _) => Err(format!("soft_combine takes [P, N], not {rows}")),
            }
        }
        Op::RmsNorm => match types {
            [x, Type::Attr(Attr::Real(eps)), vs, body] if eps.get() >= 0.0 => {
                let (shape, _) = matrix(x, "x")?;
                body_of(body, vec![Type::tensor(&shape, DType::F32)], vs)
            }
            _ => wrong(op, types),
        },
        Op::Jitter => match types {
            [x, seed, Type::Attr(Attr::Real(eps))] if eps.get() >= 0.0 => match (matrix(x, "x")?, seed) {
                (([Dim::Tokens, n], _), Type::Tensor { shape, dtype: DType::I32 }) if shape[..] == [Dim::Const(2)] => {
                    Ok(Type::tensor(&[Dim::Tokens, n], DType::F32))
                }
                (_, seed) => Err(format!("jitter takes [T, N] and a seed of two i32, not {x} and {seed}")),
            },
            _ => wrong(op, types),
        },
        Op::Softmax => match types {
            [x] => arithmetic(x),
            _ => wrong(op, types),
        },
        Op::Pointwise(op) => pointwise(op, types),
    }
}

/// The types of what computes number by number; they are as many as it takes.
fn pointwise(op: Pointwise, types: &[&Type]) -> Result<Type, String> {
    match op {
        Pointwise::MaskTokens => match types {
            [Type::Picks { top_k, experts, rowless, repeats, ranked, masked: false }, mask] => {
                token_mask(mask)?;
                let [top_k, experts, rowless] = [*top_k, *experts, *rowless];
                Ok(Type::Picks { top_k, experts, rowless, repeats: *repeats, ranked: *ranked, masked: true })
            }
            [x @ Type::Tensor { .. }, mask] => {
                token_mask(mask)?;
                match matrix(x, "x")? {
                    ([Dim::Tokens, _], _) => Ok((*x).clone()),
                    (_, _) => Err(format!("mask_tokens takes [T, N] or picks, not {x}")),
                }
            }
            types => wrong(op.into(), types),
        },
        Pointwise::Cast => match types {
            [Type::Tensor { shape, dtype: from }, Type::Attr(Attr::DType(dtype))] if dtype.is_float() && from.is_float() => {
                Ok(Type::tensor(shape, *dtype))
            }
            types => wrong(op.into(), types),
        },
        Pointwise::Scale | Pointwise::Offset | Pointwise::AtMost | Pointwise::AtLeast => match types {
            [x, Type::Attr(Attr::Real(_))] => arithmetic(x),
            types => wrong(op.into(), types),
        },
        Pointwise::Sigmoid | Pointwise::Tanh | Pointwise::SqrtSoftplus | Pointwise::Silu => arithmetic(types[0]),
        Pointwise::Gelu | Pointwise::GeluTanh | Pointwise::Relu | Pointwise::Square | Pointwise::Tf32 => arithmetic(types[0]),
        Pointwise::Add | Pointwise::Mul => {
            let [a, b] = types else { return wrong(op.into(), types) };
            let Type::Tensor { shape, .. } = arithmetic(a)? else {
                return Err(format!("needs a tensor, not {a}"));
            };
            match b {
                Type::Tensor { shape: other, dtype } if dtype.is_float() && broadcasts(other, &shape) => Ok((*a).clone()),
                b => Err(format!("{b} does not broadcast to {a}")),
            }
        }
    }
}

fn wrong(op: Op, types: &[&Type]) -> Result<Type, String> {
    let list: Vec<String> = types.iter().map(ToString::to_string).collect();
    Err(format!("`{}` does not take ({})", op.name(), list.join(", ")))
}

/// Picks, or a routing, whose weights a rule divides.
fn renormed(picks: &Type, rule: &Renorm) -> Result<Type, String> {
    match rule.norm {
        Norm::P(p) if p.get() <= 0.0 => Err(format!("{p} is no norm")),
        Norm::Sum | Norm::P(_) => Ok(picks.clone()),
    }
}

/// Checks that there is a number for each token.
fn token_mask(ty: &Type) -> Result<(), String> {
    match ty {
        Type::Tensor { shape, dtype: DType::I32 } if shape[..] == [Dim::Tokens] => Ok(()),
        ty => Err(format!("a mask is i32 [T], not {ty}")),
    }
}

/// f32 tensors and the weights of picks, none of them of no expert.
fn arithmetic(x: &Type) -> Result<Type, String> {
    match x {
        Type::Tensor { dtype: DType::F32, .. } | Type::Picks { masked: false, .. } => Ok(x.clone()),
        Type::Tensor { .. } | Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_) => {
            Err(format!("arithmetic is on f32 tensors and picks, not {x}"))
        }
    }
}

fn broadcasts(small: &[Dim], large: &[Dim]) -> bool {
    match (small, large) {
        (a, b) if a == b => true,
        ([Dim::Const(1)], [_, _]) => true,
        ([n], [_, b]) => n == b,
        ([m, Dim::Const(n @ 1..)], [a, Dim::Const(columns)]) => m == a && columns.is_multiple_of(*n),
        (_, _) => false,
    }
}

fn matrix(ty: &Type, what: &str) -> Result<([Dim; 2], DType), String> {
    match ty {
        Type::Tensor { shape, dtype } if dtype.is_float() => match shape[..] {
            [m, n] => Ok(([m, n], *dtype)),
            _ => Err(format!("{what} must have two dimensions, not {ty}")),
        },
        Type::Tensor { .. } | Type::Picks { .. } | Type::Routing { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_) => {
            Err(format!("{what} must be a tensor of floats, not {ty}"))
        }
    }
}

fn float_rows(ty: &Type) -> Result<([Dim; 2], DType), String> {
    match matrix(ty, "the operand")? {
        ([Dim::Tokens, n], DType::F32) => Ok(([Dim::Tokens, n], DType::F32)),
        (_, _) => Err(format!("needs rows of f32 for each token, not {ty}")),
    }
}

fn routed(ty: &Type) -> Result<(u64, u64), String> {
    match ty {
        Type::Routing { top_k, experts, .. } => Ok((*top_k, *experts)),
        Type::Tensor { .. } | Type::Picks { .. } | Type::Slots { .. } | Type::List(_) | Type::Attr(_) => {
            Err(format!("needs a routing, not {ty}"))
        }
    }
}

/// The number of experts by which rows are grouped.
fn grouped(ty: &Type) -> Result<u64, String> {
    match ty {
        Type::Slots { experts, .. } => Ok(*experts),
        ty => Ok(routed(ty)?.1),
    }
}

/// Checks that there is a weight for each token and slot.
fn mixes(weights: &Type, slots: &Type) -> Result<(), String> {
    let Type::Slots { experts, slots } = slots else { return Err(format!("needs slots, not {slots}")) };
    match float_rows(weights)? {
        ([_, Dim::Const(n)], _) if n == experts * slots => Ok(()),
        (_, _) => Err(format!("needs a weight for each of {experts} x {slots} slots, not {weights}")),
    }
}

/// Checks `[.., N, K]` weights against the inner extent `k` (and, grouped, the number of experts); gives N.
fn weights(ws: &Type, experts: Option<Dim>, k: Dim) -> Result<Dim, String> {
    let list = match ws {
        Type::List(list) if !list.is_empty() => list,
        _ => return Err(format!("needs a list of weights, not {ws}")),
    };
    let mut columns = None;
    for w in list {
        let Type::Tensor { shape, dtype } = w else { return Err(format!("a weight must be a tensor, not {w}")) };
        let n = match (&shape[..], experts) {
            ([n, inner], None) if *inner == k => *n,
            ([e, n, inner], Some(experts)) if *inner == k && *e == experts => *n,
            (_, None) => return Err(format!("the weight {w} does not fit an inner extent of {k}")),
            (_, Some(e)) => return Err(format!("the weight {w} does not fit {e} experts and an inner extent of {k}")),
        };
        if !dtype.is_float() || *columns.get_or_insert(n) != n {
            return Err(format!("the weights {ws} differ"));
        }
    }
    columns.ok_or_else(|| "needs a weight".to_string())
}

fn products(ws: &Type, shape: &[Dim]) -> Result<Vec<Type>, String> {
    match ws {
        Type::List(list) => Ok(vec![Type::tensor(shape, DType::F32); list.len()]),
        _ => Err(format!("needs a list of weights, not {ws}")),
    }
}

/// The type of a fused op's body over its products and operands.
fn body_of(body: &Type, mut holes: Vec<Type>, vs: &Type) -> Result<Type, String> {
    match (body, vs) {
        (Type::Attr(Attr::Body(body)), Type::List(operands)) => {
            holes.extend(operands.iter().cloned());
            match body_types(body, &holes)?.pop() {
                Some(Type::Tensor { dtype, .. }) if !dtype.is_float() => {
                    Err(format!("a body gives floats or picks, not {dtype}"))
                }
                Some(ty) => Ok(ty),
                None => Err("the body is empty".to_string()),
            }
        }
        (_, _) => Err(format!("needs a list of operands and a body, not {vs} and {body}")),
    }
}
