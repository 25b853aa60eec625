"""Make and use certificates: one file with a key and a certificate, which every machine of a cluster has a copy of.

Leader and workers prove to each other that they hold it: whoever has no copy cannot connect, whoever has one may give
work. Certificates of an own authority do as well: the file then holds certificate, key and the authority's certificate.

>>> make_certificate(Path("cluster.pem"))  # doctest: +SKIP
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sharpzo_mlx.errors import UserError, why

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from distributed.security import Security

    from sharpzo_mlx.cluster.address import Address

DAYS = 825  # the longest that macOS accepts of a certificate
NAME = "sharpzo-mlx cluster"


def make_certificate(path: Path) -> None:
    """Write a new key and a certificate of it into a file that only its owner can read.

    Raises:
        UserError: the file exists already, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization

    key, certificate = _make_pair()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UserError(f"{path}: exists already; machines with a copy would be shut out, so name another") from error
    except OSError as error:
        raise UserError(f"{path}: {why(error)}; name another place") from error
    with open(descriptor, "wb") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM) + secret)


def _make_pair() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return key, builder.sign(key, hashes.SHA256())


def security_of(address: Address) -> Security:
    """Return what dask needs to know of an address's certificate; encryption is asked for if it has one.

    Raises:
        UserError: the file cannot be used.
    """
    from distributed.security import Security

    if address.certificate is None:
        return Security(require_encryption=False)
    _check(address.certificate)
    path = str(address.certificate)
    roles = {f"tls_{role}_{part}": path for role in ("client", "scheduler", "worker") for part in ("cert", "key")}
    return Security(require_encryption=True, tls_ca_file=path, **roles)


def _check(path: Path) -> None:
    import ssl

    make = "make one: sharpzo-mlx worker --make-certificate FILE"
    try:
        mode = path.stat().st_mode
        ssl.create_default_context(cafile=str(path)).load_cert_chain(str(path))
    except (OSError, ssl.SSLError) as error:
        reason = "holds no certificate with its key" if isinstance(error, ssl.SSLError) else why(error)
        raise UserError(f"{path}: {reason}; {make}") from error
    if mode & 0o077:
        raise UserError(f"{path}: others on this machine can read the key; run chmod 600 {path}")
