//! Clients that a listener has refused, so that the server can report them.

use crate::link::endpoint::PeerCredentials;
use std::fmt;

/// Clients that a [`Listener`](crate::Listener) has refused since it was made.
///
/// A refused client gets an error that says why. The server gets none, so that no client can end a
/// loop of [`accept`](crate::Listener::accept). It can ask here at any time. The `Display` is a
/// line for a log.
///
/// ```
/// use messageport::{Connect, Listener, MessageChannel};
///
/// # let name = format!("doc-refused-{}", std::process::id());
/// let listener = Listener::bind_with(&name, MessageChannel::builder().schema(7))?;
/// let client = std::thread::spawn(move || Connect::new().schema(8).to(&name).is_err());
/// while listener.refused().count == 0 {
///     assert!(listener.try_accept()?.is_none());
/// }
/// let refused = listener.refused().last.expect("one was refused");
/// assert_eq!((refused.what, refused.found, refused.expected), ("schema", 8, 7));
/// assert_eq!(refused.credentials.pid, std::process::id());
/// let line = listener.refused().to_string();
/// assert!(line.starts_with("1 client was refused: the client of process "), "{line}");
/// println!("{refused}");
/// assert!(client.join().unwrap());
/// # Ok::<(), messageport::ListenError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusedClients {
    /// How many clients were refused.
    pub count: u64,
    /// The last of them.
    pub last: Option<RefusedClient>,
}

/// One client that was refused, and why. Its `Display` is a line for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusedClient {
    /// The client's credentials, from the kernel.
    pub credentials: PeerCredentials,
    /// What differs from the listener: `schema`, `layout version`, `payload format` or `user`. Or
    /// `untaken ports`: clients of its user have left as many as they may.
    pub what: &'static str,
    /// The client's value, or the number of these ports.
    pub found: u64,
    /// The listener's value, or how many there may be.
    pub expected: u64,
}

impl RefusedClients {
    /// These and one more.
    pub(super) fn and(self, last: RefusedClient) -> RefusedClients {
        RefusedClients { count: self.count.saturating_add(1), last: Some(last) }
    }
}

impl fmt::Display for RefusedClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.count, self.last) {
            (0, _) | (_, None) => f.write_str("no client was refused"),
            (1, Some(last)) => write!(f, "1 client was refused: {last}"),
            (count, Some(last)) => write!(f, "{count} clients were refused; the last: {last}"),
        }
    }
}

impl fmt::Display for RefusedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RefusedClient { credentials, what, found, expected } = self;
        let PeerCredentials { pid, uid, .. } = credentials;
        if *what == UNTAKEN {
            return write!(
                f,
                "the client of process {pid} has to wait: clients of user {uid} have connected and \
                 not taken {found} ports, of {expected} that they may leave; end these clients"
            );
        }
        // Users are known by decimal numbers, and the others by what a debugger shows.
        let show = |value: u64| match *what {
            "user" => value.to_string(),
            _ => format!("{value:#x}"),
        };
        write!(
            f,
            "the client of process {pid}, user {uid}, has another {what}, {}, where the listener \
             has {}: start both from one version, with one schema and user",
            show(*found),
            show(*expected)
        )
    }
}

/// What a client is refused for whose user has left too many ports.
pub(super) const UNTAKEN: &str = "untaken ports";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_were_refused_is_said_with_the_last_of_them() {
        let credentials = PeerCredentials { pid: 7, uid: 1000, gid: 8 };
        let client = |found| RefusedClient { credentials, what: "schema", found, expected: 1 };
        let none = RefusedClients::default();
        assert_eq!(none.to_string(), "no client was refused");
        let one = none.and(client(2));
        assert_eq!(one.to_string(), format!("1 client was refused: {}", client(2)));
        let three = one.and(client(3)).and(client(4));
        let text = format!("3 clients were refused; the last: {}", client(4));
        assert_eq!(three.to_string(), text);
    }

    #[test]
    fn clients_that_take_no_ports_are_named_by_their_user() {
        let credentials = PeerCredentials { pid: 7, uid: 1000, gid: 8 };
        let what = UNTAKEN;
        let text = RefusedClient { credentials, what, found: 16, expected: 16 }.to_string();
        assert!(text.starts_with("the client of process 7 has to wait:"), "{text}");
        assert!(text.contains("user 1000") && text.contains("taken 16 ports, of 16"), "{text}");
    }

    #[test]
    fn users_are_decimal_and_the_others_are_not() {
        let credentials = PeerCredentials { pid: 7, uid: 1000, gid: 8 };
        let of = |what| RefusedClient { credentials, what, found: 1000, expected: 0 }.to_string();
        let user = of("user");
        assert!(user.contains("another user, 1000, where the listener has 0:"), "{user}");
        let schema = of("schema");
        assert!(schema.contains("another schema, 0x3e8, where the listener has 0x0:"), "{schema}");
    }
}
