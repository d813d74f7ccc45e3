//! What the kernels that multiply by tensor cores move, counted by the emulator, against what must be moved: a layer of four experts
//! whose products fill a few tiles in each of the ways that the machines have, in both 16-bit types.
//!
//! * A warp that asks shared memory for `b` bytes in each of `n` lanes takes at least `n b / 128` passes, rounded up. No instruction takes
//!   more: no two lanes of a pass want different words of one bank.
//! * Of the sectors that a launch asks global memory for, nearly all bytes are wanted. All pitches are multiples of 32 bytes here. The
//!   lists that a sort makes have no pitch, and go wherever the routing sends them.
//! * Few rows: weights are read once, those of the experts hit alone.
//! * Many rows: those that fill up a tile are not read.
//! * All launches together, each of which reads what it reads from memory once: little more than the bound that `moec plan` prints, and what
//!   it says of them.

use std::collections::BTreeMap;

use moec::diagnostics::Source;
use moec::emulate::{Emulation, emulate, options, schedules};
use moec::import::Entry;
use moec::pipeline::lower;
use moec::plan::plan;
use moec::{package, random};
use moec_codegen::{Options, codegen};
use moec_ir::rewrite::{Bound, bound};
use moec_runtime::Package;
use moec_runtime::emulator::{Counters, Emulated, Moved};
use moec_runtime::package::Dims;
use moec_tests::built::force;
use moec_tests::{Example, machine};

const HIDDEN: u64 = 256;
/// Not a whole number of tiles of 128 columns, nor of steps of 128 along k.
const FFN: u64 = 320;
const EXPERTS: u64 = 4;
const TOP_K: u64 = 2;
/// Tokens of batches of few rows: no expert has more of them than the lowest tile, so that each is read once.
const FEW: [u64; 2] = [1, 8];
/// Tokens of a batch of which every expert has some, and tiles are not full.
const MANY: u64 = 50;
/// The rows between the two products.
const INTERMEDIATE: &str = "grouped_gemm_gate_up_out";
/// Bytes of an element.
const BYTES: u64 = 2;
const SECTOR: u64 = 32;

/// What is asked of a way to compute the products, where the ways differ.
struct Bars {
    /// Rows and columns of a tile; none where the model chooses.
    tile: Option<[u64; 2]>,
    /// Rows that a tile reads beside those that are there, at most.
    rows_beside: u64,
    /// Sectors beyond the end of a row that a tile reads of each, at most.
    sectors_beside: u64,
}

const BARS: Bars = Bars { tile: None, rows_beside: 0, sectors_beside: 0 };
/// Of the sectors that a launch touches, at least so many of a hundred are wanted.
const SECTORS_WANTED: u64 = 95;

fn example(dtype: &str) -> Example {
    let text = format!(
        "[moe]\nname = \"traffic\"\nhidden = {HIDDEN}\nexperts = {EXPERTS}\n[router]\nmode = \"token_choice\"\ntop_k = {TOP_K}\n\
         score = \"softmax\"\norder = \"score_topk\"\nrenorm = \"sum\"\n[expert]\nintermediate = {FFN}\nactivation = \"silu\"\n\
         gated = true\n[tokens]\nmax = 4096\n[numerics]\ndtype = \"{dtype}\"\n"
    );
    let source = Source { name: "traffic".to_string(), text };
    let spec = moec::spec::parse(&source).unwrap();
    Example { name: "traffic".to_string(), text: source.text, spec }
}

#[test]
fn products_through_shared_memory_move_what_they_must() {
    hold("sm_80", Some("mma(64 by 64)"), &["bf16", "f16"], &Bars { tile: Some([64, 64]), ..BARS });
    hold("sm_90a", Some("mma(16 by 64)"), &["bf16"], &Bars { tile: Some([16, 64]), ..BARS });
}

