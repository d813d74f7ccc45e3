//! What a layer means.
