//! Ctrl-C: every long command ends at once with exit code 130, and leaves neither a partial file nor a temporary one.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::command::{example, folder, names_in, spawn, write};

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A command that is ended where its test fails before it has.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the command, interrupts it once `is_under_way` and gives its exit code; the folders must be as they were.
#[track_caller]
fn interrupted(
    signal: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
    is_under_way: impl Fn(&Path) -> bool,
) -> Option<i32> {
    let (out, temporary) = (folder(), folder());
    let variables = [variables, &[("TMPDIR", temporary.path().to_str().unwrap())]].concat();
    let mut running = Running(spawn(out.path(), arguments, &variables));
    let child = &mut running.0;
    let began = Instant::now();
    while !is_under_way(temporary.path()) {
        assert!(child.try_wait().unwrap().is_none(), "{arguments:?} is over before it is interrupted");
        assert!(began.elapsed() < Duration::from_secs(120), "{arguments:?} does not start");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(child.try_wait().unwrap().is_none(), "{arguments:?} is over before it is interrupted");
    let sent = Instant::now();
    send(signal, child);
    let status = child.wait().unwrap();
    // A second, and what the machine may be busy with beside.
    assert!(sent.elapsed() < Duration::from_secs(5), "{arguments:?} goes on for {:?}", sent.elapsed());
    assert_eq!(names_in(out.path()), [""; 0], "{arguments:?}");
    assert_eq!(names_in(temporary.path()), [""; 0], "{arguments:?}");
    status.code()
}

/// Under way for a while: what it does by then is the long part.
fn after(wait: Duration) -> impl Fn(&Path) -> bool {
    let began = Instant::now();
    move |_| began.elapsed() > wait
}

const A_WHILE: Duration = Duration::from_millis(1500);

#[test]
fn run() {
    let arguments = ["run", &example("tiny.toml"), "--tokens", "4096", "--repeat", "100000", "--output", "y"];
    assert_eq!(interrupted("-INT", &arguments, &[], after(A_WHILE)), Some(130));
}

#[test]
fn check_on_the_emulator() {
    let arguments = ["check", &example("tiny.toml"), "--emulate", "--schedules", "1000", "--blocks", "all"];
    assert_eq!(interrupted("-INT", &arguments, &[], after(A_WHILE)), Some(130));
    // By the signal with which one program ends another, the code is that of a shell too.
    assert_eq!(interrupted("-TERM", &arguments, &[], after(A_WHILE)), Some(143));
}

/// A compiler driver that reads from a pipe until this is dropped, or the test's process is gone: then it ends, whatever became of moec,
/// which does not end it.
struct Driver {
    /// Dropped first, so that none can begin to read when no one writes any more.
    folder: TempDir,
    /// The end of the pipe to write to.
    _held: File,
}

impl Driver {
    fn new() -> Driver {
        let folder = folder();
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // To read too, since this would wait for a reader otherwise.
        let held = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        let cc = write(folder.path(), "cc", format!("#!/bin/sh\nexec cat '{}'\n", pipe.display()));
        fs::set_permissions(&cc, fs::Permissions::from_mode(0o755)).unwrap();
        Driver { folder, _held: held }
    }
}

/// In the middle of linking, by a driver that does not end.
#[test]
fn compile() {
    let driver = Driver::new();
    let cc = driver.folder.path().join("cc");
    let arguments = ["compile", &example("tiny.toml"), "--out-dir", "."];
    let is_linking = |temporary: &Path| {
        let folders = fs::read_dir(temporary).unwrap().map(|entry| entry.unwrap().path());
        folders
            .flat_map(|folder| fs::read_dir(folder).into_iter().flatten())
            .any(|entry| entry.is_ok_and(|entry| entry.path().join("kernels.o").is_file()))
    };
    assert_eq!(interrupted("-INT", &arguments, &[("MOEC_CC", cc.to_str().unwrap())], is_linking), Some(130));
}

/// Over a trace of zeros that takes no room on the disk.
#[test]
fn route() {
    let traces = folder();
    let path = traces.path().join("logits.safetensors");
    let bytes = 8u64 << 30;
    let header = format!(r#"{{"a":{{"dtype":"F32","shape":[{},8],"data_offsets":[0,{bytes}]}}}}"#, bytes / 32);
    let mut file = File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + bytes).unwrap();
    let path = path.display().to_string();
    let arguments = ["route", &example("tiny.toml"), "--logits", &path, "--html", "page.html", "--json", "report.json"];
    assert_eq!(interrupted("-INT", &arguments, &[], after(A_WHILE)), Some(130));
}

/// Reading an input that does not end.
#[test]
fn import() {
    assert_eq!(interrupted("-INT", &["import", "-", "-o", "spec.toml"], &[], after(A_WHILE)), Some(130));
}

/// At any moment of a short command, the writing of its file among them: the file is whole or not there, and beside it is
/// nothing.
#[test]
fn a_file_is_whole_or_not_there() {
    let arguments = ["import", "--preset", "mixtral-8x7b", "-o", "spec.toml"];
    let out = folder();
    let began = Instant::now();
    assert!(spawn(out.path(), &arguments, &[]).wait().unwrap().success());
    let (takes, whole) = (began.elapsed(), fs::read(out.path().join("spec.toml")).unwrap());
    const TRIES: u32 = 40;
    let mut ended = 0;
    for at in 0..TRIES {
        let out = folder();
        let mut child = spawn(out.path(), &arguments, &[]);
        thread::sleep(takes * at / TRIES);
        send("-INT", &child);
        ended += u32::from(!child.wait().unwrap().success());
        match &names_in(out.path())[..] {
            [] => {}
            [name] if name == "spec.toml" => assert!(fs::read(out.path().join(name)).unwrap() == whole),
            names => panic!("{names:?}"),
        }
    }
    assert!(ended > 0, "no signal came in time");
}
