"""Traffic in short: the counts are those of the requests, whatever is still in segments, put together, or gone."""

from __future__ import annotations

import os
import random
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from luthier.traces.compact import compact_traffic_folder
from luthier.traces.feedback import append_redacted_records
from luthier.traces.folder import read_folder_snapshot
from luthier.traces.retention import RetentionPolicy
from luthier.traces.segment import list_segments
from luthier.traces.store import read_dashboard_series, scan_table
from tests.traces.conftest import DAY, trace


def fill(folder: Path, begin: int, end: int) -> None:
    chance = random.Random(begin)
    append_redacted_records(
        folder,
        [
            trace(
                number,
                model="a@prod" if number % 3 else "b@prod",
                latency_s=chance.lognormvariate(-1, 1),
                first_token_s=0.1 if number % 2 else None,
                status=500 if number % 10 == 0 else 200,
            )
            for number in range(begin, end)
        ],
    )


def check(folder: Path) -> None:
    """The dashboard against the requests themselves."""
    latency = pl.col("latency_s").sort()
    rank = {"p50": pl.len() * 0.5, "p95": pl.len() * 0.95}
    whole = (
        scan_table(folder, "traces")
        .group_by(pl.col("timestamp").dt.truncate("1h"), "model", "release", "variant")
        .agg(
            pl.len().alias("requests"),
            (pl.col("status") >= 400).sum().alias("errors"),
            pl.col("completion_tokens").sum(),
            *(latency.get(place.ceil().cast(int) - 1).alias(name) for name, place in rank.items()),
        )
        .sort("timestamp", "model")
        .collect()
    )
    found = read_dashboard_series(folder).sort("timestamp", "model")
    for name in ("timestamp", "model", "requests", "errors", "completion_tokens"):
        assert found[name].to_list() == whole[name].to_list()
    for name in ("p50", "p95"):
        assert found[f"latency_s.{name}"].to_list() == pytest.approx(whole[name].to_list(), rel=0.05)
    assert found["first_token_s.p50"].drop_nulls().to_list() == pytest.approx([0.1] * found.height, rel=0.05)


def test_counts_are_those_of_the_requests(tmp_path: Path) -> None:
    assert read_dashboard_series(tmp_path).height == 0
    for begin in range(0, 600, 200):
        fill(tmp_path, begin, begin + 200)
        check(tmp_path)
        compact_traffic_folder(tmp_path, RetentionPolicy(), closed=list_segments(tmp_path), now=DAY)
        check(tmp_path)
    fill(tmp_path, 600, 700)
    compact_traffic_folder(tmp_path, RetentionPolicy(), now=DAY + timedelta(days=1))
    assert len(read_folder_snapshot(tmp_path).days["rollup"][DAY.date()]) == 1
    check(tmp_path)
    hours = read_dashboard_series(tmp_path, DAY + timedelta(hours=1), DAY + timedelta(hours=2))
    assert hours["requests"].sum() == 60


def test_counts_stay_when_the_requests_are_gone(tmp_path: Path) -> None:
    fill(tmp_path, 0, 100)
    compact_traffic_folder(tmp_path, RetentionPolicy(), closed=list_segments(tmp_path), now=DAY)
    for path in tmp_path.glob("*/*/*.parquet"):
        os.utime(path, (DAY.timestamp(), DAY.timestamp()))
    compact_traffic_folder(tmp_path, RetentionPolicy(), now=DAY + timedelta(days=100))
    assert scan_table(tmp_path, "traces").collect().height == 0
    assert read_dashboard_series(tmp_path)["requests"].sum() == 100
    compact_traffic_folder(tmp_path, RetentionPolicy(), now=DAY + timedelta(days=500))
    assert read_dashboard_series(tmp_path).height == 0
