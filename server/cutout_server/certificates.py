"""The server's TLS, with a certificate that is read again when its files change."""

from pathlib import Path

import grpc
import structlog
from cutout_common.certificates import CertificateFiles
from cutout_common.config import ConfigError

log = structlog.get_logger()


def credentials(chain: Path, key: Path, client_authorities: Path | None) -> grpc.ServerCredentials:
    """What gRPC serves with; a new connection gets what the files hold by then, and the others go on.

    Args:
        chain: PEM certificate chain.
        key: PEM private key of its first certificate.
        client_authorities: PEM authorities that callers' certificates must come from; None asks for none.

    Raises:
        ConfigError: A file cannot be read, or they do not belong together.
    """
    files = CertificateFiles(chain, key, client_authorities)

    def read() -> grpc.ServerCertificateConfiguration:
        files.check()
        authorities = client_authorities.read_bytes() if client_authorities else None
        return grpc.ssl_server_certificate_configuration([(key.read_bytes(), chain.read_bytes())], authorities)

    def read_again() -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC at each new connection; None keeps what there is."""
        if not files.changed():
            return None
        try:
            configuration = read()
        except (ConfigError, OSError) as error:  # half written, perhaps
            log.error("the certificate of before goes on", error=str(error))  # noqa: TRY400 - its text says it all
            return None
        log.info("certificate read again", tls_cert=str(chain))
        return configuration

    return grpc.dynamic_ssl_server_credentials(
        read(),
        read_again,  # type: ignore[arg-type]  # the stubs do not know that None keeps what there is
        require_client_authentication=client_authorities is not None,
    )
