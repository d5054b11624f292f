"""Errors between a client and a NATS server, explained with the remedy (wire section 6)."""

from __future__ import annotations

import asyncio
import ssl

from dwarf_nats.redact import scrubbed

_REFUSALS = (
    "authorization violation",
    "authentication expired",
    "authentication revoked",
    "user credentials",
    "permissions violation for connect",
)


def is_permanent(error: Exception) -> bool:
    """True if trying again does not help, so that somebody must change something."""
    if isinstance(error, ssl.SSLError):
        return not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
    text = str(error).lower()
    return getattr(error, "permanent", False) or any(word in text for word in _REFUSALS)


def describe_connection_error(error: Exception) -> str:
    """Describe an error of a connection in one line, for TLS with the remedy."""
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = _CERTIFICATE.get(error.verify_code, _AUTHORITY)
        return f"certificate verify failed: {error.verify_message.rstrip('.')}; {remedy}"
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or str(error)).lower().replace("_", " ")
        remedy = next((one for word, one in _TLS_REMEDIES.items() if word in reason), "")
        return f"the TLS handshake failed: {reason}" + (f"; {remedy}" if remedy else "")
    text = str(error) or type(error).__name__
    return scrubbed(text.removeprefix("nats: ").strip("'"))


_AUTHORITY = "name the certificate of the authority that signed it with tls_ca (--tls-ca)"
_NAME = "connect by a name or an address that is in the certificate"
_CERTIFICATE = {
    9: "it is not valid yet: compare the clocks, or renew it on the server",
    10: "renew it on the server",
    62: _NAME,
    64: _NAME,
}
"""The remedy for a certificate that was not accepted, by the number of OpenSSL's error."""
_OURS = "the server does not accept our certificate: give another with tls_cert and tls_key (--tls-cert, --tls-key)"
_TLS_REMEDIES = {
    "certificate required": "the server asks for a certificate: give one with tls_cert and tls_key (--tls-cert, --tls-key)",
    "alert bad certificate": _OURS,
    "alert certificate": _OURS,
    "alert unknown ca": _OURS,
    "wrong version number": "the server does not begin with TLS: leave out tls_first (--tls-first)",
    "record layer failure": "the server does not begin with TLS: leave out tls_first (--tls-first)",
    "alert protocol version": "the two sides have no version of TLS in common",
}
