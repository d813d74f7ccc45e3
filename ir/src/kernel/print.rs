//! Kernels and programs as text.
//!
//! Names are numbered in the order printed, never by arena index, so an unrelated edit renumbers nothing. Equal
//! expressions are one expression. [`parse`](super::parse()) reads this back; violations are found elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use super::verify::Violation;
use super::{
    Arena, Binary, Block, Compare, Expr, Given, Handle, Index, Kernel, Launch, Local, ParamKind, Place, Program, Reduce, Role,
};
use super::{
    Arrival, Extreme, Factor, Hint, Mbarrier, Panels, Scope, Shared, Stmt, Unary, Vote, Wait, Working, print_matrix, print_sync,
    print_tensor,
};
use crate::DType;

/// A line of the printed program.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Location {
    /// The program's first line.
    Program,
    /// A buffer, by index.
    Buffer(usize),
    /// A launch of the preparation, by index.
    Prepare(usize),
    /// A regime, by index.
    Regime(usize),
    /// A launch: the regime's index, and its own.
    Launch(usize, usize),
    /// A launch of the update, by index.
    Update(usize),
    /// A kernel's first line, by index.
    Kernel(usize),
    /// A statement: the kernel's index, then its place in the body. Within a statement that holds blocks the path
    /// goes on with the number of the block (see [`Stmt::blocks`]) and the place in it.
    Stmt(usize, Vec<usize>),
}

/// The program as text.
pub fn print(program: &Program) -> String {
    lines_of_program(program).into_iter().map(|(_, line)| line + "\n").collect()
}

/// One kernel as text.
pub fn print_kernel(kernel: &Kernel) -> String {
    lines_of_kernel(0, kernel).into_iter().map(|(_, line)| line + "\n").collect()
}

/// The program as text, with every violation under the line at fault.
pub fn print_with_violations(program: &Program, violations: &[Violation]) -> String {
    let mut under: BTreeMap<&Location, Vec<&str>> = BTreeMap::new();
    for violation in violations {
        under.entry(&violation.at).or_default().push(&violation.message);
    }
    let mut text = String::new();
    for (at, line) in lines_of_program(program) {
        let indent = line.len() - line.trim_start().len();
        let _ = writeln!(text, "{line}");
        for message in at.and_then(|at| under.remove(&at)).unwrap_or_default() {
            let _ = writeln!(text, "{:indent$}^ error: {message}", "");
        }
    }
    for message in under.values().flatten() {
        let _ = writeln!(text, "error: {message}");
    }
    text
}

/// The line at `at`, without indentation; nothing if there is none.
pub(super) fn text_at(program: &Program, at: &Location) -> String {
    line_at(lines_of_program(program), at)
}

/// Like [`text_at`], of a kernel that belongs to no program.
pub(super) fn text_in_kernel(kernel: &Kernel, at: &Location) -> String {
    line_at(lines_of_kernel(0, kernel), at)
}

fn line_at(lines: Vec<Line>, at: &Location) -> String {
    let line = lines.into_iter().find(|(location, _)| location.as_ref() == Some(at));
    line.map(|(_, text)| text.trim_start().to_string()).unwrap_or_default()
}

type Line = (Option<Location>, String);

