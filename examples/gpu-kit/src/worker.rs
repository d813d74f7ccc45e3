//! The process that does jobs on the GPU: reads one from a line, answers in a line. A kernel that hangs or faults takes this
//! process with it and no more.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use moec_runtime::package::{DType, Dims};
use moec_runtime::{Checkpoint, DeviceKind, Run, Stream as Order, Tensor};

use crate::driver::{Driver, Event, Graph, Stream};
use crate::job::{Answer, Job, Status, Step};
use crate::matrix::{Tried, probes, try_probe};
use crate::reference::reference;
use crate::subject::{Missing, Prepared, Source, Subject, difference, relative_rms, rms, roundoff};

/// The part of the largest output by which a published f32 layer may be off: what the tests hold the host to.
const PUBLISHED: f64 = 2e-5;
/// Runs that must give the same bits.
const REPEATS: usize = 1000;
/// Batches of other tokens, in turn, so that what one of them brought into the cache is not what the next one needs.
const SETS: u64 = 8;
/// Tokens of a layer of real size that are compared with the definition.
const SAMPLED: u64 = 3;
/// The relative error of sampled rows together, in roundoffs of the type. On the host roundings give a fifth of one; one expert
/// of eight left out gives dozens.
const ROWS: f64 = 1.0;
/// Most runs of an answer to `Step::Time`, and seconds after which it makes do with fewer.
const RUNS: usize = 48;
const MEASURED: f64 = 1.0;

/// Does jobs until there are no more lines.
///
/// # Errors
/// Where standard input or output fails.
pub(crate) fn serve(kit: &Path) -> io::Result<()> {
    let mut worker = Worker { kit: kit.to_path_buf(), driver: Driver::open(), subject: None };
    for line in io::stdin().lock().lines() {
        let answer = match serde_json::from_str::<Job>(&line?) {
            Ok(job) => worker.answer(&job),
            Err(error) => Answer::new(Status::Failed, format!("the job cannot be read: {error}")),
        };
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &answer)?;
        writeln!(out)?;
        out.flush()?;
    }
    Ok(())
}

struct Worker {
    kit: PathBuf,
    driver: Result<Driver, String>,
    /// The last one, for jobs that follow on the same.
    subject: Option<Subject>,
}

impl From<Missing> for Answer {
    fn from(missing: Missing) -> Answer {
        match missing {
            Missing::Skipped(why) => Answer::new(Status::Skipped, why),
            Missing::Failed(why) => Answer::new(Status::Failed, why),
        }
    }
}

impl From<String> for Missing {
    fn from(why: String) -> Missing {
        Missing::Failed(why)
    }
}

impl Worker {
    fn answer(&mut self, job: &Job) -> Answer {
        self.done(job).unwrap_or_else(Answer::from)
    }

    fn done(&mut self, job: &Job) -> Result<Answer, Missing> {
        let until = Instant::now() + Duration::from_secs_f64(job.seconds.clamp(0.0, 1e6));
        let driver = self.driver.as_ref().map_err(String::clone)?;
        match job.step {
            Step::Device => {
                let gpu = serde_json::to_string(&driver.gpu()?).map_err(|error| error.to_string())?;
                return Ok(Answer::new(Status::Ok, gpu));
            }
            Step::Matrix => {
                let probe = probes().into_iter().find(|probe| probe.name() == job.name);
                let probe = probe.ok_or_else(|| format!("there is no probe {}", job.name))?;
                return Ok(match try_probe(probe, driver)? {
                    Tried::Same(what) => Answer::new(Status::Ok, what),
                    Tried::Differs(where_) => Answer::new(Status::Failed, where_),
                    Tried::Skipped(why) => Answer::new(Status::Skipped, why),
                });
            }
            Step::Case | Step::Sanitize | Step::Sample | Step::Repeat | Step::Graph | Step::Time => {}
        }
        if self.subject.as_ref().is_none_or(|subject| subject.name != job.name) {
            // The memory of the last one first.
            self.subject = None;
            self.subject = Some(Subject::load(&self.kit, &job.name, DeviceKind::Cuda { ordinal: 0 })?);
        }
        let Some(subject) = &self.subject else { return Err(Missing::Failed("no subject".to_string())) };
        match job.step {
            Step::Sample => sample(subject, job.tokens),
            Step::Repeat => repeat(subject, job.tokens, until),
            Step::Graph => graph(subject, job.tokens, driver),
            Step::Time => time(subject, job.tokens, driver),
            Step::Device | Step::Matrix | Step::Case | Step::Sanitize => case(subject),
        }
    }
}

