//! How work is cut up.
