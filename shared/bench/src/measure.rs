//! Processor time, rounds, medians.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, clock_gettime},
};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// How often everything is measured.
    pub(crate) runs: u16,
    /// The rounds of a run, in which the two that are compared take turns.
    pub(crate) rounds: usize,
    /// How long a server is under load in a round.
    pub(crate) load: Duration,
    /// How often something within this process is called in a round.
    pub(crate) calls: usize,
    /// The many tenants that a thousand are compared with.
    pub(crate) tenants: usize,
    /// Those who hear of changes.
    pub(crate) watchers: usize,
    /// How many changes there are in a run.
    pub(crate) changes: usize,
}

impl Effort {
    /// What a figure takes.
    pub(crate) fn of(runs: u16) -> Self {
        let load = Duration::from_millis(500);
        Self { runs, rounds: 10, load, calls: 100_000, tenants: 1_000_000, watchers: 1000, changes: 20 }
    }

    /// Just enough to see that all of it works.
    pub(crate) fn quick() -> Self {
        let load = Duration::from_millis(20);
        Self { runs: 1, rounds: 2, load, calls: 100, tenants: 2000, watchers: 5, changes: 2 }
    }
}

/// Which of two things that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Bare,
}

/// Whose turn it is, in that many rounds: each is first as often as the other.
pub(crate) fn turns(rounds: usize) -> impl Iterator<Item = Side> {
    (0..rounds).flat_map(|round| {
        if round.is_multiple_of(2) { [Side::Ours, Side::Bare] } else { [Side::Bare, Side::Ours] }
    })
}

/// Nanoseconds of the processor for each of so many calls, on this thread.
pub(crate) fn cost(calls: usize, mut call: impl FnMut()) -> f64 {
    let begun = thread_time();
    for _ in 0..calls {
        call();
    }
    nanos(thread_time().saturating_sub(begun)) / count(calls)
}

/// The processor time of this thread so far.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

/// The processor time of a process so far, all its threads together, in steps of a hundredth of a second.
///
/// # Errors
/// When there is no such process.
pub(crate) fn process_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("a process cannot be looked at")?;
    // proc(5): utime and stime are the 14th and 15th; the 2nd is the name in parentheses and may hold spaces.
    let ticks = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
    let ticks = ticks.context("a process has a name")?.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_secs(ticks) / u32::try_from(clock_ticks_per_second())?)
}

/// The middle one, or the mean of the two in the middle; zero where there are none.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value that this share of all is not above, in between where it falls between two; zero where there are none.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share.clamp(0.0, 1.0) * count(last);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to `last`")]
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

/// Nanoseconds.
pub(crate) fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// A number of things, to be calculated with.
#[expect(clippy::cast_precision_loss, reason = "what is counted here is far below 2^52")]
pub(crate) fn count(things: usize) -> f64 {
    things as f64
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn the_middle_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!((percentile(&[0.0, 10.0], 0.99) - 9.9).abs() < 1e-9);
        assert!((median(&[]) - 0.0).abs() < 1e-9);
    }

    #[test]
    fn each_side_is_first_as_often_as_the_other() {
        assert_eq!(turns(2).collect::<Vec<_>>(), [Side::Ours, Side::Bare, Side::Bare, Side::Ours]);
    }

    #[test]
    fn work_takes_processor_time_of_the_thread_and_of_the_process() {
        let (thread, process) = (thread_time(), process_time(std::process::id()).unwrap());
        while thread_time() < thread + Duration::from_millis(50) {
            black_box(0);
        }
        assert!(process_time(std::process::id()).unwrap() > process);
    }
}