#[test]
fn streams_move_what_they_must() {
    // A warp whose part of the last step is beyond K reads the beginning of each row.
    let bars = Bars { sectors_beside: 3, ..BARS };
    hold("sm_80", Some("stream(8 by 16)"), &["bf16", "f16"], &Bars { tile: Some([8, 16]), ..bars });
    // Where the second eight rows of a tile are empty they repeat the last one.
    hold("sm_90a", Some("stream(16 by 16)"), &["bf16"], &Bars { tile: Some([16, 16]), rows_beside: 1, ..bars });
}

#[test]
fn groups_move_what_they_must() {
    hold("sm_90a", Some("group(128 by 128)"), &["bf16", "f16"], &Bars { tile: Some([128, 128]), ..BARS });
    hold("sm_90a", Some("group(64 by 256)"), &["bf16"], &Bars { tile: Some([64, 256]), ..BARS });
}

#[test]
fn twins_move_what_they_must() {
    hold("sm_90a", Some("twin(128 by 128)"), &["bf16", "f16"], &Bars { tile: Some([128, 128]), ..BARS });
    hold("sm_90a", Some("twin(256 by 128)"), &["bf16"], &Bars { tile: Some([256, 128]), ..BARS });
}

#[test]
fn what_the_model_chooses_moves_what_it_must() {
    for target in ["sm_80", "sm_90a"] {
        hold(target, None, &["bf16"], &BARS);
    }
}

/// Holds the layer to the bars, in these types, in one way or in those that the model chooses.
fn hold(target: &str, way: Option<&str>, dtypes: &[&str], bars: &Bars) {
    for dtype in dtypes {
        let example = example(dtype);
        let machine = machine(target);
        let mut built = (&machine, lower(&example.spec, Entry::Layer, &machine).unwrap(), Vec::new());
        match way {
            Some(way) => force(&mut built, way).unwrap(),
            None => built.2 = codegen(&built.1.program, &machine, &Options::default()).unwrap(),
        }
        let built = [built];
        let package = package::package(&example.spec, Entry::Layer, &example.text, &built).unwrap();
        for tokens in FEW.into_iter().chain([MANY]) {
            let what = format!("{dtype} on {target} by {}, T = {tokens}", way.unwrap_or("the model"));
            let batch = Batch::run(&package, target, tokens, what);
            batch.hold_passes();
            batch.hold_sectors();
            if tokens == MANY {
                batch.hold_rows(bars);
                // Where a tile has all rows of an expert, its weights are read once, also by two blocks that make it together.
                if bars.tile.is_some_and(|[rows, _]| batch.pairs.values().all(|pairs| *pairs <= rows)) {
                    batch.hold_weights();
                }
            } else {
                batch.hold_weights();
            }
            let plan = plan("traffic", &[(&machine, &built[0].1, &[])], &[tokens]).unwrap();
            batch.hold_all(&bound(&built[0].1.graph, &machine, tokens), plan.targets[0].batches[0].total.bytes);
        }
    }
}

/// A batch that was run.
struct Batch {
    what: String,
    launches: Vec<Emulated>,
    tokens: u64,
    /// By expert, its pairs.
    pairs: BTreeMap<u64, u64>,
}

impl Batch {
    fn run(package: &Package, target: &str, tokens: u64, what: String) -> Batch {
        let (manifest, dims) = (package.manifest(), Dims::tokens(tokens));
        let (weights, inputs) = (random::weights(manifest, 3).unwrap(), random::inputs(manifest, dims, 3).unwrap());
        let options = options(target, schedules(1, 1)[0]);
        let Emulation { run, launches } = emulate(package, target, options, &weights, &inputs, dims, 0xab).unwrap();
        let mut pairs = BTreeMap::new();
        for expert in run.expect("a run without findings").tensor("route.experts").unwrap().to_f64() {
            *pairs.entry(expert as u64).or_default() += 1;
        }
        Batch { what, launches, tokens, pairs }
    }

    fn hold_passes(&self) {
        for Emulated { symbol, report, .. } in &self.launches {
            let (used, needed) = (report.counters.wavefronts, report.counters.wavefronts_needed);
            // Where a sort counts is where the routing sends it.
            let most = if symbol.contains("sort") { needed * 101 / 100 } else { needed };
            assert!(used <= most, "{}: {symbol}: {used} passes of shared memory, {needed} without conflicts", self.what);
        }
    }

