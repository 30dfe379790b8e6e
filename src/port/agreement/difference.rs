//! What differs between two shapes, in words.
//!
//! The peer's text is input: it may be anything, and it may be cut.

use crate::error::shorten;
use std::borrow::Cow;
use std::fmt::Write;

/// A struct or enum of a shape.
#[derive(Debug)]
struct Definition<'a> {
    /// `struct` or `enum`.
    kind: &'a str,
    name: &'a str,
    /// Whether its fields have no names.
    is_tuple: bool,
    members: Vec<Member<'a>>,
    /// Whether the text ends before the definition does.
    is_cut: bool,
}

/// A field, with its type, or a variant, with what it holds.
#[derive(Debug, PartialEq, Eq)]
struct Member<'a> {
    /// Its number, if it has no name.
    name: Cow<'a, str>,
    content: &'a str,
}

/// A peer's text without what could disturb a terminal, and with a mark where it is no text.
pub(super) fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let is_plain = |char: char| char.is_alphanumeric() || char.is_ascii_graphic() || char == ' ';
    let clean = |char| if is_plain(char) || char == '\n' { char } else { '\u{fffd}' };
    text.chars().map(clean).collect()
}

/// Says what differs: at most three differences, and how many more there are.
pub(super) fn describe(here: &str, there: &str, is_whole: bool) -> String {
    let differences = differences(here, there, is_whole);
    if differences.is_empty() {
        return "what differs comes after the part of the peer's description that fits a port"
            .to_owned();
    }
    let mut text = differences[..differences.len().min(MOST)].join(", ");
    if differences.len() > MOST {
        write!(text, ", and {} more", differences.len() - MOST).expect("a string takes all");
    }
    text
}

fn differences(here: &str, there: &str, is_whole: bool) -> Vec<String> {
    let (our_root, ours) = parse(here, true);
    let (their_root, theirs) = parse(there, is_whole);
    let mut found = Vec::new();
    let has_whole_root = is_whole || there.contains('\n');
    if has_whole_root && our_root != their_root {
        found.push(format!("the type is {} here and {} there", quote(our_root), quote(their_root)));
    }
    for ours in &ours {
        if let Some(theirs) = theirs.iter().find(|theirs| theirs.name == ours.name) {
            compare(ours, theirs, &mut found);
        }
    }
    found
}

/// Compares two definitions with one name.
fn compare(ours: &Definition<'_>, theirs: &Definition<'_>, found: &mut Vec<String>) {
    let name = quote(ours.name);
    if ours.kind != theirs.kind {
        let article = |kind| if kind == "enum" { "an enum" } else { "a struct" };
        let [here, there] = [ours.kind, theirs.kind].map(article);
        found.push(format!("{name} is {here} here and {there} there"));
        return;
    }
    let both_have_fields = !ours.members.is_empty() && !theirs.members.is_empty();
    if ours.is_tuple != theirs.is_tuple && both_have_fields {
        let [here, there] = match ours.is_tuple {
            true => ["no names", "names"],
            false => ["names", "no names"],
        };
        found.push(format!("the fields of {name} have {here} here and {there} there"));
        return;
    }
    let kind = if ours.kind == "enum" { "variant" } else { "field" };
    let before = found.len();
    for (place, member) in ours.members.iter().enumerate() {
        match theirs.member(&member.name) {
            Some(other) if other == member => {}
            Some(other) => found.push(format!(
                "{kind} {} of {name} is {} here and {} there",
                quote(&member.name),
                content(member),
                content(other)
            )),
            None if theirs.is_cut => {}
            None => found.push(match renamed(ours, theirs, place) {
                true => format!(
                    "{kind} {} of {name} is called {} there",
                    quote(&member.name),
                    quote(&theirs.members[place].name)
                ),
                false => format!("{kind} {} of {name} is only here", whole(member)),
            }),
        }
    }
    for (place, member) in theirs.members.iter().enumerate() {
        if ours.member(&member.name).is_none() && !renamed(ours, theirs, place) {
            found.push(format!("{kind} {} of {name} is only there", whole(member)));
        }
    }
    if found.len() == before {
        let pairs = ours.members.iter().zip(&theirs.members).enumerate();
        for (place, (here, there)) in pairs.filter(|(_, (here, there))| here != there).take(1) {
            let [here, there] = [here, there].map(|member| quote(&member.name));
            found.push(format!("{kind} {} of {name} is {here} here and {there} there", place + 1));
        }
    }
}

