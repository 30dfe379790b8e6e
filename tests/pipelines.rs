//! Frames that go through several processes: buffers of a pool that are passed on, fresh buffers,
//! and what is left after a kill at any step.

mod common;

use std::collections::VecDeque;
use std::fs;
use std::sync::atomic::Ordering::SeqCst;

use common::board::Board;
use common::census::{Census, has_no_children};
use common::limits::{allow_all_descriptors, allow_more_descriptors};
use common::role::{command, play};
use common::trusted::{trust, trusted_channel as channel};
use common::watchdog::progress;
use common::{DEADLINE, proc, receive, wait_until};
use messageport::{
    Buffer, BufferPool, MessageChannel, MessageError, MessagePort, PoolError, PooledBuffer,
    PostError, RecvError, Worker, parent_port,
};

const LEN: usize = 3 << 20;
const FRAMES: u32 = 4;

fn take(port: &MessagePort) -> PooledBuffer {
    receive(port).take_pooled().expect("a buffer")
}

#[test]
fn a_pooled_buffer_is_passed_on_and_returns_to_its_maker() {
    let channels = [channel(), channel(), channel()];
    let pool = BufferPool::new(&channels[0].port1, 2, 10_000).expect("a pool");
    for round in 0..100u8 {
        let mut buffer = pool.take().expect("a free one");
        for (step, MessageChannel { port1, port2 }) in (1..).zip(&channels) {
            buffer[..2].copy_from_slice(&[round, step]);
            port1.post_message_pooled(&round, buffer).expect("room");
            buffer = take(port2);
            assert_eq!(buffer[..2], [round, step]);
            assert_eq!(pool.in_use(), 1, "it is the same one all the way");
        }
        // Back by the port that it came by, and to the process that made it.
        channels[0].port2.post_message_pooled(&round, buffer).expect("room");
        let back = take(&channels[0].port1);
        assert_eq!((back[0], back[1], pool.in_use()), (round, 3, 1));
        drop(back);
        assert_eq!(pool.in_use(), 0);
    }
    let stats = channels[2].port1.stats();
    assert_eq!(stats.sent.messages, 100, "a pool is no message");
}

#[test]
fn what_was_passed_on_comes_back_from_a_port_that_ends() {
    const TEST: &str = "what_was_passed_on_comes_back_from_a_port_that_ends";
    fn alone() {
        let before = Census::take();
        let first = channel();
        let pool = BufferPool::new(&first.port1, 3, 10_000).expect("a pool");
        let pass = |to: &MessagePort| {
            first.port1.post_message_pooled(&0u8, pool.take().expect("free")).expect("room");
            to.post_message_pooled(&0u8, take(&first.port2)).expect("room");
        };
        let back = || pool.take_timeout(DEADLINE).expect("it came back");
        // Not received, not even the pool; received, and not taken; held.
        for received in 0..3 {
            let next = channel();
            (0..3).for_each(|_| pass(&next.port1));
            let held = match received {
                0 => None,
                1 => Some(receive(&next.port2).into_message()),
                _ => {
                    // It has the pool as long as it has a buffer of it.
                    let held = take(&next.port2);
                    drop(next);
                    let none = pool.take();
                    assert!(matches!(none, Err(PostError::PoolInUse { .. })), "one is held");
                    drop(held);
                    let all: Vec<_> = (0..3).map(|_| back()).collect();
                    drop(all);
                    continue;
                }
            };
            assert!(matches!(pool.take(), Err(PostError::PoolInUse { .. })), "all are under way");
            drop((next, held));
            let all: Vec<_> = (0..3).map(|_| back()).collect();
            drop(all);
            assert_eq!(pool.in_use(), 0);
        }
        drop((pool, first));
        before.wait_for("after all ports");
    }
    play(TEST, &[("alone", alone)]);
}

