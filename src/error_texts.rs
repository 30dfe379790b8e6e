//! One table of every error text: what happened, what was expected or why, what to do.
//!
//! A variant without a row does not compile here: add one line to its type's table, with three
//! pieces of its text in their order.

mod remedies;

use crate::*;
use rkyv::rancor;
use std::error::Error;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The values of one error type with three pieces of each one's text.
macro_rules! texts {
    ($type:ty { $($(#[$if:meta])* $pattern:pat => $value:expr, $parts:expr;)+ }) => {{
        fn has_a_row(error: &$type) {
            match error {
                $($(#[$if])* $pattern => (),)+
            }
        }
        $(
            $(#[$if])*
            {
                let error: $type = $value;
                has_a_row(&error);
                assert!(matches!(error, $pattern), "{error:?} stands in another's row");
                check(error, $parts);
            }
        )+
    }};
}

/// Checks a text, those of its sources, and that an `io::Error` says the same.
fn check<E: Error + 'static>(error: E, parts: [&str; 3])
where
    io::Error: From<E>,
{
    let text = error.to_string();
    let mut rest = text.as_str();
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("no {part:?} in its place in: {text}"));
        rest = &rest[at + part.len()..];
    }
    assert!(!text.starts_with(char::is_uppercase), "it begins like a sentence: {text}");
    assert!(!text.ends_with(['.', ' ', ':', ';']), "it ends like a sentence: {text}");
    assert!(text.len() <= 300, "{} bytes: {text}", text.len());
    assert!(!text.contains("  ") && !text.contains('\n'), "{text:?}");

    let mut chain = vec![text.clone()];
    let mut next = error.source();
    while let Some(source) = next {
        chain.push(source.to_string());
        next = source.source();
    }
    for (at, inner) in chain.iter().enumerate().skip(1) {
        let twice = chain[..at].iter().any(|outer| outer.contains(inner.as_str()));
        assert!(!twice, "a chain that says something twice: {chain:#?}");
    }

    let same = io::Error::from(error);
    assert_eq!(same.to_string(), text);
    assert_ne!(same.kind(), io::ErrorKind::Other, "a kind that says nothing: {text}");
}

fn mmap() -> SystemError {
    SystemError { call: "mmap", source: refusal() }
}

fn mismatch(posts: bool) -> TypeMismatch {
    let difference = "the type is `A` here and `B` there";
    TypeMismatch::new(posts, "A\nstruct A".into(), "B\nenum B {}".into(), difference.into())
}

fn bind() -> SystemError {
    SystemError { call: "bind", source: denial() }
}

fn lost(is_unread: bool, status: Option<ExitStatus>) -> LostWorker {
    LostWorker::new((7, String::new()), is_unread, status, CallError::Timeout)
}

fn refusal() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOMEM)
}

fn denial() -> io::Error {
    io::Error::from_raw_os_error(libc::EACCES)
}

fn flaw<E: rancor::Source>() -> E {
    E::new(std::fmt::Error)
}

fn not_utf8() -> std::str::Utf8Error {
    String::from_utf8(vec![0xff]).expect_err("no text").utf8_error()
}

fn path() -> std::path::PathBuf {
    PATH.into()
}

const PATH: &str = "/run/user/7/messageport/prices";
const MISMATCH: [&str; 3] = [
    "this port receives `A`, but the peer posts `B`",
    "`A` here and `B` there",
    "build both programs with the same definitions",
];
const MMAP: [&str; 3] = ["refused mmap", "(ENOMEM)", ": memory is short; free some"];
const BIND: [&str; 3] = [PATH, "refused bind (EACCES)", ": see that the permissions"];
const CORRUPT: Corruption = Corruption::new("message length", 0x900, 0x400);
const CORRUPT_PARTS: [&str; 3] =
    ["message length is 0x900", "at most 0x400", "so drop the port and look"];

fn flaw_of_name() -> (fn() -> String, [&'static str; 3]) {
    let parts =
        ["\"a/b\" is not a valid name", "it has a '/'", "give another one, of 1 to 64 bytes"];
    (|| "a/b".to_owned(), parts)
}

fn flaw_of_directory() -> (&'static str, [&'static str; 3]) {
    let what = "others can write to it";
    (what, [PATH, what, "mend it, or set XDG_RUNTIME_DIR"])
}

#[test]
fn corruptions_say_what_was_found_what_was_expected_and_what_to_do() {
    check(CORRUPT, CORRUPT_PARTS);
    let remedy = "so drop the port and look";
    let small = Corruption::too_small("capacity", 16, 4096);
    check(small, ["capacity is 0x10", "at least 0x1000", remedy]);
    let length = Corruption::unequal("length of the region", 1, 2);
    check(length, ["region is 0x1", "exactly 0x2", remedy]);
    let tail = Corruption::step("position of the tail", 17, 64, 16);
    check(tail, ["tail is 0x11", "a multiple of 0x10", remedy]);
    let far = Corruption::step("position of the tail", 80, 64, 16);
    check(far, ["tail is 0x50", "at most 0x40", remedy]);
    let header = Corruption::unknown("header of a record", 9);
    check(header, ["record is 0x9", "that the protocol does not have", remedy]);
}

#[test]
fn errors_of_channels_and_posts() {
    check(mmap(), MMAP);
    texts!(ChannelError {
        ChannelError::TooLarge { .. } =>
            ChannelError::TooLarge { name: "limit", found: 1 << 40, max: 1 << 32 },
            ["limit of 1099511627776 bytes", "at most 4294967296", "give the builder a smaller"];
        ChannelError::ResourceLimit { .. } =>
            ChannelError::ResourceLimit { resource: "RLIMIT_AS", allowed: 1, needed: 2 },
            ["a region of 2 bytes", "RLIMIT_AS (1 bytes)", "or raise the resource limit"];
        ChannelError::KernelTooOld { .. } =>
            ChannelError::KernelTooOld { missing: "MADV_POPULATE_WRITE" },
            ["lacks MADV_POPULATE_WRITE", "Linux 5.14 or later", "update"];
        ChannelError::Io { .. } => ChannelError::Io(mmap()), MMAP;
    });
    texts!(PostError {
        PostError::Closed { .. } => PostError::Closed { reason: CloseReason::PeerDied },
            ["closed, because the peer's process has ended", "an open port", "make a new channel"];
        PostError::QueueFull { .. } =>
            PostError::QueueFull {
                len: u64::MAX, unread: u64::MAX, limit: 1 << 32, is_socket: false,
            },
            ["of 18446744073709551615 bytes", "of at most 4294967296 bytes", "wait until"];
        PostError::TooLarge { .. } => PostError::TooLarge { len: 9, max: 8 },
            ["of 9 bytes can never fit", "at most 8", "a higher limit, or send the bytes"];
        PostError::Answered => PostError::Answered,
            ["answered before", "takes one reply", "post more through another port"];
        PostError::Busy => PostError::Busy,
            ["busy with a loan", "one thing at a time", "post again when that has ended"];
        PostError::Serialize(_) => PostError::Serialize(flaw()),
            ["could not be serialised", "expected a value whose own", "correct what the source"];
        PostError::TooManyTransferables { .. } =>
            PostError::TooManyTransferables {
                transferables: 65, descriptors: 195, max_transferables: 64, max_descriptors: 253,
            },
            ["65 transferables with 195 descriptors", "64 and 253", "post several"];
        PostError::TransferLoop { .. } => PostError::TransferLoop { index: 3 },
            ["transferable 3 is the other end", "no process could receive", "through another port"];
        PostError::Detached { .. } => PostError::Detached { index: 3 },
            ["transferable 3 is a closed port", "only an open one moves", "leave it out"];
        PostError::HasPool { .. } => PostError::HasPool { index: 3 },
            ["transferable 3 is a port with a buffer pool", "stays mapped", "move a port without"];
        PostError::ForeignPool => PostError::ForeignPool,
            ["the buffer", "belongs to another port's pool", "call `trust_peer`"];
        PostError::PoolRefused => PostError::PoolRefused,
            ["the peer has not accepted", "have both ends call `trust_peer`", "another pool"];
        PostError::PoolInUse { .. } => PostError::PoolInUse { count: 4 },
            ["all 4 buffers", "are in use", "wait until one comes back by `take_timeout`"];
        PostError::TooManyInFlight => PostError::TooManyInFlight,
            ["too many descriptors", "more than RLIMIT_NOFILE allows", "wait until some"];
        PostError::Refused => PostError::Refused,
            ["this channel refuses", "its maker or the peer has chosen", "without a list"];
        PostError::TypeMismatch(_) => PostError::TypeMismatch(mismatch(true)),
            ["posts `A`, but the peer receives `B`", "`A` here and `B` there", "build both"];
        PostError::Timeout => PostError::Timeout,
            ["no room", "within the time given", "wait for longer"];
        PostError::Cancelled => PostError::Cancelled,
            ["was ended by a `Canceller`", "nothing was posted", "post again"];
        PostError::Io { .. } => PostError::Io(mmap()), MMAP;
    });
    let full = PostError::QueueFull { len: 1, unread: 2, limit: 3, is_socket: true };
    check(full, ["a message of 1 bytes", "queue of transferables is full", "wait until some"]);
}

#[test]
fn every_reason_of_an_end_reads_on_in_the_error_that_has_it() {
    let reasons = [
        (CloseReason::Local, "because this end closed it"),
        (CloseReason::PeerClosed, "because the peer closed it"),
        (CloseReason::PeerDropped, "because the peer dropped it"),
        (CloseReason::PeerDied, "because the peer's process has ended"),
        (CloseReason::Corrupt(CORRUPT), "message length is 0x900, where at most 0x400"),
    ];
    for (reason, text) in reasons {
        match reason {
            CloseReason::Local
            | CloseReason::PeerClosed
            | CloseReason::PeerDropped
            | CloseReason::PeerDied
            | CloseReason::Corrupt(_) => (),
        }
        check(PostError::Closed { reason }, ["the port is closed", text, "make a new channel"]);
        check(RecvError::Closed { reason }, ["the port is closed", text, "make a new channel"]);
    }
}

#[test]
fn errors_of_receiving_and_of_messages() {
    texts!(RecvError {
        RecvError::Closed { .. } => RecvError::Closed { reason: CloseReason::Local },
            ["closed, because this end", "every message before was delivered", "a new channel"];
        RecvError::Timeout => RecvError::Timeout,
            ["no message", "within the time given", "wait for longer"];
        RecvError::Cancelled => RecvError::Cancelled,
            ["the wait for a message", "was ended by a `Canceller`", "receive again"];
        RecvError::OutOfDescriptors { .. } => RecvError::OutOfDescriptors { needed: 3 },
            ["needs 3 descriptors", "no room for them now", "raise RLIMIT_NOFILE"];
        RecvError::Started => RecvError::Started,
            ["`on_message` or `start`", "receiving calls fail", "add it to an `EventLoop`"];
        RecvError::OutOfMemory { .. } => RecvError::OutOfMemory { len: 9 },
            ["no memory", "of 9 bytes, which stays in the queue", "`discard_next`"];
        RecvError::Io { .. } => RecvError::Io(mmap()), MMAP;
    });
    texts!(CallError {
        CallError::Post(_) => CallError::Post(PostError::Busy),
            ["busy with a loan", "one thing at a time", "post again when that has ended"];
        CallError::Timeout => CallError::Timeout,
            ["no reply came", "the call was cancelled", "wait for longer"];
        CallError::Cancelled => CallError::Cancelled,
            ["cancelled by a `CallCanceller`", "has no reply", "call again"];
        CallError::Closed { is_posted: true, .. } =>
            CallError::Closed { reason: CloseReason::PeerDied, is_posted: true },
            ["because the peer's process has ended", "may have been carried out", "a new channel"];
        CallError::Closed { is_posted: false, .. } =>
            CallError::Closed { reason: CloseReason::PeerDied, is_posted: false },
            ["because the peer's process has ended", "was not posted", "a new channel"];
        CallError::Refused { .. } => CallError::Refused { text: "no".to_owned() },
            ["refused the request", "saying \"no\"", "send what it expects"];
        CallError::Unanswered => CallError::Unanswered,
            ["dropped the request", "one reply to each", "call again"];
        CallError::Message(_) =>
            CallError::Message(MessageError::Invalid { expected: "u32", source: flaw() }),
            ["no valid archive", "of u32", "receive it as the type that the peer posts"];
        CallError::Io { .. } => CallError::Io(mmap()), MMAP;
    });
    texts!(MessageError {
        MessageError::Invalid { .. } => MessageError::Invalid { expected: "u32", source: flaw() },
            ["no valid archive", "of u32", "receive it as the type that the peer posts"];
        MessageError::Format { .. } => MessageError::Format { expected: "text", found: "bytes" },
            ["posted as bytes", "text was asked for", "read text with `text`"];
        MessageError::NotText(_) => MessageError::NotText(not_utf8()),
            ["the message is no text", "has to be UTF-8", "read it by `bytes`"];
        #[cfg(feature = "value")]
        MessageError::Value(_) =>
            MessageError::Value(ValueError::new("expected u8, found 256")),
            ["does not fit the type", "expected u8, found 256", "receive the type that the peer"];
        MessageError::TransfersLost { .. } => MessageError::TransfersLost { descriptors: 3 },
            ["lost its 3 descriptors", "could have no more", "have it sent again"];
        MessageError::TransfersRefused { .. } => MessageError::TransfersRefused { descriptors: 3 },
            ["brought 3 descriptors", "a port that refuses transferables", "without a list"];
        MessageError::OutOfMemory { .. } => MessageError::OutOfMemory { len: 9 },
            ["no memory", "of 9 bytes, which is lost", "have it sent again"];
        MessageError::NothingLeft { .. } => MessageError::NothingLeft { kind: "port" },
            ["the message has no port", "left in it", "take no more of them than came"];
        MessageError::UnknownPool => MessageError::UnknownPool,
            ["the message's buffer", "a pool that this end does not have", "call `trust_peer`"];
        MessageError::TypeMismatch(_) => MessageError::TypeMismatch(mismatch(false)), MISMATCH;
        MessageError::Port(_) => MessageError::Port(AttachError::Corrupt(CORRUPT)), CORRUPT_PARTS;
        MessageError::Buffer(_) =>
            MessageError::Buffer(BufferError::Io(mmap())), MMAP;
    });
}

#[test]
fn errors_of_memory_and_of_what_arrives() {
    texts!(PoolError {
        PoolError::NotTrusted => PoolError::NotTrusted,
            ["a pool of `BufferPool::new` needs trust", "`trust_peer` at both ends",
             "`BufferPool::for_untrusted`"];
        PoolError::Empty { .. } => PoolError::Empty { count: 0, len: 7 },
            ["a pool of 0 buffers of 7 bytes", "is empty", "ask for at least one"];
        PoolError::TooManyFrames { .. } => PoolError::TooManyFrames { count: 2000, max: 1024 },
            ["an untrusted peer", "at most 1024 frames, not 2000", "make it smaller"];
        PoolError::TooMany { .. } => PoolError::TooMany { max: 64 },
            ["64 pools already", "all that it takes", "make one pool with more"];
        PoolError::Post(_) => PoolError::Post(PostError::Io(mmap())),
            MMAP;
        PoolError::Memory(_) =>
            PoolError::Memory(BufferError::Io(mmap())), MMAP;
    });
    texts!(BufferError {
        BufferError::Sealed => BufferError::Sealed,
            ["the buffer is sealed", "its bytes cannot change", "`into_mut`"];
        BufferError::TooLarge { .. } => BufferError::TooLarge { len: 9, allowed: 8 },
            ["a buffer or pool of 9 bytes", "RLIMIT_FSIZE (8 bytes)", "make a smaller one"];
        BufferError::Full { .. } => BufferError::Full { capacity: 9 },
            ["the buffer of 9 bytes is full", "`Buffer::writer`", "room for all"];
        BufferError::Refused { .. } => BufferError::Refused { what: "it has holes" },
            ["no buffer: it has holes", "sealed memory is expected", "have the peer send"];
        BufferError::Unsuitable { .. } => BufferError::Unsuitable { what: "it is no memfd" },
            ["cannot become a buffer: it is no memfd", "expected is", "MFD_ALLOW_SEALING"];
        BufferError::Serialize(_) => BufferError::Serialize(flaw()),
            ["could not be serialised", "expected one whose own", "correct what the source"];
        BufferError::LengthChanged { .. } => BufferError::LengthChanged { len: 1, again: 2 },
            ["took 1 bytes at first", "2 bytes when", "write the same each time"];
        BufferError::Invalid { .. } => BufferError::Invalid { expected: "u32", source: flaw() },
            ["no valid archive", "of u32", "read it as the type that was written"];
        BufferError::Io { .. } => BufferError::Io(mmap()), MMAP;
    });
    check(
        BufferError::TooLarge { len: u64::MAX, allowed: i64::MAX as u64 },
        ["longer than any file", "at most 9223372036854775807 bytes", "make a smaller one"],
    );
    check(
        SchemaError { required: 7, found: 8 },
        ["carries schema 0x8", "0x7 is required", "set this `schema` in the builder"],
    );
    texts!(AttachError {
        AttachError::NotAPort { .. } => AttachError::NotAPort { what: "no capsule came" },
            ["what arrived is no port", "no capsule came", "have the peer send a port"];
        AttachError::Incompatible { .. } =>
            AttachError::Incompatible { what: "layout version", found: 2, expected: 3 },
            ["another layout version, 0x2", "0x3", "build both with the same version"];
        AttachError::Corrupt(_) => AttachError::Corrupt(CORRUPT), CORRUPT_PARTS;
        AttachError::Io { .. } => AttachError::Io(mmap()), MMAP;
    });
    check(
        AttachError::Incompatible { what: "schema", found: 2, expected: 3 },
        ["another schema, 0x2", "0x3", "give `Connect` and the builder"],
    );
    texts!(LoopError {
        LoopError::Io { .. } => LoopError::Io(mmap()), MMAP;
    });
    let source = || io::Error::new(io::ErrorKind::NotConnected, "outside a runtime");
    check(
        LoopError::Io(SystemError { call: "reactor", source: source() }),
        ["reactor failed", "the runtime has ended", "use a running one"],
    );
    check(
        LoopError::Io(SystemError { call: error::NO_RUNTIME, source: source() }),
        ["no tokio runtime on this thread", "needs a running one", "the feature `async-io`"],
    );
}

#[test]
fn errors_of_a_pool_of_workers() {
    texts!(TaskError {
        TaskError::QueueFull { .. } => TaskError::QueueFull { limit: 7 },
            ["7 tasks wait for a worker", "as many as this pool allows", "call again later"];
        TaskError::Timeout => TaskError::Timeout,
            ["no reply came", "within the time given", "wait for longer"];
        TaskError::Lost { .. } =>
            TaskError::Lost { attempts: 3, last: Box::new(lost(true, None)) },
            ["3 workers ended or hung", "as many as this pool gives it to", "see what they do"];
        TaskError::Call(_) => TaskError::Call(CallError::Unanswered),
            ["the responder dropped the request", "expected is one reply", "call again"];
        TaskError::Broken { .. } => TaskError::Broken { restarts: 5, last: "it died".into() },
            ["5 workers in a row", "starts no more: have their program reply", "it died"];
        TaskError::Closed => TaskError::Closed,
            ["the pool was shut down", "before the task had its reply", "build a new pool"];
    });
}

#[test]
fn a_lost_worker_is_told_by_its_end_and_by_whether_it_had_read_the_request() {
    let quit = Some(ExitStatus::from_raw(3 << 8));
    assert_eq!(lost(false, quit).to_string(), "worker 7 ended: exit status: 3");
    let unread = "worker 7 ended before it had read the request: exit status: 3";
    assert_eq!(lost(true, quit).to_string(), unread);
    let late = "worker 7 did not reply within the time for an attempt, and was killed";
    assert_eq!(lost(false, None).to_string(), late);
    let late = "within the time for an attempt, nor read the request, and was killed";
    assert!(lost(true, None).to_string().ends_with(late));
}

#[test]
fn errors_of_meeting() {
    let (what, directory) = flaw_of_directory();
    let (name, bad_name) = flaw_of_name();
    texts!(SpawnError {
        SpawnError::Channel(_) =>
            SpawnError::Channel(ChannelError::Io(mmap())), MMAP;
        SpawnError::Program { .. } => SpawnError::Program { program: path(), source: denial() },
            [PATH, "refused to start the program (EACCES)", "see that the permissions"];
        SpawnError::NotACgroup { .. } => SpawnError::NotACgroup { path: path() },
            ["/", "in no file system of type cgroup2", "give the directory"];
        SpawnError::File { .. } =>
            SpawnError::File { path: path(), call: "write", source: denial() },
            ["at /", "refused write (EACCES)", "see that the permissions"];
        SpawnError::Io { .. } => SpawnError::Io(mmap()), MMAP;
    });
    texts!(ListenError {
        ListenError::InUse { .. } => ListenError::InUse { path: path() },
            ["another listener is", PATH, "choose another name"];
        ListenError::BadName { .. } => ListenError::BadName { name: name() }, bad_name;
        ListenError::Directory { .. } => ListenError::Directory { path: path(), what }, directory;
        ListenError::Channel(_) =>
            ListenError::Channel(ChannelError::Io(mmap())), MMAP;
        ListenError::Timeout => ListenError::Timeout,
            ["no client", "wait for longer", "ask `Listener::refused`"];
        ListenError::File { .. } =>
            ListenError::Io(bind()).at(PATH.as_ref()), BIND;
        ListenError::Io { .. } => ListenError::Io(mmap()), MMAP;
    });
    texts!(ConnectError {
        ConnectError::NoListener { .. } => ConnectError::NoListener { path: path() },
            ["no process listens", PATH, "start the listener first"];
        ConnectError::BadName { .. } => ConnectError::BadName { name: name() }, bad_name;
        ConnectError::Directory { .. } => ConnectError::Directory { path: path(), what }, directory;
        ConnectError::ForeignUser { .. } =>
            ConnectError::ForeignUser { found: 7, expected: 8 },
            ["belongs to user 7", "user 8 is expected", "run both as one user"];
        ConnectError::NotAllowed { .. } => ConnectError::NotAllowed { user: 7 },
            ["does not serve user 7", "run both as one user", "`Listener::allow_users`"];
        ConnectError::Attach(_) => ConnectError::Attach(AttachError::Corrupt(CORRUPT)),
            CORRUPT_PARTS;
        ConnectError::Timeout => ConnectError::Timeout,
            ["did not answer", "within the time given", "wait for longer"];
        ConnectError::HungUp { .. } => ConnectError::HungUp { path: path() },
            [PATH, "went away", "start it again"];
        ConnectError::File { .. } =>
            ConnectError::Io(bind()).at(PATH.as_ref()), BIND;
        ConnectError::Io { .. } => ConnectError::Io(mmap()), MMAP;
    });
}

#[test]
fn errors_of_broadcasting_and_of_parents() {
    let (what, directory) = flaw_of_directory();
    let (name, bad_name) = flaw_of_name();
    texts!(BroadcastError {
        BroadcastError::Closed { .. } => BroadcastError::Closed { name: "prices".into() },
            ["\"prices\"", "was closed here", "open it again"];
        BroadcastError::Missed { .. } =>
            BroadcastError::Missed {
                missed: 2, posted: 3, first: Box::new(PostError::TooLarge { len: 9, max: 8 }),
            },
            ["2 members missed the message", "3 have it", "the source of this error says why"];
        BroadcastError::Serialize(_) => BroadcastError::Serialize(flaw()),
            ["could not be serialised", "no member has received it", "correct what the source"];
        BroadcastError::Message(_) =>
            BroadcastError::Message(MessageError::NotText(not_utf8())),
            ["the message is no text", "UTF-8", "read it by `bytes`"];
        BroadcastError::Timeout => BroadcastError::Timeout,
            ["no message", "within the time given", "wait for longer"];
        BroadcastError::BadName { .. } => BroadcastError::BadName { name: name() }, bad_name;
        BroadcastError::Directory { .. } => BroadcastError::Directory { path: path(), what },
            directory;
        BroadcastError::Busy { .. } => BroadcastError::Busy { path: path(), source: refusal() },
            [PATH, "accepts no connection", "have it post or receive"];
        BroadcastError::Attach(_) => BroadcastError::Attach(AttachError::Corrupt(CORRUPT)),
            CORRUPT_PARTS;
        BroadcastError::Channel(_) =>
            BroadcastError::Channel(ChannelError::Io(mmap())), MMAP;
        BroadcastError::File { .. } =>
            BroadcastError::Io(bind()).at(PATH.as_ref()), BIND;
        BroadcastError::Io { .. } => BroadcastError::Io(mmap()), MMAP;
    });
    texts!(ParentPortError {
        ParentPortError::NotAWorker { .. } => ParentPortError::NotAWorker { variable: "VARIABLE" },
            ["not started as a worker", "VARIABLE", "start it with `Worker::spawn`"];
        ParentPortError::AlreadyTaken => ParentPortError::AlreadyTaken,
            ["was taken before", "exists once", "keep the port of the first call"];
        ParentPortError::Attach(_) => ParentPortError::Attach(AttachError::Corrupt(CORRUPT)),
            CORRUPT_PARTS;
    });
}

#[test]
fn errors_that_give_something_back() {
    let reason = || PostError::Io(mmap());
    check(TransferError::new(reason(), Vec::new()), MMAP);
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel");
    check(IntoFdError::new(reason(), port1), MMAP);
    check(AddError::new(LoopError::Io(mmap()), ()), MMAP);
    let (sender, _receiver) = port2.split();
    let (_sender, receiver) = MessageChannel::new().expect("a channel").port1.split();
    let error = MessagePort::join(sender, receiver).expect_err("two ports");
    check(error, ["the halves", "come from different ports", "join those that one `split`"]);
    check(InvalidState, ["the event is being dispatched", "once at a time", "dispatch a new one"]);
    texts!(TypedError {
        TypedError::Recv(_) => TypedError::Recv(RecvError::Io(mmap())),
            MMAP;
        TypedError::Message(_) => TypedError::Message(MessageError::NotText(not_utf8())),
            ["the message is no text", "UTF-8", "read it by `bytes`"];
        TypedError::TypeMismatch(_) => TypedError::TypeMismatch(mismatch(false)), MISMATCH;
    });

    let mut all = PortCollection::new();
    let closed = MessageChannel::new().expect("a channel").port1;
    closed.close();
    all.add(closed);
    let error = all.post_text("lost").expect_err("a closed port");
    check(error, ["to 0 members and not to 1", "the source of this error says", "what helps"]);
    let no_member = CollectionError { posted: 0, failures: Vec::new(), serialize: Some(reason()) };
    check(no_member, ["posted to no member", "the source of this error says", "what helps"]);
}
