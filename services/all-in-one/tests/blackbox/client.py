"""A gRPC client that knows nothing but what reflection tells it, and reads errors the standard way.

Prints what it saw as one JSON object; the test that runs it judges.
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

TIMEOUT = 30


class Client:
    """Calls the methods of the services at one address, by name."""

    def __init__(self, address, token=None):
        self.channel = grpc.insecure_channel(address)
        self.pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    def call(self, service, method, **fields):
        described = self.pool.FindServiceByName(service).FindMethodByName(method)
        request = message_factory.GetMessageClass(described.input_type)(**fields)
        answer = message_factory.GetMessageClass(described.output_type)
        stub = self.channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return stub(request, metadata=self.metadata, timeout=TIMEOUT)

    def refused(self, service, method, **fields):
        """The error of a call that must fail, with its details."""
        try:
            answer = self.call(service, method, **fields)
        except grpc.RpcError as error:
            return told(error)
        raise SystemExit(f"{method} was not refused: {answer}")

    def listed(self, version):
        """The services that reflection lists; both versions have the same messages."""
        stub = self.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(iter(stub(iter([request]), timeout=TIMEOUT)))
        return sorted(service.name for service in answer.list_services_response.service)


def told(error):
    result = {"code": error.code().name}
    for detail in rpc_status.from_call(error).details:
        info, bad, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(info):
            result |= {"reason": info.reason, "domain": info.domain}
        elif detail.Unpack(bad):
            result["fields"] = [violation.field for violation in bad.field_violations]
        elif detail.Unpack(retry):
            result["retry_seconds"] = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return result


def main(gateway_address, lifecycle_address, token, password):
    gateway = Client(gateway_address)
    signups = "pulse.signup.v1.SignupService"
    organizations = "pulse.lifecycle.v1.LifecycleAdminService"
    ann = {"email": "ann@example.com", "password": password, "org_name": "Acme", "client_ip": "203.0.113.9"}

    health = health_pb2_grpc.HealthStub(gateway.channel)
    serving = health.Check(health_pb2.HealthCheckRequest(service=signups), timeout=TIMEOUT).status
    created = gateway.call(signups, "SignUp", **ann)
    outcome = created.DESCRIPTOR.fields_by_name["outcome"].enum_type.values_by_number[created.outcome].name
    invalid = gateway.refused(signups, "SignUp", **(ann | {"email": "ann", "password": "x", "org_name": ".."}))
    for _ in range(4):
        gateway.call(signups, "SignUp", **ann)
    limited = gateway.refused(signups, "SignUp", **ann)

    operator = Client(lifecycle_address, token)
    listed = operator.call(organizations, "ListOrganizations").organizations
    print(
        json.dumps(
            {
                "health": health_pb2.HealthCheckResponse.ServingStatus.Name(serving),
                "reflection": {version: gateway.listed(version) for version in ("v1", "v1alpha")},
                "created": outcome,
                "invalid": invalid,
                "limited": limited,
                "unknown_organization": operator.refused(organizations, "GetOrganization", org_id="no-such-org"),
                "stranger": Client(lifecycle_address).refused(organizations, "ListOrganizations"),
                "organizations": [org.display_name for org in listed if org.id != "default"],
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
