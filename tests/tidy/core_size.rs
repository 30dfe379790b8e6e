//! The core of the ring stays small: its files in reading order, and their size.

/// Each file of the core, and how many lines of code it may have.
pub const CORE: [(&str, usize); 11] = [
    ("src/ring/route.rs", 200),
    ("src/ring/producer.rs", 220),
    ("src/ring/producer/fast.rs", 100),
    ("src/ring/producer/room.rs", 100),
    ("src/ring/consumer.rs", 200),
    ("src/ring/consumer/tail.rs", 60),
    ("src/ring/consumer/release.rs", 80),
    ("src/ring/consumer/ahead.rs", 80),
    ("src/ring/consumer/controls.rs", 100),
    ("src/ring/notifier.rs", 100),
    ("src/ring/awake.rs", 60),
];

/// Lines of code: without blank lines and comments.
pub fn code_lines(source: &str) -> usize {
    let lines = source.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

/// What is wrong with the table of `document`, and with the sizes of the files.
pub fn check(document: &str, files: &[(&str, usize, String)]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut from = 0;
    for (path, most, source) in files {
        let count = code_lines(source);
        if count > *most {
            findings.push(format!("{path}: {count} lines of code, more than {most}"));
        }
        let row = format!("| `{path}` | {count} |");
        match document[from..].find(&row) {
            Some(at) => from += at + row.len(),
            None => findings.push(format!("docs/architecture.md lacks, in this order: {row}")),
        }
    }
    findings
}

#[test]
fn a_wrong_count_a_wrong_order_and_a_long_file_are_found() {
    let source = "//! Text.\n\nfn f() {\n    // Why.\n    g() // here\n}\n";
    assert_eq!(code_lines(source), 3);
    let files = |most| [("a.rs", most, source.to_owned()), ("b.rs", most, source.to_owned())];
    let table = "| `a.rs` | 3 |\n| `b.rs` | 3 |\n";
    assert!(check(table, &files(3)).is_empty());
    assert_eq!(check(table, &files(2)).len(), 2);
    assert_eq!(check("| `a.rs` | 4 |\n| `b.rs` | 3 |\n", &files(3)).len(), 1);
    assert_eq!(check("| `b.rs` | 3 |\n| `a.rs` | 3 |\n", &files(3)).len(), 1);
}
