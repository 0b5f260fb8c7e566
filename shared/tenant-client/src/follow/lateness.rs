//! How late a heartbeat is heard: by how much its way here took longer than that of the quickest one. Pure.

use std::time::Duration;

use jiff::Timestamp;

/// The heartbeats of one connection.
///
/// The server's clock and this process's may differ by anything, so they are not compared: what counts is by how much they
/// drift apart. Whatever keeps a heartbeat from being heard does that: a process that was frozen, or a network that holds
/// back what was sent.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    /// The least that ever was between a heartbeat's time and when it was heard, in microseconds.
    least: Option<i64>,
}

impl Lateness {
    /// How late a heartbeat is that was sent at `server_time`, by the server's clock, and `heard` by this process's.
    pub(super) fn of(&mut self, server_time: Timestamp, heard: Timestamp) -> Duration {
        let took = heard.as_microsecond().saturating_sub(server_time.as_microsecond());
        let least = self.least.map_or(took, |least| least.min(took));
        self.least = Some(least);
        Duration::from_micros(took.abs_diff(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_as_late_as_its_way_took_longer_than_that_of_the_quickest() {
        let mut lateness = Lateness::default();
        let mut late = |sent: i64, heard: i64| {
            let at = |second| Timestamp::from_second(second).unwrap();
            lateness.of(at(sent), at(heard)).as_secs()
        };
        // The server's clock is a thousand seconds ahead, which tells nothing.
        assert_eq!(late(2000, 1003), 0);
        assert_eq!(late(2005, 1006), 0, "this one was quicker");
        assert_eq!(late(2010, 1013), 2);
        assert_eq!(late(2015, 1616), 600, "nobody listened for ten minutes");
        assert_eq!(late(2615, 1616), 0);
        assert_eq!(late(2600, 1621), 20, "the server's clock was set back, for all that is known");
    }
}
