//! What a layer launches for some batches, and what the cost model says of it: the figures by which extraction chose, beside the
//! least that the layer takes by chance. Nothing is measured, and nothing priced here: prices are `ir::rewrite`'s.

mod packing;
mod report;
mod roofline;
mod text;

use moec_codegen::{KernelInfo, Object};
use moec_ir::graph::{Attr, Dim, Node, Op, Pointwise, Type, Typed};
use moec_ir::kernel::{Launch, Program, layout};
use moec_ir::rewrite::{Bound, Price, Workload, bound, name_of, prices};
use moec_ir::schedule::{ScheduleError, launching_nodes};
use moec_ir::{DType, Dims, Machine};

pub use packing::packing;
pub use report::{
    BatchPlan, BoundFigures, Figures, FlopsOfType, LaunchPlan, LimitWord, MachineFacts, OpPlan, PackPlan, PackTime, Plan,
    RateFacts, TargetPlan,
};
pub use roofline::roofline;
pub use text::text;

use crate::pipeline::Lowered;

/// The plan of a layer of this name on some machines, for batches of so many tokens, each at least 1. Objects, which may be none, say how
/// many registers kernels have.
///
/// # Errors
/// Those of [`launching_nodes`]: none where the layer was lowered.
pub fn plan(layer: &str, lowered: &[(&Machine, &Lowered, &[Object])], tokens: &[u64]) -> Result<Plan, ScheduleError> {
    let targets = lowered.iter().map(|(machine, lowered, objects)| of_target(machine, lowered, objects, tokens));
    Ok(Plan { version: report::VERSION, layer: layer.to_string(), targets: targets.collect::<Result<_, _>>()? })
}

/// The JSON Schema of a plan.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(Plan).to_value()
}

fn of_target(machine: &Machine, lowered: &Lowered, objects: &[Object], tokens: &[u64]) -> Result<TargetPlan, ScheduleError> {
    let regimes = &lowered.rewritten.regimes;
    let launching: Vec<_> = regimes.iter().map(|regime| launching_nodes(&regime.graph, machine)).collect::<Result<_, _>>()?;
    let kernels: Vec<&KernelInfo> = objects.iter().flat_map(|object| &object.kernels).collect();
    let batch = |tokens: &u64| {
        let serves = |most: Option<u64>| most.is_none_or(|most| *tokens <= most);
        let regime = regimes.iter().position(|regime| serves(regime.tokens_up_to)).unwrap_or(regimes.len() - 1);
        let graph = &regimes[regime].graph;
        let launches = &lowered.program.regimes[regime].launches;
        let made = launching[regime].iter().copied().zip(launches).collect::<Vec<_>>();
        let ops = ops(graph, machine, *tokens, &|id| {
            let own = made.iter().filter(|(by, _)| *by == id);
            own.map(|(_, launch)| of_launch(&lowered.program, launch, *tokens, &kernels)).collect()
        });
        let pairs = || Workload::of(graph, &[*tokens]).pairs.at(dims(*tokens)).unwrap_or(u64::MAX);
        BatchPlan {
            tokens: *tokens,
            regime,
            tokens_up_to: regimes[regime].tokens_up_to,
            rows: groups_rows(graph).then(pairs),
            total: figures(&ops.iter().map(|(_, price)| *price).sum()),
            ops: ops.into_iter().map(|(op, _)| op).collect(),
            bound: of_bound(&bound(&lowered.graph, machine, *tokens)),
        }
    };
    let tf32 = lowered.graph.graph().has(Pointwise::Tf32.into());
    let batches = tokens.iter().map(batch).collect();
    Ok(TargetPlan { target: machine.name, machine: of_machine(machine, tf32), batches, packs: Vec::new() })
}

/// Whether there are rows in groups, of experts or of slots: a router may sort pairs, and makes no row of them.
fn groups_rows(graph: &Typed) -> bool {
    graph.graph().nodes.ids().any(|id| match graph.ty(id) {
        Type::Tensor { shape, .. } => shape.first() == Some(&Dim::Pairs),
        Type::Slots { .. } => true,
        Type::Routing { .. } | Type::Picks { .. } | Type::List(_) | Type::Attr(_) => false,
    })
}

