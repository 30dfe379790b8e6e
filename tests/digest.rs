//! The example `digest` against `sha256sum`, and against processes that are killed.

#[path = "common/example.rs"]
mod example;
#[path = "digest/oracle.rs"]
mod oracle;
#[path = "digest/processes.rs"]
mod processes;
#[path = "digest/terminal.rs"]
mod terminal;

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::example::example;
use crate::oracle::{Oracle, assert_same, digest, noise};
use crate::processes::{
    await_that, finish, is_alive, kill, kill_new_worker, peak_memory, workers, write,
};

#[test]
fn sizes_around_the_borders_of_chunks_and_checkpoints() {
    let Some(oracle) = Oracle::find() else { return };
    let borders = [0, 1, 55, 56, 64, 4 << 10, CHUNK, 2 * CHUNK, CHECKPOINT, CHECKPOINT + CHUNK];
    let around = borders.iter().flat_map(|size: &usize| [size.saturating_sub(1), *size, size + 1]);
    let files: Vec<_> = around
        .chain([3 << 20])
        .enumerate()
        .map(|(index, size)| oracle.file(format!("{index}-{size}"), &noise(index, size)))
        .collect();
    oracle.agrees(&[], &files, b"");
    oracle.agrees(&["--workers", "1"], &files, b"");
    oracle.agrees(&["--workers", "3", "--trusted"], &files, b"");
}

#[test]
fn names_are_bytes_and_are_escaped_as_sha256sum_escapes_them() {
    let Some(oracle) = Oracle::find() else { return };
    let mut names: Vec<OsString> =
        ["new\nline", "back\\slash", "two  spaces ", "-x", "\"quoted'"].map(OsString::from).into();
    names.push(OsString::from_vec(b"not \xff UTF-8\n".to_vec()));
    let returns = oracle.file("carriage\rreturn".to_owned(), b"7");
    if oracle.run(&[&returns], b"").stdout.starts_with(b"\\") {
        names.push(returns);
    } else {
        println!("skipped: this sha256sum is older than coreutils 9 and does not escape \\r");
    }
    for (index, name) in names.iter().enumerate() {
        fs::write(oracle.folder.path().join(name), noise(index, 100)).expect("a file");
    }
    names.insert(0, "--".into());
    oracle.agrees(&[], &names, b"");
}

#[test]
fn what_cannot_be_read_is_reported_and_the_others_are_done() {
    let Some(oracle) = Oracle::find() else { return };
    let first = oracle.file("first".to_owned(), b"1");
    let locked = oracle.file("locked".to_owned(), b"2");
    let path = oracle.folder.path().join(&locked);
    fs::set_permissions(path, Permissions::from_mode(0o0)).expect("permissions");
    fs::create_dir(oracle.folder.path().join("folder")).expect("a folder");
    let last = oracle.file("last".to_owned(), &noise(3, 300_000));
    // The memory of the reading process: it opens, and nothing can be read at its beginning.
    let files = [first, "missing".into(), locked, "folder".into(), "/proc/self/mem".into(), last];
    let (output, errors) = oracle.agrees(&[], &files, b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("digest: missing: No such file or directory\n"), "{errors}");
    assert!(errors.contains("digest: folder: Is a directory\n"), "{errors}");
    assert!(errors.contains("digest: /proc/self/mem: Input/output error\n"), "{errors}");
}

#[test]
fn a_dash_is_standard_input_and_its_first_reader_gets_all_of_it() {
    let Some(oracle) = Oracle::find() else { return };
    let input = noise(1, 2 * CHECKPOINT + 12_345);
    let file = oracle.file("file".to_owned(), &noise(2, 1_000_000));
    oracle.agrees(&[], &["-".into()], &input);
    oracle.agrees(&["--trusted"], &["-".into()], &input);
    let twice = [file.clone(), "-".into(), "/dev/stdin".into(), file, "-".into()];
    oracle.agrees(&["--workers", "3"], &twice, &input);
}

#[test]
fn named_pipes_are_read_to_their_end() {
    let Some(oracle) = Oracle::find() else { return };
    let pipes = ["pipe 1", "pipe 2"].map(OsString::from);
    let made = finish(oracle.start(Command::new("mkfifo").args(&pipes)), b"");
    assert!(made.status.success());
    let contents = [noise(1, 3_000_000), noise(2, 70_000)];
    let outputs = [digest(), Command::new("sha256sum")].map(|mut program| {
        let writers = [0, 1].map(|index| {
            let content = oracle.file(format!("content {index}"), &contents[index]);
            // Waits for a reader, then writes.
            oracle.start(Command::new("cp").arg(content).arg(&pipes[index]))
        });
        let output = finish(oracle.start(program.args(&pipes)), b"");
        assert!(writers.map(|writer| finish(writer, b"").status.success()) == [true, true]);
        output
    });
    assert_same(&outputs[0], &outputs[1]);
}

