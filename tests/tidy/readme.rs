//! What a reader of the package page can rely on: the README is short, shows all of its code, and
//! its links lead to files that the package has.

use super::{read, report, root};

const MOST_LINES_OF_README: usize = 150;

/// The code blocks of a document in one language: the line of each one's first line, and its text.
fn blocks(document: &str, language: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(bool, usize, String)> = None;
    for (index, line) in document.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let is_wanted = info.split(',').next() == Some(language);
                open = Some((is_wanted, index + 2, String::new()));
            }
            (Some(_), Some(_)) => {
                if let Some((true, start, text)) = open.take() {
                    found.push((start, text));
                }
            }
            (Some((.., text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

/// Rustdoc hides lines that begin with `# `; a package page shows them.
fn check_hidden_lines(path: &str, document: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (start, text) in blocks(document, "rust") {
        for (index, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("# ") || line.trim() == "#" {
                findings.push(format!("{path}:{}: a hidden line", start + index));
            }
        }
    }
    findings
}

/// The targets of a document's links that are no addresses.
fn links(document: &str) -> Vec<&str> {
    let targets = document.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).collect()
}

/// The anchor that a heading has on the usual package and repository pages.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let text: String = heading.to_lowercase().chars().filter(kept).collect();
    text.trim().replace(' ', "-")
}

fn has_anchor(document: &str, wanted: &str) -> bool {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).any(|found| found == wanted)
}

/// Links from the document at `path` that lead nowhere.
fn check_links(path: &str, document: &str) -> Vec<String> {
    let folder = root().join(path).parent().expect("a file is in a folder").to_owned();
    let mut findings = Vec::new();
    for link in links(document) {
        let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
        let target = folder.join(file);
        if !target.exists() {
            findings.push(format!("{path}: the link {link} leads nowhere"));
        } else if !wanted.is_empty() {
            let text = match file {
                "" => document.to_owned(),
                _ => std::fs::read_to_string(&target).expect("a document"),
            };
            if !has_anchor(&text, wanted) {
                findings.push(format!("{path}: the link {link} names no heading"));
            }
        }
    }
    findings
}

/// Links to files that `cargo package` leaves out: what `exclude` names, and packages of their own.
fn check_packaged(path: &str, document: &str, manifest: &str) -> Vec<String> {
    let (_, rest) = manifest.split_once("\nexclude = [").expect("an exclude list");
    let (list, _) = rest.split_once(']').expect("its end");
    let excluded: Vec<&str> =
        list.split(',').map(|entry| entry.trim().trim_matches('"').trim_matches('/')).collect();
    let is_left_out = |file: &str| {
        excluded.iter().any(|entry| file == *entry || file.starts_with(&format!("{entry}/")))
            || std::path::Path::new(file)
                .ancestors()
                .skip(1)
                .any(|it| !it.as_os_str().is_empty() && root().join(it).join("Cargo.toml").exists())
    };
    let files = links(document).into_iter().map(|link| link.split('#').next().unwrap_or(link));
    files
        .filter(|file| is_left_out(file))
        .map(|file| format!("{path}: the package lacks {file}"))
        .collect()
}

/// Calls and attributes in the right column of a document's tables that no program of the same
/// section has.
fn check_right_column(path: &str, document: &str) -> Vec<String> {
    let without_space = |text: &str| text.split_whitespace().collect::<String>();
    let mut findings = Vec::new();
    for section in document.split("\n## ") {
        let programs: String = blocks(section, "rust").into_iter().map(|(_, text)| text).collect();
        let programs = without_space(&programs);
        for row in section.lines().filter(|line| line.starts_with("| ")) {
            let right = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or(row);
            let spans = right.split('`').skip(1).step_by(2);
            for code in spans.filter(|code| code.contains(['(', '#'])) {
                if !programs.contains(&without_space(code)) {
                    findings.push(format!("{path}: no program has {code}"));
                }
            }
        }
    }
    findings
}

// The rules can fail.

