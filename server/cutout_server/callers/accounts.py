"""The accounts of all callers."""

from collections.abc import Mapping
from dataclasses import dataclass

from cutout_server.callers.account import Account
from cutout_server.callers.quotas import Quotas

# Callers without a key are as many as there are addresses: unused accounts leave when there are so many.
SWEEP = 1024


@dataclass
class Use:
    """What a caller uses of the server at one moment, by the names of its quotas."""

    name: str
    requests_in_hand: int = 0
    sessions: int = 0
    stored_images: int = 0
    stored_bytes: int = 0
    unfinished_uploads: int = 0
    unfinished_upload_bytes: int = 0


class Accounts:
    """An account for each party: whoever has a key, or, where nobody has, each address. Belongs to the event loop."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._sweep_at = SWEEP
        self._default = Quotas()
        self._by_caller: Mapping[str, Quotas] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def allow(self, default: Quotas, by_caller: Mapping[str, Quotas]) -> None:
        """Sets quotas: of callers by their names, and of all others. What is used already stays counted."""
        self._default = default
        self._by_caller = by_caller
        for account in self._accounts.values():
            account.allow(self._quotas(account.caller))

    def of(self, party: str, caller: str) -> Account:
        """A party's account."""
        account = self._accounts.get(party)
        if account is None:
            if len(self._accounts) >= self._sweep_at:
                self._accounts = {key: each for key, each in self._accounts.items() if not each.is_idle}
                self._sweep_at = max(SWEEP, 2 * len(self._accounts))
            account = self._accounts[party] = Account(party, caller, self._quotas(caller))
        return account

    def uses(self) -> list[Use]:
        """What each caller uses now, all its addresses together. Safe from any thread: it only reads."""
        uses = {name: Use(name) for name in sorted(self._by_caller)}
        for account in list(self._accounts.values()):
            use = uses.setdefault(account.caller, Use(account.caller))
            use.requests_in_hand += account.requests_in_hand
            use.sessions += account.sessions
            use.stored_images += account.stored_images
            use.stored_bytes += account.stored_bytes
            use.unfinished_uploads += account.uploads
            use.unfinished_upload_bytes += account.arriving_bytes
        return list(uses.values())

    def _quotas(self, caller: str) -> Quotas:
        return self._by_caller.get(caller, self._default)
