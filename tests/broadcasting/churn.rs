//! Churn: processes that join, post, leave and are killed at random, and a check of everything
//! that each membership had to receive and could.
//!
//! Time is a counter that all processes share. A message must have reached a membership if its post
//! began after that one's `open` had returned, and had returned before the membership began to
//! leave. It can have, unless its post had returned before `open` began.

use crate::common::board::Board;
use crate::common::messages::Rng;
use crate::common::role::{command, play};
use crate::common::watchdog::progress;
use crate::common::{kill_process, wait_until, wanted};
use crate::{NAME, Name, open};
use messageport::{BroadcastChannel, BroadcastError};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

// Words of the board.
const CLOCK: usize = 0;
/// Processes that have posted all they had to post.
const POSTED: usize = 1;

const TEST: &str = "churn::survivors_have_exactly_what_they_must_have";
const ME: &str = "MESSAGEPORT_TEST_ME";
const LOGS: &str = "MESSAGEPORT_TEST_LOGS";
const STAYING: &str = "MESSAGEPORT_TEST_STAYING";
const ROUNDS: &str = "MESSAGEPORT_ROUNDS";

/// A post: when it began and when it had returned, 0 if it never did.
#[derive(Clone, Copy, Debug)]
struct Posted {
    began: u64,
    returned: u64,
}

/// A membership, and the posts of others that it received: by their membership, numbers in order.
struct Stay {
    opening: u64,
    opened: u64,
    leaving: u64,
    received: BTreeMap<u64, Vec<u64>>,
}

/// One of the processes.
struct Member {
    me: u64,
    board: Board,
    logs: PathBuf,
    name: String,
    rng: Rng,
}

impl Member {
    fn tick(&self) -> u64 {
        self.board.word(CLOCK).fetch_add(1, SeqCst) + 1
    }

    /// Joins, posts and receives at random, and leaves; if it is the last time, after so many
    /// processes have posted all.
    fn stay(&mut self, number: u64, last_of: Option<u64>) {
        let stay = self.me * 1000 + number;
        let log = File::create(self.logs.join(format!("posts-{stay}"))).expect("a log");
        let opening = self.tick();
        let member = open(&self.name);
        let opened = self.tick();
        let mut received = Vec::new();
        for post in 0..self.rng.below(MOST_POSTS) {
            self.post(&member, &log, stay, post);
            for _ in 0..self.rng.below(30) {
                received.extend(take(&member, Duration::ZERO));
            }
            self.rng.dawdle(Duration::from_micros(300));
            progress();
        }
        if let Some(count) = last_of {
            self.board.word(POSTED).fetch_add(1, SeqCst);
            while self.board.word(POSTED).load(SeqCst) < count {
                received.extend(take(&member, Duration::from_millis(5)));
                progress();
            }
        }
        let leaving = self.tick();
        while let Some(message) = take(&member, Duration::ZERO) {
            received.push(message);
        }
        drop(member);
        self.report(stay, [opening, opened, leaving], &received);
    }

    fn post(&self, member: &BroadcastChannel, log: &File, stay: u64, post: u64) {
        let place = post * 16;
        log.write_all_at(&self.tick().to_le_bytes(), place).expect("room on the disk");
        member.post_message(&(stay, post)).unwrap_or_else(|error| panic!("{error}\n{member:#?}"));
        log.write_all_at(&self.tick().to_le_bytes(), place + 8).expect("room on the disk");
    }

    fn report(&self, stay: u64, times: [u64; 3], received: &[(u64, u64)]) {
        let words =
            times.into_iter().chain(received.iter().flat_map(|(from, post)| [*from, *post]));
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        let half = self.logs.join(format!("half-{stay}"));
        let mut file = OpenOptions::new().write(true).create_new(true).open(&half).expect("a log");
        file.write_all(&bytes).expect("room on the disk");
        fs::rename(half, self.logs.join(format!("stay-{stay}"))).expect("it was just written");
    }
}

/// The next message: of which membership, and its number.
fn take(member: &BroadcastChannel, timeout: Duration) -> Option<(u64, u64)> {
    match member.recv_timeout(timeout) {
        Ok(message) => Some(message.deserialize().expect("two numbers")),
        Err(BroadcastError::Timeout) => None,
        Err(error) => panic!("{error}\n{member:#?}"),
    }
}

impl Member {
    /// Of this process.
    fn new() -> Member {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
        let (me, round) = (number(ME), number(ROUNDS));
        let rng = Rng(me ^ round << 32);
        Member { me, board: Board::given(), logs: variable(LOGS).into(), name: variable(NAME), rng }
    }
}

fn comes_and_goes() {
    let mut member = Member::new();
    for number in 0..STAYS - 1 {
        member.stay(number, None);
    }
    member.stay(STAYS - 1, Some(number(STAYING)));
}

fn is_killed() {
    let mut member = Member::new();
    for number in 0.. {
        member.stay(number, None);
    }
}

fn number(name: &str) -> u64 {
    variable(name).parse().expect("a number")
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("the parent sets {name}"))
}

