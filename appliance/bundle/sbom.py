"""What is in a bundle, for those who keep count: CycloneDX 1.5 in JSON (https://cyclonedx.org/docs/1.5/json/)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from appliance.bundle.wheels import Wheel


def sbom(version: str, made: str, wheels: Sequence[Wheel], models: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """The document. models: (name, licence, SHA-256 of the weights)."""
    packages = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{wheel.name.lower().replace('_', '-')}@{wheel.version}#{wheel.path.name}",
            "name": wheel.name,
            "version": wheel.version,
            "purl": f"pkg:pypi/{wheel.name.lower().replace('_', '-')}@{wheel.version}",
            "hashes": [{"alg": "SHA-256", "content": wheel.sha256()}],
            **({"licenses": [{"license": {"name": wheel.licence}}]} if wheel.licence else {}),
        }
        for wheel in wheels
    ]
    weights = [
        {
            "type": "machine-learning-model",
            "bom-ref": f"model:{name}",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": digest}],
            **({"licenses": [{"license": {"name": licence}}]} if licence else {}),
        }
        for name, licence, digest in models
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": made, "component": {"type": "application", "bom-ref": "appliance", "name": "appliance", "version": version}},
        "components": [*packages, *weights],
    }
