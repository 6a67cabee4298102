"""Checks a compose file against the compose specification's schema: compose_file.py FILE. Says each error and its place."""

import importlib.util
import json
import pathlib
import sys

import jsonschema
import yaml

package = pathlib.Path(importlib.util.find_spec("compose").origin).parent
schema = json.loads((package / "config" / "compose_spec.json").read_text())
# The schema is older than this key of the specification.
schema["properties"]["name"] = {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"}
compose = yaml.safe_load(pathlib.Path(sys.argv[1]).read_text())
errors = [f"{list(error.path)}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(compose)]
for service, body in compose["services"].items():
    missing = set(body.get("depends_on", {})) - set(compose["services"])
    errors += [f"{service}: depends on {name}, which is not there" for name in missing]
    for volume in body.get("volumes", []):
        source = volume.split(":")[0]
        is_path = source.startswith(".")
        if is_path and not (pathlib.Path(sys.argv[1]).parent / source).exists():
            errors.append(f"{service}: {source} is not there")
        if not is_path and source not in compose.get("volumes", {}):
            errors.append(f"{service}: volume {source} is not declared")
sys.exit("\n".join(errors) or 0)