/// Whether the members at one place are the same with another name.
fn renamed(ours: &Definition<'_>, theirs: &Definition<'_>, place: usize) -> bool {
    let (Some(here), Some(there)) = (ours.members.get(place), theirs.members.get(place)) else {
        return false;
    };
    ours.members.len() == theirs.members.len()
        && here.content == there.content
        && theirs.member(&here.name).is_none()
        && ours.member(&there.name).is_none()
}

impl<'a> Definition<'a> {
    fn member(&self, name: &str) -> Option<&Member<'a>> {
        self.members.iter().find(|member| member.name == name)
    }
}

/// The first line, and what the others define.
fn parse(text: &str, is_whole: bool) -> (&str, Vec<Definition<'_>>) {
    let mut lines = text.lines().peekable();
    let root = lines.next().unwrap_or_default();
    let mut definitions = Vec::new();
    while let Some(line) = lines.next() {
        let is_cut = !is_whole && lines.peek().is_none();
        definitions.extend(definition(line, is_cut));
    }
    (root, definitions)
}

fn definition(line: &str, is_cut: bool) -> Option<Definition<'_>> {
    let (kind, rest) = line.split_once(' ')?;
    let end = rest.find([' ', '(']).unwrap_or(rest.len());
    let (name, body) = rest.split_at(end);
    let body = body.trim_start();
    let is_tuple = body.starts_with('(');
    let inside = body.strip_prefix(['{', '(']).unwrap_or(body);
    let inside = match is_cut {
        true => inside,
        false => inside.strip_suffix(['}', ')']).unwrap_or(inside),
    };
    let mut members: Vec<Member<'_>> = split(inside)
        .into_iter()
        .enumerate()
        .map(|(place, text)| member(text, kind == "enum", is_tuple, place))
        .collect();
    if is_cut {
        members.pop();
    }
    Some(Definition { kind, name, is_tuple, members, is_cut })
}

fn member(text: &str, is_variant: bool, is_tuple: bool, place: usize) -> Member<'_> {
    if is_variant {
        let end = text.find([' ', '(']).unwrap_or(text.len());
        let (name, content) = text.split_at(end);
        return Member { name: name.into(), content: content.trim() };
    }
    match text.split_once(": ") {
        Some((name, content)) if !is_tuple => Member { name: name.into(), content },
        _ => Member { name: place.to_string().into(), content: text },
    }
}

