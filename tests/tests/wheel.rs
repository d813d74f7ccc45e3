//! The Python wheel, as far as it can be looked at without making one: the same bytes each time, a record that pip accepts, and a
//! package that finds its program wherever pip puts it. `make test-wheel` installs the real one.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::path::Path;
use std::process::Command;

use moec_tests::{root, skipped};

/// What Python prints, in a folder; `None` where there is no Python.
fn python(script: &str, folder: &Path) -> Option<String> {
    let mut command = Command::new("python3");
    command.args(["-c", script]).current_dir(folder);
    let output = command.env_remove("MOEC").env("PYTHONDONTWRITEBYTECODE", "1").output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Times, the order of entries and their modes do not depend on the machine; pip checks each file against the record.
#[test]
fn the_same_files_are_the_same_wheel() {
    let script = r#"
import base64, hashlib, os, stat, sys, zipfile
from pathlib import Path
sys.path.insert(0, str(Path(ROOT) / "scripts/portable"))
import wheel
files = {"moec-1.data/scripts/moec": (b"program" * 1000, 0o755), "moec/__init__.py": (b"", 0o644)}
for name in "first.whl", "second.whl":
    wheel.write(Path(name), "1", files)
assert Path("first.whl").read_bytes() == Path("second.whl").read_bytes()
with zipfile.ZipFile("first.whl") as archive:
    assert archive.testzip() is None
    rows = archive.read("moec-1.dist-info/RECORD").decode().splitlines()
    assert [entry.filename for entry in archive.infolist()] == [row.split(",")[0] for row in rows]
    for row in rows[:-1]:
        name, digest, size = row.split(",")
        data = archive.read(name)
        of_data = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        assert (digest, int(size)) == ("sha256=" + of_data, len(data)), row
    modes = [stat.filemode(entry.external_attr >> 16) for entry in archive.infolist()]
    assert modes == ["-rwxr-xr-x", "-rw-r--r--", "-rw-r--r--"], modes
    assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
packed = wheel.package_files()
assert {"moec/__init__.py", "moec/__main__.py", "moec/binary.py", "moec/py.typed"} <= set(packed), packed
assert not any("__pycache__" in name for name in packed), packed
print(wheel.version())
"#;
    let folder = tempfile::tempdir().unwrap();
    let script = script.replace("ROOT", &format!("{:?}", root().to_string_lossy()));
    match python(&script, folder.path()) {
        Some(version) => assert_eq!(version.trim(), env!("CARGO_PKG_VERSION")),
        None => skipped("the bytes of a wheel", "there is no python3"),
    }
}

/// In an environment, by `--prefix` and by `--target`; what the environment names goes first.
#[cfg(unix)]
#[test]
fn the_python_package_finds_its_program() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let program = |path: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "#!/bin/sh\necho \"$@\"\necho failed >&2\n[ \"$1\" != fail ]\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.canonicalize().unwrap()
    };
    for (packages, at) in [
        ("environment/lib/python3.9/site-packages", "environment/bin/moec"),
        ("system/lib/python3/dist-packages", "system/bin/moec"),
        ("target", "target/bin/moec"),
    ] {
        let package = folder.path().join(packages).join("moec");
        fs::create_dir_all(&package).unwrap();
        for name in ["__init__.py", "__main__.py", "binary.py"] {
            fs::copy(root().join("runtime/python/moec").join(name), package.join(name)).unwrap();
        }
        let program = program(at);
        let script = format!(
            r#"
import os, subprocess, sys
sys.path.insert(0, {packages:?})
from moec import binary
print(binary.path())
assert binary.run("a", "b c").stdout == "a b c\n"
try:
    binary.run("fail")
except subprocess.CalledProcessError as error:
    assert error.stderr == "failed\n"
else:
    raise AssertionError("it failed")
environment = dict(os.environ, PYTHONPATH={packages:?})
done = subprocess.run([sys.executable, "-m", "moec", "fail"], env=environment, capture_output=True, text=True)
assert (done.returncode, done.stdout) == (1, "fail\n"), done
os.environ["MOEC"] = "no/such/file"
try:
    binary.path()
except FileNotFoundError as error:
    assert "MOEC" in str(error)
else:
    raise AssertionError("there is no such file")
"#
        );
        match python(&script, folder.path()) {
            Some(found) => assert_eq!(Path::new(found.trim()).canonicalize().unwrap(), program, "{packages}"),
            None => return skipped("where the Python package finds its program", "there is no python3"),
        }
    }
}
