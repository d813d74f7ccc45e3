//! What the ways in which a host's weights can lie cost and give, beside each other.

use moec_ir::kernel::{Launch, Program, Role};
use moec_ir::rewrite::{Price, prices};
use moec_ir::{DType, Machine};

use super::report::{PackPlan, PackTime};
use super::{dims, us};
use crate::pipeline::Lowered;
use crate::spec::{Pack, Word};

/// One for each way, with the layer as it is lowered for it, the first of which is that of [`Pack::None`].
#[must_use]
pub fn packing(machine: &Machine, asked: Pack, lowered: &[(Pack, Lowered)], tokens: &[u64]) -> Vec<PackPlan> {
    let times = |lowered: &Lowered| tokens.iter().map(|tokens| time(lowered, machine, *tokens)).collect::<Vec<u64>>();
    let unpacked = lowered.first().map(|(_, lowered)| times(lowered)).unwrap_or_default();
    let of_pack = |(pack, lowered): &(Pack, Lowered)| {
        let bytes = moved_bytes(&lowered.program);
        let binding = u128::from(bytes) * 1_000_000 / u128::from(machine.bytes_per_us.max(1));
        let batch = |((tokens, own), unpacked): ((&u64, u64), &u64)| {
            let won = u128::from(unpacked.saturating_sub(own));
            let runs = (won > 0).then(|| u64::try_from(binding.div_ceil(won)).unwrap_or(u64::MAX));
            PackTime { tokens: *tokens, time_us: us(own), runs: runs.filter(|_| bytes > 0) }
        };
        PackPlan {
            pack: pack.word(),
            asked: *pack == asked,
            own_bytes: own_bytes(&lowered.program),
            moved_bytes: bytes,
            bind_us: us(u64::try_from(binding).unwrap_or(u64::MAX)),
            batches: tokens.iter().zip(times(lowered)).zip(&unpacked).map(batch).collect(),
        }
    };
    lowered.iter().map(of_pack).collect()
}

/// Modelled time of a batch, picoseconds.
fn time(lowered: &Lowered, machine: &Machine, tokens: u64) -> u64 {
    let graph = lowered.rewritten.at(tokens);
    prices(graph, machine, tokens).into_iter().sum::<Price>().total()
}

/// Bytes of what is prepared, which the layer has beside the weights that a run reads as the caller has them.
fn own_bytes(program: &Program) -> u64 {
    let prepared = (0..program.buffers.len()).filter(|buffer| program.buffers[*buffer].role == Role::Prepared);
    prepared.map(|buffer| bytes_of(program, buffer)).fold(0, u64::saturating_add)
}

/// Bytes that preparations read and write.
fn moved_bytes(program: &Program) -> u64 {
    let of_launch = |launch: &Launch| {
        let buffers = launch.args.iter().filter_map(moec_ir::kernel::Arg::buffer);
        buffers.map(|buffer| bytes_of(program, buffer)).fold(0, u64::saturating_add)
    };
    program.prepare.iter().map(of_launch).fold(0, u64::saturating_add)
}

/// Bytes of a buffer whose shape is constant.
fn bytes_of(program: &Program, buffer: usize) -> u64 {
    let of = &program.buffers[buffer];
    let extents = of.shape.iter().map(|extent| extent.at(dims(1)).unwrap_or(u64::MAX));
    extents.fold(DType::bytes(of.dtype), u64::saturating_mul)
}