    fn hold_sectors(&self) {
        for Emulated { symbol, report, .. } in self.launches.iter().filter(|launch| !launch.symbol.contains("sort")) {
            let (touched, wanted) = (report.counters.sectors, report.counters.sectors_needed);
            assert!(
                wanted * 100 >= touched * SECTORS_WANTED,
                "{}: {symbol}: {wanted} of {touched} sectors are wanted",
                self.what
            );
        }
    }

    /// What the launches of such a name did with buffers of such a name.
    fn moved(&self, launch: &str, buffer: &str) -> Moved {
        let launches = self.launches.iter().filter(|of| of.symbol.contains(launch));
        let mut all = Counters::default();
        launches.for_each(|of| all.add(&of.report.counters));
        all.buffers.get(buffer).copied().unwrap_or_default()
    }

    /// Sectors of the weights of the experts that are hit.
    fn hit(&self) -> u64 {
        self.pairs.len() as u64 * sectors(3 * HIDDEN * FFN)
    }

    fn hold_weights(&self) {
        let (hit, read) = (self.hit(), ["gate", "up", "down"].map(|weight| self.moved("gemm", weight).read));
        let touched: u64 = read.iter().map(|read| read.touched).sum();
        assert_eq!(read.iter().map(|read| read.distinct).sum::<u64>(), hit, "{}: sectors of weights", self.what);
        assert!(touched * 100 <= hit * 102, "{}: {touched} sectors of weights are read, {hit} are hit", self.what);
    }

    /// Each row that is there is read once by each tile beside another, and written once.
    fn hold_rows(&self, bars: &Bars) {
        let pairs: u64 = self.pairs.values().sum();
        assert_eq!(pairs, self.tokens * TOP_K);
        assert!(self.pairs.len() as u64 == EXPERTS && self.pairs.values().any(|pairs| pairs % 8 != 0), "no rows are missing");
        for (launch, rows, k, out, n) in
            [("gate_up", "x", HIDDEN, INTERMEDIATE, FFN), ("down", INTERMEDIATE, FFN, "grouped_gemm_down_out", HIDDEN)]
        {
            let (read, written) = (self.moved(launch, rows).read, self.moved(launch, out).written);
            let what = format!("{}: rows of {launch}", self.what);
            assert_eq!(written.distinct, pairs * sectors(n), "{what}");
            let Some([tile_rows, columns]) = bars.tile else { continue };
            let tiles: u64 = self.pairs.values().map(|pairs| pairs.div_ceil(tile_rows)).sum();
            let least = pairs * sectors(k) * n.div_ceil(columns);
            let most = (pairs + bars.rows_beside * tiles) * (sectors(k) + bars.sectors_beside) * n.div_ceil(columns);
            assert!((least..=most).contains(&read.touched), "{what}: {read:?}, not {least} to {most}");
        }
    }

    /// Against the bound of the plan, that of the experts that this batch hits, and what the plan says that the launches move.
    fn hold_all(&self, bound: &Bound, planned: u64) {
        let moved = self.launches.iter().flat_map(|launch| launch.report.counters.buffers.values());
        let bytes: u64 = moved.map(|moved| (moved.read.distinct + moved.written.distinct) * SECTOR).sum();
        let router = EXPERTS * HIDDEN * BYTES;
        let of_batch = router + self.hit() * SECTOR + bound.input_bytes + bound.output_bytes;
        for least in [bound.bytes(), of_batch] {
            assert!(bytes * 100 <= least * 115, "{}: {bytes} bytes are moved, {least} must be", self.what);
        }
        assert!(bytes >= of_batch, "{}: {bytes} bytes are moved, {of_batch} must be", self.what);
        assert!(bytes.abs_diff(planned) * 100 <= planned, "{}: {bytes} bytes are moved, planned are {planned}", self.what);
    }
}

/// Sectors of so many elements.
fn sectors(elements: u64) -> u64 {
    elements * BYTES / SECTOR
}
