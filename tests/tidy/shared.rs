//! Rules about what two threads or two processes share: orderings, and the words of the layout.

use super::tokens::{Kind, Token, tokens};
use super::{check_sources, read};

/// The layout's version, and the fingerprints that its structs and its picture had when that was
/// last raised.
const LAYOUT: (u32, u64, u64) = (12, 0xa42c_480d_60e7_75af, 0x6d55_d506_e496_379f);

/// Every ordering stronger than `Relaxed`, and every fence, is given together with its site, so that
/// loom can take it away.
pub fn check_orderings(path: &str, source: &str) -> Vec<String> {
    let is_test = ["/tests", "/models", "/harness"].iter().any(|part| path.contains(part));
    if is_test || path == "src/sync.rs" {
        return Vec::new();
    }
    let code = tokens(source);
    let mut findings = Vec::new();
    for (at, token) in code.iter().enumerate() {
        let Kind::Word(word) = token.kind else { continue };
        let text = match word {
            "Acquire" | "Release" | "AcqRel" | "SeqCst"
                if is_ordering(&code, at) && !has_site(&code, at) =>
            {
                format!("{path}:{}: {word} without a site: see src/sync.rs", token.line)
            }
            "Ordering" if is_list(&code, at) => {
                format!("{path}:{}: name orderings in full: `Ordering::Relaxed`", token.line)
            }
            "compiler_fence" => format!("{path}:{}: a fence without a site", token.line),
            "atomic" if is_followed_by(&code, at, "fence") => {
                format!("{path}:{}: a fence without a site: see src/sync.rs", token.line)
            }
            _ => continue,
        };
        findings.push(text);
    }
    findings
}

/// Whether the word at `at` stands behind `Ordering::`, and is no variant of another type.
fn is_ordering(code: &[Token<'_>], at: usize) -> bool {
    at >= 3
        && is_followed_by(code, at - 3, as_word(code[at]))
        && code[at - 3].kind == Kind::Word("Ordering")
}

fn as_word<'a>(token: Token<'a>) -> &'a str {
    match token.kind {
        Kind::Word(word) => word,
        Kind::Symbol(_) => "",
    }
}

