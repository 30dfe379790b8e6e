//! Round trips of an honest client to a process that a hostile one floods.

use crate::play::start;
use crate::served::FRONTS;
use messageport::{BroadcastChannel, MessageChannel};
use std::time::{Duration, Instant};

/// What the other client does, the first three for comparison. A port without a flood; one whose
/// process takes as much of the processor as a flooder, and does nothing else; and one that takes
/// as much as a flooder and the serving process together.
const ATTACKS: [&str; 10] = [
    "nothing",
    "burner",
    "two burners",
    "bytes",
    "bell",
    "descriptors",
    "ports",
    "large ports",
    "buffers",
    "long",
];

/// Nothing travels beside the messages of a channel, and its doorbells are not at hand.
const FOR_CHANNELS: [&str; 5] = ["nothing", "burner", "two burners", "bytes", "long"];

struct Times(Vec<Duration>);

impl Times {
    fn at(&self, part: f64) -> Duration {
        let last = self.0.len() - 1;
        self.0[((self.0.len() as f64 * part) as usize).min(last)]
    }
}

/// How often each row is measured. The rows take turns, so that what else the machine does meets
/// all of them, and the table has the median of each figure.
const ROUNDS: usize = 5;

/// Median, p99 and the longest of one round.
type Figures = [Duration; 3];

/// Floods each front for `time` in each way. Says which medians are far above those without.
pub fn run(time: Duration) -> Vec<String> {
    let mut misses = Vec::new();
    println!(
        "\n| front | beside | median | p99 | longest | median / idle | p99 / burner | \
         p99 / two burners |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for front in FRONTS {
        let attacks: &[&str] = if *front == "BroadcastChannel" { &FOR_CHANNELS } else { &ATTACKS };
        let mut rounds = vec![Vec::<Figures>::new(); attacks.len()];
        for _ in 0..ROUNDS {
            for (attack, figures) in attacks.iter().zip(&mut rounds) {
                let times = round_trips(front, attack, time / ROUNDS as u32);
                figures.push([0.5, 0.99, 1.0].map(|part| times.at(part)));
            }
        }
        let rows: Vec<Figures> = rounds.iter().map(|figures| of_rounds(figures)).collect();
        let [idle, burner, two_burners] = [rows[0][0], rows[1][1], rows[2][1]];
        for (attack, [median, p99, longest]) in attacks.iter().zip(&rows) {
            let over_idle = median.as_secs_f64() / idle.as_secs_f64();
            let over = |beside: Duration| p99.as_secs_f64() / beside.as_secs_f64();
            println!(
                "| `{front}` | {attack} | {median:.1?} | {p99:.1?} | {longest:.1?} | \
                 {over_idle:.1} | {:.1} | {:.1} |",
                over(burner),
                over(two_burners),
            );
            // Ten times is the goal on a calm machine.
            if over_idle > 100.0 && *median > 100 * burner {
                misses.push(format!("{front} beside {attack}: {median:?}, idle {idle:?}"));
            }
        }
    }
    misses
}

/// The medians of the rounds' medians and p99, and the longest of all.
fn of_rounds(rounds: &[Figures]) -> Figures {
    [0, 1, 2].map(|which| {
        let mut figures: Vec<Duration> = rounds.iter().map(|round| round[which]).collect();
        figures.sort();
        figures[if which == 2 { figures.len() - 1 } else { figures.len() / 2 }]
    })
}

fn round_trips(front: &str, attack: &str, time: Duration) -> Times {
    let name = format!("hostile-{}", std::process::id());
    let role = format!("serve:{front}/{attack}/{name}");
    let served = start(&role, MessageChannel::builder());
    if front == "BroadcastChannel" {
        let channel = BroadcastChannel::open(&name).expect("a channel");
        served.port().recv().expect("the server has joined");
        return collect(time, || {
            channel.post_text("ping").expect("room");
            while !channel.recv().expect("an answer").text().is_ok_and(|text| text == "pong") {}
        });
    }
    let port = served.port();
    collect(time, || {
        port.post_text("ping").expect("room");
        port.recv().expect("an answer");
    })
}

/// Times of round trips, with a pause after each, so that both sides sleep.
fn collect(time: Duration, mut round_trip: impl FnMut()) -> Times {
    // The other client needs a while to begin.
    let warm_up = Instant::now();
    while warm_up.elapsed() < time / 4 {
        round_trip();
    }
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < time || times.len() < 8 {
        let began = Instant::now();
        round_trip();
        times.push(began.elapsed());
        std::thread::sleep(Duration::from_micros(100));
    }
    times.sort();
    Times(times)
}
