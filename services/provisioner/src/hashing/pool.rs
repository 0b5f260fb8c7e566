//! The queue in front of the hashing threads.

use std::{
    fmt,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
};

use pulse_kernel::{Entropy, Password};
use tokio::sync::oneshot;

use super::hasher::{Hasher, HasherError, OUTPUT_BYTES, SALT_BYTES, unmatched};
use crate::domain::PasswordHash;

/// How many jobs may wait for each thread when nothing else is set: about a second of work.
const QUEUE_PER_THREAD: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// How much hashing there may be.
#[derive(Debug, Clone, Copy)]
pub struct HashingSettings {
    /// How many threads hash; each holds 19 MiB of memory.
    pub threads: NonZeroUsize,
    /// How many jobs may wait for a thread; one more is refused.
    pub queue: NonZeroUsize,
}

impl HashingSettings {
    /// A thread for each core, and a queue of about a second's work, where not set.
    pub fn new(threads: Option<NonZeroUsize>, queue: Option<NonZeroUsize>) -> Self {
        let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = threads.unwrap_or_else(cores);
        Self { threads, queue: queue.unwrap_or_else(|| threads.saturating_mul(QUEUE_PER_THREAD)) }
    }
}

/// Why there is no hash, or no answer to whether a password matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashingError {
    /// The queue is full; nothing was done.
    #[error("too many passwords are waiting to be hashed")]
    Overloaded,
    /// The stored hash cannot be read.
    #[error("a stored password hash cannot be read")]
    Malformed,
    /// The computation failed, or the threads are gone.
    #[error("the password could not be hashed")]
    Failed,
}

impl From<HasherError> for HashingError {
    fn from(error: HasherError) -> Self {
        match error {
            HasherError::Malformed => Self::Malformed,
            HasherError::Failed => Self::Failed,
        }
    }
}

/// The hashing threads and their queue. Dropped, it lets the threads finish what is queued and end.
pub struct HashingPool {
    queue: SyncSender<Job>,
    waiting: Arc<AtomicUsize>,
    entropy: Arc<dyn Entropy>,
    unmatched: PasswordHash,
}

impl HashingPool {
    /// Starts the threads and allocates their memory.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(settings: HashingSettings, entropy: Arc<dyn Entropy>) -> std::io::Result<Self> {
        let failed = |_| std::io::Error::other("the hashing parameters are not accepted");
        let (queue, jobs) = mpsc::sync_channel(settings.queue.get());
        let jobs = Arc::new(Mutex::new(jobs));
        let waiting = Arc::new(AtomicUsize::new(0));
        for index in 0..settings.threads.get() {
            let (jobs, waiting) = (Arc::clone(&jobs), Arc::clone(&waiting));
            let mut hasher = Hasher::new().map_err(failed)?;
            thread::Builder::new()
                .name(format!("hash-{index}"))
                .spawn(move || work(&mut hasher, &jobs, &waiting))?;
        }
        let (mut salt, mut output) = ([0; SALT_BYTES], [0; OUTPUT_BYTES]);
        entropy.fill(&mut salt);
        entropy.fill(&mut output);
        Ok(Self { queue, waiting, entropy, unmatched: unmatched(salt, output).map_err(failed)? })
    }

    /// Hashes a new password with a salt of its own. When the caller stops waiting before a thread has taken it up,
    /// nothing is computed.
    ///
    /// # Errors
    /// `Overloaded` at once when the queue is full.
    pub async fn hash(&self, password: Arc<Password>) -> Result<PasswordHash, HashingError> {
        let mut salt = [0; SALT_BYTES];
        self.entropy.fill(&mut salt);
        let (caller, answer) = oneshot::channel();
        self.enqueue(Job { password, task: Task::Hash { salt, caller } })?;
        answer.await.unwrap_or(Err(HashingError::Failed))
    }

    /// Whether the password is the one that was hashed. Without a hash, for an account that does not exist, it does the
    /// same work and says no.
    ///
    /// # Errors
    /// `Overloaded` at once when the queue is full; `Malformed` when the hash cannot be read.
    pub async fn verify(
        &self,
        password: Arc<Password>,
        hash: Option<PasswordHash>,
    ) -> Result<bool, HashingError> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.unmatched.clone());
        let (caller, answer) = oneshot::channel();
        self.enqueue(Job { password, task: Task::Verify { hash, caller } })?;
        let matches = answer.await.unwrap_or(Err(HashingError::Failed))?;
        Ok(known && matches)
    }

    /// How many jobs wait for a thread; clones stay current.
    pub fn waiting(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.waiting)
    }

    fn enqueue(&self, job: Job) -> Result<(), HashingError> {
        // Counted first: a thread may take the job up before `try_send` returns.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.queue.try_send(job).map_err(|refused| {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            match refused {
                TrySendError::Full(_) => HashingError::Overloaded,
                TrySendError::Disconnected(_) => HashingError::Failed,
            }
        })
    }
}

impl fmt::Debug for HashingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashingPool").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

struct Job {
    password: Arc<Password>,
    task: Task,
}

