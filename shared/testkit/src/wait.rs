//! Waiting for a condition, with a bound. The one place in tests that lets time pass.

use std::{fmt::Debug, panic::Location, time::Duration};

use tokio::time::Instant;

/// How long to pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// What a condition may answer: `bool`, `Option<T>`, or `Result<T, E>`, whose last error is shown on a timeout.
pub trait Outcome {
    /// What [`eventually`] returns once the condition holds.
    type Found;

    /// The value, or why there is none yet.
    ///
    /// # Errors
    /// While the condition does not hold.
    fn found(self) -> Result<Self::Found, String>;
}

impl Outcome for bool {
    type Found = ();
    fn found(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("it was still false".to_owned()) }
    }
}

impl<T> Outcome for Option<T> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "it was still None".to_owned())
    }
}

impl<T, E: Debug> Outcome for Result<T, E> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.map_err(|error| format!("the last look said {error:?}"))
    }
}

/// Looks until `condition` holds and returns what it found.
///
/// The condition is looked at at least once, and not again after `timeout`. Each look is itself cut off at the timeout,
/// so a condition that hangs cannot hang the test. Under a paused tokio clock the pauses cost no real time.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::{sync::atomic::{AtomicU32, Ordering}, time::Duration};
/// let looks = AtomicU32::new(0);
/// pulse_testkit::eventually(Duration::from_secs(5), async || looks.fetch_add(1, Ordering::Relaxed) == 2).await;
/// # });
/// ```
///
/// # Panics
/// When the condition does not hold in time; the message names the caller's line and the last answer.
#[track_caller]
pub fn eventually<O: Outcome>(
    timeout: Duration,
    mut condition: impl AsyncFnMut() -> O,
) -> impl Future<Output = O::Found> {
    let caller = Location::caller();
    async move {
        let deadline = Instant::now() + timeout;
        let mut last = "it was never answered".to_owned();
        loop {
            let Ok(answer) = tokio::time::timeout_at(deadline, condition()).await else {
                panic!("{caller}: not within {timeout:?}: a look did not return; before that, {last}");
            };
            match answer.found() {
                Ok(found) => return found,
                Err(why) => last = why,
            }
            assert!(Instant::now() < deadline, "{caller}: not within {timeout:?}: {last}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn returns_what_it_finds() {
        let mut looks = 0;
        let found = eventually(Duration::from_secs(5), async || {
            looks += 1;
            (looks == 3).then_some("here")
        })
        .await;
        assert_eq!((found, looks), ("here", 3));
        eventually(Duration::from_secs(5), async || Ok::<_, String>(())).await;
    }

    #[tokio::test(flavor = "current_thread")]
    #[should_panic(expected = "the last look said \"connection refused\"")]
    async fn a_timeout_shows_the_last_answer() {
        eventually(Duration::from_millis(30), async || Err::<(), _>("connection refused")).await;
    }

    #[tokio::test(flavor = "current_thread")]
    #[should_panic(expected = "a look did not return")]
    async fn a_condition_that_hangs_is_cut_off() {
        eventually(Duration::from_millis(30), async || std::future::pending::<bool>().await).await;
    }
}
