//! The rules of the house, as a test: what no test enforces is a wish.
//!
//! Each rule is a plain function from text to findings, so that it can be shown bad text below and
//! be seen to fail. Only the last part reads the project's files. `docs/architecture.md` explains
//! the layers.

#[path = "tidy/core_size.rs"]
mod core_size;
#[path = "tidy/faults.rs"]
mod faults;
#[path = "tidy/figures.rs"]
mod figures;
#[path = "tidy/readme.rs"]
mod readme;
#[path = "tidy/shared.rs"]
mod shared;
#[path = "tidy/tokens.rs"]
mod tokens;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use tokens::{Kind, Token, is_word_char, tokens};

/// The layer of each top-level module. A module uses lower layers only; siblings do not
/// see each other; layer 0 is open to all.
const LAYERS: [(&str, u32); 15] = [
    ("error", 0),
    ("sync", 0),
    ("wire", 1),
    ("os", 1),
    ("ring", 2),
    ("link", 3),
    ("port", 4),
    ("front", 5),
    ("meet", 5),
    ("group", 6),
    ("inspect", 6),
    ("future", 7),
    ("lib", 8),
    ("bin", 8),
    ("error_texts", 9),
];

/// Arrows that point downward and are forbidden all the same: the ring stands on no kernel, so that
/// one source runs on the heap under loom and Miri, and on the mapping in production.
const FORBIDDEN: [(&str, &str); 1] = [("ring", "os")];

/// Every file in which the word `unsafe` may stand, and what needs it there.
const UNSAFE_FILES: [(&str, Unsafe, &str); 33] = [
    ("src/os/barrier.rs", Unsafe::Blocks, "system calls that no crate wraps"),
    ("src/os/futex.rs", Unsafe::Blocks, "system calls that no crate wraps"),
    ("src/os/mapping.rs", Unsafe::Blocks, "freeing pages of a mapping"),
    ("src/os/process.rs", Unsafe::Blocks, "the descriptor that a child inherits"),
    ("src/os/process/tests.rs", Unsafe::Blocks, "a fork of the tests"),
    ("src/os/process/confine.rs", Unsafe::Blocks, "what a child does before its program runs"),
    ("src/os/socket.rs", Unsafe::Blocks, "descriptors that arrive"),
    ("src/os/socket/options.rs", Unsafe::Blocks, "options that no crate wraps"),
    ("src/os/tokio_fd.rs", Unsafe::Blocks, "a descriptor for tokio's reactor"),
    ("src/ring/harness.rs", Unsafe::Blocks, "payload of the ring's own tests and fuzzing"),
    ("src/ring/memory.rs", Unsafe::Blocks, "the ring's bytes, for producer and consumer"),
    ("src/link/region.rs", Unsafe::Blocks, "typed pointers into shared memory"),
    ("src/link/archive.rs", Unsafe::Blocks, "archives, checked or not"),
    ("src/link/archive/containers.rs", Unsafe::Blocks, "an unsafe trait, implemented"),
    ("src/link/archive/plain.rs", Unsafe::Blocks, "an unsafe trait, implemented"),
    ("src/link/archive/pool.rs", Unsafe::Blocks, "shared values of an archive"),
    ("src/link/archive/shape.rs", Unsafe::Blocks, "telling types apart that borrow"),
    ("src/link/archive/shared.rs", Unsafe::Blocks, "an unsafe trait, implemented"),
    ("src/link/archive/tables.rs", Unsafe::Blocks, "an unsafe trait, implemented"),
    ("src/link/archive/trees.rs", Unsafe::Blocks, "an unsafe trait, implemented"),
    ("src/link/biased.rs", Unsafe::Blocks, "what a lock guards"),
    ("src/link/buffer.rs", Unsafe::Blocks, "sealed memory as slices"),
    ("src/link/pool.rs", Unsafe::Blocks, "pooled memory as slices"),
    ("src/link/payload.rs", Unsafe::Blocks, "messages as slices"),
    ("src/link/payload/arena.rs", Unsafe::Blocks, "scratch space, for rkyv"),
    ("src/link/payload/copy.rs", Unsafe::Blocks, "copies into the ring and out of it"),
    ("src/link/payload/portable.rs", Unsafe::Blocks, "stands in for the next one"),
    ("src/link/payload/writer.rs", Unsafe::Blocks, "the bytes of a record, for rkyv"),
    ("src/link/payload/x86_64.rs", Unsafe::Blocks, "copies in assembly"),
    ("src/future/port.rs", Unsafe::Promises, "trust_peer"),
    ("src/port/mod.rs", Unsafe::Promises, "trust_peer"),
    ("src/port/event.rs", Unsafe::Promises, "data_unchecked, data_checked_by_rkyv_only"),
    ("src/port/message.rs", Unsafe::Promises, "data_checked_by_rkyv_only"),
];

