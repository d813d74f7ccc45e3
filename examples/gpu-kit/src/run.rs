//! All of the kit in turn, within the time: small cases, matrix instructions, compute-sanitizer, then each layer of real size,
//! checked and timed. What there is no time for is a row that says so.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{env, fs};

use crate::crew::Crew;
use crate::driver::Gpu;
use crate::job::{Answer, Job, Row, Sizes, Status, Step};
use crate::matrix::probes;
use crate::report::{self, Results};
use crate::subject::{names, sizes};

/// Batches that are timed.
const TOKENS: [u64; 8] = [1, 4, 16, 64, 256, 1024, 4096, 16384];
/// Batches of which some tokens are compared with the definition.
const SAMPLED: [u64; 4] = [1, 16, 256, 4096];
/// Tokens of a layer of real size that is run many times.
const REPEATED: u64 = 64;
/// What is timed: moec, then the peers, in turn.
pub(crate) const BY: [&str; 5] = ["moec", "grouped_mm", "fused_moe", "dense", "copy"];
/// So often in turn.
const ROUNDS: usize = 3;
/// The parts of the time by which the small cases, and compute-sanitizer, are done.
const CASES_BY: f64 = 0.3;
const SANITIZED_BY: f64 = 0.4;
/// Seconds that a job on a small layer may take, and one on a layer of real size.
const SMALL: f64 = 10.0;
const LARGE: f64 = 60.0;
/// The tools of compute-sanitizer, and how many cases each is given.
const TOOLS: [&str; 3] = ["memcheck", "racecheck", "synccheck"];
const SANITIZED: usize = 4;
/// The exit code by which compute-sanitizer says that it found something.
const FOUND: &str = "86";

/// What the command line says.
pub(crate) struct Options {
    pub(crate) kit: PathBuf,
    pub(crate) seconds: f64,
    /// Where the table and the JSON go.
    pub(crate) out: PathBuf,
    pub(crate) date: String,
}

/// The time that is left, and the rows so far.
struct Turn {
    begun: Instant,
    seconds: f64,
    rows: Vec<Row>,
    /// What took the process with it: the peer if it was one, the name, and the number of tokens.
    fatal: Vec<(Option<&'static str>, String, u64)>,
}

impl Turn {
    /// Seconds until this part of the time is over.
    fn left(&self, part: f64) -> f64 {
        self.seconds * part - self.begun.elapsed().as_secs_f64()
    }

    fn put(&mut self, job: &Job, answer: Answer) {
        let row = Row {
            step: job.step,
            name: job.name.clone(),
            tokens: job.tokens,
            by: job.by.clone(),
            status: answer.status,
            detail: answer.detail,
            us: report::median(answer.us),
            graph_us: report::median(answer.graph_us),
        };
        println!("{}", report::line(&row));
        self.rows.push(row);
    }

    /// Asks for a job while there is time for it.
    fn ask(&mut self, crew: &mut Crew, job: Job, part: f64) {
        let answer = self.answer(crew, &job, part);
        self.put(&job, answer);
    }

