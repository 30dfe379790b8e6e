//! Two ends of a channel that have declared different types.

use std::fmt;
use thiserror::Error;

/// The two ends of a channel have given one direction different types: the two programs were built
/// with different definitions.
///
/// Nothing was read or posted. The messages stay in the queue, and
/// [`into_inner`](crate::TypedPort::into_inner) gives the port back without its types.
///
/// The peer's description is input: a hostile peer can write any text, which is cut to 624 bytes
/// and cleared of control characters.
#[derive(Clone, PartialEq, Eq, Error)]
pub struct TypeMismatch {
    /// In a box: it would make every other error longer.
    inner: Box<Inner>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    posts: bool,
    here: String,
    there: String,
    difference: String,
}

impl TypeMismatch {
    /// `posts`: whether this end posts the type, and does not receive it.
    pub(crate) fn new(
        posts: bool,
        here: String,
        there: String,
        difference: String,
    ) -> TypeMismatch {
        TypeMismatch { inner: Box::new(Inner { posts, here, there, difference }) }
    }

    /// The same in the words of the other end, which reads it in a refusal.
    pub(crate) fn for_peer(&self) -> TypeMismatch {
        let Inner { posts, here, there, difference } = &*self.inner;
        let difference = swap_sides(difference);
        TypeMismatch::new(!posts, there.clone(), here.clone(), difference)
    }

    /// Whether it is about what this end posts, and not about what it receives.
    pub fn is_outgoing(&self) -> bool {
        self.inner.posts
    }

    /// The shape of this end's type. See [`Shape`](crate::Shape) for its form.
    pub fn here(&self) -> &str {
        &self.inner.here
    }

    /// The first 624 bytes of the shape of the peer's type, as the peer wrote it.
    pub fn there(&self) -> &str {
        &self.inner.there
    }

    /// What differs, field by field: at most three differences, and how many more there are.
    pub fn difference(&self) -> &str {
        &self.inner.difference
    }
}

impl fmt::Display for TypeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ours, theirs) = match self.inner.posts {
            true => ("posts", "receives"),
            false => ("receives", "posts"),
        };
        let [here, there] = [&self.inner.here, &self.inner.there].map(|text| root(text));
        match here == there {
            true => write!(f, "this port {ours} `{here}`, but the peer {theirs} another `{here}`"),
            false => write!(f, "this port {ours} `{here}`, but the peer {theirs} `{there}`"),
        }?;
        write!(
            f,
            ": {}; build both programs with the same definitions, or let the types grow as the \
             guide says",
            self.inner.difference
        )
    }
}

impl fmt::Debug for TypeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypeMismatch").field(&self.inner).finish()
    }
}

/// Writes "here" for "there" and the reverse, except in what is quoted.
fn swap_sides(difference: &str) -> String {
    let swap = |(place, part): (usize, &str)| match place % 2 {
        0 => part.replace(" there", "\0").replace(" here", " there").replace('\0', " here"),
        _ => part.to_owned(),
    };
    difference.split('`').enumerate().map(swap).collect::<Vec<_>>().join("`")
}

/// The name of the type that a shape describes, or the beginning of a long one.
fn root(shape: &str) -> String {
    shorten(shape.lines().next().unwrap_or_default())
}

/// The beginning of a text, if it is long.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Most characters of a name or type in an error's text.
const MOST_CHARS: usize = 48;
