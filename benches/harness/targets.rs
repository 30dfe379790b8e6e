//! Targets: ratios that the project has set itself, printed beside what this run says.
//!
//! Nothing is asserted, since nothing about time holds on every machine. A target that is missed is
//! printed like one that is reached.

/// A ratio of times that is not to be exceeded.
pub struct Target {
    /// Number of its row in the table of targets.
    pub number: u32,
    /// What is judged.
    pub variant: &'static str,
    pub bytes: usize,
    /// What it is divided by.
    pub base: &'static str,
    pub base_bytes: usize,
    pub most: f64,
    /// Whether the 99th percentiles are compared, and not the figures.
    pub is_of_tails: bool,
}

impl Target {
    /// Judges a variant by another one at the same payload.
    pub fn same(
        number: u32,
        variant: &'static str,
        base: &'static str,
        bytes: usize,
        most: f64,
    ) -> Self {
        Self::limit(number, (variant, bytes), (base, bytes), most)
    }

    /// Judges the 99th percentile of a variant by that of another one.
    pub fn tails(
        number: u32,
        variant: &'static str,
        base: &'static str,
        bytes: usize,
        most: f64,
    ) -> Self {
        Self { is_of_tails: true, ..Self::same(number, variant, base, bytes, most) }
    }

    /// Judges a variant by a limit that has a payload of its own.
    pub fn limit(
        number: u32,
        (variant, bytes): (&'static str, usize),
        (base, base_bytes): (&'static str, usize),
        most: f64,
    ) -> Self {
        Self { number, variant, bytes, base, base_bytes, most, is_of_tails: false }
    }

    /// Puts the target and the measured ratio in one line.
    pub fn describe(&self, ratio: f64) -> String {
        let Self { number, variant, bytes, base, base_bytes, most, is_of_tails } = self;
        let what = if *is_of_tails { " at p99" } else { "" };
        let verdict = if ratio <= *most { "reached" } else { "missed" };
        format!(
            "target {number}: {variant}/{bytes} takes{what} {ratio:.2} times {base}/{base_bytes}, \
             at most {most:.2}: {verdict}"
        )
    }
}
