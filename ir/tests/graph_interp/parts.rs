//! What is read of a routing beside its pairs, and what becomes of a bias.

use super::*;

pub(crate) fn observe() {
    let lines = format!("%q = top_k %s, %s, 2 : ? %p = observe %l, %s, %q, span(all) : ? {OBSERVE}");
    let (l, s) = ([0.5f64, -1.0, 2.0], [0.1, 0.9, 0.6]);
    let given: Given = &[("%l", &[1, 3], &l), ("%s", &[1, 3], &s)];
    let observed = picks(eval(Op::Observe, &lines, given));
    assert_eq!(Picks { observed: None, ..observed.clone() }, picks(eval(Op::TopK, &lines, given)));
    let of = |l: &[f64], s: &[f64]| {
        let row = |x: &[f64]| Tensor::new(vec![x.len() / 3, 3], x.to_vec());
        let expert_of_pair = vec![0; l.len() / 3];
        let (weight_of_pair, best_of_token, counted) = (vec![], None, None);
        let picks =
            Picks { top_k: 1, experts: 3, rowless: 0, expert_of_pair, weight_of_pair, best_of_token, counted, observed: None };
        Observation::of(&row(l), &row(s), &picks)
    };
    let observation = of(&l, &s);
    assert_eq!(observed.observed.as_ref(), Some(&observation));
    close(&observation.probability.data, &[0.0625, 0.5625, 0.375]);
    close(&observation.z.data, &[(0.5f64.exp() + (-1f64).exp() + 2f64.exp()).ln().powi(2)]);
    // What is no number is the least; of two infinite scores each has half; a row of nothing is even; and an infinite
    // logit, or none that is finite, is no part of the loss.
    let logits = [NAN, 1.0, 1.0, INF, 0.0, -INF, NAN, NAN, NAN, 1e18, 0.0, 0.0];
    let scores = [NAN, 1.0, 3.0, INF, INF, 1.0, NAN, -1.0, 0.0, -0.5, 2.0, 0.0];
    let observation = of(&logits, &scores);
    assert_eq!((&observation.probability.shape[..], &observation.z.shape[..]), (&[4, 3][..], &[4][..]));
    let third = 1.0 / 3.0;
    close(&observation.probability.data, &[0.0, 0.25, 0.75, 0.5, 0.5, 0.0, third, third, third, 0.0, 1.0, 0.0]);
    close(&observation.z.data, &[(1.0 + 2f64.ln()).powi(2), 0.0, 0.0, 1e36]);
    assert_eq!(of(&[], &[]), Observation { probability: Tensor::new(vec![0, 3], vec![]), z: Tensor::new(vec![0], vec![]) });
}

pub(crate) fn losses() {
    let lines = "%q = top_k %s, %s, 2 : ? %p = observe %s, %s, %q, span(all) : ? %r = assign %p, dropless : ? \
                 %l = losses %r, training(load 0.5, z 1.0) : ? %y = item %l, 1 : ?";
    let s = [4.0, 3.0, 0.0, 1.0, 5.0, 0.0, 2.0, 0.0, 1.0, 3.0, 2.0, 0.0];
    let given: Given = &[("%s", &[4, 3], &s)];
    let routed = routing(eval(Op::Assign, lines, given));
    let Value::List(given_losses) = eval(Op::Losses, lines, given) else { panic!("not a list") };
    let given_losses: Vec<Tensor> = given_losses.into_iter().map(tensor).collect();
    assert_eq!(eval(Op::Item, lines, given), Value::Tensor(given_losses[1].clone()));
    // Scores over their sums 7, 6, 3 and 5.
    let of_expert = [4.0 / 7.0 + 1.0 / 6.0 + 2.0 / 3.0 + 0.6, 3.0 / 7.0 + 5.0 / 6.0 + 0.4, 1.0 / 3.0];
    close(&given_losses[0].data, &of_expert);
    close(&given_losses[1].data, &[0.5 * 3.0 / 16.0 * (4.0 * of_expert[0] + 3.0 * of_expert[1] + of_expert[2])]);
    let z = s.chunks(3).map(|row| row.iter().map(|x: &f64| x.exp()).sum::<f64>().ln().powi(2)).sum::<f64>() / 4.0;
    close(&given_losses[2].data, &[z]);
    // Picks 0 1, 1 0, 0 2, 0 1; probabilities of halves and quarters.
    let p = [0.5, 0.5, 0.0, 0.25, 0.5, 0.25, 0.5, 0.0, 0.5, 0.75, 0.25, 0.0];
    let tensor = |shape: &[usize], data: &[f64]| Tensor::new(shape.to_vec(), data.to_vec());
    let observed = Observation { probability: tensor(&[4, 3], &p), z: tensor(&[4], &[1.0, 2.0, 3.0, 6.0]) };
    let of = |balance: Option<Balance>, z: Option<f64>| {
        let rule = Losses { balance: balance.map(|balance| (balance, 2.0.into())), z: z.map(Into::into) };
        observed.losses(&routed.picks, &rule, Dims { tokens: 4, sequence_tokens: 2 })
    };
    // P = 2, 1.25, 0.75; counts 4 3 1, first 3 1 0; E / T^2 = 3 / 16, in sequences of two 3 / 4.
    assert_eq!(of(Some(Balance::Load), None), Penalty { balance: Some(2.0 * 3.0 / 16.0 * (8.0 + 3.75 + 0.75)), z: None });
    assert_eq!(of(Some(Balance::First), Some(0.5)), Penalty { balance: Some(2.0 * 3.0 / 16.0 * 7.25), z: Some(1.5) });
    // Of the first sequence P = 0.75 1 0.25 and counts 2 2 0, of the second 1.25 0.25 0.5 and 2 1 1.
    assert_eq!(of(Some(Balance::Sequences), None).balance, Some(2.0 * 0.75 * (3.5 + 3.25) / 2.0));
    // First picks 1 1 0 and 2 0 0.
    assert_eq!(of(Some(Balance::SequencesFirst), None).balance, Some(2.0 * 0.75 * (1.75 + 2.5) / 2.0));
    let variance = (0.6666666666666667f64.powi(2) + (0.25f64 - 1.0 / 3.0).powi(2) + (0.75f64 - 4.0 / 3.0).powi(2)) / 3.0;
    close(&[of(Some(Balance::Importance), None).balance.expect("a loss")], &[2.0 * variance / (16.0 / 9.0)]);
    let empty = Picks { expert_of_pair: vec![], weight_of_pair: vec![], ..routed.picks.clone() };
    let none = Observation::of(&tensor(&[0, 3], &[]), &tensor(&[0, 3], &[]), &empty);
    for balance in [Balance::Load, Balance::First, Balance::Sequences, Balance::SequencesFirst, Balance::Importance] {
        let rule = Losses { balance: Some((balance, 1.0.into())), z: Some(1.0.into()) };
        let dims = Dims { tokens: 0, sequence_tokens: 0 };
        assert_eq!(none.losses(&empty, &rule, dims), Penalty { balance: Some(0.0), z: Some(0.0) });
    }
}

