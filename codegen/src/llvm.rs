//! LLVM's builder in the form that the lowering uses: scalars and vectors alike, in words of one line.
//! What is said with it is in `lower` and `target`; how a finished module becomes bytes is in `emit`.
//!
//! inkwell reports misuse of the builder (a wrong operand type, no insertion point) as a `Result`. Such misuse is
//! a bug in this crate and not something a program can cause: it is unwrapped here and nowhere else.
#![allow(unsafe_code)] // LLVM's address arithmetic, sync scopes and diagnostics have no safe wrapper in inkwell

use std::cell::RefCell;
use std::ffi::{CStr, c_void};

use inkwell::attributes::Attribute;
use inkwell::basic_block::BasicBlock;
use inkwell::builder::Builder;
use inkwell::context::Context;
use inkwell::intrinsics::Intrinsic;
use inkwell::llvm_sys::LLVMDiagnosticSeverity;
use inkwell::llvm_sys::core as sys;
use inkwell::llvm_sys::prelude::LLVMDiagnosticInfoRef;
use inkwell::module::Module;
use inkwell::types::{AnyType, BasicMetadataTypeEnum, BasicType, BasicTypeEnum, FunctionType, VectorType};
use inkwell::values::{AsValueRef, BasicValue, BasicValueEnum, PhiValue, VectorValue};
use inkwell::{AtomicOrdering, AtomicRMWBinOp};

pub(crate) use inkwell::attributes::AttributeLoc as At;
pub(crate) use inkwell::values::{FunctionValue as Function, InstructionOpcode as Op, PointerValue as Pointer};
pub(crate) use inkwell::{FloatPredicate, IntPredicate};

/// A scalar, a vector or a pointer.
pub(crate) type Value<'c> = BasicValueEnum<'c>;
/// Its type.
pub(crate) type Type<'c> = BasicTypeEnum<'c>;

/// One LLVM context, and the errors that LLVM reported in it. One a compilation: LLVM shares nothing between
/// contexts, so compilations may run in parallel and give the same bytes as alone.
pub(crate) struct Session {
    context: Context,
    errors: Box<RefCell<Vec<String>>>,
}

impl Session {
    pub(crate) fn new() -> Session {
        let session = Session { context: Context::create(), errors: Box::default() };
        let errors: *const RefCell<Vec<String>> = &*session.errors;
        // Without a handler LLVM prints the error and calls exit(1).
        // SAFETY: the handler reads `errors` as what it is; the box outlives the context (fields drop in order) and
        // both stay on one thread, for neither is Sync.
        unsafe { sys::LLVMContextSetDiagnosticHandler(session.context.raw(), Some(record), errors as *mut c_void) };
        session
    }

    /// An empty module of that name; what is public in it begins with `prefix`.
    pub(crate) fn module(&self, name: &str, prefix: String) -> Ir<'_> {
        let module = self.context.create_module(name);
        Ir { context: &self.context, module, prefix, builder: self.context.create_builder() }
    }

    /// The errors that LLVM has reported so far.
    pub(crate) fn take_errors(&self) -> Vec<String> {
        self.errors.take()
    }
}

extern "C" fn record(info: LLVMDiagnosticInfoRef, errors: *mut c_void) {
    // SAFETY: LLVM passes a live diagnostic and the pointer given to it in `Session::new`; the description is a
    // NUL-terminated string that is ours to dispose of.
    unsafe {
        if !matches!(sys::LLVMGetDiagInfoSeverity(info), LLVMDiagnosticSeverity::LLVMDSError) {
            return;
        }
        let text = sys::LLVMGetDiagInfoDescription(info);
        let errors = &*(errors as *const RefCell<Vec<String>>);
        errors.borrow_mut().push(CStr::from_ptr(text).to_string_lossy().into_owned());
        sys::LLVMDisposeMessage(text);
    }
}

/// A module being written, and the place where the next instruction goes.
pub(crate) struct Ir<'c> {
    pub(crate) context: &'c Context,
    pub(crate) module: Module<'c>,
    prefix: String,
    builder: Builder<'c>,
}

/// The result of a builder call whose operands this crate has typed.
#[track_caller]
fn built<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|e| panic!("LLVM's builder was misused: {e}"))
}

impl<'c> Ir<'c> {
    /// The public name of what a program calls `name`.
    pub(crate) fn symbol(&self, name: &str) -> String {
        format!("{}_{name}", self.prefix)
    }

    // Types and constants.

