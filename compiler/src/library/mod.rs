//! A layer's kernels as something to link: packages in, C and objects out, by which any program runs the layer through the C ABI
//! (`runtime/include/moec_abi.h`) without moec.
//!
//! What is the same for all layers is the launcher, C in `runtime/launcher/`. What differs is data: `tables` makes it of
//! packages, `formulas` the part that depends on the batch, `places` says where buffers lie, `numbers` has the header's; `c`
//! writes it as C, `data` as an object (`elf`). `kernels` has what the tables refer to, and `linked` puts all of it together.
//! `fatbin` has the images of GPUs alone. `rust` is a module by which Rust calls the library, `python` one for PyTorch, `jax` one for JAX.

mod c;
mod data;
mod elf;
mod fatbin;
mod formulas;
mod jax;
mod kernels;
mod linked;
mod numbers;
mod places;
mod python;
mod rust;
mod tables;

use moec_ir::machine::Architecture;
use moec_runtime::Package;

use rust::Cudarc;
use tables::Holds;
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
    /// Several layers in a library without a name.
    #[error("a library of several layers needs a name")]
    Nameless,
    /// The objects do not go together: a bug.
    #[error("linking {0}")]
    Linker(String),
    /// Their code is for CPUs of two architectures.
    #[error("the code of `{0}` and that of `{1}` cannot be in one library")]
    Mixed(String, String),
    /// This build of moec has no launcher to link for this architecture.
    #[error("this moec has no launcher for {0} Linux: there was no C compiler for it where moec was built")]
    NoLauncher(Architecture),
    /// There are no images for a fat binary.
    #[error("`{0}` is compiled for no GPU, so there is no fat binary")]
    NoGpu(String),
    /// There is nothing that makes fat binaries.
    #[error("there is no fatbinary, so there is no fat binary")]
    NoFatbinary,
    /// NVIDIA's program failed.
    #[error("{0}")]
    Tool(String),
    /// A host image is not one that moec wrote.
    #[error("the host image of {target}: {why}")]
    Image {
        /// The target.
        target: String,
        /// What is wrong.
        why: String,
    },
}

/// The public header of libraries.
pub const ABI_HEADER: &str = include_str!("../../../runtime/include/moec_abi.h");

/// The parts of the launcher, in the order in which they make one C file.
const LAUNCHER: [&str; 10] = [
    include_str!("../../../runtime/launcher/error.h"),
    include_str!("../../../runtime/launcher/values.h"),
    include_str!("../../../runtime/launcher/cpu.h"),
    include_str!("../../../runtime/launcher/threads.h"),
    include_str!("../../../runtime/launcher/driver.h"),
    include_str!("../../../runtime/launcher/handle.h"),
    include_str!("../../../runtime/launcher/batch.h"),
    include_str!("../../../runtime/launcher/together.h"),
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
    /// The same, with streams and slices of cudarc 0.19 too.
    RustCudarc,
    /// A Python file for PyTorch: operators, and a module; it loads the `cdylib` of its folder.
    Python,
    /// A Python module with the layer as a function of JAX: to lie beside the shared library.
    Jax,
    /// The kernels of all targets as a relocatable object.
    #[value(name = "obj")]
    Object,
    /// PTX and SASS of all GPU targets as NVIDIA's fat binary, where fatbinary is found.
    Fatbin,
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
            Kind::C | Kind::Header | Kind::Rust | Kind::RustCudarc | Kind::Python | Kind::Jax => true,
            Kind::Object | Kind::Fatbin | Kind::Static | Kind::Shared => false,
        }
    }

    /// What a file with this suffix is.
    #[must_use]
    pub fn of_suffix(suffix: &str) -> Option<Kind> {
        match suffix {
            "c" => Some(Kind::C),
            "h" => Some(Kind::Header),
            "rs" => Some(Kind::Rust),
            "py" => Some(Kind::Python),
            "o" => Some(Kind::Object),
            "fatbin" => Some(Kind::Fatbin),
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
            Kind::RustCudarc => format!("{prefix}_cudarc.rs"),
            Kind::Python => format!("{prefix}.py"),
            Kind::Jax => format!("{prefix}_jax.py"),
            Kind::Object => format!("{prefix}.o"),
            Kind::Fatbin => format!("{prefix}.fatbin"),
            Kind::Static => format!("lib{prefix}.a"),
            Kind::Shared => format!("lib{prefix}.so"),
        }
    }
}

/// A library of one layer or of several, each for one target or several.
#[derive(Clone, Debug)]
pub struct Library {
    layers: Vec<Layer>,
    /// What CPUs it is for: those that it has code for, without such code those that moec itself is for.
    architecture: Architecture,
}

/// A layer of a library.
#[derive(Clone, Debug)]
struct Layer {
    /// Its name as an identifier: what its symbols begin with.
    prefix: String,
    tables: Tables,
}

