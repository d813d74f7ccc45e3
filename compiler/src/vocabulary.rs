//! The one size that a spec may leave to its checkpoint: how many token ids a stored table has experts for.

use moec_runtime::package::DType;
use moec_runtime::{Checkpoint, Error};

use crate::spec::{Spec, Tensor};

/// The spec with the vocabulary of this checkpoint, whose names carry `prefix`, where it
/// [lacks one](Spec::lacks_vocabulary): the rows of `weights.hash_table`.
///
/// # Errors
/// [`Error::MissingTensor`], [`Error::TensorDType`], [`Error::TensorRange`]; [`Error::TensorShape`] where it has no row.
pub fn complete(spec: &mut Spec, checkpoint: &Checkpoint<'_>, prefix: &str) -> Result<(), Error> {
    let Some(weight) = spec.weight(Tensor::HashTable).filter(|_| spec.lacks_vocabulary()) else { return Ok(()) };
    let names: Vec<String> = weight.names.iter().map(|name| format!("{prefix}{name}")).collect();
    let name = names.iter().find(|name| checkpoint.has(name)).or(names.first()).cloned().unwrap_or_default();
    let (table, _) = checkpoint.tensor(&name, DType::I32)?;
    match table.shape() {
        [rows, _] if *rows > 0 => spec.router.vocabulary = Some(*rows),
        shape => {
            let expected = vec![1, spec.router.top_k];
            return Err(Error::TensorShape { tensor: name, buffer: "hash_table".into(), expected, actual: shape.to_vec() });
        }
    }
    Ok(())
}
