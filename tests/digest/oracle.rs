//! What is right: `sha256sum` says it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::iter;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::example::example;
use crate::processes::finish;

/// A folder of files, and `sha256sum` to say what is right.
pub struct Oracle {
    /// Where the files are.
    pub folder: TempDir,
    /// The current folder of both programs.
    pub run_in: PathBuf,
}

impl Oracle {
    /// An empty folder, for what `sha256sum` is not asked about.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let run_in = folder.path().to_owned();
        Self { folder, run_in }
    }

    /// `None`, with a message, where there is no `sha256sum`.
    pub fn find() -> Option<Self> {
        match Command::new("sha256sum").arg("--version").output() {
            Ok(output) if output.status.success() => Some(Self::new()),
            _ => {
                println!("skipped: no sha256sum on this machine");
                None
            }
        }
    }

    /// Makes a file in the folder and gives its name.
    pub fn file(&self, name: String, content: &[u8]) -> OsString {
        fs::write(self.folder.path().join(&name), content).expect("a file");
        name.into()
    }

    /// Starts a program with all its streams piped.
    pub fn start(&self, command: &mut Command) -> Child {
        command.current_dir(&self.run_in).env("LC_ALL", "C").stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    }

    /// What `sha256sum` says.
    pub fn run(&self, files: &[impl AsRef<OsStr>], input: &[u8]) -> Output {
        finish(self.start(Command::new("sha256sum").args(files)), input)
    }

    /// Checks that both programs say the same; gives what `digest` said, and its errors as text.
    pub fn agrees(&self, options: &[&str], files: &[OsString], input: &[u8]) -> (Output, String) {
        let output = finish(self.start(digest().args(options).args(files)), input);
        assert_same(&output, &self.run(files, input));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output, errors)
    }
}

/// Checks standard output and exit code.
#[track_caller]
pub fn assert_same(ours: &Output, theirs: &Output) {
    let text = |output: &Output| {
        let (out, errors) = (&output.stdout, &output.stderr);
        let (out, errors) = (String::from_utf8_lossy(out), String::from_utf8_lossy(errors));
        format!("{}\n{out}{errors}", output.status)
    };
    let same = (&ours.stdout, ours.status.code()) == (&theirs.stdout, theirs.status.code());
    assert!(same, "digest: {}\nsha256sum: {}", text(ours), text(theirs));
}

/// The example, to be given arguments.
pub fn digest() -> Command {
    Command::new(example("digest"))
}

/// Bytes in which no two chunks are equal: what repeats has a prime length.
pub fn noise(seed: usize, len: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let bytes = iter::repeat_with(|| {
        // Knuth's MMIX; its high bits are good enough.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    let block: Vec<u8> = bytes.take(len.min(65_521)).collect();
    let mut noise = block.repeat(len / 65_521 + 1);
    noise.truncate(len);
    noise
}
