//! Prices for any number of programs: they join one name, and each receives what every other one
//! posts.
//!
//! ```text
//! cargo run --example broadcast            # a feed and three screens, each a process
//! cargo run --example broadcast screen     # one more screen, until a feed closes
//! cargo run --example broadcast feed       # a feed, which waits for at least one screen
//! ```
// The `unsafe impl`s of the derives do not count: they come from another crate.
#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use messageport::{BroadcastChannel, EventLoop, Worker};

#[messageport::message]
enum News {
    Price { item: String, cents: u32 },
    Closing,
}

const SCREENS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(20); // with screens that do not come

fn main() -> Result<(), Box<dyn Error>> {
    let name = env::var("NAME").unwrap_or_else(|_| "prices".to_owned());
    match env::args().nth(1).as_deref() {
        Some("feed") => feed(&name, env::var("SCREENS").map_or(Ok(1), |count| count.parse())?),
        Some("screen") => screen(&name),
        _ => all_roles(),
    }
}

fn all_roles() -> Result<(), Box<dyn Error>> {
    let name = format!("prices-{}", std::process::id());
    // They end with this process, and with the first of them that fails.
    let start = |role: &str| -> Result<Worker, Box<dyn Error>> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(role).env("NAME", &name).env("SCREENS", SCREENS.to_string());
        Ok(Worker::builder(command).end_with_parent().spawn()?)
    };
    // The order does not matter.
    let mut children = vec![start("feed")?];
    for _ in 0..SCREENS {
        children.push(start("screen")?);
    }
    for child in &mut children {
        if !child.wait()?.success() {
            return Err("a child has failed".into());
        }
    }
    Ok(())
}

fn feed(name: &str, screens: usize) -> Result<(), Box<dyn Error>> {
    let channel = BroadcastChannel::open(name)?;
    let deadline = Instant::now() + PATIENCE;
    while channel.others()? < screens {
        if Instant::now() > deadline {
            return Err("the screens have not come".into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    for (item, cents) in [("lamp", 1999), ("chair", 4950), ("lamp", 1799)] {
        channel.post_message(&News::Price { item: item.to_owned(), cents })?;
    }
    // The screens receive it although this process ends at once.
    channel.post_message(&News::Closing)?;
    Ok(())
}

fn screen(name: &str) -> Result<(), Box<dyn Error>> {
    let channel = BroadcastChannel::open(name)?;
    channel.require_type::<News>();
    channel.on_message_error(|event| println!("no news: {:?}", event.message_error()));
    channel.on_message(|event| -> Result<(), Box<dyn Error + Send + Sync>> {
        match event.broadcast().ok_or("a message")?.data::<News>()? {
            ArchivedNews::Price { item, cents } => {
                println!(
                    "screen {}: {item} {:.2}",
                    std::process::id(),
                    f64::from(cents.to_native()) / 100.0
                );
            }
            ArchivedNews::Closing => event.broadcast_channel().ok_or("a channel")?.close(),
        }
        Ok(())
    });
    let mut event_loop = EventLoop::new()?;
    let handle = event_loop.handle();
    event_loop.add_source(channel, move |_, channel| {
        if let Err(error) = channel.dispatch() {
            // Too few descriptors, say. That may pass: the loop calls again after a pause.
            eprintln!("{error}");
        }
        if channel.is_closed() {
            handle.stop();
        }
    })?;
    event_loop.run()?;
    Ok(())
}