    fn answer(&mut self, crew: &mut Crew, job: &Job, part: f64) -> Answer {
        let left = self.left(part);
        if left <= 0.0 {
            return Answer::new(Status::Skipped, "no time left");
        }
        // Another batch in which the same kernels run would cost as much time again.
        let peer = BY[1..].iter().find(|by| **by == job.by).copied();
        let fatal = |(of, name, tokens): &&(Option<&str>, String, u64)| *of == peer && *name == job.name && *tokens <= job.tokens;
        if let Some((_, _, tokens)) = self.fatal.iter().find(fatal) {
            let at = if *tokens > 0 { format!(" at T = {tokens}") } else { String::new() };
            return Answer::new(Status::Skipped, format!("it ended the process before{at}"));
        }
        let (answer, is_there) = crew.ask(&Job { seconds: left.min(job.seconds), ..job.clone() });
        if !is_there {
            self.fatal.push((peer, job.name.clone(), job.tokens));
        }
        answer
    }
}

fn job(step: Step, name: &str, tokens: u64) -> Job {
    let seconds = match step {
        // With compute-sanitizer around it a kernel is some tens of times slower.
        Step::Sample | Step::Time | Step::Sanitize => LARGE,
        Step::Repeat | Step::Graph if tokens > 0 => LARGE,
        Step::Device | Step::Case | Step::Matrix | Step::Repeat | Step::Graph => SMALL,
    };
    Job { step, name: name.to_string(), tokens, by: String::new(), seconds, sizes: None }
}

/// Runs everything; the exit code is the command's.
pub(crate) fn run(options: &Options) -> ExitCode {
    let kit = options.kit.clone();
    let Ok(program) = env::current_exe() else {
        eprintln!("error: this program's own path is not known");
        return ExitCode::from(3);
    };
    let mut turn = Turn { begun: Instant::now(), seconds: options.seconds, rows: Vec::new(), fatal: Vec::new() };
    let mut gpu_crew = {
        let (program, kit) = (program.clone(), kit.clone());
        Crew::new(move || worker(&program, &kit))
    };
    let (told, _) = gpu_crew.ask(&job(Step::Device, "", 0));
    let gpu = match (told.status, serde_json::from_str::<Gpu>(&told.detail)) {
        (Status::Ok, Ok(gpu)) => gpu,
        (Status::Ok | Status::Failed | Status::Skipped, _) => {
            eprintln!("error: no NVIDIA GPU: {}", told.detail);
            return ExitCode::from(3);
        }
    };
    println!("{}", report::heading(&gpu, &options.date));

    for name in names(&kit.join("cases")) {
        for step in [Step::Case, Step::Repeat, Step::Graph] {
            turn.ask(&mut gpu_crew, job(step, &name, 0), CASES_BY);
        }
    }
    for probe in probes() {
        turn.ask(&mut gpu_crew, job(Step::Matrix, &probe.name(), 0), CASES_BY);
    }
    sanitize(&mut turn, &program, &kit);
    let peers = kit.join("peers.py");
    let mut peer_crew = Crew::new(move || {
        let mut command = Command::new(env::var_os("PYTHON").unwrap_or_else(|| "python3".into()));
        command.arg(&peers).arg("serve");
        command
    });
    // The large ones last: what there is no time for is what takes longest.
    let mut layers: Vec<(Result<Sizes, String>, String)> = names(&kit.join("layers"))
        .into_iter()
        .map(|name| (sizes(&kit.join("layers").join(format!("{name}.moec"))), name))
        .collect();
    layers.sort_by_key(|(sizes, _)| sizes.as_ref().map_or(0, |sizes| sizes.expert_bytes));
    for (index, (sizes, name)) in layers.iter().enumerate() {
        // The time that is left in equal parts.
        let begun = 1.0 - turn.left(1.0) / turn.seconds;
        let part = begun + (1.0 - begun) / (layers.len() - index) as f64;
        match sizes {
            Ok(sizes) => layer(&mut turn, &mut gpu_crew, &mut peer_crew, name, *sizes, part),
            Err(error) => turn.put(&job(Step::Sample, name, 0), Answer::new(Status::Failed, error)),
        }
    }
    let sizes: Vec<(String, Sizes)> = layers.into_iter().filter_map(|(sizes, name)| Some((name, sizes.ok()?))).collect();
    let results = Results { date: options.date.clone(), gpu, seconds: turn.begun.elapsed().as_secs_f64(), rows: turn.rows };
    finish(options, &results, &sizes)
}

fn worker(program: &Path, kit: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("serve").arg(kit);
    command
}

/// Some cases with compute-sanitizer around the worker, if there is one.
fn sanitize(turn: &mut Turn, program: &Path, kit: &Path) {
    let sanitizer = env::var("COMPUTE_SANITIZER").unwrap_or_else(|_| "compute-sanitizer".to_string());
    // Those whose names stand first, and of each type of elements one.
    let all = names(&kit.join("cases"));
    let typed = all.iter().filter(|name| name.contains('.')).take(SANITIZED / 2);
    let plain = all.iter().filter(|name| !name.contains('.'));
    let cases: Vec<&String> = typed.chain(plain).take(SANITIZED).collect();
    for (index, tool) in TOOLS.into_iter().enumerate() {
        let part = CASES_BY + (SANITIZED_BY - CASES_BY) * (index + 1) as f64 / TOOLS.len() as f64;
        let mut crew = {
            let (sanitizer, program, kit) = (sanitizer.clone(), program.to_path_buf(), kit.to_path_buf());
            Crew::new(move || {
                let mut command = Command::new(&sanitizer);
                command.args(["--tool", tool, "--error-exitcode", FOUND]).arg(&program).arg("serve").arg(&kit);
                command
            })
        };
        for case in &cases {
            let job = Job { by: tool.to_string(), ..job(Step::Sanitize, case, 0) };
            turn.ask(&mut crew, job, part);
        }
        let wait = Duration::from_secs_f64(turn.left(part).max(1.0));
        if let Some((code, said)) = crew.dismiss(wait) {
            let job = Job { by: tool.to_string(), ..job(Step::Sanitize, "all of these", 0) };
            let first = said.iter().find(|line| line.contains("Error") || line.contains("hazard") || line.contains("Invalid"));
            let answer = match code {
                Some(0) => Answer::new(Status::Ok, "nothing found"),
                Some(_) | None => Answer::new(Status::Failed, first.or(said.last()).map_or("it failed", String::as_str)),
            };
            turn.put(&job, answer);
        }
    }
}

/// A layer of real size: what it computes, then how long it takes beside others.
fn layer(turn: &mut Turn, gpu_crew: &mut Crew, peer_crew: &mut Crew, name: &str, sizes: Sizes, part: f64) {
    for tokens in SAMPLED {
        turn.ask(gpu_crew, job(Step::Sample, name, tokens), part);
    }
    for step in [Step::Repeat, Step::Graph] {
        turn.ask(gpu_crew, job(step, name, REPEATED), part);
    }
    for tokens in TOKENS {
        timed(turn, gpu_crew, peer_crew, name, tokens, sizes, part);
    }
}

fn timed(turn: &mut Turn, gpu_crew: &mut Crew, peer_crew: &mut Crew, name: &str, tokens: u64, sizes: Sizes, part: f64) {
    let mut sums: Vec<Option<Answer>> = BY.map(|_| None).into();
    for _ in 0..ROUNDS {
        for (by, sum) in BY.into_iter().zip(&mut sums) {
            let crew = if by == "moec" { &mut *gpu_crew } else { &mut *peer_crew };
            let job = Job { by: by.to_string(), sizes: Some(sizes), ..job(Step::Time, name, tokens) };
            match sum {
                None => *sum = Some(turn.answer(crew, &job, part)),
                // A later round adds to what there is; if there is no time for it, that remains.
                Some(sum) if sum.status == Status::Ok && turn.left(part) > 0.0 => {
                    let answer = turn.answer(crew, &job, part);
                    if answer.status == Status::Ok {
                        sum.us.extend(answer.us);
                        sum.graph_us.extend(answer.graph_us);
                    } else {
                        *sum = answer;
                    }
                }
                Some(_) => {}
            }
        }
    }
    for (by, sum) in BY.into_iter().zip(sums) {
        let job = Job { by: by.to_string(), ..job(Step::Time, name, tokens) };
        turn.put(&job, sum.unwrap_or_else(|| Answer::new(Status::Skipped, "no time left")));
    }
}

fn finish(options: &Options, results: &Results, sizes: &[(String, Sizes)]) -> ExitCode {
    let table = report::table(results, sizes);
    println!("\n{table}");
    let json = serde_json::to_string_pretty(results).map_err(std::io::Error::from);
    let written = fs::create_dir_all(&options.out).and(json).and_then(|json| {
        fs::write(options.out.join("results.json"), json + "\n")?;
        fs::write(options.out.join("results.txt"), &table)
    });
    if let Err(error) = written {
        eprintln!("error: {}: {error}", options.out.display());
        return ExitCode::FAILURE;
    }
    // What is wrong with a peer is no mistake of moec.
    let is_peers = |row: &Row| BY[1..].contains(&row.by.as_str());
    let is_wrong = results.rows.iter().any(|row| row.status == Status::Failed && !is_peers(row));
    if is_wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
