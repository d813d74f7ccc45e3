//! One or more cases a rule: lines on which it fires with what they become, and lines on which it must not.

/// The right side of a case on which the rule must not fire.
pub(crate) const UNCHANGED: &str = "unchanged";

/// A rule on some lines of a layer.
pub(crate) struct Case {
    pub(crate) rule: String,
    pub(crate) left: String,
    pub(crate) right: String,
    /// Relative to the largest output.
    pub(crate) tolerance: f64,
}

/// All cases.
pub(crate) fn cases() -> Vec<Case> {
    let lists = [ALGEBRA, ROUTING, FUSION, LAUNCHES].concat();
    let alone = lists.iter().map(|(rule, left, right)| case(rule.to_string(), left.to_string(), right.to_string()));
    alone.chain(sinks()).collect()
}

fn case(rule: String, left: String, right: String) -> Case {
    // A cast of f32 to f32 is one rounding of what the interpreter keeps in f64.
    let tolerance = if left.contains("f32 :") { 1e-6 } else { 1e-9 };
    Case { rule, left, right, tolerance }
}

type Row = (&'static str, &'static str, &'static str);

const ALGEBRA: &[Row] = &[
    ("drop-scale-by-one", "%a = scale %h, 1.0 : ? %y = relu %a : ?", "%y = relu %h : ?"),
    ("drop-scale-by-one", "%a = top_k %h, %h, 2 : ? %picks = scale %a, 1.0 : ?", "%picks = top_k %h, %h, 2 : ?"),
    ("drop-scale-by-one", "%y = scale %h, 1.5 : ?", UNCHANGED),
    ("drop-scale-by-one", "%y = scale %h, -1.0 : ?", UNCHANGED),
    ("drop-offset-by-zero", "%a = offset %h, 0.0 : ? %y = relu %a : ?", "%y = relu %h : ?"),
    ("drop-offset-by-zero", "%y = offset %h, 1e-9 : ?", UNCHANGED),
    ("drop-repeated-relu", "%a = relu %h : ? %y = relu %a : ?", "%y = relu %h : ?"),
    ("fold-silu", "%a = sigmoid %h : ? %y = mul %h, %a : ?", "%y = silu %h : ?"),
    ("fold-silu", "%a = sigmoid %h : ? %y = mul %z, %a : ?", UNCHANGED),
    ("fold-silu", "%a = scale %h, 1.5 : ? %b = sigmoid %a : ? %y = mul %h, %b : ?", UNCHANGED),
    ("drop-cast-to-same", "%a = cast %h, f32 : ? %y = relu %a : ?", "%y = relu %h : ?"),
    ("drop-cast-to-same", "%a = cast %half, bf16 : ? %y = gemm %a, [@w] : ?", "%y = gemm %half, [@w] : ?"),
    (
        "drop-cast-to-same",
        "%a = cast %h, bf16 : ? %b = cast %a, bf16 : ? %y = gemm %b, [@square] : ?",
        "%a = cast %h, bf16 : ? %y = gemm %a, [@square] : ?",
    ),
    ("drop-cast-to-same", "%y = cast %h, bf16 : ?", UNCHANGED),
    ("drop-cast-to-same", "%y = cast %half, f32 : ?", UNCHANGED),
    ("drop-cast-to-same", "%a = cast %h, bf16 : ? %y = cast %a, f16 : ?", UNCHANGED),
    ("merge-scales", "%a = scale %h, 2.0 : ? %y = scale %a, -3.0 : ?", "%y = scale %h, -6.0 : ?"),
    ("merge-scales", "%a = scale %h, -2.0 : ? %y = scale %a, 0.0 : ?", "%y = scale %h, 0.0 : ?"),
    ("merge-scales", "%a = scale %h, 1e30 : ? %y = scale %a, 1e30 : ?", UNCHANGED),
    ("merge-scales", "%a = scale %h, 1e-30 : ? %y = scale %a, 1e-30 : ?", UNCHANGED),
    ("merge-scales", "%a = scale %h, 1e-200 : ? %y = scale %a, 1e-200 : ?", UNCHANGED),
    ("merge-upper-bounds", "%a = at_most %h, 1.5 : ? %y = at_most %a, 0.5 : ?", "%y = at_most %h, 0.5 : ?"),
    ("merge-upper-bounds", "%a = at_most %h, -1.5 : ? %y = at_most %a, 0.5 : ?", "%y = at_most %h, -1.5 : ?"),
    ("merge-upper-bounds", "%a = at_least %h, 1.5 : ? %y = at_most %a, 0.5 : ?", UNCHANGED),
    ("merge-lower-bounds", "%a = at_least %h, 1.5 : ? %y = at_least %a, 0.5 : ?", "%y = at_least %h, 1.5 : ?"),
    ("merge-lower-bounds", "%a = at_most %h, 1.5 : ? %y = at_least %a, 0.5 : ?", UNCHANGED),
];

const ROUTING: &[Row] = &[
    (
        "softmax-after-top-k",
        "%s = softmax %h : ? %t = top_k %s, %s, 3 : ? %picks = renorm %t, sum(add 0.0) : ?",
        "%t = top_k %h, %h, 3 : ? %picks = softmax %t : ?",
    ),
    (
        "softmax-after-top-k",
        "%s = softmax %h : ? %t = top_k %s, %s, 8 : ? %picks = renorm %t, sum(clamp 0.0) : ?",
        "%t = top_k %h, %h, 8 : ? %picks = softmax %t : ?",
    ),
    (
        "softmax-after-top-k",
        "%s = softmax %h : ? %t = top_k %s, %s, 3 : ? %picks = renorm %t, norm(1.0, add 0.0) : ?",
        "%t = top_k %h, %h, 3 : ? %picks = softmax %t : ?",
    ),
    // Another norm.
    ("softmax-after-top-k", "%s = softmax %h : ? %t = top_k %s, %s, 3 : ? %picks = renorm %t, norm(2.0, add 0.0) : ?", UNCHANGED),
    // A guard in the sum.
    ("softmax-after-top-k", "%s = softmax %h : ? %t = top_k %s, %s, 3 : ? %picks = renorm %t, sum(add 1e-20) : ?", UNCHANGED),
    ("softmax-after-top-k", "%s = softmax %h : ? %t = top_k %s, %s, 3 : ? %picks = renorm %t, sum(clamp 1e-9) : ?", UNCHANGED),
    // Keys that are not the scores: a correction bias, groups.
    (
        "softmax-after-top-k",
        "%s = softmax %h : ? %k = add %s, @v : ? %t = top_k %s, %k, 3 : ? %picks = renorm %t, sum(add 0.0) : ?",
        UNCHANGED,
    ),
    (
        "softmax-after-top-k",
        "%s = softmax %h : ? %k = group_limit %s, groups(4, keep 2, max, -inf) : ? %t = top_k %s, %k, 3 : ? \
         %picks = renorm %t, sum(add 0.0) : ?",
        UNCHANGED,
    ),
    // Other scores, other keys, no renormalisation.
    ("softmax-after-top-k", "%s = sigmoid %h : ? %t = top_k %s, %s, 3 : ? %picks = renorm %t, sum(add 0.0) : ?", UNCHANGED),
    (
        "softmax-after-top-k",
        "%s = softmax %h : ? %k = softmax %z : ? %t = top_k %s, %k, 3 : ? %picks = renorm %t, sum(add 0.0) : ?",
        UNCHANGED,
    ),
    ("softmax-after-top-k", "%s = softmax %h : ? %picks = top_k %s, %s, 3 : ?", UNCHANGED),
    (
        "scale-after-top-k",
        "%s = scale %h, 2.5 : ? %picks = top_k %s, %s, 3 : ?",
        "%t = top_k %h, %h, 3 : ? %picks = scale %t, 2.5 : ?",
    ),
    ("scale-after-top-k", "%s = scale %h, -2.5 : ? %picks = top_k %s, %s, 3 : ?", UNCHANGED),
    ("scale-after-top-k", "%s = scale %h, 0.0 : ? %picks = top_k %s, %s, 3 : ?", UNCHANGED),
    ("scale-after-top-k", "%s = scale %h, 1e-300 : ? %picks = top_k %s, %s, 3 : ?", UNCHANGED),
    ("scale-after-top-k", "%s = scale %h, 1e300 : ? %picks = top_k %s, %s, 3 : ?", UNCHANGED),
    ("scale-after-top-k", "%s = scale %h, 2.5 : ? %picks = top_k %s, %h, 3 : ?", UNCHANGED),
    (
        "drop-scale-before-renorm",
        "%t = top_k %h, %h, 3 : ? %s = scale %t, 2.5 : ? %picks = renorm %s, sum(add 0.0) : ?",
        "%t = top_k %h, %h, 3 : ? %picks = renorm %t, sum(add 0.0) : ?",
    ),
    (
        "drop-scale-before-renorm",
        "%t = top_k %h, %h, 3 : ? %s = scale %t, 0.5 : ? %picks = renorm %s, sum(clamp 0.0) : ?",
        "%t = top_k %h, %h, 3 : ? %picks = renorm %t, sum(clamp 0.0) : ?",
    ),
    (
        "drop-scale-before-renorm",
        "%t = top_k %h, %h, 3 : ? %s = scale %t, 0.5 : ? %picks = renorm %s, norm(3.0, add 0.0) : ?",
        "%t = top_k %h, %h, 3 : ? %picks = renorm %t, norm(3.0, add 0.0) : ?",
    ),
    (
        "drop-scale-before-renorm",
        "%t = top_k %h, %h, 3 : ? %s = scale %t, -2.5 : ? %picks = renorm %s, sum(clamp 0.0) : ?",
        UNCHANGED,
    ),
    (
        "drop-scale-before-renorm",
        "%t = top_k %h, %h, 3 : ? %s = scale %t, 0.0 : ? %picks = renorm %s, sum(add 0.0) : ?",
        UNCHANGED,
    ),
    (
        "drop-scale-before-renorm",
        "%t = top_k %h, %h, 3 : ? %s = scale %t, 2.5 : ? %picks = renorm %s, sum(add 1e-9) : ?",
        UNCHANGED,
    ),
    // Other weights, the same order of service: it reads the scores, which stay.
    (
        "drop-scale-before-renorm",
        "%t = top_k %h, %h, 3 : ? %s = scale %t, 2.5 : ? %n = renorm %s, sum(add 0.0) : ? %u = best_score %n, %z, 3 : ? \
         %routing = assign %u, capacity(2, all, batch_prioritized) : ?",
        "%t = top_k %h, %h, 3 : ? %n = renorm %t, sum(add 0.0) : ? %u = best_score %n, %z, 3 : ? \
         %routing = assign %u, capacity(2, all, batch_prioritized) : ?",
    ),
    (
        "drop-renorm-of-softmax",
        "%t = top_k %h, %z, 3 : ? %s = softmax %t : ? %picks = renorm %s, sum(add 0.0) : ?",
        "%t = top_k %h, %z, 3 : ? %picks = softmax %t : ?",
    ),
    ("drop-renorm-of-softmax", "%t = top_k %h, %h, 3 : ? %s = softmax %t : ? %picks = renorm %s, sum(add 0.5) : ?", UNCHANGED),
    (
        "drop-renorm-of-softmax",
        "%t = top_k %h, %h, 3 : ? %s = softmax %t : ? %picks = renorm %s, norm(2.0, add 0.0) : ?",
        UNCHANGED,
    ),
    ("drop-renorm-of-softmax", "%t = top_k %h, %h, 3 : ? %s = sigmoid %t : ? %picks = renorm %s, sum(add 0.0) : ?", UNCHANGED),
    (
        "drop-group-limit-of-all",
        "%k = group_limit %h, groups(4, keep 4, top2_sum, zero) : ? %picks = top_k %h, %k, 3 : ?",
        "%picks = top_k %h, %h, 3 : ?",
    ),
    ("drop-group-limit-of-all", "%k = group_limit %h, groups(4, keep 3, max, -inf) : ? %picks = top_k %h, %k, 3 : ?", UNCHANGED),
    (
        "renorm-before-dropless",
        "%t = top_k %h, %h, 3 : ? %s = softmax %t : ? %a = assign %s, dropless : ? %routing = renorm_kept %a, sum(add 0.5) : ?",
        "%t = top_k %h, %h, 3 : ? %s = softmax %t : ? %n = renorm %s, sum(add 0.5) : ? %routing = assign %n, dropless : ?",
    ),
    (
        "renorm-before-dropless",
        "%t = top_k %h, %h, 3 : ? %a = assign %t, capacity(2, all, token_major) : ? %routing = renorm_kept %a, sum(add 0.5) : ?",
        UNCHANGED,
    ),
    (
        "renorm-before-dropless",
        "%t = top_k %h, %h, 3 : ? %m = mask_tokens %t, %ids : ? %a = assign %m, dropless : ? \
         %routing = renorm_kept %a, sum(add 0.5) : ?",
        UNCHANGED,
    ),
    (
        "expert-scale-before-dropless",
        "%t = top_k %h, %h, 3 : ? %m = mask_tokens %t, %ids : ? %a = assign %m, dropless : ? \
         %routing = expert_scale %a, @v : ?",
        UNCHANGED,
    ),
    (
        "expert-scale-before-dropless",
        "%t = top_k %h, %h, 3 : ? %a = assign %t, dropless : ? %routing = expert_scale %a, @v : ?",
        "%t = top_k %h, %h, 3 : ? %n = expert_scale %t, @v : ? %routing = assign %n, dropless : ?",
    ),
    (
        "expert-scale-before-dropless",
        "%t = top_k %h, %h, 3 : ? %a = assign %t, capacity(2, all, token_major) : ? %routing = expert_scale %a, @v : ?",
        UNCHANGED,
    ),
    (
        "drop-input-of-dropless",
        "%d = dispatch %x, %r : ? %g = combine %d, %r : ? %i = dropped_input %x, %r : ? %a = add %g, %i : ? %y = relu %a : ?",
        "%d = dispatch %x, %r : ? %g = combine %d, %r : ? %y = relu %g : ?",
    ),
    // What an identity gives is no dropped input.
    (
        "drop-input-of-dropless",
        "%q = without_rows %p, 3 : ? %c = assign %q, dropless : ? %d = dispatch %x, %c : ? %g = combine %d, %c : ? \
         %j = identity_input %x, %c : ? %h2 = add %g, %j : ? %i = dropped_input %x, %c : ? %y = add %h2, %i : ?",
        "%q = without_rows %p, 3 : ? %c = assign %q, dropless : ? %d = dispatch %x, %c : ? %g = combine %d, %c : ? \
         %j = identity_input %x, %c : ? %y = add %g, %j : ?",
    ),
    (
        "drop-input-of-dropless",
        "%c = assign %p, capacity(2, all, token_major) : ? %d = dispatch %x, %c : ? %g = combine %d, %c : ? \
         %i = dropped_input %x, %c : ? %y = add %g, %i : ?",
        UNCHANGED,
    ),
    ("dropless-when-roomy", "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(T, all, choice_major) : ?", DROPLESS),
    ("dropless-when-roomy", "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(S, sequence, token_major) : ?", DROPLESS),
    ("dropless-when-roomy", "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(S, sequence, choice_major) : ?", DROPLESS),
    (
        "dropless-when-roomy",
        "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(max(floor((T * 8) / 8), 4), all, token_major) : ?",
        DROPLESS,
    ),
    (
        "dropless-when-roomy",
        "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(min((T + 1), (ceil((T * 9) / 8) * 2)), all, token_major) : ?",
        DROPLESS,
    ),
    (
        "dropless-when-roomy",
        "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(floor((T * 7) / 8), all, token_major) : ?",
        UNCHANGED,
    ),
    (
        "dropless-when-roomy",
        "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(min(T, 4), all, token_major) : ?",
        UNCHANGED,
    ),
    ("dropless-when-roomy", "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(4, 4, score) : ?", DROPLESS),
    (
        "dropless-when-roomy",
        "%t = top_k %h, %h, 3 : ? %u = best_score %t, %z, 3 : ? %routing = assign %u, capacity(T, all, batch_prioritized) : ?",
        "%t = top_k %h, %h, 3 : ? %u = best_score %t, %z, 3 : ? %routing = assign %u, dropless : ?",
    ),
    (
        "drop-best-score-of-dropless",
        "%t = top_k %h, %h, 3 : ? %u = best_score %t, %z, 3 : ? %routing = assign %u, dropless : ?",
        DROPLESS,
    ),
    (
        "drop-best-score-of-dropless",
        "%t = top_k %h, %h, 3 : ? %u = best_score %t, %z, 3 : ? %routing = assign %u, capacity(2, all, batch_prioritized) : ?",
        UNCHANGED,
    ),
    ("dropless-when-roomy", "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(3, 4, token_major) : ?", UNCHANGED),
    ("dropless-when-roomy", "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(T, 4, token_major) : ?", UNCHANGED),
    ("dropless-when-roomy", "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(4, all, token_major) : ?", UNCHANGED),
    ("dropless-when-roomy", "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(S, all, token_major) : ?", UNCHANGED),
    ("dropless-when-roomy", "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(T, sequence, token_major) : ?", UNCHANGED),
    ("dropless-when-roomy", "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity((T * 0), all, token_major) : ?", UNCHANGED),
    // A token may have an expert twice.
    (
        "dropless-when-roomy",
        "%t = hash_picks %h, @table, %ids : ? %routing = assign %t, capacity(T, all, token_major) : ?",
        UNCHANGED,
    ),
    (
        "dropless-when-roomy",
        "%t = top_k %h, %h, 3 : ? %routing = assign %t, capacity(floor((T * 8) / 0), all, token_major) : ?",
        UNCHANGED,
    ),
];

const DROPLESS: &str = "%t = top_k %h, %h, 3 : ? %routing = assign %t, dropless : ?";

const LAUNCHES: &[Row] = &[
    (
        "launch-what-is-combined",
        "%g = grouped_gemm %x, %r, [@gate] : ? %s = gemm %x, [@one] : ? %y = combine %g, %r, [%s] { yield mul $0, $1 } : ?",
        "%g = grouped_gemm %x, %r, [@gate] : ? %s = gemm %x, [@one] : ? %n = launch %g, %s : ? %a = item %n, 0 : ? \
         %b = item %n, 1 : ? %y = combine %a, %r, [%b] { yield mul $0, $1 } : ?",
    ),
    // All that is added: a shared expert and what it is multiplied by.
    (
        "launch-what-is-combined",
        "%d = grouped_gemm %x, %r, [@gate] : ? %g = grouped_gemm %d, %r, [@back] : ? %s = gemm %x, [@w4] : ? %o = gemm %x, [@one] : ? \
         %y = combine %g, %r, [%s, %o] { a = mul $1, $2 yield add $0, a } : ?",
        "%d = grouped_gemm %x, %r, [@gate] : ? %g = grouped_gemm %d, %r, [@back] : ? %s = gemm %x, [@w4] : ? %o = gemm %x, [@one] : ? \
         %n = launch %g, %s, %o : ? %a = item %n, 0 : ? %b = item %n, 1 : ? %c = item %n, 2 : ? \
         %y = combine %a, %r, [%b, %c] { a = mul $1, $2 yield add $0, a } : ?",
    ),
    // No product of the experts, or no dense one.
    (
        "launch-what-is-combined",
        "%d = dispatch %x, %r : ? %s = gemm %x, [@one] : ? %y = combine %d, %r, [%s] { yield mul $0, $1 } : ?",
        UNCHANGED,
    ),
    (
        "launch-what-is-combined",
        "%g = grouped_gemm %x, %r, [@gate] : ? %y = combine %g, %r, [@scalar] { yield mul $0, $1 } : ?",
        UNCHANGED,
    ),
    (
        "launch-what-is-read",
        "%d = grouped_gemm %x, %r, [@gate] : ? %g = grouped_gemm %d, %r, [@back] : ? %s = gemm %x, [@w4] : ? %o = gemm %s, [@w4] : ? \
         %k = launch %g, %o : ? %a = item %k, 0 : ? %b = item %k, 1 : ? %y = combine %a, %r, [%b] { yield add $0, $1 } : ?",
        "%d = grouped_gemm %x, %r, [@gate] : ? %s = gemm %x, [@w4] : ? %n = launch %d, %s : ? %c = item %n, 0 : ? \
         %g = grouped_gemm %c, %r, [@back] : ? %e = item %n, 1 : ? %o = gemm %e, [@w4] : ? \
         %k = launch %g, %o : ? %a = item %k, 0 : ? %b = item %k, 1 : ? %y = combine %a, %r, [%b] { yield add $0, $1 } : ?",
    ),
    // The tokens are there.
    (
        "launch-what-is-read",
        "%d = grouped_gemm %x, %r, [@gate] : ? %g = grouped_gemm %d, %r, [@back] : ? %s = gemm %x, [@w4] : ? \
         %k = launch %g, %s : ? %a = item %k, 0 : ? %b = item %k, 1 : ? %y = combine %a, %r, [%b] { yield add $0, $1 } : ?",
        UNCHANGED,
    ),
];

const FUSION: &[Row] = &[
    (
        "fuse-dispatch-into-gather",
        "%d = dispatch %x, %r : ? %y = grouped_gemm %d, %r, [@gate] : ?",
        "%y = grouped_gemm %x, %r, [@gate] : ?",
    ),
    // Rows of another routing.
    (
        "fuse-dispatch-into-gather",
        "%r2 = assign %p, capacity(1, all, token_major) : ? %d = dispatch %x, %r2 : ? %y = grouped_gemm %d, %r, [@gate] : ?",
        UNCHANGED,
    ),
    (
        "fuse-assign-into-route",
        "%q = gemm %x, [@w] { yield top_k $0, $0, 2 } : ? %routing = assign %q, capacity(2, all, choice_major) : ?",
        "%routing = route %x, [@w], capacity(2, all, choice_major) { yield top_k $0, $0, 2 } : ?",
    ),
    ("fuse-assign-into-route", "%t = top_k %h, %h, 2 : ? %routing = assign %t, dropless : ?", UNCHANGED),
    (
        "sink-top-k-into-gemm",
        "%s = gemm %x, [@w] : ? %k = gemm %x, [@w], [@v] { yield add $0, $1 } : ? %picks = top_k %s, %k, 2 : ?",
        "%picks = gemm %x, [@w], [@v] { a = add $0, $1 yield top_k $0, a, 2 } : ?",
    ),
    (
        "sink-top-k-into-gemm",
        "%s = gemm %x, [@w], [@v] { yield add $0, $1 } : ? %k = gemm %x, [@w2], [%h, @v] { a = add $0, $2 yield mul a, $1 } : ? \
         %picks = top_k %s, %k, 2 : ?",
        "%picks = gemm %x, [@w, @w2], [@v, %h] { a = add $0, $2 b = add $1, $2 c = mul b, $3 yield top_k a, c, 2 } : ?",
    ),
    ("sink-top-k-into-gemm", "%s = gemm %x, [@w] : ? %k = gemm %half, [@w] : ? %picks = top_k %s, %k, 2 : ?", UNCHANGED),
    ("sink-top-k-into-gemm", "%s = gemm %x, [@w] : ? %picks = top_k %s, %h, 2 : ?", UNCHANGED),
    (
        "fuse-gate-up",
        "%g = grouped_gemm %x, %r, [@gate] { yield silu $0 } : ? %u = grouped_gemm %x, %r, [@up] : ? %y = mul %g, %u : ?",
        "%y = grouped_gemm %x, %r, [@gate, @up] { a = silu $0 yield mul a, $1 } : ?",
    ),
    (
        "fuse-gate-up",
        "%e = expert_rows @b, %r : ? %g = grouped_gemm %x, %r, [@gate], [%e] { yield mul $0, $1 } : ? \
         %u = grouped_gemm %x, %r, [@gate], [%e] { yield add $0, $1 } : ? %y = mul %g, %u : ?",
        "%e = expert_rows @b, %r : ? %y = grouped_gemm %x, %r, [@gate], [%e] { a = mul $0, $1 b = add $0, $1 yield mul a, b } : ?",
    ),
    (
        "fuse-gate-up",
        "%g = grouped_gemm %x, %r, [@gate] : ? %u = grouped_gemm %half, %r, [@up] : ? %y = mul %g, %u : ?",
        UNCHANGED,
    ),
    // One column broadcasts in `mul`, but not beside another product.
    (
        "fuse-gate-up",
        "%g = grouped_gemm %x, %r, [@gate] : ? %u = grouped_gemm %x, %r, [@thin] : ? %y = mul %g, %u : ?",
        UNCHANGED,
    ),
    ("fuse-gate-up", "%g = grouped_gemm %x, %r, [@gate] : ? %u = grouped_gemm %x, %r, [@up] : ? %y = add %g, %u : ?", UNCHANGED),
    (
        "fuse-dense-gate-up",
        "%g = gemm %x, [@w] { yield silu $0 } : ? %u = gemm %x, [@w2] : ? %y = mul %g, %u : ?",
        "%y = gemm %x, [@w, @w2] { a = silu $0 yield mul a, $1 } : ?",
    ),
    // More weights on either side: holes are renumbered.
    (
        "fuse-dense-gate-up",
        "%g = gemm %x, [@w, @w2], [@v] { a = add $0, $2 yield mul a, $1 } : ? %u = gemm %x, [@w2], [@v] { yield add $0, $1 } : ? \
         %y = mul %g, %u : ?",
        "%y = gemm %x, [@w, @w2], [@v] { a = add $0, $2 b = mul a, $1 c = add $1, $2 yield mul b, c } : ?",
    ),
    (
        "fuse-dense-gate-up",
        "%g = gemm %x, [@w], [@v] { yield add $0, $1 } : ? %u = gemm %x, [@w2, @w] { yield add $0, $1 } : ? %y = mul %g, %u : ?",
        "%y = gemm %x, [@w, @w2], [@v] { a = add $0, $2 b = add $1, $0 yield mul a, b } : ?",
    ),
    ("fuse-dense-gate-up", "%g = gemm %x, [@w] : ? %u = gemm %x, [@one] : ? %y = mul %g, %u : ?", UNCHANGED),
    ("fuse-dense-gate-up", "%g = gemm %x, [@w] : ? %u = gemm %half, [@w2] : ? %y = mul %g, %u : ?", UNCHANGED),
    // Picks and whole rows.
    (
        "sink-softmax-into-gemm",
        "%q = gemm %x, [@w] { yield top_k $0, $0, 3 } : ? %picks = softmax %q : ?",
        "%picks = gemm %x, [@w] { a = top_k $0, $0, 3 yield softmax a } : ?",
    ),
    ("sink-softmax-into-gemm", "%g = grouped_gemm %x, %r, [@gate] : ? %y = softmax %g : ?", UNCHANGED),
    (
        "sink-renorm-into-gemm",
        "%q = gemm %x, [@w] { yield top_k $0, $0, 3 } : ? %picks = renorm %q, sum(clamp 1e-9) : ?",
        "%picks = gemm %x, [@w] { a = top_k $0, $0, 3 yield renorm a, sum(clamp 1e-9) } : ?",
    ),
    (
        "sink-all-experts-into-gemm",
        "%g = gemm %x, [@w] { yield softmax $0 } : ? %picks = all_experts %g : ?",
        "%picks = gemm %x, [@w] { a = softmax $0 yield all_experts a } : ?",
    ),
    ("sink-all-experts-into-gemm", "%picks = all_experts %h : ?", UNCHANGED),
    (
        "sink-sparse-mixer-into-gemm",
        "%g = gemm %x, [@w] : ? %picks = sparse_mixer %g, 0.25, 3 : ?",
        "%picks = gemm %x, [@w] { yield sparse_mixer $0, 0.25, 3 } : ?",
    ),
    (
        "sink-expert-scale-with-operand-into-gemm",
        "%q = gemm %x, [@w] { yield top_k $0, $0, 3 } : ? %picks = expert_scale %q, @v : ?",
        "%picks = gemm %x, [@w], [@v] { a = top_k $0, $0, 3 yield expert_scale a, $1 } : ?",
    ),
    // What the mask says of a token is read beside its picks.
    (
        "sink-mask-tokens-with-operand-into-gemm",
        "%q = gemm %x, [@w], [@v] { a = add $0, $1 yield top_k a, a, 3 } : ? %picks = mask_tokens %q, %ids : ?",
        "%picks = gemm %x, [@w], [@v, %ids] { a = add $0, $1 b = top_k a, a, 3 yield mask_tokens b, $2 } : ?",
    ),
    // Three bodies over one product; holes are renumbered.
    (
        "sink-observe-into-gemm",
        "%g = gemm %x, [@w] { yield scale $0, 2.0 } : ? %s = gemm %x, [@w], [@v] { yield add $0, $1 } : ? \
         %q = gemm %x, [@w] { yield top_k $0, $0, 3 } : ? %picks = observe %g, %s, %q, span(all) : ?",
        "%picks = gemm %x, [@w], [@v] { a = scale $0, 2.0 b = add $0, $1 c = top_k $0, $0, 3 yield observe a, b, c, span(all) } : ?",
    ),
    (
        "sink-observe-into-gemm",
        "%q = gemm %x, [@w] { yield top_k $0, $0, 3 } : ? %picks = observe %h, %h, %q, span(all) : ?",
        UNCHANGED,
    ),
    // Logits of other rows.
    (
        "sink-observe-into-gemm",
        "%g = gemm %half, [@w] : ? %q = gemm %x, [@w] { yield top_k $0, $0, 3 } : ? %picks = observe %g, %g, %q, span(all) : ?",
        UNCHANGED,
    ),
    (
        "sink-counted-into-gemm",
        "%q = gemm %x, [@w], [@v] { a = add $0, $1 yield top_k $0, a, 3 } : ? %o = gemm %x, [@w] { yield top_k $0, $0, 3 } : ? \
         %picks = counted %q, %o : ?",
        "%picks = gemm %x, [@w], [@v] { a = add $0, $1 b = top_k $0, a, 3 c = top_k $0, $0, 3 yield counted b, c } : ?",
    ),
    (
        "sink-counted-into-gemm",
        "%q = gemm %x, [@w] { yield top_k $0, $0, 2 } : ? %o = top_k %h, %h, 2 : ? %picks = counted %q, %o : ?",
        UNCHANGED,
    ),
    (
        "sink-best-score-into-gemm",
        "%q = gemm %x, [@w] { yield top_k $0, $0, 3 } : ? %g = gemm %x, [@w] { yield softmax $0 } : ? \
         %b = best_score %q, %g, 2 : ? %routing = assign %b, capacity(2, all, batch_prioritized) : ?",
        "%b = gemm %x, [@w] { a = top_k $0, $0, 3 b = softmax $0 yield best_score a, b, 2 } : ? \
         %routing = assign %b, capacity(2, all, batch_prioritized) : ?",
    ),
    // Scores of other rows.
    (
        "sink-best-score-into-gemm",
        "%q = gemm %x, [@w] { yield top_k $0, $0, 3 } : ? %picks = best_score %q, %h, 2 : ?",
        UNCHANGED,
    ),
    (
        "sink-hash-picks-with-operands-into-gemm",
        "%g = gemm %x, [@w], [@v] { yield add $0, $1 } : ? %picks = hash_picks %g, @table, %ids : ?",
        "%picks = gemm %x, [@w], [@v, @table, %ids] { a = add $0, $1 yield hash_picks a, $2, $3 } : ?",
    ),
    (
        "sink-leading-into-gemm",
        "%g = gemm %x, [@w] : ? %s = leading %g, 4 : ? %picks = top_k %s, %s, 2 : ?",
        "%s = gemm %x, [@w] { yield leading $0, 4 } : ? %picks = top_k %s, %s, 2 : ?",
    ),
    (
        "sink-joint-into-gemm",
        "%p2 = gemm %x, [@w] { a = leading $0, 6 yield top_k a, a, 3 } : ? %g = gemm %x, [@w] { yield sigmoid $0 } : ? \
         %picks = joint %p2, %g, 2 : ?",
        "%picks = gemm %x, [@w] { a = leading $0, 6 b = top_k a, a, 3 c = sigmoid $0 yield joint b, c, 2 } : ?",
    ),
    (
        "sink-joint-into-gemm",
        "%p2 = gemm %x, [@w] { a = leading $0, 6 yield top_k a, a, 3 } : ? %picks = joint %p2, %h, 2 : ?",
        UNCHANGED,
    ),
    (
        "sink-mul-with-operand-into-gemm",
        "%g = gemm %x, [@w] : ? %q = pick_weights %r, 0 : ? %y = mul %g, %q : ?",
        "%q = pick_weights %r, 0 : ? %y = gemm %x, [@w], [%q] { yield mul $0, $1 } : ?",
    ),
    // Half as many columns broadcast in `mul`, but not beside another product.
    ("fuse-dense-gate-up", "%g = gemm %x, [@w] : ? %u = gemm %x, [@w4] : ? %y = mul %g, %u : ?", UNCHANGED),
    (
        "sink-without-rows-into-gemm",
        "%q = gemm %x, [@w] { yield top_k $0, $0, 3 } : ? %picks = without_rows %q, 2 : ?",
        "%picks = gemm %x, [@w] { a = top_k $0, $0, 3 yield without_rows a, 2 } : ?",
    ),
    (
        "sink-group-limit-into-gemm",
        "%g = gemm %x, [@w] : ? %y = group_limit %g, groups(4, keep 2, top2_sum, zero) : ?",
        "%y = gemm %x, [@w] { yield group_limit $0, groups(4, keep 2, top2_sum, zero) } : ?",
    ),
    // Rows of other products are not read beside a product.
    (
        "sink-add-with-operand-into-grouped-gemm",
        "%g = grouped_gemm %x, %r, [@gate] : ? %u = grouped_gemm %x, %r, [@up] : ? %y = add %g, %u : ?",
        UNCHANGED,
    ),
    (
        "sink-mul-with-operand-into-grouped-gemm",
        "%g = grouped_gemm %x, %r, [@gate] : ? %u = grouped_gemm %x, %r, [@thin] : ? %y = mul %g, %u : ?",
        UNCHANGED,
    ),
    (
        "sink-mul-with-operand-into-grouped-gemm",
        "%g = grouped_gemm %x, %r, [@gate] : ? %q = pair_weights %r : ? %y = mul %g, %q : ?",
        "%q = pair_weights %r : ? %y = grouped_gemm %x, %r, [@gate], [%q] { yield mul $0, $1 } : ?",
    ),
    // Rows of slots are not read beside a mixture, not even a view of them.
    (
        "sink-add-with-operand-into-soft-dispatch",
        "%s = slots 8, 1 : ? %d = soft_dispatch %x, %h, %s : ? %e = expert_rows @b4, %s : ? %y = add %d, %e : ?",
        UNCHANGED,
    ),
    (
        "sink-mul-with-operand-into-soft-dispatch",
        "%s = slots 8, 1 : ? %d = soft_dispatch %x, %h, %s : ? %e = soft_dispatch %half, %h, %s : ? %y = mul %d, %e : ?",
        UNCHANGED,
    ),
    // One number.
    (
        "sink-mul-with-operand-into-gemm",
        "%g = gemm %x, [@w] : ? %y = mul %g, @scalar : ?",
        "%y = gemm %x, [@w], [@scalar] { yield mul $0, $1 } : ?",
    ),
    // An operand that is there already.
    (
        "sink-add-with-operand-into-gemm",
        "%g = gemm %x, [@w], [@v] { yield mul $0, $1 } : ? %y = add %g, @v : ?",
        "%y = gemm %x, [@w], [@v] { a = mul $0, $1 yield add a, $1 } : ?",
    ),
    (
        "sink-mul-with-operand-into-gemm",
        "%g = gemm %x, [@w] : ? %c = gemm %x, [@one] : ? %y = mul %g, %c : ?",
        "%c = gemm %x, [@one] : ? %y = gemm %x, [@w], [%c] { yield mul $0, $1 } : ?",
    ),
];

/// `%g` by a fused op with an operand list to fill in, what must stand before it, and what may be read beside it.
const PRODUCERS: [(&str, &str, &str, &str, &str); 6] = [
    ("gemm", "gemm %x, [@w]", "", "", "@v"),
    ("grouped-gemm", "grouped_gemm %x, %r, [@gate]", "", "%e = expert_rows @b, %r : ?", "%e"),
    ("combine", "combine %d, %r", "%d = dispatch %x, %r : ?", "", "%half"),
    ("soft-dispatch", "soft_dispatch %x, %h, %s", "%s = slots 4, 2 : ?", "", "@four"),
    ("soft-combine", "soft_combine %d, %h, %s", "%s = slots 4, 2 : ? %d = soft_dispatch %x, %h, %s : ?", "", "%half"),
    ("rms-norm", "rms_norm %x, 0.125", "", "", "%half"),
];

/// Each op that any fused op takes in, beside what its body does already.
fn sinks() -> Vec<Case> {
    let unary = ["silu", "gelu", "gelu_tanh", "relu", "square", "sigmoid", "tanh", "sqrt_softplus"].map(|op| (op, ""));
    let constants = [("scale", ", -2.0"), ("offset", ", 0.25"), ("at_most", ", 0.5"), ("at_least", ", -0.5"), ("cast", ", bf16")];
    let mut cases = Vec::new();
    for (into, producer, before, view, operand) in PRODUCERS {
        for (op, constant) in unary.into_iter().chain(constants) {
            cases.push(case(
                format!("sink-{}-into-{into}", op.replace('_', "-")),
                format!("{before} %g = {producer} {{ yield offset $0, 0.5 }} : ? %y = {op} %g{constant} : ?"),
                format!("{before} %y = {producer} {{ a = offset $0, 0.5 yield {op} a{constant} }} : ?"),
            ));
        }
        // Of products alone factors are rounded.
        if ["gemm", "grouped-gemm"].contains(&into) {
            cases.push(case(
                format!("sink-tf32-into-{into}"),
                format!("{before} %g = {producer} : ? %y = tf32 %g : ?"),
                format!("{before} %y = {producer} {{ yield tf32 $0 }} : ?"),
            ));
        }
        for op in ["add", "mul"] {
            cases.push(case(
                format!("sink-{op}-with-operand-into-{into}"),
                format!("{before} {view} %g = {producer} {{ yield offset $0, 0.5 }} : ? %y = {op} %g, {operand} : ?"),
                format!("{before} {view} %y = {producer}, [{operand}] {{ a = offset $0, 0.5 yield {op} a, $1 }} : ?"),
            ));
        }
        // Rows that are the tokens'; what is no such product is masked by itself.
        if !["grouped-gemm", "soft-dispatch"].contains(&into) {
            let rule = format!("sink-mask-tokens-with-operand-into-{into}");
            cases.push(case(
                rule.clone(),
                format!("{before} %g = {producer} {{ yield offset $0, 0.5 }} : ? %y = mask_tokens %g, %ids : ?"),
                format!("{before} %y = {producer}, [%ids] {{ a = offset $0, 0.5 yield mask_tokens a, $1 }} : ?"),
            ));
            cases.push(case(rule, "%y = mask_tokens %half, %ids : ?".to_string(), UNCHANGED.to_string()));
        }
    }
    cases
}
