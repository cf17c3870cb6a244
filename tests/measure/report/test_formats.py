"""Every format from the same record: what it must hold, that it is deterministic and written whole or not at all."""

from __future__ import annotations

import io
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
import synthetic

import pyprod.measure.statistics
from pyprod.measure import report
from pyprod.measure.report import axes, digits, facts
from pyprod.measure.report.frame import order
from pyprod.types import Candidate, Failure, Measurement, PyprodError

SCHEMA = json.loads(
    Path(pyprod.measure.statistics.__file__).with_name("measurement.schema.json").read_text(encoding="utf-8")
)
HOSTILE = "</table><script>alert(1)</script> | `x` *y* [z](q)"


@pytest.fixture(scope="module")
def page(record):
    return report.to_html(record, synthetic.ENVIRONMENT, synthetic.PLAN)


@pytest.fixture(scope="module")
def small():
    return synthetic.record(batches=(1,), rounds=3, calls=3, documents=8)


def hostile(small):
    candidate = Candidate("encoder", "evil.fp32", threads=2)
    return [*small, Measurement(candidate, "failure", "", (), failure=Failure("error", "build", HOSTILE, HOSTILE))]


class Elements(HTMLParser):
    """Counts elements, checks that each that opens is closed in order, and keeps ids, links and text."""

    def __init__(self):
        super().__init__()
        self.open, self.counts, self.ids, self.links, self.text = [], {}, [], [], []

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("href", "src") if name in values]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(html):
    elements = Elements()
    elements.feed(html)
    assert not elements.open
    return elements


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_text_never_exceeds_its_width_and_drops_no_form(frame, width):
    text = report.to_text(frame, width=width)
    assert max(map(len, text.splitlines())) <= width
    blocks = text.split("\n\n")
    assert len(blocks) == 7  # six cohorts and the legend
    assert sum(line.startswith(("  ", "* ")) for line in text.splitlines() if "speed-up" not in line) >= len(frame)


def test_text_at_100_columns_cuts_no_measured_name_and_shows_all_columns(frame):
    text = report.to_text(frame)
    for name in set(frame["form"][frame["status"] == "ok"]):
        assert name in text
    header = "\n".join(text.splitlines()[1:3])
    assert all(word in header for word in ("p50", "p99", "/s", "speed-up", "accu-", "difference", "MB", "RSS"))
    assert "digits · batch 32 · 2 threads · cpu · per image · share correct · A/A" in text
    assert text.count("UNTRUSTWORTHY") == 1
    assert "timeout at build: no answer within 300 s" in text
    assert "\x1b" not in text
    assert "\x1b" in report.to_text(frame, color=True)


def test_text_is_sorted_as_asked(frame):
    def first(sort):
        return report.to_text(frame, sort=sort).splitlines()[3]

    assert first("latency") == first("throughput")
    assert order(frame, "size")["form"][0] in first("size")
    assert first("size") != first("latency")
    with pytest.raises(PyprodError, match="did you mean 'speedup'"):
        report.to_text(frame, sort="speed-up")


def test_text_of_failures_alone_and_of_nothing():
    only = [Measurement(Candidate("encoder", "a.b"), "failure", "", (), failure=Failure("timeout", "build", "slow"))]
    assert "a.b timeout at build: slow" in report.to_text(report.summarize(only))
    assert report.to_text(report.summarize([])) == "nothing was measured\n"


def test_markdown_has_a_well_formed_row_for_every_candidate(frame):
    text = report.to_markdown(frame, synthetic.ENVIRONMENT, synthetic.PLAN)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == len(frame) + 2 * 6
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {10}
    assert "AMD EPYC 9R14" in text
    assert f"`{synthetic.COMMAND}`" in text
    assert "rounds 10" in text
    assert "listed.once" not in text
    assert all(point.title in text for point in report.BIASES)


def test_markdown_quotes_what_a_failure_says(small):
    text = report.to_markdown_tables(report.summarize(hostile(small)))
    assert "&lt;/table>&lt;script>" in text
    assert "\\| \\`x\\` \\*y\\* \\[z\\](q)" in text


