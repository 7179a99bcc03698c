"""TLS keys of one run: who takes part in it proves that by a key that only its user can read.

dask's scheduler, nannies and workers run whatever code they are sent, so nobody else may talk to
them. Each run has a certificate authority of its own, with one key for all its roles, in files that
only their owner reads; whoever presents no certificate of it is refused before a word is heard.

dask's own ``Security.temporary()`` is not enough: its certificates are valid from the moment they
are made, which a node whose clock is behind refuses, and its keys travel in the job's script.
"""

from __future__ import annotations

import datetime
import os
import secrets
import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dpsolve.hpc.run.private_folders import private_folder
from dpsolve.hpc.store.atomic_files import disk_errors
from dpsolve.solvers.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Security

PREFIX = "keys-"
CERTIFICATE, KEY = "cert.pem", "key.pem"
CLOCKS_DIFFER = datetime.timedelta(days=1)
VALID = datetime.timedelta(days=400)
"""Longer than any run; keys are deleted at its end."""


@contextmanager
def run_keys(jobs: Path) -> Iterator[Path]:
    """Have keys inside the block; those that a killed driver left are removed first.

    Parameters
    ----------
    jobs : Path
        The folder of the store's jobs.

    Yields
    ------
    Path
        The folder of the keys, for `security`.
    """
    for left in private_folder(jobs).glob(f"{PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = private_folder(jobs / f"{PREFIX}{secrets.token_hex(4)}")
    try:
        make_keys(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_keys(folder: Path) -> None:
    """Write a certificate and its key, which is also the authority that signed it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"dpsolve-{secrets.token_hex(8)}")])
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, crl_sign=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    with disk_errors(folder):
        _write(folder / CERTIFICATE, certificate.public_bytes(pem))
        _write(folder / KEY, private)


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def security(folder: Path) -> Security:
    """Return what dask has to know of keys: TLS and nothing else, for every role."""
    from distributed import Security

    certificate, key = str(folder / CERTIFICATE), str(folder / KEY)
    return Security(
        require_encryption=True,
        tls_ca_file=certificate,
        tls_client_cert=certificate,
        tls_client_key=key,
        tls_scheduler_cert=certificate,
        tls_scheduler_key=key,
        tls_worker_cert=certificate,
        tls_worker_key=key,
    )


def check_scheduler(address: str) -> str:
    """Look at the address of a user's own scheduler before anything connects to it.

    Returns
    -------
    str
        A warning, if whoever reaches its port can run code there; or nothing.

    Raises
    ------
    ClusterError
        If it asks for TLS and dask's configuration has no usable keys: dask would hang.
    """
    protocol = address.partition("://")[0].lower() if "://" in address else "tcp"
    if protocol == "tls":
        _check_own_keys(address)
        return ""
    if protocol != "tcp":
        return ""
    return (
        f"the scheduler at {address} uses no TLS: whoever reaches its port, other users "
        "of its machine included, can run code as you on it and its workers. Start it and them "
        "with keys (dask's distributed.comm.tls), and take --scheduler tls://HOST:PORT."
    )


def _check_own_keys(address: str) -> None:
    from distributed import Security

    where = (
        "Set distributed.comm.tls.ca-file and distributed.comm.tls.client.cert and .key in dask's "
        "configuration (~/.config/dask, or DASK_DISTRIBUTED__COMM__TLS__CA_FILE and so on), to the "
        "files that the scheduler was started with."
    )
    try:
        context = Security().get_connection_args("client")["ssl_context"]
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ClusterError(
            f"the keys for {address} in dask's configuration cannot be used: {error}. {where}"
        ) from error
    if context is None:
        raise ClusterError(f"{address} asks for keys, and dask's configuration has none. {where}")