/// How a file may be unsafe.
#[derive(Clone, Copy)]
enum Unsafe {
    /// Anything that a comment can argue for.
    Blocks,
    /// Only what its caller promises: every use stands in an `unsafe fn`.
    Promises,
}

const MOST_LINES: usize = 600;
const MOST_COLUMNS: usize = 100;
const MOST_LINES_OF_A_FUNCTION: usize = 70;

// Layers.

/// The path of the module in a file below `src`; empty for the crate's root.
fn module_of(path: &str) -> Vec<&str> {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    let mut parts: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
    if matches!(parts.last(), Some(&"mod" | &"lib" | &"main")) {
        parts.pop();
    }
    parts
}

/// Every top-level module that the code names, by `crate::` or by `super::` up to the root.
fn modules_used<'a>(path: &str, code: &[Token<'a>]) -> Vec<(usize, &'a str)> {
    let mut used = Vec::new();
    let file_depth = module_of(path).len();
    // For each inline module that is open here: how many braces were open outside of it.
    let mut inline: Vec<usize> = Vec::new();
    let mut braces = 0;
    for (at, token) in code.iter().enumerate() {
        match token.kind {
            Kind::Word("mod") if is_symbol(code, at + 2, '{') => inline.push(braces),
            Kind::Symbol('{') => braces += 1,
            Kind::Symbol('}') => {
                braces -= 1;
                if inline.last() == Some(&braces) {
                    inline.pop();
                }
            }
            Kind::Word("crate") if is_path_separator(code, at + 1) => {
                used.extend(first_names(code, at + 3));
            }
            Kind::Word("super") if !follows_super(code, at) => {
                let (climbed, next) = climb(code, at);
                if climbed == file_depth + inline.len() {
                    used.extend(first_names(code, next));
                }
            }
            _ => {}
        }
    }
    used
}

