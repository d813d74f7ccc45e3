//! Breaks a kernel's synchronisation, and what it asks for early, one instruction at a time, to measure whether the checks notice.

use std::fmt;

use crate::text::ins::{Access, Atomic, BarrierKind, Ins, Op};
use crate::text::module::{Entry, Module, ParseError, Position};
use crate::text::parse::parse;
use crate::types::{Order, Space};

/// Bytes.
const FAR_AWAY: u64 = 1 << 46;

/// How an instruction was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutation {
    /// The instruction is gone.
    Deleted,
    /// A wait lets one more group stay under way.
    WaitsForLess,
    /// An mbarrier expects one arrival less.
    ExpectsLess,
    /// An mbarrier expects one arrival more.
    ExpectsMore,
    /// An mbarrier waits for fewer bytes.
    ExpectsFewerBytes,
    /// A release or an acquire is only relaxed.
    Relaxed,
    /// An atomic is an ordinary access of no order: its scope is the block only.
    NarrowScope,
    /// A block barrier is one of another number.
    OtherBarrier,
    /// The upper half of the warp is left out of the lanes that meet.
    LeavesOutLanes,
    /// An atomic is a load, an addition and a store.
    NotAtomic,
    /// A prefetch is of what is in no buffer.
    AsksOutside,
}

impl fmt::Display for Mutation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Mutation::Deleted => "deleted",
            Mutation::WaitsForLess => "waits for less",
            Mutation::ExpectsLess => "expects one arrival less",
            Mutation::ExpectsMore => "expects one arrival more",
            Mutation::ExpectsFewerBytes => "expects fewer bytes",
            Mutation::Relaxed => "relaxed",
            Mutation::NarrowScope => "scope narrowed to the block",
            Mutation::OtherBarrier => "uses another barrier",
            Mutation::LeavesOutLanes => "leaves out lanes",
            Mutation::NotAtomic => "not atomic",
            Mutation::AsksOutside => "asks for what is in no buffer",
        })
    }
}

/// A synchronisation instruction of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncPoint {
    /// The kernel.
    pub kernel: String,
    /// Where it is in the text.
    pub at: Position,
    /// The statement as written.
    pub statement: String,
    /// The ways in which it can be broken.
    pub mutations: Vec<Mutation>,
    span: (usize, usize),
    replacements: Vec<String>,
}

/// A text with one synchronisation instruction broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// The kernel that was changed.
    pub kernel: String,
    /// Where.
    pub at: Position,
    /// The statement before.
    pub statement: String,
    /// What was done to it.
    pub mutation: Mutation,
    /// The whole text; lines are where they were.
    pub text: String,
}

impl fmt::Display for Mutant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: `{}` {}", self.kernel, self.at, self.statement, self.mutation)
    }
}

/// The synchronisation instructions of all kernels, in the order of the text.
///
/// # Errors
/// The text does not parse.
pub fn sync_points(text: &str) -> Result<Vec<SyncPoint>, ParseError> {
    let module: Module = parse(text)?;
    let points = module.entries.iter().flat_map(|entry| entry.code.iter().filter_map(|ins| point(text, entry, ins)));
    Ok(points.collect())
}

/// Every way to break one synchronisation instruction of a text. Mutants that no longer parse are left out.
///
/// # Errors
/// The text does not parse.
pub fn mutants(text: &str) -> Result<Vec<Mutant>, ParseError> {
    let mut out = Vec::new();
    for point in sync_points(text)? {
        for (&mutation, replacement) in point.mutations.iter().zip(&point.replacements) {
            let (start, end) = point.span;
            let mut changed = String::with_capacity(text.len() + 8);
            changed.push_str(&text[..start]);
            changed.push_str(replacement);
            // A statement over several lines keeps its line breaks: reports must name the lines of the original.
            let lost = text[start..end].matches('\n').count() - replacement.matches('\n').count();
            changed.extend(std::iter::repeat_n('\n', lost));
            changed.push_str(&text[end..]);
            if parse(&changed).is_ok() {
                let (kernel, statement) = (point.kernel.clone(), point.statement.clone());
                out.push(Mutant { kernel, at: point.at, statement, mutation, text: changed });
            }
        }
    }
    Ok(out)
}

