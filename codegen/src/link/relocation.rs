//! What objects leave open, by architecture: System V ABI, AMD64 supplement, section 4.4; ELF for the Arm 64-bit Architecture,
//! section 5.7. What is not here neither LLVM's objects of kernels nor those of the launcher have.

use moec_ir::machine::Architecture;
use object::elf;

/// What a place holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Where the symbol lies.
    Place,
    /// The symbol's address, which the loader puts there.
    Address,
    /// Where a word lies with the symbol's address.
    Word,
    /// Where two words lie that name this library's part of a thread's memory.
    Thread,
    /// The symbol's place in that part.
    InThread,
    /// Where two words lie by which the symbol is found in a thread's memory.
    Variable,
}

/// How the place holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// In 32 bits.
    Plain32,
    /// In 64 bits.
    Plain64,
    /// As a distance, in 32 bits.
    Distance32,
    /// As a distance, in 64 bits.
    Distance64,
    /// As the distance of a branch of Arm.
    Branch,
    /// As a distance in `adr`.
    Near,
    /// As a distance in pages of 4 KiB in `adrp`.
    Pages,
    /// Its place in such a page in `add`, a load or a store, in units of `2^shift` bytes.
    InPage {
        /// The unit.
        shift: u32,
    },
}

/// What a relocation of a type is; `None`: nothing known.
pub(super) fn of(architecture: Architecture, r_type: u32) -> Option<(Kind, Field)> {
    match architecture {
        Architecture::X86_64 => of_x86_64(r_type),
        Architecture::Aarch64 => of_aarch64(r_type),
    }
}

fn of_x86_64(r_type: u32) -> Option<(Kind, Field)> {
    match r_type {
        elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 => Some((Kind::Place, Field::Distance32)),
        elf::R_X86_64_64 => Some((Kind::Address, Field::Plain64)),
        elf::R_X86_64_GOTPCREL | elf::R_X86_64_GOTPCRELX | elf::R_X86_64_REX_GOTPCRELX => Some((Kind::Word, Field::Distance32)),
        elf::R_X86_64_TLSLD => Some((Kind::Thread, Field::Distance32)),
        elf::R_X86_64_DTPOFF32 => Some((Kind::InThread, Field::Plain32)),
        _ => None,
    }
}

fn of_aarch64(r_type: u32) -> Option<(Kind, Field)> {
    match r_type {
        elf::R_AARCH64_ABS64 => Some((Kind::Address, Field::Plain64)),
        elf::R_AARCH64_PREL32 => Some((Kind::Place, Field::Distance32)),
        elf::R_AARCH64_PREL64 => Some((Kind::Place, Field::Distance64)),
        elf::R_AARCH64_CALL26 | elf::R_AARCH64_JUMP26 => Some((Kind::Place, Field::Branch)),
        elf::R_AARCH64_ADR_PREL_LO21 => Some((Kind::Place, Field::Near)),
        elf::R_AARCH64_ADR_PREL_PG_HI21 => Some((Kind::Place, Field::Pages)),
        elf::R_AARCH64_ADD_ABS_LO12_NC | elf::R_AARCH64_LDST8_ABS_LO12_NC => Some((Kind::Place, Field::InPage { shift: 0 })),
        elf::R_AARCH64_LDST16_ABS_LO12_NC => Some((Kind::Place, Field::InPage { shift: 1 })),
        elf::R_AARCH64_LDST32_ABS_LO12_NC => Some((Kind::Place, Field::InPage { shift: 2 })),
        elf::R_AARCH64_LDST64_ABS_LO12_NC => Some((Kind::Place, Field::InPage { shift: 3 })),
        elf::R_AARCH64_LDST128_ABS_LO12_NC => Some((Kind::Place, Field::InPage { shift: 4 })),
        elf::R_AARCH64_ADR_GOT_PAGE => Some((Kind::Word, Field::Pages)),
        elf::R_AARCH64_LD64_GOT_LO12_NC => Some((Kind::Word, Field::InPage { shift: 3 })),
        elf::R_AARCH64_TLSDESC_ADR_PAGE21 => Some((Kind::Variable, Field::Pages)),
        elf::R_AARCH64_TLSDESC_LD64_LO12 => Some((Kind::Variable, Field::InPage { shift: 3 })),
        elf::R_AARCH64_TLSDESC_ADD_LO12 => Some((Kind::Variable, Field::InPage { shift: 0 })),
        _ => None,
    }
}

