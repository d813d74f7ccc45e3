//! What the objects of a library have in common: relocatable ELF of one architecture.

use moec_ir::machine::Architecture;
use object::write::{Error, Object};
use object::{BinaryFormat, Endianness, SectionFlags, SectionKind};

pub(super) fn empty(architecture: Architecture) -> Object<'static> {
    let architecture = match architecture {
        Architecture::X86_64 => object::Architecture::X86_64,
        Architecture::Aarch64 => object::Architecture::Aarch64,
    };
    Object::new(BinaryFormat::Elf, architecture, Endianness::Little)
}

/// The object's bytes.
pub(super) fn written(mut out: Object<'_>) -> Result<Vec<u8>, Error> {
    // Without this section linkers make the stack executable.
    let stack = out.add_section(Vec::new(), b".note.GNU-stack".to_vec(), SectionKind::Other);
    out.section_mut(stack).flags = SectionFlags::Elf { sh_flags: 0 };
    out.write()
}
