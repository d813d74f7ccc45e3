//! Programs that use moec as a user would; they are in `src/bin`. What the pages show in Rust is compiled
//! from here.

#[doc = include_str!("../../README.md")]
#[doc = include_str!("../../compiler/README.md")]
#[doc = include_str!("../../ir/README.md")]
#[doc = include_str!("../../runtime/README.md")]
#[cfg(doctest)]
struct Pages;
