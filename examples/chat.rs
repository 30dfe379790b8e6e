//! A chat of any number of programs: who joins, what each one says, who leaves and who dies.
//!
//! ```text
//! cargo run --example chat           # a host and three guests, one of which is killed
//! cargo run --example chat orange    # one guest, who says the lines of its standard input
//! ```
#![forbid(unsafe_code)] // those of the derives do not count

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::Duration;

use messageport::{BroadcastChannel, BroadcastEvent, BroadcastPeer, CloseReason};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

#[messageport::message]
enum Said {
    /// What its sender is called. Said whenever another one joins.
    Name(String),
    Text(String),
}

const GUESTS: [&str; 3] = ["red", "green", "blue"];
const PATIENCE: Duration = Duration::from_secs(20); // with a play that does not go on

fn main() -> Result<(), Box<dyn Error>> {
    let room = env::var("ROOM").unwrap_or_else(|_| "chat".to_owned());
    match (env::args().nth(1), env::var_os("PLAYS")) {
        (None, _) => host(),
        (Some(name), None) => talk(Chat::join(&room, &name)?),
        (Some(name), Some(_)) => play(Chat::join(&room, &name)?),
    }
}

struct Chat {
    channel: BroadcastChannel,
    name: String,
    names: HashMap<u128, String>,
}

/// What a member has done.
enum Act {
    Said(String),
    Left(CloseReason),
}

impl Chat {
    fn join(room: &str, name: &str) -> Result<Chat, Box<dyn Error>> {
        let channel = BroadcastChannel::open(room)?;
        channel.require_type::<Said>();
        Ok(Chat { channel, name: name.to_owned(), names: HashMap::new() })
    }

    fn say(&self, text: &str) -> Result<(), Box<dyn Error>> {
        Ok(self.channel.post_message(&Said::Text(text.to_owned()))?)
    }

    fn name_of(&self, peer: BroadcastPeer) -> &str {
        self.names.get(&peer.id).map_or("a stranger", |name| name)
    }

    /// Prints what happens. Returns what a member has said, or that it has gone.
    fn handle(&mut self, event: BroadcastEvent) -> Result<Option<Act>, Box<dyn Error>> {
        match event {
            BroadcastEvent::Joined(_) => {
                self.channel.post_message(&Said::Name(self.name.clone()))?;
            }
            BroadcastEvent::Message { sender, message } => match message.data::<Said>()? {
                ArchivedSaid::Name(name) => {
                    if self.names.insert(sender.id, name.to_string()).is_none() {
                        println!("{}: {name} is here", self.name);
                    }
                }
                ArchivedSaid::Text(text) => {
                    println!("{}: {} says {text:?}", self.name, self.name_of(sender));
                    return Ok(Some(Act::Said(self.name_of(sender).to_owned())));
                }
            },
            BroadcastEvent::Left { peer, reason } => {
                println!("{}: {} has gone: {reason}", self.name, self.name_of(peer));
                self.names.remove(&peer.id);
                return Ok(Some(Act::Left(reason)));
            }
            _ => {}
        }
        Ok(None)
    }
}

fn host() -> Result<(), Box<dyn Error>> {
    let room = format!("chat-{}", std::process::id());
    let mut chat = Chat::join(&room, "host")?;
    let start = |name| -> io::Result<Child> {
        Command::new(env::current_exe()?).arg(name).env("ROOM", &room).env("PLAYS", "1").spawn()
    };
    let [mut red, mut green, mut blue] = [start(GUESTS[0])?, start(GUESTS[1])?, start(GUESTS[2])?];
    let (mut said, mut left, mut died) = (0, 0, 0);
    while left + died < GUESTS.len() {
        let event = chat.channel.recv_event_timeout(PATIENCE)?;
        match chat.handle(event)? {
            Some(Act::Said(_)) => said += 1,
            Some(Act::Left(CloseReason::PeerDied)) => died += 1,
            Some(Act::Left(_)) => left += 1,
            None => continue,
        }
        if said == GUESTS.len() && left + died == 0 {
            blue.kill()?;
            chat.say("good night")?;
        }
    }
    let ended_well = red.wait()?.success() && green.wait()?.success() && !blue.wait()?.success();
    if ended_well && died == 1 { Ok(()) } else { Err("two leave and one dies".into()) }
}

/// Greets when all are there, and leaves when the host says good night.
fn play(mut chat: Chat) -> Result<(), Box<dyn Error>> {
    let mut has_greeted = false;
    loop {
        let event = chat.channel.recv_event_timeout(PATIENCE)?;
        if matches!(chat.handle(event)?, Some(Act::Said(name)) if name == "host") {
            return Ok(());
        }
        if chat.names.len() == GUESTS.len() && !has_greeted {
            chat.say("hello")?;
            has_greeted = true;
        }
    }
}

/// Says what is typed, until its input ends.
fn talk(mut chat: Chat) -> Result<(), Box<dyn Error>> {
    let input = io::stdin();
    loop {
        while let Some(event) = chat.channel.try_recv_event()? {
            chat.handle(event)?;
        }
        let [channel, typed] = [chat.channel.as_fd(), input.as_fd()];
        let mut wanted = [channel, typed].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut wanted, PollTimeout::NONE)?;
        if wanted[1].any() == Some(true) {
            let mut bytes = [0; 4096];
            match nix::unistd::read(&input, &mut bytes)? {
                0 => return Ok(()),
                len => chat.say(String::from_utf8_lossy(&bytes[..len]).trim_end())?,
            }
        }
    }
}