/// A run on the default stream.
fn run(subject: &Subject, prepared: &mut Prepared) -> Result<Run, Missing> {
    subject.run(prepared, |plan, memory| on(subject, plan, memory, Order::DEFAULT))
}

fn on(subject: &Subject, plan: &moec_runtime::Plan, memory: &mut Prepared, order: Order) -> Result<(), String> {
    plan.run(&subject.bound, &mut memory.batch.memory(), order).map_err(|error| error.to_string())
}

fn columns(tensor: &Tensor) -> usize {
    tensor.shape().last().map_or(1, |columns| *columns as usize)
}

/// The first element of other bits.
fn other_bits(found: &Tensor, meant: &Tensor) -> Option<String> {
    let width = found.dtype().bytes() as usize;
    let differ = |(a, b): (&[u8], &[u8])| a != b;
    let pairs = found.bytes().chunks(width).zip(meant.bytes().chunks(width));
    let at = pairs.map(differ).position(|differs| differs)?;
    let columns = columns(found).max(1);
    let (here, there) = (found.to_f64()[at], meant.to_f64()[at]);
    Some(format!("token {}, column {}: {here:.9e} here, {there:.9e} by the emulator", at / columns, at % columns))
}

/// A case against what was published and what the emulator made of it.
fn case(subject: &Subject) -> Result<Answer, Missing> {
    let Source::Case { given, emulated } = &subject.source else {
        return Err(Missing::Failed("a layer of real size is no case".to_string()));
    };
    let (inputs, dims) = subject.inputs(0, 0)?;
    let mut prepared = subject.prepare(&inputs, dims)?;
    let run = run(subject, &mut prepared)?;
    let output = &run.outputs[0].1;
    let mut said = Vec::new();
    if output.dtype() == DType::F32 {
        let meant = Checkpoint::read(given)?.tensor("out.hidden", DType::F32)?.0.to_f64();
        let largest = meant.iter().fold(0.0, |most: f64, y| most.max(y.abs()));
        let off = difference(&output.to_f64(), &meant, columns(output), 0.0, PUBLISHED * largest / rms(&meant));
        if off.worst > 1.0 {
            return Ok(Answer::new(Status::Failed, format!("published: {}; {:.3} times the bound", off.place, off.worst)));
        }
        said.push(format!("published to {:.1e} of the largest", off.worst * PUBLISHED));
    }
    let Some(emulated) = emulated else {
        let layer = subject.bound.layer();
        let target = &layer.target().name;
        said.push(format!("nothing emulated for {target}"));
        return Ok(Answer::new(Status::Ok, said.join("; ")));
    };
    let emulated = Checkpoint::read(emulated)?;
    if let Some(found) = run.tensor("route.experts")
        && emulated.has("route.experts")
        && let Some(place) = other_bits(found, &emulated.tensor("route.experts", DType::I32)?.0)
    {
        return Ok(Answer::new(Status::Failed, format!("experts: {place}")));
    }
    let meant = emulated.tensor("out.hidden", output.dtype())?.0;
    match output.dtype() {
        DType::F32 | DType::I32 => match other_bits(output, &meant) {
            Some(place) => return Ok(Answer::new(Status::Failed, format!("bits: {place}"))),
            None => said.push("the emulator's bits".to_string()),
        },
        DType::F16 | DType::Bf16 => {
            let unit = roundoff(output.dtype());
            let off = difference(&output.to_f64(), &meant.to_f64(), columns(output), 2.0 * unit, 4.0 * unit);
            if off.worst > 1.0 {
                return Ok(Answer::new(Status::Failed, format!("emulated: {}; {:.3} times the bound", off.place, off.worst)));
            }
            said.push(format!("the emulator's numbers to {:.2} of the bound", off.worst));
        }
    }
    Ok(Answer::new(Status::Ok, said.join("; ")))
}

