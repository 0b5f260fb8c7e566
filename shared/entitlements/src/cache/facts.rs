//! [`Facts`]: what a cache holds, where that comes from, and what it is worth.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use pulse_kernel::OrgId;

/// What a cache holds, where that comes from, and what it is worth: all that tells one cache from another.
#[async_trait]
pub trait Facts: fmt::Debug + Send + Sync + 'static {
    /// What is known of one tenant. Cheap to clone, as every hit does.
    type Fact: fmt::Debug + Clone + Send + Sync + 'static;
    /// What the store says.
    type Lookup: Send + 'static;

    /// Asks the store.
    ///
    /// # Errors
    /// When it cannot tell.
    async fn read(&self, org: &OrgId) -> Result<Reading<Self::Lookup>, ReadError<Self::Lookup>>;

    /// What it amounts to that the store said so, `at` that time.
    fn learn(&self, org: &OrgId, lookup: Self::Lookup, at: Timestamp) -> Self::Fact;

    /// What is known once `new` was told and `known` was known before; none where that stands, as `new` is older.
    fn after(&self, known: &Self::Fact, new: Self::Fact, told: Told) -> Option<Self::Fact>;

    /// Whether a tenant of which this is forgotten could be let do more than it may.
    fn must_be_remembered(&self, fact: &Self::Fact) -> bool;

    /// Whether it closes the tenant, so that whoever hears of it had better know at once.
    fn closes(&self, fact: &Self::Fact) -> bool;

    /// Whether the fact still holds at `now`, by time alone.
    fn holds_at(&self, fact: &Self::Fact, now: Timestamp) -> bool {
        let _ = (fact, now);
        true
    }

    /// What became of it where it does not.
    fn carried_to(&self, fact: &Self::Fact, now: Timestamp) -> Self::Fact {
        let _ = now;
        fact.clone()
    }

    /// How long the fact is served without asking the store again; `usual` and no longer.
    fn refresh(&self, fact: &Self::Fact, usual: Duration) -> Duration {
        let _ = fact;
        usual
    }
}

/// How something became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The store was read.
    ByRead,
    /// The store was read since the feed began again, and what is known is from before: the store itself may have gone back.
    ByReadAnew,
    /// Whoever follows the store's changes said so.
    ByUpdate,
    /// Somebody said so who had read it a while ago, or began to before what is known was so.
    ByMemory,
    /// A store that cannot be read found it in its own history.
    ByHistory,
}

/// What the store says.
#[derive(Debug, Clone)]
pub struct Reading<L> {
    /// What it says.
    pub lookup: L,
    /// How long ago that was so, at the most, when it was asked. Not zero either where somebody else's look into the store
    /// was joined that had begun before.
    pub age: Duration,
    /// Whether it is out of somebody's memory, and the store was not looked into.
    pub is_recalled: bool,
}

impl<L> Reading<L> {
    /// Out of the store itself.
    pub const fn fresh(lookup: L) -> Self {
        Self { lookup, age: Duration::ZERO, is_recalled: false }
    }
}

/// The store did not say.
#[derive(Debug, Clone)]
pub struct ReadError<L> {
    /// What went wrong, for the log.
    pub message: String,
    /// What the store last said, where it knows that itself.
    pub last_known: Option<L>,
}