#[test]
fn without_arguments_the_sources_of_this_crate_are_digested() {
    let Some(mut oracle) = Oracle::find() else {
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (run_in, sources) in [(root, PathBuf::from("src")), (Path::new("/"), root.join("src"))] {
        oracle.run_in = run_in.to_owned();
        let output = finish(oracle.start(&mut digest()), b"");
        let files = walk(&run_in.join(&sources));
        let names = files.iter().map(|file| {
            sources.join(file.strip_prefix(run_in.join(&sources)).expect("below it")).into()
        });
        let mut names: Vec<OsString> = names.collect();
        names.sort_by(|a, b| Path::new(a).cmp(Path::new(b)));
        assert!(!names.is_empty());
        assert_same(&output, &oracle.run(&names, b""));
    }
}

#[test]
fn the_results_of_compare_are_right_and_the_ratios_are_printed() {
    let Some(oracle) = Oracle::find() else { return };
    let files: Vec<_> = [0, 500_000, 1_500_000, 7]
        .map(|size| oracle.file(format!("{size}"), &noise(size, size)))
        .into();
    let (_, errors) = oracle.agrees(&["--compare"], &files, b"");
    for way in ["threads of one process", "processes", "processes that trust each other"] {
        let says = |line: &str| line.starts_with(&format!("digest: {way} ")) && ratio(line) > 0.0;
        assert!(errors.lines().any(says), "{way}: {errors}");
    }
    let output = finish(oracle.start(digest().args(["--compare", "-"])), b"");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn memory_does_not_grow_with_the_files() {
    let Some(oracle) = Oracle::find() else { return };
    let files = ["1", "2"].map(OsString::from);
    for file in &files {
        let file = File::create(oracle.folder.path().join(file)).expect("a file");
        file.set_len(2 * ENOUGH_MEMORY).expect("nothing but zeros, and no room on the disk");
    }
    let child = oracle.start(digest().args(["--workers", "2"]).args(&files));
    let parent = child.id();
    let mut peak = 0;
    await_that("the program has ended", || {
        peak = peak.max(peak_memory(parent).unwrap_or(0));
        !is_alive(parent)
    });
    assert!((1..ENOUGH_MEMORY).contains(&peak), "{peak} bytes of memory");
    assert_same(&finish(child, b""), &oracle.run(&files, b""));
}

#[test]
fn workers_killed_while_files_are_digested_are_replaced() {
    let Some(oracle) = Oracle::find() else { return };
    let files: Vec<_> =
        (0..6).map(|index| oracle.file(format!("{index}"), &noise(index, 3_000_000))).collect();
    for options in [["--workers", "2"].as_slice(), &["--workers", "2", "--trusted"]] {
        let child = oracle.start(digest().args(options).args(&files));
        let parent = child.id();
        let killer = thread::spawn(move || {
            let mut killed = Vec::new();
            // A fifth one, of the same driver and with no report between, would be an error.
            while killed.len() < 4 && kill_new_worker(parent, &mut killed) {}
        });
        let output = finish(child, b"");
        killer.join().expect("the killer");
        assert_same(&output, &oracle.run(&files, b""));
    }
}

#[test]
fn workers_killed_while_a_pipe_is_digested_are_replaced() {
    let Some(oracle) = Oracle::find() else { return };
    let input = noise(5, 3 * REPORTED + 54_321);
    // Between two kills more is written than may be unreported, so each worker gets somewhere.
    let pieces = input.chunks(REPORTED);
    for mode in ["--trusted", "--workers=1"] {
        digest_and_kill(&oracle, mode, &input, pieces.clone());
    }
}

#[test]
fn workers_killed_again_and_again_while_a_slow_pipe_is_digested_are_replaced() {
    let Some(oracle) = Oracle::find() else { return };
    let input = noise(6, 5_000);
    // Five pieces and so four kills: a fifth in a row, with no report between, would be an error.
    digest_and_kill(&oracle, "--workers=2", &input, input.chunks(1_000));
}

#[test]
fn a_file_for_which_no_worker_can_be_had_is_a_clear_error() {
    let oracle = Oracle::new();
    let file = oracle.file("file".to_owned(), b"content");
    // Enough descriptors for the file, and too few for the channel to a worker.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 5; exec \"$0\" \"$1\""]).arg(example("digest")).arg(file);
    let output = finish(oracle.start(&mut command), b"");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("digest: file: 5 workers in a row were lost"), "{errors}");
    assert!(output.stdout.is_empty());
}

#[test]
fn workers_end_when_their_parent_is_killed() {
    let oracle = Oracle::new();
    let mut child = oracle.start(digest().arg("-"));
    write(child.stdin.as_mut().expect("it is piped"), &noise(1, 200_000));
    await_that("there is a worker", || !workers(child.id()).is_empty());
    let orphans = workers(child.id());
    kill(child.id());
    await_that("the workers are gone", || orphans.iter().all(|worker| !is_alive(*worker)));
    child.wait().expect("the parent can be waited for");
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let oracle = Oracle::new();
    let file = oracle.file("file".to_owned(), b"content");
    // A pipe whose reader has gone before the first line is written.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = digest();
    command.arg(&file).current_dir(oracle.folder.path()).stdout(writer).stderr(Stdio::piped());
    let output = finish(command.spawn().expect("the example"), b"");
    assert_eq!(output.status.code(), Some(128 + 13), "as a shell shows a death by SIGPIPE");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn results_that_cannot_be_written_and_wrong_options_are_failures() {
    let oracle = Oracle::new();
    let file = oracle.file("file".to_owned(), b"content");
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut command = digest();
    command.arg(&file).current_dir(oracle.folder.path()).stdout(full).stderr(Stdio::piped());
    let output = finish(command.spawn().expect("the example"), b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("digest: write error: No space left"));
    let output = finish(oracle.start(digest().arg("--no-such-option")), b"");
    assert_eq!(output.status.code(), Some(1), "as sha256sum, and not 2");
}

#[test]
fn closed_standard_streams_are_reported_as_sha256sum_reports_them() {
    let Some(oracle) = Oracle::find() else { return };
    oracle.file("file".to_owned(), b"content");
    let ours = example("digest");
    // A closed input matters to those who read it, a closed output to those who write.
    for arguments in ["- <&-", "file - <&-", "file <&-", "file >&-", "missing >&-", "--help >&-"] {
        let [ours, theirs] = [ours.as_path(), Path::new("sha256sum")].map(|program| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("exec \"$0\" {arguments}")]).arg(program);
            finish(oracle.start(&mut command), b"")
        });
        assert_same(&ours, &theirs);
        let errors = [&ours, &theirs].map(|output| String::from_utf8_lossy(&output.stderr));
        let reason = "Bad file descriptor";
        assert_eq!(errors[0].contains(reason), errors[1].contains(reason), "{errors:?}");
    }
}

