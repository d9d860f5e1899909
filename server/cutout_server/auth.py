"""Whose call it is, by its key, and what that caller may do."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cutout_server.call_context import ANONYMOUS
from cutout_server.callers.accounts import Account, Accounts, party_of
from cutout_server.errors import PermissionDeniedError, UnauthenticatedError
from cutout_server.settings import ApiKey, Role, Settings

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


class Auth:
    """Knows the keys.

    Attributes:
        accounts: What each caller uses.
    """

    def __init__(self, settings: Settings) -> None:
        self.accounts = Accounts()
        self.admit(settings)

    def admit(self, settings: Settings) -> None:
        """From now on the keys of these settings are let in, and no others, by their quotas; calls inside go on."""
        keys = settings.api_keys
        self._callers = {key.digest: Caller(key.caller, _roles(key, keys)) for key in keys}
        self.accounts.allow(settings.quotas, {key.caller: settings.quotas.but(key.quotas) for key in keys})

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

    def account(self, caller: Caller, peer: str) -> Account:
        """Where what a caller uses is counted."""
        return self.accounts.of(caller.name if self._callers else party_of(peer), caller.name)


def _roles(key: ApiKey, keys: Sequence[ApiKey]) -> frozenset[Role]:
    if key.roles is None:
        return frozenset(Role) if len({each.caller for each in keys}) == 1 else frozenset()
    return frozenset(key.roles)
