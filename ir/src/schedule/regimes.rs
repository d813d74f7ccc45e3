//! One program for all batches, out of one for each range of them.
//!
//! What regimes have in common is there once: a buffer that is alike in all it says, a kernel that is alike to the last
//! statement. What a caller sees has one name in all of them. Workspace of different regimes is never in use at the same time, and
//! a plan places what its own launches name.

use std::collections::HashMap;

use super::ScheduleError;
use super::buffers::unused;
use crate::kernel::{Buffer, Given, Kernel, Launch, Program, Regime, Role, View};

/// The programs of one layer, each with its largest token count.
pub(super) fn merged(programs: Vec<(Option<u64>, Program)>) -> Result<Program, ScheduleError> {
    let Some((_, first)) = programs.first() else { return Ok(Program::default()) };
    let (name, facts, statistics) = (first.name.clone(), first.facts.clone(), first.statistics.clone());
    let mut update: Option<Vec<Launch>> = None;
    let mut prepare: Vec<Launch> = Vec::new();
    let (mut buffers, mut kernels) = (Shared::default(), Shared::default());
    let mut regimes: Vec<Regime> = Vec::new();
    for (tokens_up_to, program) in programs {
        if !regimes.is_empty() {
            check_public(&buffers.own, &program.buffers)?;
        }
        let buffers_of: Vec<usize> = program.buffers.into_iter().map(|buffer| buffers.place(buffer)).collect();
        let kernels_of: Vec<usize> = program.kernels.into_iter().map(|kernel| kernels.place(kernel)).collect();
        let launch = &|mut launch: Launch| {
            launch.kernel = kernels_of[launch.kernel];
            if let Some(working) = &mut launch.working {
                working.buffer = buffers_of[working.buffer];
            }
            for arg in &mut launch.args {
                if let Given::Buffer(buffer) | Given::TensorMap(View { buffer, .. }) = &mut arg.given {
                    *buffer = buffers_of[*buffer];
                }
            }
            launch
        };
        // What several regimes need is prepared once.
        for own in program.prepare.into_iter().map(launch) {
            if !prepare.contains(&own) {
                prepare.push(own);
            }
        }
        for regime in program.regimes {
            let launches = regime.launches.into_iter().map(launch).collect();
            regimes.push(Regime { tokens_up_to, launches, ..regime });
        }
        // What changes weights reads what callers may: it is the same at every batch size.
        let own: Vec<Launch> = program.update.into_iter().map(launch).collect();
        if *update.get_or_insert_with(|| own.clone()) != own {
            return Err(ScheduleError::Public { name: "update".to_string() });
        }
    }
    let update = update.unwrap_or_default();
    Ok(Program { name, facts, buffers: buffers.named, kernels: kernels.named, statistics, prepare, regimes, update })
}

/// Things of all regimes: each as its own regime has it, and under a name that nothing else has.
struct Shared<T> {
    own: Vec<T>,
    named: Vec<T>,
}

impl<T> Default for Shared<T> {
    fn default() -> Shared<T> {
        Shared { own: Vec::new(), named: Vec::new() }
    }
}

impl<T: PartialEq + Named> Shared<T> {
    /// The place of one that is alike, or of a new one.
    fn place(&mut self, thing: T) -> usize {
        if let Some(place) = self.own.iter().position(|known| *known == thing) {
            return place;
        }
        let named = thing.renamed(&unused(thing.name(), |name| self.named.iter().any(|known| known.name() == name)));
        self.own.push(thing);
        self.named.push(named);
        self.own.len() - 1
    }
}

trait Named {
    fn name(&self) -> &str;
    fn renamed(&self, name: &str) -> Self;
}

impl Named for Buffer {
    fn name(&self) -> &str {
        &self.name
    }

    fn renamed(&self, name: &str) -> Buffer {
        Buffer { name: name.to_string(), ..self.clone() }
    }
}

impl Named for Kernel {
    fn name(&self) -> &str {
        &self.name
    }

    fn renamed(&self, name: &str) -> Kernel {
        Kernel { name: name.to_string(), ..self.clone() }
    }
}

/// What a caller gives or may read has the same name and shape at every batch size.
fn check_public(all: &[Buffer], of_regime: &[Buffer]) -> Result<(), ScheduleError> {
    let public = |buffers: &[Buffer]| -> HashMap<String, Buffer> {
        let name = |buffer: &Buffer| match buffer.role {
            Role::Output => Some(buffer.name.clone()),
            Role::Input | Role::Weight | Role::Prepared | Role::Workspace => buffer.observe.clone(),
        };
        buffers.iter().filter_map(|buffer| Some((name(buffer)?, buffer.clone()))).collect()
    };
    let (all, mut of_regime) = (public(all), public(of_regime));
    let mut apart: Vec<String> = all
        .iter()
        .filter(|(name, buffer)| of_regime.remove(*name).is_none_or(|own| own != **buffer))
        .map(|(n, _)| n.clone())
        .collect();
    apart.extend(of_regime.into_keys());
    apart.sort();
    match apart.into_iter().next() {
        Some(name) => Err(ScheduleError::Public { name }),
        None => Ok(()),
    }
}
