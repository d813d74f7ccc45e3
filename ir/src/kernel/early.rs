//! Which memory others may change while a kernel runs: launches before it, until it waits for them, and its own threads, which
//! hand values to each other.

use std::collections::BTreeSet;

use super::stmt::Reach;
use super::verify::writes;
use super::{Arg, Kernel, Launch, Program, Role, Scope, Stmt, Wait};

impl Kernel {
    /// The statements in front of the wait for the launches before it; none: it does not wait for them.
    pub fn before_launches(&self) -> Option<&[Stmt]> {
        let waits = self.body.iter().position(|stmt| *stmt == Stmt::Wait(Wait::Launches))?;
        self.body.get(..waits)
    }

    /// The parameters whose memory is read or written before that wait, by position.
    pub fn reached_early(&self) -> BTreeSet<u32> {
        reached(self.before_launches().unwrap_or_default()).into_iter().map(|(param, _)| param).collect()
    }

    /// Whether a thread may take it that nothing but itself changes a parameter's memory while the kernel runs. Launches before
    /// it may do so until it has waited for them, but for what is given to all launches. Other threads may where the kernel both
    /// writes and reads it, where it adds to it, which is both, and where threads meet between two stores, of which the second must
    /// stay the last one.
    fn has_alone(&self, param: u32, given: bool) -> bool {
        let settled = given || self.before_launches().is_none();
        let written = self.params.get(param as usize).is_some_and(|param| param.kind.is_written());
        let others = self.threads > 1 || self.cluster > 1;
        let reaches = reached(&self.body);
        let read = [Reach::Read, Reach::Add].iter().any(|reach| reaches.contains(&(param, *reach)));
        settled && !(others && written && (read || stored_again(&self.body, param)))
    }
}

impl Program {
    /// Of each parameter of a kernel, whether a thread may take it that nothing but itself changes its memory while the kernel runs.
    pub fn alone(&self, kernel: usize) -> Vec<bool> {
        let Some(of) = self.kernels.get(kernel) else { return Vec::new() };
        let lists = || self.lists().flat_map(|list| list.iter().map(move |launch| (list, launch)));
        let given = |param: usize| {
            let mut of_kernel = lists().filter(|(_, launch)| launch.kernel == kernel);
            of_kernel.all(|(list, launch)| launch.args.get(param).is_some_and(|arg| self.is_given(list, arg)))
        };
        (0..of.params.len()).map(|i| of.has_alone(i as u32, given(i))).collect()
    }

    /// Whether the buffer of an argument is there before the launches of a list, none of which writes it.
    pub(super) fn is_given(&self, list: &[Launch], arg: &Arg) -> bool {
        let Some((index, buffer)) = arg.buffer().and_then(|index| Some((index, self.buffers.get(index)?))) else { return false };
        let is_before = match buffer.role {
            Role::Input | Role::Weight | Role::Prepared => true,
            Role::Output | Role::Workspace => false,
        };
        is_before && !list.iter().any(|launch| writes(self, launch, index))
    }

    /// The launches that follow each other: of the preparation, of each regime, of the update.
    fn lists(&self) -> impl Iterator<Item = &Vec<Launch>> {
        let regimes = self.regimes.iter().map(|regime| &regime.launches);
        [&self.prepare, &self.update].into_iter().chain(regimes)
    }
}

/// The parameters whose memory statements reach, by position, and how.
fn reached(block: &[Stmt]) -> BTreeSet<(u32, Reach)> {
    let inner = |stmt: &Stmt| stmt.blocks().flat_map(|block| reached(block)).collect::<BTreeSet<_>>();
    block.iter().flat_map(|stmt| stmt.reaches().into_iter().chain(inner(stmt))).collect()
}

/// Whether some threads may store to a parameter's memory what others stored to before, with a place between where they met.
fn stored_again(body: &[Stmt], param: u32) -> bool {
    // Others may come to such a place by another way: to these each store before it is before each one behind it.
    let some = |stmt: &Stmt| stmt.is_meeting() && !matches!(stmt, Stmt::Barrier(Scope::Warp | Scope::Block | Scope::Cluster));
    let by_ways = order(body, param, &some);
    order(body, param, &Stmt::is_meeting).stores_around || by_ways.stores_then_meets && by_ways.meets_then_stores
}

/// Which of the stores to a parameter's memory and of the places where threads meet come behind one another.
#[derive(Clone, Copy, Default)]
struct Order {
    stores: bool,
    meets: bool,
    stores_then_meets: bool,
    meets_then_stores: bool,
    /// A store, a place where threads meet, and a store.
    stores_around: bool,
}

impl Order {
    fn then(self, next: Order) -> Order {
        let both = Order {
            stores_then_meets: self.stores && next.meets,
            meets_then_stores: self.meets && next.stores,
            stores_around: self.stores_then_meets && next.stores || self.stores && next.meets_then_stores,
            ..Order::default()
        };
        self.or(next).or(both)
    }

    fn or(self, other: Order) -> Order {
        Order {
            stores: self.stores || other.stores,
            meets: self.meets || other.meets,
            stores_then_meets: self.stores_then_meets || other.stores_then_meets,
            meets_then_stores: self.meets_then_stores || other.meets_then_stores,
            stores_around: self.stores_around || other.stores_around,
        }
    }
}

