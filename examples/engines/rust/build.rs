//! Compiles the layer with the moec that MOEC names, or that is in PATH.

fn main() -> Result<(), moec_build::Error> {
    moec_build::Spec::new("../../../tests/fixtures/huggingface/mixtral.toml").target("host").compile()?;
    Ok(())
}
