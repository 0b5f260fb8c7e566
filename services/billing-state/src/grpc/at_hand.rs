//! `GetEntitlements` by the shortest way, as it is what this service is asked all day: what is at hand is answered without a
//! detour through messages that would only be made to be encoded. Every other method is served as generated.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Either},
};
use http::{Request, Response};
use pulse_entitlements::Answer;
use pulse_kernel::OrgId;
use pulse_proto::billing::v1::{
    GetEntitlementsRequest, entitlement_service_server::EntitlementServiceServer,
};
use pulse_rpc::{reject, server::MAX_MESSAGE_BYTES};
use tonic::{
    Status,
    body::Body,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
    server::{Grpc, NamedService, UnaryService},
};
use tonic_prost::ProstCodec;
use tower::Service;

use super::entitlement::Entitlement;
use crate::{app::BillingStates, convert::answer};

/// The method.
const PATH: &str = "/pulse.billing.v1.EntitlementService/GetEntitlements";

/// Room for a message, in bytes: for most answers, and more is made where it is needed.
const ROOM: usize = 1024;

/// `EntitlementService`.
#[derive(Debug, Clone)]
pub(crate) struct AtHand {
    states: BillingStates,
    generated: EntitlementServiceServer<Entitlement>,
}

impl AtHand {
    pub(crate) fn new(states: BillingStates) -> Self {
        let generated = EntitlementServiceServer::new(Entitlement(states.clone()));
        Self { states, generated: generated.max_decoding_message_size(MAX_MESSAGE_BYTES) }
    }
}

impl NamedService for AtHand {
    const NAME: &'static str = <EntitlementServiceServer<Entitlement> as NamedService>::NAME;
}

impl Service<Request<Body>> for AtHand {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != PATH {
            return self.generated.call(request);
        }
        let method = Method(self.states.clone());
        let mut grpc = Grpc::new(Direct).apply_max_message_size_config(Some(MAX_MESSAGE_BYTES), None);
        async move { Ok(grpc.unary(method, request).await) }.boxed()
    }
}

struct Method(BillingStates);

impl UnaryService<GetEntitlementsRequest> for Method {
    type Response = Answer;
    type Future = Either<Ready<Answered>, BoxFuture<'static, Answered>>;

    fn call(&mut self, request: tonic::Request<GetEntitlementsRequest>) -> Self::Future {
        let org = match OrgId::parse(&request.get_ref().org_id) {
            Ok(org) => org,
            Err(error) => return Either::Left(ready(Err(reject(error)))),
        };
        match self.0.entitlements_at_hand(&org) {
            Some(answer) => Either::Left(ready(answer.map(tonic::Response::new).map_err(reject))),
            None => Either::Right(wait(self.0.clone(), org).boxed()),
        }
    }
}

type Answered = Result<tonic::Response<Answer>, Status>;

async fn wait(states: BillingStates, org: OrgId) -> Answered {
    states.entitlements(&org).await.map(tonic::Response::new).map_err(reject)
}

/// Reads requests as usual, and writes answers as they are cached.
#[derive(Debug, Clone, Copy)]
struct Direct;

impl Codec for Direct {
    type Encode = Answer;
    type Decode = GetEntitlementsRequest;
    type Encoder = Self;
    type Decoder = <ProstCodec<(), GetEntitlementsRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<(), GetEntitlementsRequest>::raw_decoder(room())
    }
}

impl Encoder for Direct {
    type Item = Answer;
    type Error = Status;

    fn encode(&mut self, item: Answer, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        answer::encode(&item, buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        room()
    }
}

fn room() -> BufferSettings {
    BufferSettings::new(ROOM, 2 * ROOM)
}
