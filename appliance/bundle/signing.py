"""The keys that bundles are signed with: Ed25519, a private one in a file of its maker, a public one of a line."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from appliance.bundle.archive import fingerprint
from appliance.errors import InvalidRequest
from appliance.storage import in_words


def make_keys(path: Path) -> str:
    """Write the private key to `path` (PKCS 8, PEM, for its owner only) and the public one to `path`.pub; returns the fingerprint.

    Raises InvalidRequest where a file is there already: a key is never replaced."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    for place, mode, data in ((path, 0o600, pem), (public_path(path), 0o644, f"{public}\n".encode())):
        try:
            with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
        except FileExistsError:
            raise InvalidRequest(f"{place} exists already.", param="key", remedy="Keys are not replaced: bundles signed with it could not be told from others any more.") from None
        except OSError as error:
            raise in_words(error, f"Writing {place}") from None
    return fingerprint(public)


def public_path(path: Path) -> Path:
    """Where the public key of a private one lies."""
    return path.with_name(path.name + ".pub")


def sign(manifest: bytes, key: Path) -> bytes:
    """The content of `manifest.sig`: the public key and the signature, in base64. Raises InvalidRequest for a file that holds no such key."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        private = form.load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        raise InvalidRequest(f"The key {key} cannot be read: {error.strerror}.", param="key", remedy="Make one: appliance bundle keygen FILE") from None
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise InvalidRequest(f"{key} holds no Ed25519 key in PEM without a passphrase.", param="key", remedy="Make one: appliance bundle keygen FILE")
    words = (private.public_key().public_bytes_raw(), private.sign(manifest))
    return b"\n".join(map(base64.b64encode, words)) + b"\n"


def read_public(path: Path) -> str:
    """A public key in base64 from a file that `make_keys` wrote. Raises InvalidRequest."""
    try:
        text = path.read_text("ascii").strip()
        if len(base64.b64decode(text, validate=True)) == 32:
            return text
    except OSError as error:
        raise InvalidRequest(f"The key {path} cannot be read: {error.strerror}.", param="key", remedy="Name the file that ends in .pub.") from None
    except ValueError:
        pass
    raise InvalidRequest(f"{path} holds no public key.", param="key", remedy="Name the file that ends in .pub.")
