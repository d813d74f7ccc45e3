//! Where the threads of a block meet: named barriers and mbarriers, and what is left to happen at each.

use std::collections::BTreeMap;

use super::print::Names;
use super::{Handle, Kernel, Mbarrier};

/// What an agent waits for.
pub(super) enum Waits {
    /// That the roles come to their ends.
    Roles,
    /// That this meeting at a named barrier is complete.
    Threads { id: u8, meeting: u64 },
    /// That this meeting of all threads of the cluster is complete.
    Cluster { meeting: u64 },
    /// That these phases of these stages of a barrier are over.
    Phases { barrier: Handle<Mbarrier>, phases: Vec<(usize, i64)> },
}

/// The state of every barrier of a block.
#[derive(Default)]
pub(super) struct Meetings {
    named: BTreeMap<u8, Meeting>,
    /// Of each mbarrier, by handle.
    mbarriers: Vec<Vec<Stage>>,
}

/// A barrier at which so many threads meet, again and again.
#[derive(Default)]
pub(super) struct Meeting {
    count: u32,
    /// Threads that have come to the meeting under way.
    came: u32,
    /// Meetings that are complete.
    meetings: u64,
}

impl Meeting {
    /// `came` threads come to it, at which `count` meet. The number of this meeting.
    pub(super) fn meet(&mut self, count: u32, came: usize) -> Result<u64, String> {
        self.count = count;
        self.came += came as u32;
        if self.came > count {
            return Err(format!("{} threads come to the barrier of {count}", self.came));
        }
        let meeting = self.meetings;
        if self.came == count {
            *self = Meeting { count, came: 0, meetings: meeting + 1 };
        }
        Ok(meeting)
    }

    fn is_over(&self, meeting: u64) -> bool {
        self.meetings > meeting
    }

    fn say(&self) -> String {
        format!("to which {} of {} threads have come", self.came, self.count)
    }
}

/// A stage of an mbarrier.
struct Stage {
    /// Phases that are over, which is the number of the one under way.
    over: i64,
    /// Arrivals that a phase needs.
    arrivals: u32,
    /// Those that it has still to have.
    left: u32,
    /// Bytes that it expects and that have not come.
    bytes: i64,
}

impl Stage {
    /// Ends the phase if nothing is left.
    fn settle(&mut self) {
        if self.left == 0 && self.bytes == 0 {
            self.over += 1;
            self.left = self.arrivals;
        }
    }
}

impl Meetings {
    /// At the start of a block.
    pub(super) fn of(kernel: &Kernel) -> Meetings {
        let stages = |barrier: &Mbarrier| {
            let arrivals = barrier.arrivals;
            let stage = || Stage { over: 0, arrivals, left: arrivals, bytes: 0 };
            (0..barrier.stages).map(|_| stage()).collect()
        };
        Meetings { named: BTreeMap::new(), mbarriers: kernel.mbarriers.iter().map(|(_, barrier)| stages(barrier)).collect() }
    }

    /// `came` threads come to a named barrier, at which `count` meet.
    pub(super) fn meet(&mut self, id: u8, count: u32, came: usize) -> Result<Waits, String> {
        let meeting = self.named.entry(id).or_default().meet(count, came)?;
        Ok(Waits::Threads { id, meeting })
    }

    /// A thread arrives at the stage and tells it to expect `bytes` more.
    pub(super) fn arrive(&mut self, barrier: Handle<Mbarrier>, stage: i64, bytes: i64) -> Result<(), String> {
        let stage = self.stage(barrier, stage)?;
        if stage.left == 0 {
            return Err(format!("phase {} has had its {} arrivals", stage.over, stage.arrivals));
        }
        let most = i64::from(Mbarrier::MOST);
        stage.bytes += bytes;
        if bytes < 0 || stage.bytes > most {
            return Err(format!("{bytes} bytes more to expect, beyond 0 to {most} together"));
        }
        stage.left -= 1;
        stage.settle();
        Ok(())
    }