fn lines_of_program(program: &Program) -> Vec<Line> {
    let mut lines = vec![(Some(Location::Program), format!("program {} {{", name('@', &program.name)))];
    let own = |text: String| text.lines().map(|line| (None, line.to_string())).collect::<Vec<Line>>();
    lines.extend(own(program.facts.to_string()));
    for (i, buffer) in program.buffers.iter().enumerate() {
        let shape: Vec<String> = buffer.shape.iter().map(|extent| extent.to_string()).collect();
        let (role, dtype, shape) = (role(buffer.role), buffer.dtype, shape.join(", "));
        let observe = buffer.observe.as_ref().map(|public| format!(" observe {}", quoted(public))).unwrap_or_default();
        let line = format!("  buffer {}: {role} {dtype}[{shape}]{observe}", name('%', &buffer.name));
        lines.push((Some(Location::Buffer(i)), line));
    }
    lines.extend(program.statistics.iter().flat_map(|statistics| own(statistics.to_string())));
    if !program.prepare.is_empty() {
        lines.push((None, "  prepare {".to_string()));
        let launches = program.prepare.iter().enumerate();
        lines.extend(launches.map(|(i, launch)| (Some(Location::Prepare(i)), launch_line(program, launch))));
        lines.push((None, "  }".to_string()));
    }
    for (i, regime) in program.regimes.iter().enumerate() {
        let bound = regime.tokens_up_to.map(|tokens| format!(" up_to {tokens}")).unwrap_or_default();
        let rows = regime.tile_rows.map(|rows| format!(" tile_rows {rows}")).unwrap_or_default();
        lines.push((Some(Location::Regime(i)), format!("  regime{bound}{rows} {{")));
        let launches = regime.launches.iter().enumerate();
        lines.extend(launches.map(|(j, launch)| (Some(Location::Launch(i, j)), launch_line(program, launch))));
        lines.push((None, "  }".to_string()));
    }
    if !program.update.is_empty() {
        lines.push((None, "  update {".to_string()));
        let launches = program.update.iter().enumerate();
        lines.extend(launches.map(|(i, launch)| (Some(Location::Update(i)), launch_line(program, launch))));
        lines.push((None, "  }".to_string()));
    }
    lines.push((None, "}".to_string()));
    for (i, kernel) in program.kernels.iter().enumerate() {
        lines.push((None, String::new()));
        lines.extend(lines_of_kernel(i, kernel));
    }
    lines
}

fn launch_line(program: &Program, launch: &Launch) -> String {
    let kernel = program.kernels.get(launch.kernel).map_or("@?".to_string(), |kernel| name('@', &kernel.name));
    let args = launch.args.iter().map(|arg| {
        let given = match &arg.given {
            Given::Buffer(b) => program.buffers.get(*b).map_or("%?".to_string(), |buffer| name('%', &buffer.name)),
            Given::Scalar(extent) => extent.to_string(),
            Given::TensorMap(view) => {
                let buffer = program.buffers.get(view.buffer).map_or("%?".to_string(), |buffer| name('%', &buffer.name));
                print_tensor::view(&buffer, view)
            }
        };
        let param = name('%', &arg.param);
        if param == given { given } else { format!("{param} = {given}") }
    });
    let args: Vec<String> = args.collect();
    let early = if launch.early { " early" } else { "" };
    let working = launch.working.as_ref().map_or(String::new(), |Working { buffer, each, follows }| {
        let buffer = program.buffers.get(*buffer).map_or("%?".to_string(), |buffer| name('%', &buffer.name));
        format!(" working {buffer} * {each}{}", if *follows { " follows" } else { "" })
    });
    format!("    launch {kernel}({}) grid {}{early}{working}", args.join(", "), launch.grid)
}

pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::Input => "input",
        Role::Output => "output",
        Role::Weight => "weight",
        Role::Prepared => "prepared",
        Role::Workspace => "workspace",
    }
}

/// `name` behind its sigil, in quotes if it is not words with dots between.
fn name(sigil: char, name: &str) -> String {
    let word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let plain = name.split('.').all(word) && !name.starts_with(|c: char| c.is_ascii_digit());
    if plain { format!("{sigil}{name}") } else { format!("{sigil}{}", quoted(name)) }
}

fn quoted(text: &str) -> String {
    let mut out = "\"".to_string();
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out + "\""
}

