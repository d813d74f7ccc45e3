//! The model against times that others have published: their tiles and launches, priced by the functions that price ours.
//!
//! The table is a snapshot. Where a ratio is far from one, `ir/README.md` says which term is not in the model.

use std::fmt::Write;

use moec_ir::rewrite::{Amounts, Price, Spread};
use moec_ir::tiling::{self, Kind, Product};
use moec_ir::{DType, Machine, Tiling};

/// A layer with gated experts in bf16.
#[derive(Clone, Copy)]
struct Layer {
    tokens: u64,
    hidden: u64,
    ffn: u64,
    experts: u64,
    top_k: u64,
}

impl Layer {
    fn pairs(self) -> u64 {
        self.tokens * self.top_k
    }

    /// Of the three products of each pair.
    fn flops(self) -> u64 {
        6 * self.pairs() * self.hidden * self.ffn
    }

    /// A product of an expert's weight of `[n, k]` with all pairs, in such tiles. It reads `rows` bytes of rows.
    fn product(self, tiling: Tiling, [n, k]: [u64; 2], rows: u64, out: u64, machine: &Machine) -> Price {
        let product = Product { rows: DType::BF16, n, k, weights: vec![DType::BF16], tf32: false };
        let groups = [self.pairs(), Spread::Picks { top_k: self.top_k, of: self.experts }.hit(self.experts, self.tokens)];
        let (of_group, work) = (2 * n * k, tiling::flops(tiling, &product, groups, machine));
        let weights = of_group * groups[1] * tiling::passes(tiling, groups, of_group, machine);
        let flops = 2 * self.pairs() * n * k;
        let feeding = tiling::feeding(tiling, &product, groups, weights, machine);
        Price::roofline(machine, Amounts { launches: 1, bytes: weights + rows + out, flops, work }).feeding(feeding)
    }
}

/// A kernel that moves so many bytes.
fn stream(bytes: u64, machine: &Machine) -> Price {
    Price::roofline(machine, Amounts { launches: 1, bytes, flops: 0, work: 0 })
}

/// Their launches begin when those before them have ended.
fn h200() -> Machine {
    Machine { launch_ps: 3_000_000, ..Machine::named("sm_90a").unwrap() }
}

/// The same processors with the bandwidth of NVIDIA's data sheet.
fn h100() -> Machine {
    Machine { bytes_per_us: 3_350_000, ..h200() }
}

/// vLLM's `fused_experts` in Triton on an H200: T, `BLOCK_SIZE_M`, `BLOCK_SIZE_N`, microseconds (tuned). Times: the table of
/// github.com/vllm-project/vllm/pull/44818. Tiles: `configs/E=128,N=704,device_name=NVIDIA_H200.json` there.
const VLLM: [(u64, [u32; 2], f64); 18] = [
    (1, [16, 256], 185.1),
    (2, [16, 64], 188.9),
    (4, [16, 64], 185.1),
    (8, [16, 64], 204.4),
    (16, [16, 64], 264.1),
    (24, [16, 64], 314.4),
    (32, [16, 64], 324.9),
    (48, [16, 64], 365.5),
    (64, [16, 128], 384.1),
    (96, [16, 64], 390.3),
    (128, [16, 64], 396.4),
    (256, [32, 64], 419.6),
    (512, [64, 128], 442.3),
    (1024, [64, 128], 528.4),
    (1536, [128, 128], 582.0),
    (2048, [128, 256], 728.2),
    (3072, [128, 256], 962.9),
    (4096, [128, 256], 1189.6),
];

/// Top-k, the sort in two launches, a product that gathers, the activation, a product, a sum over each token's experts.
fn vllm(tokens: u64, [tile_rows, columns]: [u32; 2]) -> Price {
    let tile = Tiling { kind: Kind::Mma, rows: tile_rows, columns };
    let layer = Layer { tokens, hidden: 2816, ffn: 704, experts: 128, top_k: 8 };
    let (machine, pairs) = (&h200(), layer.pairs());
    let Layer { hidden, ffn, experts, .. } = layer;
    let rows = 2 * pairs;
    [
        stream(4 * tokens * experts, machine),
        stream(4 * pairs, machine),
        stream(8 * pairs, machine),
        layer.product(tile, [2 * ffn, hidden], 2 * tokens * hidden, rows * 2 * ffn, machine),
        stream(rows * 3 * ffn, machine),
        layer.product(tile, [hidden, ffn], rows * ffn, rows * hidden, machine),
        stream(rows * hidden + 2 * tokens * hidden, machine),
    ]
    .into_iter()
    .sum()
}

