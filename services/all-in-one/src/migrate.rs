//! `migrate`: brings what every service has in PostgreSQL up to date. It may be repeated, and several may do it at once.

use anyhow::Context as _;

use crate::cli::Config;

/// Brings every service's schema up to date; says what each is then, a line for each.
///
/// # Errors
/// When there is no database, or its user may not; those before it are up to date then.
pub(crate) async fn every_schema(config: &Config) -> anyhow::Result<String> {
    let lines = [
        pulse_lifecycle::migrate(&config.lifecycle()).await.context("lifecycle")?,
        pulse_provisioner::migrate(&config.provisioner()).await.context("provisioner")?,
        pulse_billing_state::migrate(&config.billing_state()).await.context("billing-state")?,
        pulse_signup_gateway::migrate(&config.signup_gateway()).await.context("signup-gateway")?,
    ];
    Ok(lines.join("\n"))
}