#[test]
fn a_receiver_that_does_not_trust_or_has_no_descriptor_refuses_what_is_passed_on() {
    const TEST: &str =
        "a_receiver_that_does_not_trust_or_has_no_descriptor_refuses_what_is_passed_on";
    fn alone() {
        let before = Census::take();
        let first = channel();
        let pool = BufferPool::new(&first.port1, 1, 10_000).expect("a pool");
        for is_trusted in [false, true] {
            let next = MessageChannel::new().expect("a channel");
            trust(&next.port1);
            if is_trusted {
                trust(&next.port2);
            }
            let mut buffer = pool.take_timeout(DEADLINE).expect("it came back");
            if !is_trusted {
                // The sender needs one as well, and tries again.
                allow_more_descriptors(0);
                let error =
                    next.port1.post_message_pooled(&7u8, buffer).expect_err("no descriptor");
                assert!(matches!(error.reason(), PostError::Io(_)), "{error}");
                buffer = error.into_buffer();
                allow_all_descriptors();
            }
            next.port1.post_message_pooled(&7u8, buffer).expect("room");
            allow_more_descriptors(0);
            let event = receive_patiently(&next.port2);
            let unknown = event.take_pooled();
            assert!(matches!(unknown, Err(MessageError::UnknownPool)), "{unknown:?}");
            allow_all_descriptors();
            drop(event);
            // No process has it any more, so it comes back.
            let buffer = pool.take_timeout(DEADLINE).expect("it came back");
            let error = next.port1.post_message_pooled(&7u8, buffer).expect_err("it is refused");
            assert!(matches!(error.reason(), PostError::PoolRefused), "{error}");
        }
        drop((pool, first));
        before.wait_for("after all ports");
    }
    /// Out of descriptors, the message waits for a while.
    fn receive_patiently(port: &MessagePort) -> messageport::MessageEvent<'_> {
        loop {
            match port.try_recv() {
                Ok(event) => return event.expect("a message"),
                Err(RecvError::OutOfDescriptors { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    play(TEST, &[("alone", alone)]);
}

#[test]
fn a_port_passes_on_buffers_of_so_many_pools_only() {
    let next = channel();
    let firsts: Vec<_> = (0..33).map(|_| channel()).collect();
    for (number, first) in firsts.iter().enumerate() {
        let pool = BufferPool::new(&first.port1, 1, 1).expect("a pool");
        let posted = next.port1.post_message_pooled(&0u8, pool.take().expect("a free one"));
        if number < 32 {
            posted.expect("room");
            drop(take(&next.port2));
        } else {
            let error = posted.expect_err("the port has had 32");
            assert!(matches!(error.reason(), PostError::ForeignPool), "{error}");
        }
        assert_eq!(pool.in_use(), 0);
    }
    let refused = BufferPool::new(&next.port1, 1, 1);
    assert!(matches!(refused, Err(PoolError::TooMany { max: 32 })), "{refused:?}");
}

/// A source, a filter and a sink, each a process. One of them is killed at some moment; the others
/// end by themselves, and hold nothing then.
#[test]
fn a_kill_at_any_step_of_a_pipeline_leaves_nothing() {
    const TEST: &str = "a_kill_at_any_step_of_a_pipeline_leaves_nothing";
    fn alone() {
        let rounds = std::env::var("MESSAGEPORT_PIPELINE_KILLS");
        let rounds: u64 = rounds.map_or(18, |text| text.parse().expect("a number of kills"));
        let before = Census::take();
        for round in 0..rounds {
            let (victim, way) = (round % 3, ["pooled", "fresh", "frames"][round as usize / 3 % 3]);
            // Some moment: by frames that the sink has seen, and then by what the machine does.
            let moment = (round * 7919) % 23;
            kill_one(TEST, victim as usize, way, moment);
            before.wait_for(format!("round {round}"));
            progress();
            assert!(has_no_children());
        }
    }
    fn source() {
        let role = Role::begin();
        let (way, [port]) = role.ports();
        let mut output = Output::new(&way, port);
        let mut left = 3 * u64::from(FRAMES);
        while left > 0 {
            // Only after the sink's death there is still a process to send to.
            left -= u64::from(role.board.word(1).load(SeqCst) != 0);
            if output.is_closed() || !output.post() {
                break;
            }
        }
        role.end(output);
    }
    fn filter() {
        let role = Role::begin();
        let (way, [from, to]) = role.ports();
        let mut output = Output::new(if way == "pooled" { "passed on" } else { &way }, to);
        while let Ok(event) = from.recv() {
            match way.as_str() {
                "pooled" => output.pass_on(event.take_pooled().expect("a frame")),
                "frames" => {
                    let mut first = [0];
                    event.take_frame().expect("a frame").copy_to(0, &mut first);
                    assert_eq!(first, [1]);
                    output.post();
                }
                _ => {
                    assert_eq!(event.take_buffer().expect("a frame")[0], 1);
                    output.post();
                }
            }
            let _ = from.post_text("done");
        }
        role.end((from, output));
    }
    fn sink() {
        let role = Role::begin();
        let (way, [from]) = role.ports();
        // It always holds some.
        let mut held: VecDeque<Box<dyn std::any::Any>> = VecDeque::new();
        while let Ok(event) = from.recv() {
            role.board.word(0).fetch_add(1, SeqCst);
            held.push_back(match way.as_str() {
                "pooled" => Box::new(event.take_pooled().expect("a frame")),
                "frames" => Box::new(event.take_frame().expect("a frame")),
                _ => Box::new(event.take_buffer().expect("a frame")),
            });
            drop((held.len() == FRAMES as usize - 1).then(|| held.pop_front()));
            let _ = from.post_text("done");
        }
        role.end((held, from));
    }
    play(TEST, &[("alone", alone), ("source", source), ("filter", filter), ("sink", sink)]);
}

fn kill_one(test: &str, victim: usize, way: &str, moment: u64) {
    let board = Board::new();
    let mut workers: Vec<Worker> = ["source", "filter", "sink"]
        .map(|role| {
            let mut child = command(test, role);
            board.give(&mut child);
            Worker::spawn(child).expect("a worker")
        })
        .into();
    let (first, second) = (channel(), channel());
    let give = |to: usize, list: Vec<messageport::Transferable>| {
        workers[to].port().post_text_with(way, list).expect("room");
    };
    give(2, vec![second.port2.into()]);
    give(1, vec![first.port2.into(), second.port1.into()]);
    give(0, vec![first.port1.into()]);
    wait_until("the sink has seen some", || board.word(0).load(SeqCst) >= moment);
    workers.remove(victim).terminate().expect("a child");
    board.word(1).store(1, SeqCst);
    for mut worker in workers {
        let ended = worker.wait_timeout(DEADLINE).expect("a child");
        let status = ended.unwrap_or_else(|| panic!("{worker:?} hangs, {way}, victim {victim}"));
        assert!(status.success(), "{status}, {way}, victim {victim}");
    }
}

/// Where a source or a filter posts frames.
struct Output {
    port: MessagePort,
    pool: Option<BufferPool>,
    ahead: u32,
}

impl Output {
    fn new(way: &str, port: MessagePort) -> Output {
        if way != "frames" {
            trust(&port);
        }
        let pool = match way {
            "pooled" => Some(BufferPool::new(&port, FRAMES, LEN)),
            "frames" => Some(BufferPool::for_untrusted(&port, FRAMES, LEN)),
            _ => None,
        };
        let pool = pool.and_then(|pool| match pool {
            Err(PoolError::Post(PostError::Closed { .. })) => None,
            pool => Some(pool.expect("a pool")),
        });
        Output { port, pool, ahead: 0 }
    }

    /// Whether the reader has left. Also takes what it said.
    fn is_closed(&mut self) -> bool {
        loop {
            let said = match self.ahead >= FRAMES && self.pool.is_none() {
                true => self.port.recv().map(Some),
                false => self.port.try_recv(),
            };
            match said {
                Ok(Some(_)) => self.ahead -= 1,
                Ok(None) => return false,
                Err(RecvError::Closed { .. }) => return true,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Posts a frame of this process; false if the reader has left.
    fn post(&mut self) -> bool {
        if self.is_closed() {
            return false;
        }
        let posted = match &self.pool {
            Some(pool) => pool.take_timeout(DEADLINE).and_then(|mut frame| {
                frame[0] = 1;
                self.port.post_message_pooled(&1u8, frame).map_err(|it| it.into_parts().0)
            }),
            None => {
                let mut frame = Buffer::new(LEN).expect("memory");
                frame.bytes_mut().expect("fresh")[0] = 1;
                let list = [frame.into()];
                self.port.post_message_with(&1u8, list).map_err(|it| it.into_parts().0)
            }
        };
        self.ahead += 1;
        !is_closed(posted)
    }

    fn pass_on(&mut self, frame: PooledBuffer) {
        self.ahead += u32::from(!self.is_closed());
        let _ =
            is_closed(self.port.post_message_pooled(&2u8, frame).map_err(|it| it.into_parts().0));
    }
}

/// What the three processes have in common.
struct Role {
    before: Census,
    board: Board,
    parent: MessagePort,
}

impl Role {
    fn begin() -> Role {
        let parent = parent_port().expect("a port");
        Role { before: Census::take(), board: Board::given(), parent }
    }

    /// The ports that the parent gives, and how frames go over.
    fn ports<const N: usize>(&self) -> (String, [MessagePort; N]) {
        let event = receive(&self.parent);
        let way = event.text().expect("a word").to_owned();
        let ports = [(); N].map(|()| event.take_port().expect("a port"));
        if way != "frames" {
            ports.iter().for_each(trust);
        }
        (way, ports)
    }

    /// Everything else is dropped before: nothing of it may be left.
    fn end<T>(self, held: T) {
        drop(held);
        drop(self.board);
        self.before.wait_for("at the end");
        let status = fs::read_to_string(proc("self/status")).expect("a status");
        let shared = status.lines().find_map(|line| line.strip_prefix("RssShmem:"));
        let shared = shared.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<usize>().ok());
        assert!(shared.expect("a number") << 10 < LEN, "memory of a frame is left:\n{status}");
    }
}

/// Whether a port has ended; everything else is a failure.
fn is_closed(result: Result<(), PostError>) -> bool {
    match result {
        Ok(()) => false,
        Err(PostError::Closed { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}