enum Task {
    Hash { salt: [u8; SALT_BYTES], caller: oneshot::Sender<Result<PasswordHash, HashingError>> },
    Verify { hash: PasswordHash, caller: oneshot::Sender<Result<bool, HashingError>> },
}

impl Job {
    fn run(self, hasher: &mut Hasher) {
        let password = self.password.expose_bytes();
        match self.task {
            Task::Hash { salt, caller } => answer(caller, || hasher.hash(password, salt)),
            Task::Verify { hash, caller } => answer(caller, || hasher.verify(password, &hash)),
        }
    }
}

/// Computes for a caller that still waits, and survives a panic of the computation.
fn answer<T>(
    caller: oneshot::Sender<Result<T, HashingError>>,
    compute: impl FnOnce() -> Result<T, HasherError>,
) {
    if caller.is_closed() {
        return;
    }
    // The memory that a panic leaves half-filled is overwritten by the next hash.
    let result = catch_unwind(AssertUnwindSafe(compute));
    let result = result.map_or(Err(HashingError::Failed), |computed| computed.map_err(Into::into));
    // The caller may have gone meanwhile.
    caller.send(result).ok();
}

fn work(hasher: &mut Hasher, jobs: &Mutex<Receiver<Job>>, waiting: &AtomicUsize) {
    loop {
        // One thread waits for the next job, the others for the lock; nothing can panic while it is held.
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        waiting.fetch_sub(1, Ordering::Relaxed);
        job.run(hasher);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use futures::FutureExt as _;
    use pulse_kernel::OsEntropy;

    use super::*;

    fn password(text: &str) -> Arc<Password> {
        Arc::new(Password::to_verify(text.into()).unwrap())
    }

    fn pool(threads: usize, queue: usize) -> HashingPool {
        let bound = |n| NonZeroUsize::new(n).unwrap();
        let settings = HashingSettings { threads: bound(threads), queue: bound(queue) };
        HashingPool::start(settings, Arc::new(OsEntropy)).unwrap()
    }

    /// Begins a call, so that its job is queued, without waiting for it.
    fn begin<T>(call: impl Future<Output = T> + Send) -> impl Future<Output = T> + Send
    where
        T: fmt::Debug + Send,
    {
        let mut call = Box::pin(call);
        assert!((&mut call).now_or_never().is_none());
        call
    }

    #[tokio::test]
    async fn verifies_what_it_hashed_and_nothing_else() {
        let pool = pool(2, 8);
        let hash = pool.hash(password("correct horse")).await.unwrap();
        assert_eq!(pool.verify(password("correct horse"), Some(hash.clone())).await, Ok(true));
        assert_eq!(pool.verify(password("correct horsf"), Some(hash.clone())).await, Ok(false));
        assert_eq!(pool.verify(password("correct horse"), None).await, Ok(false));
        let again = pool.hash(password("correct horse")).await.unwrap();
        assert_ne!(again.expose_phc(), hash.expose_phc(), "every hash has a salt of its own");
    }

    #[tokio::test]
    async fn a_full_queue_sheds_at_once_and_the_rest_is_served() {
        let pool = pool(1, 4);
        let mut calls = Vec::new();
        let refused = loop {
            let mut call = Box::pin(pool.hash(password("correct horse")));
            match (&mut call).now_or_never() {
                None => calls.push(call),
                Some(outcome) => break outcome,
            }
            assert!(calls.len() < 100, "the queue has no bound");
        };
        assert_eq!(refused.unwrap_err(), HashingError::Overloaded);
        assert!(calls.len() >= 4, "four wait, others may run already");
        for call in calls {
            call.await.unwrap();
        }
        assert_eq!(pool.waiting().load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_job_whose_caller_has_gone_is_not_computed() {
        let mut hasher = Hasher::new().unwrap();
        let (caller, answer) = oneshot::channel();
        drop(answer);
        Job { password: password("x"), task: Task::Hash { salt: [0; SALT_BYTES], caller } }.run(&mut hasher);
        let computed = std::cell::Cell::new(false);
        let (caller, gone) = oneshot::channel::<Result<(), _>>();
        drop(gone);
        super::answer(caller, || {
            computed.set(true);
            Ok(())
        });
        assert!(!computed.get());

        let pool = pool(1, 2);
        let kept = begin(pool.hash(password("kept")));
        drop(begin(pool.hash(password("given up"))));
        kept.await.unwrap();
        pool.hash(password("next")).await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_thread_lives_on() {
        let (caller, answer) = oneshot::channel::<Result<(), _>>();
        super::answer(caller, || panic!("planted"));
        assert_eq!(answer.await.unwrap(), Err(HashingError::Failed));
    }

    #[tokio::test]
    async fn a_stored_hash_that_cannot_be_read_is_an_error_not_a_mismatch() {
        let outcome = pool(1, 1).verify(password("x"), Some(PasswordHash::from_phc("nonsense"))).await;
        assert_eq!(outcome, Err(HashingError::Malformed));
    }

    #[test]
    fn debug_shows_neither_password_nor_hash() {
        let shown = format!("{:?}", pool(1, 1));
        assert!(!shown.contains("argon2id"), "{shown}");
    }
}
