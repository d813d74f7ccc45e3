//! PTX, the text: tokens, operands, instructions and their decoding, and texts with one instruction broken.

pub(crate) mod body;
pub(crate) mod decode;
pub(crate) mod decode_async;
pub(crate) mod decode_memory;
pub(crate) mod decode_warp;
pub(crate) mod form;
pub(crate) mod ins;
pub(crate) mod lexer;
pub(crate) mod module;
pub(crate) mod mutate;
pub(crate) mod operand;
pub(crate) mod parse;
pub(crate) mod registers;