fn lines_of_kernel(index: usize, kernel: &Kernel) -> Vec<Line> {
    let mut printer = Printer::new(index, kernel);
    let params = kernel.params.iter().zip(&printer.names.params).map(|(param, name)| match param.kind {
        ParamKind::Buffer { elem, write: true } => format!("{name}: *mut {elem}"),
        ParamKind::Buffer { elem, write: false } => format!("{name}: *{elem}"),
        ParamKind::Scalar(elem) => format!("{name}: {elem}"),
        ParamKind::TensorMap(map) => format!("{name}: {}", print_tensor::tensor_map(&map)),
    });
    let (params, threads): (Vec<String>, u32) = (params.collect(), kernel.threads);
    let cluster = if kernel.cluster == 1 { String::new() } else { format!(" cluster {}", kernel.cluster) };
    let resident = if kernel.resident == 1 { String::new() } else { format!(" resident {}", kernel.resident) };
    let header = format!("kernel {}({}) threads {threads}{cluster}{resident} {{", name('@', &kernel.name), params.join(", "));
    printer.lines.push((Some(Location::Kernel(index)), header));
    for (h, shared) in kernel.shared.iter() {
        let align = if shared.align == Shared::ALIGN { String::new() } else { format!(" align {}", shared.align) };
        let line = format!("  shared {}: {}[{}]{align}", printer.names.place(Place::Shared(h)), shared.elem, shared.len);
        printer.lines.push((None, line));
    }
    for (h, registers) in kernel.registers.iter() {
        let line = format!("  registers {}: {}[{}]", printer.names.place(Place::Registers(h)), registers.elem, registers.len);
        printer.lines.push((None, line));
    }
    for (h, barrier) in kernel.mbarriers.iter() {
        let line = print_sync::mbarrier(printer.names.mbarrier(h), barrier);
        printer.lines.push((None, format!("  {line}")));
    }
    printer.block(&kernel.body, &mut Vec::new());
    printer.lines.push((None, "}".to_string()));
    printer.lines
}

/// A repeated expression of at least this many operations is printed once, as a `def` before the statement.
const REPEATED_OPERATIONS: usize = 4;
/// An expression nested this deeply is printed as a `def` too, so that a reader needs only so much depth.
const DEPTH: usize = 24;

struct Printer<'k> {
    index: usize,
    kernel: &'k Kernel,
    names: Names,
    exprs: Distinct,
    lines: Vec<Line>,
}

/// What everything in a kernel is called in its text.
pub(super) struct Names {
    params: Vec<String>,
    shared: Vec<String>,
    registers: Vec<String>,
    mbarriers: Vec<String>,
    locals: HashMap<Handle<Local>, String>,
}

impl Names {
    pub(super) fn of(kernel: &Kernel) -> Names {
        let mut uses: HashMap<String, usize> = HashMap::new();
        let mut fresh = |base: &str| {
            let mut base: String = base.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            if base.is_empty() || base.starts_with(|c: char| c.is_ascii_digit()) {
                base.insert(0, '_');
            }
            let count = uses.entry(base.clone()).or_insert(0);
            *count += 1;
            if *count == 1 { format!("%{base}") } else { format!("%{base}.{}", *count - 1) }
        };
        let params = kernel.params.iter().map(|param| fresh(&param.name)).collect();
        let shared = kernel.shared.iter().map(|(_, shared)| fresh(&shared.name)).collect();
        let registers = kernel.registers.iter().map(|(_, registers)| fresh(&registers.name)).collect();
        let mbarriers = kernel.mbarriers.iter().map(|(_, barrier)| fresh(&barrier.name)).collect();
        let mut locals = HashMap::new();
        name_locals(kernel, &kernel.body, &mut fresh, &mut locals);
        Names { params, shared, registers, mbarriers, locals }
    }

    pub(super) fn local(&self, handle: Handle<Local>) -> &str {
        self.locals.get(&handle).map_or("%?", String::as_str)
    }

    pub(super) fn mbarrier(&self, handle: Handle<Mbarrier>) -> &str {
        self.mbarriers.get(handle.index()).map_or("%?", String::as_str)
    }

    pub(super) fn place(&self, place: Place) -> &str {
        let name = match place {
            Place::Param(i) => self.params.get(i as usize),
            Place::Shared(h) => self.shared.get(h.index()),
            Place::Registers(h) => self.registers.get(h.index()),
        };
        name.map_or("%?", String::as_str)
    }
}

/// Every expression with equal ones made one. A handle that is not before its user, or of nothing, is past the end.
struct Distinct {
    first: Vec<Handle<Expr>>,
    exprs: Vec<Expr>,
}

impl Distinct {
    fn of(arena: &Arena<Expr>) -> Distinct {
        let (mut known, mut first, mut exprs) = (HashMap::new(), Vec::new(), Vec::new());
        for (handle, expr) in arena.iter() {
            let expr = expr.map_operands(|h| first.get(h.index()).copied().unwrap_or(Handle::new(u32::MAX as usize)));
            first.push(*known.entry(expr).or_insert(handle));
            exprs.push(expr);
        }
        Distinct { first, exprs }
    }

