//! The rules of launches that may begin before the one before them has ended.

use super::uniform::Agreement;
use super::verify::{Check, writes};
use super::{Arg, Launch, Location, Place, Program};
use crate::Machine;

/// What is wrong with launches that follow each other, as early ones: the number of each, and why.
pub(super) fn wrong_early(program: &Program, launches: &[Launch], machine: &Machine) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (i, launch) in launches.iter().enumerate().filter(|(_, launch)| launch.early) {
        let mut wrong = |message: String| found.push((i, message));
        if !machine.early_launches {
            wrong(format!("{} begins no launch before the one before it has ended", machine.name));
        }
        if i == 0 {
            wrong("the first launch is not early: what comes before it is not known".to_string());
        }
        let Some(kernel) = program.kernels.get(launch.kernel) else { continue };
        if kernel.before_launches().is_none() {
            wrong("it is early, and its kernel does not wait for the launches before it".to_string());
        }
        for param in kernel.reached_early() {
            let Some(index) = launch.args.get(param as usize).and_then(Arg::buffer) else { continue };
            let Some(buffer) = program.buffers.get(index) else { continue };
            if !program.is_given(launches, &launch.args[param as usize]) {
                let name = kernel.params.get(param as usize).map_or("?", |param| &param.name);
                wrong(format!("%{name}: it is early, and reads %{} before it waits for what writes that", buffer.name));
            }
        }
    }
    found
}

/// What is wrong with launches as ones that follow the one before them part by part: the number of each, and why. That a part needs no more
/// than the same part before it is seen where a program is interpreted.
pub(super) fn wrong_followers(program: &Program, launches: &[Launch], machine: &Machine) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (i, launch) in launches.iter().enumerate().filter(|(_, launch)| launch.follows()) {
        let mut wrong = |message: String| found.push((i, message));
        if machine.has_threads() {
            wrong(format!("{} begins a launch before the one before it has ended where it is early", machine.name));
        }
        let Some(before) = i.checked_sub(1).map(|before| &launches[before]) else {
            wrong("the first launch follows none".to_string());
            continue;
        };
        let counted = |launch: &Launch| launch.working.as_ref().map(|working| working.buffer);
        if counted(before) != counted(launch) {
            wrong("it follows a launch that has no work by the same buffer".to_string());
        }
        if before.follows() {
            wrong("it follows a launch that follows another".to_string());
        }
        let used = before.args.iter().filter_map(Arg::buffer);
        for buffer in used.filter(|buffer| writes(program, launch, *buffer)).filter_map(|buffer| program.buffers.get(buffer)) {
            wrong(format!("it writes %{}, which the launch that it follows is given", buffer.name));
        }
    }
    found
}

impl Check<'_> {
    /// A wait for the launches before this one.
    pub(super) fn wait_launches(&mut self) {
        self.early_launches("a wait for launches");
        let top = matches!(&self.at, Location::Stmt(_, path) if path.len() == 1);
        self.require(top, || "a wait for launches inside another statement, to which not all threads may come".to_string());
        let again = std::mem::replace(&mut self.waited, true);
        self.require(!again, || "a kernel waits for the launches before it once".to_string());
    }

    /// Permission for the next launch.
    pub(super) fn allow_next(&mut self, control: Agreement) {
        self.early_launches("permission for the next launch");
        self.require(control <= Agreement::Block, || {
            "the next launch is allowed where the threads of the block may part".to_string()
        });
    }

    /// Nothing is written in front of a wait for launches, which may still use it.
    pub(super) fn written_early(&mut self, place: Place) {
        let (Place::Param(_), Location::Stmt(_, path)) = (place, &self.at) else { return };
        let before = self.kernel.before_launches().map_or(0, <[_]>::len);
        if path.first().is_some_and(|at| *at < before) {
            let name = self.names.place(place).to_string();
            self.say(format!("{name} is written before the wait for launches"));
        }
    }

    fn early_launches(&mut self, what: &str) {
        let machine = self.machine;
        self.require(machine.early_launches, || {
            format!("{what}, but {} begins none before the one before it has ended", machine.name)
        });
    }
}
