"""What Prometheus reads. Labels are bounded: rpc names, codes and outcomes, never tenants."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The server's counters, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rpcs = Counter("oars_rpcs", "Finished rpcs.", ["method", "code"], registry=registry)
        self.seconds = Histogram(
            "oars_rpc_seconds", "Duration of rpcs.", ["method"], buckets=_BUCKETS, registry=registry
        )
        # The children of the two above: to look one up by its labels takes longer than to count.
        self._ended: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self.in_flight = Gauge("oars_rpcs_in_flight", "Rpcs under way.", registry=registry)
        self.decisions = Counter(
            "oars_decisions", "Decisions of submitted actions.", ["effect"], registry=registry
        )
        self.identity_reloads = Counter(
            "oars_identity_reloads",
            "Reloads of the trusted-identities file.",
            ["outcome"],
            registry=registry,
        )
        self.oidc_reloads = Counter(
            "oars_oidc_reloads",
            "Reloads of the OIDC file and of the key files that it names.",
            ["outcome"],
            registry=registry,
        )
        self.key_fetches = Counter(
            "oars_key_fetches",
            "Questions to the URLs where OIDC issuers have their keys.",
            ["outcome"],
            registry=registry,
        )
        self.expired_actions = Counter(
            "oars_expired_actions", "Actions whose permit or wait ran out.", registry=registry
        )
        self.expiry_failures = Counter(
            "oars_expiry_failures",
            "Actions that were due and could not be expired, once a round.",
            registry=registry,
        )
        self.escalated_approvals = Counter(
            "oars_escalated_approvals", "Stages of approvals past their time.", registry=registry
        )
        self.escalation_failures = Counter(
            "oars_escalation_failures",
            "Approvals that were overdue and could not be escalated, once a round.",
            registry=registry,
        )
        self.purged_outcomes = Counter(
            "oars_purged_outcomes", "Idempotency outcomes forgotten.", registry=registry
        )
        self.erased_receipts = Counter(
            "oars_erased_receipts", "Receipts whose payload retention erased.", registry=registry
        )
        self.erasure_failures = Counter(
            "oars_erasure_failures",
            "Tenants whose payloads could not be erased, once a round.",
            registry=registry,
        )
        self.database_up = Gauge(
            "oars_database_up", "Whether the last probe of the database passed.", registry=registry
        )

    def rpc_ended(self, method: str, code: str, seconds: float) -> None:
        """Count a finished rpc."""
        found = self._ended.get((method, code))
        if found is None:
            found = self.rpcs.labels(method, code), self.seconds.labels(method)
            self._ended[method, code] = found
        counter, histogram = found
        counter.inc()
        histogram.observe(seconds)
