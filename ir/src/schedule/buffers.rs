//! The memory of a program: names, roles and shapes. Which kernel reads or writes it is said where kernels are launched.

use crate::graph::{Dim, OUTPUT, Param, Type};
use crate::kernel::{Buffer, Given, Launch, Role, View, Working};
use crate::{DType, Extent};

/// A buffer's place in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BufferId(usize);

impl From<BufferId> for Given {
    fn from(id: BufferId) -> Given {
        Given::Buffer(id.0)
    }
}

impl BufferId {
    /// A tensor map of it.
    pub(super) fn view(self, extents: [Extent; 3], strides: [Extent; 2]) -> Given {
        Given::TensorMap(View { buffer: self.0, extents, strides })
    }

    /// Blocks with work: so many for each that it counts.
    pub(super) fn working(self, each: Extent, follows: bool) -> Working {
        Working { buffer: self.0, each, follows }
    }

    /// Whether it counts the blocks of a launch that have work.
    pub(super) fn counts(self, launch: &Launch) -> bool {
        launch.working.as_ref().is_some_and(|working| working.buffer == self.0)
    }
}

/// Buffers in the order in which they were made, each under a name of its own.
#[derive(Default)]
pub(super) struct Buffers(Vec<Buffer>);

impl Buffers {
    /// A parameter of the layer.
    pub(super) fn param(&mut self, param: &Param, ty: &Type) -> Option<BufferId> {
        let Type::Tensor { shape, dtype } = ty else { return None };
        let role = if param.is_input() { Role::Input } else { Role::Weight };
        // Parameters have neither pairs nor picks: P does not occur.
        let shape = shape.iter().map(|dim| extent(*dim, &Extent::Tokens)).collect();
        Some(self.add(param.bare(), role, *dtype, shape))
    }

    /// Where the layer's result goes.
    pub(super) fn output(&mut self, dtype: DType, shape: Vec<Extent>) -> BufferId {
        self.add(OUTPUT, Role::Output, dtype, shape)
    }

    /// Memory between kernels.
    pub(super) fn workspace(&mut self, name: &str, dtype: DType, shape: impl Into<Vec<Extent>>) -> BufferId {
        self.add(name, Role::Workspace, dtype, shape.into())
    }

    fn add(&mut self, name: &str, role: Role, dtype: DType, shape: Vec<Extent>) -> BufferId {
        let name = unused(name, |name| self.0.iter().any(|buffer| buffer.name == name));
        self.0.push(Buffer { name, role, dtype, shape, observe: None });
        BufferId(self.0.len() - 1)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether it is the same for all batches.
    pub(super) fn is_constant(&self, id: BufferId) -> bool {
        self.0.get(id.0).is_some_and(|buffer| matches!(buffer.role, Role::Weight | Role::Prepared))
    }

    /// Workspace that was made since there were so many buffers is made once, when weights are bound.
    pub(super) fn prepared_from(&mut self, count: usize) {
        self.0[count..].iter_mut().for_each(|buffer| buffer.role = Role::Prepared);
    }

    /// Lets a caller read workspace after a run under this name. `None`: it is not workspace, or has a public name already.
    pub(super) fn publish(&mut self, id: BufferId, name: &str) -> Option<()> {
        let buffer = self.0.get_mut(id.0).filter(|buffer| buffer.role == Role::Workspace && buffer.observe.is_none())?;
        buffer.observe = Some(name.to_string());
        Some(())
    }

    /// Makes workspace an output of this name; other workspace of the name gives it up. `None`: it is not workspace, has a public
    /// name already or not a row for each token, or what a caller gives has the name.
    pub(super) fn give_out(&mut self, id: BufferId, name: &str) -> Option<()> {
        let is_free = |buffer: &&Buffer| buffer.role == Role::Workspace && buffer.observe.is_none();
        self.0.get(id.0).filter(is_free).filter(|buffer| buffer.shape.first() == Some(&Extent::Tokens))?;
        if let Some(other) = self.0.iter().position(|buffer| buffer.name == name).filter(|other| *other != id.0) {
            let another = unused(name, |name| self.0.iter().any(|buffer| buffer.name == name));
            let other = &mut self.0[other];
            if !matches!(other.role, Role::Workspace | Role::Prepared) {
                return None;
            }
            other.name = another;
        }
        let buffer = &mut self.0[id.0];
        (buffer.name, buffer.role) = (name.to_string(), Role::Output);
        Some(())
    }

    /// All of them.
    pub(super) fn into_list(self) -> Vec<Buffer> {
        self.0
    }
}

/// `name`, or else the first of `name_2`, `name_3`, ... that is not in use.
pub(super) fn unused(name: &str, in_use: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|i: u64| format!("{name}_{i}"));
    std::iter::once(name.to_string()).chain(numbered).find(|name| !in_use(name)).unwrap_or_default()
}

/// The extent of a dimension; P is bounded by `pairs`.
pub(super) fn extent(dim: Dim, pairs: &Extent) -> Extent {
    match dim {
        Dim::Const(n) => Extent::Const(n),
        Dim::Tokens => Extent::Tokens,
        Dim::Pairs => pairs.clone(),
    }
}
