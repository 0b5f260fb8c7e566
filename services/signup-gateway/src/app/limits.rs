//! How often a client may call, and how often sign up. Both limits let a client that has been quiet use its whole
//! allowance at once, and then one more each time an equal share of the window has passed.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use pulse_kernel::{Clock, Quota};
use pulse_rpc::{ClientKey, KeyedLimiter, limit::DEFAULT_MAX_KEYS};
use pulse_runtime::Shutdown;

use crate::{Config, error::SignUpError};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// The limits by client.
#[derive(Debug)]
pub(crate) struct Limits {
    requests: Limit,
    sign_ups: Limit,
}

impl Limits {
    pub(crate) fn new(config: &Config, clock: &Arc<dyn Clock>) -> Self {
        Self {
            requests: Limit::new("requests", config.request_limit_per_minute, MINUTE, clock),
            sign_ups: Limit::new("signup", config.signup.signup_limit_per_hour, HOUR, clock),
        }
    }

    /// Counts a request of any kind.
    pub(crate) fn check_request(&self, client: &ClientKey) -> Result<(), SignUpError> {
        self.requests.check(client)
    }

    /// Counts a signup.
    pub(crate) fn check_sign_up(&self, client: &ClientKey) -> Result<(), SignUpError> {
        self.sign_ups.check(client)
    }

    /// Forgets clients that no longer matter, every minute.
    pub(crate) fn sweep_in_background(&self, shutdown: &Shutdown) {
        self.requests.limiter.sweep_in_background(shutdown);
        self.sign_ups.limiter.sweep_in_background(shutdown);
    }
}

#[derive(Debug)]
struct Limit {
    policy: &'static str,
    limiter: Arc<KeyedLimiter<ClientKey>>,
}

impl Limit {
    fn new(policy: &'static str, limit: NonZeroU32, window: Duration, clock: &Arc<dyn Clock>) -> Self {
        let limiter = KeyedLimiter::new(limit, window, DEFAULT_MAX_KEYS, Arc::clone(clock));
        Self { policy, limiter: Arc::new(limiter) }
    }

    fn check(&self, client: &ClientKey) -> Result<(), SignUpError> {
        self.limiter.check(client).map_err(|exceeded| SignUpError::RateLimited {
            quota: Quota {
                policy: self.policy.to_owned(),
                limit: self.limiter.limit(),
                window_seconds: self.limiter.window().as_secs(),
            },
            retry_after: exceeded.retry_after,
        })
    }
}

#[cfg(test)]
mod tests {
    use pulse_runtime::settings::try_parse_from;
    use pulse_testkit::{ManualClock, eventually};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clients_are_forgotten_once_their_allowance_is_whole() {
        let config: Config = try_parse_from(["pulse-signup-gateway"]).unwrap();
        let clock = ManualClock::default();
        let limits = Limits::new(&config, &(Arc::new(clock.clone()) as Arc<dyn Clock>));
        let shutdown = Shutdown::new();
        limits.sweep_in_background(&shutdown);
        for host in 0..200 {
            let client = ClientKey::V4([192, 0, 2, host].into());
            limits.check_request(&client).unwrap();
            limits.check_sign_up(&client).unwrap();
        }
        let kept = || (limits.requests.limiter.len(), limits.sign_ups.limiter.len());
        assert_eq!(kept(), (200, 200));
        clock.advance(MINUTE);
        eventually(MINUTE * 2, async || kept() == (0, 200)).await;
        clock.advance(HOUR);
        eventually(MINUTE * 2, async || kept() == (0, 0)).await;
        shutdown.trigger();
        shutdown.wait().await.unwrap();
    }
}