/// A file of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// What it is called.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Library {
    /// The layers that the packages hold; packages of one name are one layer for different targets.
    ///
    /// # Errors
    /// [`Refused`] where two layers would have the same symbols, packages of one layer differ or have one target twice, code is for CPUs
    /// of two architectures, or where a manifest has what no launcher can do.
    pub fn new(packages: &[Package]) -> Result<Library, Refused> {
        let mut layers: Vec<Vec<Package>> = Vec::new();
        for package in packages {
            let same = layers.iter_mut().find(|others| others.iter().any(|o| o.manifest().layer == package.manifest().layer));
            match same {
                Some(others) => others.push(package.clone()),
                None => layers.push(vec![package.clone()]),
            }
        }
        if layers.is_empty() {
            return Err(Refused::Clash("there is no package to link".to_string()));
        }
        let own = Architecture::own();
        let mut library = Library { layers: Vec::new(), architecture: own };
        for packages in layers {
            let tables = Tables::new(&packages)?;
            let prefix = moec_codegen::symbol::identifier(&tables.layer);
            if let Some(other) = library.layers.iter().find(|layer| layer.prefix == prefix) {
                let (one, two) = (&other.tables.layer, &tables.layer);
                return Err(Refused::Clash(format!("the symbols of `{one}` and of `{two}` both begin with `{prefix}`")));
            }
            library.layers.push(Layer { prefix, tables });
        }
        library.architecture = architecture(&library.layers)?.unwrap_or(own);
        Ok(library)
    }

    /// What the symbols of each layer begin with.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().map(|layer| layer.prefix.as_str())
    }

    /// The files of one kind: of a library one, of anything else one a layer. A shared library has its file's name as its SONAME,
    /// which is `name` where that is given.
    ///
    /// # Errors
    /// [`Refused`]: of objects [`Refused::Image`] and [`Refused::Linker`], of a library also [`Refused::NoLauncher`], and
    /// [`Refused::Nameless`] where it has several layers and no name is given; of a fat binary [`Refused::NoGpu`],
    /// [`Refused::NoFatbinary`] and [`Refused::Tool`].
    pub fn files(&self, kind: Kind, name: Option<&str>) -> Result<Vec<File>, Refused> {
        let of_layer = |bytes: &dyn Fn(&Layer) -> Result<Vec<u8>, Refused>| -> Result<Vec<File>, Refused> {
            let file = |layer: &Layer| Ok(File { name: kind.file_name(&layer.prefix), bytes: bytes(layer)? });
            self.layers.iter().map(file).collect()
        };
        match kind {
            Kind::C => of_layer(&|layer| Ok(c::source(&layer.prefix, &layer.tables).into_bytes())),
            Kind::Header => of_layer(&|layer| Ok(c::header(&layer.prefix, &layer.tables).into_bytes())),
            Kind::Rust => of_layer(&|layer| module(layer, Cudarc::Without)),
            Kind::RustCudarc => of_layer(&|layer| module(layer, Cudarc::With)),
            Kind::Python => of_layer(&|layer| Ok(python::module(&layer.prefix, &layer.tables).into_bytes())),
            Kind::Jax => of_layer(&|layer| jax::module(&layer.prefix, &layer.tables).map(String::into_bytes)),
            Kind::Object => of_layer(&|layer| kernels::object(self.architecture, &layer.tables)),
            Kind::Fatbin => of_layer(&|layer| fatbin::made(&layer.tables)),
            Kind::Static | Kind::Shared => {
                let own = match &self.layers[..] {
                    [layer] => Some(kind.file_name(&layer.prefix)),
                    _ => None,
                };
                let name = name.map(str::to_string).or(own).ok_or(Refused::Nameless)?;
                let objects = linked::objects(self.architecture, &self.layers)?;
                let bytes = if kind == Kind::Shared { linked::shared(&name, &objects) } else { linked::archive(&objects) };
                Ok(vec![File { name, bytes: bytes? }])
            }
        }
    }
}

/// What CPUs the code of these layers is for; `None`: they have none.
fn architecture(layers: &[Layer]) -> Result<Option<Architecture>, Refused> {
    let images = layers.iter().flat_map(|layer| &layer.tables.images).filter(|image| image.holds == Holds::Code);
    let all = images.map(|image| Ok((kernels::architecture(image)?, &image.target))).collect::<Result<Vec<_>, Refused>>()?;
    let Some((first, one)) = all.first() else { return Ok(None) };
    match all.iter().find(|(architecture, _)| architecture != first) {
        None => Ok(Some(*first)),
        Some((_, other)) => Err(Refused::Mixed((*one).clone(), (*other).clone())),
    }
}

fn module(layer: &Layer, cudarc: Cudarc) -> Result<Vec<u8>, Refused> {
    rust::module(&layer.prefix, &layer.tables, cudarc).map(String::into_bytes)
}
