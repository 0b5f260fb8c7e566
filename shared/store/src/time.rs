//! How instants are stored: whole microseconds since the Unix epoch, UTC, which every backend can hold exactly.

use jiff::{Timestamp, Unit};

/// The instant as stored: microseconds since the Unix epoch.
pub fn to_micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// The instant a stored number stands for.
///
/// # Errors
/// A decoding error when the number lies outside the range of [`Timestamp`].
pub fn from_micros(micros: i64) -> Result<Timestamp, sqlx::Error> {
    Timestamp::from_microsecond(micros).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// The instant without what cannot be stored, so that a value reads back as it was written.
#[must_use]
pub fn truncate(at: Timestamp) -> Timestamp {
    let options = jiff::TimestampRound::new().smallest(Unit::Microsecond).mode(jiff::RoundMode::Trunc);
    // Truncating towards zero never leaves the range of `Timestamp`.
    at.round(options).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_truncated_reads_back_equal(second in -377_705_000_000_i64..253_402_000_000, nanos in 0..1_000_000_000) {
            let at = truncate(Timestamp::new(second, nanos).unwrap());
            prop_assert_eq!(from_micros(to_micros(at)).unwrap(), at);
            prop_assert_eq!(truncate(at), at);
        }
    }
}
