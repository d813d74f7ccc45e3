//! Matrix instructions of the hardware against the emulator's models of them, bit for bit: a kernel of one instruction's kind,
//! many blocks of random operands, a few steps that add to the same sums.

use ptx_emulator::{Arg, Fill, Launch, Memory, Numerics, Options, launch, parse};

use crate::driver::Driver;

const ENTRY: &str = "probe";
/// Blocks, each with operands of its own.
const BLOCKS: u32 = 64;
/// Products that are added to the same sums.
const STEPS: usize = 4;
/// The widths of `wgmma` that are tried: the least, the most, and one between.
const WIDTHS: [usize; 3] = [8, 64, 256];

/// A kernel to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// `mma.m16n8k16`, and `mma.m16n8k8` of tf32.
    Mma(Type),
    /// `wgmma.m64nNk16`, both factors in shared memory.
    Wgmma(Type, usize),
}

/// The type of the factors; sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Bf16,
    F16,
    Tf32,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Type::Bf16 => "bf16",
            Type::F16 => "f16",
            Type::Tf32 => "tf32",
        }
    }

    /// The length of a product.
    fn depth(self) -> u32 {
        match self {
            Type::Bf16 | Type::F16 => 16,
            Type::Tf32 => 8,
        }
    }

    /// The elements that 32 random bits are: any sign and fraction, exponents of a range in which sums neither overflow nor get
    /// subnormal.
    fn elements(self, bits: u32) -> u32 {
        let halves = |element: &dyn Fn(u32) -> u32| element(bits & 0xffff) | element(bits >> 16) << 16;
        match self {
            Type::Bf16 => halves(&|bits| (bits & 0x807f) | ((bits >> 7 & 15) + 120) << 7),
            Type::F16 => halves(&|bits| (bits & 0x83ff) | ((bits >> 10 & 15) + 8) << 10),
            Type::Tf32 => (bits & 0x807f_e000) | ((bits >> 23 & 15) + 120) << 23,
        }
    }
}

/// All of them.
pub(crate) fn probes() -> Vec<Probe> {
    let types = [Type::Bf16, Type::F16];
    let wgmma = types.into_iter().flat_map(|ty| WIDTHS.map(|width| Probe::Wgmma(ty, width)));
    types.into_iter().chain([Type::Tf32]).map(Probe::Mma).chain(wgmma).collect()
}

/// The published model of a machine of that compute capability; `None` where there is none.
fn model(capability: u32) -> Option<Numerics> {
    match capability {
        80 | 86 | 87 => Some(Numerics::Ampere),
        89 => Some(Numerics::Ada),
        90 | 100 | 103 | 120 | 121 => Some(Numerics::Hopper),
        _ => None,
    }
}

/// How a probe went.
pub(crate) enum Tried {
    Same(String),
    /// Where, and what both say.
    Differs(String),
    /// Why the machine cannot be asked.
    Skipped(String),
}

/// Runs a probe on both.
///
/// # Errors
/// What the driver or the emulator says.
pub(crate) fn try_probe(probe: Probe, driver: &Driver) -> Result<Tried, String> {
    let capability = driver.gpu()?.capability;
    let Some(numerics) = model(capability) else {
        return Ok(Tried::Skipped(format!("there is no model of compute capability {capability}")));
    };
    if matches!(probe, Probe::Wgmma(..)) && capability != 90 {
        return Ok(Tried::Skipped(format!("compute capability {capability} has no wgmma")));
    }
    let (text, input) = (probe.ptx(), probe.input());
    let meant = probe.emulated(&text, &input, numerics)?;
    let mut found = vec![0; meant.len()];
    driver.compute(&text, ENTRY, BLOCKS, probe.threads(), &input, &mut found)?;
    let word = |bytes: &[u8], i: usize| f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]);
    let count = meant.len() / 4;
    let differ = |i: &usize| word(&found, *i).to_bits() != word(&meant, *i).to_bits();
    let block = count / BLOCKS as usize;
    let sums = block / probe.threads() as usize;
    Ok(match (0..count).find(differ) {
        None => Tried::Same(format!("{count} sums have the bits of the model {numerics:?}")),
        Some(i) => Tried::Differs(format!(
            "{} of {count} sums differ from the model {numerics:?}; first sum {} of thread {} in block {}: {:e} here, {:e} there",
            (0..count).filter(differ).count(),
            i % sums,
            i % block / sums,
            i / block,
            word(&found, i),
            word(&meant, i),
        )),
    })
}

