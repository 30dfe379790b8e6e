//! What is wrong with a value, and where in it.

use super::types::shorten;
use serde::de::{Expected, Unexpected};
use std::fmt;

/// What is wrong with a value that is posted or received, and where in the value.
///
/// Its text is the path and the problem, for example
/// `user.tags[3]: expected a string, found 7`. What the peer wrote is in it with at most 48
/// characters of each text, and with escapes instead of control characters.
///
/// ```
/// use messageport::MessageChannel;
/// use std::collections::BTreeMap;
///
/// let channel = MessageChannel::new()?;
/// channel.port1.post_value(&BTreeMap::from([("tags", (1, "two"))]))?;
/// let event = channel.port2.recv()?;
/// let error = event.value::<BTreeMap<String, Vec<u8>>>().unwrap_err();
/// assert!(error.to_string().contains("tags[1]: expected u8, found \"two\""));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ValueError {
    /// In a box: it would make every other error longer.
    inner: Box<Inner>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    /// The innermost first.
    path: Vec<Step>,
    problem: String,
}

/// One step from a value into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// An element of an array, by its index.
    Index(u64),
    /// What a text leads to: a field, an entry of a map, a variant.
    Key(String),
    /// What another key of a map leads to.
    Other(String),
}

impl ValueError {
    pub(crate) fn new(problem: impl fmt::Display) -> ValueError {
        ValueError { inner: Box::new(Inner { path: Vec::new(), problem: problem.to_string() }) }
    }

    /// The same error, seen from the value that contains this one.
    pub(crate) fn within(mut self, step: Step) -> ValueError {
        self.inner.path.push(step);
        self
    }

    /// The path to what is wrong, for example `user.tags[3]`; empty for the whole value.
    ///
    /// Of a path of more than 12 steps, the middle is left out.
    pub fn path(&self) -> String {
        let (steps, mut path) = (&self.inner.path, String::new());
        let skipped = if steps.len() <= MOST_STEPS { 0..0 } else { FIRST..steps.len() - LAST };
        for (at, step) in steps.iter().rev().enumerate() {
            match step {
                _ if skipped.start == at && !skipped.is_empty() => path.push('…'),
                _ if skipped.contains(&at) => {}
                Step::Index(index) => path += &format!("[{index}]"),
                Step::Other(key) => path += &format!("[{}]", key.escape_debug()),
                Step::Key(key) if !is_name(key) => path += &format!("[{:?}]", shorten(key)),
                Step::Key(key) if at == 0 => path += key,
                Step::Key(key) => path += &format!(".{key}"),
            }
        }
        path
    }

    /// What is wrong there, for example `expected a string, found 7`.
    pub fn problem(&self) -> &str {
        &self.inner.problem
    }
}

/// Whether a key can stand in a path as it is.
fn is_name(key: &str) -> bool {
    let is_start = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '$';
    key.starts_with(is_start)
        && key.len() <= 48
        && key.chars().all(|c| is_start(c) || c.is_ascii_digit())
}

/// The problem of a value's own `Serialize` or `Deserialize`, which may quote what the peer wrote.
fn cut(problem: String) -> String {
    let is_plain = !problem.chars().any(char::is_control);
    let problem = if is_plain { problem } else { problem.escape_debug().to_string() };
    match problem.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{}…", &problem[..end]),
        None => problem,
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inner.path.is_empty() {
            true => f.write_str(&self.inner.problem),
            false => write!(f, "{}: {}", self.path(), self.inner.problem),
        }
    }
}

impl fmt::Debug for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueError")
            .field("path", &self.path())
            .field("problem", &self.inner.problem)
            .finish()
    }
}

impl std::error::Error for ValueError {}

impl serde::ser::Error for ValueError {
    fn custom<T: fmt::Display>(problem: T) -> ValueError {
        ValueError::new(cut(problem.to_string()))
    }
}

impl serde::de::Error for ValueError {
    fn custom<T: fmt::Display>(problem: T) -> ValueError {
        ValueError::new(cut(problem.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> ValueError {
        let expected = cut(expected.to_string());
        ValueError::new(format_args!("expected {expected}, found {}", describe(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> ValueError {
        <ValueError as serde::de::Error>::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> ValueError {
        unknown("variant", variant, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> ValueError {
        unknown("field", field, expected)
    }
}

fn unknown(what: &str, name: &str, expected: &[&str]) -> ValueError {
    let name = shorten(name);
    match expected.is_empty() {
        true => ValueError::new(format_args!("no {what} is expected, found {name:?}")),
        false => {
            let expected = cut(expected.join(", "));
            ValueError::new(format_args!("expected a {what} of {expected}; found {name:?}"))
        }
    }
}

/// A value in an error's text.
fn describe(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => format!("{value:?}"),
        Unexpected::Char(value) => format!("{value:?}"),
        Unexpected::Str(value) => format!("{:?}", shorten(value)),
        Unexpected::Bytes(value) => format!("{} bytes", value.len()),
        Unexpected::Unit | Unexpected::Option => "null".to_owned(),
        Unexpected::Seq => "an array".to_owned(),
        Unexpected::Map => "a map".to_owned(),
        other => cut(other.to_string()),
    }
}

/// Most steps of a path that are shown, and which of them if there are more.
const MOST_STEPS: usize = 12;
const FIRST: usize = 4;
const LAST: usize = 7;
/// Most characters of a problem.
const MOST_CHARS: usize = 200;
