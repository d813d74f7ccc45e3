//! Checkpoints as people have them: one file, an index of several, a folder; and everything that is given in their place.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::fixture::floats;
use moec_runtime::package::DType;
use moec_runtime::weights::to_safetensors;
use moec_runtime::{Checkpoint, Error, Tensor};

fn tensor(value: f32) -> Tensor {
    floats(&[2], [value, -value])
}

/// Writes a safetensors file of these one-dimensional tensors.
fn file(path: &Path, tensors: &[(&str, f32)]) {
    let made: Vec<(&str, Tensor)> = tensors.iter().map(|(name, value)| (*name, tensor(*value))).collect();
    let named: Vec<(&str, &Tensor)> = made.iter().map(|(name, tensor)| (*name, tensor)).collect();
    fs::write(path, to_safetensors(&named).unwrap()).unwrap();
}

fn get(checkpoint: &Checkpoint<'_>, name: &str) -> Result<f64, Error> {
    Ok(checkpoint.tensor(name, DType::F32)?.0.to_f64()[0])
}

/// What is said of a path, with the folder left out.
fn said(folder: &Path, path: &Path) -> String {
    let error = Checkpoint::open(path).err().unwrap_or_else(|| panic!("{} is opened", path.display()));
    error.to_string().replace(&folder.display().to_string(), "DIR")
}

const INDEX: &str = r#"{"metadata": {"total_size": 32}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#;

#[test]
fn one_file_an_index_or_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    file(&at("m-1.safetensors"), &[("a", 1.0)]);
    file(&at("m-2.safetensors"), &[("b", 2.0)]);
    let both = |path: &Path| {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(checkpoint.names(), ["a", "b"], "{}", path.display());
        assert_eq!((get(&checkpoint, "a"), get(&checkpoint, "b")), (Ok(1.0), Ok(2.0)));
        assert_eq!(checkpoint.missing_files(), [""; 0].map(Path::new));
        let info = checkpoint.info("b").unwrap();
        assert_eq!((info.dtype.as_str(), info.shape), ("F32", vec![2]));
    };
    let left_out = || {
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let name = |path: &PathBuf| path.strip_prefix(folder.path()).unwrap().display().to_string();
        checkpoint.left_out().iter().map(name).collect::<Vec<_>>()
    };
    // Without an index every file counts.
    both(folder.path());
    assert_eq!(left_out(), [""; 0]);
    // With one, it does: under any name, with a byte order mark, and by a name that does not say what it is.
    file(&at("z.safetensors"), &[("z", 0.0)]);
    fs::write(at("other.safetensors.index.json"), INDEX).unwrap();
    both(folder.path());
    fs::write(at("model.safetensors.index.json"), format!("\u{feff}{INDEX}")).unwrap();
    both(folder.path());
    both(&at("model.safetensors.index.json"));
    fs::copy(at("other.safetensors.index.json"), at("index")).unwrap();
    both(&at("index"));
    // What is not looked into is known.
    assert_eq!(left_out(), ["z.safetensors"]);
    assert_eq!(Checkpoint::open(at("index")).unwrap().left_out(), [""; 0].map(PathBuf::from));
    // And before all, the whole.
    file(&at("model.safetensors"), &[("a", 7.0)]);
    let whole = Checkpoint::open(folder.path()).unwrap();
    assert_eq!((whole.names(), get(&whole, "a")), (vec!["a"], Ok(7.0)));
    assert_eq!(left_out(), ["m-1.safetensors", "m-2.safetensors", "z.safetensors"]);
    assert_eq!(Checkpoint::open(at("z.safetensors")).unwrap().names(), ["z"]);
}

/// A relative index, and files in folders below it.
#[test]
fn files_below_an_index() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("parts")).unwrap();
    file(&folder.path().join("parts/1.safetensors"), &[("a", 1.0)]);
    let index = folder.path().join("i.json");
    fs::write(&index, r#"{"weight_map": {"a": "parts/1.safetensors"}}"#).unwrap();
    assert_eq!(get(&Checkpoint::open(&index).unwrap(), "a"), Ok(1.0));
}

