//! What is said of picks beside their experts and weights: which tokens are padding, which picks a loss counts, and by what a
//! capacity ranks tokens.

use super::*;

pub(crate) fn within() {
    let ids: (&str, &[usize], &[f64]) = ("%ids", &[6], &[0.0, -1.0, 2.0, 3.0, 2147483647.0, -2147483648.0]);
    let y = tensor(eval(Op::Within, "%y = within %ids, 3 : ?", &[ids]));
    assert_eq!((&y.shape[..], &y.data[..]), (&[6][..], &[1.0, 0.0, 1.0, 0.0, 0.0, 0.0][..]));
    let mask: (&str, &[usize], &[f64]) = ("%mask", &[6], &[0.0, 1.0, -7.0, 1.0, 1.0, 0.0]);
    let y = tensor(eval(Op::Within, "%y = within %ids, 3, %mask : ?", &[ids, mask]));
    assert_eq!(y.data, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
}

pub(crate) fn mask_tokens() {
    let mask: (&str, &[usize], &[f64]) = ("%mask", &[3], &[1.0, 0.0, -7.0]);
    let rows = [1.0, 2.0, NAN, INF, 5.0, NAN];
    close(
        &tensor(eval(Pointwise::MaskTokens, "%y = mask_tokens %x, %mask : ?", &[("%x", &[3, 2], &rows), mask])).data,
        &[1.0, 2.0, 0.0, 0.0, 5.0, NAN],
    );
    let scores = [0.1, 0.9, 0.6, NAN, NAN, NAN, 3.0, 2.0, 1.0];
    let given: Given = &[("%s", &[3, 3], &scores), mask];
    let lines = |rule: &str| {
        format!("%q = top_k %s, %s, 2 : ? %p = mask_tokens %q, %mask : ? %r = assign %p, {rule} : ? %y = pair_weights %r : ?")
    };
    let masked = picks(eval(Pointwise::MaskTokens, &lines("dropless"), given));
    assert_eq!(masked.expert_of_pair, [1, 2, NO_EXPERT, NO_EXPERT, 0, 1]);
    assert_eq!(masked.weight_of_pair, [0.9, 0.6, 0.0, 0.0, 3.0, 2.0]);
    // Three pairs without it would pick expert 1 or 2 before token 2 does.
    for rule in ["capacity(2, all, choice_major)", "capacity(2, all, token_major)", "capacity(2, all, score)", "dropless"] {
        let routed = routing(eval(Op::Assign, &lines(rule), given));
        assert_eq!(routed.row_of_pair.iter().filter(|row| row.is_none()).count(), 2, "{rule}");
        assert!(routed.row_of_pair[2..4].iter().all(Option::is_none), "{rule}");
    }
    // What is left out of the sums, and of what they are divided by: the second token, and then a whole sequence.
    let lone = |data: &[f64]| Tensor::new(vec![data.len() / 3, 3], data.to_vec());
    let observation = Observation::of(&lone(&scores), &lone(&scores), &masked);
    let of_others = Observation::of(&lone(&[0.1, 0.9, 0.6, 3.0, 2.0, 1.0]), &lone(&[0.1, 0.9, 0.6, 3.0, 2.0, 1.0]), &{
        let keep = |v: &[f64]| [&v[..2], &v[4..]].concat();
        let expert_of_pair = vec![1, 2, 0, 1];
        Picks { expert_of_pair, weight_of_pair: keep(&masked.weight_of_pair), ..masked.clone() }
    });
    assert_eq!(observation.probability.data[3..6], [0.0; 3]);
    assert_eq!(of_others.z.data, [&observation.z.data[..1], &observation.z.data[2..]].concat());
    let others = Picks { expert_of_pair: vec![1, 2, 0, 1], weight_of_pair: vec![0.0; 4], ..masked.clone() };
    for balance in [Balance::Load, Balance::First, Balance::Importance, Balance::Sequences] {
        let rule = Losses { balance: Some((balance, 2.0.into())), z: Some(0.5.into()) };
        let (is, wanted) = (
            observation.losses(&masked, &rule, Dims { tokens: 3, sequence_tokens: 1 }),
            of_others.losses(&others, &rule, Dims { tokens: 2, sequence_tokens: 1 }),
        );
        close(
            &[is.balance.expect("a loss"), is.z.expect("a loss")],
            &[wanted.balance.expect("a loss"), wanted.z.expect("a loss")],
        );
        let padding = Picks { expert_of_pair: vec![NO_EXPERT; 6], weight_of_pair: vec![0.0; 6], ..masked.clone() };
        let none = Observation::of(&lone(&scores), &lone(&scores), &padding);
        assert_eq!(
            none.losses(&padding, &rule, Dims { tokens: 3, sequence_tokens: 2 }),
            Penalty { balance: Some(0.0), z: Some(0.0) }
        );
    }
}

pub(crate) fn counted() {
    // A bias makes 2 and 1 the picks of the first token, which would pick 0 1 without.
    let lines =
        format!("%k = add %s, @v : ? %q = top_k %s, %k, 2 : ? %o = top_k %s, %s, 2 : ? %p = counted %q, %o : ? {OBSERVE}");
    let s = [4.0, 3.0, 1.0, 1.0, 5.0, 2.0];
    let given: Given = &[("%s", &[2, 3], &s), ("@v", &[3], &[-9.0, 0.0, 3.0])];
    let found = picks(eval(Op::Counted, &lines, given));
    assert_eq!((&found.expert_of_pair[..], &found.counted), (&[2, 1, 1, 2][..], &Some(vec![0, 1, 1, 2])));
    close(&found.weight_of_pair, &[1.0, 3.0, 5.0, 2.0]);
    let p = Tensor::new(vec![2, 3], vec![0.5, 0.5, 0.0, 0.125, 0.625, 0.25]);
    let observed = Observation { probability: p, z: Tensor::new(vec![2], vec![0.0; 2]) };
    let of = |picks: &Picks, balance: Balance| {
        let rule = Losses { balance: Some((balance, 1.0.into())), z: None };
        observed.losses(picks, &rule, Dims { tokens: 2, sequence_tokens: 1 }).balance.expect("a loss")
    };
    // P = 0.625, 1.125, 0.25: counts 1 2 1 without the bias, 0 2 2 with it; of each token alone 3 times what it counts.
    close(&[of(&found, Balance::Load)], &[0.75 * (0.625 + 2.25 + 0.25)]);
    close(&[of(&found, Balance::Sequences)], &[1.5 * (1.0 + 0.875)]);
    close(&[of(&found, Balance::First)], &[0.75 * (0.625 + 1.125)]);
    let biased = Picks { counted: None, ..found };
    close(&[of(&biased, Balance::Load)], &[0.75 * (2.25 + 0.5)]);
}

/// By hand: of 16 experts the picks of token 0 have the probabilities 0.5 and 0.3, those of token 1 0.45 and 0.05 with 0.05
/// of an expert that it does not pick, and both pick experts 0 and 1.
pub(crate) fn best_score() {
    let rest = 0.2 / 14.0;
    let mut scores = [[0.5, 0.3].to_vec(), vec![rest; 14], [0.45, 0.05].to_vec(), vec![0.5 / 14.0; 14]].concat();
    scores[17] = 0.05;
    let of = |weights: &str, rule: &str| {
        let lines = format!(
            "%p = top_k %s, %s, 2 : ? %n = {weights} : ? %b = best_score %n, %s, 2 : ? %r = assign %b, {rule} : ? \
             %y = pair_weights %r : ?"
        );
        routing(eval(Op::Assign, &lines, &[("%s", &[2, 16], &scores)]))
    };
    // By the renormalised weights, 0.625 and 0.9, token 1 would come first.
    for weights in ["renorm %p, sum(add 0.0)", "renorm %p, norm(2.0, add 0.0)", "softmax %p", "scale %p, -1.0"] {
        let routed = of(weights, "capacity(1, all, batch_prioritized)");
        assert_eq!((routed.picks.best_of_token, routed.pair_of_row), (Some(vec![0.5, 0.45]), vec![0, 1]), "{weights}");
    }
    // The weights themselves, as they are when they are assigned: 0.9 of token 1 before 0.625, and 0.375 before 0.1.
    assert_eq!(of("renorm %p, sum(add 0.0)", "capacity(1, all, score)").pair_of_row, [2, 1]);
    assert_eq!(of("scale %p, 2.0", "capacity(1, all, score)").pair_of_row, [0, 1]);
    // The largest of the first picks, which need not be the first, and no expert that is not picked; no number is the least.
    let lines = |n: usize| {
        format!("%p = top_k %k, %k, 2 : ? %b = best_score %p, %s, {n} : ? %r = assign %b, dropless : ? %y = pair_weights %r : ?")
    };
    let given: Given = &[
        ("%k", &[3, 3], &[9.0, 8.0, 0.0, 9.0, 8.0, 0.0, 0.0, 9.0, 8.0]),
        ("%s", &[3, 3], &[1.0, 2.0, 7.0, NAN, -1.0, 7.0, 7.0, NAN, NAN]),
    ];
    let best = |n: usize| picks(eval(Op::BestScore, &lines(n), given)).best_of_token.expect("a best score");
    assert_eq!(best(1), [1.0, -INF, -INF]);
    assert_eq!(best(2), [2.0, -1.0, -INF]);
    // Shared columns are no pick of a token's own.
    let lines = "%l = leading %s, 3 : ? %p = top_k %l, %l, 2 : ? %q = joint %p, %s, 2 : ? %b = best_score %q, %s, 2 : ? \
                 %r = assign %b, capacity(1, all, batch_prioritized) : ? %y = pair_weights %r : ?";
    assert_eq!(routing(eval(Op::Assign, lines, &[JOINT])).picks.best_of_token, Some(vec![3.0, 5.0]));
}
