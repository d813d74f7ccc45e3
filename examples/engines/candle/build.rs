//! Compiles the layer of this model with the moec that MOEC names, or that is in PATH.

fn main() -> Result<(), moec_build::Error> {
    moec_build::Spec::new("moe.toml").target("host").compile()?;
    Ok(())
}
