//! Plain data between two processes, as a program in another language would post it.
//!
//! ```text
//! cargo run --example value --features value
//! ```
//!
//! The parent posts orders as its own structs. The child has no structs: it reads what comes as a
//! `Value`, adds to it, and answers. The parent reads the answer as its own struct again.

use std::env;
use std::error::Error;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use messageport::{Date, RecvError, Value, Worker, parent_port};
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
struct Order<'a> {
    id: u64,
    items: Vec<Item<'a>>,
    placed: Date,
}

#[derive(Serialize)]
struct Item<'a> {
    name: &'a str,
    cents: u32,
}

#[derive(Deserialize, Debug, PartialEq)]
struct Bill {
    id: u64,
    cents: u32,
    placed: Date,
    note: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    if env::args().nth(1).as_deref() == Some("worker") {
        return work();
    }
    let mut command = Command::new(env::current_exe()?);
    command.arg("worker");
    let (port, mut child) = Worker::spawn(command)?.into_parts();

    let placed = Date::from(UNIX_EPOCH + Duration::from_millis(1_700_000_000_250));
    let items = vec![Item { name: "lamp", cents: 1999 }, Item { name: "desk", cents: 9900 }];
    port.post_value(&Order { id: 7, items, placed })?;
    let bill: Bill = port.recv()?.value()?;
    println!("order {} costs {}.{:02}", bill.id, bill.cents / 100, bill.cents % 100);
    assert_eq!(bill, Bill { id: 7, cents: 11_899, placed, note: Some("2 items".to_string()) });

    // What does not fit is an error that says where.
    port.post_value(&[("id", 8)])?;
    let answer = port.recv()?;
    let error = answer.value::<Bill>().expect_err("there is no sum");
    println!("{error}");
    println!("the worker says: {}", answer.value::<&str>()?);

    drop(answer);
    drop(port);
    assert!(child.wait()?.success());
    Ok(())
}

/// Answers each order with its sum.
fn work() -> Result<(), Box<dyn Error>> {
    let port = parent_port()?;
    loop {
        let order: Value = match port.recv() {
            Ok(event) => event.value()?,
            Err(RecvError::Closed { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match order.get("items").and_then(Value::as_array) {
            Some(items) => port.post_value(&bill(&order, items))?,
            None => port.post_value("an order has items")?,
        }
    }
}

fn bill(order: &Value, items: &[Value]) -> Value {
    let cents = items.iter().filter_map(|item| item.get("cents")?.as_i64()).sum::<i64>();
    let copy = |key| order.get(key).cloned().unwrap_or_default();
    Value::from_iter([
        ("id", copy("id")),
        ("cents", cents.into()),
        ("placed", copy("placed")),
        ("note", format!("{} items", items.len()).into()),
    ])
}
