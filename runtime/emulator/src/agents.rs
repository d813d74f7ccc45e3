//! Asynchronous agents.

use crate::block::Block;
use crate::finding::FindingKind;
use crate::ins::Op;
use crate::launch::Cx;
use crate::schedule::Choices;

#[derive(Debug)]
pub(crate) struct Agents {
    pub(crate) bulk_readers: Vec<u8>,
}

impl Agents {
    pub(crate) fn new(_warps: usize) -> Agents {
        Agents { bulk_readers: Vec::new() }
    }

    pub(crate) fn waiting(&self) -> bool {
        false
    }
}

impl Block {
    pub(crate) fn deliver(&mut self, _cx: &mut Cx<'_>, _choices: &mut Choices) {}
    pub(crate) fn check_abandoned(&mut self, _cx: &mut Cx<'_>, _w: usize, _mask: u32, _pc: u32) {}
    pub(crate) fn check_pending(&mut self, _cx: &mut Cx<'_>, _w: usize, _pc: u32, _mask: u32, _op: &Op) {}
    pub(crate) fn cluster(&mut self, _cx: &mut Cx<'_>, _w: usize, _mask: u32, _pc: u32, _wait: bool) -> bool {
        false
    }
    pub(crate) fn asynchronous(&mut self, cx: &mut Cx<'_>, w: usize, mask: u32, pc: u32, _op: &Op) -> bool {
        self.finding(cx, w, pc, mask, FindingKind::Undefined, || "not modelled".to_owned());
        false
    }
}
