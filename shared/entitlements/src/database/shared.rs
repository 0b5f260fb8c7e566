//! Values that many tenants have in common, held once.

use std::{collections::HashSet, hash::Hash, sync::Arc};

/// Equal values, held once: thousands of tenants on a plan share its name and grants.
#[derive(Debug)]
pub(super) struct Shared<T>(HashSet<Arc<T>>);

impl<T: Hash + Eq> Shared<T> {
    /// Beyond so many distinct values those that nobody uses any more are let go.
    const TIDY_ABOVE: usize = 1024;

    /// The value, or the equal one that is there.
    pub(super) fn share(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.0.get(&value) {
            return known.clone();
        }
        if self.0.len() >= Self::TIDY_ABOVE && self.0.len().is_power_of_two() {
            self.0.retain(|value| Arc::strong_count(value) > 1);
        }
        self.0.insert(value.clone());
        value
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(HashSet::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_unused_ones_are_let_go() {
        let mut shared = Shared::default();
        let first = shared.share(Arc::new(7_usize));
        assert!(Arc::ptr_eq(&first, &shared.share(Arc::new(7))));
        for value in 0..10_000 {
            shared.share(Arc::new(value));
        }
        assert!(shared.0.len() <= 2 * Shared::<usize>::TIDY_ABOVE, "{}", shared.0.len());
        assert!(Arc::ptr_eq(&first, &shared.share(Arc::new(7))));
    }
}
