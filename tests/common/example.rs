//! Where the examples are.

use std::env;
use std::path::{Path, PathBuf};

/// The path of an example: Cargo puts examples beside the folder of the test binaries.
pub fn example(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the path of this test");
    let profile = test.parent().and_then(Path::parent).expect("target/<profile>/deps/<test>");
    let program = profile.join("examples").join(name);
    // `cargo test --test …` alone does not build it.
    assert!(program.exists(), "not built: run `cargo build --example {name}`, or all tests");
    program
}