impl Probe {
    /// `mma.bf16`, `wgmma.n64.f16`.
    pub(crate) fn name(self) -> String {
        match self {
            Probe::Mma(ty) => format!("mma.{}", ty.name()),
            Probe::Wgmma(ty, width) => format!("wgmma.n{width}.{}", ty.name()),
        }
    }

    fn ty(self) -> Type {
        match self {
            Probe::Mma(ty) | Probe::Wgmma(ty, _) => ty,
        }
    }

    fn threads(self) -> u32 {
        match self {
            Probe::Mma(_) => 32,
            Probe::Wgmma(..) => 128,
        }
    }

    /// Sums of a thread.
    fn sums(self) -> usize {
        match self {
            Probe::Mma(_) => 4,
            Probe::Wgmma(_, width) => width / 2,
        }
    }

    /// Bytes of a block's factors: of `mma` 6 registers a thread and step, of `wgmma` rows of 128 bytes.
    fn factor_bytes(self) -> usize {
        match self {
            Probe::Mma(_) => 32 * 24 * STEPS,
            Probe::Wgmma(_, width) => (64 + width) * 128,
        }
    }

    fn sum_bytes(self) -> usize {
        self.threads() as usize * self.sums() * 4
    }

    /// A block's factors, then what its sums begin with.
    fn input(self) -> Vec<u8> {
        let mut state = self
            .name()
            .bytes()
            .fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state >> 40
        };
        let mut bytes = Vec::new();
        for _ in 0..BLOCKS {
            let bits = |random: &mut dyn FnMut() -> u64| random() as u32 ^ (random() as u32) << 16;
            bytes.extend((0..self.factor_bytes() / 4).flat_map(|_| self.ty().elements(bits(&mut random)).to_le_bytes()));
            bytes.extend((0..self.sum_bytes() / 4).flat_map(|_| {
                let (fraction, exponent) = (random() as u32 & 0x807f_ffff, random() as u32 % 16 + 120);
                (fraction | (random() as u32 & 1) << 31 | exponent << 23).to_le_bytes()
            }));
        }
        bytes
    }

    fn emulated(self, text: &str, input: &[u8], numerics: Numerics) -> Result<Vec<u8>, String> {
        let module = parse(text).map_err(|error| error.to_string())?;
        let mut memory = Memory::new();
        let from = memory.upload("x", input).map_err(|error| error.to_string())?;
        let bytes = self.sum_bytes() * BLOCKS as usize;
        let to = memory.alloc("y", bytes as u64, Fill::Uninitialised(0)).map_err(|error| error.to_string())?;
        let entry = module.entry(ENTRY).ok_or("the probe has no entry")?;
        let args = entry.pack(&memory, &[Arg::Buffer(from), Arg::Buffer(to)]).map_err(|error| error.to_string())?;
        let shape = Launch { grid: [BLOCKS, 1, 1], block: [self.threads(), 1, 1], shared_bytes: 0, early: false, args };
        let options = Options { numerics, ..Options::default() };
        let report = launch(&module, ENTRY, &shape, &mut memory, &options).map_err(|error| error.to_string())?;
        match report.findings.first() {
            Some(finding) => Err(finding.to_string()),
            None => memory.content(to).map_err(|error| error.to_string()),
        }
    }

    /// The kernel, as a text of PTX that all machines with the instruction take.
    pub(crate) fn ptx(self) -> String {
        let (version, target) = match self {
            Probe::Mma(_) => ("7.0", "sm_80"),
            Probe::Wgmma(..) => ("8.0", "sm_90a"),
        };
        let (factors, sums) = (self.factor_bytes(), self.sums());
        let mut text = format!(
            ".version {version}\n.target {target}\n.address_size 64\n\n.visible .entry {ENTRY}(.param .u64 x, .param .u64 y)\n\
             .maxntid {}\n{{\n.reg .pred %p<2>;\n.reg .b32 %r<16>;\n.reg .b64 %d<16>;\n.reg .f32 %f<{sums}>;\n",
            self.threads()
        );
        if matches!(self, Probe::Wgmma(..)) {
            text += &format!(".shared .align 1024 .b8 tile[{factors}];\n");
        }
        text += &format!(
            "ld.param.u64 %d1, [x];\nld.param.u64 %d2, [y];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x;\n\
             mul.wide.u32 %d3, %r2, {};\nadd.s64 %d1, %d1, %d3;\nmul.wide.u32 %d3, %r2, {};\nadd.s64 %d2, %d2, %d3;\n\
             mul.wide.u32 %d3, %r1, {};\nadd.s64 %d4, %d1, %d3;\nadd.s64 %d5, %d2, %d3;\n",
            factors + self.sum_bytes(),
            self.sum_bytes(),
            4 * sums
        );
        for sum in 0..sums {
            text += &format!("ld.global.f32 %f{sum}, [%d4+{}];\n", factors + 4 * sum);
        }
        text += &self.products();
        for sum in 0..sums {
            text += &format!("st.global.f32 [%d5+{}], %f{sum};\n", 4 * sum);
        }
        text + "ret;\n}\n"
    }

    fn products(self) -> String {
        let (ty, depth) = (self.ty().name(), self.ty().depth());
        let all = (0..self.sums()).map(|sum| format!("%f{sum}")).collect::<Vec<_>>().join(", ");
        let mut text = String::new();
        match self {
            Probe::Mma(_) => {
                text += "mul.wide.u32 %d6, %r1, 24;\nadd.s64 %d6, %d1, %d6;\n";
                for step in 0..STEPS {
                    for register in 0..6 {
                        text += &format!("ld.global.b32 %r{}, [%d6+{}];\n", 4 + register, 768 * step + 4 * register);
                    }
                    text += &format!(
                        "mma.sync.aligned.m16n8k{depth}.row.col.f32.{ty}.{ty}.f32 \
                         {{{all}}}, {{%r4, %r5, %r6, %r7}}, {{%r8, %r9}}, {{{all}}};\n"
                    );
                }
            }
            Probe::Wgmma(_, width) => {
                text += "mov.u32 %r3, tile;\nmul.wide.u32 %d6, %r1, 16;\nadd.s64 %d6, %d1, %d6;\n\
                         shl.b32 %r4, %r1, 4;\nadd.u32 %r4, %r3, %r4;\n";
                for part in (0..self.factor_bytes()).step_by(2048) {
                    // The last part may be of fewer threads.
                    let threads = (self.factor_bytes() - part).min(2048) / 16;
                    text += &format!(
                        "setp.lt.u32 %p1, %r1, {threads};\n@%p1 ld.global.v4.b32 {{%r5, %r6, %r7, %r8}}, [%d6+{part}];\n"
                    );
                    text += &format!("@%p1 st.shared.v4.b32 [%r4+{part}], {{%r5, %r6, %r7, %r8}};\n");
                }
                // Groups of 8 rows are 1024 bytes apart, the 16-byte parts of a row in the order of the 128-byte swizzle.
                text += "fence.proxy.async;\nbar.sync 0;\ncvt.u64.u32 %d7, %r3;\nshr.u64 %d7, %d7, 4;\n\
                         or.b64 %d7, %d7, 0x4000004000010000;\n\
                         add.u64 %d8, %d7, 512;\nsetp.eq.u32 %p1, %r1, %r1;\nwgmma.fence.sync.aligned;\n";
                for step in 0..STEPS {
                    text += &format!("add.u64 %d9, %d7, {0};\nadd.u64 %d10, %d8, {0};\n", 2 * step);
                    text += &format!(
                        "wgmma.mma_async.sync.aligned.m64n{width}k16.f32.{ty}.{ty} {{{all}}}, %d9, %d10, %p1, 1, 1, 0, 0;\n"
                    );
                }
                text += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is compared on a GPU is defined: clean on the emulator, finite, and another result in each model, or there is nothing
    /// to tell.
    #[test]
    fn every_probe_tells_models_apart() {
        for probe in probes() {
            let (text, input) = (probe.ptx(), probe.input());
            let bits =
                |numerics| probe.emulated(&text, &input, numerics).unwrap_or_else(|error| panic!("{}: {error}", probe.name()));
            let hopper = bits(Numerics::Hopper);
            let (words, _) = hopper.as_chunks::<4>();
            assert!(words.iter().all(|word| f32::from_le_bytes(*word).is_finite()), "{}", probe.name());
            assert_ne!(hopper, bits(Numerics::Plain), "{}", probe.name());
            if let Probe::Mma(_) = probe {
                assert_ne!(hopper, bits(Numerics::Ampere), "{}", probe.name());
            }
        }
    }
}
