//! A shared object of Linux, as a loader takes it.
//!
//! ```text
//! read            headers, .hash, .dynsym, .dynstr, .rela.dyn, .rodata
//! read, execute   .text
//! read, write     .tdata, .data.rel.ro, .got, .dynamic: the loader puts addresses there, then they are read only
//! read, write     .data
//! ```
//!
//! Each of the four begins a page of the file, of 4 KiB. On x86-64 an address is an offset in the file. On Arm a system may have pages of
//! 64 KiB: there what is read and what is executed are one part, as linkers have it there, and what is written has addresses so much further
//! on that no page has two parts. What is empty is left out.

use std::collections::BTreeMap;

use moec_ir::machine::Architecture;
use object::Endianness;
use object::elf;
use object::write::StringId;
use object::write::elf::{FileHeader, ProgramHeader, Rel, SectionHeader, Sym, Writer};

use super::inputs::{Inputs, Rights, Target};
use super::relocation::{self, Kind, Loader};

/// The alignment in the file of what has rights of its own.
const PAGE: usize = 4096;
const WORD: usize = 8;

/// Sections with the same rights, one after another.
#[derive(Default)]
struct Part {
    /// Numbers of sections, each with its place in the part.
    sections: Vec<(usize, usize)>,
    bytes: usize,
    align: usize,
    /// Where it lies in the file.
    at: usize,
    /// How much further on its address is.
    shift: usize,
}

impl Part {
    fn of(inputs: &Inputs<'_>, rights: Rights, least_align: usize, shift: usize) -> Part {
        let mut part = Part { align: least_align, shift, ..Part::default() };
        for (number, section) in inputs.sections.iter().enumerate().filter(|(_, section)| section.rights == rights) {
            let align = section.align as usize;
            let start = part.bytes.next_multiple_of(align);
            part.sections.push((number, start));
            (part.bytes, part.align) = (start + section.size as usize, part.align.max(align));
        }
        part
    }

    fn reserve(&mut self, writer: &mut Writer<'_>) {
        // An empty one has no place, and moves nothing.
        self.at = if self.bytes > 0 { writer.reserve(self.bytes, self.align) } else { writer.reserved_len() };
    }

    fn address(&self) -> usize {
        self.at + self.shift
    }
}

/// The addresses that the loader has to put together: words, each of a target.
#[derive(Default)]
struct Addresses {
    words: BTreeMap<Target, usize>,
    /// The two words of a thread's memory.
    thread: Option<usize>,
    /// The two words of each variable in it.
    variables: BTreeMap<Target, usize>,
}

impl Addresses {
    fn of(inputs: &Inputs<'_>) -> Addresses {
        let mut addresses = Addresses::default();
        for relocation in inputs.sections.iter().flat_map(|section| &section.relocations) {
            match relocation.kind {
                Kind::Word => {
                    let next = addresses.len();
                    addresses.words.entry(relocation.to).or_insert(next);
                }
                Kind::Thread if addresses.thread.is_none() => addresses.thread = Some(addresses.len()),
                Kind::Variable => {
                    let next = addresses.len();
                    addresses.variables.entry(relocation.to).or_insert(next);
                }
                Kind::Thread | Kind::Place | Kind::Address | Kind::InThread => {}
            }
        }
        addresses
    }

    fn len(&self) -> usize {
        self.words.len() + 2 * self.variables.len() + 2 * usize::from(self.thread.is_some())
    }

    /// How many of them the loader is told of.
    fn filled(&self) -> usize {
        self.words.len() + self.variables.len() + usize::from(self.thread.is_some())
    }
}

