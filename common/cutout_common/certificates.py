"""A certificate and its key in files: checked before they are used, and noticed when they change."""

import ssl
from pathlib import Path

from cutout_common.config import ConfigError


class CertificateFiles:
    """The files of TLS on one side.

    Args:
        chain: PEM certificate chain, the setting tls_cert.
        key: PEM private key of its first certificate, not encrypted, the setting tls_key.
        authorities: PEM authorities that the other side's certificate must come from, the setting tls_client_ca.
    """

    def __init__(self, chain: Path, key: Path, authorities: Path | None = None) -> None:
        self.chain = chain
        self.key = key
        self.authorities = authorities
        self._written_ns: list[int] = []

    def changed(self) -> bool:
        """Whether a file was written since the last `check` that ended well."""
        return self._times() != self._written_ns

    def check(self) -> None:
        """Makes sure that the files can be used.

        Raises:
            ConfigError: One cannot be read, or they do not belong together; the text names the settings.
        """
        written_ns = self._times()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # With no password to give: asked for one, OpenSSL would wait at the terminal.
            context.load_cert_chain(self.chain, self.key, password="")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"tls_cert {self.chain} and tls_key {self.key}: expected a PEM certificate chain and the unencrypted "
                f"private key of its first certificate ({_words(error)})"
            ) from error
        try:
            if self.authorities is not None:
                context.load_verify_locations(self.authorities)
        except OSError as error:
            raise ConfigError(
                f"tls_client_ca {self.authorities}: expected PEM certificates ({_words(error)})"
            ) from error
        self._written_ns = written_ns

    def _times(self) -> list[int]:
        """When each file was written; 0 for one that is not there."""
        files = filter(None, (self.chain, self.key, self.authorities))
        return [file.stat().st_mtime_ns if file.exists() else 0 for file in files]


def _words(error: Exception) -> str:
    """What OpenSSL or the system says, without their numbers."""
    said = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(said).replace("_", " ").lower()
