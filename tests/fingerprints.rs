//! What shape a type has.

#[path = "fingerprints/derived.rs"]
mod derived;