    pub(crate) fn int(&self, bits: u32) -> Type<'c> {
        let of = |bits| built(self.context.custom_width_int_type(bits));
        of(std::num::NonZeroU32::new(bits).unwrap_or(std::num::NonZeroU32::MIN)).into()
    }

    pub(crate) fn f32(&self) -> Type<'c> {
        self.context.f32_type().into()
    }

    pub(crate) fn f16(&self) -> Type<'c> {
        self.context.f16_type().into()
    }

    pub(crate) fn bf16(&self) -> Type<'c> {
        self.context.bf16_type().into()
    }

    pub(crate) fn pointer(&self, address_space: u16) -> Type<'c> {
        self.context.ptr_type(address_space.into()).into()
    }

    /// `elem`, or `lanes` of it side by side.
    #[track_caller]
    pub(crate) fn lanes_of(&self, elem: Type<'c>, lanes: u32) -> Type<'c> {
        match (elem, lanes) {
            (scalar, 1) => scalar,
            (Type::IntType(t), n) => t.vec_type(n).into(),
            (Type::FloatType(t), n) => t.vec_type(n).into(),
            (other, _) => panic!("no vector of {other:?}"),
        }
    }

    /// The type with the lanes of `like` and elements of type `elem`.
    pub(crate) fn shaped(&self, elem: Type<'c>, like: Value<'c>) -> Type<'c> {
        self.lanes_of(elem, lanes(like))
    }

    /// The integer `n` in every lane of `ty`.
    #[track_caller]
    pub(crate) fn constant(&self, ty: Type<'c>, n: i64) -> Value<'c> {
        match ty {
            Type::IntType(t) => t.const_int(n as u64, true).into(),
            Type::VectorType(t) => {
                let one = t.get_element_type().into_int_type().const_int(n as u64, true);
                VectorType::const_vector(&vec![one; t.get_size() as usize]).into()
            }
            other => panic!("no integer constant of type {other:?}"),
        }
    }

    // Arithmetic.

    #[track_caller]
    pub(crate) fn binary(&self, op: Op, a: Value<'c>, b: Value<'c>) -> Value<'c> {
        built(self.builder.build_binop(op, a, b, ""))
    }

    #[track_caller]
    pub(crate) fn float_neg(&self, a: Value<'c>) -> Value<'c> {
        match a {
            Value::FloatValue(a) => built(self.builder.build_float_neg(a, "")).into(),
            other => built(self.builder.build_float_neg(other.into_vector_value(), "")).into(),
        }
    }

    /// `a + b` which is known not to pass the greatest integer.
    #[track_caller]
    pub(crate) fn add_no_wrap(&self, a: Value<'c>, b: Value<'c>, name: &str) -> Value<'c> {
        built(self.builder.build_int_nsw_add(a.into_int_value(), b.into_int_value(), name)).into()
    }

    #[track_caller]
    pub(crate) fn int_compare(&self, how: IntPredicate, a: Value<'c>, b: Value<'c>) -> Value<'c> {
        match (a, b) {
            (Value::IntValue(a), Value::IntValue(b)) => built(self.builder.build_int_compare(how, a, b, "")).into(),
            (a, b) => built(self.builder.build_int_compare(how, a.into_vector_value(), b.into_vector_value(), "")).into(),
        }
    }

    #[track_caller]
    pub(crate) fn float_compare(&self, how: FloatPredicate, a: Value<'c>, b: Value<'c>) -> Value<'c> {
        match (a, b) {
            (Value::FloatValue(a), Value::FloatValue(b)) => built(self.builder.build_float_compare(how, a, b, "")).into(),
            (a, b) => built(self.builder.build_float_compare(how, a.into_vector_value(), b.into_vector_value(), "")).into(),
        }
    }

    #[track_caller]
    pub(crate) fn select(&self, cond: Value<'c>, a: Value<'c>, b: Value<'c>) -> Value<'c> {
        match cond {
            Value::IntValue(c) => built(self.builder.build_select(c, a, b, "")),
            other => built(self.builder.build_select(other.into_vector_value(), a, b, "")),
        }
    }

    #[track_caller]
    pub(crate) fn cast(&self, op: Op, a: Value<'c>, to: Type<'c>) -> Value<'c> {
        built(self.builder.build_cast(op, a, to, ""))
    }

    // Vectors.

    #[track_caller]
    pub(crate) fn splat(&self, n: u32, scalar: Value<'c>) -> Value<'c> {
        if n == 1 {
            return scalar;
        }
        let poison = self.poison(scalar, n);
        let zero = self.context.i32_type().const_zero();
        let one = built(self.builder.build_insert_element(poison, scalar, zero, ""));
        self.pick(one.into(), one.into(), &vec![0; n as usize])
    }

    fn poison(&self, scalar: Value<'c>, n: u32) -> VectorValue<'c> {
        self.lanes_of(scalar.get_type(), n).into_vector_type().get_poison()
    }

    /// Scalars side by side; one alone is itself.
    #[track_caller]
    pub(crate) fn vector(&self, scalars: &[Value<'c>]) -> Value<'c> {
        let [first, rest @ ..] = scalars else { panic!("a vector of nothing") };
        if rest.is_empty() {
            return *first;
        }
        let insert = |vector: VectorValue<'c>, (i, scalar): (u64, &Value<'c>)| {
            let lane = self.context.i32_type().const_int(i, false);
            built(self.builder.build_insert_element(vector, *scalar, lane, ""))
        };
        (0..).zip(scalars).fold(self.poison(*first, scalars.len() as u32), insert).into()
    }

    #[track_caller]
    pub(crate) fn extract(&self, vector: Value<'c>, lane: u32) -> Value<'c> {
        match vector {
            Value::VectorValue(v) => {
                let lane = self.context.i32_type().const_int(u64::from(lane), false);
                built(self.builder.build_extract_element(v, lane, ""))
            }
            scalar => scalar,
        }
    }

    /// The lanes of `a` followed by those of `b`, at these places.
    #[track_caller]
    pub(crate) fn pick(&self, a: Value<'c>, b: Value<'c>, places: &[u32]) -> Value<'c> {
        let i32 = self.context.i32_type();
        let places: Vec<_> = places.iter().map(|&p| i32.const_int(u64::from(p), false)).collect();
        let places = VectorType::const_vector(&places);
        built(self.builder.build_shuffle_vector(a.into_vector_value(), b.into_vector_value(), places, "")).into()
    }

    /// The lanes of `a` followed by those of `b`, which are as many.
    #[track_caller]
    pub(crate) fn concat(&self, a: Value<'c>, b: Value<'c>) -> Value<'c> {
        let places: Vec<u32> = (0..lanes(a) + lanes(b)).collect();
        self.pick(a, b, &places)
    }

    // Memory. An alignment of 0 means that of the type.

    /// The address of element `offset` (an `i64`) of an array.
    #[track_caller]
    pub(crate) fn element(&self, elem: Type<'c>, array: Pointer<'c>, offset: Value<'c>) -> Pointer<'c> {
        // SAFETY: one index into an array of `elem`, as the types of `getelementptr` require; that the offset is
        // inside is the program's promise, as it is for every load and store.
        built(unsafe { self.builder.build_in_bounds_gep(elem, array, &[offset.into_int_value()], "") })
    }

    #[track_caller]
    pub(crate) fn load(&self, ty: Type<'c>, from: Pointer<'c>, align: u32, name: &str) -> Value<'c> {
        let value = built(self.builder.build_load(ty, from, name));
        if let (Some(load), 1..) = (value.as_instruction_value(), align) {
            built(load.set_alignment(align));
        }
        value
    }

    #[track_caller]
    pub(crate) fn store(&self, value: Value<'c>, to: Pointer<'c>, align: u32) {
        let store = built(self.builder.build_store(to, value));
        if align > 0 {
            built(store.set_alignment(align));
        }
    }

    /// Adds `value` to what `to` holds, indivisibly among the threads of `scope` (`None`: all), and gives what it held.
    #[track_caller]
    pub(crate) fn atomic_add(&self, to: Pointer<'c>, value: Value<'c>, scope: Option<&str>) -> Value<'c> {
        let (add, relaxed) = (AtomicRMWBinOp::Add, AtomicOrdering::Monotonic);
        let old = built(self.builder.build_atomicrmw(add, to, value.into_int_value(), relaxed));
        if let Some(scope) = scope {
            // SAFETY: `old` is the `atomicrmw` just built in this context, and the scope's name is valid for its length.
            unsafe {
                let id = sys::LLVMGetSyncScopeID(self.context.raw(), scope.as_ptr().cast(), scope.len());
                sys::LLVMSetAtomicSyncScopeID(old.as_value_ref(), id);
            }
        }
        old.into()
    }

    /// A variable of the function, in its first block whatever block is being written.
    #[track_caller]
    pub(crate) fn variable(&self, function: Function<'c>, ty: Type<'c>, align: u32, name: &str) -> Pointer<'c> {
        let builder = self.context.create_builder();
        match function.get_first_basic_block() {
            Some(entry) => match entry.get_first_instruction() {
                Some(first) => builder.position_before(&first),
                None => builder.position_at_end(entry),
            },
            None => panic!("a function without a block"),
        }
        let variable = built(builder.build_alloca(ty, name));
        if let (Some(alloca), 1..) = (variable.as_instruction_value(), align) {
            built(alloca.set_alignment(align));
        }
        variable
    }

    // Control.

    pub(crate) fn block(&self, function: Function<'c>, name: &str) -> BasicBlock<'c> {
        self.context.append_basic_block(function, name)
    }

    /// Further instructions go to the end of `block`.
    pub(crate) fn at(&self, block: BasicBlock<'c>) {
        self.builder.position_at_end(block);
    }

    #[track_caller]
    pub(crate) fn current(&self) -> BasicBlock<'c> {
        self.builder.get_insert_block().unwrap_or_else(|| panic!("no block is being written"))
    }

    #[track_caller]
    pub(crate) fn jump(&self, to: BasicBlock<'c>) {
        built(self.builder.build_unconditional_branch(to));
    }

    #[track_caller]
    pub(crate) fn branch(&self, cond: Value<'c>, then: BasicBlock<'c>, otherwise: BasicBlock<'c>) {
        built(self.builder.build_conditional_branch(cond.into_int_value(), then, otherwise));
    }

    #[track_caller]
    pub(crate) fn phi(&self, ty: Type<'c>, name: &str) -> PhiValue<'c> {
        built(self.builder.build_phi(ty, name))
    }

    #[track_caller]
    pub(crate) fn ret(&self) {
        built(self.builder.build_return(None));
    }

    #[track_caller]
    pub(crate) fn call(&self, function: Function<'c>, args: &[Value<'c>]) -> Option<Value<'c>> {
        let args: Vec<_> = args.iter().map(|&a| a.into()).collect();
        built(self.builder.build_call(function, &args, "")).try_as_basic_value().basic()
    }

    /// Calls an intrinsic; `overloads` are the types that select among those of the name.
    #[track_caller]
    pub(crate) fn intrinsic(&self, name: &str, overloads: &[Type<'c>], args: &[Value<'c>]) -> Option<Value<'c>> {
        let declaration = Intrinsic::find(name).and_then(|i| i.get_declaration(&self.module, overloads));
        self.call(declaration.unwrap_or_else(|| panic!("LLVM has no {name}")), args)
    }

    /// Calls an intrinsic that gives a value.
    #[track_caller]
    pub(crate) fn value_of(&self, name: &str, overloads: &[Type<'c>], args: &[Value<'c>]) -> Value<'c> {
        self.intrinsic(name, overloads, args).unwrap_or_else(|| panic!("{name} gives no value"))
    }

    /// As [`Ir::intrinsic`], of all lanes of a warp: LLVM must not move the call to where only some of them come.
    #[track_caller]
    pub(crate) fn convergent(&self, name: &str, overloads: &[Type<'c>], args: &[Value<'c>]) -> Option<Value<'c>> {
        let declaration = Intrinsic::find(name).and_then(|i| i.get_declaration(&self.module, overloads));
        let declaration = declaration.unwrap_or_else(|| panic!("LLVM has no {name}"));
        let args: Vec<_> = args.iter().map(|&a| a.into()).collect();
        let call = built(self.builder.build_call(declaration, &args, ""));
        let kind = Attribute::get_named_enum_kind_id("convergent");
        call.add_attribute(At::Function, self.context.create_enum_attribute(kind, 0));
        call.try_as_basic_value().basic()
    }

    /// A field of several values that an intrinsic gave; of one value, itself.
    #[track_caller]
    pub(crate) fn field(&self, of: Value<'c>, i: u32) -> Value<'c> {
        match of {
            Value::StructValue(fields) => built(self.builder.build_extract_value(fields, i, "")),
            one => one,
        }
    }

    /// An instruction as the target's own text, which gives nothing, is not left out and does not write memory.
    #[track_caller]
    pub(crate) fn assembly(&self, text: &str, constraints: &str, args: &[Value<'c>]) {
        let types: Vec<_> = args.iter().map(|arg| arg.get_type().into()).collect();
        let ty = self.context.void_type().fn_type(&types, false);
        let asm = self.context.create_inline_asm(ty, text.to_string(), constraints.to_string(), true, false, None, false);
        let args: Vec<_> = args.iter().map(|&arg| arg.into()).collect();
        built(self.builder.build_indirect_call(ty, asm, &args, ""));
    }

    /// An instruction as the target's own text that reads memory at an address. `only_read`: of memory that nothing writes, so that it may be
    /// moved and left out.
    #[track_caller]
    pub(crate) fn assembly_that_reads(
        &self,
        text: &str,
        constraints: &str,
        gives: &[Type<'c>],
        at: Pointer<'c>,
        only_read: bool,
    ) -> Vec<Value<'c>> {
        let ty = self.giving(gives, &[at.get_type().into()]);
        let constraints = if only_read { constraints.to_string() } else { format!("{constraints},~{{memory}}") };
        let asm = self.context.create_inline_asm(ty, text.to_string(), constraints, !only_read, false, None, false);
        let call = built(self.builder.build_indirect_call(ty, asm, &[at.into()], ""));
        let given = call.try_as_basic_value().basic();
        given.map_or_else(Vec::new, |given| (0..gives.len() as u32).map(|i| self.field(given, i)).collect())
    }

    /// The type of a function that gives values of these types.
    fn giving(&self, gives: &[Type<'c>], args: &[BasicMetadataTypeEnum<'c>]) -> FunctionType<'c> {
        match gives {
            [] => self.context.void_type().fn_type(args, false),
            [one] => one.fn_type(args, false),
            several => self.context.struct_type(several, false).fn_type(args, false),
        }
    }

    /// Instructions as the target's own text, of all lanes of a warp, which give values of these types and change memory.
    #[track_caller]
    pub(crate) fn assembly_of_warps(
        &self,
        text: &str,
        constraints: &str,
        gives: &[Type<'c>],
        args: &[Value<'c>],
    ) -> Vec<Value<'c>> {
        let types: Vec<_> = args.iter().map(|arg| arg.get_type().into()).collect();
        let ty = self.giving(gives, &types);
        let asm = self.context.create_inline_asm(ty, text.to_string(), constraints.to_string(), true, false, None, false);
        let args: Vec<_> = args.iter().map(|&arg| arg.into()).collect();
        let call = built(self.builder.build_indirect_call(ty, asm, &args, ""));
        let kind = Attribute::get_named_enum_kind_id("convergent");
        call.add_attribute(At::Function, self.context.create_enum_attribute(kind, 0));
        let given = call.try_as_basic_value().basic();
        given.map_or_else(Vec::new, |given| (0..gives.len() as u32).map(|i| self.field(given, i)).collect())
    }

    // Functions.

    /// A function that returns nothing, with its parameters named.
    #[track_caller]
    pub(crate) fn function(&self, name: &str, params: &[(&str, Type<'c>)]) -> Function<'c> {
        let types: Vec<_> = params.iter().map(|(_, ty)| (*ty).into()).collect();
        let function = self.module.add_function(name, self.context.void_type().fn_type(&types, false), None);
        for (value, (name, _)) in function.get_param_iter().zip(params) {
            value.set_name(name);
        }
        function
    }

    /// Marks a function (`at`: its parameter) with an attribute that LLVM knows by name.
    #[track_caller]
    pub(crate) fn mark(&self, function: Function<'c>, at: At, name: &str) {
        let kind = Attribute::get_named_enum_kind_id(name);
        assert!(kind != 0, "LLVM has no attribute {name}");
        function.add_attribute(at, self.context.create_enum_attribute(kind, 0));
    }

    /// Says that what the pointer parameter `i` points to is passed by value, at a multiple of `align` bytes.
    #[track_caller]
    pub(crate) fn mark_by_value(&self, function: Function<'c>, i: u32, ty: Type<'c>, align: u32) {
        let kind = Attribute::get_named_enum_kind_id;
        function.add_attribute(At::Param(i), self.context.create_type_attribute(kind("byval"), ty.as_any_type_enum()));
        function.add_attribute(At::Param(i), self.context.create_enum_attribute(kind("align"), align.into()));
    }

    /// Marks a parameter with a target's attribute.
    pub(crate) fn set_param(&self, function: Function<'c>, i: u32, key: &str) {
        function.add_attribute(At::Param(i), self.context.create_string_attribute(key, ""));
    }

    /// Marks a function with a target's attribute.
    pub(crate) fn set(&self, function: Function<'c>, key: &str, value: &str) {
        function.add_attribute(At::Function, self.context.create_string_attribute(key, value));
    }
}

/// Number of lanes of a value.
pub(crate) fn lanes(value: Value<'_>) -> u32 {
    match value {
        Value::VectorValue(v) => v.get_type().get_size(),
        _ => 1,
    }
}

/// Gives the value a name, if it is an instruction that has none yet.
pub(crate) fn name(value: Value<'_>, name: &str) {
    let unnamed = value.as_instruction_value().is_some_and(|i| i.get_name().is_none_or(CStr::is_empty));
    if unnamed {
        value.set_name(name);
    }
}

/// The type of `lanes` elements as an array.
pub(crate) fn array<'c>(elem: Type<'c>, len: u32) -> Type<'c> {
    elem.array_type(len).into()
}
