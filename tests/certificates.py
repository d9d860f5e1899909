"""Certificates for tests, signed by themselves."""

import subprocess
from pathlib import Path

from tools import require

LOCAL = "DNS:localhost,IP:127.0.0.1"


def self_signed(folder: Path, names: str = LOCAL) -> tuple[Path, Path]:
    """Writes cert.pem, for these names, and key.pem; those that the folder had before are replaced."""
    require("openssl", "Debian has it in the package openssl")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=cutout"]
    command += ["-addext", f"subjectAltName={names}"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
