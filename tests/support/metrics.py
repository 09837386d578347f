"""Reads metrics as Prometheus does, with its own parser."""

import httpx
from prometheus_client.parser import text_string_to_metric_families


class Metrics:
    """One answer of /metrics."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The one sample of this name whose labels include these."""
        (found,) = self.values(name, **labels)
        return found

    def values(self, name: str, **labels: str) -> list[float]:
        """All samples of this name whose labels include these."""
        return [one.value for one in self._samples if one.name == name and labels.items() <= one.labels.items()]

    def labels(self, name: str, label: str) -> set[str]:
        """All values of a label."""
        return {one.labels[label] for one in self._samples if one.name == name and label in one.labels}

    def names(self) -> set[str]:
        return {one.name for one in self._samples}


async def scrape(address: object) -> Metrics:
    """Asks a part's listener."""
    async with httpx.AsyncClient(timeout=10) as http:
        answer = await http.get(f"http://{address}/metrics")
    assert answer.status_code == 200
    return Metrics(answer.text)