/// Splits at the commas that stand in no brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start, mut is_quoted) = (Vec::new(), 0i32, 0, false);
    for (at, char) in text.char_indices() {
        match char {
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' | '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn quote(text: &str) -> String {
    format!("`{}`", shorten(text))
}

/// What a field or variant holds.
fn content(member: &Member<'_>) -> String {
    match member.content {
        "" => "empty".to_owned(),
        content => quote(content),
    }
}

/// A field with its type, or a variant with what it holds.
fn whole(member: &Member<'_>) -> String {
    match member.content {
        "" => quote(&member.name),
        content if content.starts_with(['(', '{', '=']) => {
            let space = if content.starts_with('(') { "" } else { " " };
            quote(&format!("{}{space}{content}", member.name))
        }
        content => quote(&format!("{}: {content}", member.name)),
    }
}

/// Most differences that an error names.
const MOST: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(here: &str, there: &str) -> String {
        describe(here, there, true)
    }

    #[test]
    fn fields_are_named() {
        let here = "A\nstruct A { a: u8, b: Vec<(u8, B)> }\nenum B { C, D(u8), E { f: u8 } }";
        let cases = [
            ("b: Vec<(u8, B)>", "b: u8", "field `b` of `A` is `Vec<(u8, B)>` here and `u8` there"),
            ("a: u8, ", "", "field `a: u8` of `A` is only here"),
            ("a: u8", "a: u8, z: [u8; 2]", "field `z: [u8; 2]` of `A` is only there"),
            ("a: u8", "z: u8", "field `a` of `A` is called `z` there"),
            ("C, D(u8)", "D(u8), C", "variant 1 of `B` is `C` here and `D` there"),
            ("D(u8)", "D", "variant `D` of `B` is `(u8)` here and empty there"),
            ("C, ", "", "variant `C` of `B` is only here"),
            ("D(u8)", "D(u8), G { h: u8, i: u8 }", "`G { h: u8, i: u8 }` of `B` is only there"),
            ("enum B", "struct B", "`B` is an enum here and a struct there"),
            ("{ a: u8, b: Vec<(u8, B)> }", "(u8)", "fields of `A` have names here and no names"),
            ("A\n", "u8\n", "the type is `A` here and `u8` there"),
            ("C,", "C = 7,", "variant `C` of `B` is empty here and `= 7` there"),
        ];
        for (old, new, expected) in cases {
            let there = here.replacen(old, new, 1);
            let found = difference(here, &there);
            assert!(found.contains(expected), "{found}");
            assert_eq!(differences(here, &there, true).len(), 1, "{found}");
        }
    }

    #[test]
    fn fields_without_names_have_numbers() {
        let found = difference("P\nstruct P(u8, u16)", "P\nstruct P(u8, u32)");
        assert_eq!(found, "field `1` of `P` is `u16` here and `u32` there");
        let found = difference("P\nstruct P(u8)", "P\nstruct P(u8, \"a, b\")");
        assert_eq!(found, "field `1: \"a, b\"` of `P` is only there");
    }

    #[test]
    fn many_differences_are_counted() {
        let found = difference("A\nstruct A { a: u8 }", "A\nstruct A { b: u8, c: u8, d: u8 }");
        assert!(found.ends_with("is only there, and 1 more"), "{found}");
    }

    /// What the peer's description does not say is not said to be missing there.
    #[test]
    fn a_description_that_is_cut_is_compared_as_far_as_it_goes() {
        let here = "A\nstruct A { a: u8, b: u16 }\nstruct B { c: u8 }";
        let found = describe(here, "A\nstruct A { a: u8, b: u", false);
        assert!(found.starts_with("what differs comes after"), "{found}");
        let found = describe(here, "A\nstruct A { a: u32, b: u", false);
        assert_eq!(found, "field `a` of `A` is `u8` here and `u32` there");
        let found = describe("(u8, u16)", "(u8, u1", false);
        assert!(found.starts_with("what differs comes after"), "{found}");
    }

    #[test]
    fn any_text_is_compared() {
        let here = "A\nstruct A { a: u8, b: Vec<u8> }";
        let parts = [
            "A",
            "\n",
            "struct ",
            "enum ",
            "{",
            "}",
            "(",
            ")",
            "<",
            ">",
            "\"",
            ",",
            ": ",
            " ",
            "a",
            "é",
            "\u{1b}[31m",
            "\0",
            "#2",
            "=",
        ];
        let mut seed = 7usize;
        for _ in 0..20_000 {
            let mut text = Vec::new();
            for _ in 0..seed % 19 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
                text.extend_from_slice(parts[(seed >> 33) % parts.len()].as_bytes());
            }
            seed = seed.wrapping_add(0x9e37_79b9);
            let text = printable(&text);
            assert!(!text.contains(|char: char| char.is_control() && char != '\n'), "{text:?}");
            for is_whole in [true, false] {
                let found = describe(here, &text, is_whole);
                assert!(!found.is_empty() && found.len() < 2000, "{found}");
            }
        }
        assert_eq!(printable(b"a\xff\x1b\n"), "a\u{fffd}\u{fffd}\n");
    }
}