/// Whether a relocation of a type changes nothing: it marks an instruction that a linker may replace.
pub(super) fn is_mark(architecture: Architecture, r_type: u32) -> bool {
    match architecture {
        Architecture::X86_64 => false,
        Architecture::Aarch64 => r_type == elf::R_AARCH64_TLSDESC_CALL,
    }
}

/// Puts `to` into a field that lies at `from`: `bytes` begin there.
pub(super) fn put(field: Field, bytes: &mut [u8], from: u64, to: u64) -> Result<(), String> {
    let distance = to.wrapping_sub(from).cast_signed();
    match field {
        Field::Plain32 => plain(bytes, &short(to.cast_signed())?.to_le_bytes()),
        Field::Plain64 => plain(bytes, &to.to_le_bytes()),
        Field::Distance32 => plain(bytes, &short(distance)?.to_le_bytes()),
        Field::Distance64 => plain(bytes, &distance.to_le_bytes()),
        Field::Branch => instruction(bytes, 0x03ff_ffff, bits(exact(distance, 2)?, 26)?),
        Field::Near => instruction(bytes, ADR, adr(bits(distance, 21)?)),
        Field::Pages => {
            let pages = (to >> PAGE_BITS).wrapping_sub(from >> PAGE_BITS).cast_signed();
            instruction(bytes, ADR, adr(bits(pages, 21)?))
        }
        Field::InPage { shift } => {
            let place = exact((to & ((1 << PAGE_BITS) - 1)).cast_signed(), shift)?;
            instruction(bytes, 0xfff << 10, (place as u32) << 10)
        }
    }
}

/// Of the pages of `adrp`, whatever the system's are.
const PAGE_BITS: u32 = 12;

/// The bits of `adr` and `adrp` that are their number: the lowest two apart from the others.
const ADR: u32 = 0x60ff_ffe0;

fn adr(number: u32) -> u32 {
    (number & 3) << 29 | (number >> 2) << 5
}

fn far() -> String {
    "a symbol too far away".to_string()
}

fn short(distance: i64) -> Result<i32, String> {
    i32::try_from(distance).map_err(|_| far())
}

/// In units of `2^shift`, of which it is a multiple.
fn exact(number: i64, shift: u32) -> Result<i64, String> {
    if number.trailing_zeros() < shift { Err("a symbol that is not aligned".to_string()) } else { Ok(number >> shift) }
}

/// The lowest bits of a number that fits so many.
fn bits(number: i64, count: u32) -> Result<u32, String> {
    let most = 1 << (count - 1);
    if (-most..most).contains(&number) { Ok(number as u32 & ((1 << count) - 1)) } else { Err(far()) }
}

fn plain(bytes: &mut [u8], value: &[u8]) -> Result<(), String> {
    bytes.get_mut(..value.len()).ok_or_else(outside)?.copy_from_slice(value);
    Ok(())
}

fn instruction(bytes: &mut [u8], mask: u32, value: u32) -> Result<(), String> {
    let word = bytes.first_chunk_mut::<4>().ok_or_else(outside)?;
    *word = (u32::from_le_bytes(*word) & !mask | value).to_le_bytes();
    Ok(())
}

fn outside() -> String {
    "a relocation outside of its section".to_string()
}

/// What a loader knows of an architecture.
pub(super) struct Loader {
    /// The machine of the file.
    pub(super) machine: u16,
    /// The largest page that a system may have.
    pub(super) page: u64,
    /// It adds where the library lies.
    pub(super) relative: u32,
    /// It finds a symbol.
    pub(super) symbol: u32,
    /// It names the library's part of a thread's memory.
    pub(super) thread: u32,
    /// It says how a variable is found in a thread's memory.
    pub(super) variable: u32,
}

