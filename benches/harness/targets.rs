//! Targets: ratios that the project has set itself, printed beside what this run says. The numbers
//! are those of the table in `docs/performance-notes.md#targets`.
//!
//! Nothing is asserted, since nothing about time holds on every machine. A target that is missed is
//! printed like one that is reached.

/// A ratio of times that is not to be exceeded.
pub struct Target {
    /// Its row in the table of targets.
    pub number: &'static str,
    /// What is judged.
    pub variant: &'static str,
    pub bytes: usize,
    /// What it is divided by.
    pub base: &'static str,
    pub base_bytes: usize,
    pub most: f64,
    /// What would be better still.
    pub stretch: Option<f64>,
    /// Whether the 99th percentiles are compared, and not the figures.
    pub is_of_tails: bool,
}

impl Target {
    /// Judges a variant by another one at the same payload.
    pub fn same(
        number: &'static str,
        variant: &'static str,
        base: &'static str,
        bytes: usize,
        most: f64,
    ) -> Self {
        Self::limit(number, (variant, bytes), (base, bytes), most)
    }

    /// Judges the 99th percentile of a variant by that of another one.
    pub fn tails(
        number: &'static str,
        variant: &'static str,
        base: &'static str,
        bytes: usize,
        most: f64,
    ) -> Self {
        Self { is_of_tails: true, ..Self::same(number, variant, base, bytes, most) }
    }

    /// Judges a variant by a limit that has a payload of its own.
    pub fn limit(
        number: &'static str,
        (variant, bytes): (&'static str, usize),
        (base, base_bytes): (&'static str, usize),
        most: f64,
    ) -> Self {
        Self { number, variant, bytes, base, base_bytes, most, stretch: None, is_of_tails: false }
    }

    /// Adds what would be better still.
    pub fn or(self, stretch: f64) -> Self {
        Self { stretch: Some(stretch), ..self }
    }

    /// Puts the target and the measured ratio in one line; without a ratio, that there is none.
    pub fn describe(&self, ratio: Option<f64>) -> String {
        let Self { number, variant, bytes, base, base_bytes, most, stretch, is_of_tails } = self;
        let what = if *is_of_tails { " at p99" } else { "" };
        let begin = format!("target {number}: {variant}/{bytes}");
        let against = format!("{base}/{base_bytes}, at most {most:.2}");
        let Some(ratio) = ratio else {
            return format!("{begin} compared with {against}: not measured in this run");
        };
        let mut text =
            format!("{begin} takes{what} {ratio:.2} times {against}: {}", verdict(ratio <= *most));
        if let Some(stretch) = stretch {
            text += &format!("; stretch {stretch:.2}: {}", verdict(ratio <= *stretch));
        }
        text
    }
}

/// The word for a target that a run reaches, or does not.
pub fn verdict(is_reached: bool) -> &'static str {
    if is_reached { "reached" } else { "missed" }
}