/// Many runs of the same bits.
fn repeat(subject: &Subject, tokens: u64, until: Instant) -> Result<Answer, Missing> {
    let (inputs, dims) = subject.inputs(tokens, 0)?;
    let mut prepared = subject.prepare(&inputs, dims)?;
    let first = run(subject, &mut prepared)?;
    for times in 1..REPEATS {
        if Instant::now() >= until {
            return Ok(Answer::new(Status::Skipped, format!("the same bits in {times} runs, then the time was over")));
        }
        let again = run(subject, &mut prepared)?;
        for ((name, before), (_, after)) in first.outputs.iter().zip(&again.outputs) {
            if let Some(place) = other_bits(after, before) {
                return Ok(Answer::new(
                    Status::Failed,
                    format!("run {times}: {name}: {}", place.replace("the emulator", "the first run")),
                ));
            }
        }
    }
    Ok(Answer::new(Status::Ok, format!("the same bits in {REPEATS} runs")))
}

/// A graph that is captured on one set of tokens and replayed on it and on another one.
fn graph(subject: &Subject, tokens: u64, driver: &Driver) -> Result<Answer, Missing> {
    let stream = driver.stream()?;
    let sets = [subject.inputs(tokens, 0)?, subject.inputs(tokens, 1)?];
    let dims = sets[0].1;
    let mut meant = Vec::new();
    for (inputs, dims) in &sets {
        meant.push(run(subject, &mut subject.prepare(inputs, *dims)?)?);
    }
    let mut prepared = subject.prepare(&sets[0].0, dims)?;
    let plan = prepared.plan.clone();
    let captured = driver.capture(stream, || on(subject, &plan, &mut prepared, stream.order()))?;
    for turn in [0, 1, 0] {
        for (region, tensor) in prepared.batch.inputs.iter_mut().zip(&sets[turn].0) {
            region.copy_in(0, tensor.bytes())?;
        }
        let found = subject.run(&mut prepared, |_, _| captured.launch(stream).and_then(|()| driver.wait(stream)))?;
        if let Some(place) = other_bits(&found.outputs[0].1, &meant[turn].outputs[0].1) {
            return Ok(Answer::new(
                Status::Failed,
                format!("a replay: {}", place.replace("the emulator", "a run without a graph")),
            ));
        }
    }
    Ok(Answer::new(Status::Ok, "3 replays, on two sets of tokens, have the bits of runs without a graph"))
}

/// Tokens of a batch, spread over it.
fn sampled(tokens: u64) -> Vec<u64> {
    let count = SAMPLED.min(tokens);
    (0..count).map(|i| if count == 1 { 0 } else { i * (tokens - 1) / (count - 1) }).collect()
}

/// Some tokens of a layer of real size against the definition, for the experts that were picked.
fn sample(subject: &Subject, tokens: u64) -> Result<Answer, Missing> {
    let Source::Layer { .. } = subject.source else {
        return Err(Missing::Failed("a case is compared as a whole".to_string()));
    };
    let (inputs, dims) = subject.inputs(tokens, 0)?;
    let run = run(subject, &mut subject.prepare(&inputs, dims)?)?;
    compare_sampled(subject, &inputs[0], &run, dims)
}

