//! One program that runs as two processes.

use messageport::{Worker, parent_port};
use std::{env, error::Error, process::Command};

#[messageport::message]
struct Order {
    item: String,
    count: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    if env::args().len() == 1 { shop() } else { warehouse() }
}

/// The parent process. It starts this program once more, as its worker.
fn shop() -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("warehouse");
    let worker = Worker::spawn(command)?;
    worker.port().post_message(&Order { item: "lamp".to_string(), count: 3 })?;
    println!("shop: {}", worker.port().recv()?.text()?);
    Ok(()) // dropping the worker closes the port and ends the process
}

/// The child process. Its loop ends when the parent closes the port, exits or is killed.
fn warehouse() -> Result<(), Box<dyn Error>> {
    let port = parent_port()?;
    for event in &port {
        let order = event.data::<Order>()?; // checked, then read without parsing
        println!("warehouse: {} × {}", order.count, order.item);
        port.post_text("shipped")?;
    }
    Ok(())
}
