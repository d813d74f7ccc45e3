//! Routings that a caller gives, and picks that it is given.

use super::*;

/// Of a routing, which expert each pair has, and the weight of each row.
fn rows(lines: &str, given: Given) -> (Vec<usize>, Vec<f64>) {
    let lines = format!("%r = given {lines} : ? %y = pair_weights %r : ?");
    let Value::Routing(routing) = eval(Op::Given, &lines, given) else { panic!("no routing") };
    let weights = routing.pair_of_row.iter().map(|pair| routing.picks.weight_of_pair[*pair]).collect();
    (routing.picks.expert_of_pair, weights)
}

pub(crate) fn given() {
    let none = NO_EXPERT;
    let weights: (&str, &[usize], &[f64]) = ("%w", &[4, 2], &[0.5, 0.25, 1.0, NAN, -2.0, 3.0, NAN, NAN]);
    // Twice of one expert, and of none: below 0 and beyond the three that there are.
    let ids: (&str, &[usize], &[f64]) = ("%ids", &[4, 2], &[2.0, 0.0, 1.0, -1.0, 2.0, 2.0, 3.0, -2147483648.0]);
    let (experts, kept) = rows("%ids, %w, [], 3", &[ids, weights]);
    assert_eq!(experts, [2, 0, 1, none, 2, 2, none, none]);
    // By expert, and of one expert by token and pick.
    assert_eq!(kept, [0.25, 1.0, 0.5, -2.0, 3.0]);
    // Of four experts two are here, the others below 0 or beyond these two; an id beyond the four is of none.
    let map: (&str, &[usize], &[f64]) = ("@map", &[4], &[1.0, 2147483647.0, 0.0, -1.0]);
    let (experts, kept) = rows("%ids, %w, [@map], 2", &[ids, weights, map]);
    assert_eq!(experts, [0, 1, none, none, 0, 0, none, none]);
    assert_eq!(kept, [0.5, -2.0, 3.0, 0.25]);
}

pub(crate) fn told_picks() {
    let of = |lines: &str, given: Given| {
        let Value::List(list) = eval(Op::Picked, &format!("{lines} %y = item %p, 1 : ?"), given) else { panic!("no list") };
        let [ids, weights] = &list[..] else { panic!("{} values", list.len()) };
        let (ids, weights) = (tensor(ids.clone()), tensor(weights.clone()));
        assert_eq!((&ids.shape, ids.data.len()), (&weights.shape, weights.data.len()));
        (ids.data.to_vec(), weights.data.to_vec())
    };
    let scores: (&str, &[usize], &[f64]) = ("%s", &[3, 3], &[0.1, 0.9, 0.6, 0.2, 0.8, 0.1, 3.0, 2.0, 1.0]);
    let mask: (&str, &[usize], &[f64]) = ("%mask", &[3], &[1.0, 1.0, 0.0]);
    let picks = "%q = top_k %s, %s, 2 : ?";
    let (ids, weights) = of(&format!("{picks} %p = picked %q, 0.5 : ?"), &[scores]);
    assert_eq!((ids, weights), (vec![1.0, 2.0, 1.0, 0.0, 0.0, 1.0], vec![0.45, 0.3, 0.4, 0.1, 1.5, 1.0]));
    // A token that is padding has none, and one pair an expert is kept of the rest.
    let masked = format!("{picks} %m = mask_tokens %q, %mask : ?");
    let (ids, weights) = of(&format!("{masked} %p = picked %m, 1.0 : ?"), &[scores, mask]);
    assert_eq!((ids, weights), (vec![1.0, 2.0, 1.0, 0.0, -1.0, -1.0], vec![0.9, 0.6, 0.8, 0.2, 0.0, 0.0]));
    let capacity = "capacity(1, all, token_major)";
    let (ids, weights) = of(&format!("{masked} %r = assign %m, {capacity} : ? %p = picked %r, 2.0 : ?"), &[scores, mask]);
    assert_eq!((ids, weights), (vec![1.0, 2.0, -1.0, 0.0, -1.0, -1.0], vec![1.8, 1.2, 0.0, 0.4, 0.0, 0.0]));
    // A pick of an expert without rows is never dropped.
    let rowless = format!("%q = top_k %s, %s, 2 : ? %i = without_rows %q, 2 : ? %r = assign %i, {capacity} : ?");
    let (ids, weights) = of(&format!("{rowless} %p = picked %r, 1.0 : ?"), &[scores]);
    assert_eq!((ids, weights), (vec![1.0, 2.0, 1.0, 0.0, -1.0, 1.0], vec![0.9, 0.6, 0.8, 0.2, 0.0, 2.0]));
}
