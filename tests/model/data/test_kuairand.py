"""KuaiRand logs and video features with their dirt."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from model.data.impressions import impression_targets
from model.data.kuairand import write_kuairand
from model.data.protocol import ProtocolConfig
from model.data.raw_log import RawDataError, ReadReport
from model.data.tidy import read_tidy
from model.data.tidy_writer import NOT_TAKEN

LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,play_time_ms,duration_ms,"
    "profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
FEATURES = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,music_id,music_type,tag"
)


def line(user: object, video: object, time_ms: object, click: object, rand: object = 0, tab: object = 1) -> str:
    return f"{user},{video},20220408,1200,{time_ms},{click},0,0,0,0,0,1,6000,9000,0,0,0,{rand},{tab}"


def folder(tmp_path: Path, standard: list[str], random: list[str] | None = None, features: list[str] | None = None) -> Path:
    data = tmp_path / "KuaiRand-1K/data"
    data.mkdir(parents=True, exist_ok=True)
    (data / "log_standard_4_08_to_4_21_1k.csv").write_text("\n".join([LOG, *standard]) + "\n")
    if random is not None:
        (data / "log_random_4_22_to_5_08_1k.csv").write_text("\n".join([LOG, *random]) + "\n")
    if features is not None:
        (data / "video_features_basic_1k.csv").write_text("\n".join([FEATURES, *features]) + "\n")
    return tmp_path / "KuaiRand-1K"


def convert(source: Path, **options: bool) -> tuple[ReadReport, pl.DataFrame]:
    report = write_kuairand(source, source / "out", **options)
    assert report.read == report.kept + sum(report.dropped.values())
    return report, pl.read_parquet(source / "out/interactions.parquet")


def test_clicks_of_all_logs_become_behaviors_in_the_order_of_milliseconds(tmp_path: Path) -> None:
    standard = [line(3, 11, 1649389600900, 1), line(3, 12, 1649389600100, 1), line(3, 13, 1649389600500, 0)]
    features = ['11,5,NORMAL,2022-04-01,ShortImport,public,9.0,720,1280,1,9.0,"39, 12"', "12,6,AD,2022-04-01,X,public,,720,1280,,,7"]
    source = folder(tmp_path, standard, [line(2, 14, 1650600000000, 1, rand=1)], [*features, "14,7,NORMAL,,,,,,,,,"])
    report, frame = convert(source)
    assert report.dropped == {NOT_TAKEN: 1}
    assert frame.sort("user_id", maintain_order=True).rows() == [
        (2, 14, 1650600000, 1650600000000, 1, 1),
        (3, 12, 1649389600, 1649389600100, 0, 1),
        (3, 11, 1649389600, 1649389600900, 0, 1),
    ]
    items = pl.read_parquet(source / "out/items.parquet")
    assert items.select("item_id", "category_id", "tags").rows() == [
        (11, "39", "39, 12"),
        (12, "7", "7"),
        (13, None, None),
        (14, None, ""),
    ]
    assert report.notes == ["1 videos of the logs are not in the features; they have no category"]
    log = read_tidy(source / "out")
    assert (log.num_behaviors, log.category_id) == (3, ["39", "7"])
    assert [log.item_id[code] for code in log.item[-2:]] == ["12", "11"], "milliseconds order what seconds cannot"


def test_all_impressions_of_users_with_a_click_are_targets(tmp_path: Path) -> None:
    start = 1649389600000
    rows = [line(3, n % 7, start + n * 60_000, int(n % 3 == 0)) for n in range(60)] + [line(9, 1, start, 0), line(9, 2, start, 0)]
    source = folder(tmp_path, rows)
    report, frame = convert(source)
    assert report.written == {"behaviors": 20, "users": 1, "impressions": 60, "items": 7}
    assert len(frame) == 20 and "label" not in frame.columns
    targets = impression_targets(source / "out", read_tidy(source / "out"), ProtocolConfig(first_target=2))
    assert targets.label.sum() + 2 == 20, "the first two clicks have less history than a target needs"
    later = targets.history_end[targets.timestamp == start // 1000 + 30 * 60]
    assert later.tolist() == [10], "the ten clicks before the thirtieth minute, and not the one in it"


def test_a_click_logged_twice_counts_once(tmp_path: Path) -> None:
    twice = [line(3, 11, 1649389600900, 1), line(3, 11, 1649389600900, 1), line(3, 11, 1649389600901, 1)]
    report, frame = convert(folder(tmp_path, twice))
    assert report.dropped == {"exact duplicate": 1}
    assert len(frame) == 2
    assert report.notes == ["no video_features_basic_*.csv beside the log: videos have no category"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (line(3, 11, 1649389600900, 2), "is_click is none of 0, 1: 2"),
        (line(3, 11, 1649389600900, ""), "is_click is none of 0, 1: "),
        (line(3, "", 1649389600900, 1), "video_id is missing"),
        (line(3, 11, 16493896009000, 1), "time_ms is not a whole number from 0 to 4294967295999: 16493896009000"),
        (line(3, 11, 1649389600900, 1) + ",5", "19 fields are needed, the line has 20"),
        (line(3, 11, 1649389600900, 1, tab="")[:-1], "19 fields are needed, the line has 18"),
        (line(3, 11, 1649389600900, 1, rand=""), "is_rand is none of 0, 1: "),
    ],
)
def test_a_bad_row_is_named_or_counted(tmp_path: Path, bad: str, reason: str) -> None:
    source = folder(tmp_path, [line(3, 11, 1649389600900, 1), bad])
    with pytest.raises(RawDataError) as refused:
        convert(source)
    assert f"log_standard_4_08_to_4_21_1k.csv: row 3: {reason}" in str(refused.value)
    report, _ = convert(source, skip_bad_rows=True)
    assert report.dropped == {"bad row": 1}


def test_bad_video_features_are_named_or_noted(tmp_path: Path) -> None:
    good = "11,5,NORMAL,,,,,,,,,1"
    source = folder(tmp_path, [line(3, 11, 1649389600900, 1)], features=[good, "x,5,NORMAL,,,,,,,,,2"])
    with pytest.raises(RawDataError, match=r"video_features_basic_1k\.csv: row 3: video_id"):
        convert(source)
    report, _ = convert(source, skip_bad_rows=True)
    assert "left out video_features_basic_1k.csv: row 3" in report.notes[0]
    source = folder(tmp_path, [line(3, 11, 1649389600900, 1)], features=[good, "11,5,NORMAL,,,,,,,,,2"])
    with pytest.raises(RawDataError, match="1 videos are listed twice"):
        convert(source)


def test_a_folder_without_logs_or_a_log_without_clicks_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match=r"holds no log_\*\.csv"):
        convert(tmp_path)
    (tmp_path / "log_x.csv").write_text("user_id,video_id,time_ms\n1,2,3\n")
    with pytest.raises(RawDataError, match="column 'is_click' is missing"):
        convert(tmp_path)
