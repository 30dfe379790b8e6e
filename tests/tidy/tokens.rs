//! What Rust source says, without comments and the insides of literals.

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind<'a> {
    Word(&'a str),
    Symbol(char),
}

#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    pub kind: Kind<'a>,
    pub line: usize,
}

/// Splits Rust source into words and symbols. Comments vanish; so do strings and characters, whose
/// text is data. A lifetime leaves its name, which is harmless: no keyword names a lifetime.
pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (len, kind) = next_token(rest, first);
        if let Some(kind) = kind {
            found.push(Token { kind, line });
        }
        line += rest[..len].matches('\n').count();
        rest = &rest[len..];
    }
    found
}

/// Bytes of the token at the start of `rest`, and what it is, if it is code.
fn next_token(rest: &str, first: char) -> (usize, Option<Kind<'_>>) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), None);
    }
    if rest.starts_with("/*") {
        return (block_comment_len(rest), None);
    }
    if let Some(len) = literal_len(rest) {
        return (len, None);
    }
    if first.is_whitespace() {
        return (first.len_utf8(), None);
    }
    if !is_word_char(first) {
        return (first.len_utf8(), Some(Kind::Symbol(first)));
    }
    let len = rest.find(|next| !is_word_char(next)).unwrap_or(rest.len());
    (len, Some(Kind::Word(&rest[..len])))
}

pub fn is_word_char(candidate: char) -> bool {
    candidate.is_alphanumeric() || candidate == '_'
}

/// Block comments nest in Rust.
fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Bytes of the string or character literal at the start of `rest`, if there is one.
fn literal_len(rest: &str) -> Option<usize> {
    for prefix in ["r", "br", "cr"] {
        if let Some(after) = rest.strip_prefix(prefix) {
            let hashes = after.len() - after.trim_start_matches('#').len();
            if after[hashes..].starts_with('"') {
                let open = prefix.len() + hashes + 1;
                let close = format!("\"{}", &after[..hashes]);
                let end = rest[open..].find(&close).map(|at| open + at + close.len());
                return Some(end.unwrap_or(rest.len()));
            }
        }
    }
    let after = rest.strip_prefix(['b', 'c']).unwrap_or(rest);
    let quote = if after.starts_with('"') {
        '"'
    } else if is_char_literal(after) {
        '\''
    } else {
        return None;
    };
    Some(rest.len() - after.len() + quoted_len(after, quote))
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_char_literal(rest: &str) -> bool {
    let mut characters = rest.chars();
    characters.next() == Some('\'')
        && match characters.next() {
            Some('\\') => true,
            Some(_) => characters.next() == Some('\''),
            None => false,
        }
}

/// Bytes up to and with the closing quote; a backslash hides the character after it.
fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == quote {
            return at + quote.len_utf8();
        }
    }
    rest.len()
}

#[test]
fn tokens_leave_out_comments_and_literals() {
    let source = r###"
        // unsafe
        /* unsafe /* unsafe */ unsafe */
        let a = "unsafe \" unsafe"; let b = r#"unsafe " unsafe"#; let c = b"unsafe";
        let d = '"'; let e = '\''; fn f<'a>(g: &'a str) -> char { 'x' }
        let h = br##"unsafe "# "##; let i = b'\''; let j = c"unsafe"; let k = '\u{7d}';
        END
    "###;
    let code = tokens(source);
    assert!(code.iter().all(|token| token.kind != Kind::Word("unsafe")), "{code:?}");
    let last = code.last().expect("there is code");
    assert_eq!((last.kind, last.line), (Kind::Word("END"), 7));
    let braces = code.iter().filter(|token| matches!(token.kind, Kind::Symbol('{' | '}')));
    assert_eq!(braces.count(), 2);
}
