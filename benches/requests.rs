//! What a request and its reply cost beside a typed message and its answer, and a task of a pool
//! beside a request, in the same run: two pinned processes, both spinning.

#![allow(unsafe_code, missing_docs)]

mod harness;

use harness::report::{Baseline, Report};
use harness::targets::Target;
use harness::{Harness, calls, lines};

fn main() {
    let Some(mut harness) = Harness::start("requests") else {
        return;
    };
    if harness.has_two_cores("requests") {
        let core = harness.peer_core();
        let count = harness.count(100_000, 50);
        let mut subjects = lines::subjects(core, count);
        for is_trusted in [false, true] {
            subjects.extend(calls::bare(core, is_trusted, count));
            subjects.extend(calls::calls(core, is_trusted, count));
        }
        subjects.extend(calls::tasks(core, count));
        let pairs = [("default-typed", calls::DEFAULT), ("trusted-typed", calls::TRUSTED)];
        let targets = [8, 64].into_iter().flat_map(|bytes| {
            pairs.map(|(bare, requests)| Target::same("requests", requests, bare, bytes, 1.15))
        });
        let report = Report {
            group: "requests",
            title: "a request and its reply, and a typed message and its answer, both spinning",
            baselines: vec![
                Baseline::fixed(lines::TWO_LINES, 8),
                Baseline::same("default-typed"),
                Baseline::same("trusted-typed"),
                Baseline::same(calls::DEFAULT),
            ],
            targets: targets.collect(),
            is_throughput: false,
            is_slow: false,
        };
        harness.run(&report, &subjects);
    }
    harness.finish();
}