/// In the order of the text, and a turn of a loop in front of the next one: a loop may have two turns.
fn order(body: &[Stmt], param: u32, meets: &dyn Fn(&Stmt) -> bool) -> Order {
    body.iter().fold(Order::default(), |before, stmt| {
        let stores = stmt.reaches() == Some((param, Reach::Write));
        let own = Order { stores, meets: meets(stmt), ..Order::default() };
        let inner = stmt.blocks().fold(Order::default(), |one, block| one.or(order(block, param, meets)));
        let turns = if let Stmt::For { .. } = stmt { inner.then(inner) } else { inner };
        before.then(own).then(turns)
    })
}

#[cfg(test)]
mod tests {
    use crate::kernel::parse::{parse, parse_kernel};

    /// What stands in a kernel, and whether a thread may take it that it has `%y` alone.
    #[test]
    fn what_threads_change_for_each_other_is_not_alone() {
        let (store, again) = ("store %y[thread] = 1", "store %y[31 - thread] = 2");
        let (met, some) = ("barrier block", "barrier threads 64 id 1");
        let (add, load) = ("atomic %y[thread] += 1", "load %v: i32 = %y[thread]");
        let cases: &[(&[&str], bool)] = &[
            (&[store, again], true),
            (&[store, met], true),
            (&[met, store, again, met], true),
            (&[store, met, again], false),
            (&[met, store, "if block < 1 {", met, "}", again], false),
            (&[store, some, again], false),
            (&[store, "barrier_arrive threads 64 id 1", again], false),
            (&[store, "arrive %full[0]", again], false),
            (&[store, "wait %full[0] phase 0", again], false),
            (&[store, "barrier warp", "store %z[thread] = 1", met], true),
            (&["for %i: i32 in 0..4 {", met, "}", store], true),
            (&["for %i: i32 in 0..4 {", store, "}", met], true),
            (&["for %i: i32 in 0..4 {", met, store, "}"], false),
            (&["for %i: i32 in 0..4 {", store, again, "}", met], true),
            (&["for %i: i32 in 0..4 {", store, "if block < 1 {", met, "}", "}"], false),
            (&["for %i: i32 in 0..4 {", met, "for %j: i32 in 0..4 {", store, "}", "}"], false),
            (&["for %i: i32 in 0..4 {", some, "}", store, "for %j: i32 in 0..4 {", "barrier warp", "}"], true),
            (&["for %i: i32 in 0..4 {", store, met, again, "}"], false),
            (&["if block < 1 {", met, store, "}"], true),
            (&["if thread < 32 {", some, store, "}", "if thread >= 32 {", again, some, "}"], false),
            (&["if block < 1 {", store, met, again, "}"], false),
            (&["if thread < 32 {", some, store, "} else {", again, some, "}"], false),
            (&["roles warps 0..1 {", some, store, "} and warps 1..2 {", some, "}"], true),
            (&["roles warps 0..1 {", store, some, "} and warps 1..2 {", some, again, "}"], false),
            (&[add], false),
            (&[store, add], false),
            (&[load, store], false),
        ];
        for (lines, alone) in cases {
            for threads in [64, 1] {
                let body = lines.join("\n");
                let text = format!(
                    "kernel @k(%y: *mut i32, %z: *mut i32) threads {threads} {{\n\
                     mbarrier %full arrivals 1 stages 1\n{body}\n}}"
                );
                let kernel = parse_kernel(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
                assert_eq!(kernel.has_alone(0, false), *alone || threads == 1, "{text}");
            }
        }
    }

    /// A kernel that waits has to itself what is given to every launch of it and written by none of the same list.
    #[test]
    fn what_is_given_to_all_launches_is_alone() {
        let alone = |launches: &str, waits: &str| {
            let text = format!(
                "program @p {{\n buffer %x: input i32[32]\n buffer %w: weight i32[32]\n buffer %a: workspace i32[32]\n\
                 buffer %y: output i32[32]\n regime {{\n{launches}\n}}\n}}\n\
                 kernel @k(%from: *i32, %to: *mut i32) threads 32 {{\n{waits}\nload %v: i32 = %from[thread]\n\
                 store %to[thread] = %v\n}}\n"
            );
            parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}")).alone(0)
        };
        let (of_input, of_weight) = ("launch @k(%from = %x, %to = %a) grid 1", "launch @k(%from = %w, %to = %y) grid 1 early");
        let of_result = "launch @k(%from = %a, %to = %y) grid 1 early";
        let both = |first: &str, second: &str| alone(&format!("{first}\n{second}"), "wait launches");
        assert_eq!(both(of_input, of_weight), [true, false]);
        assert_eq!(both(of_input, of_result), [false, false]);
        assert_eq!(both(of_input, "launch @k(%from = %w, %to = %w) grid 1 early"), [false, false]);
        // Without a wait it runs after all of the launches before it.
        assert_eq!(alone(&format!("{of_input}\n{of_result}"), ""), [true, true]);
    }
}
