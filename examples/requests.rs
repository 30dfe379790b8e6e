//! A child process that factors numbers, and a parent that has many requests open at the same time.
//!
//! ```text
//! cargo run --example requests
//! ```
//!
//! The child answers small numbers at once and leaves large ones to threads, so replies come in
//! another order than requests. A request that takes too long is cancelled, and its thread stops.

use std::env;
use std::error::Error;
use std::process::Command;
use std::thread;
use std::time::Duration;

use messageport::{CallError, OwnedRequest, Requester, Responder, Worker, parent_port};

/// What is asked.
#[messageport::message]
struct Factor {
    number: u64,
}

/// The reply: an error that the caller expects is a part of it.
type Factors = Result<Vec<u64>, String>;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    if env::args().nth(1).as_deref() == Some("worker") {
        return serve(&parent_port()?.responder());
    }
    let mut command = Command::new(env::current_exe()?);
    command.arg("worker");
    let (port, mut child) = Worker::spawn(command)?.into_parts();
    let requester: Requester<Factor, Factors> = port.requester();

    // One call after the other.
    assert_eq!(requester.call(&Factor { number: 84 })?, Ok(vec![2, 2, 3, 7]));
    println!("84 without a factor: {:?}", requester.call(&Factor { number: 0 })?);

    // Many at the same time, from several threads.
    let callers: Vec<_> = (1..=4u64)
        .map(|thread| {
            let requester = requester.clone();
            thread::spawn(move || factor_many(&requester, thread))
        })
        .collect();
    for caller in callers {
        caller.join().map_err(|_| "a caller has panicked")??;
    }

    // A deadline; the worker is told that the call was cancelled.
    let slow = Factor { number: u64::MAX - 58 };
    match requester.call_timeout(&slow, Duration::from_millis(20)) {
        Err(CallError::Timeout) => println!("{} takes too long", slow.number),
        other => println!("{}: {other:?}", slow.number),
    }

    // The port closes with the last handle, and the worker ends.
    drop(requester);
    child.wait()?;
    Ok(())
}

fn factor_many(
    requester: &Requester<Factor, Factors>,
    thread: u64,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let numbers = (1..=20).map(|number| thread * 1_000_003 * number);
    let calls: Vec<_> = numbers
        .map(|number| Ok((number, requester.start(&Factor { number })?)))
        .collect::<Result<_, messageport::PostError>>()?;
    for (number, call) in calls {
        let factors = call.wait()?.deserialize()??;
        assert_eq!(factors.iter().product::<u64>(), number);
        println!("{number} = {factors:?}");
    }
    Ok(())
}

/// The worker.
fn serve(responder: &Responder<Factor, Factors>) -> Result<(), Box<dyn Error + Send + Sync>> {
    // It ends when the parent does.
    while let Ok(request) = responder.recv() {
        match request.data().number.to_native() {
            0 => request.reply(&Err("every number divides it".to_owned()))?,
            number @ ..1_000_000 => request.reply(&Ok(factors(number, || false)))?,
            number => {
                let request = request.into_owned()?;
                thread::spawn(move || reply_later(&request, number));
            }
        }
    }
    Ok(())
}

fn reply_later(request: &OwnedRequest<Factor, Factors>, number: u64) {
    let factors = factors(number, || request.is_cancelled());
    // The parent may have ended meanwhile.
    let _ = request.reply_timeout(&Ok(factors), Duration::from_secs(10));
}

/// The prime factors, unless the caller has given up.
fn factors(mut number: u64, is_over: impl Fn() -> bool) -> Vec<u64> {
    let (mut found, mut divisor) = (Vec::new(), 2u64);
    while divisor * divisor <= number && !(divisor % 65_536 == 1 && is_over()) {
        if number.is_multiple_of(divisor) {
            found.push(divisor);
            number /= divisor;
        } else {
            divisor += 1;
        }
    }
    if number > 1 {
        found.push(number);
    }
    found
}