def test_csv_and_parquet_give_the_frame_back(frame):
    read = pd.read_parquet(io.BytesIO(report.to_parquet(frame)))
    pd.testing.assert_frame_equal(read, frame)
    dtypes = {name: column.dtype for name, column in report.COLUMNS.items()}
    text = pd.read_csv(io.StringIO(report.to_csv(frame)), dtype=dtypes, keep_default_na=False, na_values={
        name: [""] for name, dtype in dtypes.items() if dtype != "str"})  # fmt: skip
    pd.testing.assert_frame_equal(text, frame)


def test_json_is_strict_and_holds_everything(small):
    nan = Measurement(Candidate("encoder", "a.b"), "latency", "ns", (float("nan"),))
    frame = report.summarize([*small, nan])
    text = report.to_json([*small, nan], frame, synthetic.ENVIRONMENT, synthetic.PLAN)

    def refuse(constant):
        raise AssertionError(constant)

    whole = json.loads(text, parse_constant=refuse)
    assert [Measurement.from_json(m) for m in whole["measurements"][:-1]] == [
        Measurement.from_json(json.loads(json.dumps(m.to_json()))) for m in small
    ]
    assert whole["measurements"][-1]["samples"] == [None]
    assert [row["candidate"] for row in whole["rows"]] == frame["candidate"].tolist()
    assert whole["environment"] == synthetic.ENVIRONMENT
    jsonschema.validate(whole["measurements"][-1], SCHEMA)


def test_schema_holds_for_every_kind_of_measurement(record):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    kinds = {(m.metric, m.replica, m.failure.kind if m.failure else None): m for m in record}
    assert len(kinds) > 15
    for m in kinds.values():
        validator.validate(json.loads(json.dumps(m.to_json())))


@pytest.mark.parametrize(
    "change",
    [
        {"metric": ""},
        {"samples": ["1"]},
        {"round": -1},
        {"replica": 2},
        {"candidate": {"workload": "encoder"}},
        {"failure": {"kind": "gone", "stage": "build", "message": "", "detail": ""}},
        {"metric": "failure"},
        {"surprise": 1},
    ],
)
def test_schema_refuses_what_is_no_measurement(small, change):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**small[0].to_json(), **change}, SCHEMA)


def test_html_is_one_wellformed_file_without_network(page):
    elements = parse(page)
    assert len(page) < 500_000
    assert elements.counts["script"] == elements.counts["style"] == 1
    assert "link" not in elements.counts
    assert all(link.startswith("#") for link in elements.links)
    assert {link[1:] for link in elements.links} <= set(elements.ids)
    assert len(elements.ids) == len(set(elements.ids))
    assert "http" not in page
    assert "url(" not in page
    assert "@import" not in page


def test_html_shows_every_candidate_and_all_the_plots(page, frame):
    elements = parse(page)
    assert page.count('class="failed"') == (frame["status"] != "ok").sum()
    plots = re.findall(r'<svg class="plot[^>]*aria-label="(\w+)', page)
    assert {label: plots.count(label) for label in plots} == {"Throughput": 2, "Latency": 12, "Speed": 6}
    assert elements.counts["polyline"] > 20
    assert "nan" not in re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL).lower().replace("finance", "")
    for text in ("Known biases", "pyprod bench encoder digits", "6220bc2f0c", "avx512_vnni"):
        assert text in page


def test_html_names_the_fastest_form_that_keeps_its_accuracy(page, frame):
    summary = page[page.index('id="summary"') : page.index('id="digits"')]
    winners = re.findall(r'<span class="winner">.*?</svg>([\w.]+)</span>', summary, flags=re.DOTALL)
    kept = frame[frame["accuracy_verdict"].eq("kept") & frame["status"].eq("ok")]
    assert winners == kept.drop_duplicates(["workload", "batch"])["form"].tolist()
    assert "in 5 of 6 cohorts" in summary


