"""Who may come in, and whether anyone may."""

import asyncio
import hmac
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

from cutout_server.calls import ANONYMOUS
from cutout_server.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from cutout_server.settings import ApiKey, Role

# What a method takes beyond a key.
ROLES = dict.fromkeys(("LoadModel", "UnloadModel", "GetStatus"), Role.OPERATOR)


@dataclass(frozen=True)
class Caller:
    """Whose call it is, and what it may do."""

    name: str
    roles: frozenset[Role] = frozenset()

    def check(self, method: str) -> None:
        """Makes sure that the caller may call a method of the contract.

        Raises:
            PermissionDeniedError: It takes a role that the caller's key lacks.
        """
        role = ROLES.get(method)
        if role is not None and role not in self.roles:
            raise PermissionDeniedError(
                f"{method} is for keys with the role {role}, which the key of {self.name} does not have",
                reason="ROLE_MISSING",
            )


# Where there are no keys, whoever can connect may do everything.
ANYONE = Caller(ANONYMOUS, frozenset(Role))


class Gate:
    """Looks at keys and counts the calls inside."""

    def __init__(self, api_keys: Sequence[ApiKey]) -> None:
        self.draining = asyncio.Event()
        self._inside = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.admit(api_keys)

    def admit(self, api_keys: Sequence[ApiKey]) -> None:
        """From now on these keys are let in, and no others; calls inside go on."""
        alone = len({key.caller for key in api_keys}) == 1
        default = frozenset(Role) if alone else frozenset[Role]()
        self._callers = {
            key.digest: Caller(key.caller, default if key.roles is None else frozenset(key.roles)) for key in api_keys
        }

    def has(self, role: Role) -> bool:
        """Whether a key has a role."""
        return any(role in caller.roles for caller in self._callers.values())

    def identify(self, metadata: Mapping[str, str]) -> Caller:
        """Whose key it is.

        Raises:
            UnauthenticatedError: Keys are configured and the call has none of them.
        """
        if not self._callers:
            return ANYONE
        scheme, _, bearer = metadata.get("authorization", "").partition(" ")
        offered = metadata.get("x-api-key") or (bearer if scheme.lower() == "bearer" else "")
        digest = sha256(offered.strip().encode()).digest()
        # Every key is compared, in constant time, so that the time taken tells nothing.
        matches = [caller for known, caller in self._callers.items() if hmac.compare_digest(known, digest)]
        if not matches:
            missing = "expected an API key in x-api-key or as a bearer token in authorization"
            raise UnauthenticatedError("the API key is not valid" if offered else missing)
        return matches[0]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Counts a call in and out.

        Raises:
            UnavailableError: The server is draining.
        """
        if self.draining.is_set():
            raise UnavailableError("the server is shutting down", retry_after_s=1.0, reason="DRAINING")
        self._inside += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if self._inside == 0:
                self._idle.set()

    async def emptied(self) -> None:
        """Returns once no call is left inside."""
        await self._idle.wait()