#[test]
fn a_call_in_the_right_column_that_no_program_has_is_found() {
    let check = |row: &str| {
        let program = "```rust\nlet x = port\n    .recv()?;\n```\n";
        check_right_column("a", &format!("# A\n\n## B\n\n| x | y |\n{row}\n\n{program}"))
    };
    assert!(check("| `read()` | `port.recv()?`, and `None` |").is_empty());
    assert_eq!(check("| `read()` | `port.read()` |"), ["a: no program has port.read()"]);
    assert_eq!(check_right_column("a", "## A\n| a | `b()` |\n## B\n```rust\nb()\n```").len(), 1);
}

#[test]
fn a_hidden_line_is_found() {
    let text = "```sh\n# shown\n```\n```rust,no_run\nfn main() {}\n# hidden\n  #\n#[test]\n```\n";
    assert_eq!(check_hidden_lines("a", text), ["a:6: a hidden line", "a:7: a hidden line"]);
    assert_eq!(blocks("```rust\na\n```\n```text\nb\n```", "text"), [(5, "b\n".to_owned())]);
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let check = |text: &str| check_links("docs/guide.md", text);
    assert!(
        check("[a](../README.md) [b](https://a.example/) [c](#One-thing)\n# one thing").len() == 1
    );
    assert!(check("[c](#a-one-thing)\n## `A` one thing!").is_empty());
    assert_eq!(check("[a](README.md)"), ["docs/guide.md: the link README.md leads nowhere"]);
    assert_eq!(check("[a](../SECURITY.md#no-such)").len(), 1);
}

#[test]
fn a_link_that_the_package_lacks_is_found() {
    let manifest = "[package]\nexclude = [\"/.ci\", \"/fuzz/corpus\"]\n";
    let check = |text: &str| check_packaged("a", text, manifest).len();
    assert_eq!(check("[a](docs/guide.md) [b](models/README.md)"), 0);
    assert_eq!(check("[a](.ci/run) [b](fuzz/README.md) [c](macros/src/lib.rs)"), 3);
}

// The rules hold.

#[test]
fn the_readme_is_short_and_shows_all_of_its_code() {
    let readme = read("README.md");
    let count = readme.lines().count();
    assert!(count <= MOST_LINES_OF_README, "README.md: {count} lines");
    report(check_hidden_lines("README.md", &readme));
    let least = format!("Rust {} or later", env!("CARGO_PKG_RUST_VERSION"));
    assert!(readme.contains(&least), "README.md does not say: {least}");
}

#[test]
fn the_quick_start_is_the_example() {
    let programs = blocks(&read("README.md"), "rust");
    assert_eq!(programs.len(), 1, "the README has one program");
    assert_eq!(programs[0].1, read("examples/quick_start.rs"));
}

#[test]
fn links_lead_to_files_and_those_of_the_readme_to_packaged_ones() {
    let readme = read("README.md");
    assert!(links(&readme).len() > 10, "there are links");
    report(check_packaged("README.md", &readme, &read("Cargo.toml")));
    let documents = super::files("docs", &["md"]);
    let others = ["README.md", "SECURITY.md", "CHANGELOG.md"].map(String::from);
    report(
        documents.iter().chain(&others).flat_map(|path| check_links(path, &read(path))).collect(),
    );
}

#[test]
fn every_section_of_the_guide_has_a_program() {
    let guide = read("docs/guide.md");
    let sections: Vec<&str> = guide.split("\n## ").skip(1).collect();
    assert!(sections.len() >= 15, "the guide has its sections");
    let without = sections.iter().filter(|section| blocks(section, "rust").is_empty());
    report(without.map(|section| format!("no program: {:?}", section.lines().next())).collect());
}

#[test]
fn what_one_writes_here_is_compiled() {
    report(check_right_column("docs/migrating.md", &read("docs/migrating.md")));
}

#[test]
fn the_changelog_begins_with_the_version() {
    let version = env!("CARGO_PKG_VERSION");
    let (changelog, macros) = (read("CHANGELOG.md"), read("macros/Cargo.toml"));
    let newest = changelog.lines().find(|line| line.starts_with("## ")).expect("a version");
    assert!(newest.starts_with(&format!("## {version} ")), "{newest}, not {version}");
    assert!(macros.contains(&format!("\nversion = \"{version}\"\n")), "the macros' version");
}
