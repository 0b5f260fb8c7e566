"""An application that asks what a tenant may use with a stock OpenFeature SDK and its OFREP provider.

Arguments: the base URL, the tenant, and flags as `bool:KEY` or `int:KEY`. Prints the details of each evaluation as one JSON
object; the test that runs it judges. The defaults are values that no flag has, so that a default is told from an answer.
"""

import json
import sys

from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext


def shown(details):
    return {
        "value": details.value,
        "reason": details.reason,
        "variant": details.variant,
        "error": details.error_code,
        "metadata": dict(details.flag_metadata),
    }


def main():
    base_url, tenant, *flags = sys.argv[1:]
    api.set_provider(OFREPProvider(base_url))
    client = api.get_client()
    context = EvaluationContext(targeting_key=tenant or None)
    said = {}
    for flag in flags:
        kind, key = flag.split(":", 1)
        if kind == "bool":
            details = client.get_boolean_details(key, True, context)
        else:
            details = client.get_integer_details(key, -77, context)
        said[key] = shown(details)
    print(json.dumps(said))


main()
