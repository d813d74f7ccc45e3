//! Whether copies under way and products of matrices may be compiled.

use super::verify::Check;
use super::{Expr, Handle, Local, ParamKind, Place, Registers, Ty, fragment};
use crate::machine::{Copier, Unit};
use crate::{DType, MatrixShape};

/// Words of the arrays of registers of a thread: a thread of a GPU has 255 registers, and needs some for all else.
const MOST_WORDS: u64 = 224;

impl Check<'_> {
    /// The declarations of arrays of registers.
    pub(super) fn registers(&mut self) {
        let mut words = 0;
        for (_, registers) in self.kernel.registers.iter() {
            // An element of 16 bits takes a register too.
            let is_word = matches!(registers.elem, DType::F32 | DType::I32 | DType::F16 | DType::BF16);
            self.require(is_word, || {
                format!("%{}: an array of registers has f32, i32, f16 or bf16, not {}", registers.name, registers.elem)
            });
            self.require(registers.len > 0, || format!("%{}: an array has at least one element", registers.name));
            words += u64::from(registers.len);
        }
        self.require(words <= MOST_WORDS, || {
            format!("{words} registers in arrays, of {MOST_WORDS} that a thread may have there")
        });
    }

    /// Whether the machine copies while threads go on.
    pub(super) fn copies(&mut self, what: &str) {
        let machine = self.machine;
        let has_copies = machine.copies(Copier::Thread).is_some();
        self.require(has_copies, || format!("{what}: {} has no asynchronous copies", machine.name));
    }

    pub(super) fn copy(
        &mut self,
        [to, from]: [Place; 2],
        [at, offset]: [Handle<Expr>; 2],
        bytes: u32,
        live: Option<Handle<Expr>>,
    ) {
        self.copies("an asynchronous copy");
        for element in [at, offset] {
            self.wants(element, "an offset is", |ty| ty.lanes == 1 && ty.elem.is_int(), "i32 or i64");
        }
        live.into_iter().for_each(|live| self.wants(live, "a condition is", |ty| ty == Ty::scalar(DType::Bool), "bool"));
        if let Some(widths) = self.machine.copies(Copier::Thread) {
            self.require(widths.has(bytes), || format!("{widths} are copied, not {bytes}"));
        }
        self.require(matches!(to, Place::Shared(_)), || "a copy goes to a shared array".to_string());
        let only_read = match from {
            Place::Param(i) => match self.kernel.params.get(i as usize).map(|param| param.kind) {
                Some(ParamKind::Buffer { write, .. }) => !write,
                Some(ParamKind::Scalar(_) | ParamKind::TensorMap(_)) | None => false,
            },
            Place::Shared(_) | Place::Registers(_) => false,
        };
        self.require(only_read, || "a copy comes from a buffer that the kernel only reads".to_string());
        let [elem, source] = [to, from].map(|place| self.kernel.elem(place));
        if let (Some(elem), Some(source)) = (elem, source) {
            self.require(elem == source, || format!("{source} is copied to an array of {elem}"));
            self.require(elem.bytes() <= u64::from(bytes), || format!("{bytes} bytes are no whole {elem}"));
        }
    }

    pub(super) fn load_matrix(&mut self, locals: &[Handle<Local>], from: Place, offset: Handle<Expr>, transposed: bool) {
        let machine = self.machine;
        self.require(machine.has_matrices(), || format!("{} has no matrix loads", machine.name));
        self.wants(offset, "an offset is", |ty| ty.lanes == 1 && ty.elem.is_int(), "i32 or i64");
        self.require(matches!(locals.len(), 1 | 2 | 4), || format!("1, 2 or 4 matrices are loaded, not {}", locals.len()));
        self.require(matches!(from, Place::Shared(_)), || "matrices are loaded from a shared array".to_string());
        let Some(elem) = self.kernel.elem(from) else { return };
        let is_loaded = matches!(elem, DType::F16 | DType::BF16 | DType::F32);
        self.require(is_loaded, || format!("matrices that are loaded have f16, bf16 or f32, not {elem}"));
        self.require(elem != DType::F32 || !transposed, || "matrices of f32 are not transposed".to_string());
        let word = Ty::vector(elem, fragment::elements_of_word(elem));
        locals.iter().for_each(|local| self.takes(*local, Some(word)));
    }

    pub(super) fn store_matrix(&mut self, to: Place, offset: Handle<Expr>, pairs: &[Handle<Expr>]) {
        let machine = self.machine;
        self.require(machine.matrix_stores, || format!("{} has no matrix stores", machine.name));
        self.wants(offset, "an offset is", |ty| ty.lanes == 1 && ty.elem.is_int(), "i32 or i64");
        self.require(matches!(pairs.len(), 1 | 2 | 4), || format!("1, 2 or 4 matrices are stored, not {}", pairs.len()));
        self.require(matches!(to, Place::Shared(_)), || "matrices are stored to a shared array".to_string());
        let Some(elem) = self.kernel.elem(to) else { return };
        self.require(matches!(elem, DType::F16 | DType::BF16), || format!("matrices have f16 or bf16, not {elem}"));
        for pair in pairs {
            self.wants(*pair, "a lane stores pairs of", |ty| ty == Ty::vector(elem, 2), &format!("{elem}"));
        }
    }

    pub(super) fn mma(
        &mut self,
        shape: MatrixShape,
        (sums, at): (Handle<Registers>, u32),
        a: &[Handle<Expr>],
        b: &[Handle<Expr>],
    ) {
        let machine = self.machine;
        let elem = a.first().and_then(|pair| self.ty(*pair)).map(|ty| ty.elem);
        // Where there is no such product, as of 16 bits: that is wrong then, and not how many.
        let of = elem.filter(|elem| machine.rate(Unit::Matrix(shape), *elem).is_some()).unwrap_or(DType::BF16);
        for (pairs, expected) in [(a, fragment::pairs_of_a(shape, of)), (b, fragment::pairs_of_b(shape, of))] {
            self.require(pairs.len() == expected as usize, || {
                format!("a lane's part of a factor of {shape} is {expected} pairs, not {}", pairs.len())
            });
        }
        if let Some(elem) = elem {
            let has_unit = machine.rate(Unit::Matrix(shape), elem).is_some();
            self.require(has_unit, || format!("{} has no {shape} of {elem}", machine.name));
            for pair in a.iter().chain(b).filter(|_| has_unit) {
                let word = Ty::vector(elem, fragment::elements_of_word(elem));
                self.wants(*pair, "the factors are pairs of", |ty| ty == word, &format!("{elem}"));
            }
        }
        let name = self.names.place(Place::Registers(sums)).to_string();
        let array = self.kernel.registers.get(sums).map(|array| (array.elem, array.len));
        self.require(array.is_some_and(|(elem, _)| elem == DType::F32), || format!("{name} is no array of registers of f32"));
        let inside = array.is_some_and(|(_, len)| at.checked_add(fragment::SUMS).is_some_and(|end| end <= len));
        self.require(inside, || format!("elements {at}.. of {name} are outside it"));
    }
}