    fn get(&self, handle: Handle<Expr>) -> Option<&Expr> {
        self.exprs.get(handle.index())
    }
}

impl<'k> Printer<'k> {
    fn new(index: usize, kernel: &'k Kernel) -> Self {
        Printer { index, kernel, names: Names::of(kernel), exprs: Distinct::of(&kernel.exprs), lines: Vec::new() }
    }

    fn block(&mut self, block: &Block, path: &mut Vec<usize>) {
        for (i, stmt) in block.iter().enumerate() {
            path.push(i);
            self.stmt(stmt, path);
            path.pop();
        }
    }

    fn stmt(&mut self, stmt: &Stmt, path: &mut Vec<usize>) {
        let indent = " ".repeat(path.len() + 1);
        let defs = self.defs(stmt);
        for (i, &handle) in defs.iter().enumerate() {
            let value = self.formula(&defs, handle);
            self.lines.push((None, format!("{indent}def ${i} = {value}")));
        }
        let e = |handle: Handle<Expr>| self.expr(&defs, handle);
        let local = |handle: &Handle<Local>| self.local(*handle);
        let typed = |handle: &Handle<Local>| match self.kernel.locals.get(*handle) {
            Some(of) => format!("{}: {}", self.local(*handle), of.ty),
            None => format!("{}: ?", self.local(*handle)),
        };
        let aligned = |place: &Place, align: u32| {
            let natural = self.kernel.elem(*place).is_some_and(|elem| elem.bytes() == u64::from(align));
            if natural { String::new() } else { format!(" align {align}") }
        };
        let text = match stmt {
            Stmt::Let { local, value } => format!("let {} = {}", typed(local), e(*value)),
            Stmt::Var { local, value } => format!("var {} = {}", typed(local), e(*value)),
            Stmt::Set { local: changed, value } => format!("set {} = {}", local(changed), e(*value)),
            Stmt::Load { local, from, offset, align, hint } => {
                let (aligned, hint) =
                    (aligned(from, *align), hint_word(*hint).map(|word| format!(" {word}")).unwrap_or_default());
                format!("load {} = {}[{}]{aligned}{hint}", typed(local), self.place(*from), e(*offset))
            }
            Stmt::Store { to, offset, value, align } => {
                format!("store {}[{}] = {}{}", self.place(*to), e(*offset), e(*value), aligned(to, *align))
            }
            Stmt::AtomicAdd { local, to, offset, value } => {
                let before = local.as_ref().map(|local| format!("{} = ", typed(local))).unwrap_or_default();
                format!("atomic {before}{}[{}] += {}", self.place(*to), e(*offset), e(*value))
            }
            Stmt::Shuffle { local, value, mask } => format!("shuffle {} = {} mask {mask}", typed(local), e(*value)),
            Stmt::Vote { local, vote, value } => format!("vote {} = {} {}", typed(local), vote_word(*vote), e(*value)),
            Stmt::Redux { local, extreme, value } => {
                format!("redux {} = {} {}", typed(local), extreme_word(*extreme), e(*value))
            }
            Stmt::Barrier(scope) => format!("barrier {}", print_sync::scope(*scope)),
            Stmt::BarrierArrive { id, count } => {
                format!("barrier_arrive {}", print_sync::scope(Scope::Threads { id: *id, count: *count }))
            }
            Stmt::Roles(roles) => match roles.first() {
                Some(role) => format!("roles {} {{", print_sync::role(role)),
                None => "roles".to_string(),
            },
            Stmt::Arrive { barrier, stage, arrival } => {
                let how = match arrival {
                    Arrival::Now => String::new(),
                    Arrival::Expecting(bytes) => format!(" bytes {}", e(*bytes)),
                    Arrival::Copied => " copied".to_string(),
                    Arrival::InBlock(block) => format!(" in_block {}", e(*block)),
                };
                format!("arrive {}[{}]{how}", self.names.mbarrier(*barrier), e(*stage))
            }
            Stmt::BulkCopy { to, at, from, offset, bytes, barrier, stage } => {
                let to = format!("{}[{}]", self.place(Place::Shared(*to)), e(*at));
                let from = format!("{}[{}]", self.place(Place::Param(*from)), e(*offset));
                format!("bulk_copy {to} = {from} bytes {bytes} on {}[{}]", self.names.mbarrier(*barrier), e(*stage))
            }
            Stmt::TileCopy { to, at, from, corner, barrier, stage, to_all } => {
                let everywhere = if *to_all { " in_all_blocks" } else { "" };
                let to = format!("{}[{}]", self.place(Place::Shared(*to)), e(*at));
                let (from, [outer, row, column]) = (self.place(Place::Param(*from)), corner.map(e));
                let on = format!("{}[{}]", self.names.mbarrier(*barrier), e(*stage));
                format!("tile_copy {to} = {from}[{outer}, {row}, {column}] on {on}{everywhere}")
            }
            Stmt::TileStore { to, corner, from, at } => {
                let (to, [outer, row, column]) = (self.place(Place::Param(*to)), corner.map(e));
                format!("tile_store {to}[{outer}, {row}, {column}] = {}[{}]", self.place(Place::Shared(*from)), e(*at))
            }
            Stmt::Prefetch { from, offset } => format!("prefetch {}[{}]", self.place(Place::Param(*from)), e(*offset)),
            Stmt::Wait(Wait::Phase { barrier, stage, phase }) => {
                format!("wait {}[{}] phase {}", self.names.mbarrier(*barrier), e(*stage), e(*phase))
            }
            Stmt::For { local, start, end, step, .. } => {
                let elem = self.kernel.locals.get(*local).map(|local| local.ty.elem);
                let one = self.exprs.first.get(step.index()).and_then(|h| self.exprs.get(*h));
                let implied = elem.is_some_and(|elem| one == Some(&Expr::Int(1, elem)));
                let step = if implied { String::new() } else { format!(" step {}", e(*step)) };
                format!("for {} in {}..{}{step} {{", typed(local), e(*start), e(*end))
            }
            Stmt::If { cond, .. } => format!("if {} {{", e(*cond)),
            Stmt::Copy { to, at, from, offset, bytes, live } => {
                let live = live.map(|live| format!(" live {}", e(live))).unwrap_or_default();
                let (to, from) = (self.place(*to), self.place(*from));
                format!("copy {to}[{}] = {from}[{}] bytes {bytes}{live}", e(*at), e(*offset))
            }
            Stmt::Commit => "commit".to_string(),
            Stmt::Wait(Wait::Groups(left)) => format!("wait groups {left}"),
            Stmt::Wait(Wait::Products(left)) => format!("wait products {left}"),
            Stmt::Wait(Wait::Stores) => "wait stores".to_string(),
            Stmt::Wait(Wait::Launches) => "wait launches".to_string(),
            Stmt::AllowNext => "allow_next".to_string(),
            Stmt::Fence => "fence".to_string(),
            Stmt::StoreMatrix { to, offset, pairs, transposed } => {
                let pairs: Vec<String> = pairs.iter().map(|pair| e(*pair)).collect();
                let transposed = if *transposed { " transposed" } else { "" };
                format!("store_matrix {}[{}] = ({}){transposed}", self.place(*to), e(*offset), pairs.join(", "))
            }
            Stmt::LoadMatrix { locals, from, offset, transposed } => {
                let locals: Vec<String> = locals.iter().map(typed).collect();
                let transposed = if *transposed { " transposed" } else { "" };
                format!("load_matrix {} = {}[{}]{transposed}", locals.join(", "), self.place(*from), e(*offset))
            }
            Stmt::Mma { shape, sums, at, a, b } => {
                let list = |pairs: &[Handle<Expr>]| pairs.iter().map(|pair| e(*pair)).collect::<Vec<_>>();
                print_matrix::mma(*shape, self.place(Place::Registers(*sums)), *at, &list(a), &list(b))
            }
            Stmt::GroupMma { columns, depth, sums, at, a, b } => {
                let panels = |of: &Panels| print_matrix::panels(self.place(Place::Shared(of.array)), &e(of.at), of);
                let a = match a {
                    Factor::Pairs(pairs) => format!("({})", pairs.iter().map(|pair| e(*pair)).collect::<Vec<_>>().join(", ")),
                    Factor::Shared(of) => panels(of),
                };
                let sums = self.place(Place::Registers(*sums));
                format!("group_mma m64n{columns}k{depth} {sums}[{at}] += {a} * {}", panels(b))
            }
        };
        self.lines.push((Some(Location::Stmt(self.index, path.clone())), format!("{indent}{text}")));
        for (i, block) in stmt.blocks().enumerate() {
            let between = if let Stmt::Roles(roles) = stmt {
                roles.get(i).map(|role| format!("and {}", print_sync::role(role)))
            } else {
                (!block.is_empty()).then(|| "else".to_string())
            };
            self.lines.extend(between.filter(|_| i > 0).map(|words| (None, format!("{indent}}} {words} {{"))));
            path.push(i);
            self.block(block, path);
            path.pop();
        }
        if stmt.blocks().next().is_some() {
            self.lines.push((None, format!("{indent}}}")));
        }
    }

