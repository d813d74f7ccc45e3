/* Formulas. moec has checked that for T up to the most tokens none overflows, is negative or divides by 0. */

/* round(a / b) of numbers that are not negative. */
static int64_t divided(uint32_t kind, int64_t a, int64_t b) {
    if (b == 0) return 0;
    int64_t quotient = a / b, rest = a % b;
    if (kind == OP_FLOOR) return quotient;
    if (kind == OP_CEIL) return quotient + (rest > 0);
    int64_t other = b - rest;
    return quotient + (rest > other || (rest == other && quotient % 2 == 1));
}

static int64_t evaluated(const moec_op *op, const int64_t *v) {
    switch ((moec_op_kind)op->kind) {
    case OP_CONST: return tables.constants[op->a];
    case OP_ADD: return v[op->a] + v[op->b];
    case OP_MUL: return v[op->a] * v[op->b];
    case OP_FLOOR:
    case OP_CEIL:
    case OP_HALF_EVEN: return divided(op->kind, v[op->a], v[op->b]);
    case OP_MIN: return v[op->a] < v[op->b] ? v[op->a] : v[op->b];
    case OP_MAX: return v[op->a] > v[op->b] ? v[op->a] : v[op->b];
    case OP_ALIGN: return (v[op->a] + WORKSPACE_ALIGN - 1) & -(int64_t)WORKSPACE_ALIGN;
    }
    return 0;
}

/* The values of these dims that no regime is needed for. */
static moec_status common_values(int64_t tokens, int64_t sequence_tokens, int64_t *v) {
    if (tokens < 0) return fail(MOEC_E_SHAPE, "%s: T = %" PRId64 " is negative", tables.info->layer, tokens);
    if (tokens > tables.info->max_tokens)
        return fail(MOEC_E_SHAPE, "%s: T = %" PRId64 ", at most %" PRId64 " (raise max in [tokens] of the spec)", tables.info->layer, tokens,
                    tables.info->max_tokens);
    if (sequence_tokens == 0) sequence_tokens = tokens;
    if (sequence_tokens < 0 || (sequence_tokens == 0 ? tokens != 0 : tokens % sequence_tokens != 0))
        return fail(MOEC_E_SHAPE, "%s: S = %" PRId64 " does not divide T = %" PRId64, tables.info->layer, sequence_tokens, tokens);
    v[0] = tokens;
    v[1] = sequence_tokens;
    for (uint32_t i = 0; i < tables.num_ops; i++) v[2 + i] = evaluated(&tables.ops[i], v);
    return MOEC_OK;
}

/* The regime of batches of so many tokens. */
static const moec_regime *regime_at(const moec_target *target, int64_t tokens) {
    const moec_regime *regime = &tables.regimes[target->regimes];
    while (tables.constants[regime->tokens_up_to] < tokens) regime++;
    return regime;
}

/* The regime of the batch, its values evaluated. */
static const moec_regime *regime_of(const moec_target *target, int64_t *v) {
    const moec_regime *regime = regime_at(target, v[0]);
    const moec_op *ops = &tables.ops[regime->ops];
    int64_t *own = v + 2 + tables.num_ops;
    for (uint32_t i = 0; i < regime->num_ops; i++) own[i] = evaluated(&ops[i], v);
    return regime;
}

/* The bytes of workspace that a batch of these dims needs whole; its values are evaluated. */
static int64_t workspace_of(const moec_target *target, int64_t tokens, int64_t sequence_tokens, int64_t *v) {
    common_values(tokens, sequence_tokens, v);
    return v[regime_of(target, v)->workspace];
}

/* S in a part: where tokens do not depend on each other, the part is one sequence. */
static int64_t part_sequence(int64_t tokens, int64_t sequence_tokens) { return tables.cuts == CUT_TOKENS ? tokens : sequence_tokens; }

/* The fewest tokens of a part that others may follow. */
static int64_t part_unit(int64_t tokens, int64_t sequence_tokens) {
    int64_t align = tables.cut_align, unit = tokens;
    if (tables.cuts == CUT_TOKENS) unit = align;
    if (tables.cuts == CUT_SEQUENCES) {
        while (align > 1 && sequence_tokens * align / 2 % tables.cut_align == 0) align /= 2;
        unit = sequence_tokens * align;
    }
    return unit < tokens ? unit : tokens;
}

/* The tokens of the parts that a batch is run in where its workspace may have so many bytes, as in runtime/src/package/parts.rs; 0: the
 * smallest part needs `*needed`. */
static int64_t part_tokens(const moec_target *target, int64_t tokens, int64_t sequence_tokens, int64_t limit, int64_t *v, int64_t *needed) {
    enum { EVEN = 128 };
    if ((*needed = workspace_of(target, tokens, sequence_tokens, v)) <= limit) return tokens;
    int64_t unit = part_unit(tokens, sequence_tokens), units = (tokens + unit - 1) / unit, fits = 0, too_many = units;
    while (fits + 1 < too_many) {
        int64_t middle = fits + (too_many - fits) / 2, of = middle * unit;
        if (workspace_of(target, of, part_sequence(of, sequence_tokens), v) <= limit) fits = middle;
        else too_many = middle;
    }
    if (fits == 0) {
        *needed = workspace_of(target, unit, unit < tokens ? part_sequence(unit, sequence_tokens) : sequence_tokens, v);
        return 0;
    }
    int64_t parts = (units + fits - 1) / fits, even = (units + parts - 1) / parts, step = (EVEN + unit - 1) / unit;
    even = (even + step - 1) / step * step;
    if (even > fits) even = fits;
    return even * unit < tokens ? even * unit : tokens;
}
