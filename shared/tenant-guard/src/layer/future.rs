//! The answer on its way: at once where it takes no waiting, and only who has to wait pays for a box.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

/// The answer of who has to wait.
type Waiting<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

pin_project! {
    /// The answer of a guarded service, or of its guard.
    pub struct GuardFuture<F, R, E> {
        #[pin]
        step: Step<F, R, E>,
    }
}

pin_project! {
    #[project = Project]
    enum Step<F, R, E> {
        Passed { #[pin] inner: F },
        Refused { answer: Option<R> },
        Waiting { waiting: Waiting<R, E> },
    }
}

impl<F, R, E> GuardFuture<F, R, E> {
    /// It was let in at once; this is the service's answer.
    pub(super) fn passed(inner: F) -> Self {
        Self { step: Step::Passed { inner } }
    }

    /// It was refused at once.
    pub(super) fn refused(answer: R) -> Self {
        Self { step: Step::Refused { answer: Some(answer) } }
    }

    /// The guard has to wait for what it is to know.
    pub(super) fn waiting(waiting: Waiting<R, E>) -> Self {
        Self { step: Step::Waiting { waiting } }
    }
}

impl<F, R, E> fmt::Debug for GuardFuture<F, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.step {
            Step::Passed { .. } => "GuardFuture(Passed)",
            Step::Refused { .. } => "GuardFuture(Refused)",
            Step::Waiting { .. } => "GuardFuture(Waiting)",
        })
    }
}

impl<F, R, E> Future for GuardFuture<F, R, E>
where
    F: Future<Output = Result<R, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().step.project() {
            Project::Passed { inner } => inner.poll(cx),
            Project::Waiting { waiting } => waiting.as_mut().poll(cx),
            // Once answered, nothing more comes.
            Project::Refused { answer } => {
                answer.take().map_or(Poll::Pending, |answer| Poll::Ready(Ok(answer)))
            }
        }
    }
}
