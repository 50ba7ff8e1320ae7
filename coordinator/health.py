"""How the enclave is, as far as its coordinator sees: nothing about any single update. Pure.

Alerts are for people: a tier that fell, endorsements that end soon. Devices judge for themselves.
"""

from dataclasses import dataclass
from typing import Any

from coordinator.events import Log
from qflare.appraisal import AttestationResult
from qflare.enclave_wire import Standing
from qflare.messages import EnclaveClaims

ENDS_SOON_S = 7 * 86_400  # of endorsements: time enough to fetch newer ones


@dataclass
class EnclaveHealth:
    """The last that was heard."""

    state: str = "away"  # away, configuring, ready
    standing: Standing | None = None
    result: AttestationResult | None = None
    claims: EnclaveClaims | None = None
    appraised_at: float = 0.0  # Unix seconds, by the coordinator's clock

    def appraised(self, result: AttestationResult, claims: EnclaveClaims, now: float) -> list[Log]:
        """Take in a new epoch's evidence; what a person should hear of."""
        before, facts = self.result, result.facts
        alerts = []
        if before is not None and result.tier < before.tier:
            fields = {"was": before.tier.name.lower(), "is": result.tier.name.lower()}
            alerts.append(Log("error", "the enclave's tier fell", fields))
        if facts.expires and facts.expires - now < ENDS_SOON_S:
            left = {"days": round(max(0.0, facts.expires - now) / 86_400, 1)}
            alerts.append(Log("warning", "the enclave's endorsements end soon: fetch newer", left))
        self.result, self.claims, self.appraised_at = result, claims, now
        return alerts

    def figures(self, now: float) -> dict[str, Any]:
        """For coordinator/metrics/enclave; changes when something happens, not with time."""
        said: dict[str, Any] = {"state": self.state}
        if self.standing is not None:
            said |= {
                "provider": self.standing.provider,
                "measurement": str(self.standing.measurement),
                "released_round": self.standing.released_round,
            }
        if self.result is not None and self.claims is not None:
            facts = self.result.facts
            said |= {
                "tier": self.result.tier.name.lower(),
                "epoch": self.claims.epoch,
                "appraised_at": int(self.appraised_at),
                "tcb_status": facts.tcb_status,
                "advisories": list(facts.advisories),
                "layers": list(facts.layers),
                "endorsements_end": facts.expires or None,
                "ends_soon": bool(facts.expires and facts.expires - now < ENDS_SOON_S),
            }
        return said
