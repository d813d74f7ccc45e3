//! Processes that do jobs. One that does not answer in time is ended, and one that has ended is started again for the next job:
//! what a faulty kernel takes with it is the job that it was part of.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::job::{Answer, Job, Status};

/// Seconds that a worker has beyond what a job may take, to stop by itself.
const GRACE: f64 = 3.0;

/// Workers of one kind, of which at most one lives.
pub(crate) struct Crew {
    command: Box<dyn Fn() -> Command>,
    worker: Option<Worker>,
}

struct Worker {
    child: Child,
    jobs: ChildStdin,
    lines: Receiver<String>,
    /// What it said beside answers, the last of it.
    said: Vec<String>,
}

impl Crew {
    pub(crate) fn new(command: impl Fn() -> Command + 'static) -> Crew {
        Crew { command: Box::new(command), worker: None }
    }

    /// A worker's answer, that it gave none being one too, and whether it is there for the next job.
    pub(crate) fn ask(&mut self, job: &Job) -> (Answer, bool) {
        let worker = match self.worker.take() {
            Some(worker) => Ok(worker),
            None => Worker::start((self.command)()),
        };
        let mut worker = match worker {
            Ok(worker) => worker,
            Err(error) => return (Answer::new(Status::Skipped, error), true),
        };
        match worker.ask(job) {
            Ok(answer) => {
                self.worker = Some(worker);
                (answer, true)
            }
            Err(why) => (Answer::new(Status::Failed, format!("{why}{}", worker.end())), false),
        }
    }

    /// Ends the worker when it has done all jobs: its exit code, and what it said beside answers.
    pub(crate) fn dismiss(&mut self, wait: Duration) -> Option<(Option<i32>, Vec<String>)> {
        self.worker.take().map(|worker| worker.dismiss(wait))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.end();
        }
    }
}

impl Worker {
    fn start(mut command: Command) -> Result<Worker, String> {
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut child = started.map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
        let (Some(jobs), Some(out)) = (child.stdin.take(), child.stdout.take()) else { return Err("no pipes".to_string()) };
        let (send, lines) = channel();
        thread::spawn(move || {
            // The end of the lines, or of the listener, ends this thread.
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Worker { child, jobs, lines, said: Vec::new() })
    }

    fn ask(&mut self, job: &Job) -> Result<Answer, String> {
        let line = serde_json::to_string(job).map_err(|error| error.to_string())?;
        writeln!(self.jobs, "{line}").and_then(|()| self.jobs.flush()).map_err(|_| "the process takes no jobs")?;
        let mut left = Duration::from_secs_f64(job.seconds.clamp(0.0, 1e6) + GRACE);
        loop {
            let begun = std::time::Instant::now();
            let line = self.lines.recv_timeout(left).map_err(|error| match error {
                RecvTimeoutError::Timeout => format!("no answer within {:.0} s; the process was ended", job.seconds + GRACE),
                RecvTimeoutError::Disconnected => "the process ended".to_string(),
            })?;
            left = left.saturating_sub(begun.elapsed());
            // Others print beside answers: compute-sanitizer does.
            if line.starts_with('{') {
                return serde_json::from_str(&line).map_err(|error| format!("no answer: {error}"));
            }
            self.note(line);
        }
    }

    fn note(&mut self, line: String) {
        const MOST: usize = 200;
        if self.said.len() < MOST {
            self.said.push(line);
        }
    }

    /// Ends it now: how it went, if that is known.
    fn end(&mut self) -> String {
        let ended = match self.child.try_wait() {
            Ok(Some(status)) => format!(" ({status})"),
            Ok(None) | Err(_) => {
                // Both fail only where it has ended.
                let _ = self.child.kill();
                let _ = self.child.wait();
                String::new()
            }
        };
        let said = self.said.last().map_or(String::new(), |line| format!("; it said: {line}"));
        ended + &said
    }

    fn dismiss(mut self, wait: Duration) -> (Option<i32>, Vec<String>) {
        drop(self.jobs);
        // It ends when its input does; the end of its output says that it has.
        let mut left = wait;
        loop {
            let begun = std::time::Instant::now();
            match self.lines.recv_timeout(left) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let _ = self.child.kill();
                    break;
                }
            }
            left = left.saturating_sub(begun.elapsed());
        }
        let code = self.child.wait().ok().and_then(|status| status.code());
        (code, self.said)
    }
}
