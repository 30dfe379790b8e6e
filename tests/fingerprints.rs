//! Programs that were built with different types refuse each other, and say what differs; types
//! that grow in the documented ways do not.

mod common;

#[path = "fingerprints/declaring.rs"]
mod declaring;
#[path = "fingerprints/derived.rs"]
mod derived;
#[path = "fingerprints/growing.rs"]
mod growing;
#[path = "fingerprints/lies.rs"]
mod lies;
#[path = "fingerprints/pairs.rs"]
mod pairs;
#[path = "fingerprints/requests.rs"]
mod requests;
