//! A package for people: what its manifest says, in a page.

use std::io::{self, Write};

use moec_runtime::Package;
use moec_runtime::package::{Buffer, Dims, ImageKind, Kernel, Launch, Manifest, Role, Target, workspace};

use crate::files::bytes_text;

/// Token counts at which the workspace is shown.
const SHOWN_TOKENS: [u64; 4] = [1, 64, 4096, 65536];

/// Prints the summary.
pub(super) fn print(package: &Package, file_bytes: u64, out: &mut dyn Write) -> io::Result<()> {
    let manifest = package.manifest();
    let Manifest { compiler, layer, entry, spec_sha256, dtype, max_tokens, dims, .. } = manifest;
    writeln!(out, "package     {layer}, {}, by {compiler}, spec {}", bytes_text(file_bytes), &spec_sha256[..12])?;
    let dims: Vec<String> = dims.iter().map(|dim| format!("{} {}", dim.name, dim.value)).collect();
    writeln!(out, "layer       {}, {}, T up to {max_tokens}", dims.join(", "), dtype.name())?;
    writeln!(out, "entry       {}", entry.name())?;
    for (title, role) in
        [("inputs", Role::Input), ("outputs", Role::Output), ("weights", Role::Weight), ("prepared", Role::Prepared)]
    {
        let mut buffers = manifest.buffers.iter().filter(|buffer| buffer.role == role).peekable();
        if role == Role::Prepared && buffers.peek().is_none() {
            continue;
        }
        let listed: Vec<String> = buffers.map(|buffer| buffer_text(buffer, &buffer.name)).collect();
        writeln!(out, "{title:<11} {}", listed.join("\n            "))?;
    }
    let observed = manifest.buffers.iter().filter_map(|buffer| Some(buffer_text(buffer, buffer.observe.as_deref()?)));
    let observed: Vec<String> = observed.collect();
    if !observed.is_empty() {
        writeln!(out, "observed    {}", observed.join("\n            "))?;
    }
    manifest.targets.iter().try_for_each(|target| print_target(package, target, out))
}

fn buffer_text(buffer: &Buffer, name: &str) -> String {
    let shape: Vec<String> = buffer.shape.iter().map(ToString::to_string).collect();
    format!("{name} {}[{}]", buffer.dtype.name(), shape.join(", "))
}

fn print_target(package: &Package, target: &Target, out: &mut dyn Write) -> io::Result<()> {
    let manifest = package.manifest();
    let images = target.images.iter().filter_map(|index| manifest.images.get(*index as usize)).map(|image| {
        let kind = match image.kind {
            ImageKind::Ptx => "PTX",
            ImageKind::Cubin => "cubin",
            ImageKind::SharedObject => "object",
        };
        format!("{kind} {}", bytes_text(image.length))
    });
    let needs = match (&target.ptx_version, &target.least_driver) {
        (Some(ptx), Some(driver)) => format!("; PTX {ptx}, a driver of CUDA {driver} or newer"),
        (Some(_) | None, Some(_) | None) => String::new(),
    };
    writeln!(out, "\ntarget      {}: {}{needs}", target.name, images.collect::<Vec<_>>().join(", "))?;
    let tokens = SHOWN_TOKENS.into_iter().filter(|tokens| *tokens <= manifest.max_tokens);
    let at = tokens.filter_map(|tokens| {
        let bytes = workspace(manifest, target, Dims::tokens(tokens)).ok()?.bytes;
        Some(format!("{} at T = {tokens}", bytes_text(bytes)))
    });
    writeln!(out, "workspace   {}", at.collect::<Vec<_>>().join(", "))?;
    let width = target.kernels.iter().map(|kernel| kernel.symbol.len()).max().unwrap_or(0);
    for kernel in &target.kernels {
        writeln!(out, "  kernel    {:<width$}  {}", kernel.symbol, kernel_text(kernel))?;
    }
    if !target.prepare.is_empty() {
        writeln!(out, "prepare")?;
        print_launches((manifest, target), &target.prepare, width, out)?;
    }
    for regime in &target.regimes {
        let bound = regime.tokens_up_to.map_or("any T".to_string(), |most| format!("T <= {most}"));
        writeln!(out, "launches    {bound}")?;
        print_launches((manifest, target), &regime.launches, width, out)?;
    }
    if !target.update.is_empty() {
        writeln!(out, "update")?;
        print_launches((manifest, target), &target.update, width, out)?;
    }
    Ok(())
}

fn print_launches(
    (manifest, target): (&Manifest, &Target),
    launches: &[Launch],
    width: usize,
    out: &mut dyn Write,
) -> io::Result<()> {
    launches.iter().try_for_each(|launch| {
        let symbol = target.kernels.get(launch.kernel as usize).map_or("?", |kernel| kernel.symbol.as_str());
        let early = if launch.early { ", early" } else { "" };
        let counted = launch.working.as_ref().and_then(|working| Some((manifest.buffers.get(working.buffer as usize)?, working)));
        let working =
            counted.map_or(String::new(), |(buffer, working)| format!(", {} * {} of them with work", buffer.name, working.each));
        let follows = if launch.follows() { ", each after its part of the launch before" } else { "" };
        writeln!(out, "  {symbol:<width$}  {} blocks{early}{working}{follows}", launch.grid)
    })
}

fn kernel_text(kernel: &Kernel) -> String {
    let shared = u64::from(kernel.shared_bytes) + u64::from(kernel.dynamic_shared_bytes);
    let registers = kernel.registers.map_or(String::new(), |registers| format!(", {registers} registers"));
    let spills =
        kernel.spill_bytes.filter(|bytes| *bytes > 0).map_or(String::new(), |bytes| format!(", {bytes} bytes of spills"));
    let cluster = if kernel.cluster > 1 { format!(", clusters of {}", kernel.cluster) } else { String::new() };
    format!("{} threads{cluster}, {} shared{registers}{spills}", kernel.threads, bytes_text(shared))
}