#[test]
fn workers_are_called_as_the_program_is() {
    let oracle = Oracle::new();
    let mut child = oracle.start(digest().arg("-"));
    write(child.stdin.as_mut().expect("it is piped"), &noise(1, 200_000));
    await_that("there is a worker", || !workers(child.id()).is_empty());
    let worker = workers(child.id())[0];
    let read = |what| fs::read_to_string(format!("/proc/{worker}/{what}")).unwrap_or_default();
    await_that("it has its name", || read("comm") == "digest\n");
    assert!(read("cmdline").starts_with("digest\0--worker\0"), "{:?}", read("cmdline"));
    drop(child.stdin.take());
    assert!(finish(child, b"").status.success());
}

/// Writes the pieces to `digest -` and kills a worker after each but the last.
fn digest_and_kill<'a>(
    oracle: &Oracle,
    option: &str,
    input: &[u8],
    pieces: impl ExactSizeIterator<Item = &'a [u8]>,
) {
    let mut child = oracle.start(digest().args([option, "-"]));
    let mut stdin = child.stdin.take().expect("it is piped");
    let parent = child.id();
    let (kills, mut killed) = (pieces.len() - 1, Vec::new());
    for piece in pieces {
        write(&mut stdin, piece);
        // The parent notices each death when it gives out the next piece.
        if killed.len() < kills {
            assert!(kill_new_worker(parent, &mut killed), "it ended before its input did");
        }
    }
    drop(stdin);
    let output = finish(child, b"");
    assert_same(&output, &oracle.run(&["-"], input));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains(&format!(", {kills} replaced")), "{errors}");
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    entries
        .flat_map(|entry| {
            let is_folder = entry.file_type().expect("its type").is_dir();
            if is_folder { walk(&entry.path()) } else { vec![entry.path()] }
        })
        .collect()
}

fn ratio(line: &str) -> f64 {
    line.rsplit_once("ratio ").map_or(0.0, |(_, ratio)| ratio.parse().expect("a number"))
}

/// The sizes of `examples/digest/protocol.rs`: most bytes in a chunk, bytes between two reports.
const CHUNK: usize = 128 << 10;
const CHECKPOINT: usize = 1 << 20;

/// For one process, whatever it has to do.
const ENOUGH_MEMORY: u64 = 32 << 20;

/// More than a worker may leave unreported, a chunk, and what is in the pipe, together.
const REPORTED: usize = 9 << 20;