/// A run's output at some tokens against the definition.
pub(crate) fn compare_sampled(subject: &Subject, x: &Tensor, run: &Run, dims: Dims) -> Result<Answer, Missing> {
    let Source::Layer { weights, graph } = &subject.source else {
        return Err(Missing::Failed("a case is compared as a whole".to_string()));
    };
    let places = sampled(dims.tokens);
    let observed = |name: &str| run.tensor(name).ok_or_else(|| format!("nothing is observed as {name}"));
    let (experts, pair_weights) = (observed("route.experts")?, observed("route.weights")?);
    let top_k = columns(experts);
    let rows = |tensor: &Tensor| -> Vec<Vec<f64>> {
        let (all, columns) = (tensor.to_f64(), columns(tensor));
        places.iter().map(|token| all[*token as usize * columns..][..columns].to_vec()).collect()
    };
    let picked: Vec<Vec<usize>> = rows(experts).iter().map(|row| row.iter().map(|e| *e as usize).collect()).collect();
    let meant = reference(graph, weights, rows(x).concat(), &picked)?;
    let here = rows(pair_weights);
    for (index, token) in places.iter().enumerate() {
        let there = &meant.experts[index * top_k..][..top_k];
        let sorted = |experts: &[usize]| BTreeSet::from_iter(experts.to_vec());
        if sorted(&picked[index]) != sorted(there) {
            return Ok(Answer::new(Status::Failed, format!("token {token}: experts {:?} here, {there:?} meant", picked[index])));
        }
        for (expert, weight) in picked[index].iter().zip(&here[index]) {
            let at = there.iter().position(|other| other == expert).unwrap_or_default();
            let there = meant.weights[index * top_k + at];
            if (weight - there).abs() > 1e-3 * there.abs() || weight.is_nan() {
                let what = format!("token {token}, expert {expert}: weight {weight:.6} here, {there:.6} meant");
                return Ok(Answer::new(Status::Failed, what));
            }
        }
    }
    let output = &run.outputs[0].1;
    let (unit, columns) = (roundoff(output.dtype()), columns(output));
    let found = rows(output).concat();
    let off = difference(&found, &meant.output, columns, 2.0 * unit, 4.0 * unit);
    let whole = relative_rms(&found, &meant.output);
    let size = rms(&meant.output);
    let said =
        format!("{} tokens, rms {size:.2e}: {:.2} of the bound of an element, {whole:.1e} of all", places.len(), off.worst);
    // Zeros would agree with a layer that does nothing.
    let is_near = off.worst <= 1.0 && whole <= ROWS * unit && size.is_normal();
    let place = off.place.replacen("token ", "sampled token ", 1);
    Ok(if is_near {
        Answer::new(Status::Ok, said)
    } else {
        Answer::new(Status::Failed, format!("{said}; {place}, of tokens {places:?}"))
    })
}

/// Times of single runs and of single replays, on tokens of several sets in turn.
fn time(subject: &Subject, tokens: u64, driver: &Driver) -> Result<Answer, Missing> {
    let stream = driver.stream()?;
    let (inputs, dims) = subject.inputs(tokens, 0)?;
    let mut prepared = subject.prepare(&inputs, dims)?;
    let plan = prepared.plan.clone();
    let mut others = Vec::new();
    for set in 1..SETS {
        let (inputs, _) = subject.inputs(tokens, set)?;
        let device = subject.bound.layer().device().clone();
        others.push(inputs.iter().map(|input| moec_runtime::Region::of(&device, input.bytes())).collect::<Result<Vec<_>, _>>()?);
    }
    let pairs: Vec<(Event, Event)> = (0..RUNS).map(|_| Ok((driver.event()?, driver.event()?))).collect::<Result<_, String>>()?;
    let clock = Clock { driver, stream, pairs: &pairs };
    let mut direct = |turn: usize| {
        let mut memory = prepared.batch.memory();
        if let Some(inputs) = (turn % SETS as usize).checked_sub(1) {
            memory.inputs = &others[inputs];
        }
        plan.run(&subject.bound, &mut memory, stream.order()).map_err(|error| error.to_string())
    };
    let graphs: Vec<Graph<'_>> =
        (0..SETS as usize).map(|set| driver.capture(stream, || direct(set))).collect::<Result<_, String>>()?;
    let us = clock.times(&mut direct)?;
    let graph_us = clock.times(&mut |turn| graphs[turn % graphs.len()].launch(stream))?;
    Ok(Answer { us, graph_us, ..Answer::new(Status::Ok, format!("{SETS} sets of tokens in turn")) })
}

struct Clock<'c> {
    driver: &'c Driver,
    stream: Stream,
    pairs: &'c [(Event, Event)],
}

impl Clock<'_> {
    /// Microseconds of single runs, after some that warm up.
    fn times(&self, run: &mut dyn FnMut(usize) -> Result<(), String>) -> Result<Vec<f64>, String> {
        const WARM: usize = 3;
        (0..WARM).try_for_each(&mut *run)?;
        self.driver.wait(self.stream)?;
        let mut times = Vec::new();
        let begun = Instant::now();
        // Few at a time, so that one that takes long is noticed.
        for (first, pairs) in (0..).step_by(8).zip(self.pairs.chunks(8)) {
            if !times.is_empty() && begun.elapsed().as_secs_f64() >= MEASURED {
                break;
            }
            for (turn, (begin, end)) in pairs.iter().enumerate() {
                self.driver.record(*begin, self.stream)?;
                run(first + turn)?;
                self.driver.record(*end, self.stream)?;
            }
            for (begin, end) in pairs {
                times.push(self.driver.elapsed(*begin, *end)?);
            }
        }
        Ok(times)
    }
}