    /// So many bytes come to the stage. The number of the phase that they belong to.
    pub(super) fn come(&mut self, barrier: Handle<Mbarrier>, stage: i64, bytes: u32) -> Result<i64, String> {
        let stage = self.stage(barrier, stage)?;
        let phase = stage.over;
        stage.bytes -= i64::from(bytes);
        if stage.bytes < -i64::from(Mbarrier::MOST) {
            return Err(format!("{} bytes come before they are expected, more than {}", -stage.bytes, Mbarrier::MOST));
        }
        stage.settle();
        Ok(phase)
    }

    /// How many phases of the stage are over.
    pub(super) fn over(&self, barrier: Handle<Mbarrier>, stage: usize) -> i64 {
        self.mbarriers[barrier.index()][stage].over
    }

    fn stage(&mut self, barrier: Handle<Mbarrier>, stage: i64) -> Result<&mut Stage, String> {
        let stages = &mut self.mbarriers[barrier.index()];
        let len = stages.len();
        usize::try_from(stage).ok().and_then(|i| stages.get_mut(i)).ok_or_else(|| format!("there is no stage {stage} of {len}"))
    }

    /// What to wait for so that this phase of the stage is over.
    pub(super) fn phase(&mut self, barrier: Handle<Mbarrier>, stage: i64, phase: i64) -> Result<(usize, i64), String> {
        self.stage(barrier, stage).map(|_| (stage as usize, phase))
    }

    /// Whether the wait is over. An error if a machine could not tell.
    pub(super) fn is_over(&self, waits: &Waits, roles_ended: bool, cluster: &Meeting) -> Result<bool, String> {
        match waits {
            Waits::Roles => Ok(roles_ended),
            Waits::Threads { id, meeting } => Ok(self.named.get(id).is_some_and(|named| named.is_over(*meeting))),
            Waits::Cluster { meeting } => Ok(cluster.is_over(*meeting)),
            Waits::Phases { barrier, phases } => {
                let mut all = true;
                for &(stage, phase) in phases {
                    let over = self.mbarriers[barrier.index()][stage].over;
                    if over < phase {
                        return Err(format!("waits for phase {phase} of stage {stage} before phase {} is over", phase - 1));
                    }
                    if over > phase + 1 {
                        return Err(format!("waits for phase {phase} of stage {stage} after phase {} is over", phase + 1));
                    }
                    all &= over > phase;
                }
                Ok(all)
            }
        }
    }

    /// What is waited for and what it lacks, behind "waits".
    pub(super) fn say(&self, waits: &Waits, names: &Names, cluster: &Meeting) -> String {
        match waits {
            Waits::Roles => "for its roles".to_string(),
            Waits::Threads { id, .. } => match self.named.get(id) {
                Some(named) => format!("at barrier {id}, {}", named.say()),
                None => format!("at barrier {id}"),
            },
            Waits::Cluster { .. } => format!("at the cluster's barrier, {}", cluster.say()),
            Waits::Phases { barrier, phases } => {
                let left = |&&(stage, phase): &&(usize, i64)| self.mbarriers[barrier.index()][stage].over <= phase;
                let said = phases.iter().filter(left).map(|&(stage, phase)| {
                    let of = &self.mbarriers[barrier.index()][stage];
                    let (name, lacks) = (names.mbarrier(*barrier), lacks(of.left, of.bytes));
                    format!("for phase {phase} of {name}[{stage}], which lacks {lacks}")
                });
                said.collect::<Vec<_>>().join(" and ")
            }
        }
    }
}

fn lacks(arrivals: u32, bytes: i64) -> String {
    match (arrivals, bytes) {
        (arrivals, 0) => format!("arrivals: {arrivals}"),
        (0, bytes) => format!("bytes: {bytes}"),
        (arrivals, bytes) => format!("arrivals: {arrivals}, bytes: {bytes}"),
    }
}
