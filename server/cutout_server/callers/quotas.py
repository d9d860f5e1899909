"""How much of the server one caller may use."""

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024


class Quotas(BaseModel):
    """Bounds for each caller; the defaults are beyond what a single user comes to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_s: float = Field(
        500.0, gt=0, description="Requests, and prompts of sessions, a second on average; ten seconds' worth at once."
    )
    pixels_per_s: float = Field(
        1e9, gt=0, description="Pixels of the pictures that are read or made, a second on average; likewise."
    )
    requests_in_hand: int = Field(
        0, ge=0, description="Requests admitted on a device; 0 is three quarters of max_requests_per_device."
    )
    sessions: int = Field(32, ge=1, description="Open sessions.")
    stored_bytes: int = Field(0, ge=0, description="Uploaded pictures' files; 0 is all that there is room for.")
    stored_images: int = Field(0, ge=0, description="Their number; likewise.")
    unfinished_uploads: int = Field(64, ge=1, description="Uploads that still arrive, those of sessions too.")
    unfinished_upload_bytes: int = Field(1024 * MIB, ge=1, description="What has arrived of them.")

    def but(self, others: "Quotas | None") -> "Quotas":
        """These, but for those that `others` set."""
        return self if others is None else self.model_copy(update=others.model_dump(exclude_unset=True))