/// Files that no wanted tensor is in may be absent or damaged; those that one is in are named.
#[test]
fn files_that_are_missing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    file(&at("m-1.safetensors"), &[("a", 1.0)]);
    fs::write(at("model.safetensors.index.json"), INDEX).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!((checkpoint.names(), get(&checkpoint, "a")), (vec!["a", "b"], Ok(1.0)));
    assert_eq!(checkpoint.missing_files(), [at("m-2.safetensors")]);
    let missing = get(&checkpoint, "b").unwrap_err().to_string();
    assert_eq!(missing, "`b` is in `m-2.safetensors`, which is not beside the index; fetch what is missing");
    fs::remove_file(at("m-1.safetensors")).unwrap();
    let missing = get(&Checkpoint::open(folder.path()).unwrap(), "a").unwrap_err().to_string();
    let all =
        "`a` is in `m-1.safetensors`, which is not beside the index: 2 files are missing, `m-1.safetensors`, `m-2.safetensors`";
    assert!(missing.starts_with(all), "{missing}");

    fs::write(at("m-1.safetensors"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    file(&at("m-2.safetensors"), &[("c", 1.0)]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert!(matches!(get(&checkpoint, "a"), Err(Error::NotSafetensors { path, .. }) if path == at("m-1.safetensors")));
    assert!(matches!(get(&checkpoint, "b"), Err(Error::NotInShard { path, .. }) if path == at("m-2.safetensors")));
}

/// An index is a stranger's file: it reaches nothing outside its folder.
#[test]
fn an_index_stays_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("model");
    fs::create_dir(&inner).unwrap();
    file(&folder.path().join("secret.safetensors"), &[("a", 1.0)]);
    let absolute = folder.path().join("secret.safetensors").display().to_string();
    for shard in ["../secret.safetensors", &absolute, "x/../../secret.safetensors", "", ".", ".."] {
        let index = inner.join("model.safetensors.index.json");
        fs::write(&index, format!(r#"{{"weight_map": {{"a": "{shard}"}}}}"#)).unwrap();
        for path in [&inner, &index] {
            let text = said(folder.path(), path);
            assert!(text.ends_with("which is no file of its folder"), "{shard}: {text}");
        }
    }
}

#[test]
fn a_tensor_in_two_files() {
    let folder = tempfile::tempdir().unwrap();
    file(&folder.path().join("1.safetensors"), &[("a", 1.0)]);
    file(&folder.path().join("2.safetensors"), &[("a", 1.0)]);
    let text = said(folder.path(), folder.path());
    assert_eq!(text, "`a` is in `DIR/1.safetensors` and in `DIR/2.safetensors`; name the file that is meant");
    for name in ["x.safetensors.index.json", "y.safetensors.index.json"] {
        fs::write(folder.path().join(name), INDEX).unwrap();
    }
    let text = said(folder.path(), folder.path());
    assert!(text.starts_with("`DIR` has several indices, `x.safetensors.index.json`, `y.safetensors.index.json`"), "{text}");
}

/// Every other kind of file, by its first bytes and not by its name.
#[test]
fn files_of_other_formats() {
    let folder = tempfile::tempdir().unwrap();
    let whole = to_safetensors(&[("a", &tensor(1.0))]).unwrap();
    let torch = [b"PK\x03\x04", &[0; 22][..], &16u16.to_le_bytes(), &[0; 2], b"archive/data.pkl"].concat();
    let mut all = String::new();
    for bytes in [
        b"GGUF\x03\0\0\0".to_vec(),
        torch,
        b"\x80\x02}q\0.".to_vec(),
        b"\x93NUMPY\x01\0v\0{'descr': '<f4'}".to_vec(),
        b"moec.pkg\x02\0\0\0".to_vec(),
        b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
        b"<!DOCTYPE html><html>".to_vec(),
        b"{\"model_type\": \"mixtral\"}".to_vec(),
        b"{\"weight_map\": NaN}".to_vec(),
        b"[moe]\nhidden = 64\n".to_vec(),
        whole[..whole.len() - 1].to_vec(),
        whole[..20].to_vec(),
        whole[..7].to_vec(),
        Vec::new(),
        [&whole[..], b"more"].concat(),
    ] {
        let path = folder.path().join("model.safetensors");
        fs::write(&path, &bytes).unwrap();
        let text = said(folder.path(), &path);
        assert_eq!(said(folder.path(), folder.path()), text, "as a folder's only file");
        all += &format!("{text}\n");
    }
    insta::assert_snapshot!(all);
    assert!(said(folder.path(), Path::new("no/such/file")).starts_with("cannot read `no/such/file`: "));
}

#[test]
fn folders_without_tensors() {
    let said_of = |names: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| fs::write(folder.path().join(name), "").unwrap());
        said(folder.path(), folder.path())
    };
    let all = [
        said_of(&[]),
        said_of(&["config.json", "README.md"]),
        said_of(&["pytorch_model.bin", "config.json"]),
        said_of(&["q4.gguf", "pytorch_model.bin"]),
        said_of(&["snapshots", "refs"]),
        said_of(&["a.npy"]),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

/// What a pipe gives is read whole: it cannot be mapped.
#[cfg(unix)]
#[test]
fn a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let bytes = to_safetensors(&[("a", &tensor(3.0))]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| fs::write(&path, &bytes).unwrap());
        assert_eq!(get(&Checkpoint::open(&path).unwrap(), "a"), Ok(3.0));
    });
}

