//! The harness of the benchmarks of the crate itself, whose modules this package shares.

#![allow(dead_code, reason = "the crate's own benchmarks use the rest")]

#[path = "../../harness/bars.rs"]
pub mod bars;
#[path = "../../harness/child.rs"]
pub mod child;
#[path = "../../harness/clock.rs"]
pub mod clock;
#[path = "../../harness/handoff.rs"]
pub mod handoff;
#[path = "../../harness/hops.rs"]
pub mod hops;
#[path = "../../harness/kernel.rs"]
pub mod kernel;
#[path = "../../harness/lines.rs"]
pub mod lines;
#[path = "../../harness/local.rs"]
pub mod local;
#[path = "../../harness/machine.rs"]
pub mod machine;
#[path = "../../harness/measure.rs"]
pub mod measure;
#[path = "../../harness/message.rs"]
pub mod message;
#[path = "../../harness/moves.rs"]
pub mod moves;
#[path = "../../harness/pages.rs"]
pub mod pages;
#[path = "../../harness/plain_ring.rs"]
pub mod plain_ring;
#[path = "../../harness/plain_subjects.rs"]
pub mod plain_subjects;
#[path = "../../harness/port_streams.rs"]
pub mod port_streams;
#[path = "../../harness/ports.rs"]
pub mod ports;
#[path = "../../harness/report.rs"]
pub mod report;
#[path = "../../harness/shared.rs"]
pub mod shared;
#[path = "../../harness/typed.rs"]
pub mod typed;
#[path = "../../harness/workload.rs"]
pub mod workload;
