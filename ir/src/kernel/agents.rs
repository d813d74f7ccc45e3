//! How the threads of a block go on, and where they wait.
//!
//! The threads of an agent go through their statements in lock step: what it has still to do is a stack of frames, so it can
//! stop at a statement and go on from there. A block of threads is one agent.

use super::interp::{Run, Stop};
use super::{Block, Handle, Local, Location};

/// Threads in lock step.
pub(super) struct Agent<'a> {
    /// The statements that it is in, outermost first. None: it is at its end.
    frames: Vec<Frame<'a>>,
}

/// A block of statements that is under way.
pub(super) struct Frame<'a> {
    /// Its number among the blocks of the statement that it belongs to.
    number: usize,
    block: &'a Block,
    /// The statement after the one in progress.
    next: usize,
    /// The threads in it, in order.
    active: Vec<u32>,
    after: After<'a>,
}

/// What comes after a block.
enum After<'a> {
    /// What follows the statement that it belongs to.
    Leave,
    /// The other side of an `if`, with its threads.
    Otherwise(&'a Block, Vec<u32>),
    /// The next turn of a loop.
    Turn(Turns),
}

/// The turns of a loop, for each of its threads.
pub(super) struct Turns {
    pub(super) local: Handle<Local>,
    pub(super) threads: Vec<u32>,
    pub(super) next: Vec<i64>,
    pub(super) end: Vec<i64>,
    pub(super) step: Vec<i64>,
}

/// What an agent does after a statement.
pub(super) enum Next<'a> {
    /// The statement after it.
    Statement,
    /// The blocks inside it.
    Enter(Frame<'a>),
}

impl<'a> Frame<'a> {
    fn new(number: usize, block: &'a Block, active: Vec<u32>, after: After<'a>) -> Frame<'a> {
        Frame { number, block, next: 0, active, after }
    }

    /// The sides of an `if`, with the threads on each.
    pub(super) fn of_if([then, otherwise]: [&'a Block; 2], [yes, no]: [Vec<u32>; 2]) -> Frame<'a> {
        match (yes.is_empty(), no.is_empty()) {
            (false, false) => Frame::new(0, then, yes, After::Otherwise(otherwise, no)),
            (false, true) => Frame::new(0, then, yes, After::Leave),
            (true, _) => Frame::new(1, otherwise, no, After::Leave),
        }
    }

    /// A loop before its first turn.
    pub(super) fn of_loop(body: &'a Block, turns: Turns) -> Frame<'a> {
        Frame { next: body.len(), ..Frame::new(0, body, Vec::new(), After::Turn(turns)) }
    }
}

impl<'a> Agent<'a> {
    pub(super) fn new(body: &'a Block, threads: Vec<u32>) -> Agent<'a> {
        Agent { frames: vec![Frame::new(0, body, threads, After::Leave)] }
    }

    /// The statement that it is at, as in [`Location::Stmt`].
    fn path(&self) -> Vec<usize> {
        let parts = self.frames.iter().flat_map(|frame| [frame.number, frame.next.saturating_sub(1)]);
        parts.skip(1).collect()
    }
}

impl<'a> Run<'a> {
    /// All threads of a block, to their ends.
    pub(super) fn threads(&mut self, body: &'a Block, threads: Vec<u32>) -> Result<(), Stop> {
        let mut agent = Agent::new(body, threads);
        let ended = self.advance(&mut agent);
        ended.map_err(|message| Stop { at: Location::Stmt(self.index, agent.path()), message })
    }

    /// As far as the agent gets.
    fn advance(&mut self, agent: &mut Agent<'a>) -> Result<(), String> {
        while let Some(frame) = agent.frames.last_mut() {
            let block = frame.block;
            if let Some(stmt) = block.get(frame.next) {
                frame.next += 1;
                match self.stmt(stmt, &frame.active)? {
                    Next::Statement => {}
                    Next::Enter(inner) => agent.frames.push(inner),
                }
            } else if !self.goes_on(frame) {
                agent.frames.pop();
            }
        }
        Ok(())
    }

    /// Whether there is more to do in the statement whose block has come to its end. The frame is then at the start of it.
    fn goes_on(&mut self, frame: &mut Frame<'a>) -> bool {
        match &mut frame.after {
            After::Leave => false,
            After::Otherwise(block, threads) => {
                *frame = Frame::new(1, *block, std::mem::take(threads), After::Leave);
                true
            }
            After::Turn(turns) => {
                let still = |i: &usize| turns.next[*i] < turns.end[*i];
                let still: Vec<usize> = (0..turns.threads.len()).filter(still).collect();
                frame.active = still.iter().map(|i| turns.threads[*i]).collect();
                let counts: Vec<u64> = still.iter().map(|i| turns.next[*i] as u64).collect();
                self.bind(turns.local, &frame.active, &counts);
                // Past the largest number is past the end.
                still.iter().for_each(|i| turns.next[*i] = turns.next[*i].saturating_add(turns.step[*i]));
                frame.next = 0;
                !frame.active.is_empty()
            }
        }
    }
}