fn point(text: &str, entry: &Entry, ins: &Ins) -> Option<SyncPoint> {
    let statement = &text[ins.span.0..ins.span.1];
    let mut ways: Vec<(Mutation, String)> = Vec::new();
    let deleted = (Mutation::Deleted, String::new());
    match &ins.op {
        Op::Barrier { kind, .. } => {
            if matches!(kind, BarrierKind::Reduce { .. }) {
                return None;
            }
            ways.push(deleted);
            ways.extend(edit_number(statement, |id| (id + 1) & 15).map(|edited| (Mutation::OtherBarrier, edited)));
        }
        Op::WarpSync { .. } => {
            ways.push(deleted);
            ways.extend(fewer_lanes(statement));
        }
        Op::Shuffle { .. } | Op::Vote { .. } | Op::Match { .. } | Op::Redux { .. } => ways.extend(fewer_lanes(statement)),
        Op::Fence { .. }
        | Op::FenceProxyAsync
        | Op::FenceMbarrierInit
        | Op::CopyCommit
        | Op::CopyArrive { .. }
        | Op::BulkCommit
        | Op::WgmmaFence
        | Op::WgmmaCommit
        | Op::ClusterArrive
        | Op::ClusterWait
        | Op::GridDependencyWait
        | Op::MbarrierComplete { .. } => ways.push(deleted),
        Op::CopyWait { left } => {
            ways.push(deleted);
            if left.is_some() {
                ways.extend(edit_number(statement, |left| left.saturating_add(1)).map(|edited| (Mutation::WaitsForLess, edited)));
            }
        }
        Op::BulkWait { .. } | Op::WgmmaWait { .. } => {
            ways.push(deleted);
            ways.extend(edit_number(statement, |left| left.saturating_add(1)).map(|edited| (Mutation::WaitsForLess, edited)));
        }
        Op::MbarrierInit { .. } => {
            ways.push(deleted);
            ways.extend(edit_number(statement, |count| count.saturating_sub(1)).map(|edited| (Mutation::ExpectsLess, edited)));
            ways.extend(edit_number(statement, |count| count.saturating_add(1)).map(|edited| (Mutation::ExpectsMore, edited)));
        }
        Op::MbarrierArrive { .. } | Op::MbarrierExpect { .. } => {
            ways.push(deleted);
            if statement.contains("expect_tx") {
                let fewer = edit_number(statement, |bytes| bytes / 2);
                ways.extend(fewer.map(|edited| (Mutation::ExpectsFewerBytes, edited)));
            }
        }
        Op::MbarrierTest { .. } => {
            // Gone, its predicate would be unwritten: it says yes at once instead.
            let predicate = statement.split_whitespace().nth(1).unwrap_or("").trim_end_matches(',');
            ways.push((Mutation::Deleted, format!("setp.eq.u32 {predicate}, %tid.x, %tid.x;")));
        }
        Op::Load(access) | Op::Store(access) => ways.extend(weaker_access(statement, access)),
        Op::Prefetch { space: Space::Global, .. } => {
            ways.extend(far_away(statement).map(|edited| (Mutation::AsksOutside, edited)))
        }
        Op::Atomic(atomic) => ways.extend(weaker_atomic(statement, atomic)),
        _ => return None,
    }
    if ways.is_empty() {
        return None;
    }
    let (mutations, replacements) = ways.into_iter().unzip();
    let statement = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(SyncPoint { kernel: entry.name.clone(), at: ins.at, statement, mutations, span: ins.span, replacements })
}

fn weaker_access(statement: &str, access: &Access) -> Vec<(Mutation, String)> {
    match access.order {
        Order::Acquire => vec![(Mutation::Relaxed, statement.replacen(".acquire", ".relaxed", 1))],
        Order::Release => vec![(Mutation::Relaxed, statement.replacen(".release", ".relaxed", 1))],
        Order::Weak | Order::Volatile | Order::Relaxed | Order::AcquireRelease | Order::SequentiallyConsistent => Vec::new(),
    }
}

fn weaker_atomic(statement: &str, atomic: &Atomic) -> Vec<(Mutation, String)> {
    let mut ways = Vec::new();
    for order in [".acq_rel", ".acquire", ".release"] {
        if atomic.order != Order::Relaxed && statement.contains(order) {
            ways.push((Mutation::Relaxed, statement.replacen(order, ".relaxed", 1)));
        }
    }
    for scope in [".gpu", ".sys"] {
        if statement.contains(scope) {
            ways.push((Mutation::NarrowScope, statement.replacen(scope, ".cta", 1)));
        }
    }
    ways.extend(not_atomic(statement).map(|edited| (Mutation::NotAtomic, edited)));
    ways
}

/// `atom.add` of 32-bit integers without a guard, as its three parts.
fn not_atomic(statement: &str) -> Option<String> {
    let (opcode, operands) = statement.trim().strip_suffix(';')?.split_once(char::is_whitespace)?;
    let space = opcode.strip_prefix("atom.")?.strip_suffix(".add.u32")?.split('.').next_back()?;
    let [old, address, term]: [&str; 3] = operands.split(',').map(str::trim).collect::<Vec<_>>().try_into().ok()?;
    Some(format!(
        "{{ .reg .b32 %sum; ld.{space}.u32 {old}, {address}; add.u32 %sum, {old}, {term}; st.{space}.u32 {address}, %sum; }}"
    ))
}