def test_html_escapes_everything_that_was_measured(small):
    environment = {"cpu": {"model": HOSTILE}, "commit": {"revision": "<b>", "dirty": True}}
    page = report.to_html(hostile(small), environment, {"name": HOSTILE, "command": [HOSTILE]})
    assert parse(page).counts["script"] == 1
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert") >= 5


@pytest.mark.parametrize("metrics", [(), ("latency",), ("accuracy",), ("latency", "failure"), ("latency", "accuracy")])
def test_html_of_an_incomplete_record(small, metrics):
    """A run that was stopped early still makes a page."""
    elements = parse(report.to_html([m for m in small if m.metric in metrics], {}, {}))
    assert elements.counts.get("section", 0) >= 4


def test_html_of_one_round_of_one_call_on_a_gpu():
    candidate = Candidate("encoder", "eager.fp32", device="cuda")
    record = [Measurement(candidate, "latency", "ns", (5e6,)), Measurement(candidate, "gpu_memory", "bytes", (2e9,))]
    page = report.to_html(record, {}, {})
    parse(page)
    assert "GPU MB" in page
    assert "GPU" in report.to_text(report.summarize(record))


@pytest.mark.parametrize("format", sorted(report.FORMATS))
def test_same_input_same_bytes(small, format):
    first = report.render(small, synthetic.ENVIRONMENT, synthetic.PLAN, format)
    again = synthetic.record(batches=(1,), rounds=3, calls=3, documents=8)
    assert report.render(again, synthetic.ENVIRONMENT, synthetic.PLAN, format) == first


def test_write_is_atomic(small, tmp_path, monkeypatch):
    path = tmp_path / "report.csv"
    report.write(small, {}, {}, path)
    before = path.read_bytes()
    assert before == report.render(small, {}, {}, "csv")
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(PyprodError, match=r"can't write .*report.csv: No space left"):
        report.write(small[:5], {}, {}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_write_says_what_is_wrong(small, tmp_path):
    with pytest.raises(PyprodError, match="unknown report format 'htm'; did you mean 'html'"):
        report.write(small, {}, {}, tmp_path / "report.htm")
    with pytest.raises(PyprodError, match=r"can't write .*No such file or directory"):
        report.write(small, {}, {}, tmp_path / "absent" / "report.csv")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.04774, "0.0477"), (0.09996, "0.100"), (9.996, "10.0"), (99.96, "100"), (4770, "4,770"),
     (47700, "47.7k"), (999_600, "1.00M"), (float("nan"), "–")],
)  # fmt: skip
def test_three_significant_digits(value, text):
    assert digits.number(value) == text


def test_differences_keep_their_sign():
    assert digits.difference(-0.00285, "spearman") == "−.0029"
    assert digits.difference(0.0, "spearman") == "0"
    assert digits.difference_interval(-0.12, 0.3, "perplexity") == "−.120…+.300"
    assert digits.accuracy(20.234, "perplexity") == "20.234"
    assert [digits.tick(t) for t in (0.1, 2, 100, 10_000)] == ["0.1", "2", "100", "10k"]


def test_facts_flatten_any_nesting():
    nested = {"a": {"b": [1, 2], "c": None}, "d": [{"e": True}], "f": [], "g": list(range(5))}
    assert list(facts.flatten(nested)) == [
        ("a.b", "1, 2"),
        ("a.c", "–"),
        ("d[0].e", "yes"),
        ("f", "none"),
        ("g", "0 1 2 3 4"),
    ]


def test_labels_are_spread_and_stay_inside():
    placed = axes.spread([10, 11, 12, 95, 99], 10, 0, 100)
    assert sorted(placed) == placed
    assert all(b - a >= 10 for a, b in itertools.pairwise(placed))
    assert 0 <= placed[0] <= placed[-1] <= 100


def test_ticks_are_round_and_inside():
    assert axes.Scale(0, 3.4, 0, 100).ticks() == [0, 1, 2, 3]
    assert axes.Scale(0.09, 1100, 0, 100, log=True).ticks() == [0.1, 1, 10, 100, 1000]
    assert axes.Scale(5, 5, 0, 100)(5) == 50