/// Three tokens of three experts, of which the first has room for one; the last token is padding.
pub(crate) fn part() {
    let lines = |what: &str| {
        format!(
            "%q = top_k %s, %s, 2 : ? %m = mask_tokens %q, %mask : ? %c = observe %s, %s, %m, span(all) : ? \
             %r = assign %c, capacity(1, all, token_major) : ? %y = part %r, {what} : ?"
        )
    };
    let s = [4.0, 3.0, 1.0, 2.0, 0.0, 6.0, 1.0, 1.0, 1.0];
    let given: Given = &[("%s", &[3, 3], &s), ("%mask", &[3], &[1.0, 1.0, 0.0])];
    let of = |what: &str| tensor(eval(Op::Part, &lines(what), given));
    assert_eq!(of("experts"), Tensor::new(vec![3, 2], vec![0.0, 1.0, 2.0, 0.0, -1.0, -1.0]));
    assert_eq!(of("rows"), Tensor::new(vec![3, 2], vec![0.0, 1.0, 2.0, -1.0, -1.0, -1.0]));
    assert_eq!(of("load"), Tensor::new(vec![3], vec![2.0, 1.0, 1.0]));
    assert_eq!(of("kept"), Tensor::new(vec![3], vec![1.0, 1.0, 1.0]));
    assert_eq!(of("tokens"), Tensor::new(vec![1], vec![2.0]));
    close(&of("probability").data, &[0.5 + 0.25, 0.375, 0.125 + 0.75]);
    let z = |row: &[f64]| row.iter().map(|x| x.exp()).sum::<f64>().ln().powi(2);
    close(&of("z").data, &[z(&s[..3]) + z(&s[3..6])]);
    let counted = "%q = top_k %s, %s, 1 : ? %o = scale %s, -1.0 : ? %p = top_k %o, %o, 1 : ? %c = counted %q, %p : ? \
                   %r = assign %c, dropless : ? %y = part %r, counted : ?";
    assert_eq!(tensor(eval(Op::Part, counted, given)), Tensor::new(vec![3, 1], vec![2.0, 1.0, 0.0]));
    let bare = "%q = top_k %s, %s, 1 : ? %r = assign %q, dropless : ? %y = part %r, z : ?";
    let dims = Dims { tokens: 3, sequence_tokens: 3 };
    assert!(try_eval(Op::Part, bare, given, dims).is_err_and(|why| why.contains("not observed")));
}

pub(crate) fn bias_update() {
    let lines = "%q = top_k %s, %s, 2 : ? %r = assign %q, dropless : ? %y = bias_update @b, %r, 0.125 : ?";
    // Loads 3, 2, 1 of three experts: above the mean of 2 down, below it up.
    let s = [4.0, 3.0, 0.0, 3.0, 2.0, 0.0, 3.0, 0.0, 2.0];
    let given: Given = &[("%s", &[3, 3], &s), ("@b", &[3], &[0.5, -1.0, 0.25])];
    assert_eq!(tensor(eval(Op::BiasUpdate, lines, given)).data, [0.375, -1.0, 0.375]);
}