/// The address in brackets, moved by more than all buffers together are long.
fn far_away(statement: &str) -> Option<String> {
    let (head, rest) = statement.split_once('[')?;
    let (address, tail) = rest.split_once(']')?;
    let register = address.split('+').next()?;
    Some(format!("{head}[{register}+{FAR_AWAY}]{tail}"))
}

/// A whole warp's mask, halved.
fn fewer_lanes(statement: &str) -> Option<(Mutation, String)> {
    let head = statement.trim_end().strip_suffix(';')?.trim_end().strip_suffix("-1")?;
    Some((Mutation::LeavesOutLanes, format!("{head}65535;")))
}

/// Changes the last whole number of a statement. None if it ends with something else, or would not change.
fn edit_number(statement: &str, edit: impl Fn(u64) -> u64) -> Option<String> {
    let end = statement.rfind(';')?;
    let head = statement[..end].trim_end();
    let start = head.rfind(|c: char| !c.is_ascii_digit())? + 1;
    let before = head[..start].chars().next_back()?;
    if start == head.len() || !matches!(before, ' ' | '\t' | ',' | '\n') {
        return None;
    }
    let number: u64 = head[start..].parse().ok()?;
    let edited = edit(number);
    (edited != number).then(|| format!("{}{edited};", &head[..start]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TEXT: &str = ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{\n\
        .reg .b32 %r<3>;\n\
        bar.sync 0;\n\
        cp.async.wait_group 2;\n\
        fence.acq_rel.gpu;\n\
        mov.u32 %r1, 7;\n\
        ret;\n}\n";

    #[test]
    fn every_synchronisation_is_broken_in_every_way() {
        let found: Vec<String> = mutants(TEXT).unwrap().iter().map(Mutant::to_string).collect();
        let expected = [
            "k 7:1: `bar.sync 0;` deleted",
            "k 7:1: `bar.sync 0;` uses another barrier",
            "k 8:1: `cp.async.wait_group 2;` deleted",
            "k 8:1: `cp.async.wait_group 2;` waits for less",
            "k 9:1: `fence.acq_rel.gpu;` deleted",
        ];
        assert_eq!(found, expected);
        let waits = &mutants(TEXT).unwrap()[3].text;
        assert!(waits.contains("cp.async.wait_group 3;"));
    }

    #[test]
    fn lanes_and_atomics_are_weakened() {
        let text =
            TEXT.replace("mov.u32 %r1, 7;", "shfl.sync.bfly.b32 %r1, %r1, 16, 31, -1;\natom.shared.add.u32 %r1, [%r2], 1;");
        let found: Vec<Mutant> = mutants(&text).unwrap();
        let [.., shuffle, atomic] = &found[..] else { panic!("{found:?}") };
        assert_eq!((shuffle.mutation, atomic.mutation), (Mutation::LeavesOutLanes, Mutation::NotAtomic));
        assert!(shuffle.text.contains("31, 65535;"), "{}", shuffle.text);
        assert!(
            atomic.text.contains("ld.shared.u32 %r1, [%r2]; add.u32 %sum, %r1, 1; st.shared.u32 [%r2], %sum;"),
            "{}",
            atomic.text
        );
    }

    #[test]
    fn prefetches_are_moved() {
        let text =
            TEXT.replace("mov.u32 %r1, 7;", "prefetch.global.L2 [%rd1+8];\nprefetch.global.L2 [%rd1];\nprefetch.L1 [%rd1];");
        let text = text.replace(".reg .b32 %r<3>;", ".reg .b32 %r<3>; .reg .b64 %rd<2>;");
        let found = mutants(&text).unwrap();
        let moved: Vec<&str> = found
            .iter()
            .filter(|mutant| mutant.mutation == Mutation::AsksOutside)
            .map(|mutant| mutant.text.lines().nth(mutant.at.line as usize - 1).unwrap())
            .collect();
        assert_eq!(moved, ["prefetch.global.L2 [%rd1+70368744177664];"; 2]);
    }

    /// Counts at the ends of their range have one neighbour.
    #[test]
    fn counts_do_not_wrap() {
        let barrier =
            |count: u64| format!(".version 8.0\n.target sm_90a\n.entry k()\n{{\nmbarrier.init.shared.b64 [8], {count};\n}}\n");
        let edits = |count| {
            let found = mutants(&barrier(count)).unwrap();
            let counted = found.iter().filter(|mutant| matches!(mutant.mutation, Mutation::ExpectsLess | Mutation::ExpectsMore));
            counted.map(|mutant| mutant.mutation).collect::<Vec<_>>()
        };
        assert_eq!(edits(0), [Mutation::ExpectsMore]);
        assert_eq!(edits(1), [Mutation::ExpectsLess, Mutation::ExpectsMore]);
    }

    #[test]
    fn lines_stay_where_they_are() {
        for mutant in mutants(TEXT).unwrap() {
            assert_eq!(mutant.text.lines().count(), TEXT.lines().count(), "{mutant}");
        }
    }
}