    fn local(&self, handle: Handle<Local>) -> &str {
        self.names.local(handle)
    }

    fn place(&self, place: Place) -> &str {
        self.names.place(place)
    }

    /// What the statement says in definitions of their own, in order: see [`REPEATED_OPERATIONS`] and [`DEPTH`].
    fn defs(&self, stmt: &Stmt) -> Vec<Handle<Expr>> {
        let first = |h: Handle<Expr>| self.exprs.first.get(h.index()).copied();
        let roots: Vec<Handle<Expr>> = stmt.exprs().filter_map(first).collect();
        let mut uses: BTreeMap<Handle<Expr>, usize> = BTreeMap::new();
        let mut rest: BTreeMap<Handle<Expr>, ()> = BTreeMap::new();
        for &root in &roots {
            *uses.entry(root).or_default() += 1;
            rest.insert(root, ());
        }
        // Operands come before their users: from the last to the first, all uses are counted before they matter.
        while let Some((handle, ())) = rest.pop_last() {
            for operand in self.exprs.get(handle).into_iter().flat_map(Expr::operands).filter(|h| *h < handle) {
                *uses.entry(operand).or_default() += 1;
                rest.insert(operand, ());
            }
        }
        // Operations and depth of what would be printed inline.
        let mut inline: HashMap<Handle<Expr>, (usize, usize)> = HashMap::new();
        let mut chosen = Vec::new();
        for (&handle, &uses) in &uses {
            let operands = || self.exprs.get(handle).into_iter().flat_map(Expr::operands);
            let of = |h| inline.get(&h).copied().unwrap_or((0, 0));
            let leaf = operands().next().is_none();
            let operations = operands().map(|h| of(h).0).sum::<usize>() + usize::from(!leaf);
            let depth = operands().map(|h| of(h).1).max().map_or(0, |depth| depth + 1);
            if depth >= DEPTH || uses > 1 && operations >= REPEATED_OPERATIONS {
                chosen.push(handle);
            } else {
                inline.insert(handle, (operations, depth));
            }
        }
        self.in_print_order(&roots, &chosen)
    }

