//! Stopping in two phases, for every reason there is to stop.
//!
//! 1. **Draining**: readiness turns red, listeners accept nothing new, what is in flight goes on.
//! 2. **Aborted**: the grace is over; whatever still runs is dropped.
//!
//! What runs is spawned through [`Shutdown::spawn`] or [`Shutdown::spawn_service`], so that the process ends only
//! after it has, and never goes on half alive: a panic anywhere, or a service that ends before it was told to,
//! begins the shutdown and is what [`Shutdown::wait`] returns.
//!
//! Where one process runs services that call each other, [`Shutdown::behind`] makes them drain one after the other,
//! callers first, so that what is in flight in front still finds what it needs.

use std::{
    any::Any,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Why the process stops without having been told to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A service could not go on.
    #[error("{service} failed: {source:#}")]
    Failed {
        /// The service's name.
        service: &'static str,
        /// Why, with what led to it.
        source: anyhow::Error,
    },
    /// A service ended as if all were done.
    #[error("{service} ended before it was told to")]
    EndedEarly {
        /// The service's name.
        service: &'static str,
    },
    /// A service or task ran into a bug.
    #[error("{task} panicked: {message}")]
    Panicked {
        /// The name of the service or task.
        task: &'static str,
        /// What the panic said.
        message: String,
    },
}

/// A handle on the process's end; clones share it.
#[derive(Debug, Clone)]
pub struct Shutdown {
    draining: CancellationToken,
    tasks: TaskTracker,
    behind: Arc<OnceLock<Shutdown>>,
    process: Process,
}

/// What every tier of a process shares.
#[derive(Debug, Clone, Default)]
struct Process {
    /// The first phase of the foremost tier, with which everything begins.
    stopping: CancellationToken,
    aborted: CancellationToken,
    failure: Arc<Mutex<Option<Failure>>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        let process = Process::default();
        Self {
            draining: process.stopping.clone(),
            process,
            tasks: TaskTracker::new(),
            behind: Arc::default(),
        }
    }
}

impl Shutdown {
    /// A shutdown that [`Shutdown::trigger`] or a failure begins, and that only [`Shutdown::abort`] cuts short.
    pub fn new() -> Self {
        let process = Process::default();
        Self {
            draining: process.stopping.clone(),
            process,
            tasks: TaskTracker::new(),
            behind: Arc::default(),
        }
    }

    /// The shutdown of what stands behind this, such as the services that this one calls: its first phase begins when
    /// everything that was spawned here has ended. The second phase, and failures, are those of the whole process.
    /// Every call returns the same.
    #[must_use]
    pub fn behind(&self) -> Self {
        let behind = self.behind.get_or_init(|| Self {
            draining: CancellationToken::new(),
            tasks: TaskTracker::new(),
            behind: Arc::default(),
            process: self.process.clone(),
        });
        behind.clone()
    }

    /// A shutdown that SIGTERM or SIGINT begins too; what is still running after `grace`, or at a second signal,
    /// is aborted. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the signals cannot be listened to.
    pub fn on_signals(grace: Duration) -> std::io::Result<Self> {
        let shutdown = Self::new();
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let told = shutdown.clone();
        tokio::spawn(async move {
            let cause = tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
                () = told.draining() => "itself",
            };
            tracing::info!(cause, grace_seconds = grace.as_secs_f64(), "stopping");
            told.trigger();
            tokio::select! {
                () = tokio::time::sleep(grace) => tracing::warn!("the grace is over; what still runs is aborted"),
                _ = term.recv() => tracing::warn!("told again; what still runs is aborted"),
                _ = int.recv() => tracing::warn!("told again; what still runs is aborted"),
            }
            told.abort();
        });
        Ok(shutdown)
    }

    /// Begins the first phase.
    pub fn trigger(&self) {
        self.draining.cancel();
    }

    /// Begins the second phase.
    pub fn abort(&self) {
        self.draining.cancel();
        self.process.stopping.cancel();
        self.process.aborted.cancel();
    }

    /// Completes when the first phase begins.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static {
        self.draining.clone().cancelled_owned()
    }

    /// Completes when the second phase begins.
    pub fn aborted(&self) -> impl Future<Output = ()> + Send + 'static {
        self.process.aborted.clone().cancelled_owned()
    }

    /// Whether the first phase has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Runs a background task. It should watch [`Shutdown::draining`] and end by itself; it is dropped when the
    /// second phase begins. It may end earlier, but a panic in it stops the process.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.clone();
        self.tasks.spawn(async move {
            match shutdown.watch(name, task).await {
                Ok(Some(())) => tracing::debug!(task = name, "ended"),
                Ok(None) => {}
                Err(failure) => shutdown.fail(failure),
            }
        });
    }

    /// Runs something the process is there for: as [`Shutdown::spawn`], but its end stops the process, whether it
    /// fails, panics or ends without having been told to.
    pub fn spawn_service<E: Into<anyhow::Error>>(
        &self,
        name: &'static str,
        service: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let shutdown = self.clone();
        self.tasks.spawn(async move {
            match shutdown.watch(name, service).await {
                Ok(Some(Ok(()))) if shutdown.is_draining() => tracing::debug!(task = name, "ended"),
                Ok(Some(Ok(()))) => shutdown.fail(Failure::EndedEarly { service: name }),
                Ok(Some(Err(error))) => {
                    shutdown.fail(Failure::Failed { service: name, source: error.into() });
                }
                Ok(None) => {}
                Err(failure) => shutdown.fail(failure),
            }
        });
    }

    /// Waits until shutdown has begun and everything that was spawned has ended, here and then behind this.
    ///
    /// # Errors
    /// What stopped the process, when it was not told to stop. The first failure counts.
    pub async fn wait(&self) -> Result<(), Failure> {
        self.draining.cancelled().await;
        let mut tier = Some(self);
        while let Some(Self { draining, tasks, behind, .. }) = tier {
            draining.cancel();
            tasks.close();
            tasks.wait().await;
            tier = behind.get();
        }
        let failure = self.process.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), Err)
    }

    /// The outcome of `task`, or none when the second phase begins before.
    async fn watch<T>(
        &self,
        name: &'static str,
        task: impl Future<Output = T>,
    ) -> Result<Option<T>, Failure> {
        // What a panic leaves behind is never used again: the process stops.
        let task = AssertUnwindSafe(task).catch_unwind();
        tokio::select! {
            outcome = task => match outcome {
                Ok(outcome) => Ok(Some(outcome)),
                Err(panic) => Err(Failure::Panicked { task: name, message: panic_message(panic.as_ref()) }),
            },
            () = self.aborted() => {
                tracing::warn!(task = name, "aborted");
                Ok(None)
            }
        }
    }

    fn fail(&self, failure: Failure) {
        tracing::error!(cause = %failure, "stopping, because something that must run does not");
        self.process.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.process.stopping.cancel();
    }
}

