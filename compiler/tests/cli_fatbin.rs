//! `--emit fatbin`: what the fat binary holds, read from its headers, and what is said where there is none. It is skipped by name
//! where NVIDIA's programs are absent; that `fatbinary` is absent is tested in `cli_link.rs`.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::path::Path;
use std::process::Output;

use moec_codegen::{Fatbinary, Ptxas};

use crate::command::{example, folder, product, start, stderr};

/// An image of a fat binary: 1 is PTX and 2 a cubin, for `sm_N`, whether for this architecture alone, and the image, padded.
#[derive(Debug)]
struct Entry {
    kind: u16,
    sm: u32,
    is_specific: bool,
    bytes: Vec<u8>,
}

/// As the CUDA toolkit's `fatbinary.h` and the files that it makes have it: a header of magic, version, its own length and that
/// of what follows; then for each image a header with its kind, its length, that of the image, `sm` at 28 and flags at 40.
fn entries(file: &[u8]) -> Vec<Entry> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let half = |at: usize| u16::from_le_bytes(file[at..at + 2].try_into().unwrap());
    assert_eq!((word(0), half(4), half(6)), (0xBA55_ED50, 1, 16));
    assert_eq!(u64::from_le_bytes(file[8..16].try_into().unwrap()), file.len() as u64 - 16);
    let (mut at, mut entries) = (16, Vec::new());
    while at < file.len() {
        let (header, length) = (word(at + 4) as usize, word(at + 8) as usize);
        let bytes = file[at + header..at + header + length].to_vec();
        entries.push(Entry { kind: half(at), sm: word(at + 28), is_specific: word(at + 40) & 0x0010_0000 != 0, bytes });
        at += header + length;
    }
    entries
}

fn words(ptx: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(ptx).unwrap().trim_end_matches('\0');
    text.lines().flat_map(|line| line.split("//").next().unwrap().split_whitespace().map(str::to_string)).collect()
}

/// moec with these programs of NVIDIA; none where the name is empty.
fn moec(folder: &Path, arguments: &[&str], ptxas: &Path, fatbinary: &Path) -> Output {
    let [ptxas, fatbinary] = [ptxas, fatbinary].map(|path| path.display().to_string());
    start(folder, arguments, &[("MOEC_PTXAS", &ptxas), ("MOEC_FATBINARY", &fatbinary)], "")
}

#[test]
fn it_holds_what_the_package_has() {
    let Some(fatbinary) = Fatbinary::find() else {
        return println!("skipped: it_holds_what_the_package_has: no fatbinary was found");
    };
    let (ptxas, folder) = (Ptxas::find(), folder());
    let ptxas = ptxas.as_ref().map_or(Path::new(""), |ptxas| ptxas.path());
    let with = |arguments: &[&str], ptxas: &Path| product(&moec(folder.path(), arguments, ptxas, fatbinary.path()));
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let spec = example("tiny.toml");
    let targets = ["compile", &spec, "--target", "sm_80,sm_90a,x86-64-v3"];
    with(&[&targets[..], &["--emit", "fatbin,ptx,package", "--out-dir", "."]].concat(), ptxas);
    let made = entries(&read("tiny.fatbin"));
    let mut expected = vec![(1, 80, false, read("tiny.sm_80.ptx")), (1, 90, true, read("tiny.sm_90a.ptx"))];
    if ptxas != Path::new("") {
        with(&[&targets[..], &["--emit", "cubin", "--out-dir", "."]].concat(), ptxas);
        expected.insert(1, (2, 80, false, read("tiny.sm_80.cubin")));
        expected.push((2, 90, true, read("tiny.sm_90a.cubin")));
    }
    assert_eq!(made.len(), expected.len());
    for (entry, (kind, sm, is_specific, bytes)) in made.iter().zip(&expected) {
        assert_eq!((entry.kind, entry.sm, entry.is_specific), (*kind, *sm, *is_specific));
        match kind {
            // fatbinary leaves out comments and white space.
            1 => assert_eq!(words(&entry.bytes), words(bytes)),
            _ => assert!(entry.bytes == *bytes, "{} and {} bytes", entry.bytes.len(), bytes.len()),
        }
    }
    // Of the package, and once more: the same bytes.
    with(&["link", "tiny.moec", "-o", "linked.fatbin"], ptxas);
    with(&[&targets[..], &["--emit", "fatbin", "-o", "again.fatbin"]].concat(), ptxas);
    assert!(read("linked.fatbin") == read("tiny.fatbin") && read("again.fatbin") == read("tiny.fatbin"));
    // Without ptxas it is PTX.
    with(&[&targets[..], &["--emit", "fatbin", "-o", "ptx.fatbin"]].concat(), Path::new(""));
    let kinds: Vec<(u16, u32)> = entries(&read("ptx.fatbin")).iter().map(|entry| (entry.kind, entry.sm)).collect();
    assert_eq!(kinds, [(1, 80), (1, 90)]);
}

#[test]
fn what_has_no_fat_binary() {
    let (folder, none) = (folder(), Path::new(""));
    let spec = "tiny.toml";
    fs::copy(example(spec), folder.path().join(spec)).unwrap();
    let said = |targets: &str, fatbinary: &Path, code: i32| {
        let arguments = ["compile", spec, "--target", targets, "--emit", "fatbin", "-o", "tiny.fatbin"];
        let output = moec(folder.path(), &arguments, none, fatbinary);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        stderr(&output)
    };
    let host = said("x86-64-v3", none, 2);
    let absent = said("sm_80", none, 3);
    product(&moec(folder.path(), &["compile", spec, "--target", "x86-64-v3", "-o", "host.moec"], none, none));
    let linked = moec(folder.path(), &["link", "host.moec", "-o", "host.fatbin"], none, none);
    assert_eq!(linked.status.code(), Some(2));
    let failed = said("sm_80", Path::new("false"), 3);
    let failed: Vec<&str> = failed.lines().filter(|line| line.starts_with("error") || line.contains("help")).collect();
    insta::assert_snapshot!([host, absent, stderr(&linked), failed.join("\n")].join("\n"));
    assert!(!folder.path().join("tiny.fatbin").exists());
}
