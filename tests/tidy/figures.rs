//! One source for each figure: what the README says of speed stands in `docs/performance.md`.

use std::collections::BTreeSet;

/// Times in a text, as they are written: `59.8 ns`.
pub fn times(text: &str) -> BTreeSet<String> {
    let is_edge = |c: char| !c.is_alphanumeric();
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .windows(2)
        .map(|pair| (pair[0].trim_matches(is_edge), pair[1].trim_matches(is_edge)))
        .filter(|(number, unit)| {
            matches!(*unit, "ns" | "µs" | "ms") && number.parse::<f64>().is_ok()
        })
        .map(|(number, unit)| format!("{number} {unit}"))
        .collect()
}

#[test]
fn times_are_found_as_they_are_written() {
    let text = "| typed 190 ns; `pipe`* 17.2 ns (1.5), 5 MiB, or 3 µs. |\n0.4\nms ns";
    assert_eq!(
        times(text).into_iter().collect::<Vec<_>>(),
        ["0.4 ms", "17.2 ns", "190 ns", "3 µs"]
    );
}