    /// `chosen` in the order in which a reader, going left to right, needs them.
    fn in_print_order(&self, roots: &[Handle<Expr>], chosen: &[Handle<Expr>]) -> Vec<Handle<Expr>> {
        if chosen.is_empty() {
            return Vec::new();
        }
        let (mut seen, mut order) = (std::collections::HashSet::new(), Vec::new());
        // Whether the operands of the handle have been visited.
        let mut stack: Vec<(Handle<Expr>, bool)> = roots.iter().rev().map(|h| (*h, false)).collect();
        while let Some((handle, visited)) = stack.pop() {
            if visited {
                order.extend(chosen.binary_search(&handle).is_ok().then_some(handle));
            } else if seen.insert(handle) {
                stack.push((handle, true));
                let operands: Vec<_> = self.exprs.get(handle).into_iter().flat_map(Expr::operands).collect();
                stack.extend(operands.into_iter().rev().filter(|h| *h < handle).map(|h| (h, false)));
            }
        }
        order
    }

    fn expr(&self, defs: &[Handle<Expr>], handle: Handle<Expr>) -> String {
        let Some(&handle) = self.exprs.first.get(handle.index()) else { return "?".to_string() };
        let mut out = String::new();
        self.write(&mut out, defs, handle, 0);
        out
    }

