//! NVIDIA's `fatbinary`, an external program that may be absent: it puts images for several GPUs into one file, of which the
//! driver loads the one that fits.

use std::fs;
use std::path::{Path, PathBuf};

use crate::tool::{self, Tool};
use crate::{Error, Ptxas};

const TOOL: Tool = Tool { name: "fatbinary", variable: "MOEC_FATBINARY", running: "running fatbinary" };

/// A `fatbinary`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatbinary {
    path: PathBuf,
}

/// An image that goes into a fat binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FatImage<'a> {
    /// What it is for: `sm_90a`.
    pub target: &'a str,
    /// What it is.
    pub form: Form,
    /// The image as it is stored in a file.
    pub bytes: &'a [u8],
}

/// Code for GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// PTX text.
    Ptx,
    /// An NVIDIA binary for one architecture.
    Cubin,
}

impl Fatbinary {
    /// The first of: `MOEC_FATBINARY`; the one beside [`Ptxas::find`]'s; where that looks. `MOEC_FATBINARY` set to nothing means
    /// none.
    pub fn find() -> Option<Fatbinary> {
        let search = || beside(Ptxas::find()?.path()).filter(|path| path.is_file());
        tool::named(&TOOL).unwrap_or_else(|| search().or_else(|| tool::found(&TOOL))).map(|path| Fatbinary { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, as `13.0.88`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be started, [`Error::Tool`] where it fails.
    pub fn version(&self) -> Result<String, Error> {
        tool::version(&TOOL, &self.path)
    }

    /// One file with these images, in their order. They are not compressed: what compresses best only drivers from 550 on read.
    ///
    /// # Errors
    /// [`Error::Tool`] where a target is not a GPU's or where it refuses an image, with what it prints; [`Error::Io`] where it
    /// cannot be started or a temporary file fails.
    pub fn join(&self, images: &[FatImage<'_>]) -> Result<Vec<u8>, Error> {
        let io = |what| move |source| Error::Io { what, source };
        let dir = tempfile::tempdir().map_err(io("creating a folder to make a fat binary in"))?;
        let mut args = ["--create=kernels.fatbin", "-64", "--compress=false"].map(str::to_string).to_vec();
        for (index, FatImage { target, form, bytes }) in images.iter().enumerate() {
            let sm = target.strip_prefix("sm_").filter(|sm| !sm.is_empty() && sm.chars().all(|c| c.is_ascii_alphanumeric()));
            let sm =
                sm.ok_or_else(|| Error::Tool { tool: TOOL.name.to_string(), message: format!("`{target}` is no GPU target") })?;
            let kind = match form {
                Form::Ptx => "ptx",
                Form::Cubin => "elf",
            };
            let file = format!("{index}.{kind}");
            fs::write(dir.path().join(&file), bytes).map_err(io("writing an image of a fat binary"))?;
            args.push(format!("--image3=kind={kind},sm={sm},file={file}"));
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        tracing::debug!(?args, fatbinary = %self.path.display(), "joining images");
        tool::run(&TOOL, &self.path, dir.path(), &args)?;
        fs::read(dir.path().join("kernels.fatbin")).map_err(io("reading the fat binary"))
    }
}

/// The one in the folder of a ptxas, which a bare name does not say.
fn beside(ptxas: &Path) -> Option<PathBuf> {
    let folder = ptxas.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    Some(folder.join(TOOL.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_has_nothing_beside_it() {
        assert_eq!(beside(Path::new("ptxas")), None);
        assert_eq!(beside(Path::new("/opt/cuda/bin/ptxas")), Some("/opt/cuda/bin/fatbinary".into()));
    }

    #[test]
    fn a_target_is_no_argument() {
        let fatbinary = Fatbinary { path: "no/such/fatbinary".into() };
        let made = |target| fatbinary.join(&[FatImage { target, form: Form::Ptx, bytes: b"" }]);
        for target in ["sm_", "sm_80,file=x", "x86-64-v3"] {
            assert!(matches!(made(target), Err(Error::Tool { .. })), "{target}");
        }
        assert!(made("sm_80").expect_err("there is none").is_environment());
    }
}
