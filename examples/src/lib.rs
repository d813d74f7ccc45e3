//! Programs that use moec as a user would; they are in `src/bin`. What README.md shows in Rust is compiled from here.

#[doc = include_str!("../../README.md")]
#[cfg(doctest)]
struct Readme;