/// SonicMoE forward on an H100, bf16: T, hidden, ffn, experts, k, TFLOP/s. arXiv 2512.14080, figure 14, read off the chart to +-5.
const SONIC: [(u64, u64, u64, u64, u64, f64); 12] = [
    (40960, 768, 256, 128, 8, 338.0),
    (40960, 768, 512, 64, 4, 400.0),
    (40960, 768, 1024, 32, 2, 406.0),
    (24576, 1536, 256, 128, 8, 367.0),
    (24576, 1536, 512, 64, 4, 435.0),
    (24576, 1536, 1024, 32, 2, 467.0),
    (32768, 4096, 256, 256, 16, 430.0),
    (32768, 4096, 512, 128, 8, 503.0),
    (32768, 4096, 1024, 64, 4, 553.0),
    (32768, 4096, 512, 256, 16, 518.0),
    (32768, 4096, 1024, 128, 8, 560.0),
    (32768, 4096, 2048, 64, 4, 597.0),
];

/// Logits, top-k, a sort in two launches, a product that gathers and ends in the activation, a product, a sum over each token's experts;
/// the products in these tiles. Theirs have 128 by 256 (section 4 of the paper), and are computed by `wgmma`.
fn sonic(layer: Layer, tile: Tiling) -> Price {
    let (machine, pairs) = (&h100(), layer.pairs());
    let Layer { tokens, hidden, ffn, experts, .. } = layer;
    let rows = 2 * pairs;
    [
        stream(2 * tokens * hidden + 2 * experts * hidden + 4 * tokens * experts, machine),
        stream(4 * tokens * experts, machine),
        stream(4 * pairs, machine),
        stream(8 * pairs, machine),
        layer.product(tile, [2 * ffn, hidden], 2 * tokens * hidden, rows * ffn, machine),
        layer.product(tile, [hidden, ffn], rows * ffn, rows * hidden, machine),
        stream(rows * hidden + 2 * tokens * hidden, machine),
    ]
    .into_iter()
    .sum()
}

/// Rows of a table: what is priced, microseconds published and modelled.
type Row = (String, f64, Price);

fn table(title: &str, rows: &[Row]) -> String {
    let mut text = format!("{title}\n{:<30}{:>11}{:>11}{:>8}  bound by\n", "", "published", "modelled", "ratio");
    let mut ratios = Vec::new();
    for (name, published, price) in rows {
        let modelled = price.total() as f64 / 1e6;
        ratios.push(modelled / published);
        let ratio = modelled / published;
        writeln!(text, "{name:<30}{published:>11.1}{modelled:>11.1}{ratio:>8.2}  {:?}", price.limit()).unwrap();
    }
    ratios.sort_by(f64::total_cmp);
    let (least, median, most) = (ratios[0], ratios[ratios.len() / 2], ratios[ratios.len() - 1]);
    text + &format!("ratio {least:.2} to {most:.2}, median {median:.2}\n\n")
}

fn vllm_rows(is_in: impl Fn(u64) -> bool) -> Vec<Row> {
    let rows = VLLM.into_iter().filter(|(tokens, ..)| is_in(*tokens));
    let row =
        |(tokens, tile, us): (u64, [u32; 2], f64)| (format!("T = {tokens}, {} by {}", tile[0], tile[1]), us, vllm(tokens, tile));
    rows.map(row).collect()
}

fn sonic_rows(kind: Kind, columns: u32) -> Vec<Row> {
    let tile = Tiling { kind, rows: 128 * kind.blocks(), columns };
    let row = |(tokens, hidden, ffn, experts, top_k, tflops): (u64, u64, u64, u64, u64, f64)| {
        let layer = Layer { tokens, hidden, ffn, experts, top_k };
        let published = layer.flops() as f64 / (tflops * 1e6);
        (format!("{tokens} x {hidden}, {ffn}/{experts}/{top_k}"), published, sonic(layer, tile))
    };
    SONIC.into_iter().map(row).collect()
}

#[test]
fn published_times() {
    let launches = "vLLM, H200, 128 experts, ffn 704, hidden 2816, k 8: us, where launches take the time";
    let bytes = "vLLM, where weights take the time";
    let tiles = "vLLM, where tiles take the time";
    let sonic = |kind: Kind, columns: u32| {
        let rows = 128 * kind.blocks();
        let title = format!("SonicMoE, H100, as {}({rows} by {columns}): us by T x hidden, ffn/experts/k", kind.word());
        table(&title, &sonic_rows(kind, columns))
    };
    let text = table(launches, &vllm_rows(|tokens| tokens < 16))
        + &table(bytes, &vllm_rows(|tokens| (16..1024).contains(&tokens)))
        + &table(tiles, &vllm_rows(|tokens| tokens >= 1024))
        + &sonic(Kind::Twin, 256)
        + &sonic(Kind::Group, 256)
        + &sonic(Kind::Group, 128)
        + &sonic(Kind::Mma, 256);
    insta::assert_snapshot!("peers", text.trim_end());
}