/// The shared object, or what an object has that this cannot link.
pub(super) fn write(soname: &str, objects: &[&[u8]], libraries: &[&str]) -> Result<Vec<u8>, String> {
    let inputs = Inputs::read(objects)?;
    if let (Some(import), []) = (inputs.imports.first(), libraries) {
        return Err(format!("no symbol `{}`, which it refers to", import.name));
    }
    let addresses = Addresses::of(&inputs);
    let loader = relocation::loader(inputs.architecture);
    let code_alone = match inputs.architecture {
        Architecture::X86_64 => true,
        Architecture::Aarch64 => false,
    };
    // How much further on the addresses of what is written before it is run, and while it is.
    let (shift, further) = match inputs.architecture {
        Architecture::X86_64 => (0, 0),
        Architecture::Aarch64 => (loader.page as usize, 2 * loader.page as usize),
    };
    let mut constants = Part::of(&inputs, Rights::Constants, 1, 0);
    let mut code = Part::of(&inputs, Rights::Code, PAGE, 0);
    let mut thread = Part::of(&inputs, Rights::Thread, WORD, shift);
    let mut relocated = Part::of(&inputs, Rights::Relocated, WORD, shift);
    let mut data = Part::of(&inputs, Rights::Data, PAGE, further);
    let words = inputs.sections.iter().flat_map(|section| &section.relocations).filter(|one| one.kind == Kind::Address).count();
    let filled = words + addresses.filled();

    let mut out = Vec::new();
    let mut writer = Writer::new(Endianness::Little, true, &mut out);
    let of_code_alone = usize::from(code_alone);
    let segments = 5 + of_code_alone + usize::from(thread.bytes > 0) + usize::from(data.bytes > 0);
    writer.reserve_file_header();
    writer.reserve_program_headers(segments as u32);
    writer.reserve_null_section_index();
    writer.reserve_hash_section_index();
    let of_dynsym = writer.reserve_dynsym_section_index();
    writer.reserve_dynstr_section_index();
    // Each that has bytes has a header; the symbols need to know that of their part.
    let mut headers = Vec::new();
    let mut named = |writer: &mut Writer<'_>, name: &'static [u8], bytes: usize| {
        let header = (bytes > 0).then(|| (writer.add_section_name(name), writer.reserve_section_index()));
        headers.push(header);
        header.map(|(_, index)| index)
    };
    named(&mut writer, b".rela.dyn", filled);
    named(&mut writer, b".rodata", constants.bytes);
    let of_code = named(&mut writer, b".text", code.bytes);
    named(&mut writer, b".tdata", thread.bytes);
    named(&mut writer, b".data.rel.ro", relocated.bytes);
    named(&mut writer, b".got", addresses.len());
    named(&mut writer, b".data", data.bytes);
    writer.reserve_dynamic_section_index();
    writer.reserve_shstrtab_section_index();
    writer.reserve_null_dynamic_symbol_index();
    let symbols: Vec<StringId> = inputs
        .imports
        .iter()
        .chain(&inputs.exports)
        .map(|symbol| {
            writer.reserve_dynamic_symbol_index();
            writer.add_dynamic_string(symbol.name.as_bytes())
        })
        .collect();
    let soname = writer.add_dynamic_string(soname.as_bytes());
    let needed: Vec<StringId> = libraries.iter().map(|library| writer.add_dynamic_string(library.as_bytes())).collect();
    let count = writer.dynamic_symbol_count();
    let hash = writer.reserve_hash(count, count);
    let dynsym = writer.reserve_dynsym();
    let dynstr = writer.reserve_dynstr();
    let rela = if filled > 0 { writer.reserve_relocations(filled, true) } else { 0 };
    constants.reserve(&mut writer);
    let read_end = writer.reserved_len();
    code.reserve(&mut writer);
    let code_end = writer.reserved_len();
    writer.reserve_until(writer.reserved_len().next_multiple_of(PAGE));
    let own = writer.reserved_len();
    thread.reserve(&mut writer);
    relocated.reserve(&mut writer);
    let got = writer.reserve(addresses.len() * WORD, WORD);
    let mut tags = vec![
        (elf::DT_HASH, hash),
        (elf::DT_STRTAB, dynstr),
        (elf::DT_SYMTAB, dynsym),
        (elf::DT_STRSZ, writer.dynstr_len()),
        (elf::DT_SYMENT, size_of::<elf::Sym64<object::LittleEndian>>()),
    ];
    if filled > 0 {
        let entry = size_of::<elf::Rela64<object::LittleEndian>>();
        tags.extend([(elf::DT_RELA, rela), (elf::DT_RELASZ, filled * entry), (elf::DT_RELAENT, entry)]);
        // All addresses are found when it is loaded.
        // Threads may be in the code of a library whose handles are not destroyed: it stays loaded.
        let flags = elf::DF_1_NOW | elf::DF_1_NODELETE;
        tags.extend([(elf::DT_FLAGS, elf::DF_BIND_NOW as usize), (elf::DT_FLAGS_1, flags as usize)]);
    }
    let dynamic = writer.reserve_dynamic(needed.len() + tags.len() + 2);
    let own_end = writer.reserved_len();
    data.reserve(&mut writer);
    writer.reserve_shstrtab();
    writer.reserve_section_headers();

    let places = |target: Target| match target {
        Target::Place(section, offset) => {
            let parts = [&constants, &code, &thread, &relocated, &data];
            let found =
                parts.iter().flat_map(|part| part.sections.iter().map(move |(number, start)| (number, part.address() + start)));
            let base = found.into_iter().find(|(number, _)| **number == section).map_or(0, |(_, at)| at);
            base as u64 + offset
        }
        Target::Import(_) => 0,
    };
    let (got_address, thread_address) = (got + shift, thread.address());
    let mut fixed = Fixed {
        inputs: &inputs,
        loader: &loader,
        addresses: &addresses,
        got: got_address,
        thread: thread_address,
        places: &places,
        rela: Vec::new(),
    };
    let contents = [&constants, &code, &thread, &relocated, &data].map(|part| fixed.bytes(part));
    let [constant_bytes, code_bytes, thread_bytes, relocated_bytes, data_bytes] = contents;
    let got_bytes = fixed.got();
    let rela_entries = std::mem::take(&mut fixed.rela);

    let written = |error: object::write::Error| error.to_string();
    let header = FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_DYN,
        e_machine: loader.machine,
        e_entry: 0,
        e_flags: 0,
    };
    writer.write_file_header(&header).map_err(written)?;
    writer.write_align_program_headers();
    let (read, execute, write) = (elf::PF_R, elf::PF_R | elf::PF_X, elf::PF_R | elf::PF_W);
    let page = loader.page;
    // Whole pages are made read only: those that are longer than the file's are memory of their own.
    let own_memory = (own_end + shift).next_multiple_of(page as usize) - (own + shift);
    let mut loads = if code_alone {
        vec![
            (elf::PT_LOAD, read, (0, 0), [read_end; 2], page),
            (elf::PT_LOAD, execute, (code.at, 0), [code.bytes; 2], page),
            (elf::PT_LOAD, write, (own, 0), [own_end - own; 2], page),
        ]
    } else {
        vec![
            (elf::PT_LOAD, execute, (0, 0), [code_end; 2], page),
            (elf::PT_LOAD, write, (own, shift), [own_end - own, own_memory], page),
        ]
    };
    if data.bytes > 0 {
        loads.push((elf::PT_LOAD, write, (data.at, data.shift), [data.bytes; 2], page));
    }
    loads.push((elf::PT_DYNAMIC, write, (dynamic, shift), [own_end - dynamic; 2], WORD as u64));
    if thread.bytes > 0 {
        loads.push((elf::PT_TLS, read, (thread.at, thread.shift), [thread.bytes; 2], thread.align as u64));
    }
    loads.push((elf::PT_GNU_RELRO, read, (own, shift), [own_memory; 2], 1));
    // No stack of code.
    loads.push((elf::PT_GNU_STACK, write, (0, 0), [0; 2], 16));
    for (p_type, p_flags, (start, shift), bytes, p_align) in loads {
        let p_offset = start as u64;
        let [p_vaddr, p_paddr] = [(start + shift) as u64; 2];
        let [p_filesz, p_memsz] = bytes.map(|bytes| bytes as u64);
        writer.write_program_header(&ProgramHeader { p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align });
    }
    let all: Vec<_> = inputs.imports.iter().chain(&inputs.exports).collect();
    writer.write_hash(count, count, |index| index.checked_sub(1).map(|index| elf::hash(all[index as usize].name.as_bytes())));
    writer.write_null_dynamic_symbol();
    for (symbol, name) in all.iter().zip(symbols) {
        let is_code = symbol.place.is_none_or(|place| match place {
            Target::Place(section, _) => inputs.sections[section].rights == Rights::Code,
            Target::Import(_) => true,
        });
        if !is_code {
            return Err(format!("`{}` is visible and not code", symbol.name));
        }
        writer.write_dynamic_symbol(&Sym {
            name: Some(name),
            section: symbol.place.and(of_code),
            st_info: symbol.info,
            st_other: elf::STV_DEFAULT,
            st_shndx: 0,
            st_value: symbol.place.map_or(0, places),
            st_size: symbol.bytes,
        });
    }
    writer.write_dynstr();
    if filled > 0 {
        writer.write_align_relocation();
        rela_entries.iter().for_each(|entry| writer.write_relocation(true, entry));
    }
    for (part, bytes) in
        [(&constants, constant_bytes?), (&code, code_bytes?), (&thread, thread_bytes?), (&relocated, relocated_bytes?)]
    {
        if part.bytes > 0 {
            writer.pad_until(part.at);
            writer.write(&bytes);
        }
    }
    writer.pad_until(got);
    writer.write(&got_bytes);
    writer.pad_until(dynamic);
    for library in needed {
        writer.write_dynamic_string(elf::DT_NEEDED, library).map_err(written)?;
    }
    writer.write_dynamic_string(elf::DT_SONAME, soname).map_err(written)?;
    for (tag, value) in tags {
        writer.write_dynamic(tag, value as u64).map_err(written)?;
    }
    writer.write_dynamic(elf::DT_NULL, 0).map_err(written)?;
    if data.bytes > 0 {
        writer.pad_until(data.at);
        writer.write(&data_bytes?);
    }
    writer.write_shstrtab();
    writer.write_null_section_header();
    writer.write_hash_section_header(hash as u64);
    writer.write_dynsym_section_header(dynsym as u64, 1);
    writer.write_dynstr_section_header(dynstr as u64);
    let (alloc, plain) = (elf::SHF_ALLOC, elf::SHT_PROGBITS);
    let entry = size_of::<elf::Rela64<object::LittleEndian>>();
    let described = [
        (elf::SHT_RELA, alloc, (rela, 0), filled * entry, WORD, of_dynsym.0, entry),
        (plain, alloc, (constants.at, constants.shift), constants.bytes, constants.align, 0, 0),
        (plain, alloc | elf::SHF_EXECINSTR, (code.at, code.shift), code.bytes, code.align, 0, 0),
        (plain, alloc | elf::SHF_WRITE | elf::SHF_TLS, (thread.at, thread.shift), thread.bytes, thread.align, 0, 0),
        (plain, alloc | elf::SHF_WRITE, (relocated.at, relocated.shift), relocated.bytes, relocated.align, 0, 0),
        (plain, alloc | elf::SHF_WRITE, (got, shift), addresses.len() * WORD, WORD, 0, WORD),
        (plain, alloc | elf::SHF_WRITE, (data.at, data.shift), data.bytes, data.align, 0, 0),
    ];
    for (header, (sh_type, sh_flags, (at, shift), bytes, align, sh_link, entry)) in headers.into_iter().zip(described) {
        let Some((name, _)) = header else { continue };
        writer.write_section_header(&SectionHeader {
            name: Some(name),
            sh_type,
            sh_flags: u64::from(sh_flags),
            sh_addr: (at + shift) as u64,
            sh_offset: at as u64,
            sh_size: bytes as u64,
            sh_link,
            sh_info: 0,
            sh_addralign: align as u64,
            sh_entsize: entry as u64,
        });
    }
    writer.write_dynamic_section_header((dynamic + shift) as u64);
    writer.write_shstrtab_section_header();
    drop(writer);
    Ok(out)
}