    /// Like [`Printer::expr`] of an expression that has a definition: its right-hand side.
    fn formula(&self, defs: &[Handle<Expr>], handle: Handle<Expr>) -> String {
        let mut out = String::new();
        self.write_formula(&mut out, defs, handle, 0);
        out
    }

    fn write(&self, out: &mut String, defs: &[Handle<Expr>], handle: Handle<Expr>, tightness: u8) {
        match defs.iter().position(|def| *def == handle) {
            Some(i) => out.push_str(&format!("${i}")),
            None => self.write_formula(out, defs, handle, tightness),
        }
    }

    /// In brackets if it binds less tightly than `tightness`.
    fn write_formula(&self, out: &mut String, defs: &[Handle<Expr>], handle: Handle<Expr>, tightness: u8) {
        let call = |out: &mut String, name: &str, args: &[Handle<Expr>], numbers: &[u32]| {
            out.push_str(name);
            out.push('(');
            for (i, arg) in args.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                self.write(out, defs, *arg, 0);
            }
            numbers.iter().for_each(|n| out.push_str(&format!(", {n}")));
            out.push(')');
        };
        let infix = |out: &mut String, sign: &str, (left, own, right): (u8, u8, u8), a: Handle<Expr>, b: Handle<Expr>| {
            out.push_str(if own < tightness { "(" } else { "" });
            self.write(out, defs, a, left);
            out.push_str(&format!(" {sign} "));
            self.write(out, defs, b, right);
            out.push_str(if own < tightness { ")" } else { "" });
        };
        let prefix = |out: &mut String, sign: char, a: Handle<Expr>| {
            out.push(sign);
            // `-5` is a constant and `-(5)` an operation.
            let number = matches!(self.exprs.get(a), Some(Expr::Int(..) | Expr::Float(_)));
            out.push_str(if number { "(" } else { "" });
            self.write(out, defs, a, UNARY);
            out.push_str(if number { ")" } else { "" });
        };
        let Some(expr) = self.exprs.get(handle) else { return out.push('?') };
        match *expr {
            Expr::Bool(truth) => out.push_str(if truth { "true" } else { "false" }),
            Expr::Int(n, DType::I32) => out.push_str(&n.to_string()),
            Expr::Int(n, elem) => out.push_str(&format!("{n}{elem}")),
            Expr::Float(bits) if f32::from_bits(bits).is_finite() => out.push_str(&format!("{:?}", f32::from_bits(bits))),
            Expr::Float(bits) => out.push_str(&format!("bits({bits:#010x})")),
            Expr::Index(Index::Thread) => out.push_str("thread"),
            Expr::Index(Index::Block) => out.push_str("block"),
            Expr::Param(i) => out.push_str(self.place(Place::Param(i))),
            Expr::Local(h) => out.push_str(self.local(h)),
            Expr::Unary(Unary::Neg, a) => prefix(out, '-', a),
            Expr::Unary(Unary::Not, a) => prefix(out, '!', a),
            Expr::Unary(Unary::Abs, a) => call(out, "abs", &[a], &[]),
            Expr::Unary(Unary::Floor, a) => call(out, "floor", &[a], &[]),
            Expr::Unary(Unary::Sqrt, a) => call(out, "sqrt", &[a], &[]),
            Expr::Unary(Unary::CountOnes, a) => call(out, "count_ones", &[a], &[]),
            Expr::Unary(Unary::Exp2Approx, a) => call(out, "exp2_approx", &[a], &[]),
            Expr::Unary(Unary::ReciprocalApprox, a) => call(out, "reciprocal_approx", &[a], &[]),
            Expr::Unary(Unary::RoundTf32, a) => call(out, "round_tf32", &[a], &[]),
            Expr::Binary(Binary::Min, a, b) => call(out, "min", &[a, b], &[]),
            Expr::Binary(Binary::Max, a, b) => call(out, "max", &[a, b], &[]),
            Expr::Binary(op, a, b) => match sign(op) {
                Some((sign, tight)) => infix(out, sign, (tight, tight, tight + 1), a, b),
                None => out.push('?'),
            },
            Expr::Compare(op, a, b) => infix(out, compare_sign(op), (COMPARE + 1, COMPARE, COMPARE + 1), a, b),
            Expr::Select(c, a, b) => call(out, "select", &[c, a, b], &[]),
            Expr::Fma(a, b, c) => call(out, "fma", &[a, b, c], &[]),
            Expr::Dot { acc, a, b } => call(out, "dot", &[acc, a, b], &[]),
            Expr::Cast(elem, a) => call(out, &elem.to_string(), &[a], &[]),
            Expr::Bitcast(elem, a) => call(out, &format!("bits_{elem}"), &[a], &[]),
            Expr::Splat(lanes, a) => call(out, "splat", &[a], &[lanes]),
            Expr::Concat(a, b) => call(out, "concat", &[a, b], &[]),
            Expr::Transpose(a, rows) => call(out, "transpose", &[a], &[rows]),
            Expr::Extract(a, lane, 1) => call(out, "lane", &[a], &[lane]),
            Expr::Extract(a, lane, lanes) => call(out, "lanes", &[a], &[lane, lanes]),
            Expr::Reduce(Reduce::Add, a) => call(out, "sum", &[a], &[]),
            Expr::Reduce(Reduce::Max, a) => call(out, "greatest", &[a], &[]),
        }
    }
}

