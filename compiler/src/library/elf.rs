//! What the objects of a library have in common: relocatable ELF for x86-64.

use object::write::{Error, Object};
use object::{Architecture, BinaryFormat, Endianness, SectionFlags, SectionKind};

pub(super) fn empty() -> Object<'static> {
    Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little)
}

/// The object's bytes.
pub(super) fn written(mut out: Object<'_>) -> Result<Vec<u8>, Error> {
    // Without this section linkers make the stack executable.
    let stack = out.add_section(Vec::new(), b".note.GNU-stack".to_vec(), SectionKind::Other);
    out.section_mut(stack).flags = SectionFlags::Elf { sh_flags: 0 };
    out.write()
}