fn member() {
    let processes = wanted("MESSAGEPORT_MEMBERS", 100);
    let victims = processes / 10;
    for round in 0..wanted(ROUNDS, 1) {
        let start = Instant::now();
        let count = play_round(round, processes - victims, victims);
        println!("round {round}: {count} in {:?}", start.elapsed());
    }
}

fn play_round(round: u64, staying: u64, victims: u64) -> String {
    let (name, board) = (Name::new(), Board::new());
    let logs = tempfile::tempdir().expect("a directory");
    let start = |role: &str, me: u64| -> Child {
        let mut child = command(TEST, role);
        board.give(&mut child);
        child.env(ME, me.to_string()).env(STAYING, staying.to_string()).env(NAME, &name.text);
        child.env(LOGS, logs.path()).env(ROUNDS, round.to_string());
        child.stdout(std::process::Stdio::null()).spawn().expect("a child")
    };
    let mut children = Vec::new();
    let mut doomed = Vec::new();
    let mut rng = Rng(round);
    for me in 0..staying + victims {
        match me < staying {
            true => children.push(start("comes_and_goes", me)),
            false => doomed.push(start("is_killed", me)),
        }
    }
    // Each at another time of the play.
    for child in &mut doomed {
        let due = board.word(CLOCK).load(SeqCst) + rng.below(600);
        wait_until("time goes by", || {
            progress();
            board.word(CLOCK).load(SeqCst) >= due || board.word(POSTED).load(SeqCst) >= staying
        });
        kill_process(child.id());
        assert!(!child.wait().expect("a child").success());
    }
    for mut child in children {
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break status;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        progress();
        assert!(status.success(), "{status}");
    }
    // The next joiner clears up after those that were killed.
    name.age();
    drop(name.open());
    assert_eq!(name.files(), [""; 0]);
    check(logs.path())
}

fn check(logs: &Path) -> String {
    let (posts, stays) = read_logs(logs);
    let (mut due, mut had) = (0, 0);
    for (me, stay) in &stays {
        assert!(!stay.received.contains_key(me), "{me} has its own messages");
        for (sender, posted) in posts.iter().filter(|(sender, _)| *sender != me) {
            let received = stay.received.get(sender).map_or(&[][..], Vec::as_slice);
            let what = || format!("{me} from {sender}: {received:?} of {posted:?}");
            assert!(received.windows(2).all(|two| two[0] + 1 == two[1]), "order: {}", what());
            let must = posted.iter().enumerate().filter(|(_, post)| {
                post.began > stay.opened && post.returned != 0 && post.returned < stay.leaving
            });
            for (number, _) in must {
                assert!(received.contains(&(number as u64)), "lost {number}: {}", what());
                due += 1;
            }
            for number in received {
                let post = posted.get(*number as usize).unwrap_or_else(|| panic!("{}", what()));
                let was_over = post.returned != 0 && post.returned < stay.opening;
                assert!(!was_over, "too early {number}: {}", what());
                had += 1;
            }
        }
        let known = stay.received.keys().all(|sender| posts.contains_key(sender));
        assert!(known, "messages of an unknown member");
    }
    assert!(due > 0, "nothing was asked for");
    let count = posts.values().map(Vec::len).sum::<usize>();
    format!("{} stays, {count} posts, {due} due, {had} received", stays.len())
}

type Logs = (BTreeMap<u64, Vec<Posted>>, BTreeMap<u64, Stay>);

fn read_logs(logs: &Path) -> Logs {
    let (mut posts, mut stays) = (BTreeMap::new(), BTreeMap::new());
    for entry in fs::read_dir(logs).expect("a directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name");
        let (kind, number) = name.split_once('-').expect("kind and number");
        let number: u64 = number.parse().expect("a number");
        let bytes = fs::read(entry.path()).expect("a log");
        let word = |part: &[u8]| {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            u64::from_le_bytes(word)
        };
        let words: Vec<u64> = bytes.chunks(8).map(word).collect();
        match kind {
            "posts" => {
                let post = |pair: &[u64]| Posted {
                    began: pair[0],
                    returned: pair.get(1).copied().unwrap_or(0),
                };
                posts.insert(number, words.chunks(2).map(post).collect());
            }
            "stay" => {
                let mut received: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
                for pair in words[3..].chunks(2) {
                    received.entry(pair[0]).or_default().push(pair[1]);
                }
                let [opening, opened, leaving] = [words[0], words[1], words[2]];
                stays.insert(number, Stay { opening, opened, leaving, received });
            }
            // Of one that was killed while it wrote.
            _ => assert_eq!(kind, "half"),
        }
    }
    (posts, stays)
}

#[test]
fn survivors_have_exactly_what_they_must_have() {
    play(TEST, &[("member", member), ("comes_and_goes", comes_and_goes), ("is_killed", is_killed)]);
}

/// Memberships of each process.
const STAYS: u64 = 3;
/// Posts of each membership, at the most.
const MOST_POSTS: u64 = 20;