/// Names the locals in the order in which statements bind them.
fn name_locals(
    kernel: &Kernel,
    block: &Block,
    fresh: &mut impl FnMut(&str) -> String,
    names: &mut HashMap<Handle<Local>, String>,
) {
    for stmt in block {
        for handle in stmt.binds() {
            if let Some(local) = kernel.locals.get(handle) {
                names.entry(handle).or_insert_with(|| fresh(&local.name));
            }
        }
        for block in stmt.blocks() {
            name_locals(kernel, block, fresh, names);
        }
    }
}

/// How tightly comparisons bind; they do not chain.
pub(super) const COMPARE: u8 = 1;
/// How tightly `-x` and `!x` bind.
pub(super) const UNARY: u8 = 8;

/// The operators written between their operands and how tightly they bind, loosest first, as in Rust.
pub(super) const SIGNS: [(Binary, &str, u8); 11] = [
    (Binary::Or, "|", 2),
    (Binary::Xor, "^", 3),
    (Binary::And, "&", 4),
    (Binary::Shl, "<<", 5),
    (Binary::Shr, ">>", 5),
    (Binary::ShrUnsigned, ">>>", 5),
    (Binary::Add, "+", 6),
    (Binary::Sub, "-", 6),
    (Binary::Mul, "*", 7),
    (Binary::Div, "/", 7),
    (Binary::Rem, "%", 7),
];

/// The comparisons.
pub(super) const COMPARES: [(Compare, &str); 6] =
    [(Compare::Eq, "=="), (Compare::Ne, "!="), (Compare::Lt, "<"), (Compare::Le, "<="), (Compare::Gt, ">"), (Compare::Ge, ">=")];

fn sign(op: Binary) -> Option<(&'static str, u8)> {
    SIGNS.iter().find(|(of, ..)| *of == op).map(|(_, sign, tight)| (*sign, *tight))
}

fn compare_sign(op: Compare) -> &'static str {
    COMPARES.iter().find(|(of, _)| *of == op).map_or("?", |(_, sign)| sign)
}

pub(super) fn hint_word(hint: Hint) -> Option<&'static str> {
    match hint {
        Hint::None => None,
        Hint::Keep => Some("keep"),
        Hint::Stream => Some("stream"),
    }
}

pub(super) fn extreme_word(extreme: Extreme) -> &'static str {
    match extreme {
        Extreme::Max => "max",
        Extreme::Min => "min",
    }
}

pub(super) fn vote_word(vote: Vote) -> &'static str {
    match vote {
        Vote::Any => "any",
        Vote::All => "all",
        Vote::Ballot => "ballot",
    }
}