/// Of 64 GB, mostly a hole that takes no disk, the layer's part is brought into memory and nothing else.
#[cfg(target_os = "linux")]
#[test]
fn what_is_not_needed_is_not_read() {
    const HUGE: u64 = 64 << 30;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let header = format!(
        r#"{{"huge":{{"dtype":"U8","shape":[{HUGE}],"data_offsets":[0,{HUGE}]}},"w":{{"dtype":"F32","shape":[2],"data_offsets":[{HUGE},{}]}}}}"#,
        HUGE + 8
    );
    let mut file = File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    if file.seek(SeekFrom::Current(HUGE as i64)).and_then(|_| file.write_all(tensor(5.0).bytes())).is_err() {
        println!("skipped: the file system has no sparse files of this size");
        return;
    }
    let resident = || {
        let text = fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
    };
    let before = resident();
    assert_eq!(get(&Checkpoint::open(folder.path()).unwrap(), "w"), Ok(5.0));
    // The kernel sums the peak up loosely: it may go down.
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
}

/// Every integer type becomes i32, where it fits; no float does, and no integer becomes a float.
#[test]
fn element_types() {
    let of = |dtype: &str, bits: usize, bytes: &[u8], to: DType| {
        let n = bytes.len() * 8 / bits;
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":[{n}],"data_offsets":[0,{}]}}}}"#, bytes.len());
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), bytes].concat();
        let (tensor, note) = Checkpoint::read(&file).unwrap().tensor("a", to)?;
        Ok::<_, Error>((tensor.to_f64(), note.map(|note| note.to_string())))
    };
    for (dtype, bits, bytes, expected) in [
        ("BOOL", 8, &[1u8, 0][..], [1.0, 0.0]),
        ("U8", 8, &[255, 1], [255.0, 1.0]),
        ("I8", 8, &[255, 1], [-1.0, 1.0]),
        ("U16", 16, &[255, 255, 1, 0], [65535.0, 1.0]),
        ("I16", 16, &[255, 255, 1, 0], [-1.0, 1.0]),
        ("U32", 32, &[1, 0, 0, 0, 2, 0, 0, 0], [1.0, 2.0]),
        ("U64", 64, &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], [1.0, 2.0]),
    ] {
        let note = format!("`a` is {}, converted to i32", dtype.to_lowercase());
        assert_eq!(of(dtype, bits, bytes, DType::I32), Ok((expected.to_vec(), Some(note))));
        assert!(matches!(of(dtype, bits, bytes, DType::F32), Err(Error::TensorDType { .. })), "{dtype}");
    }
    assert!(matches!(of("U32", 32, &[0, 0, 0, 0x80], DType::I32), Err(Error::TensorRange { value: 0x8000_0000, .. })));
    assert!(matches!(of("U64", 64, &[255; 8], DType::I32), Err(Error::TensorRange { value, .. }) if value == u64::MAX.into()));
    assert_eq!(of("F64", 64, &0.1f64.to_le_bytes(), DType::F32).unwrap().0, [f64::from(0.1f32)]);
    let said = |dtype: &str, to| of(dtype, 8, &[0; 8], to).unwrap_err().to_string();
    assert_eq!(
        said("F8_E4M3", DType::Bf16),
        "tensor `a` has dtype F8_E4M3, which cannot become bf16; quantised tensors are not supported: take the checkpoint in bf16 \
         or f16, or dequantise it"
    );
    let float = of("F32", 32, &[0; 4], DType::I32).unwrap_err().to_string();
    assert_eq!(
        float,
        "tensor `a` has dtype F32, which cannot become i32; token ids and tables are integers: in PyTorch `.int()`"
    );
}
