//! The rules, one family a file. Laws for a rule: both sides compute the same (up to f32 rounding); it never leads to
//! something worse alone; no bare commutativity or associativity; conditions read types and attributes, never names.

mod algebra;
mod fusion;
mod launches;
mod routing;

use egg::Rewrite;

use super::Typing;
use crate::graph::Node;

/// One rule.
pub type Rule = Rewrite<Node, Typing>;

/// Whether f32 holds the number with full precision.
fn is_normal(x: f64) -> bool {
    (x as f32).is_normal()
}

/// All rules.
pub fn rules() -> Vec<Rule> {
    [algebra::rules(), routing::rules(), fusion::rules(), launches::rules()].concat()
}