/// What `panic!` was called with.
fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn never() -> std::future::Pending<Result<(), anyhow::Error>> {
        std::future::pending()
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_tasks_that_end_by_themselves() {
        let shutdown = Shutdown::new();
        let (draining, finished) = (shutdown.draining(), Arc::new(AtomicBool::new(false)));
        let done = Arc::clone(&finished);
        shutdown.spawn("finishes", async move {
            draining.await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            done.store(true, Ordering::SeqCst);
        });
        shutdown.spawn("has little to do", async {});
        assert!(!shutdown.is_draining());
        shutdown.trigger();
        shutdown.wait().await.unwrap();
        assert!(finished.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn drops_tasks_that_do_not_end_when_aborted() {
        let shutdown = Shutdown::new();
        shutdown.spawn("never ends", std::future::pending());
        shutdown.spawn_service("serves", never());
        shutdown.trigger();
        let early = tokio::time::timeout(Duration::from_mins(1), shutdown.wait()).await;
        assert!(early.is_err(), "wait() must not end while a task runs");
        shutdown.abort();
        shutdown.wait().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_grace_bounds_the_first_phase() {
        let grace = Duration::from_secs(20);
        let shutdown = Shutdown::on_signals(grace).unwrap();
        shutdown.spawn_service("never ends", never());
        let begin = tokio::time::Instant::now();
        shutdown.trigger();
        shutdown.wait().await.unwrap();
        let took = begin.elapsed();
        assert!(took >= grace && took < grace + Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_an_early_end_and_a_panic_each_stop_everything_and_say_why() {
        type End = fn() -> anyhow::Result<()>;
        let cases: [(End, &str); 3] = [
            (
                || Err(anyhow::anyhow!("disk full").context("cannot write")),
                "db failed: cannot write: disk full",
            ),
            (|| Ok(()), "db ended before it was told to"),
            (|| panic!("index {} out of bounds", 7), "db panicked: index 7 out of bounds"),
        ];
        for (ends, expected) in cases {
            let shutdown = Shutdown::new();
            let draining = shutdown.draining();
            shutdown.spawn_service("other", async move {
                draining.await;
                Ok::<_, anyhow::Error>(())
            });
            shutdown.spawn_service("db", async move { ends() });
            assert_eq!(shutdown.wait().await.unwrap_err().to_string(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_a_background_task_stops_the_process() {
        let shutdown = Shutdown::new();
        shutdown.spawn("reaper", async { panic!("no such row") });
        let failure = shutdown.wait().await.unwrap_err();
        assert_eq!(failure.to_string(), "reaper panicked: no such row");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_behind_drains_when_what_is_in_front_has_ended() {
        let edge = Shutdown::new();
        let store = edge.behind();
        let order = Arc::new(Mutex::new(Vec::new()));
        for (name, shutdown, takes) in [("edge", &edge, 5), ("store", &store, 1)] {
            let (draining, order) = (shutdown.draining(), Arc::clone(&order));
            shutdown.spawn_service(name, async move {
                draining.await;
                order.lock().unwrap().push(format!("{name} drains"));
                tokio::time::sleep(Duration::from_secs(takes)).await;
                order.lock().unwrap().push(format!("{name} ended"));
                Ok::<_, anyhow::Error>(())
            });
        }
        edge.trigger();
        edge.wait().await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["edge drains", "edge ended", "store drains", "store ended"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_behind_stops_everything_and_an_abort_ends_it() {
        let edge = Shutdown::new();
        edge.behind().spawn_service("store", async { Err(anyhow::anyhow!("disk full")) });
        edge.behind().spawn_service("other", never());
        edge.spawn_service("edge", never());
        edge.draining().await;
        assert!(!edge.behind().is_draining(), "not before what is in front has ended");
        edge.abort();
        assert_eq!(edge.wait().await.unwrap_err().to_string(), "store failed: disk full");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_counts() {
        let shutdown = Shutdown::new();
        let draining = shutdown.draining();
        shutdown.spawn_service("second", async move {
            draining.await;
            Err(anyhow::anyhow!("peer gone"))
        });
        shutdown.spawn_service("first", async { Err(anyhow::anyhow!("cause")) });
        assert_eq!(shutdown.wait().await.unwrap_err().to_string(), "first failed: cause");
    }
}
