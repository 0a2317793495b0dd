"""A certificate authority of the box's own, what it signs, and what a certificate says. The only importer of cryptography.

Works on PEM in memory and opens no file. Profile: RFC 5280; the life of a server certificate is what browsers accept. Times are Unix seconds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS, SERVER_DAYS = 3650, 397
EARLY = timedelta(days=1)
"""A certificate begins in the past: the clocks of its clients may be behind."""
PRIVATE_NETWORKS = tuple(map(ipaddress.ip_network, (
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "::1/128", "fc00::/7",
)))  # fmt: skip
DOMAIN_NAME = re.compile(r"(?=.{1,253}$)(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
MOST_IN_A_SUBJECT = 64
"""Characters of a common name (ub-common-name of RFC 5280)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a certificate says. names: domain names, then addresses, each sorted. begins, ends: Unix seconds. sha256: its fingerprint,
    as browsers and openssl write it."""

    names: tuple[str, ...]
    begins: float
    ends: float
    sha256: str


def facts(pem: bytes) -> Facts:
    """Of the first certificate in it. Raises ValueError."""
    return _facts(x509.load_pem_x509_certificate(pem))


def plain(name: str) -> str:
    """A domain name or an address as certificates have it: lower case, IDNA. Raises ValueError for what is neither."""
    found = _address(name)
    if found:
        return str(found)
    word = name.rstrip(".").lower()
    word = word if word.isascii() else word.encode("idna").decode("ascii")
    if not DOMAIN_NAME.fullmatch(word):
        raise ValueError(f"{name!r} is neither a domain name nor an address")
    return word


def is_private(address: str) -> bool:
    """Whether an address is one that every authority of ours may sign."""
    found = _address(address)
    return found is not None and any(found in network for network in PRIVATE_NETWORKS)


class Authority:
    """A CA that can sign for its own names and for private addresses only: who steals its key can pretend to be no bank."""

    def __init__(self, key: Any, certificate: x509.Certificate) -> None:
        self._key, self._certificate = key, certificate
        self.facts = _facts(certificate)
        permitted = certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
        self._domains = [name.value for name in permitted if isinstance(name, x509.DNSName)]
        self._networks = [name.value for name in permitted if isinstance(name, x509.IPAddress)]

    @classmethod
    def make(cls, title: str, domains: Iterable[str], names: Iterable[str], now: float) -> Authority:
        """A new one. title: what lists of trusted authorities show. domains: it may sign whatever ends with them; names: and these."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title[:MOST_IN_A_SUBJECT])])
        own = [_general(name) for name in sorted({*domains, *names})]
        addresses = [ipaddress.ip_network(name.value) for name in own if isinstance(name, x509.IPAddress)]
        permitted = [*(name for name in own if isinstance(name, x509.DNSName)), *map(x509.IPAddress, [*PRIVATE_NETWORKS, *addresses])]
        begins = _date(now) - EARLY
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), begins, begins + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None), critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @classmethod
    def read(cls, pem: bytes) -> Authority:
        """What `pem` wrote. Raises ValueError, also where key and certificate are not a pair."""
        try:
            key, certificate = load_pem_private_key(pem, None), x509.load_pem_x509_certificate(pem)
            if key.public_key() != certificate.public_key():
                raise ValueError("its key and its certificate are not a pair")
            return cls(key, certificate)
        except (TypeError, x509.ExtensionNotFound) as error:  # a key with a passphrase; not a CA of ours
            raise ValueError(str(error)) from None

    def pem(self) -> bytes:
        """Key and certificate."""
        return _key_pem(self._key) + self.public_pem()

    def public_pem(self) -> bytes:
        """The certificate alone, which clients get."""
        return self._certificate.public_bytes(Encoding.PEM)

    def allows(self, name: str) -> bool:
        """Whether clients would accept this name or address from it. name: see `plain`."""
        address = _address(name)
        if address:
            return any(address in network for network in self._networks)
        return any(name == domain or name.endswith(f".{domain}") for domain in self._domains)

    def named(self) -> set[str]:
        """The names and addresses that it was made for, and the domains of all authorities."""
        return {*self._domains, *(str(network.network_address) for network in self._networks if network not in PRIVATE_NETWORKS)}

    def issue(self, names: Iterable[str], now: float) -> bytes:
        """A new key and a certificate for these names and addresses, as PEM. It ends with the authority at the latest."""
        wanted = [_general(name) for name in names]
        key = ec.generate_private_key(ec.SECP256R1())
        ca = self._certificate
        begins = max(_date(now) - EARLY, ca.not_valid_before_utc)
        ends = min(begins + timedelta(days=SERVER_DAYS), ca.not_valid_after_utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(wanted[0].value)[:MOST_IN_A_SUBJECT])])
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            x509.CertificateBuilder(ca.subject, subject, key.public_key(), x509.random_serial_number(), begins, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(wanted), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(issuer_key, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _key_pem(key) + certificate.public_bytes(Encoding.PEM)

    def signed(self, pem: bytes) -> bool:
        """Whether the first certificate in it is one of its own."""
        try:
            x509.load_pem_x509_certificate(pem).verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


def _facts(certificate: x509.Certificate) -> Facts:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    domains = sorted(names.get_values_for_type(x509.DNSName))
    addresses = sorted(map(str, names.get_values_for_type(x509.IPAddress)))
    ends = certificate.not_valid_after_utc.timestamp()
    digest = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    return Facts((*domains, *addresses), certificate.not_valid_before_utc.timestamp(), ends, digest)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _general(name: str) -> x509.DNSName | x509.IPAddress:
    address = _address(name)
    return x509.IPAddress(address) if address else x509.DNSName(name)


def _date(unix: float) -> datetime:
    return datetime.fromtimestamp(int(unix), UTC)


def _usage(**allowed: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
        "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names})


def _key_pem(key: Any) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
