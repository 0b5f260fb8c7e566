//! What operators see, and what they set going. Every change is recorded in the commit that makes it.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use pulse_kernel::{OrgId, UserId};
use pulse_store::audit::{AuditDraft, AuditRecord};
use serde_json::{Value, json};

use super::{App, Page};
use crate::{
    domain::Roles,
    error::ProvisionerError,
    saga::{Saga, SagaId, Subject, plan},
    store::{Advance, AdvanceError, Effect, RoleChange, SagaCursor, SagaQuery},
};

/// How often a journal row that changes meanwhile is read again.
const TRIES: usize = 5;

/// An operator, and why they do what they do.
#[derive(Debug, Clone)]
pub struct Order {
    /// The name of the operator's token.
    pub actor: String,
    /// In their words.
    pub reason: Option<String>,
}

impl App {
    /// A page of sagas, newest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list_provisionings(
        &self,
        query: SagaQuery,
    ) -> Result<Page<Saga, SagaCursor>, ProvisionerError> {
        let limit = query.limit;
        let more = SagaQuery { limit: limit.saturating_add(1), ..query };
        Ok(Page::of(self.store.list_sagas(more).await?, limit, SagaCursor::after))
    }

    /// One saga.
    ///
    /// # Errors
    /// `ProvisioningNotFound`.
    pub async fn provisioning(&self, id: &SagaId) -> Result<Saga, ProvisionerError> {
        self.store.find_saga(id).await?.ok_or(ProvisionerError::ProvisioningNotFound)
    }

    /// Sets a stuck saga going again from where it stopped.
    ///
    /// # Errors
    /// `ProvisioningNotFound`, `NotStuck`.
    pub async fn retry_provisioning(&self, id: &SagaId, order: &Order) -> Result<Saga, ProvisionerError> {
        let saga = self
            .change(id, |saga, now| {
                let progress = plan::retry(&saga.progress, now).map_err(|_| ProvisionerError::NotStuck)?;
                let after = json!({ "kind": saga.subject.kind().as_str(), "step": step_of(saga) });
                let audit = self.record(saga, "provisioning_retried", order, after, now);
                let lease = Some(self.engine.runner().lease(Duration::ZERO));
                let saga = Saga { progress, lease, updated_at: now, ..saga.clone() };
                Ok(Advance { saga, effect: Effect::None, audit: Some(audit) })
            })
            .await?;
        self.engine.start(saga.clone(), self.request_id());
        Ok(saga)
    }

    /// Gives up on the step at which a provisioning is stuck: its effect may be left, which the record says, and what came
    /// before it is undone, so that the address is free again.
    ///
    /// # Errors
    /// `ProvisioningNotFound`; `NotStuck`, also for a purge.
    pub async fn abandon_provisioning(&self, org_id: OrgId, order: &Order) -> Result<Saga, ProvisionerError> {
        let saga = self
            .change(&SagaId::provision(org_id), |saga, now| {
                let (progress, passed_over) =
                    plan::abandon(&saga.progress, now).map_err(|_| ProvisionerError::NotStuck)?;
                let Subject::Provision { owner, trial_ends_at, .. } = saga.subject else {
                    return Err(ProvisionerError::NotStuck);
                };
                let after = json!({ "effect_possibly_left": passed_over.as_str() });
                let audit = self.record(saga, "provisioning_abandoned", order, after, now);
                let given_up = Saga { progress, updated_at: now, ..saga.clone() };
                let (saga, effect) = if given_up.state().has_ended() {
                    let subject = Subject::Provision { owner, claim: None, trial_ends_at };
                    (Saga { subject, lease: None, ..given_up }, Effect::DeleteAccount(owner))
                } else {
                    let lease = Some(self.engine.runner().lease(Duration::ZERO));
                    (Saga { lease, ..given_up }, Effect::None)
                };
                Ok(Advance { saga, effect, audit: Some(audit) })
            })
            .await?;
        if saga.state().has_ended() {
            let runner = self.engine.runner();
            runner.meters.ended(&saga);
            runner.count_stuck().await;
            self.engine.endings().announce(&Arc::new(saga.clone()));
        } else {
            self.engine.start(saga.clone(), self.request_id());
        }
        Ok(saga)
    }

    /// Replaces an account's roles in one tenant.
    ///
    /// # Errors
    /// `AccountNotFound`; `LastOwner` when the tenant would be left without an owner.
    pub async fn set_account_roles(
        &self,
        org_id: OrgId,
        user_id: UserId,
        roles: Roles,
        order: Order,
    ) -> Result<(), ProvisionerError> {
        let change = RoleChange {
            org_id,
            user_id,
            roles,
            at: self.now(),
            actor: order.actor,
            reason: order.reason,
            request_id: Some(self.request_id().to_string()),
        };
        Ok(self.store.set_roles(change).await?)
    }

    /// A page of a tenant's audit records, newest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list_audit_events(
        &self,
        org_id: &OrgId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<AuditRecord, i64>, ProvisionerError> {
        let records = self.store.list_audit(org_id, before, limit.saturating_add(1)).await?;
        Ok(Page::of(records, limit, |record| record.sequence))
    }

    /// Changes a saga as `decide` says; anew when it has changed meanwhile.
    async fn change(
        &self,
        id: &SagaId,
        decide: impl Fn(&Saga, Timestamp) -> Result<Advance, ProvisionerError>,
    ) -> Result<Saga, ProvisionerError> {
        for _ in 0..TRIES {
            let saga = self.provisioning(id).await?;
            let advance = decide(&saga, self.now())?;
            let mut changed = advance.saga.clone();
            match self.store.advance(advance).await {
                Ok(()) => {
                    changed.version += 1;
                    return Ok(changed);
                }
                Err(AdvanceError::Fenced | AdvanceError::EmailTaken) => {}
                Err(AdvanceError::Store(error)) => return Err(error.into()),
            }
        }
        Err(ProvisionerError::Contended)
    }

    fn record(&self, saga: &Saga, action: &str, order: &Order, after: Value, at: Timestamp) -> AuditDraft {
        let failure = saga.progress.last_failure.as_ref().map(ToString::to_string);
        AuditDraft {
            org_id: saga.org_id.clone(),
            at,
            actor: order.actor.clone(),
            action: action.to_owned(),
            reason: order.reason.clone(),
            before: Some(json!({ "state": "stuck", "step": step_of(saga), "failure": failure })),
            after: Some(after),
            request_id: Some(self.request_id().to_string()),
        }
    }
}

fn step_of(saga: &Saga) -> Option<&'static str> {
    saga.state().task().map(|(step, _)| step.as_str())
}
