"""Who is who, made for a test: certificates, nkeys, and the JWTs of an operator, an account and its users."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nkeys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# --- certificates ---


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


class Authority:
    """A certificate authority whose files are in `folder`: `ca`, and per name a certificate and its key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = _name("authority of the test")
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(_pem(self._signed(self._name, self._key.public_key(), authority=True)))

    def issue(
        self, common: str, *, names: Sequence[str] = ("127.0.0.1",), expired: bool = False, alone: bool = False
    ) -> tuple[Path, Path]:
        """Certificate and key of `common`, good for a server on 127.0.0.1 and for a client.

        `names`: the addresses and host names in it. `expired`: its time is over. `alone`: signed by itself.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, secret = self._folder / f"{common}.pem", self._folder / f"{common}-key.pem"
        signer = (_name(common), key) if alone else (self._name, self._key)
        signed = self._signed(
            _name(common), key.public_key(), authority=False, names=names, ends=-0.5 if expired else 1, signer=signer
        )
        certificate.write_bytes(_pem(signed))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, secret

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        authority: bool,
        names: Sequence[str] = (),
        ends: float = 1,
        signer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None,
    ) -> x509.Certificate:
        issuer, secret = signer or (self._name, self._key)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=ends))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(secret.public_key()), critical=False)
        )
        if authority:
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            here = x509.SubjectAlternativeName([_alternative(one) for one in names])
            uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
            builder = builder.add_extension(here, critical=False).add_extension(uses, critical=False)
        return builder.sign(secret, hashes.SHA256())


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


# --- nkeys and JWTs ---


@dataclass
class Identity:
    """A key pair: its public name and its seed."""

    public: str
    seed: str

    @classmethod
    def make(cls, prefix: int) -> Identity:
        seed = nkeys.encode_seed(os.urandom(32), prefix)
        return cls(nkeys.from_seed(bytearray(seed)).public_key.decode(), seed.decode())

    def signed(self, subject: str, name: str, claims: dict[str, Any]) -> str:
        """A JWT about `subject`, signed by us."""
        body = {"iat": int(datetime.now(UTC).timestamp()), "iss": self.public, "name": name, "sub": subject}
        body |= {"nats": {"version": 2, **claims}}
        body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
        text = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(body)}"
        return f"{text}.{_b64(nkeys.from_seed(bytearray(self.seed.encode())).sign(text.encode()))}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _part(value: dict[str, Any]) -> str:
    return _b64(json.dumps(value, separators=(",", ":")).encode())


class Operator:
    """An operator with one account. `config` is what a server with a memory resolver needs."""

    def __init__(self) -> None:
        operator = Identity.make(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Identity.make(nkeys.PREFIX_BYTE_ACCOUNT)
        limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
        account = operator.signed(
            self._account.public, "dwarf", {"type": "account", "limits": {**limits, "wildcards": True}}
        )
        self.config = (
            f"operator: {operator.signed(operator.public, 'operator', {'type': 'operator'})}\n"
            f"resolver: MEMORY\nresolver_preload: {{ {self._account.public}: {account} }}\n"
        )

    def credentials(self, name: str, permissions: dict[str, Any]) -> str:
        """The text of a user's credentials file; `permissions` as the claims of a user have them (`pub`, `sub`, `resp`)."""
        user = Identity.make(nkeys.PREFIX_BYTE_USER)
        claims = {"type": "user", "subs": -1, "data": -1, "payload": -1, **permissions}
        token = self._account.signed(user.public, name, claims)
        return (
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
