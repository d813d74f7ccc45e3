//! What a signal to stop does: files that are not whole yet are removed, and the process ends at once, whatever it is at.
//! The exit code is 128 and the signal's number, as a shell has it: 130 for Ctrl-C.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The files that are being written, and the folder of temporary files.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

// A panic cannot leave the list half-changed.
fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file or folder that a signal to stop removes, until this is dropped.
#[must_use]
pub(crate) struct Unfinished(PathBuf);

impl Unfinished {
    /// What `create` makes. No signal is answered between its being there and its being known.
    pub(crate) fn new<T: AsRef<Path>>(create: impl FnOnce() -> io::Result<T>) -> io::Result<(T, Unfinished)> {
        let mut unfinished = unfinished();
        let created = create()?;
        let path = created.as_ref().to_path_buf();
        unfinished.push(path.clone());
        Ok((created, Unfinished(path)))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut unfinished = unfinished();
        if let Some(at) = unfinished.iter().position(|path| *path == self.0) {
            unfinished.swap_remove(at);
        }
    }
}

/// The folder that holds every temporary file of this process.
pub(crate) struct TemporaryFolder {
    folder: tempfile::TempDir,
    _unfinished: Unfinished,
}

impl TemporaryFolder {
    /// Makes the folder. `None`: it cannot be made, and what needs a temporary file says so.
    pub(crate) fn new() -> Option<TemporaryFolder> {
        let (folder, unfinished) = Unfinished::new(|| tempfile::Builder::new().prefix("moec-").tempdir()).ok()?;
        // Set twice, which no command does, it stays what it was.
        let _ = tempfile::env::override_temp_dir(folder.path());
        Some(TemporaryFolder { folder, _unfinished: unfinished })
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        remove(self.folder.path());
    }
}

/// Removes a file, or a folder with what is in it. A tool that has been told to stop too may write there once more.
fn remove(path: &Path) {
    const TRIES: usize = 5;
    for _ in 0..TRIES {
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        if removed.is_ok() || !path.exists() {
            return;
        }
    }
}

#[cfg(unix)]
mod signals {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, OnceLock};
    use std::thread;

    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    use super::{remove, unfinished};

    /// Set by the signal itself, before any thread has seen it.
    static IS_STOPPING: OnceLock<Arc<AtomicBool>> = OnceLock::new();

    /// Starts to watch for Ctrl-C and for the signal by which one program ends another.
    pub(crate) fn watch() {
        // Where signals cannot be watched they do what they do to every process: end it.
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else { return };
        // Only now, so that no signal sets the flag without reaching the thread below: `wait_if_stopping` would never end.
        let flag = IS_STOPPING.get_or_init(Arc::default);
        for signal in [SIGINT, SIGTERM] {
            // Without the flag a signal still ends the process, a moment later.
            let _ = signal_hook::flag::register(signal, Arc::clone(flag));
        }
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // Kept to the end: nothing new is begun.
                let unfinished = unfinished();
                unfinished.iter().for_each(|path| remove(path));
                signal_hook::low_level::exit(128 + signal);
            }
        });
    }

    /// Does not return where such a signal has come: the thread that watches ends the process.
    pub(crate) fn wait_if_stopping() {
        while IS_STOPPING.get().is_some_and(|flag| flag.load(Ordering::SeqCst)) {
            thread::park();
        }
    }
}

#[cfg(not(unix))]
mod signals {
    pub(crate) fn watch() {}

    pub(crate) fn wait_if_stopping() {}
}

pub(crate) use signals::{wait_if_stopping, watch};
