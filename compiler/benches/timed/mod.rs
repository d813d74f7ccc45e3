//! The time of each launch.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use moec_runtime::device::{Argument, Device, Opened, Start};
use moec_runtime::{Error, Package, host};

/// The middle one.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A device that notes how long each launch takes.
#[derive(Debug)]
pub(crate) struct Timed {
    device: Arc<dyn Device>,
    launches: Mutex<Vec<Duration>>,
}

impl Timed {
    /// This CPU, all cores, with the package.
    pub(crate) fn open(package: &Package) -> (Opened, Arc<Timed>) {
        let Opened { device, target } = host::open(package, None).expect("a device");
        let timed = Arc::new(Timed { device, launches: Mutex::default() });
        (Opened { device: timed.clone(), target }, timed)
    }

    /// What was noted since the last time.
    pub(crate) fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut self.launches.lock().expect("no panic before"))
    }
}

impl Device for Timed {
    fn name(&self) -> String {
        self.device.name()
    }

    fn alloc(&self, bytes: u64) -> Result<u64, Error> {
        self.device.alloc(bytes)
    }

    fn free(&self, address: u64) {
        self.device.free(address);
    }

    fn fill(&self, address: u64, bytes: u64, value: u8) -> Result<(), Error> {
        self.device.fill(address, bytes, value)
    }

    fn copy_in(&self, address: u64, from: &[u8]) -> Result<(), Error> {
        self.device.copy_in(address, from)
    }

    fn copy_out(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        self.device.copy_out(address, into)
    }

    fn launch(&self, what: Start, args: &[Argument]) -> Result<(), Error> {
        let start = Instant::now();
        let done = self.device.launch(what, args);
        self.launches.lock().expect("no panic before").push(start.elapsed());
        done
    }

    fn sync(&self) -> Result<(), Error> {
        self.device.sync()
    }
}
