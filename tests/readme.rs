//! The README's quick start prints what the README says.

#[path = "common/example.rs"]
mod example;

use std::process::{Command, Stdio};

#[test]
fn the_quick_start_prints_what_the_readme_shows() {
    // `tidy` compares the example with the README's code.
    let output = Command::new(example::example("quick_start"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("the example");
    assert!(output.status.success(), "{}", output.status);
    let (_, rest) = include_str!("../README.md").split_once("```text\n").expect("the output");
    let (shown, _) = rest.split_once("```").expect("its end");
    assert_eq!(String::from_utf8_lossy(&output.stdout), shown);
}
