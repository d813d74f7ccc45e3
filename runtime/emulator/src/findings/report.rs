//! Collects findings while a launch runs, and hands them over as a [`Report`] at its end.

use crate::findings::finding::FindingKind;
use std::collections::HashMap;
use std::fmt;

use crate::findings::at::At;
use crate::findings::counters::Counters;
use crate::findings::finding::Finding;
use crate::findings::json;
use crate::text::module::{Entry, Position};

/// How a launch went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong, in the order in which it was found. Empty means that all checks passed.
    pub findings: Vec<Finding>,
    /// What was done.
    pub counters: Counters,
    /// Whether all selected blocks ran to their end.
    pub completed: bool,
}

impl Report {
    /// Whether it ran to the end and no check found anything.
    pub fn clean(&self) -> bool {
        self.completed && self.findings.is_empty()
    }

    /// Whether there is a finding of this kind.
    pub fn has(&self, kind: FindingKind) -> bool {
        self.findings.iter().any(|finding| finding.kind == kind)
    }

    /// One JSON object: `completed`, `findings`, `counters`.
    pub fn to_json(&self) -> String {
        let mut object = json::Object::new();
        object.raw("completed", if self.completed { "true" } else { "false" });
        object.raw("findings", &json::array(self.findings.iter().map(Finding::to_json)));
        object.raw("counters", &self.counters.to_json());
        object.close()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(out, "{finding}")?;
        }
        if !self.completed {
            writeln!(out, "the launch did not complete")?;
        }
        write!(out, "{}", self.counters)
    }
}

/// Repeats of a finding at one instruction before the launch is given up.
const MOST_REPEATS: u64 = 1 << 18;

/// Findings under construction.
#[derive(Debug)]
pub(crate) struct Recorder {
    findings: Vec<Finding>,
    seen: HashMap<(FindingKind, u32), usize>,
    limit: usize,
    stopped: bool,
}

impl Recorder {
    pub(crate) fn new(limit: usize) -> Recorder {
        Recorder { findings: Vec::new(), seen: HashMap::new(), limit: limit.max(1), stopped: false }
    }

    /// Whether the launch is to end early.
    #[inline]
    pub(crate) fn stopped(&self) -> bool {
        self.stopped
    }

    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    #[cold]
    pub(crate) fn add(&mut self, entry: &Entry, kind: FindingKind, block: [u32; 3], at: At, message: impl FnOnce() -> String) {
        let At { w, mask: lanes, pc } = at;
        let warp = w as u32;
        if let Some(&index) = self.seen.get(&(kind, pc)) {
            let known = &mut self.findings[index];
            known.count += 1;
            // A loop that left its array and does not end.
            if known.count >= MOST_REPEATS {
                self.stopped = true;
            }
            if known.block == block && known.warp == warp {
                known.lanes |= lanes;
            }
            return;
        }
        let ins = entry.code.get(pc as usize);
        let (at, opcode) = match ins {
            Some(ins) => (ins.at, entry.opcodes[usize::from(ins.opcode)].clone()),
            None => (Position::default(), String::new()),
        };
        self.seen.insert((kind, pc), self.findings.len());
        let kernel = entry.name.clone();
        self.findings.push(Finding { kind, kernel, at, opcode, block, warp, lanes, message: message(), count: 1 });
        if self.findings.len() >= self.limit {
            self.stopped = true;
        }
    }

    pub(crate) fn finish(self) -> Vec<Finding> {
        self.findings
    }
}