/// Whether the ordering at `at` is the second argument of `ordering(site, Ordering::…)`.
fn has_site(code: &[Token<'_>], at: usize) -> bool {
    // Back over `Ordering ::`, the comma, and the site, which has two words at most.
    let before = &code[at.saturating_sub(12)..at];
    before
        .windows(2)
        .any(|pair| pair[0].kind == Kind::Word("ordering") && pair[1].kind == Kind::Symbol('('))
}

fn is_followed_by(code: &[Token<'_>], at: usize, name: &str) -> bool {
    let next = code[at + 1..].iter().take(3).map(|token| token.kind);
    next.eq([Kind::Symbol(':'), Kind::Symbol(':'), Kind::Word(name)])
}

/// Whether `Ordering::{` or `Ordering::*` stands at `at`.
fn is_list(code: &[Token<'_>], at: usize) -> bool {
    let next: Vec<_> = code[at + 1..].iter().take(3).map(|token| token.kind).collect();
    let colon = Kind::Symbol(':');
    matches!(next[..], [a, b, Kind::Symbol('{' | '*')] if a == colon && b == colon)
}

/// A number that changes with every struct of the layout that is shared, and with every constant
/// that says where things are: their code, without comments.
pub fn fingerprint(source: &str) -> u64 {
    let code = tokens(source);
    let mut hash = EMPTY;
    let mut depth = 0usize;
    let mut is_inside = false;
    for (at, token) in code.iter().enumerate() {
        let is_start = depth == 0
            && (matches!(token.kind, Kind::Word("struct"))
                || token.kind == Kind::Word("const") && is_named_constant(&code, at));
        is_inside |= is_start;
        if is_inside {
            let text = match token.kind {
                Kind::Word(word) => word.to_owned(),
                Kind::Symbol(symbol) => symbol.to_string(),
            };
            hash = hashed(hash, &text);
        }
        match token.kind {
            Kind::Symbol('{') => depth += 1,
            Kind::Symbol('}') => {
                depth = depth.saturating_sub(1);
                is_inside &= depth > 0;
            }
            Kind::Symbol(';') if depth == 0 => is_inside = false,
            _ => {}
        }
    }
    hash
}

/// A number that changes with every word of the pictures of a document: its blocks of plain text.
pub fn picture(document: &str) -> u64 {
    let blocks = document.split("```").skip(1).step_by(2);
    let pictures = blocks.filter_map(|block| block.strip_prefix("text\n"));
    pictures.flat_map(str::split_whitespace).fold(EMPTY, hashed)
}

/// FNV-1a, a word further.
fn hashed(hash: u64, word: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    word.bytes().chain([b' ']).fold(hash, step)
}

/// FNV-1a of nothing.
const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

/// Fields of `repr(C)` structs whose offsets no assertion names.
pub fn check_offsets(path: &str, source: &str) -> Vec<String> {
    let code = tokens(source);
    let asserted: Vec<[&str; 2]> = (0..code.len())
        .filter(|at| as_word(code[*at]) == "offset_of")
        .filter_map(|at| Some([as_word(*code.get(at + 3)?), as_word(*code.get(at + 5)?)]))
        .collect();
    let mut findings = Vec::new();
    for at in (0..code.len()).filter(|at| as_word(code[*at]) == "struct") {
        let name = as_word(code[at + 1]);
        // Fields: the words before a single colon, up to the end of the struct.
        let end = code[at..].iter().position(|token| token.kind == Kind::Symbol('}'));
        for field in code[at + 2..at + end.unwrap_or(0).max(2)].windows(2) {
            let [word, colon] = [field[0], field[1]];
            let is_field = !as_word(word).is_empty() && colon.kind == Kind::Symbol(':');
            if is_field && !asserted.contains(&[name, as_word(word)]) {
                let field = as_word(word);
                findings.push(format!("{path}:{}: no offset_of!({name}, {field})", word.line));
            }
        }
    }
    findings
}

/// `const NAME: …`, and neither `const fn` nor `const _`; not the version itself.
fn is_named_constant(code: &[Token<'_>], at: usize) -> bool {
    match code.get(at + 1).map(|token| token.kind) {
        Some(Kind::Word(name)) => !["fn", "_", "VERSION"].contains(&name),
        _ => false,
    }
}

/// The layout version that a source gives.
pub fn version(source: &str) -> Option<u32> {
    let (_, rest) = source.split_once("const VERSION: u32 = ")?;
    rest.split_once(';')?.0.parse().ok()
}

#[test]
fn an_ordering_without_a_site_is_found() {
    let bad = [
        "fn f(a: &A) { a.store(1, Ordering::Release); }",
        "fn f(a: &A) { a.swap(\n    1,\n    Ordering::AcqRel,\n); }",
        "use std::sync::atomic::Ordering::SeqCst;",
        "fn f() { std::sync::atomic::fence(order); }",
        "fn f() { compiler_fence(order); }",
        "use std::sync::atomic::Ordering::{Relaxed, Release};",
    ];
    for source in bad {
        assert_eq!(check_orderings("src/link/a.rs", source).len(), 1, "{source}");
    }
    let good = [
        "fn f(a: &A) { a.store(1, Ordering::Relaxed); }",
        "fn f(a: &A) { a.store(1, ordering(Site::Request, Ordering::Release)); }",
        "fn f(a: &A) { a.load(\n    ordering(\n        site,\n        Ordering::Acquire,\n    ),\n); }",
        "fn f() { let op = Op::Release; }",
        "// Release: pairs with the Acquire in `b`.\nfn f() { fence(Site::FenceReaderGone); }",
    ];
    for source in good {
        assert!(check_orderings("src/link/a.rs", source).is_empty(), "{source}");
    }
}

#[test]
fn a_field_more_changes_the_fingerprint_and_a_comment_does_not() {
    let layout =
        "/// A line.\nstruct Line { tail: u64 }\nconst LEN: u64 = 16;\nfn f() { let a = 1; }";
    let same = [
        "struct Line {\n    /// Position.\n    tail: u64\n}\nconst LEN: u64 = 16;",
        "const VERSION: u32 = 7;\nstruct Line { tail: u64 } const LEN: u64 = 16; const fn g() {}",
    ];
    for other in same {
        assert_eq!(fingerprint(other), fingerprint(layout), "{other}");
    }
    let changed = [
        "struct Line { tail: u64, more: u64 }\nconst LEN: u64 = 16;",
        "struct Line { tail: u32 }\nconst LEN: u64 = 16;",
        "struct Line { head: u64 }\nconst LEN: u64 = 16;",
        "struct Line { tail: u64 }\nconst LEN: u64 = 32;",
        "struct Line { tail: u64 }\nconst LEN: u64 = 16; const MORE: u32 = 1;",
    ];
    for other in changed {
        assert_ne!(fingerprint(other), fingerprint(layout), "{other}");
    }
    assert_eq!(version("pub(crate) const VERSION: u32 = 12;"), Some(12));
}

#[test]
fn every_ordering_of_the_crate_has_a_site() {
    check_sources(check_orderings);
}

#[test]
fn a_picture_with_a_word_more_is_another_one() {
    let document =
        "# Title\n\n```text\n+0x00 magic u64\n```\n\nProse.\n\n```text\n+0 length\n```\n";
    let same = document.replace("Prose", "Other prose").replace("magic ", "magic   ");
    assert_eq!(picture(&same), picture(document));
    for changed in [("u64", "u32"), ("+0 length", "+0 length\n+4 kind"), ("```text\n+0 ", "```\n")]
    {
        assert_ne!(picture(&document.replace(changed.0, changed.1)), picture(document));
    }
}

#[test]
fn a_field_without_an_asserted_offset_is_found() {
    let source = "#[repr(C)]\nstruct Line { pub tail: u64, pub more: [A; 2] }\nstruct Empty;\n\
                  const _: () = assert!(offset_of!(Line, tail) == 0);";
    let findings = check_offsets("a.rs", source);
    assert_eq!(findings, ["a.rs:2: no offset_of!(Line, more)"]);
}

#[test]
fn every_shared_field_has_an_asserted_offset() {
    super::report(check_offsets("src/wire/layout.rs", &read("src/wire/layout.rs")));
}

/// A program of another version reads and writes the same words: a field more is another layout,
/// even if every other one stays where it is.
#[test]
fn changed_shared_words_have_a_new_version() {
    let source = read("src/wire/layout.rs");
    let (known_version, structs, shown) = LAYOUT;
    let now = version(&source).expect("the layout has a version");
    let found = (fingerprint(&source), picture(&read("docs/layout.md")));
    assert!(
        found == (structs, shown) || now != known_version,
        "other shared words than version {known_version} has: raise VERSION, and say in \
         docs/layout.md what changed (where no shared byte did, give {found:#x?} in LAYOUT)"
    );
    assert_eq!((now, found.0, found.1), LAYOUT, "LAYOUT is of an older version");
}
