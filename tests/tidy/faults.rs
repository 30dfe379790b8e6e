//! The files and tests that the page of faults names are there.

use super::{files, read, report, root};

/// The names in backticks of the last column of each row.
fn named(document: &str) -> Vec<(usize, &str)> {
    let rows = document.lines().enumerate().filter(|(_, line)| line.starts_with("| "));
    let cells = rows.filter_map(|(index, line)| {
        Some((index + 1, line.trim_end().trim_end_matches('|').rsplit('|').next()?))
    });
    cells
        .flat_map(|(line, cell)| cell.split('`').skip(1).step_by(2).map(move |name| (line, name)))
        .collect()
}

fn is_test(name: &str) -> bool {
    let is_of_a_test = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_…".contains(c);
    name.contains('_') && name.chars().all(is_of_a_test)
}

/// Findings for the names of which there is no file, or no function in `sources`.
fn check(document: &str, has_path: impl Fn(&str) -> bool, sources: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (line, name) in named(document) {
        let is_there = match name {
            path if path.contains('/') && !path.contains(' ') => has_path(path),
            test if is_test(test) && test.starts_with('…') => {
                sources.contains(test.trim_matches('…'))
            }
            test if is_test(test) && test.ends_with('…') => {
                sources.contains(&format!("fn {}", test.trim_end_matches('…')))
            }
            test if is_test(test) => sources.contains(&format!("fn {test}(")),
            _ => true,
        };
        if !is_there {
            findings.push(format!("docs/faults-found.md:{line}: there is no `{name}`"));
        }
    }
    findings
}

#[test]
fn every_test_of_the_faults_is_named_as_it_is() {
    let document = "| A1 | x | `a/b.rs`: `a_test_of_it`, `a_test…`, `…_of_it`, `_two` |\n";
    let sources = "fn a_test_of_it() {}";
    assert_eq!(check(document, |path| path == "a/b.rs", sources).len(), 1, "no `_two`");
    assert_eq!(check(document, |_| false, sources).len(), 2);
    assert_eq!(check(document, |_| true, "").len(), 4);
}

#[test]
fn the_page_of_faults_names_tests_that_are_there() {
    let paths = ["src", "tests", "fuzz/fuzz_targets"].map(|path| files(path, &["rs"])).concat();
    let sources: String = paths.iter().map(|path| read(path)).collect();
    let has_path = |path: &str| {
        let path = path.trim_end_matches('…');
        ["", "tests/"].iter().any(|place| root().join(format!("{place}{path}")).exists())
    };
    report(check(&read("docs/faults-found.md"), has_path, &sources));
}
