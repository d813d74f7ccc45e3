//! A layer's kernels as something to link: packages in, C and objects out, by which any program runs the layer through the C ABI
//! (`runtime/include/moec_abi.h`) without moec.
//!
//! What is the same for all layers is the launcher, C in `runtime/launcher/`. What differs is data: `tables` makes it of packages,
//! `formulas` the part that depends on the batch; `c` writes it as C, `data` as an object. `kernels` has what the tables refer to, and
//! `linked` puts all of it together. `rust` is a module by which Rust calls the library.

mod c;
mod data;
mod formulas;
mod kernels;
mod linked;
mod rust;
mod tables;

use moec_runtime::Package;

pub use tables::Tables;

/// Why packages cannot be linked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// They are not one layer.
    #[error("{0}")]
    Clash(String),
    /// A manifest has more than a launcher can do.
    #[error("the manifest has {0}, which the C launcher cannot evaluate")]
    Formula(String),
    /// The objects do not go together: a bug.
    #[error("linking {0}")]
    Linker(String),
    /// This build of moec has no launcher to link.
    #[error("this moec is not one for x86-64 Linux, and has no launcher to link")]
    NoLauncher,
    /// A host image is not one that moec wrote.
    #[error("the host image of {target}: {why}")]
    Image {
        /// The target.
        target: String,
        /// What is wrong.
        why: String,
    },
}

impl Refused {
    fn formula(what: String) -> Refused {
        Refused::Formula(what)
    }
}

/// The public header of libraries.
pub const ABI_HEADER: &str = include_str!("../../../runtime/include/moec_abi.h");

/// The parts of the launcher, in the order in which they make one C file.
const LAUNCHER: [&str; 8] = [
    include_str!("../../../runtime/launcher/error.h"),
    include_str!("../../../runtime/launcher/values.h"),
    include_str!("../../../runtime/launcher/cpu.h"),
    include_str!("../../../runtime/launcher/threads.h"),
    include_str!("../../../runtime/launcher/driver.h"),
    include_str!("../../../runtime/launcher/handle.h"),
    include_str!("../../../runtime/launcher/run.h"),
    include_str!("../../../runtime/launcher/api.h"),
];

/// What there is of a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The launcher in C11: to compile, and to link with `obj`.
    C,
    /// The launcher's header; in a folder with moec_abi.h beside it.
    Header,
    /// A Rust module over the library's C ABI, with a field for each tensor.
    Rust,
    /// The kernels of all targets as a relocatable object.
    #[value(name = "obj")]
    Object,
    /// Launcher and kernels as a static library.
    #[value(name = "staticlib")]
    Static,
    /// Launcher and kernels as a shared library.
    #[value(name = "cdylib")]
    Shared,
}

impl Kind {
    /// Whether people can read it.
    #[must_use]
    pub fn is_text(self) -> bool {
        match self {
            Kind::C | Kind::Header | Kind::Rust => true,
            Kind::Object | Kind::Static | Kind::Shared => false,
        }
    }

    /// What a file with this suffix is.
    #[must_use]
    pub fn of_suffix(suffix: &str) -> Option<Kind> {
        match suffix {
            "c" => Some(Kind::C),
            "h" => Some(Kind::Header),
            "rs" => Some(Kind::Rust),
            "o" => Some(Kind::Object),
            "a" => Some(Kind::Static),
            "so" => Some(Kind::Shared),
            _ => None,
        }
    }

    /// What a file of this kind is called.
    #[must_use]
    pub fn file_name(self, prefix: &str) -> String {
        match self {
            Kind::C => format!("{prefix}.c"),
            Kind::Header => format!("{prefix}.h"),
            Kind::Rust => format!("{prefix}.rs"),
            Kind::Object => format!("{prefix}.o"),
            Kind::Static => format!("lib{prefix}.a"),
            Kind::Shared => format!("lib{prefix}.so"),
        }
    }
}

/// A library's source and data.
#[derive(Clone, Debug)]
pub struct Library {
    /// The layer's name as an identifier: what its symbols begin with.
    pub prefix: String,
    tables: Tables,
}

impl Library {
    /// The layer that the packages hold for different targets.
    ///
    /// # Errors
    /// [`Refused`] where they are of different layers or have one target twice, or where a manifest has what no launcher can do.
    pub fn new(packages: &[Package]) -> Result<Library, Refused> {
        let tables = Tables::new(packages)?;
        Ok(Library { prefix: moec_codegen::symbol::identifier(&tables.layer), tables })
    }

    /// The bytes of one kind of file.
    ///
    /// # Errors
    /// [`Refused`]: of objects also [`Refused::Image`] and [`Refused::Linker`].
    pub fn file(&self, kind: Kind) -> Result<Vec<u8>, Refused> {
        match kind {
            Kind::C => Ok(self.source().into_bytes()),
            Kind::Header => Ok(self.header().into_bytes()),
            Kind::Rust => rust::module(&self.prefix, &self.tables).map(String::into_bytes),
            Kind::Object => self.object(),
            Kind::Static => linked::archive(&self.prefix, &self.tables),
            Kind::Shared => linked::shared(&self.prefix, &self.tables),
        }
    }

    /// The launcher and its tables as one C11 file. It refers to the images of [`Library::object`].
    #[must_use]
    pub fn source(&self) -> String {
        c::source(&self.prefix, &self.tables)
    }

    /// The kernels, as a relocatable object of x86-64: what the source is linked with.
    ///
    /// # Errors
    /// [`Refused::Image`] where a host image is not one that moec wrote.
    pub fn object(&self) -> Result<Vec<u8>, Refused> {
        kernels::object(&self.tables)
    }

    /// What a caller includes: the name of the function, and of each tensor its place.
    #[must_use]
    pub fn header(&self) -> String {
        c::header(&self.prefix, &self.tables)
    }
}
