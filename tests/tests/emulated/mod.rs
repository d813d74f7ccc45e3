//! The link `host == emulated PTX` of the differential chain: every kernel as the text that ships, under several schedules,
//! with every check on. What is held to what is in `chain`, on which batches in `batches`.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod accuracy;
mod alone;
mod batches;
mod chain;
mod large;
mod matrices;
mod product;

use moec::import::Entry;
use moec::spec::Mode;
use moec_tests::scaled::{modes, of_odd_widths, of_tf32, scaled_examples};
use moec_tests::trials::{Case, Family};
use moec_tests::{Example, fixtures};

/// The architectures with kernels of their own.
const TARGETS: [&str; 2] = ["sm_80", LAST];
/// The one that everything is run on.
const LAST: &str = "sm_90a";

/// A trial for each layer and what it is run on.
pub(crate) fn family() -> Family {
    let mut cases = Vec::new();
    for example in scaled_examples() {
        let spec = example.spec.clone();
        for target in TARGETS {
            let example = example.clone();
            let name = format!("{}::{target}", example.name);
            let case = Case::new(name, &spec, move || {
                // Where the text is that of the last target but for its header, so is all that it does.
                let is_known = target != LAST && chain::ptx_body(&example, target) == chain::ptx_body(&example, LAST);
                let batches = if is_known { batches::of_some_sizes(&example) } else { batches::of_every_size(&example) };
                chain::check(&example, Entry::Layer, target, &batches)
            });
            cases.push(case.of_kind("every size").of_kind(target));
        }
        cases.push(odd_logits(example.name.clone(), example));
    }
    for mode in modes() {
        let spec = mode.spec.clone();
        if mode.spec.router.mode == Mode::ExpertChoice {
            cases.push(odd_logits(format!("modes::{}", mode.name), mode.clone()));
        }
        let name = format!("modes::{}", mode.name);
        let case = Case::new(name, &spec, move || chain::check(&mode, Entry::Layer, "sm_80", &batches::of_some_sizes(&mode)));
        cases.push(case.of_kind("some sizes"));
    }
    for example in of_odd_widths() {
        let (name, spec) = (example.name.clone(), example.spec.clone());
        // More take minutes.
        let case = Case::new(name, &spec, move || chain::check(&example, Entry::Layer, "sm_80", &batches::of_one_size(&example)));
        cases.push(case.of_kind("odd widths"));
    }
    for target in TARGETS {
        let example = of_tf32();
        let spec = example.spec.clone();
        let case = Case::new(format!("tf32::{target}"), &spec, move || {
            if !chain::ptx_body(&example, target).contains("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32") {
                return Err("no product rounds its factors".into());
            }
            chain::check(&example, Entry::Layer, target, &batches::of_some_sizes(&example))
        });
        cases.push(case.of_kind("tf32"));
    }
    for example in scaled_examples().into_iter().chain(modes()) {
        cases.extend(entries(&example));
    }
    for fixture in fixtures() {
        let spec = fixture.spec.clone();
        let case = Case::new(format!("fixtures::{}", fixture.name), &spec, move || chain::check_fixture(&fixture, LAST));
        cases.push(case.of_kind("a published block"));
    }
    cases.extend(scaled_examples().into_iter().filter(|example| PRODUCTS.contains(&example.name.as_str())).flat_map(in_ways));
    cases.extend(large::cases());
    cases.extend(matrices::cases());
    cases.extend(accuracy::cases());
    cases.extend(alone::cases());
    Family { name: "emulated", one_in: 8, cases }
}

/// Layers of different products: gathered, with biases and a clamp, beside a shared expert's, dense.
const PRODUCTS: [&str; 4] = ["mixtral-8x7b", "gpt-oss-20b", "deepseek-v3", "qwen1.5-moe-a2.7b"];

/// These layers are too small for the model to choose each way of persistent blocks, so these are forced, in tiles of several sizes.
fn in_ways(example: Example) -> Vec<Case> {
    let spec = example.spec.clone();
    let case = |way: &'static str| {
        let (example, name) = (example.clone(), format!("{}::{}", example.name, way.replace(['(', ')', ' '], "_")));
        let run = move || chain::check_in(way, &example, LAST, &batches::of_some_sizes(&example));
        Case::new(name, &spec, run).of_kind(way)
    };
    let groups = ["group(64 by 128)", "group(128 by 128)", "group(64 by 256)", "twin(128 by 128)", "twin(256 by 128)"].map(case);
    groups.into_iter().chain(["stream(8 by 16)", "stream(16 by 16)"].map(case)).collect()
}

/// The other entries of a layer that has them: its router, its experts, and a third of these.
fn entries(example: &Example) -> Vec<Case> {
    let part = Entry::Experts { local: Some(example.spec.experts.div_ceil(3)) };
    let named = [("router", Entry::Router), ("experts", Entry::Experts { local: None }), ("some_experts", part)];
    let case = |(name, entry): (&str, Entry)| {
        let (example, spec) = (example.clone(), example.spec.clone());
        let case = Case::new(format!("entries::{}::{name}", example.name), &spec, move || {
            chain::check(&example, entry, "sm_80", &batches::of_entry(&example, entry))
        });
        case.of_kind(&format!("entry {name}"))
    };
    named.into_iter().filter(|(_, entry)| entry.check(&example.spec).is_ok()).map(case).collect()
}

fn odd_logits(name: String, example: Example) -> Case {
    let spec = example.spec.clone();
    let case = Case::new(format!("{name}::odd_logits"), &spec, move || {
        chain::check(&example, Entry::Layer, LAST, &batches::odd(&example))
    });
    case.of_kind("odd logits")
}
