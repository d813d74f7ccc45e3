//! What the parts of the kit say to each other, a line of JSON each: a job for a worker, its answer, and the rows that become the
//! table.

use serde::{Deserialize, Serialize};

/// One thing to do, within some seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) step: Step,
    /// A case, a layer or a probe.
    pub(crate) name: String,
    /// Of the batch; 0 where the case has its own.
    pub(crate) tokens: u64,
    /// What is timed; empty for other steps.
    pub(crate) by: String,
    /// After so long the worker is ended.
    pub(crate) seconds: f64,
    /// The layer's sizes, for workers that have no package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sizes: Option<Sizes>,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// Says what the GPU is.
    Device,
    /// Runs a small case and compares all of its output.
    Case,
    /// Compares a matrix instruction with the emulator's model.
    Matrix,
    /// As `Case`, with compute-sanitizer around it.
    Sanitize,
    /// Compares a layer of real size at some tokens with the definition.
    Sample,
    /// Runs the same many times.
    Repeat,
    /// Captures a graph and replays it, with other tokens too.
    Graph,
    /// Measures.
    Time,
}

impl Step {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Step::Device => "device",
            Step::Case => "case",
            Step::Matrix => "matrix",
            Step::Sanitize => "sanitize",
            Step::Sample => "sample",
            Step::Repeat => "repeat",
            Step::Graph => "graph",
            Step::Time => "time",
        }
    }
}

/// The sizes of a layer, as a peer needs them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sizes {
    pub(crate) hidden: u64,
    pub(crate) intermediate: u64,
    pub(crate) experts: u64,
    pub(crate) top_k: u64,
    pub(crate) shared_intermediate: u64,
    /// Floating-point operations of the products of one token.
    pub(crate) token_flops: u64,
    /// Bytes of the weights of all experts, and of all other weights.
    pub(crate) expert_bytes: u64,
    pub(crate) other_bytes: u64,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Ok,
    Failed,
    Skipped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Failed => "FAILED",
            Status::Skipped => "skipped",
        }
    }
}

/// What a worker says of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    /// What was compared, what is wrong and where, or why it was skipped.
    pub(crate) detail: String,
    /// Microseconds of single runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) us: Vec<f64>,
    /// Microseconds of single replays of a graph.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) graph_us: Vec<f64>,
}

impl Answer {
    pub(crate) fn new(status: Status, detail: impl Into<String>) -> Answer {
        Answer { status, detail: detail.into(), us: Vec::new(), graph_us: Vec::new() }
    }
}

/// A line of the results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) step: Step,
    pub(crate) name: String,
    /// 0: the case's own.
    pub(crate) tokens: u64,
    /// What was timed; empty for other steps.
    pub(crate) by: String,
    pub(crate) status: Status,
    pub(crate) detail: String,
    /// Median microseconds of a run, and of a replay of a graph.
    pub(crate) us: Option<f64>,
    pub(crate) graph_us: Option<f64>,
}
