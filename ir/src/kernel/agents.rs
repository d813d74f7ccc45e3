//! How the threads of a block go on, and where they wait.
//!
//! The threads of an agent go through their statements in lock step: what it has still to do is a stack of frames, so it can
//! stop at a statement and go on from there. A block of threads is one agent, and each of its roles is another. The first one that
//! does not wait goes on as far as it gets, then the next; when all wait, in all blocks of the cluster, that is a deadlock.

use super::interp::{Run, Stop};
use super::meetings::{Meeting, Meetings, Waits};
use super::print::Names;
use super::{Block, Handle, Kernel, Local, Location, WarpRole};

/// Threads in lock step.
pub(super) struct Agent<'a> {
    /// The role that it is, with its number; else it is the block.
    role: Option<(usize, &'a WarpRole)>,
    /// The statements that it is in, outermost first. None: it is at its end.
    frames: Vec<Frame<'a>>,
    /// What it waits for.
    waits: Option<Waits>,
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
    /// The statement after it, after a wait.
    Wait(Waits),
    /// The statement after it, after agents for these roles have come to their ends.
    Roles(&'a [WarpRole]),
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
    fn new(role: Option<(usize, &'a WarpRole)>, body: &'a Block, threads: Vec<u32>) -> Agent<'a> {
        Agent { role, frames: vec![Frame::new(0, body, threads, After::Leave)], waits: None }
    }

    /// The statement that it is at, as in [`Location::Stmt`], of which `outer` is the path to its body.
    fn path(&self, outer: &[usize]) -> Vec<usize> {
        let inside = self.role.iter().flat_map(|(number, _)| outer.iter().chain([number]).copied());
        let parts = self.frames.iter().flat_map(|frame| [frame.number, frame.next.saturating_sub(1)]);
        inside.chain(parts.skip(1)).collect()
    }

    fn name(&self) -> String {
        match self.role {
            Some((number, role)) => format!("role {number} (warps {}..{})", role.warps.start, role.warps.end),
            None => "the block".to_string(),
        }
    }
}

/// The agents of a block: its threads, then its roles.
pub(super) struct Agents<'a> {
    agents: Vec<Agent<'a>>,
    /// The place of the roles.
    outer: Vec<usize>,
}

impl<'a> Agents<'a> {
    /// All threads of a block, at the start.
    pub(super) fn of(body: &'a Block, threads: u32) -> Agents<'a> {
        Agents { agents: vec![Agent::new(None, body, (0..threads).collect())], outer: Vec::new() }
    }

    pub(super) fn are_at_their_ends(&self) -> bool {
        self.agents.iter().all(|agent| agent.frames.is_empty())
    }

    /// Those that wait for something that roles do not bring by coming to their ends.
    fn waiting(&self) -> impl Iterator<Item = (&Agent<'a>, &Waits)> {
        self.agents.iter().filter_map(|agent| match &agent.waits {
            Some(Waits::Roles) | None => None,
            Some(waits) => Some((agent, waits)),
        })
    }

    /// Which agents wait for what.
    pub(super) fn blocked(&self, kernel: &Kernel, meetings: &Meetings, cluster: &Meeting) -> Vec<String> {
        let names = Names::of(kernel);
        self.waiting().map(|(agent, waits)| format!("{} waits {}", agent.name(), meetings.say(waits, &names, cluster))).collect()
    }

    /// The statement that the first of these is at.
    pub(super) fn place(&self) -> Vec<usize> {
        self.waiting().next().map(|(agent, _)| agent.path(&self.outer)).unwrap_or_default()
    }
}

impl<'a> Run<'a> {
    /// The agents of the block, as far as they get. Whether one of them got anywhere.
    pub(super) fn go_on(&mut self, of: &mut Agents<'a>) -> Result<bool, Stop> {
        let Agents { agents, outer } = of;
        let mut ever = false;
        loop {
            let mut moved = false;
            for i in 0..agents.len() {
                let roles_ended = agents[1..].iter().all(|agent| agent.frames.is_empty());
                let agent = &mut agents[i];
                if agent.frames.is_empty() {
                    continue;
                }
                let went = self.goes(agent, roles_ended);
                let stop = |message| Stop { at: Location::Stmt(self.index, agent.path(outer)), message };
                let Some(roles) = went.map_err(stop)? else { continue };
                moved = true;
                if !roles.is_empty() {
                    *outer = agents[0].path(&[]);
                }
                let lanes = self.warp_lanes;
                let threads = |role: &WarpRole| (role.warps.start * lanes..role.warps.end * lanes).collect();
                agents.extend(roles.iter().enumerate().map(|role| Agent::new(Some(role), &role.1.body, threads(role.1))));
            }
            if !moved {
                return Ok(ever);
            }
            ever = true;
        }
    }

    /// As far as the agent gets; nothing if it does not get anywhere. The roles that it starts, if it does.
    fn goes(&mut self, agent: &mut Agent<'a>, roles_ended: bool) -> Result<Option<&'a [WarpRole]>, String> {
        if let Some(waits) = &agent.waits
            && !self.here.meetings.is_over(waits, roles_ended, &self.cluster)?
        {
            return Ok(None);
        }
        agent.waits = None;
        while let Some(frame) = agent.frames.last_mut() {
            let block = frame.block;
            if let Some(stmt) = block.get(frame.next) {
                frame.next += 1;
                match self.stmt(stmt, &frame.active)? {
                    Next::Statement => {}
                    Next::Enter(inner) => agent.frames.push(inner),
                    Next::Wait(waits) => {
                        if !self.here.meetings.is_over(&waits, roles_ended, &self.cluster)? {
                            agent.waits = Some(waits);
                            break;
                        }
                    }
                    Next::Roles(roles) => {
                        agent.waits = Some(Waits::Roles);
                        return Ok(Some(roles));
                    }
                }
            } else if !self.goes_on(frame) {
                agent.frames.pop();
            }
        }
        Ok(Some(&[]))
    }

    /// Whether there is more to do in the statement whose block has come to its end. The frame is then at the start of it.
    fn goes_on(&mut self, frame: &mut Frame<'a>) -> bool {
        match &mut frame.after {
            After::Leave => false,
            After::Otherwise(block, threads) => {
                *frame = Frame::new(1, block, std::mem::take(threads), After::Leave);
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