/// The ops that cost anything or launch something, with their prices: parts of a launch are one with it.
fn ops(graph: &Typed, machine: &Machine, tokens: u64, launches_of: &dyn Fn(egg::Id) -> Vec<LaunchPlan>) -> Vec<(OpPlan, Price)> {
    let prices = prices(graph, machine, tokens);
    let price = |id: egg::Id| prices[usize::from(id)];
    let way = |id: egg::Id| match (graph.node(id), graph.node(id).operands().last().map(|last| graph.ty(*last))) {
        (Node::Apply(op, _), Some(Type::Attr(way))) if way.is_way_of(*op) => Some(way),
        (_, _) => None,
    };
    let is_part = |id: egg::Id| matches!(way(id), Some(Attr::Beside(_)));
    let mut ops = Vec::new();
    for (id, node) in graph.graph().nodes.items() {
        if is_part(id) {
            continue;
        }
        let nodes: Vec<egg::Id> = match node {
            Node::Apply(Op::Launch, parts) => parts.iter().copied().filter(|part| is_part(*part)).collect(),
            Node::Apply(..) | Node::Param(_) | Node::Hole(_) | Node::Attr(_) => vec![],
        };
        let own: Price = nodes.iter().map(|part| price(*part)).fold(price(id), |sum, part| sum + part);
        let launches = launches_of(id);
        if launches.is_empty() && own == Price::default() {
            continue;
        }
        let named = if nodes.is_empty() { vec![id] } else { nodes };
        let names: Vec<String> = named.iter().map(|id| name_of(graph, *id)).collect();
        let way = named.first().and_then(|id| way(*id)).map(Attr::to_string);
        ops.push((OpPlan { op: names.join(" + "), way, launches, figures: figures(&own) }, own));
    }
    ops
}

fn of_launch(program: &Program, launch: &Launch, tokens: u64, kernels: &[&KernelInfo]) -> LaunchPlan {
    let kernel = &program.kernels[launch.kernel];
    let usage = kernels.iter().filter(|info| info.name == kernel.name).find_map(|info| info.usage);
    LaunchPlan {
        kernel: kernel.name.clone(),
        grid: launch.grid.at(dims(tokens)).unwrap_or(u64::MAX),
        block: kernel.threads,
        shared_bytes: layout(kernel).bytes,
        registers: usage.map(|usage| usage.registers),
        spill_bytes: usage.map(|usage| usage.spill_stores + usage.spill_loads),
    }
}

/// A batch of one sequence.
fn dims(tokens: u64) -> Dims {
    Dims { tokens, sequence_tokens: tokens }
}

fn figures(price: &Price) -> Figures {
    Figures {
        flops: price.amounts.flops,
        bytes: price.amounts.bytes,
        time_us: us(price.total()),
        moving_us: us(price.moving),
        waiting_us: us(price.waiting),
        caching_us: us(price.caching),
        computing_us: us(price.computing),
        serial_us: us(price.serial),
        launch_us: us(price.launching),
        limit: price.limit().into(),
    }
}

fn of_bound(bound: &Bound) -> BoundFigures {
    BoundFigures {
        weight_bytes: bound.weight_bytes,
        input_bytes: bound.input_bytes,
        output_bytes: bound.output_bytes,
        flops: bound.flops.iter().map(|(dtype, flops)| FlopsOfType { dtype: dtype.to_string(), flops: *flops }).collect(),
        moving_us: us(bound.moving),
        computing_us: us(bound.computing),
        time_us: us(bound.time()),
    }
}

fn of_machine(machine: &Machine, tf32: bool) -> MachineFacts {
    let mut dtypes: Vec<DType> = Vec::new();
    for rate in machine.rates {
        if !dtypes.contains(&rate.elem) {
            dtypes.push(rate.elem);
        }
    }
    let rate = |dtype: DType| RateFacts { dtype: dtype.to_string(), tflops: machine.best_rate(dtype, tf32) as f64 / 1e6 };
    MachineFacts {
        processors: machine.processors,
        bandwidth_gbs: machine.bytes_per_us as f64 / 1e3,
        cache_bytes: machine.cache_bytes,
        launch_us: us(machine.launch_ps),
        rates: dtypes.into_iter().map(rate).collect(),
    }
}

/// Picoseconds as microseconds.
fn us(picoseconds: u64) -> f64 {
    picoseconds as f64 / 1e6
}
