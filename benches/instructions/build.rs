//! Names the compiler: another one gives other counts.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = std::env::var("RUSTC").expect("cargo sets RUSTC");
    let output = Command::new(rustc).arg("-V").output().expect("rustc says its version");
    let version = String::from_utf8(output.stdout).expect("a version in UTF-8");
    let target = std::env::var("TARGET").expect("cargo sets TARGET");
    println!("cargo:rustc-env=COMPILER={} {target}", version.trim());
}
