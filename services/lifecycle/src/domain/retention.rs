//! How long a deleted organization can be restored.

use std::{fmt, str::FromStr};

use jiff::{SignedDuration, Timestamp};
use pulse_kernel::{ApiError, Reason};

/// The longest retention, in days: ten years.
const MAX_DAYS: f64 = 3650.0;

const MICROS_PER_DAY: f64 = 86_400e6;

/// A length of time in days, more than 0 and at most 3650; fractions are possible.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Retention(f64);

impl Retention {
    /// Reads a number of days.
    ///
    /// # Errors
    /// `INVALID_RETENTION_DAYS` naming `retention_days`.
    pub fn from_days(days: f64) -> Result<Self, ApiError> {
        // Said so that NaN is refused too.
        if days > 0.0 && days <= MAX_DAYS {
            return Ok(Self(days));
        }
        let why = "must be more than 0 and at most 3650";
        Err(ApiError::field(Reason::InvalidRetentionDays, "retention_days", why))
    }

    /// The number of days.
    pub fn days(self) -> f64 {
        self.0
    }

    /// When a retention that begins at `start` is over: to the microsecond, and always after `start`.
    pub fn ends(self, start: Timestamp) -> Timestamp {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most ten years of microseconds, far within i64"
        )]
        let micros = (self.0 * MICROS_PER_DAY) as i64;
        start.saturating_add(SignedDuration::from_micros(micros.max(1))).unwrap_or(Timestamp::MAX)
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// As a setting.
impl FromStr for Retention {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let days = text.parse().ok().and_then(|days| Self::from_days(days).ok());
        days.ok_or("expected a number of days, more than 0 and at most 3650")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_not_a_length_of_time() {
        for days in [0.0, -0.0, -1.0, 3650.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = Retention::from_days(days).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidRetentionDays, "{days}");
        }
        for text in ["", "0", "30d", "nan", "-1", "99999"] {
            assert!(text.parse::<Retention>().is_err(), "{text}");
        }
        assert_eq!("0.5".parse::<Retention>().unwrap().to_string(), "0.5");
        assert_eq!("30".parse::<Retention>().unwrap().to_string(), "30");
    }

    #[test]
    fn ends_after_that_many_days() {
        let start = Timestamp::constant(1_700_000_000, 0);
        let ends = |days| Retention::from_days(days).unwrap().ends(start).duration_since(start);
        assert_eq!(ends(30.0), SignedDuration::from_hours(30 * 24));
        assert_eq!(ends(0.5), SignedDuration::from_hours(12));
    }

    proptest! {
        #[test]
        fn always_ends_after_its_start(days in prop_oneof![1e-300..1e-3, 1e-3..3650.0], second in 0_i64..4_000_000_000) {
            let start = Timestamp::from_second(second).unwrap();
            prop_assert!(Retention::from_days(days).unwrap().ends(start) > start);
        }
    }
}
