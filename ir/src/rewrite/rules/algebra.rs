//! Identities of elementwise arithmetic, true in any tensor program.

use crate::graph::{Attr, Pointwise, Type};
use crate::rewrite::matching::{computed, pattern};

use super::{Rule, is_normal};

pub(super) fn rules() -> Vec<Rule> {
    vec![
        // Less arithmetic; scales of one come from specs that spell every key.
        pattern("drop-scale-by-one", "(scale ?x 1.0)", "?x"),
        pattern("drop-offset-by-zero", "(offset ?x 0.0)", "?x"),
        pattern("drop-repeated-relu", "(relu (relu ?x))", "(relu ?x)"),
        // The activation as one op: its kernel code avoids the second exponential.
        pattern("fold-silu", "(mul ?x (sigmoid ?x))", "(silu ?x)"),
        // A cast to the type at hand: f32 layers round nowhere.
        computed("drop-cast-to-same", "(cast ?x ?d)", |m| match (m.ty("?x"), m.attr("?d")?) {
            (Type::Tensor { dtype, .. }, Attr::DType(to)) if *dtype == to => Some(m.class("?x")),
            (_, _) => None,
        }),
        // One multiplication for two, unless the product leaves the numbers that f32 holds with full precision.
        computed("merge-scales", "(scale (scale ?x ?a) ?b)", |m| {
            let (a, b) = (m.real("?a")?, m.real("?b")?);
            let product = a * b;
            if !is_normal(product) && a != 0.0 && b != 0.0 {
                return None;
            }
            let c = m.constant(Attr::Real(product.into()));
            m.apply(Pointwise::Scale, &[m.class("?x"), c])
        }),
        // One comparison for two.
        computed("merge-upper-bounds", "(at_most (at_most ?x ?a) ?b)", |m| {
            let least = m.real("?a")?.min(m.real("?b")?);
            let c = m.constant(Attr::Real(least.into()));
            m.apply(Pointwise::AtMost, &[m.class("?x"), c])
        }),
        computed("merge-lower-bounds", "(at_least (at_least ?x ?a) ?b)", |m| {
            let greatest = m.real("?a")?.max(m.real("?b")?);
            let c = m.constant(Attr::Real(greatest.into()));
            m.apply(Pointwise::AtLeast, &[m.class("?x"), c])
        }),
    ]
}
