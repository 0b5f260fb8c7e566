//! The order of things: whatever costs least to refuse is refused first.
//!
//! | module | holds |
//! |---|---|
//! | [`limits`] | how often a client may call, and how often sign up |
//! | [`metrics`] | what came of the attempts |

pub(crate) mod limits;
pub(crate) mod metrics;

use pulse_kernel::PasswordPolicy;

use self::{limits::Limits, metrics::Metrics};
use crate::{
    clients::Provisioner,
    domain::{RawSignUp, Tenant},
    error::SignUpError,
};

/// Signs strangers up.
#[derive(Debug)]
pub(crate) struct SignUps {
    limits: Limits,
    policy: PasswordPolicy,
    provisioner: Provisioner,
    metrics: Metrics,
}

impl SignUps {
    pub(crate) fn new(limits: Limits, policy: PasswordPolicy, provisioner: Provisioner) -> Self {
        Self { limits, policy, provisioner, metrics: Metrics::new() }
    }

    /// Makes a tenant, or finds the one that this owner has.
    pub(crate) async fn sign_up(&self, raw: RawSignUp) -> Result<Tenant, SignUpError> {
        let attempt = self.metrics.attempt();
        let outcome = self.try_sign_up(raw).await;
        attempt.ended(&outcome);
        outcome
    }

    async fn try_sign_up(&self, raw: RawSignUp) -> Result<Tenant, SignUpError> {
        let client = pulse_rpc::client_key(raw.client_ip().map_err(SignUpError::Invalid)?);
        self.limits.check_request(&client)?;
        let sign_up = raw.check(self.policy).map_err(SignUpError::Invalid)?;
        // After the validation: a mistyped form does not use up the hour's signups.
        self.limits.check_sign_up(client).await?;
        self.provisioner.provision(sign_up).await
    }
}