/// The loader of an architecture. Of two ways to a thread's memory a compiler takes one.
pub(super) fn loader(architecture: Architecture) -> Loader {
    match architecture {
        Architecture::X86_64 => Loader {
            machine: elf::EM_X86_64,
            page: 4096,
            relative: elf::R_X86_64_RELATIVE,
            symbol: elf::R_X86_64_64,
            thread: elf::R_X86_64_DTPMOD64,
            variable: elf::R_X86_64_TLSDESC,
        },
        Architecture::Aarch64 => Loader {
            machine: elf::EM_AARCH64,
            page: 65536,
            relative: elf::R_AARCH64_RELATIVE,
            symbol: elf::R_AARCH64_ABS64,
            thread: elf::R_AARCH64_TLS_DTPMOD,
            variable: elf::R_AARCH64_TLSDESC,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_in(field: Field, before: u32, from: u64, to: u64) -> Result<u32, String> {
        let mut bytes = before.to_le_bytes();
        put(field, &mut bytes, from, to).map(|()| u32::from_le_bytes(bytes))
    }

    /// Instructions as the assembler of LLVM writes them.
    #[test]
    fn instructions_of_arm() {
        // bl +0x1000, b -4
        assert_eq!(put_in(Field::Branch, 0x9400_0000, 0x10000, 0x11000), Ok(0x9400_0400));
        assert_eq!(put_in(Field::Branch, 0x1400_0000, 0x10000, 0xfffc), Ok(0x17ff_ffff));
        // adr x0, +5; adrp x3, one page on and one page back, wherever in it the places are
        assert_eq!(put_in(Field::Near, 0x1000_0000, 0x10000, 0x10005), Ok(0x3000_0020));
        assert_eq!(put_in(Field::Pages, 0x9000_0003, 0x1_0ffc, 0x1_1010), Ok(0xb000_0003));
        assert_eq!(put_in(Field::Pages, 0x9000_0003, 0x1_1000, 0x1_0ff8), Ok(0xf0ff_ffe3));
        // add x0, x0, #0x123; ldr q0, [x0, #0x120]; ldr x1, [x0, #0x128]
        assert_eq!(put_in(Field::InPage { shift: 0 }, 0x9100_0000, 0, 0x5123), Ok(0x9104_8c00));
        assert_eq!(put_in(Field::InPage { shift: 4 }, 0x3dc0_0000, 0, 0x5120), Ok(0x3dc0_4800));
        assert_eq!(put_in(Field::InPage { shift: 3 }, 0xf940_0001, 0, 0x5128), Ok(0xf940_9401));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (field, to) in [
            (Field::Branch, 1 << 28),
            (Field::Near, 1 << 21),
            (Field::Pages, 1 << 33),
            (Field::Distance32, 1 << 32),
            (Field::Plain32, 1 << 32),
        ] {
            assert_eq!(put_in(field, 0, 0x1000, to), Err(far()), "{field:?}");
        }
        for field in [Field::Branch, Field::InPage { shift: 4 }] {
            assert_eq!(put_in(field, 0, 0, 0x1001), Err("a symbol that is not aligned".to_string()));
        }
        assert_eq!(put(Field::Distance64, &mut [0; 4], 0, 0), Err(outside()));
        assert_eq!(put(Field::Branch, &mut [0; 2], 0, 0), Err(outside()));
    }

    /// A distance of more than 32 bits, and one back.
    #[test]
    fn plain_fields() {
        for (field, to, wanted) in [
            (Field::Distance64, 0x2_0000_1000, 0x2_0000_0000u64),
            (Field::Distance64, 0, 0u64.wrapping_sub(0x1000)),
            (Field::Plain64, 0x1234, 0x1234),
        ] {
            let mut bytes = [0xff; 8];
            put(field, &mut bytes, 0x1000, to).expect("a field");
            assert_eq!(u64::from_le_bytes(bytes), wanted, "{field:?}");
        }
        assert_eq!(put_in(Field::Distance32, 0, 0x1000, 0xff0), Ok(0xffff_fff0));
        assert_eq!(put_in(Field::Plain32, 0, 0x1000, 0x20), Ok(0x20));
    }
}
