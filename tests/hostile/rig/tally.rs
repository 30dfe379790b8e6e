//! What a run of the rig has seen.

use messageport::{AttachError, CloseReason};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Default)]
pub struct Tally {
    pub receives: u64,
    pub ports: u64,
    /// Ports that were taken out of messages and used.
    pub attachments: u64,
    ends: BTreeMap<String, u64>,
    /// What must not be, and how often it was.
    findings: BTreeMap<String, u64>,
    /// The longest time of each call.
    longest: BTreeMap<&'static str, Duration>,
}

/// A call that takes longer is a finding of the long form. The short one runs beside other tests,
/// where anything may take long.
const LONG: Duration = Duration::from_secs(1);

impl Tally {
    pub fn took(&mut self, what: &'static str, time: Duration) {
        let longest = self.longest.entry(what).or_default();
        *longest = time.max(*longest);
    }

    pub fn finding(&mut self, what: &str) {
        // Numbers differ each time, the kind does not.
        let count = self.findings.entry(without_numbers(what)).or_default();
        *count += 1;
        if *count == 1 {
            println!("finding: {what}");
        }
    }

    pub fn end(&mut self, reason: Option<CloseReason>) {
        let text = match reason {
            // Given up while it was open: it had lived long enough, or nothing came any more.
            None => "lived on".to_owned(),
            Some(CloseReason::Corrupt(corruption)) => {
                let text = corruption.to_string();
                text.split_once(" is ").map_or(text.clone(), |(what, _)| what.to_owned())
            }
            Some(reason) => format!("{reason:?}"),
        };
        *self.ends.entry(text).or_default() += 1;
    }

    pub fn end_of_events(&mut self, has_closed: bool) {
        let text = if has_closed { "a close event" } else { "lived on" };
        *self.ends.entry(text.to_owned()).or_default() += 1;
    }

    pub fn refused(&mut self, error: &AttachError) {
        let text = error.to_string();
        let text = without_numbers(text.split(':').next().unwrap_or_default());
        *self.ends.entry(format!("not taken in: {text}")).or_default() += 1;
    }

    /// Fails for what must never be.
    pub fn check(&self) {
        assert!(self.findings.is_empty(), "{:#?}", self.findings);
    }

    /// Calls that took too long.
    pub fn slow(&self) -> Vec<String> {
        let slow = self.longest.iter().filter(|(_, time)| **time > LONG);
        slow.map(|(what, time)| format!("{what} took {time:?}")).collect()
    }

    /// For people.
    pub fn report(&self, name: &str, elapsed: Duration) -> Vec<String> {
        let Tally { receives, ports, attachments, .. } = self;
        let rate = *receives as f64 / elapsed.as_secs_f64() / 1e6;
        let counts = format!("{receives} receives, {ports} ports, {attachments} more in messages");
        let mut lines = vec![format!("{name}: {counts}, {rate:.2} M/s")];
        let mut ends: Vec<_> = self.ends.iter().collect();
        ends.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        lines.extend(ends.iter().map(|(reason, count)| format!("  {count:>9} {reason}")));
        let mut longest: Vec<_> = self.longest.iter().collect();
        longest.sort_by_key(|(_, time)| std::cmp::Reverse(**time));
        let longest: Vec<_> =
            longest.iter().take(6).map(|(what, time)| format!("{what} {time:.1?}")).collect();
        lines.push(format!("  longest: {}", longest.join(", ")));
        lines.extend(self.slow().into_iter().map(|what| format!("  FINDING: {what}")));
        let findings = self.findings.iter();
        lines.extend(findings.map(|(what, count)| format!("  FINDING: {count} × {what}")));
        lines
    }
}

fn without_numbers(text: &str) -> String {
    let is_number = |word: &&str| word.starts_with(|first: char| first.is_ascii_digit());
    let words = text.split(' ');
    words.map(|word| if is_number(&word) { "…" } else { word }).collect::<Vec<_>>().join(" ")
}