fn is_symbol(code: &[Token<'_>], at: usize, symbol: char) -> bool {
    code.get(at).is_some_and(|token| token.kind == Kind::Symbol(symbol))
}

fn is_path_separator(code: &[Token<'_>], at: usize) -> bool {
    is_symbol(code, at, ':') && is_symbol(code, at + 1, ':')
}

fn follows_super(code: &[Token<'_>], at: usize) -> bool {
    at >= 3 && is_path_separator(code, at - 2) && code[at - 3].kind == Kind::Word("super")
}

/// How many `super` stand in a row from `at` on, and where the name after them is.
fn climb(code: &[Token<'_>], mut at: usize) -> (usize, usize) {
    let mut climbed = 0;
    while code.get(at).is_some_and(|token| token.kind == Kind::Word("super")) {
        climbed += 1;
        at += 1;
        if is_path_separator(code, at) {
            at += 2;
        }
    }
    (climbed, at)
}

/// The name at `at`, or the first names of the list in braces there. What is no module of the table
/// belongs to the crate's root: its re-exports, its macros, everything at once.
fn first_names<'a>(code: &[Token<'a>], at: usize) -> Vec<(usize, &'a str)> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut starts = true;
    for token in &code[at.min(code.len())..] {
        match token.kind {
            Kind::Symbol('{') => depth += 1,
            Kind::Symbol('}') => depth -= 1,
            Kind::Symbol(',') if depth == 1 => starts = true,
            Kind::Word(name) if starts => {
                let known = LAYERS.iter().any(|(module, _)| *module == name);
                names.push((token.line, if known { name } else { "lib" }));
                starts = false;
            }
            Kind::Symbol('*') if starts => {
                names.push((token.line, "lib"));
                starts = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn layer_of(module: &str) -> Option<u32> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

fn may_use(user: &str, used: &str) -> bool {
    match (layer_of(user), layer_of(used)) {
        _ if user == used => true,
        _ if FORBIDDEN.contains(&(user, used)) => false,
        (Some(_), Some(0)) => true,
        (Some(above), Some(below)) => below < above,
        _ => false,
    }
}

fn check_layers(path: &str, source: &str) -> Vec<String> {
    let user = module_of(path).first().copied().unwrap_or("lib");
    if layer_of(user).is_none() {
        return vec![format!("{path}: the module {user} is in no layer of the table")];
    }
    modules_used(path, &tokens(source))
        .into_iter()
        .filter(|(_, used)| !may_use(user, used))
        .map(|(line, used)| format!("{path}:{line}: {user} uses {used}, which is not below it"))
        .collect()
}

// `unsafe`.

fn check_unsafe(path: &str, source: &str, allowed: &[(&str, Unsafe, &str)]) -> Vec<String> {
    let listed = allowed.iter().find(|(file, ..)| *file == path);
    let code = tokens(source);
    let word = |wanted| move |token: &&Token<'_>| token.kind == Kind::Word(wanted);
    let lines: Vec<usize> = code.iter().filter(word("unsafe")).map(|token| token.line).collect();
    let mut findings = Vec::new();
    match listed {
        None => findings.extend(
            lines.iter().map(|line| format!("{path}:{line}: unsafe in a file that is not listed")),
        ),
        Some((_, _, what)) if lines.is_empty() => {
            findings.push(format!("{path}: listed for {what}, but nothing in it is unsafe"));
        }
        Some((_, Unsafe::Blocks, _)) => {}
        Some((_, Unsafe::Promises, _)) => findings.extend(unpromised(path, &code, &lines)),
    }
    // The lint is denied for the whole crate. A file that needs it opens it, and no other does.
    let opened = code.iter().filter(word("unsafe_code")).count();
    if path != "src/lib.rs" && (opened > 0) != listed.is_some() {
        findings.push(format!("{path}: the lint unsafe_code is opened {opened} times"));
    }
    findings
}

/// Uses of `unsafe` outside of functions whose callers promise something.
fn unpromised(path: &str, code: &[Token<'_>], lines: &[usize]) -> Vec<String> {
    let promised: Vec<(usize, usize)> = code
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| {
            pair[0].kind == Kind::Word("unsafe") && pair[1].kind == Kind::Word("fn")
        })
        .filter_map(|(at, pair)| Some((pair[0].line, body_end(&code[at..])?)))
        .collect();
    lines
        .iter()
        .filter(|line| !promised.iter().any(|(from, to)| (from..=to).contains(line)))
        .map(|line| format!("{path}:{line}: unsafe, but not in an unsafe fn"))
        .collect()
}

// Sizes.

fn check_sizes(path: &str, source: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let count = source.lines().count();
    if count > MOST_LINES {
        findings.push(format!("{path}: {count} lines, more than {MOST_LINES}"));
    }
    for (index, line) in source.lines().enumerate() {
        let columns = line.chars().count();
        if columns > MOST_COLUMNS {
            findings.push(format!("{path}:{}: {columns} columns", index + 1));
        }
    }
    for (name, line, count) in functions(&tokens(source)) {
        if count > MOST_LINES_OF_A_FUNCTION {
            findings.push(format!("{path}:{line}: the function {name} has {count} lines"));
        }
    }
    findings
}

/// Name, first line and count of lines of each function with a body.
fn functions<'a>(code: &[Token<'a>]) -> Vec<(&'a str, usize, usize)> {
    let mut found = Vec::new();
    for (at, pair) in code.windows(2).enumerate() {
        if let (Kind::Word("fn"), Kind::Word(name)) = (pair[0].kind, pair[1].kind)
            && let Some(end) = body_end(&code[at..])
        {
            found.push((name, pair[0].line, end - pair[0].line + 1));
        }
    }
    found
}

/// Last line of the function at the start of `code`; none if it is only declared.
fn body_end(code: &[Token<'_>]) -> Option<usize> {
    let mut brackets = 0;
    let mut braces = 0;
    for token in code {
        match token.kind {
            Kind::Symbol('(' | '[') => brackets += 1,
            Kind::Symbol(')' | ']') => brackets -= 1,
            Kind::Symbol(';') if brackets == 0 && braces == 0 => return None,
            Kind::Symbol('{') => braces += 1,
            Kind::Symbol('}') => {
                braces -= 1;
                if braces == 0 {
                    return Some(token.line);
                }
            }
            _ => {}
        }
    }
    None
}

// The layout and its document.

fn one_space_apart(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every row of the picture in `layout.rs` stands in the document, in the same words.
fn check_layout(source: &str, document: &str) -> Vec<String> {
    let shown: Vec<String> = document.lines().map(one_space_apart).collect();
    let rows: Vec<String> = source
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(one_space_apart)
        .filter(|row| row.starts_with('+'))
        .collect();
    if rows.is_empty() {
        return vec!["a picture of docs/layout.md has no rows in its source".to_owned()];
    }
    rows.iter()
        .filter(|row| !shown.iter().any(|line| line.contains(row.as_str())))
        .map(|row| format!("docs/layout.md lacks the row: {row}"))
        .collect()
}

// The web's clauses and their tests.

/// Every clause of the document's parts A to C that is not marked as senseless here has a test that
/// begins with its number, or does not compile.
fn check_clauses(document: &str, sources: &[String]) -> Vec<String> {
    // A test's name is a function's, or the first name that a macro is given.
    let is_name = |word: &str| !word.contains("_near") && !word.contains("_far");
    let words = sources.iter().flat_map(|source| tokens(source)).filter_map(|token| {
        let Kind::Word(word) = token.kind else { return None };
        is_name(word).then_some(word)
    });
    let words: Vec<&str> = words.collect();
    let mut findings = Vec::new();
    for row in document.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [clause, _, "=" | "~" | "≠", _, tests] = cells[..] else { continue };
        let (letter, number) = clause.split_at(1);
        let ("C" | "P" | "E", Ok(number)) = (letter, number.parse::<u32>()) else { continue };
        let begin = format!("{}{number:02}_", letter.to_lowercase());
        let is_tested = words.iter().any(|word| word.starts_with(&begin));
        if !is_tested && !tests.contains("does not compile") {
            findings.push(format!("docs/semantics.md: no test begins with {begin}"));
        }
    }
    findings
}

// Words that do not belong into a finished text.

fn check_words(path: &str, text: &str, checkout: &str) -> Vec<String> {
    // Put together here, so that this file passes its own rule.
    let unfinished = [concat!("TO", "DO"), concat!("FIX", "ME")];
    // Each hides which process, thread or person is meant.
    let vague = [concat!("who", "ever"), concat!("no", "body"), concat!("some", "body")];
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words = line.split(|character: char| !character.is_alphanumeric());
        // A name in the list of renamed ones is not prose.
        for word in words.filter(|_| !line.contains(" → ")) {
            if vague.contains(&word.to_lowercase().as_str()) {
                findings.push(format!("{path}:{}: {word}: name the actor", index + 1));
            }
        }
        for word in unfinished {
            if line.contains(word) {
                findings.push(format!("{path}:{}: {word}", index + 1));
            }
        }
        if names_directory(line, checkout) {
            findings.push(format!("{path}:{}: the path of one machine's checkout", index + 1));
        }
    }
    findings
}

/// Whether `line` holds `directory` or a path below it.
fn names_directory(line: &str, directory: &str) -> bool {
    // A checkout directly below the root has a name that anything may have.
    if directory.matches('/').count() < 2 {
        return false;
    }
    let path_char = |character: char| is_word_char(character) || "-.".contains(character);
    line.match_indices(directory).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + directory.len()..].chars().next();
        !before.is_some_and(|it| path_char(it) || it == '/') && !after.is_some_and(path_char)
    })
}

// The rules can fail.

#[test]
fn a_use_may_point_down_only() {
    let down = [
        ("src/port/mod.rs", "use crate::link::Link; use crate::error::PostError;"),
        ("src/ring/lane.rs", "use crate::ring::cursor; use super::notifier; use crate::wire::X;"),
        ("src/link/mod.rs", "use crate::{os::memfd, ring::{Producer, os::X}, sync};"),
        ("src/lib.rs", "pub use crate::meet::Worker; mod tests { use super::port; }"),
        ("src/error.rs", "use crate::sync::Arc;"),
        ("src/port/mod.rs", "mod tests { use super::super::link; pub(crate) fn x() {} }"),
    ];
    for (path, source) in down {
        assert_eq!(check_layers(path, source), Vec::<String>::new(), "{source}");
    }
    let wrong = [
        ("src/link/mod.rs", "use crate::port::MessagePort;"),
        ("src/wire/frame.rs", "use crate::os::socket;"),
        ("src/os/memfd.rs", "use crate::wire::layout;"),
        ("src/ring/mod.rs", "use crate::os::futex;"),
        ("src/front/blocking.rs", "use crate::meet::Worker;"),
        ("src/error.rs", "use crate::port::MessagePort;"),
        ("src/ring/lane.rs", "fn f() { crate::link::wake() }"),
        ("src/ring/lane.rs", "use crate::{wire::record, link};"),
        ("src/ring/lane.rs", "use crate::{\n    sync::{fence, X},\n    os,\n};"),
        ("src/ring/mod.rs", "use super::link;"),
        ("src/ring/lane.rs", "use super::super::link;"),
        ("src/ring/mod.rs", "mod tests { fn f() { { } } use super::super::port::X; }"),
        ("src/port/mod.rs", "use crate::MessagePort;"),
        ("src/port/mod.rs", "use crate::*;"),
        ("src/newcomer/mod.rs", ""),
    ];
    for (path, source) in wrong {
        assert_eq!(check_layers(path, source).len(), 1, "{path}: {source}");
    }
    let twice = check_layers("src/os/mod.rs", "use crate::ring;\nuse crate::{link, port};");
    assert_eq!(twice.len(), 3);
    assert!(twice[2].starts_with("src/os/mod.rs:2: os uses port"), "{}", twice[2]);
}

#[test]
fn unsafe_stands_in_listed_files_only() {
    let list = [
        ("src/os/futex.rs", Unsafe::Blocks, "system calls"),
        ("src/future/port.rs", Unsafe::Promises, "trust_peer"),
        ("src/port/mod.rs", Unsafe::Promises, "trust_peer"),
    ];
    let count = |path: &str, source: &str| check_unsafe(path, source, &list).len();
    let opened = "#![allow(unsafe_code)]\n";
    assert_eq!(count("src/os/futex.rs", &format!("{opened} fn f() {{ unsafe {{ g() }} }}")), 0);
    assert_eq!(count("src/port/loan.rs", "// unsafe\nfn f() {}"), 0);
    assert_eq!(count("src/lib.rs", "#![deny(unsafe_code)]"), 0);
    assert_eq!(count("src/port/loan.rs", "fn f() { unsafe { g() } }"), 1);
    assert_eq!(count("src/port/loan.rs", "unsafe impl Send for X {}"), 1);
    assert_eq!(count("src/port/loan.rs", opened), 1);
    assert_eq!(count("src/os/futex.rs", opened), 1);
    assert_eq!(count("src/os/futex.rs", "unsafe fn f() {}"), 1);
    let promise = format!("{opened} unsafe fn f() {{\n unsafe {{ g() }}\n}}\n");
    assert_eq!(count("src/port/mod.rs", &promise), 0);
    assert_eq!(count("src/port/mod.rs", &format!("{promise} fn h() {{ unsafe {{ g() }} }}")), 1);
}

/// Deadlines and pauses go by clocks that cannot be set. Values may hold the time of day.
fn check_clocks(path: &str, source: &str) -> Vec<String> {
    if path.starts_with("src/link/value") {
        return Vec::new();
    }
    tokens(source)
        .iter()
        .filter_map(|token| match token.kind {
            Kind::Word(word) if word == "SystemTime" || word.starts_with("CLOCK_REALTIME") => {
                Some(format!("{path}:{}: {word} can be set", token.line))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn a_clock_that_can_be_set_is_for_values_only() {
    let wrong = "let now = SystemTime::now();\nclock_gettime(ClockId::CLOCK_REALTIME_COARSE);";
    assert_eq!(check_clocks("src/os/clock.rs", wrong).len(), 2);
    assert!(check_clocks("src/link/value/date.rs", wrong).is_empty());
    assert!(check_clocks("src/os/clock.rs", "Instant::now() // no SystemTime").is_empty());
    check_sources(check_clocks);
}

#[test]
fn files_functions_and_lines_are_short() {
    let lines = |count: usize| "x\n".repeat(count);
    let function = |count: usize| format!("fn f(a: [u8; 2]) {{\n{}}}\n", lines(count - 2));
    assert!(check_sizes("a", &lines(MOST_LINES)).is_empty());
    assert_eq!(check_sizes("a", &lines(MOST_LINES + 1)).len(), 1);
    assert!(check_sizes("a", &"é".repeat(MOST_COLUMNS)).is_empty());
    assert_eq!(check_sizes("a", &"é".repeat(MOST_COLUMNS + 1)).len(), 1);
    assert!(check_sizes("a", &function(MOST_LINES_OF_A_FUNCTION)).is_empty());
    assert_eq!(check_sizes("a", &function(MOST_LINES_OF_A_FUNCTION + 1)).len(), 1);
    let declared = format!("fn f(a: [u8; 2]);\n{}{{}}", lines(100));
    assert!(check_sizes("a", &declared).is_empty());
}

#[test]
fn every_row_of_the_picture_is_documented() {
    let source = "//! +0x00 magic  u64\n//! a word\n//! +0x08 version u32\nlet x = 1;\n";
    let document = "text\n+0x00   magic u64\n    +0x08 version u32  \n";
    assert!(check_layout(source, document).is_empty());
    assert_eq!(check_layout(source, "+0x00 magic u64\n").len(), 1);
    assert_eq!(check_layout(source, "+0x00 magic u64\n+0x08 version u64\n").len(), 1);
    assert_eq!(check_layout("//! no picture\n", document).len(), 1);
}

#[test]
fn a_clause_without_a_test_is_found() {
    let row = |mark: &str, test: &str| format!("| P7 | a clause | {mark} | `post` | {test} |\n");
    let source = ["fn p07_near() {} between!(p07_a_clause, p07_near);".to_owned()];
    assert!(check_clauses(&row("=", "`p07`"), &source).is_empty());
    assert!(check_clauses(&row("–", ""), &[]).is_empty());
    assert!(check_clauses(&row("~", "does not compile: `post`"), &[]).is_empty());
    assert_eq!(check_clauses(&row("=", "`p07`"), &[]).len(), 1);
    assert_eq!(check_clauses(&row("≠", ""), &["fn p07_near() {}".to_owned()]).len(), 1);
}

#[test]
fn unfinished_text_and_paths_of_one_machine_are_found() {
    let check = |text: &str| check_words("a", text, "/home/me/messageport");
    assert!(check("to do, later\n/home/me/messageport-2\n/home/me\n").is_empty());
    assert_eq!(check(concat!("// TO", "DO: more")).len(), 1);
    assert_eq!(check(concat!("fine\nFIX", "ME")).len(), 1);
    assert_eq!(check(concat!("Who", "ever sends, and no", "body else.")).len(), 2);
    assert_eq!(check("see /home/me/messageport/docs").len(), 1);
    assert_eq!(check("cd /home/me/messageport").len(), 1);
    assert!(check_words("a", "/src/lib.rs", "/src").is_empty());
}

// The rules hold.

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file at or below `path` with one of the endings, as paths from the project's root. What
/// does not exist has no files.
fn files(path: &str, endings: &[&str]) -> Vec<String> {
    let full = root().join(path);
    if full.is_file() {
        return vec![path.to_owned()];
    }
    let mut found = Vec::new();
    let mut pending = vec![full];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let entry = entry.expect("a readable directory").path();
            let ending = entry.extension().and_then(|ending| ending.to_str()).unwrap_or("");
            if entry.is_dir() && !is_build_output(&entry) {
                pending.push(entry);
            } else if endings.contains(&ending) {
                let inside = entry.strip_prefix(root()).expect("it was found below the root");
                found.push(inside.to_str().expect("names here are UTF-8").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn is_build_output(directory: &Path) -> bool {
    directory.file_name().is_some_and(|name| name == "target")
}

/// Applies a rule to each Rust file of the crate itself.
fn check_sources(rule: impl Fn(&str, &str) -> Vec<String>) {
    let sources = files("src", &["rs"]);
    assert!(!sources.is_empty(), "the crate has sources");
    report(sources.iter().flat_map(|path| rule(path, &read(path))).collect());
}

fn report(findings: Vec<String>) {
    let mut text = String::new();
    for finding in &findings {
        writeln!(text, "  {finding}").expect("a string takes all");
    }
    assert!(findings.is_empty(), "{} findings:\n{text}", findings.len());
}

#[test]
fn the_crate_keeps_to_its_layers() {
    check_sources(check_layers);
}

#[test]
fn the_crate_is_unsafe_in_named_files_only() {
    check_sources(|path, source| check_unsafe(path, source, &UNSAFE_FILES));
    for (path, ..) in UNSAFE_FILES {
        assert!(root().join(path).is_file(), "{path} is listed and does not exist");
    }
}

#[test]
fn the_crate_has_short_files_functions_and_lines() {
    check_sources(check_sizes);
}

#[test]
fn the_layout_is_documented() {
    let wire = ["layout", "record", "frame"].map(|file| format!("src/wire/{file}.rs"));
    for source in wire.iter().map(String::as_str).chain(["src/link/pool.rs"]) {
        report(check_layout(&read(source), &read("docs/layout.md")));
    }
}

#[test]
fn times_of_the_readme_and_the_comparison_stand_in_the_performance_page() {
    let (readme, page) = (read("README.md"), read("docs/performance.md"));
    let claimed = figures::times(&(readme + &read("docs/compare.md")));
    assert!(claimed.len() > 20, "the tables are there: {claimed:?}");
    let unknown: Vec<_> = claimed.difference(&figures::times(&page)).cloned().collect();
    assert!(unknown.is_empty(), "not in docs/performance.md: {unknown:?}");
}

#[test]
fn the_core_is_as_small_as_its_document_says() {
    let files = core_size::CORE.map(|(path, most)| (path, most, read(path)));
    report(core_size::check(&read("docs/architecture.md"), &files));
}

#[test]
fn every_clause_has_a_test() {
    let sources: Vec<String> =
        files("tests/semantics", &["rs"]).iter().map(|it| read(it)).collect();
    let document = read("docs/semantics.md");
    assert!(document.contains("| P21 |"), "the table is there");
    report(check_clauses(&document, &sources));
}

#[test]
fn nothing_unfinished_or_of_one_machine_is_written() {
    let mut findings = Vec::new();
    let folders = ["src", "macros", "docs", "examples", "tests", "benches", "fuzz", "bindings"];
    for place in folders.into_iter().chain(["README.md", "CHANGELOG.md"]) {
        for path in files(place, &["rs", "md", "toml"]) {
            findings.extend(check_words(&path, &read(&path), env!("CARGO_MANIFEST_DIR")));
        }
    }
    report(findings);
}