/// What is put into the places that objects leave open.
struct Fixed<'l, 'o> {
    inputs: &'l Inputs<'o>,
    loader: &'l Loader,
    addresses: &'l Addresses,
    got: usize,
    /// Where a thread's part begins.
    thread: usize,
    places: &'l dyn Fn(Target) -> u64,
    /// For the loader.
    rela: Vec<Rel>,
}

impl Fixed<'_, '_> {
    fn bytes(&mut self, part: &Part) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; part.bytes];
        for (number, start) in &part.sections {
            let section = &self.inputs.sections[*number];
            bytes[*start..start + section.data.len()].copy_from_slice(section.data);
            for relocation in &section.relocations {
                let place = start + relocation.offset as usize;
                let from = (part.address() + place) as u64;
                let word = |index: usize| (self.got + index * WORD) as u64;
                let to = match relocation.kind {
                    Kind::Address => {
                        let entry = self.loaded(from, relocation.to, relocation.addend);
                        self.rela.push(entry);
                        continue;
                    }
                    Kind::Place => (self.places)(relocation.to),
                    Kind::Word => word(self.addresses.words[&relocation.to]),
                    Kind::Thread => word(self.addresses.thread.unwrap_or_default()),
                    Kind::InThread => self.in_thread(relocation.to),
                    Kind::Variable => word(self.addresses.variables[&relocation.to]),
                };
                let field = bytes.get_mut(place..).ok_or("a relocation outside of its section")?;
                relocation::put(relocation.field, field, from, to.wrapping_add_signed(relocation.addend))?;
            }
        }
        Ok(bytes)
    }

    /// Where in a thread's part something lies.
    fn in_thread(&self, target: Target) -> u64 {
        (self.places)(target).wrapping_sub(self.thread as u64)
    }

    /// The words, all of which the loader fills in.
    fn got(&mut self) -> Vec<u8> {
        let place = |index: usize| (self.got + index * WORD) as u64;
        for (target, index) in &self.addresses.words {
            let entry = self.loaded(place(*index), *target, 0);
            self.rela.push(entry);
        }
        for (target, index) in &self.addresses.variables {
            let r_addend = self.in_thread(*target).cast_signed();
            self.rela.push(Rel { r_offset: place(*index), r_sym: 0, r_type: self.loader.variable, r_addend });
        }
        if let Some(index) = self.addresses.thread {
            self.rela.push(Rel { r_offset: place(index), r_sym: 0, r_type: self.loader.thread, r_addend: 0 });
        }
        vec![0; self.addresses.len() * WORD]
    }

    /// What the loader does to a word: it adds where the library lies, or finds a symbol.
    fn loaded(&self, r_offset: u64, target: Target, addend: i64) -> Rel {
        match target {
            Target::Place(..) => {
                let r_addend = (self.places)(target).cast_signed().wrapping_add(addend);
                Rel { r_offset, r_sym: 0, r_type: self.loader.relative, r_addend }
            }
            // The first symbol is none; imports follow it.
            Target::Import(index) => Rel { r_offset, r_sym: index as u32 + 1, r_type: self.loader.symbol, r_addend: addend },
        }
    }
}
